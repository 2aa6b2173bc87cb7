//! A checker of Arm's translation rules, for streams of descriptor writes, barriers and TLBIs.
//!
//! Where [`Machine`](crate::Machine) plays the adversary and waits for something to go wrong, the
//! checker only reads: it follows each descriptor through what may still be cached of it, and
//! complains when somebody relies on a translation to be gone, or to be there, before the
//! architecture promises it. So it works on what a real kernel recorded, and names the event, the
//! page and what is missing.
//!
//! ```text
//!  INV_CLEAN --store valid--> VALID_UNSYNC --DSB--> VALID
//!      ^                                              |  fewer rights: STALE_TIGHTEN{w,d,t}
//!      |                                              |  more rights:  STALE_RELAX{w,d,t}
//!      +-- DSB ISH -- INV_UNCLEAN{w,d,t} <--store 0---+
//!             w: written   d: DSB by the writer   t: matching TLBI by the writer
//! ```
//!
//! Rights are the *effective* ones: of the leaf and of every APTable above it, for each address space
//! that reaches the entry. An address space that no CPU can have cached (it never ran, or its ASID
//! was invalidated since) owes nothing. [`Rule`] has the rules E1 to E14 and, by
//! [`Rule::limits`], what of each such a stream cannot show.
//!
//! Stage 1, 4 KiB granule, 39-bit addresses, levels 1 to 3. State is bounded by the live tables, not by
//! the length of the stream. After a loss nothing is known: see [`Checker::lost`].

mod bits;
mod contents;
mod event;
mod graph;
mod owner;
mod reliance;
mod rule;
mod stale;
#[cfg(test)]
mod tests;
#[cfg(feature = "wire")]
mod trace;

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;

pub use event::{At, Contents, Event, Operation, Page, Violation};
pub use rule::Rule;
#[cfg(feature = "wire")]
pub use trace::of_trace;

use crate::{Barrier, Scope, Tlbi};
use bits::{Rights, valid};
use graph::{Graph, Path, Place};
use reliance::expected;
use stale::{Kind, Stale, Target};

/// What one CPU has under way.
#[derive(Debug, Default)]
struct Cpu {
    /// Store barriers (DMB, DSB) executed.
    barriers: u64,
    /// Descriptors made valid, and not completed by a DSB.
    unsynced: Vec<Unsynced>,
    /// TLBIs of more than a page, not completed by a DSB, and where each address space was active.
    issued: Vec<(Tlbi, At, BTreeMap<u64, u64>)>,
    /// TLBIs since the last operation, and whether a DSB has completed them.
    forgot: Vec<Forgot>,
    /// A DSB has been executed since the last operation.
    ordered: bool,
    /// The last change of the kernel's half that may not be in effect on this CPU.
    kernel: Option<KernelChange>,
    /// The last ASIDE1IS.
    last_asid: Option<(u16, At)>,
    /// The root in TTBR0, and the one before, until a context synchronisation.
    root: Option<u64>,
    leaving: Option<(u64, At)>,
    unsynchronised: Option<At>,
}

#[derive(Debug)]
struct Forgot {
    op: Tlbi,
    at: At,
    /// After a DSB, and so after what the operation has read.
    ordered: bool,
    /// Before a DSB.
    done: bool,
}

#[derive(Debug)]
struct Unsynced {
    place: Place,
    at: At,
    /// Ordered before what follows (DMB).
    ordered: bool,
    /// Somebody may walk there already.
    reachable: bool,
}

#[derive(Clone, Copy, Debug)]
struct KernelChange {
    at: At,
    va: u64,
    /// Unmapped: `done` when the TLBI is; mapped: when the store is visible.
    unmapped: bool,
    done: bool,
}

