//! For each rule a sequence that keeps it and one that does not.

mod owner;

use super::*;
use crate::Barrier::*;

const ROOT: u64 = 0x100;
const L2: u64 = 0x101;
const L3: u64 = 0x102;
const VA: u64 = 0x5000;
const ASID: u16 = 5;
const OTHER_ROOT: u64 = 0x110;
const OTHER: u16 = 6;

const RO: u64 = bits::EL0 | bits::READ_ONLY | bits::UXN | LEAF;
const RW: u64 = bits::EL0 | bits::UXN | LEAF;
const RX: u64 = bits::EL0 | bits::READ_ONLY | LEAF;
const LEAF: u64 = 3 | 3 << 8 | 1 << 10 | bits::NOT_GLOBAL | bits::PXN | bits::ANON;
const APT: u64 = bits::TABLE_READ_ONLY;

fn leaf(frame: u64, attributes: u64) -> u64 {
    frame << 12 | attributes
}

fn table(frame: u64) -> u64 {
    frame << 12 | 3
}

/// A stream, and what the checker makes of it.
struct Stream {
    checker: Checker,
    position: u64,
    cpu: u8,
}

impl Stream {
    fn new() -> Stream {
        Stream {
            checker: Checker::new(100),
            position: 0,
            cpu: 0,
        }
    }

    /// An address space that is active on CPU 0, with a level 3 table for the first 2 MiB.
    fn running() -> Stream {
        let mut s = Stream::new();
        for frame in [ROOT, L2, L3] {
            s.take(frame);
        }
        s.event(Event::SpaceNew {
            space: 1,
            root: ROOT,
            asid: ASID,
        });
        s.write(ROOT, 0, 1, 0, table(L2));
        s.write(L2, 0, 2, 0, table(L3));
        s.switch(ROOT, ASID);
        s
    }

    fn event(&mut self, event: Event) {
        self.position += 1;
        let at = At {
            position: self.position,
            time: 0,
            cpu: self.cpu,
        };
        self.checker.event(at, event);
    }

    fn take(&mut self, frame: u64) {
        self.event(Event::Frame {
            frame,
            freed: false,
        });
        self.store(frame);
    }

    fn store(&mut self, frame: u64) {
        self.event(Event::Contents {
            frame,
            what: Contents::Stored,
        });
    }

    fn free(&mut self, frame: u64) {
        self.event(Event::Frame { frame, freed: true });
    }

    fn write(&mut self, table: u64, index: u16, level: u8, old: u64, new: u64) {
        self.event(Event::Descriptor {
            table,
            index,
            level,
            old,
            new,
        });
    }

    /// The leaf of `VA`.
    fn leaf(&mut self, old: u64, new: u64) {
        self.write(L3, 5, 3, old, new);
    }

    fn barriers(&mut self, barriers: &[Barrier]) {
        for &barrier in barriers {
            self.event(Event::Barrier(barrier));
        }
    }

    fn tlbi(&mut self, scope: Scope, broadcast: bool) {
        self.event(Event::Tlbi(Tlbi { scope, broadcast }));
    }

    /// DSB ISHST; TLBI ...IS; DSB ISH.
    fn flush(&mut self, scope: Scope) {
        self.barriers(&[DsbIshst]);
        self.tlbi(scope, true);
        self.barriers(&[DsbIsh]);
    }

    fn switch(&mut self, root: u64, asid: u16) {
        self.barriers(&[DsbIsh]);
        self.event(Event::Ttbr0(u64::from(asid) << 48 | root << 12));
        self.barriers(&[Isb]);
    }

    /// make: a frame is taken and mapped.
    fn map(&mut self, frame: u64, attributes: u64) {
        self.take(frame);
        self.barriers(&[DmbIshst]);
        self.leaf(0, leaf(frame, attributes));
        self.barriers(&[DsbIshst]);
    }

    fn fault(&mut self) {
        self.event(Event::Done(Operation::Fault {
            va: VA,
            spurious: false,
        }));
    }

    #[track_caller]
    fn good(self) {
        assert_eq!(self.checker.violations(), []);
    }

    /// Exactly this rule was broken; the first time as told.
    #[track_caller]
    fn bad(self, rule: Rule, words: &[&str]) {
        let rules: Vec<Rule> = self.checker.by_rule().keys().copied().collect();
        assert_eq!(rules, [rule], "{:#?}", self.checker.violations());
        let text = self.checker.violations()[0].to_string();
        for word in words {
            assert!(text.contains(word), "no {word:?} in: {text}");
        }
    }
}

