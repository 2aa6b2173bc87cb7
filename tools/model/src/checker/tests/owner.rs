//! Sharing, reference counts, the kernel's own pages, losses.

use super::*;

/// A second address space that maps frame 0x200 at `VA` as well.
fn shared(parent: u64, child: u64) -> Stream {
    let mut s = Stream::running();
    s.map(0x200, RW);
    for frame in [OTHER_ROOT, 0x111, 0x112] {
        s.take(frame);
    }
    s.write(OTHER_ROOT, 0, 1, 0, table(0x111));
    s.write(0x111, 0, 2, 0, table(0x112));
    s.write(0x112, 5, 3, 0, child);
    if parent != leaf(0x200, RW) {
        s.leaf(leaf(0x200, RW), parent);
    }
    s.flush(Scope::Asid(ASID));
    s.event(Event::SpaceNew {
        space: 2,
        root: OTHER_ROOT,
        asid: OTHER,
    });
    s.event(Event::Done(Operation::Fork));
    s
}

#[test]
fn e13_writable_although_shared() {
    shared(leaf(0x200, RO), leaf(0x200, RO)).good();
    let on_purpose = RW & !bits::ANON | bits::SHARED;
    let mut s = shared(leaf(0x200, RO), leaf(0x200, RO));
    s.leaf(leaf(0x200, RO), leaf(0x200, RW));
    s.bad(Rule::E13, &["2 leaves map its frame", "0x5000"]);
    shared(leaf(0x200, RW), leaf(0x200, RO)).bad(Rule::E13, &["space 1"]);
    shared(leaf(0x200, on_purpose), leaf(0x200, on_purpose)).good();
    // A shared table: one way to it must not allow what the other forbids.
    let table_shared = |first: u64| {
        let mut s = Stream::running();
        s.map(0x200, RW);
        for frame in [OTHER_ROOT, 0x111] {
            s.take(frame);
        }
        s.write(OTHER_ROOT, 0, 1, 0, table(0x111));
        s.write(0x111, 0, 2, 0, table(L3) | APT);
        s.write(L2, 0, 2, table(L3), 0);
        s.flush(Scope::Asid(ASID));
        s.write(L2, 0, 2, 0, first);
        s.barriers(&[DsbIshst]);
        s.event(Event::SpaceNew {
            space: 2,
            root: OTHER_ROOT,
            asid: OTHER,
        });
        s.event(Event::Done(Operation::Fork));
        s
    };
    table_shared(table(L3) | APT).good();
    table_shared(table(L3)).bad(Rule::E13, &["2 entries lead to its table"]);
    let mut s = Stream::running();
    s.map(0x200, RW & !bits::ANON);
    s.bad(Rule::E13, &["cache"]);
}

#[test]
fn e14_reference_counts() {
    let counted = |count| {
        let mut s = shared(leaf(0x200, RO), leaf(0x200, RO));
        s.event(Event::References {
            frame: 0x200,
            count,
        });
        s
    };
    counted(2).good();
    counted(1).bad(Rule::E14, &["counts 1 reference", "make it 2"]);
}

#[test]
fn the_kernels_own_pages() {
    const STACK: u64 = 0xffff_ffff_c000_5000;
    let unmap = |flush: &dyn Fn(&mut Stream)| {
        let mut s = Stream::new();
        s.take(0x300);
        s.event(Event::KernelPage {
            va: STACK,
            old: 0,
            new: leaf(0x300, 0x703),
        });
        s.barriers(&[DsbIshst, Isb]);
        s.event(Event::KernelPage {
            va: STACK,
            old: leaf(0x300, 0x703),
            new: 0,
        });
        flush(&mut s);
        s.free(0x300);
        s
    };
    let page = Scope::Page {
        va: STACK,
        asid: None,
    };
    unmap(&|s| {
        s.flush(page);
        s.barriers(&[Isb]);
    })
    .good();
    unmap(&|s| s.flush(page)).bad(Rule::E11, &["unmapped at", "ISB expected"]);
    let map = |barriers: &[Barrier]| {
        let mut s = Stream::running();
        s.take(0x300);
        s.event(Event::KernelPage {
            va: STACK,
            old: 0,
            new: leaf(0x300, 0x703),
        });
        s.barriers(barriers);
        s.fault();
        s
    };
    map(&[DsbIshst, Isb]).good();
    map(&[DsbIshst]).bad(Rule::E11, &["ISB expected"]);
    map(&[Isb, DsbIshst]).bad(Rule::E11, &["ISB expected"]);
    map(&[Isb]).bad(Rule::E11, &["DSB ISHST and ISB expected"]);
    unmap(&|_| {}).bad(Rule::E4, &["TLBI VAAE1IS for VA 0xffffffffc0005000"]);
    // Kernel entries are global.
    unmap(&|s| s.flush(Scope::Asid(ASID))).bad(Rule::E6, &["ASID"]);
}

#[test]
fn a_loss_forgets_and_does_not_accuse() {
    let mut s = Stream::running();
    s.map(0x200, RW);
    s.checker.lost();
    // As if unmapped and freed in the part that is missing.
    s.take(0x200);
    s.leaf(0, leaf(0x200, RW));
    s.barriers(&[DsbIshst]);
    s.fault();
    s.free(0x201);
    assert_eq!(s.checker.counts().losses, 1);
    s.good();
}

#[test]
fn the_first_are_kept_and_all_are_counted() {
    let mut s = Stream::running();
    s.checker.limit = 2;
    for _ in 0..5 {
        s.free(0x400);
        s.free(0x400);
    }
    assert_eq!(s.checker.violations().len(), 2);
    assert_eq!((s.checker.total(), s.checker.by_rule()[&Rule::E4]), (9, 9));
}