/// How much was checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Descriptor writes.
    pub descriptors: u64,
    /// Pages of the kernel's half.
    pub kernel_pages: u64,
    /// Barriers.
    pub barriers: u64,
    /// TLB invalidations.
    pub tlbis: u64,
    /// Writes of TTBR0.
    pub ttbr0: u64,
    /// Frames taken or given back.
    pub frames: u64,
    /// Stores to frames and cache maintenance.
    pub contents: u64,
    /// Ends of operations.
    pub operations: u64,
    /// Reference counts compared.
    pub references: u64,
    /// Executable leaves of frames whose maintenance the stream cannot show.
    pub fetch_unknown: u64,
    /// Reference counts that could not be compared.
    pub references_unknown: u64,
    /// Losses: the stream was taken up anew after each.
    pub losses: u64,
}

/// The checker.
#[derive(Debug, Default)]
pub struct Checker {
    graph: Graph,
    cpus: BTreeMap<u8, Cpu>,
    stales: BTreeMap<Place, Vec<Stale>>,
    kernel: BTreeMap<u64, u64>,
    counts: Counts,
    violations: Vec<Violation>,
    by_rule: BTreeMap<Rule, u64>,
    /// Violations kept in full.
    limit: usize,
}

impl Checker {
    /// A checker that keeps the first `limit` violations in full and counts the rest.
    pub fn new(limit: usize) -> Checker {
        Checker {
            limit,
            ..Checker::default()
        }
    }

    /// Events are missing here, or another machine begins. What was known is forgotten: entries, frames
    /// and address spaces are learnt anew, and nothing is held against them until then.
    pub fn lost(&mut self) {
        self.counts.losses += 1;
        self.graph = Graph::default();
        self.cpus.clear();
        self.stales.clear();
        self.kernel.clear();
    }

    /// What was checked so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The first violations, in full.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// Violations by rule, those that are not kept included.
    pub fn by_rule(&self) -> &BTreeMap<Rule, u64> {
        &self.by_rule
    }

    /// Violations in all.
    pub fn total(&self) -> u64 {
        self.by_rule.values().sum()
    }

    /// The next event. The events of each CPU must come in their order.
    pub fn event(&mut self, at: At, event: Event) {
        let at = At {
            cpu: at.cpu & 63,
            ..at
        };
        self.cpus.entry(at.cpu).or_default();
        if !matches!(
            event,
            Event::KernelPage { .. }
                | Event::Barrier(_)
                | Event::Frame { .. }
                | Event::Contents { .. }
        ) {
            self.kernel_in_effect(at, &event);
        }
        match event {
            Event::Descriptor {
                table,
                index,
                level: level @ 1..=3,
                old,
                new,
            } => {
                self.counts.descriptors += 1;
                self.descriptor(at, Place::new(table, index), level, old, new);
            }
            Event::Descriptor { .. } => {}
            Event::KernelPage { va, old, new } => {
                self.counts.kernel_pages += 1;
                self.kernel_page(at, va & !0xfff, old, new);
            }
            Event::Barrier(barrier) => {
                self.counts.barriers += 1;
                self.barrier(at, barrier);
            }
            Event::Tlbi(op) => {
                self.counts.tlbis += 1;
                self.tlbi(at, op);
            }
            Event::Ttbr0(value) => {
                self.counts.ttbr0 += 1;
                self.ttbr0(at, value);
            }
            Event::Frame { frame, freed } => {
                self.counts.frames += 1;
                self.frame(at, frame, freed);
            }
            Event::Contents { frame, what } => {
                self.counts.contents += 1;
                self.contents(at, frame, what);
            }
            Event::SpaceNew { space, root, asid } => self.space_new(space, root, asid),
            Event::SpaceEnd { space } => self.space_end(at, space),
            Event::References { frame, count } => self.references(at, frame, count),
            Event::Done(operation) => {
                self.counts.operations += 1;
                self.done(at, operation);
            }
        }
    }

    fn cpu(&mut self, at: At) -> &mut Cpu {
        self.cpus.entry(at.cpu).or_default()
    }

    fn report(&mut self, violation: Violation) {
        *self.by_rule.entry(violation.rule).or_default() += 1;
        if self.violations.len() < self.limit {
            self.violations.push(violation);
        }
    }