const PAGE: Scope = Scope::Leaf {
    va: VA,
    asid: Some(ASID),
};

#[test]
fn e1_break_before_make() {
    let replace = |broken: bool| {
        let mut s = Stream::running();
        s.map(0x200, RO);
        s.take(0x201);
        s.barriers(&[DmbIshst]);
        if broken {
            s.leaf(leaf(0x200, RO), 0);
            s.flush(PAGE);
            s.leaf(0, leaf(0x201, RW));
        } else {
            s.leaf(leaf(0x200, RO), leaf(0x201, RW));
            s.flush(PAGE);
        }
        s.barriers(&[DsbIshst]);
        s.free(0x200);
        s.fault();
        s
    };
    replace(true).good();
    replace(false).bad(Rule::E1, &["another output address", "0x5000", "ASID 5"]);
    // Rights and nG may change in place, globalness may not come back; tables may not change at all.
    let mut s = Stream::running();
    s.map(0x200, RW);
    s.leaf(leaf(0x200, RW), leaf(0x200, RW & !bits::NOT_GLOBAL));
    assert!(s.checker.by_rule().contains_key(&Rule::E1));
    let mut s = Stream::running();
    s.write(L2, 0, 2, table(L3), table(L3) | APT);
    s.bad(Rule::E1, &["table descriptor"]);
}

#[test]
fn e2_make_over_unclean() {
    let again = |flush: bool| {
        let mut s = Stream::running();
        s.map(0x200, RW);
        s.take(0x201);
        s.leaf(leaf(0x200, RW), 0);
        if flush {
            s.flush(PAGE);
        } else {
            s.barriers(&[DsbIshst]);
        }
        s.leaf(0, leaf(0x201, RW));
        s.barriers(&[DsbIshst]);
        s.fault();
        s
    };
    again(true).good();
    again(false).bad(Rule::E2, &["TLBI VALE1IS for VA 0x5000, ASID 5", "#"]);
}

#[test]
fn e3_rights_relied_on_to_be_gone() {
    let protect = |flush: bool, operation| {
        let mut s = Stream::running();
        s.map(0x200, RW);
        s.leaf(leaf(0x200, RW), leaf(0x200, RO));
        if flush {
            s.flush(Scope::Asid(ASID));
        }
        s.event(Event::Done(operation));
        s
    };
    protect(true, Operation::Protect).good();
    protect(false, Operation::Protect).bad(Rule::E3, &["right to write", "mprotect"]);
    protect(false, Operation::Fork).bad(Rule::E3, &["fork"]);
    // Below a table that forbids writing, the leaf's own right is none.
    let mut s = Stream::running();
    s.map(0x200, RW);
    s.write(L2, 0, 2, table(L3), 0);
    s.flush(Scope::Asid(ASID));
    s.write(L2, 0, 2, 0, table(L3) | APT);
    s.barriers(&[DsbIshst]);
    s.leaf(leaf(0x200, RW), leaf(0x200, RO));
    s.fault();
    s.good();
    // Nor does an address space owe anything that never ran.
    let mut s = Stream::running();
    s.take(OTHER_ROOT);
    s.event(Event::SpaceNew {
        space: 2,
        root: OTHER_ROOT,
        asid: OTHER,
    });
    s.take(0x111);
    s.write(OTHER_ROOT, 0, 1, 0, table(0x111));
    s.write(OTHER_ROOT, 0, 1, table(0x111), 0);
    s.free(0x111);
    s.fault();
    s.good();
}

#[test]
fn e4_frames() {
    let unmap = |flush: bool| {
        let mut s = Stream::running();
        s.map(0x200, RW);
        s.leaf(leaf(0x200, RW), leaf(0x200, RW) & !1);
        if flush {
            s.flush(PAGE);
        }
        s.free(0x200);
        s.event(Event::Done(Operation::Unmap));
        s
    };
    unmap(true).good();
    unmap(false).bad(
        Rule::E4,
        &["TLBI VALE1IS for VA 0x5000, ASID 5", "given back"],
    );
    let mut s = Stream::running();
    s.map(0x200, RW);
    s.free(0x200);
    s.bad(Rule::E4, &["entry is valid"]);
    let mut s = Stream::running();
    s.take(0x200);
    s.free(0x200);
    s.leaf(0, leaf(0x200, RW));
    s.bad(Rule::E4, &["free"]);
    let mut s = Stream::running();
    s.take(0x200);
    s.take(0x200);
    s.bad(Rule::E4, &["taken before"]);
}

