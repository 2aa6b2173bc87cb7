//! Random programs: what processes and the kernel do, in the order they do it.

use std::ops::Range;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::oracle::{GROUP, OFFSETS, PAGES};

/// What backs a new mapping.
#[derive(Clone, Copy, Debug)]
pub enum Back {
    Anonymous,
    /// MAP_SHARED | MAP_ANONYMOUS.
    Shared,
    /// A file (by number), from a page of it.
    File {
        file: usize,
        from: usize,
        shared: bool,
    },
}

/// Where mremap moves.
#[derive(Clone, Copy, Debug)]
pub enum To {
    /// Nowhere.
    Here,
    /// To a page.
    Page(usize),
    /// To a page, and the old range stays mapped: MREMAP_DONTUNMAP.
    Keeping(usize),
    /// With one page more to where that fits, and with as many as before back again.
    AwayAndBack,
}

/// A step. Processes and CPUs are numbers modulo those that exist.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    Read {
        cpu: usize,
        process: usize,
        page: usize,
        offset: usize,
    },
    Write {
        cpu: usize,
        process: usize,
        page: usize,
        offset: usize,
        value: u8,
    },
    Fetch {
        cpu: usize,
        process: usize,
        page: usize,
    },
    /// The kernel writes for a system call: `AddressSpace::write`.
    KernelWrite {
        cpu: usize,
        process: usize,
        page: usize,
        value: u8,
    },
    KernelRead {
        cpu: usize,
        process: usize,
        page: usize,
    },
    FileWrite {
        cpu: usize,
        file: usize,
        page: usize,
        value: u8,
    },
    Map {
        cpu: usize,
        process: usize,
        page: usize,
        count: usize,
        prot: u8,
        back: Back,
    },
    /// Of the page's group nothing is left but a stack, from behind the page on: what is written
    /// below makes it grow.
    Stack {
        cpu: usize,
        process: usize,
        page: usize,
    },
    Unmap {
        cpu: usize,
        process: usize,
        page: usize,
        count: usize,
    },
    Protect {
        cpu: usize,
        process: usize,
        page: usize,
        count: usize,
        prot: u8,
    },
    /// MADV_DONTNEED.
    Discard {
        cpu: usize,
        process: usize,
        page: usize,
        count: usize,
    },
    /// MADV_POPULATE_WRITE, or else _READ; and then the first page is accessed.
    Populate {
        cpu: usize,
        process: usize,
        page: usize,
        count: usize,
        write: bool,
    },
    /// mremap, from `count` pages to `new_count`.
    Remap {
        cpu: usize,
        process: usize,
        page: usize,
        count: usize,
        new_count: usize,
        to: To,
    },
    Fork {
        cpu: usize,
        process: usize,
        page: usize,
        mode: usize,
    },
    /// A new, empty address space beside the old one, which ends: exec.
    Exec {
        cpu: usize,
        process: usize,
    },
    Exit {
        cpu: usize,
        process: usize,
    },
    /// The page is read on every CPU, and then written on every CPU: stale entries everywhere.
    Everywhere {
        process: usize,
        page: usize,
        value: u8,
    },
    /// What the kernel does when memory is short: files give up what nobody maps.
    Reclaim {
        cpu: usize,
    },
    /// Leaves so many free frames for the next step.
    Starve {
        left: u64,
    },
}

/// A program and the seed of the machine it runs on.
#[derive(Clone, Debug)]
pub struct Program {
    pub seed: u64,
    pub ops: Vec<Op>,
    /// Each step is tried with its first allocation refused, then with its second, and so on, until
    /// it has none left that was not.
    pub refused: bool,
}

fn back() -> impl Strategy<Value = Back> {
    prop_oneof![
        4 => Just(Back::Anonymous),
        1 => Just(Back::Shared),
        3 => (0..2usize, 0..3usize, any::<bool>())
            .prop_map(|(file, from, shared)| Back::File { file, from, shared }),
    ]
}

/// Mostly what programs use; now and then anything.
fn prot() -> impl Strategy<Value = u8> {
    prop_oneof![5 => Just(3u8), 3 => Just(1u8), 2 => Just(5u8), 1 => Just(7u8), 1 => Just(0u8), 1 => 0..8u8]
}

