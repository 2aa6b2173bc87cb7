//! Translations that may be cached although the tables do not say so any more, and how far their
//! invalidation has come.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;

use super::bits;
use super::event::{At, Page};
use super::graph::{Graph, Place};
use super::rule::Rule;
use crate::{Barrier, Scope, Tlbi};

/// How the entry changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It gained rights: a TLB may still refuse what they grant.
    Relaxed,
    /// It lost rights: a TLB may still grant them.
    Tightened,
    /// It became invalid: a TLB may still translate by it.
    Broken,
}

/// How far the invalidation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The store may not be visible to the walkers yet.
    Written,
    /// A DSB has made it visible: to all CPUs (`inner`), or to this one.
    Stored { inner: bool },
    /// A TLBI that matches was issued.
    Issued { broadcast: bool, at: At },
}

/// An attempt that did not do it.
#[derive(Clone, Debug)]
pub struct Near {
    pub rule: Rule,
    pub text: String,
    weight: u8,
}

/// Who may cache it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Root of the address space; `None`: the kernel's half, on every CPU.
    pub root: Option<u64>,
    pub page: Page,
    pub step: Step,
    pub near: Option<Near>,
    /// Below a table entry: the leaves that by-address TLBIs have not removed yet, and whether the
    /// walk caches still lead there. Filled in by the first such TLBI.
    left: Option<(BTreeSet<u64>, bool)>,
}

impl Target {
    pub fn new(root: Option<u64>, page: Page) -> Target {
        Target {
            root,
            page,
            step: Step::Written,
            near: None,
            left: None,
        }
    }

    fn miss(&mut self, rule: Rule, weight: u8, text: String) {
        if self.near.as_ref().is_none_or(|near| near.weight < weight) {
            self.near = Some(Near { rule, text, weight });
        }
    }
}

/// An entry that changed.
#[derive(Clone, Debug)]
pub struct Stale {
    pub place: Place,
    pub level: u8,
    pub old: u64,
    pub kind: Kind,
    /// The rights it lost or gained.
    pub rights: &'static str,
    pub written: At,
    pub targets: Vec<Target>,
}

/// A TLBI as the manual writes it.
pub fn name(op: Tlbi) -> String {
    let is = if op.broadcast { "IS" } else { "" };
    match op.scope {
        Scope::Leaf { va, asid: Some(a) } => format!("TLBI VALE1{is} (VA {va:#x}, ASID {a})"),
        Scope::Page { va, asid: Some(a) } => format!("TLBI VAE1{is} (VA {va:#x}, ASID {a})"),
        Scope::Leaf { va, asid: None } => format!("TLBI VAALE1{is} (VA {va:#x})"),
        Scope::Page { va, asid: None } => format!("TLBI VAAE1{is} (VA {va:#x})"),
        Scope::Asid(asid) => format!("TLBI ASIDE1{is} (ASID {asid})"),
        Scope::All => format!("TLBI VMALLE1{is}"),
    }
}

/// What a TLBI does to a target.
enum Hit {
    Miss,
    Part,
    Whole,
}

/// The CPUs that matter to a target.
fn mask(graph: &Graph, kind: Kind, target: &Target, cpu: u8) -> u64 {
    match (kind, target.root) {
        // Other CPUs may keep the narrower entry: it costs them a fault.
        (Kind::Relaxed, _) => 1 << cpu,
        (_, None) => u64::MAX,
        (_, Some(root)) => graph.spaces.get(&root).map_or(0, |space| space.cached),
    }
}

impl Stale {
    /// A barrier of `cpu`. The entry is clean when no target is left.
    pub fn barrier(&mut self, graph: &Graph, barrier: Barrier, at: At) {
        let (kind, writer) = (self.kind, self.written.cpu);
        self.targets.retain_mut(|target| {
            let others = mask(graph, kind, target, at.cpu) & !(1 << at.cpu) != 0;
            if writer != at.cpu {
                if let (Step::Issued { .. }, Barrier::DsbIsh) = (target.step, barrier) {
                    let text = format!(
                        "the DSB at #{} is by CPU {}, the TLBI by CPU {writer}",
                        at.position, at.cpu
                    );
                    target.miss(Rule::E10, 3, text);
                }
                return true;
            }
            match (target.step, barrier) {
                (Step::Written, Barrier::DsbIshst | Barrier::DsbIsh) => {
                    target.step = Step::Stored { inner: true };
                }
                (Step::Written, Barrier::DsbNshst | Barrier::DsbNsh) => {
                    target.step = Step::Stored { inner: false };
                }
                (Step::Stored { inner: false }, Barrier::DsbIshst | Barrier::DsbIsh) => {
                    target.step = Step::Stored { inner: true };
                }
                (Step::Issued { broadcast, .. }, Barrier::DsbIsh) if broadcast || !others => {
                    return false;
                }
                (Step::Issued { .. }, Barrier::DsbNsh) => {
                    if !others {
                        return false;
                    }
                    let text = format!("the DSB NSH at #{} waits for this CPU only", at.position);
                    target.miss(Rule::E10, 3, text);
                }
                (Step::Issued { .. }, Barrier::DsbIshst | Barrier::DsbNshst) => {
                    let text = format!(
                        "the DSB at #{} waits for stores only, not for TLBIs",
                        at.position
                    );
                    target.miss(Rule::E10, 3, text);
                }
                _ => {}
            }
            true
        });
    }

