//! Frames: given back too early (E4, E5), reached before their contents are visible (E11), fetched
//! from stale instruction caches (E12).

use super::bits::{self, Rights, valid};
use super::event::{At, Contents, Page, Violation};
use super::graph::{Fetch, Path, Place};
use super::reliance::expected;
use super::rule::Rule;
use super::stale::{Kind, Stale};
use super::{Checker, Unsynced};
use crate::Scope;
use alloc::borrow::ToOwned;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;

impl Checker {
    pub(super) fn contents(&mut self, at: At, frame: u64, what: Contents) {
        let barriers = self.cpu(at).barriers;
        let info = self.graph.frames.entry(frame).or_default();
        let free = info.free == Some(true);
        match what {
            Contents::Stored => {
                info.stored = Some((at.cpu, barriers));
                info.fetch = Fetch::Dirty;
            }
            Contents::Lent => info.stored = Some((at.cpu, barriers)),
            Contents::Fetchable => info.fetch = Fetch::Clean,
        }
        if free {
            self.report(Violation {
                rule: Rule::E4,
                at,
                event: format!("a store to frame {frame:#x}"),
                page: None,
                frame: Some(frame),
                descriptor: None,
                what: "the frame is free".to_owned(),
                missing: "the frame should have been taken first".to_owned(),
            });
        }
    }

