//! Shared last-level tables, as the analysis follows them: by the fork that shares them, the faults
//! and the system calls that take them apart, and what the kernel counts meanwhile.

use tools::analysis::check::Subject;
use tools::analysis::machine::Machine;
use wire::event::{
    Access, Backing, Event, Fault, Fork, ForkMode, Map, Origin, Outcome, Record, Region, Stack,
};

const PAGE: u64 = 4096;
const TABLE: u64 = 512 * PAGE;
/// Two tables, from here: the first has three pages, the second one.
const V: u64 = 0x4000_0000;
const PAGES: [u64; 4] = [V, V + PAGE, V + 2 * PAGE, V + TABLE];

/// A private page: AF, SH, nG, PXN, UXN, EL0.
const WRITABLE: u64 = 0x0160_0000_0000_0f43;
const READ_ONLY: u64 = 1 << 7 | 1 << 55;

struct Trace {
    machine: Machine,
    time: u64,
}

fn frame(page: u64) -> u64 {
    0x4_1000 + (page - V) / PAGE
}

impl Trace {
    fn event(&mut self, event: Event) {
        self.time += 1;
        self.machine.apply(&Record {
            cpu: 0,
            time: self.time,
            tid: 1,
            event,
        });
    }

    /// Address space 1 has written all pages, and address space 2 shares its two tables.
    fn shared() -> Trace {
        let machine = Machine::new(true, true);
        let mut trace = Trace { machine, time: 0 };
        for space in [1, 2] {
            trace.event(Event::SpaceNew {
                space,
                root: 0x4_0000 + u64::from(space),
                asid: space as u16,
            });
            if space == 1 {
                trace.event(Event::Spawn { pid: 1, space });
                trace.event(Event::Map(Map {
                    space,
                    start: V,
                    end: V + 2 * TABLE,
                    prot: 3,
                    shared: false,
                    backing: Backing::Anonymous,
                    region: Region::Mmap,
                }));
                for page in PAGES {
                    let new = WRITABLE | frame(page) << 12;
                    trace.fault(1, page, Outcome::ZeroFill, (0, new), (0, 0));
                }
            }
        }
        trace.event(Event::TablesShared {
            parent_space: 1,
            child_space: 2,
            start: V,
            end: V + 2 * TABLE,
        });
        trace.event(Event::Fork(Fork {
            mode: ForkMode::SharedTables,
            parent: 1,
            child: 2,
            parent_space: 1,
            child_space: 2,
            shared: 0,
            protected: 0,
            leaves: 0,
            copied: 0,
            tables: 2,
            tables_shared: 2,
            cost: 1000,
            pc: 0,
            stack: Stack::default(),
        }));
        trace
    }

    fn fault(
        &mut self,
        space: u32,
        addr: u64,
        outcome: Outcome,
        (old, new): (u64, u64),
        (refs, refs_after): (u32, u32),
    ) {
        self.event(Event::Fault(Fault {
            outcome,
            access: Access::Write,
            origin: Origin::User,
            pid: space,
            space,
            asid: space as u16,
            cost: 700,
            pc: 0x40_0000,
            addr,
            esr: 0x9200_004f,
            old,
            new,
            refs,
            refs_after,
            tlbis: 1,
            stack: Stack::default(),
        }));
    }

    fn owned(&mut self, space: u32, start: u64, copied: bool) {
        self.event(Event::TableOwned {
            space,
            start,
            copied,
        });
    }

    fn unmap(&mut self, space: u32, start: u64, end: u64, dropped: u32, freed: u32) {
        self.event(Event::Unmap {
            space,
            start,
            end,
            dropped,
            freed,
        });
    }

    /// The kernel counts what both map, and lets go of both.
    #[track_caller]
    fn ends(mut self, resident: [u32; 2], ended: [(u32, u32); 2]) {
        for (space, anon) in [1, 2].into_iter().zip(resident) {
            self.event(Event::Resident {
                space,
                anon,
                file: 0,
                zero: 0,
            });
        }
        for (space, (dropped, freed)) in [2, 1].into_iter().zip(ended) {
            self.event(Event::SpaceEnd {
                space,
                asid: space as u16,
                dropped,
                freed,
                tables: 2,
                cost: 100,
            });
        }
        let checks = &self.machine.checks;
        let total = checks.total();
        assert_eq!(
            (total.differed, total.unknown),
            (0, 0),
            "{:#?}",
            checks.findings()
        );
        assert!(checks.tally(Subject::Resident).agreed >= 2);
    }
}

#[test]
fn a_fork_counts_the_pages_below_its_tables() {
    let trace = Trace::shared();
    let fork = trace.machine.forks.of_child(2).expect("a fork");
    assert_eq!((fork.below, fork.pages_shared(), fork.pages()), (4, 4, 4));
    let totals = trace.machine.forks.totals(ForkMode::SharedTables);
    assert_eq!((totals.shared, totals.tables_shared), (4, 2));
    // Tables that others share are not looked at when one ends.
    trace.ends([4, 4], [(0, 0), (4, 4)]);
}