/// The end of an address space: everything stays valid, and is forgotten as a whole.
fn end(flush: impl FnOnce(&mut Stream)) -> Stream {
    let mut s = Stream::running();
    s.map(0x200, RW);
    s.map_more();
    s.switch(0, 0);
    flush(&mut s);
    for frame in [0x200, 0x201, L3, L2, ROOT] {
        s.free(frame);
    }
    s.event(Event::SpaceEnd { space: 1 });
    s
}

impl Stream {
    fn map_more(&mut self) {
        self.take(0x201);
        self.barriers(&[DmbIshst]);
        self.write(L3, 6, 3, 0, leaf(0x201, RW));
        self.barriers(&[DsbIshst]);
    }
}

#[test]
fn e4_the_end_of_an_address_space() {
    end(|s| s.flush(Scope::Asid(ASID))).good();
    let none = end(|_| {});
    assert_eq!(none.checker.total(), 1, "one report for all frames");
    none.bad(Rule::E4, &["TLBI ASIDE1IS for ASID 5"]);
    end(|s| s.flush(Scope::Asid(OTHER))).bad(Rule::E6, &["for ASID 6"]);
    end(|s| {
        s.barriers(&[DsbIshst]);
        s.tlbi(Scope::Asid(ASID), true);
    })
    .bad(Rule::E10, &["DSB ISH expected"]);
}

#[test]
fn e5_tables() {
    let unhook = |flush: &dyn Fn(&mut Stream)| {
        let mut s = Stream::running();
        s.map(0x200, RW);
        s.write(L2, 0, 2, table(L3), table(L3) & !1);
        flush(&mut s);
        s.free(L3);
        s
    };
    unhook(&|s| s.flush(Scope::Asid(ASID))).good();
    unhook(&|_| {}).bad(Rule::E5, &["TLBI ASIDE1IS for ASID 5"]);
    unhook(&|s| s.flush(PAGE)).bad(Rule::E5, &["removes a leaf only"]);
    let page = Scope::Page {
        va: VA,
        asid: Some(ASID),
    };
    unhook(&|s| s.flush(page)).good();
    // One more leaf that no TLBI names.
    let mut s = Stream::running();
    s.map(0x200, RW);
    s.map_more();
    s.write(L2, 0, 2, table(L3), 0);
    s.flush(page);
    s.free(L3);
    s.bad(Rule::E5, &["given back"]);
    let mut s = Stream::running();
    s.take(0x111);
    s.free(0x111);
    s.write(0x111, 0, 3, 0, leaf(0x200, RW));
    s.bad(Rule::E5, &["free"]);
}

#[test]
fn e6_tlbis_that_do_not_match() {
    let unmap = |scope| {
        let mut s = Stream::running();
        s.map(0x200, RW);
        s.leaf(leaf(0x200, RW), 0);
        s.flush(scope);
        s.free(0x200);
        s
    };
    unmap(Scope::Leaf { va: VA, asid: None }).good();
    unmap(Scope::All).good();
    unmap(Scope::Leaf {
        va: VA,
        asid: Some(OTHER),
    })
    .bad(Rule::E6, &["another ASID", "ASID 6"]);
    unmap(Scope::Leaf {
        va: VA + 0x1000,
        asid: Some(ASID),
    })
    .bad(Rule::E6, &["another page"]);
    // A page that gained a right faults again where nothing is invalidated.
    let relax = |flush: bool| {
        let mut s = Stream::running();
        s.map(0x200, RO);
        s.leaf(leaf(0x200, RO), leaf(0x200, RW));
        s.barriers(&[DsbNshst]);
        if flush {
            s.tlbi(PAGE, false);
        }
        s.barriers(&[DsbNsh]);
        s.fault();
        s
    };
    relax(true).good();
    relax(false).bad(Rule::E6, &["TLBI VALE1 for VA 0x5000", "may fault again"]);
}

#[test]
fn e6_spurious_faults() {
    let after = |before: &[Barrier], scope: Option<Scope>, end: &[Barrier]| {
        let mut s = Stream::running();
        s.map(0x200, RW);
        s.fault();
        s.barriers(before);
        if let Some(scope) = scope {
            s.tlbi(scope, false);
        }
        s.barriers(end);
        s.event(Event::Done(Operation::Fault {
            va: VA + 8,
            spurious: true,
        }));
        s
    };
    let again = |scope, end: &[Barrier]| after(&[DsbNsh], scope, end);
    let page = Scope::Page {
        va: VA,
        asid: Some(ASID),
    };
    again(Some(page), &[DsbNsh]).good();
    after(&[], Some(page), &[DsbNsh]).bad(Rule::E10, &["DSB NSH expected before the TLBI"]);
    again(None, &[DsbNsh]).bad(
        Rule::E6,
        &["fault again", "TLBI VAE1 for VA 0x5000, ASID 5"],
    );
    again(Some(PAGE), &[DsbNsh]).bad(Rule::E6, &["TLBI VAE1"]);
    again(Some(page), &[]).bad(Rule::E10, &["DSB NSH expected"]);
}