    /// A TLBI.
    pub fn tlbi(&mut self, graph: &Graph, op: Tlbi, at: At) {
        let (kind, level, writer) = (self.kind, self.level, self.written.cpu);
        let child = bits::frame(self.old);
        for target in &mut self.targets {
            let hit = hit(target, graph, level, child, op, at);
            if !matches!(hit, Hit::Whole) {
                continue;
            }
            let others = mask(graph, kind, target, at.cpu) & !(1 << at.cpu) != 0;
            let done = format!("{} at #{}", name(op), at.position);
            if writer != at.cpu {
                target.miss(
                    Rule::E10,
                    3,
                    format!("{done} is by CPU {}, the write by CPU {writer}", at.cpu),
                );
                continue;
            }
            match target.step {
                Step::Written => {
                    target.miss(
                        Rule::E10,
                        4,
                        format!(
                            "{done} came before any DSB: the walkers may fetch the old entry again"
                        ),
                    );
                    continue;
                }
                Step::Stored { inner: false } if others && op.broadcast => {
                    target.miss(
                        Rule::E10,
                        3,
                        format!("before {done} there was a DSB for this CPU only (NSHST)"),
                    );
                    continue;
                }
                Step::Issued {
                    broadcast: true, ..
                } if !op.broadcast => continue,
                _ => {}
            }
            if others && !op.broadcast {
                target.miss(
                    Rule::E8,
                    3,
                    format!(
                        "{done} acts on CPU {} only, and others may cache the entry",
                        at.cpu
                    ),
                );
            }
            target.step = Step::Issued {
                broadcast: op.broadcast,
                at,
            };
        }
    }
}

fn hit(target: &mut Target, graph: &Graph, level: u8, child: u64, op: Tlbi, at: At) -> Hit {
    const PAGES: u64 = (1 << 44) - 1;
    let (va, asid, leaf_only) = match op.scope {
        Scope::All => return Hit::Whole,
        Scope::Asid(asid) if target.page.asid == Some(asid) => return Hit::Whole,
        Scope::Asid(_) => {
            let text = format!("{} at #{} is for another ASID", name(op), at.position);
            target.miss(Rule::E6, 1, text);
            return Hit::Miss;
        }
        Scope::Leaf { va, asid } => (va, asid, true),
        Scope::Page { va, asid } => (va, asid, false),
    };
    let span = 1 << (bits::shift(level) - 12);
    let first = target.page.va >> 12 & PAGES;
    let page = va >> 12 & PAGES;
    let inside = (first..first + span).contains(&page);
    let tagged = asid.is_none() || target.page.asid.is_none() || asid == target.page.asid;
    if !inside || !tagged {
        let done = format!("{} at #{}", name(op), at.position);
        if inside {
            target.miss(Rule::E6, 2, format!("{done} is for another ASID"));
        } else if tagged {
            target.miss(Rule::E6, 1, format!("{done} is for another page"));
        }
        return Hit::Miss;
    }
    if level == 3 {
        return Hit::Whole;
    }
    if leaf_only {
        let text = format!(
            "{} at #{} removes a leaf only, walk caches still lead to the table",
            name(op),
            at.position
        );
        target.miss(Rule::E6, 2, text);
    }
    if matches!(target.step, Step::Written) {
        return if leaf_only { Hit::Miss } else { Hit::Whole };
    }
    let (leaves, walk) = target
        .left
        .get_or_insert_with(|| (leaves(graph, level + 1, child, first), true));
    leaves.remove(&page);
    *walk &= leaf_only;
    if leaves.is_empty() && !*walk {
        Hit::Whole
    } else {
        Hit::Part
    }
}

/// Pages that a table maps, from page `first` on.
fn leaves(graph: &Graph, level: u8, table: u64, first: u64) -> BTreeSet<u64> {
    let mut pages = BTreeSet::new();
    let Some(info) = graph.tables.get(&table) else {
        return pages;
    };
    let span = 1u64 << (bits::shift(level) - 12);
    for (&index, &value) in info.entries.iter().filter(|(_, v)| bits::valid(**v)) {
        let page = first + u64::from(index) * span;
        if level == 3 {
            pages.insert(page);
        } else {
            pages.extend(leaves(graph, level + 1, bits::frame(value), page));
        }
    }
    pages
}