    /// An entry is about to become `new`, valid.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn made(
        &mut self,
        at: At,
        place: Place,
        level: u8,
        old: u64,
        new: u64,
        paths: &[Path],
        event: &dyn Display,
    ) {
        let frame = bits::frame(new);
        let page = match paths.first() {
            Some(path) => Some(self.page(path)),
            None => self.page_of(place),
        };
        let mut found = Vec::new();
        let mut find = |rule, what: String, missing: String| found.push((rule, what, missing));
        if level == 3 {
            if new & bits::NOT_GLOBAL == 0 {
                find(
                    Rule::E7,
                    "the leaf is global: every address space would use it, and no TLBI by ASID \
                     removes it"
                        .to_owned(),
                    "nG expected in the descriptor".to_owned(),
                );
            }
            let rights = Rights::of(new, false);
            if rights.write && rights.exec {
                find(
                    Rule::E12,
                    "the page is writable and executable".to_owned(),
                    "UXN or AP[2] expected in the descriptor".to_owned(),
                );
            }
            let gained = !valid(old) || !Rights::of(old, false).exec;
            let fetch = self.graph.frames.get(&frame).map(|info| info.fetch);
            match fetch.unwrap_or_default() {
                Fetch::Dirty if rights.exec && gained => find(
                    Rule::E12,
                    format!("the page becomes executable, and frame {frame:#x} was stored to"),
                    "instruction cache maintenance of the frame expected after the last store and \
                     before this"
                        .to_owned(),
                ),
                Fetch::Unknown if rights.exec && gained => self.counts.fetch_unknown += 1,
                _ => {}
            }
        }
        if !valid(old) {
            if !paths.is_empty()
                && let Some(what) = self.unordered(at, level, new)
            {
                let missing = format!("DMB ISHST expected between that and #{}", at.position);
                found.push((Rule::E11, what, missing));
            }
            self.cpu(at).unsynced.push(Unsynced {
                place,
                at,
                ordered: false,
                reachable: !paths.is_empty(),
            });
        }
        for (rule, what, missing) in found {
            self.report(Violation {
                rule,
                at,
                event: event.to_string(),
                page,
                frame: Some(frame),
                descriptor: Some((place.table(), place.index(), level)),
                what,
                missing,
            });
        }
    }

    /// What an entry leads to that other CPUs may see only after the entry itself.
    fn unordered(&self, at: At, level: u8, entry: u64) -> Option<String> {
        let frame = bits::frame(entry);
        let cpu = self.cpus.get(&at.cpu)?;
        let stored = self.graph.frames.get(&frame).and_then(|info| info.stored);
        if stored == Some((at.cpu, cpu.barriers)) {
            let what = if level == 3 { "frame" } else { "table" };
            return Some(format!(
                "the contents of {what} {frame:#x} may become visible after the descriptor"
            ));
        }
        if level == 3 {
            return None;
        }
        let early = |made: &&Unsynced| !made.ordered && made.place.table() == frame;
        if let Some(made) = cpu.unsynced.iter().find(early) {
            return Some(format!(
                "the entry of table {frame:#x} written at #{} may become visible after the \
                 descriptor",
                made.at.position
            ));
        }
        let table = self.graph.tables.get(&frame)?;
        let mut below = table.entries.values().filter(|value| valid(**value));
        below.find_map(|&value| self.unordered(at, level + 1, value))
    }

    pub(super) fn frame(&mut self, at: At, frame: u64, freed: bool) {
        let known = self.graph.frames.get(&frame).and_then(|info| info.free);
        if known == Some(freed) {
            let (event, what) = if freed {
                (
                    "given back",
                    "it was given back before, and not taken since",
                )
            } else {
                ("taken", "it was taken before, and not given back since")
            };
            self.report(Violation {
                rule: Rule::E4,
                at,
                event: format!("frame {frame:#x} is {event}"),
                page: None,
                frame: Some(frame),
                descriptor: None,
                what: what.to_owned(),
                missing: "one owner at a time".to_owned(),
            });
        } else if freed {
            self.freed(at, frame);
        }
        self.graph.reset(frame, freed);
    }

    fn freed(&mut self, at: At, frame: u64) {
        let unmapped = |cpu: &super::Cpu| cpu.kernel.is_some_and(|change| change.unmapped);
        if self.cpus.get(&at.cpu).is_some_and(unmapped) {
            self.kernel_in_effect(at, &format_args!("frame {frame:#x} is given back"));
        }
        let table = self.graph.tables.contains_key(&frame);
        let (rule, event) = if table {
            (Rule::E5, format!("table {frame:#x} is given back"))
        } else {
            (Rule::E4, format!("frame {frame:#x} is given back"))
        };
        for stale in
            self.take_stale(|stale| stale.kind == Kind::Broken && bits::frame(stale.old) == frame)
        {
            self.report_stale(at, &stale, rule, &event, 0);
        }
        // By entries that are still valid, its own as a root among them.
        let mut paths: Vec<(Path, u8, Option<Place>)> = Vec::new();
        if table {
            let level = self.graph.tables[&frame].level;
            let cached = self.graph.cached_paths(frame);
            paths.extend(cached.into_iter().map(|path| (path, level - 1, None)));
        }
        let places = self.graph.frames.get(&frame).map(|info| &info.places);
        let places: Vec<Place> = places.into_iter().flatten().copied().collect();
        for place in places {
            if place.is_kernel() {
                self.still_mapped_by_kernel(at, frame, place, &event);
                continue;
            }
            for mut path in self.graph.cached_paths(place.table()) {
                path.va |= u64::from(place.index()) << 12;
                paths.push((path, 3, Some(place)));
            }
        }
        for (path, level, place) in paths {
            if let Some(via) = path.via {
                for stale in self.take_stale(|stale| stale.place == via) {
                    self.report_stale(at, &stale, rule, &event, 0);
                }
            } else {
                self.still_cached(at, frame, &path, level, place, rule, &event);
            }
        }
    }

    fn take_stale(&mut self, mut wanted: impl FnMut(&Stale) -> bool) -> Vec<Stale> {
        let mut taken = Vec::new();
        self.stales.retain(|_, stales| {
            stales.retain(|stale| {
                let take = wanted(stale);
                if take {
                    taken.push(stale.clone());
                }
                !take
            });
            !stales.is_empty()
        });
        taken.iter().for_each(|stale| self.forget_edge(stale));
        taken
    }

    fn still_mapped_by_kernel(&mut self, at: At, frame: u64, place: Place, event: &dyn Display) {
        let va = place.va();
        let page = Page {
            space: None,
            asid: None,
            va,
        };
        self.report(Violation {
            rule: Rule::E4,
            at,
            event: event.to_string(),
            page: Some(page),
            frame: Some(frame),
            descriptor: None,
            what: "the kernel still maps it".to_owned(),
            missing: format!(
                "a write of an invalid descriptor, DSB ISHST, {} and DSB ISH expected before #{}",
                expected(3, Some(&page)),
                at.position
            ),
        });
    }

    /// A frame goes, and the entries that lead to it are all valid: its address space should have
    /// been forgotten as a whole.
    #[allow(clippy::too_many_arguments)]
    fn still_cached(
        &mut self,
        at: At,
        frame: u64,
        path: &Path,
        level: u8,
        place: Option<Place>,
        rule: Rule,
        event: &dyn Display,
    ) {
        let page = self.page(path);
        let Some(space) = self.graph.spaces.get_mut(&path.root) else {
            return;
        };
        if space.cached == 0 {
            return;
        }
        let (asid, left, active) = (space.asid, space.left, space.active);
        // One report for all the frames of an address space.
        space.cached = 0;
        let cpu = self.cpus.entry(at.cpu).or_default();
        let issued = cpu.issued.iter().find(|(op, ..)| match op.scope {
            Scope::Asid(of) => of == asid,
            _ => true,
        });
        let other = cpu
            .last_asid
            .filter(|(of, other)| *of != asid && other.position > left);
        let mut what = "its entry is valid, and TLBs may still hold it".to_owned();
        let mut missing = format!(
            "DSB ISHST, TLBI ASIDE1IS for ASID {asid} and DSB ISH (or the entry broken and \
             invalidated) expected before #{}",
            at.position
        );
        let rule = if active != 0 {
            what = "its entry is valid, and a CPU has the address space in TTBR0".to_owned();
            rule
        } else if let Some((op, tlbi, _)) = issued {
            let word = if op.broadcast { "" } else { " of the IS form" };
            missing = format!(
                "DSB ISH expected between the TLBI{word} at #{} and #{}",
                tlbi.position, at.position
            );
            if op.broadcast { Rule::E10 } else { Rule::E8 }
        } else if let Some((of, tlbi)) = other {
            missing = format!(
                "{missing} (the TLBI at #{} is for ASID {of})",
                tlbi.position
            );
            Rule::E6
        } else {
            rule
        };
        self.report(Violation {
            rule,
            at,
            event: event.to_string(),
            page: Some(page),
            frame: Some(frame),
            descriptor: place.map(|place| (place.table(), place.index(), level)),
            what,
            missing,
        });
    }
}