#[test]
fn e7_asids() {
    let reuse = |flush: bool| {
        let mut s = Stream::running();
        s.map(0x200, RW);
        s.switch(0, 0);
        if flush {
            s.flush(Scope::Asid(ASID));
            s.free(0x200);
            for frame in [L3, L2, ROOT] {
                s.free(frame);
            }
        }
        s.take(OTHER_ROOT);
        s.switch(OTHER_ROOT, ASID);
        s
    };
    reuse(true).good();
    reuse(false).bad(Rule::E7, &["space 1", "ASID 5"]);
    // Two that run with one number; having it is not enough.
    let two = |run: bool| {
        let mut s = Stream::running();
        s.take(OTHER_ROOT);
        s.event(Event::SpaceNew {
            space: 2,
            root: OTHER_ROOT,
            asid: ASID,
        });
        if run {
            s.cpu = 1;
            s.switch(OTHER_ROOT, ASID);
        }
        s
    };
    two(false).good();
    two(true).bad(Rule::E7, &["space 1 runs with ASID 5"]);
    // Numbers are handed out anew, and each CPU empties its TLB before it runs with one of them.
    let anew = |flush: bool| {
        let mut s = Stream::running();
        s.map(0x200, RW);
        s.switch(0, 0);
        s.take(OTHER_ROOT);
        if flush {
            s.tlbi(Scope::All, false);
        }
        s.switch(OTHER_ROOT, ASID);
        s.switch(ROOT, OTHER);
        s
    };
    anew(true).good();
    anew(false).bad(Rule::E7, &["space 1", "VMALLE1"]);
    // It got another number, and the entries under the old one are in the way of who gets that.
    let mut s = Stream::running();
    s.cpu = 1;
    s.switch(ROOT, ASID);
    s.switch(0, 0);
    s.cpu = 0;
    s.switch(0, 0);
    s.switch(ROOT, 7);
    s.take(OTHER_ROOT);
    s.cpu = 1;
    s.switch(OTHER_ROOT, ASID);
    s.bad(Rule::E7, &["that had ASID 5", "CPU 1"]);
    let mut s = Stream::running();
    s.map(0x200, RW & !bits::NOT_GLOBAL);
    s.bad(Rule::E7, &["nG expected"]);
}

#[test]
fn e8_local_tlbis() {
    let unmap = |elsewhere: bool| {
        let mut s = Stream::running();
        s.map(0x200, RW);
        if elsewhere {
            s.cpu = 1;
            s.switch(ROOT, ASID);
            s.switch(0, 0);
            s.cpu = 0;
        }
        s.leaf(leaf(0x200, RW), 0);
        s.barriers(&[DsbNshst]);
        s.tlbi(PAGE, false);
        s.barriers(&[DsbNsh]);
        s.free(0x200);
        s
    };
    unmap(false).good();
    unmap(true).bad(Rule::E8, &["CPU 0 only"]);
}

#[test]
fn e9_writes_behind_the_back() {
    let mut s = Stream::running();
    s.map(0x200, RW);
    s.leaf(leaf(0x200, RW), 0);
    s.flush(PAGE);
    s.good();
    let mut s = Stream::running();
    s.map(0x200, RO);
    // The break is missing: it was 0 before this write.
    s.flush(PAGE);
    s.leaf(0, leaf(0x201, RW));
    s.bad(Rule::E9, &["0x0 is found there"]);
}

/// Two owners of a shared table write-protect a leaf, having both read it before.
#[test]
fn e9_not_what_two_do_at_once() {
    for (second, good) in [(RO, true), (RO | 1 << 52, false), (RX, false)] {
        let mut s = Stream::running();
        s.take(0x200);
        s.barriers(&[DmbIshst]);
        s.leaf(0, leaf(0x200, RW));
        s.barriers(&[DsbIshst]);
        s.leaf(leaf(0x200, RW), leaf(0x200, RO));
        s.cpu = 1;
        s.leaf(leaf(0x200, RW), leaf(0x200, second));
        assert_eq!(s.checker.by_rule().contains_key(&Rule::E9), !good);
    }
}