fn op() -> impl Strategy<Value = Op> {
    // The same process on several CPUs, often.
    let who = || {
        (
            0..3usize,
            prop_oneof![3 => Just(0usize), 3 => Just(1usize), 2 => 0..10usize],
        )
    };
    // Few pages, so that steps meet.
    let page = || prop_oneof![8 => 2..5usize, 1 => 0..PAGES];
    let span = move || page().prop_flat_map(|page| (Just(page), 1..=GROUP - page % GROUP));
    let offset = || 0..OFFSETS.len();
    prop_oneof![
        12 => (who(), page(), offset()).prop_map(|((cpu, process), page, offset)| Op::Read { cpu, process, page, offset }),
        20 => (who(), page(), offset(), any::<u8>())
            .prop_map(|((cpu, process), page, offset, value)| Op::Write { cpu, process, page, offset, value }),
        4 => (who(), page()).prop_map(|((cpu, process), page)| Op::Fetch { cpu, process, page }),
        2 => (who(), page(), any::<u8>())
            .prop_map(|((cpu, process), page, value)| Op::KernelWrite { cpu, process, page, value }),
        1 => (who(), page()).prop_map(|((cpu, process), page)| Op::KernelRead { cpu, process, page }),
        1 => (0..8usize, 0..2usize, 0..3usize, any::<u8>())
            .prop_map(|(cpu, file, page, value)| Op::FileWrite { cpu, file, page, value }),
        8 => (who(), span(), prot(), back())
            .prop_map(|((cpu, process), (page, count), prot, back)| Op::Map { cpu, process, page, count, prot, back }),
        2 => (who(), page()).prop_map(|((cpu, process), page)| Op::Stack { cpu, process, page }),
        4 => (who(), span()).prop_map(|((cpu, process), (page, count))| Op::Unmap { cpu, process, page, count }),
        6 => (who(), span(), prot())
            .prop_map(|((cpu, process), (page, count), prot)| Op::Protect { cpu, process, page, count, prot }),
        4 => (who(), span()).prop_map(|((cpu, process), (page, count))| Op::Discard { cpu, process, page, count }),
        2 => (who(), span(), any::<bool>())
            .prop_map(|((cpu, process), (page, count), write)| Op::Populate { cpu, process, page, count, write }),
        8 => (who(), span(), span(), 0..7usize).prop_map(|((cpu, process), (page, count), (at, new_count), how)| {
            let (new_count, to) = match how {
                0 | 6 => (new_count.min(GROUP - page % GROUP), To::Here),
                1 => (count, To::AwayAndBack),
                // Small parts, or they overlap all the time.
                2 => (count.min(GROUP - at % GROUP), To::Keeping(at)),
                _ => (new_count, To::Page(at)),
            };
            let count = if how == 2 { new_count } else { count };
            Op::Remap { cpu, process, page, count, new_count, to }
        }),
        8 => (who(), page(), 0..4usize)
            .prop_map(|((cpu, process), page, mode)| Op::Fork { cpu, process, page, mode }),
        1 => who().prop_map(|(cpu, process)| Op::Exec { cpu, process }),
        5 => who().prop_map(|(cpu, process)| Op::Exit { cpu, process }),
        3 => (who(), page(), any::<u8>())
            .prop_map(|((_, process), page, value)| Op::Everywhere { process, page, value }),
        1 => (0..3usize).prop_map(|cpu| Op::Reclaim { cpu }),
        3 => (0..6u64).prop_map(|left| Op::Starve { left }),
    ]
}

/// Programs of so many steps each, the same for a seed on every run.
pub struct Programs {
    strategy: BoxedStrategy<Program>,
    runner: TestRunner,
}

impl Programs {
    pub fn new(steps: Range<usize>, seed: u8) -> Programs {
        let rng = TestRng::from_seed(RngAlgorithm::XorShift, &[seed; 16]);
        Programs {
            strategy: programs(steps).boxed(),
            runner: TestRunner::new_with_rng(Config::default(), rng),
        }
    }
}

impl Iterator for Programs {
    type Item = Program;

    fn next(&mut self) -> Option<Program> {
        let tree = self.strategy.new_tree(&mut self.runner);
        Some(tree.expect("nothing is filtered").current())
    }
}

fn programs(steps: Range<usize>) -> impl Strategy<Value = Program> {
    let first = Op::Map {
        cpu: 0,
        process: 0,
        page: 0,
        count: GROUP,
        prot: 3,
        back: Back::Anonymous,
    };
    (any::<u64>(), prop::collection::vec(op(), steps)).prop_map(move |(seed, mut ops)| {
        // Half of the programs fork in one mode only.
        for op in &mut ops {
            if let (Op::Fork { mode, .. }, only @ 0..3) = (op, seed as usize / 4 % 6) {
                *mode = only;
            }
        }
        // Something to work on.
        ops.insert(0, first);
        Program {
            seed,
            ops,
            refused: false,
        }
    })
}