/// The references before are those before the table was copied.
#[test]
fn the_first_write_copies_the_table_and_the_page() {
    let mut trace = Trace::shared();
    let old = WRITABLE | frame(V) << 12;
    let new = WRITABLE | 0x4_2000 << 12;
    trace.fault(2, V, Outcome::TableUnshare, (old, new), (1, 1));
    assert_eq!(trace.machine.sharers(frame(V + PAGE), V + PAGE), [1, 2]);
    let fork = trace.machine.forks.of_child(2).expect("a fork");
    assert_eq!(fork.child.table_copies.count, 1);
    let (old, new) = (old | READ_ONLY, WRITABLE | frame(V) << 12);
    trace.fault(1, V, Outcome::TableReuse, (old, new), (1, 1));
    let checks = &trace.machine.checks;
    assert_eq!(checks.tally(Subject::References).agreed, 2);
    trace.ends([4, 4], [(3, 1), (4, 4)]);
}

#[test]
fn unmapping_part_of_a_table_copies_it_first() {
    let mut trace = Trace::shared();
    trace.owned(2, V, true);
    trace.unmap(2, V, V + PAGE, 1, 0);
    assert!(trace.machine.leaf(2, V).is_none());
    assert_eq!(trace.machine.sharers(frame(V), V), [1]);
    trace.ends([4, 3], [(2, 0), (4, 4)]);
}

/// What goes whole is let go of: each of its pages is dropped, none is freed.
#[test]
fn unmapping_all_that_a_table_maps_copies_nothing() {
    let mut trace = Trace::shared();
    trace.unmap(2, V, V + TABLE, 3, 0);
    trace.unmap(1, V, V + TABLE, 3, 3);
    trace.ends([1, 1], [(0, 0), (1, 1)]);
}

#[test]
fn the_last_owner_of_a_table_keeps_it() {
    let mut trace = Trace::shared();
    trace.event(Event::SpaceEnd {
        space: 2,
        asid: 2,
        dropped: 0,
        freed: 0,
        tables: 2,
        cost: 1,
    });
    trace.owned(1, V, false);
    trace.unmap(1, V + PAGE, V + 2 * PAGE, 1, 1);
    let checks = &trace.machine.checks;
    assert_eq!(checks.total().differed, 0, "{:#?}", checks.findings());
    assert_eq!(trace.machine.resident(1), [3, 0, 0]);
}

#[test]
fn discarding_keeps_the_mapping() {
    let mut trace = Trace::shared();
    trace.owned(2, V, true);
    let (start, end) = (V, V + 2 * PAGE);
    trace.event(Event::Discard {
        space: 2,
        start,
        end,
        dropped: 2,
        freed: 0,
    });
    assert!(trace.machine.spaces[&2].mapping(V).is_some());
    assert!(trace.machine.leaf(2, V).is_none());
    trace.ends([4, 2], [(1, 0), (4, 4)]);
}

#[test]
fn protecting_takes_rights_of_one_owner_only() {
    let mut trace = Trace::shared();
    trace.owned(2, V, true);
    trace.event(Event::Protect {
        space: 2,
        start: V,
        end: V + PAGE,
        prot: 0,
        tightened: 1,
    });
    let ours = trace.machine.leaf(1, V).expect("a page").descriptor;
    let theirs = trace.machine.leaf(2, V).expect("a page").descriptor;
    assert_eq!((ours.0 & 1 << 6, theirs.0 & 1 << 6), (1 << 6, 0));
    trace.ends([4, 4], [(3, 0), (4, 4)]);
}

/// By whole tables, which stay shared, and page by page.
#[test]
fn pages_move_with_their_frames() {
    for (to, copied) in [
        (V + 8 * TABLE, false),
        (V - 8 * TABLE, false),
        (V + 8 * TABLE + PAGE, true),
        (V - 8 * TABLE + PAGE, true),
    ] {
        let mut trace = Trace::shared();
        if copied {
            trace.owned(2, V, true);
            trace.owned(2, V + TABLE, true);
        }
        trace.event(Event::Move {
            space: 2,
            start: V,
            end: V + 2 * TABLE,
            to,
        });
        for page in PAGES {
            assert!(trace.machine.leaf(2, page).is_none());
            let moved = trace.machine.leaf(2, page + to - V).expect("it moved");
            assert_eq!(moved.counted_frame(), Some(frame(page)));
        }
        let space = &trace.machine.spaces[&2];
        assert!(space.mapping(V).is_none());
        assert_eq!(
            space.mapping(to).map(|m| (m.start, m.end)),
            Some((to, to + 2 * TABLE))
        );
        let ended = if copied { (4, 0) } else { (0, 0) };
        trace.ends([4, 4], [ended, (4, 4)]);
    }
}
