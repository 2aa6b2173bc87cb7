//! Who relies on a change, and what is said when it is too early.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;

use super::bits;
use super::event::{At, Operation, Page, Violation};
use super::graph::Place;
use super::rule::Rule;
use super::stale::{Kind, Stale, Step};
use super::{Checker, Forgot, Unsynced};
use crate::Scope;

impl Checker {
    /// The CPU's own changes whose effect is not certain yet, when somebody relies on them.
    pub(super) fn rely(&mut self, at: At, event: &dyn Display) {
        let mut pending: BTreeMap<(Kind, bool), (Stale, u64)> = BTreeMap::new();
        let mut edges = Vec::new();
        if !self.stales.is_empty() {
            self.stales.retain(|_, stales| {
                stales.retain(|stale| {
                    if stale.written.cpu != at.cpu {
                        return true;
                    }
                    if stale.level < 3 {
                        edges.push(stale.clone());
                    }
                    let key = (stale.kind, stale.place.is_kernel());
                    let entry = pending.entry(key);
                    let (_, count) = entry.or_insert_with(|| (stale.clone(), 0));
                    *count += 1;
                    false
                });
                !stales.is_empty()
            });
        }
        edges.iter().for_each(|stale| self.forget_edge(stale));
        for (stale, count) in pending.into_values() {
            self.report_stale(at, &stale, Rule::E3, event, count - 1);
        }
        let made = core::mem::take(&mut self.cpu(at).unsynced);
        // A walk that does not find an empty table yet faults as one does that finds it; and who makes
        // a leaf there has seen it, and completes both.
        let needed = |made: &&Unsynced| made.reachable && !self.leads_nowhere(made.place);
        let mut reachable = made.iter().filter(needed);
        if let Some(first) = reachable.next() {
            let more = reachable.count();
            let page = self.page_of(first.place);
            let what = format!(
                "the descriptor made valid at #{} may not be visible to the walker yet{}",
                first.at.position,
                and_more(more as u64)
            );
            let missing = format!(
                "DSB ISHST expected between the write at #{} and #{}",
                first.at.position, at.position
            );
            let level = self.graph.tables.get(&first.place.table());
            let level = level.map_or(3, |table| table.level);
            let kernel = first.place.is_kernel();
            let descriptor = (first.place.table(), first.place.index(), level);
            self.report(Violation {
                rule: Rule::E11,
                at,
                event: event.to_string(),
                page,
                frame: None,
                descriptor: (!kernel).then_some(descriptor),
                what,
                missing,
            });
        }
    }

    /// An entry that leads to a table with no leaf below it.
    fn leads_nowhere(&self, place: Place) -> bool {
        let table = self.graph.tables.get(&place.table());
        let level = table.map_or(3, |table| table.level);
        let entry = self.graph.entry(place).unwrap_or(0);
        level < 3 && self.has_no_leaf(bits::frame(entry))
    }

    fn has_no_leaf(&self, table: u64) -> bool {
        self.graph.tables.get(&table).is_none_or(|table| {
            let mut valid = table.entries.values().filter(|entry| bits::valid(**entry));
            valid.all(|entry| table.level < 3 && self.has_no_leaf(bits::frame(*entry)))
        })
    }

    /// The kernel goes on: what it mapped or unmapped for itself must be in effect, without an exception
    /// return to help.
    pub(super) fn kernel_in_effect(&mut self, at: At, event: &dyn Display) {
        let Some(change) = self.cpu(at).kernel else {
            return;
        };
        // Without its TLBI there is a reliance of another kind.
        if change.unmapped && !change.done {
            return;
        }
        self.cpu(at).kernel = None;
        let (what, missing) = match (change.unmapped, change.done) {
            (true, _) => ("unmapped", "ISB"),
            (false, true) => ("mapped", "ISB"),
            (false, false) => ("mapped", "DSB ISHST and ISB"),
        };
        self.report(Violation {
            rule: Rule::E11,
            at,
            event: event.to_string(),
            page: Some(Page {
                space: None,
                asid: None,
                va: change.va,
            }),
            frame: None,
            descriptor: None,
            what: format!(
                "the kernel's page {what} at #{} may not be so yet on this CPU",
                change.at.position
            ),
            missing: format!(
                "{missing} expected between #{} and #{}",
                change.at.position, at.position
            ),
        });
    }

    pub(super) fn page_of(&self, place: Place) -> Option<Page> {
        let level = self.graph.tables.get(&place.table())?.level;
        let paths = self.graph.paths(place.table(), true);
        let mut path = *paths.first()?;
        path.va |= u64::from(place.index()) << bits::shift(level);
        Some(self.page(&path))
    }

    pub(super) fn done(&mut self, at: At, operation: Operation) {
        let event = operation;
        self.rely(at, &event);
        if let Some(write) = self.cpu(at).unsynchronised.take() {
            if let Some((root, _)) = self.cpu(at).leaving.take() {
                self.leave(at, root);
            }
            self.report(Violation {
                rule: Rule::E11,
                at,
                event: event.to_string(),
                page: None,
                frame: None,
                descriptor: None,
                what: format!(
                    "the TTBR0_EL1 written at #{} may not be in effect yet",
                    write.position
                ),
                missing: format!("ISB expected after #{}", write.position),
            });
        }
        let forgot = core::mem::take(&mut self.cpu(at).forgot);
        self.cpu(at).ordered = false;
        if let Operation::Fault { va, spurious: true } = operation {
            self.spurious(at, va & !0xfff, &forgot);
        }
        self.check_grown(at, operation);
    }

