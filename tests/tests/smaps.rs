//! What `/proc/self/smaps` says of each mapping is what the trace has at that moment, page by page.

use std::collections::BTreeMap;
use std::ops::Range;

use tests::{Board, Boot, Run};
use tools::analysis::machine::{Change, Machine};
use tools::analysis::stream::{self, Observer, State};
use wire::event::{Event, Record};

const PAGE: u64 = 4096;
/// Pages that a last-level table maps.
const LEAVES: u64 = 512;

/// Pages of a mapping: all, those that others map as well, those of private memory; and the share of
/// each in all, in 4096ths of a byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    resident: u64,
    shared: u64,
    anonymous: u64,
    share: u64,
}

impl Usage {
    fn add(&mut self, other: Usage) {
        self.resident += other.resident;
        self.shared += other.shared;
        self.anonymous += other.anonymous;
        self.share += other.share;
    }
}

/// The pages of a process, by address.
type Pages = BTreeMap<u64, Usage>;

fn pages(machine: &Machine, pid: u32) -> Pages {
    let space = machine.processes[&pid].space;
    let mut pages = Pages::new();
    for (slot, table) in &machine.spaces[&space].slots {
        let table = machine.tables.get(*table);
        for (index, leaf) in table.leaves.iter().enumerate() {
            let Some(frame) = leaf.counted_frame() else {
                continue;
            };
            let sharers = u64::from(machine.frames.references(frame) * table.parents);
            let usage = Usage {
                resident: 1,
                shared: u64::from(sharers > 1),
                anonymous: u64::from(leaf.descriptor.anonymous()),
                share: (PAGE << 12) / sharers,
            };
            pages.insert((slot * LEAVES + index as u64) * PAGE, usage);
        }
    }
    pages
}

/// What the trace has when smaps is about to be read, and when it has been.
#[derive(Default)]
struct Moments {
    before: Vec<Pages>,
    after: Vec<Pages>,
}

impl Observer for Moments {
    fn after(&mut self, state: &State, _: u8, record: &Record, _: &Change) {
        match record.event {
            Event::Unimplemented {
                pid, number: 1000, ..
            } => self.before.push(pages(&state.machine, pid)),
            Event::Unimplemented {
                pid, number: 1001, ..
            } => self.after.push(pages(&state.machine, pid)),
            _ => {}
        }
    }
}

/// What smaps says of one mapping, in kB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Said {
    resident: u64,
    proportional: u64,
    shared: u64,
    private: u64,
    anonymous: u64,
}

impl From<Usage> for Said {
    fn from(usage: Usage) -> Said {
        const KB: u64 = PAGE / 1024;
        Said {
            resident: usage.resident * KB,
            proportional: (usage.share >> 12) / 1024,
            shared: usage.shared * KB,
            private: (usage.resident - usage.shared) * KB,
            anonymous: usage.anonymous * KB,
        }
    }
}

/// The mappings in the order of smaps.
fn parse(text: &str) -> Vec<(Range<u64>, Said)> {
    let mut mappings: Vec<(Range<u64>, Said)> = Vec::new();
    for line in text.lines() {
        let (name, value) = line.split_once(' ').unwrap_or_default();
        if let Some((start, end)) = name.split_once('-') {
            let hex = |word| u64::from_str_radix(word, 16).expect("an address");
            mappings.push((hex(start)..hex(end), Said::default()));
            continue;
        }
        let value = value.trim().split(' ').next().unwrap_or("");
        let Ok(value) = value.parse::<u64>() else {
            continue;
        };
        let (_, said) = mappings.last_mut().expect("a mapping");
        match name {
            "Rss:" => said.resident += value,
            "Pss:" => said.proportional += value,
            "Shared_Clean:" | "Shared_Dirty:" => said.shared += value,
            "Private_Clean:" | "Private_Dirty:" => said.private += value,
            "Anonymous:" => said.anonymous += value,
            _ => {}
        }
    }
    mappings
}

fn compare(run: &Run) {
    run.expect_status(0).expect_sound();
    let mut moments = Moments::default();
    stream::read(&mut &run.bytes[..], &mut moments).expect("the tool reads the trace");
    let texts: Vec<_> = run.stdout().split("smaps of ").skip(1).collect();
    assert_eq!(texts.len(), 3);
    assert_eq!((moments.before.len(), moments.after.len()), (3, 3));
    let (mut shared, mut resident) = (0, 0);
    for (text, (before, pages)) in texts.iter().zip(moments.before.iter().zip(&moments.after)) {
        let (who, text) = text.split_once('\n').expect("a heading");
        assert_eq!(before, pages, "{who} was disturbed");
        let mut all = 0;
        for (range, said) in parse(text) {
            let mut usage = Usage::default();
            pages
                .range(range.clone())
                .for_each(|(_, one)| usage.add(*one));
            assert_eq!(said, Said::from(usage), "{who}, {range:x?}");
            all += usage.resident;
            shared += usage.shared;
        }
        assert_eq!(
            all,
            pages.len() as u64,
            "{who}: pages outside of all mappings"
        );
        resident += all;
    }
    assert!(
        shared > 100 && resident - shared > 100,
        "{shared} of {resident}"
    );
}

#[test]
fn smaps_are_what_the_trace_says() {
    for (mode, seed) in [("shared", "1"), ("classic", "2"), ("eager", "3")] {
        let boot = Boot::on(Board::Virt).lossless();
        let run = boot.append(&format!("fork={mode}")).run(&["smaps", seed]);
        compare(&run);
    }
}