    fn page(&self, path: &Path) -> Page {
        let space = self.graph.spaces.get(&path.root);
        Page {
            space: space.and_then(|space| space.serial),
            asid: Some(space.map_or(0, |space| space.asid)),
            va: path.va,
        }
    }

    fn descriptor(&mut self, at: At, place: Place, level: u8, said: u64, new: u64) {
        let known = self.graph.entry(place);
        let old = known.unwrap_or(said);
        let event = format_args!("the write of {new:#x} to a level {level} descriptor");
        let violation = |rule, page, what: String, missing: String| Violation {
            rule,
            at,
            event: event.to_string(),
            page,
            frame: valid(new).then(|| bits::frame(new)),
            descriptor: Some((place.table(), place.index(), level)),
            what,
            missing,
        };
        let paths: Vec<Path> = {
            let mut paths = self.graph.cached_paths(place.table());
            for path in &mut paths {
                path.va |= u64::from(place.index()) << bits::shift(level);
            }
            paths
        };
        let page = paths.first().map(|path| self.page(path));
        let freed = |frame: u64| {
            let info = self.graph.frames.get(&frame);
            info.is_some_and(|info| info.free == Some(true))
        };
        if freed(place.table()) {
            let what = format!("its table is frame {:#x}, which is free", place.table());
            let missing = "a table goes back only when nothing leads to it".to_owned();
            self.report(violation(Rule::E5, page, what, missing));
        } else if valid(new) && freed(bits::frame(new)) {
            let rule = if level == 3 { Rule::E4 } else { Rule::E5 };
            let what = format!("it leads to frame {:#x}, which is free", bits::frame(new));
            let missing = "the frame should have been taken first".to_owned();
            self.report(violation(rule, page, what, missing));
        }
        // Two owners of a shared table may write-protect a leaf at once: both find it writable, and
        // the second one writes what is there by then.
        let twice = level == 3 && old == new && bits::only_write_protected(said, new);
        if old != said && !twice {
            let what = format!(
                "the entry was {old:#x} when it was last written, and {said:#x} is found there"
            );
            let missing = "a write between the two is not in the trace: left out, or by somebody \
                           who does not own the table"
                .to_owned();
            self.report(violation(Rule::E9, page, what, missing));
            // What this leaves in the TLBs is anybody's guess.
            self.stales.remove(&place);
            self.graph.store(place, level, old, new);
            return;
        }
        if valid(new) {
            self.remake(at, place, level, new, &event);
            self.made(at, place, level, old, new, &paths, &event);
        }
        if valid(old) && valid(new) && !paths.is_empty() {
            let changeable = match level {
                3 => bits::LEAF_CHANGEABLE | (new & !old & bits::NOT_GLOBAL),
                _ => bits::SOFTWARE,
            };
            let changed = (old ^ new) & !changeable;
            if changed != 0 {
                let what = format!("a valid entry changed from {old:#x} in place ({})", {
                    if changed & bits::ADDRESS != 0 {
                        "another output address"
                    } else if level < 3 {
                        "a table descriptor: the manual does not promise less for APTable alone"
                    } else {
                        "attributes that TLBs may not mix"
                    }
                });
                let missing = format!(
                    "a write of an invalid descriptor, DSB ISHST, {} and DSB ISH expected before \
                     #{}",
                    expected(level, page.as_ref()),
                    at.position
                );
                self.report(violation(Rule::E1, page, what, missing));
                self.graph.store(place, level, old, new);
                return;
            }
        }
        self.note_stale(at, place, level, old, new, &paths);
        self.graph.store(place, level, old, new);
        if valid(new) {
            self.granted(at, place, level, new, &event);
        }
    }

    /// E2: an entry is made while what it was may be cached.
    fn remake(&mut self, at: At, place: Place, level: u8, new: u64, event: &dyn Display) {
        let Some(stales) = self.stales.get_mut(&place) else {
            return;
        };
        let broken = |stale: &Stale| stale.kind == Kind::Broken;
        let Some(index) = stales.iter().position(broken) else {
            return;
        };
        let stale = stales.remove(index);
        if stales.is_empty() {
            self.stales.remove(&place);
        }
        self.forget_edge(&stale);
        let event = format_args!("{event} (making it {new:#x} again, level {level})");
        self.report_stale(at, &stale, Rule::E2, &event, 0);
    }