    /// A fault of a page that the tables allow: this CPU caches something narrower, perhaps an entry
    /// of a table, and will again unless it was told to forget.
    fn spurious(&mut self, at: At, va: u64, forgot: &[Forgot]) {
        let Some((root, space)) = self.cpu(at).root.and_then(|root| {
            let space = self.graph.spaces.get(&root)?;
            Some((root, space))
        }) else {
            return;
        };
        let (asid, serial) = (space.asid, space.serial);
        let mut hits = forgot.iter().filter(|forgot| match forgot.op.scope {
            Scope::All => true,
            Scope::Asid(of) => of == asid,
            Scope::Page { va: page, asid: of } => {
                page & !0xfff == va && of.is_none_or(|of| of == asid)
            }
            Scope::Leaf { .. } => false,
        });
        let (rule, missing) = match hits.next_back() {
            Some(hit) if !hit.done => (
                Rule::E10,
                format!(
                    "DSB NSH expected between the TLBI at #{} and #{}",
                    hit.at.position, at.position
                ),
            ),
            Some(hit) if !hit.ordered => (
                Rule::E10,
                format!(
                    "DSB NSH expected before the TLBI at #{}, which may act before the tables were \
                     read",
                    hit.at.position
                ),
            ),
            Some(_) => return,
            None => (
                Rule::E6,
                format!(
                    "TLBI VAE1 for VA {va:#x}, ASID {asid} and DSB NSH expected before #{}",
                    at.position
                ),
            ),
        };
        self.report(Violation {
            rule,
            at,
            event: format!("the return from the fault at {va:#x}"),
            page: Some(Page {
                space: serial,
                asid: Some(asid),
                va,
            }),
            frame: None,
            descriptor: None,
            what: format!(
                "the tables (root {root:#x}) allow the access, so that this CPU has cached something \
                 that does not: it may fault again"
            ),
            missing,
        });
    }

    /// A change that somebody relies on although it may not have reached all TLBs.
    pub(super) fn report_stale(
        &mut self,
        at: At,
        stale: &Stale,
        base: Rule,
        event: &dyn Display,
        more: u64,
    ) {
        let Some(target) = stale.targets.first() else {
            return;
        };
        let (page, written) = (target.page, stale.written.position);
        let what = match stale.kind {
            Kind::Broken if stale.level < 3 => {
                format!("the table entry broken at #{written} may still be cached")
            }
            Kind::Broken => format!("the entry broken at #{written} may still be cached"),
            Kind::Tightened => format!(
                "the entry that lost the right {} at #{written} may still be cached with it",
                stale.rights
            ),
            Kind::Relaxed => format!(
                "the entry that gained the right {} at #{written} may still be cached without \
                 it on this CPU: the access may fault again",
                stale.rights
            ),
        };
        let what = what + &and_more(more);
        let local = stale.kind == Kind::Relaxed;
        let tlbi = expected(stale.level, Some(&page));
        let tlbi = if local {
            tlbi.replace("IS ", " ")
        } else {
            tlbi
        };
        let (dsb, end) = if local {
            ("DSB NSHST", "DSB NSH")
        } else {
            ("DSB ISHST", "DSB ISH")
        };
        let base = if local { Rule::E6 } else { base };
        let (rule, missing) = match target.step {
            Step::Written => (
                base,
                format!("{dsb}, {tlbi} and {end} expected between the write at #{written}"),
            ),
            Step::Stored { .. } => (
                base,
                format!("{tlbi} and {end} expected between the write at #{written}"),
            ),
            Step::Issued { at: tlbi, .. } => (
                Rule::E10,
                format!("{end} expected between the TLBI at #{}", tlbi.position),
            ),
        };
        let mut missing = format!("{missing} and #{}", at.position);
        let rule = match &target.near {
            // A leaf-only TLBI before a table goes is what E5 is about.
            Some(near) if !(base == Rule::E5 && near.rule == Rule::E6) => near.rule,
            _ => rule,
        };
        if let Some(near) = &target.near {
            missing = format!("{missing} ({})", near.text);
        }
        let kernel = stale.place.is_kernel();
        let descriptor = (stale.place.table(), stale.place.index(), stale.level);
        self.report(Violation {
            rule,
            at,
            event: event.to_string(),
            page: Some(page),
            frame: Some(bits::frame(stale.old)),
            descriptor: (!kernel).then_some(descriptor),
            what,
            missing,
        });
    }
}

/// The TLBI that an entry needs.
pub(super) fn expected(level: u8, page: Option<&Page>) -> String {
    match page {
        Some(Page { asid: None, va, .. }) => format!("TLBI VAAE1IS for VA {va:#x}"),
        Some(Page {
            asid: Some(asid), ..
        }) if level < 3 => format!("TLBI ASIDE1IS for ASID {asid}"),
        Some(Page {
            asid: Some(asid),
            va,
            ..
        }) => format!("TLBI VALE1IS for VA {va:#x}, ASID {asid}"),
        None => "TLBI".to_owned(),
    }
}

pub(super) fn and_more(more: u64) -> String {
    match more {
        0 => String::new(),
        1 => " (and one more)".to_owned(),
        more => format!(" (and {more} more)"),
    }
}