#[test]
fn e10_barriers() {
    let unmap = |before: &[Barrier], after: &[Barrier]| {
        let mut s = Stream::running();
        s.map(0x200, RW);
        s.cpu = 1;
        s.switch(ROOT, ASID);
        s.cpu = 0;
        s.leaf(leaf(0x200, RW), 0);
        s.barriers(before);
        s.tlbi(PAGE, true);
        s.barriers(after);
        s.free(0x200);
        s
    };
    unmap(&[DsbIshst], &[DsbIsh]).good();
    unmap(&[DsbIsh], &[DsbIsh]).good();
    unmap(&[], &[DsbIsh]).bad(Rule::E10, &["came before any DSB"]);
    unmap(&[DmbIshst], &[DsbIsh]).bad(Rule::E10, &["came before any DSB"]);
    unmap(&[DsbNshst], &[DsbIsh]).bad(Rule::E10, &["NSHST"]);
    unmap(&[DsbIshst], &[]).bad(Rule::E10, &["DSB ISH expected between the TLBI"]);
    unmap(&[DsbIshst], &[DsbIshst]).bad(Rule::E10, &["stores only"]);
    unmap(&[DsbIshst], &[DsbNsh]).bad(Rule::E10, &["this CPU only"]);
    let mut s = Stream::running();
    s.map(0x200, RW);
    s.leaf(leaf(0x200, RW), 0);
    s.barriers(&[DsbIshst]);
    s.tlbi(PAGE, true);
    s.cpu = 1;
    s.barriers(&[DsbIsh]);
    s.cpu = 0;
    s.free(0x200);
    s.bad(Rule::E10, &["by CPU 1"]);
}

#[test]
fn e11_order() {
    let make = |before: &[Barrier], after: &[Barrier]| {
        let mut s = Stream::running();
        s.take(0x200);
        s.barriers(before);
        s.leaf(0, leaf(0x200, RW));
        s.barriers(after);
        s.fault();
        s
    };
    make(&[DmbIshst], &[DsbIshst]).good();
    make(&[], &[DsbIshst]).bad(Rule::E11, &["contents of frame 0x200", "DMB ISHST"]);
    make(&[DmbIshst], &[]).bad(Rule::E11, &["may not be visible to the walker"]);
    // A whole table: its own entries first.
    let link = |before: &[Barrier]| {
        let mut s = Stream::running();
        s.take(0x103);
        s.take(0x200);
        s.barriers(&[DmbIshst]);
        s.write(0x103, 0, 3, 0, leaf(0x200, RW));
        s.barriers(before);
        s.write(L2, 1, 2, 0, table(0x103));
        s.barriers(&[DsbIshst]);
        s.fault();
        s
    };
    link(&[DmbIshst]).good();
    link(&[]).bad(Rule::E11, &["entry of table 0x103"]);
    // A root, and the write of TTBR0 itself.
    let switch = |before: &[Barrier], after: &[Barrier]| {
        let mut s = Stream::new();
        s.take(ROOT);
        s.take(L2);
        s.write(ROOT, 0, 1, 0, table(L2));
        s.barriers(before);
        s.event(Event::Ttbr0(u64::from(ASID) << 48 | ROOT << 12));
        s.barriers(after);
        s.event(Event::Done(Operation::Switch));
        s
    };
    switch(&[DsbIsh], &[Isb]).good();
    switch(&[], &[Isb]).bad(Rule::E11, &["DSB ISHST expected"]);
    switch(&[DsbIsh], &[]).bad(Rule::E11, &["ISB expected"]);
}

#[test]
fn e12_instruction_caches() {
    let exec = |clean: bool| {
        let mut s = Stream::running();
        s.take(0x200);
        if clean {
            s.event(Event::Contents {
                frame: 0x200,
                what: Contents::Fetchable,
            });
        }
        s.barriers(&[DmbIshst]);
        s.leaf(0, leaf(0x200, RX));
        s.barriers(&[DsbIshst]);
        s.fault();
        s
    };
    exec(true).good();
    exec(false).bad(Rule::E12, &["cache maintenance"]);
    let mut s = Stream::running();
    s.map(0x200, LEAF | bits::EL0);
    s.bad(Rule::E12, &["writable and executable"]);
    let mut s = Stream::running();
    s.barriers(&[DmbIshst]);
    s.leaf(0, leaf(0x900, RX));
    s.barriers(&[DsbIshst]);
    assert_eq!(
        s.checker.counts().fetch_unknown,
        1,
        "taken before the trace"
    );
    s.good();
}