    /// What may still be cached of the entry's old value, and by whom.
    fn note_stale(&mut self, at: At, place: Place, level: u8, old: u64, new: u64, paths: &[Path]) {
        if !valid(old) {
            return;
        }
        let mut by_kind: BTreeMap<Kind, (&'static str, Vec<Target>)> = BTreeMap::new();
        for path in paths {
            let (kind, rights) = if !valid(new) {
                (Kind::Broken, "")
            } else if level < 3 {
                continue;
            } else {
                let before = Rights::of(old, path.read_only);
                let after = Rights::of(new, path.read_only);
                if before.exceed(after) {
                    (Kind::Tightened, before.beyond(after))
                } else if after.exceed(before) {
                    let here = self.graph.spaces[&path.root].cached & 1 << at.cpu;
                    if here == 0 {
                        continue;
                    }
                    (Kind::Relaxed, after.beyond(before))
                } else {
                    continue;
                }
            };
            let (_, targets) = by_kind.entry(kind).or_insert((rights, Vec::new()));
            targets.push(Target::new(Some(path.root), self.page(path)));
        }
        if by_kind.is_empty() {
            return;
        }
        if !valid(new)
            && level < 3
            && let Some(table) = self.graph.tables.get_mut(&bits::frame(old))
        {
            table.broken.push((place, old));
        }
        for (kind, (rights, targets)) in by_kind {
            self.stales.entry(place).or_default().push(Stale {
                place,
                level,
                old,
                kind,
                rights,
                written: at,
                targets,
            });
        }
    }

    fn forget_edge(&mut self, stale: &Stale) {
        if stale.level < 3
            && !stale.place.is_kernel()
            && let Some(table) = self.graph.tables.get_mut(&bits::frame(stale.old))
        {
            table.broken.retain(|(place, _)| *place != stale.place);
        }
    }

    fn kernel_page(&mut self, at: At, va: u64, said: u64, new: u64) {
        let place = Place::kernel(va);
        let old = self.kernel.get(&va).copied().unwrap_or(said);
        let event = format_args!("the write of {new:#x} for the kernel's page {va:#x}");
        let unmapped = !valid(new);
        self.cpu(at).kernel = Some(KernelChange {
            at,
            va,
            unmapped,
            done: false,
        });
        if valid(new) {
            self.remake(at, place, 3, new, &event);
            self.kernel.insert(va, new);
            let info = self.graph.frames.entry(bits::frame(new)).or_default();
            info.places.insert(place);
        } else {
            self.kernel.remove(&va);
        }
        if valid(old) && !valid(new) {
            if let Some(info) = self.graph.frames.get_mut(&bits::frame(old)) {
                info.places.remove(&place);
            }
            let page = Page {
                space: None,
                asid: None,
                va,
            };
            self.stales.entry(place).or_default().push(Stale {
                place,
                level: 3,
                old,
                kind: Kind::Broken,
                rights: "",
                written: at,
                targets: vec![Target::new(None, page)],
            });
        }
    }

    fn barrier(&mut self, at: At, barrier: Barrier) {
        if barrier == Barrier::Isb {
            let cpu = self.cpu(at);
            if cpu.kernel.is_some_and(|change| change.done) {
                cpu.kernel = None;
            }
            cpu.unsynchronised = None;
            if let Some((root, _)) = cpu.leaving.take() {
                self.leave(at, root);
            }
            return;
        }
        let cpu = self.cpu(at);
        cpu.barriers += 1;
        if barrier == Barrier::DmbIshst {
            cpu.unsynced.iter_mut().for_each(|made| made.ordered = true);
            return;
        }
        cpu.unsynced.clear();
        cpu.ordered = true;
        if matches!(barrier, Barrier::DsbIsh | Barrier::DsbNsh) {
            cpu.forgot.iter_mut().for_each(|forgot| forgot.done = true);
        }
        let graph = &self.graph;
        for stales in self.stales.values_mut() {
            stales
                .iter_mut()
                .for_each(|stale| stale.barrier(graph, barrier, at));
        }
        if matches!(barrier, Barrier::DsbIsh | Barrier::DsbNsh) {
            self.complete(at, barrier == Barrier::DsbIsh);
        }
        self.sweep();
        if let Some(change) = self.cpus.get(&at.cpu).and_then(|cpu| cpu.kernel) {
            let clean = !self.stales.contains_key(&Place::kernel(change.va));
            let done = change.done || !change.unmapped || clean;
            self.cpu(at).kernel = Some(KernelChange { done, ..change });
        }
    }

    /// The TLBIs of a CPU that name no page have done their work.
    fn complete(&mut self, at: At, everywhere: bool) {
        for (op, _, active) in core::mem::take(&mut self.cpu(at).issued) {
            let reach = if op.broadcast && everywhere {
                u64::MAX
            } else {
                1 << at.cpu
            };
            let roots: Vec<u64> = match op.scope {
                Scope::Asid(asid) => {
                    let roots = self.graph.by_asid.get(&asid);
                    roots.into_iter().flatten().copied().collect()
                }
                _ => self.graph.spaces.keys().copied().collect(),
            };
            for root in roots {
                let Some(space) = self.graph.spaces.get_mut(&root) else {
                    continue;
                };
                // Where it was active meanwhile, walks may have brought entries back.
                let keep = space.active | active.get(&root).copied().unwrap_or(0);
                space.cached &= !reach | keep;
            }
            self.graph.dormant.retain(|asid, cpus| {
                if op.scope == Scope::All || op.scope == Scope::Asid(*asid) {
                    *cpus &= !reach;
                }
                *cpus != 0
            });
        }
    }

    /// Drops what is clean now.
    fn sweep(&mut self) {
        if self.stales.is_empty() {
            return;
        }
        let mut edges = Vec::new();
        let graph = &self.graph;
        self.stales.retain(|_, stales| {
            stales.retain_mut(|stale| {
                stale.targets.retain(|target| {
                    let space = target.root.map(|root| graph.spaces.get(&root));
                    // The kernel's half is always cached; an address space as long as any CPU may,
                    // under the number that it has.
                    let cached = |space: &graph::Space| {
                        space.cached != 0 && target.page.asid == Some(space.asid)
                    };
                    space.is_none_or(|space| space.is_some_and(cached))
                });
                if stale.targets.is_empty() && stale.level < 3 {
                    edges.push(stale.clone());
                }
                !stale.targets.is_empty()
            });
            !stales.is_empty()
        });
        edges.iter().for_each(|stale| self.forget_edge(stale));
    }

    fn tlbi(&mut self, at: At, op: Tlbi) {
        let graph = &self.graph;
        for stales in self.stales.values_mut() {
            stales
                .iter_mut()
                .for_each(|stale| stale.tlbi(graph, op, at));
        }
        let cpu = self.cpu(at);
        let ordered = cpu.ordered;
        cpu.forgot.push(Forgot {
            op,
            at,
            ordered,
            done: false,
        });
        if let Scope::Asid(asid) = op.scope {
            self.cpu(at).last_asid = Some((asid, at));
        }
        if matches!(op.scope, Scope::Asid(_) | Scope::All) {
            let active = self.graph.spaces.iter();
            let active = active
                .filter(|(_, space)| space.active != 0)
                .map(|(&root, space)| (root, space.active))
                .collect();
            self.cpu(at).issued.push((op, at, active));
        }
    }

    fn leave(&mut self, at: At, root: u64) {
        let here = self.cpu(at).root == Some(root);
        if let Some(space) = self.graph.spaces.get_mut(&root)
            && !here
        {
            space.active &= !(1 << at.cpu);
            space.left = at.position;
        }
    }
}
