//! Who owns what: ASIDs (E7), frames of private memory (E13), reference counts (E14).

use super::Checker;
use super::bits::{self, valid};
use super::event::{At, Operation, Violation};
use super::graph::{Fetch, Place};
use super::rule::Rule;
use alloc::borrow::ToOwned;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::fmt::Display;

impl Checker {
    pub(super) fn space_new(&mut self, space: u32, root: u64, asid: u16) {
        self.graph.register(root, asid, Some(space));
    }

    pub(super) fn space_end(&mut self, at: At, space: u32) {
        let Some(&root) = self.graph.by_serial.get(&space) else {
            // Its root table has gone back, which ended it.
            return;
        };
        self.done(at, Operation::End);
        self.graph.unregister(root);
    }

    /// E7: what this CPU may still hold under the ASID that it is to run with, or others run with.
    /// That another address space merely has the number is no harm: it may be of an older generation.
    fn asid_used(&mut self, at: At, root: u64, asid: u16, event: &dyn Display) {
        let cpu = at.cpu;
        let mut found = Vec::new();
        for other in self.graph.by_asid.get(&asid).into_iter().flatten() {
            let space = &self.graph.spaces[other];
            let name = match space.serial {
                Some(serial) => format!("space {serial}"),
                None => format!("the address space with root {other:#x}"),
            };
            if *other == root {
                continue;
            } else if space.cached & 1 << cpu != 0 {
                found.push(format!(
                    "entries of {name} may still be cached under ASID {asid} on CPU {cpu}"
                ));
            } else if space.active != 0 {
                found.push(format!("{name} runs with ASID {asid}"));
            }
        }
        if self.graph.dormant.get(&asid).copied().unwrap_or(0) & 1 << cpu != 0 {
            found.push(format!(
                "entries of an address space that had ASID {asid} may still be cached on CPU {cpu}"
            ));
        }
        for what in found {
            self.report(Violation {
                rule: Rule::E7,
                at,
                event: event.to_string(),
                page: None,
                frame: Some(root),
                descriptor: None,
                what,
                missing: format!(
                    "TLBI ASIDE1IS for ASID {asid} at the end of the other, or TLBI VMALLE1 on \
                     this CPU when the numbers are handed out anew, and DSB ISH expected before \
                     #{}",
                    at.position
                ),
            });
        }
    }

    pub(super) fn ttbr0(&mut self, at: At, value: u64) {
        let (root, asid) = (bits::frame(value), (value >> 48) as u16);
        let next = (asid != 0).then_some(root);
        let event = format_args!("the write of TTBR0_EL1 (ASID {asid}, root {root:#x})");
        if next.is_some() {
            self.asid_used(at, root, asid, &event);
            self.graph.register(root, asid, None);
            self.sweep();
            self.published(at, root, &event);
            if let Some(space) = self.graph.spaces.get_mut(&root) {
                space.cached |= 1 << at.cpu;
                space.active |= 1 << at.cpu;
            }
        }
        let cpu = self.cpu(at);
        cpu.unsynchronised = Some(at);
        let before = core::mem::replace(&mut cpu.root, next);
        let leaving = before.filter(|before| Some(*before) != next);
        let older = match leaving {
            Some(before) => cpu.leaving.replace((before, at)),
            None => None,
        };
        if let Some((root, _)) = older {
            self.leave(at, root);
        }
    }

    /// E11: the tables of a root that a CPU begins to use are visible to walkers.
    fn published(&mut self, at: At, root: u64, event: &dyn Display) {
        let unsynced = &self.cpu(at).unsynced;
        let made: Vec<(Place, At)> = unsynced.iter().map(|m| (m.place, m.at)).collect();
        let below = |place: &Place| {
            let paths = self.graph.paths(place.table(), false);
            paths.iter().any(|path| path.root == root)
        };
        let Some(&(place, written)) = made.iter().find(|(place, _)| below(place)) else {
            return;
        };
        let page = self.page_of(place);
        let table = self.graph.tables.get(&place.table());
        let level = table.map_or(3, |table| table.level);
        self.cpu(at).unsynced.clear();
        self.report(Violation {
            rule: Rule::E11,
            at,
            event: event.to_string(),
            page,
            frame: Some(root),
            descriptor: Some((place.table(), place.index(), level)),
            what: format!(
                "the descriptor written at #{} may not be visible to the walker yet",
                written.position
            ),
            missing: format!(
                "DSB ISHST expected between the write at #{} and #{}",
                written.position, at.position
            ),
        });
    }

    /// An entry is valid now: may what it leads to be written?
    pub(super) fn granted(
        &mut self,
        at: At,
        place: Place,
        level: u8,
        new: u64,
        event: &dyn Display,
    ) {
        let frame = bits::frame(new);
        if level == 3 {
            if new & (bits::EL0 | bits::READ_ONLY) == bits::EL0
                && let Some(info) = self.graph.frames.get_mut(&frame)
            {
                info.fetch = match info.fetch {
                    Fetch::Clean | Fetch::Written if new & bits::SHARED != 0 => Fetch::Written,
                    _ => Fetch::Dirty,
                };
            }
            let live = self.graph.tables.get(&place.table());
            if bits::private_writable(new) && live.is_some_and(|table| table.live > 0) {
                self.exclusive(at, frame, event);
            }
        } else if level == 2 && new & bits::TABLE_READ_ONLY == 0 {
            self.exclusive_below(at, frame, event);
        }
    }

    fn exclusive_below(&mut self, at: At, table: u64, event: &dyn Display) {
        let Some(info) = self.graph.tables.get(&table) else {
            return;
        };
        if info.live == 0 || info.open == 0 {
            return;
        }
        let entries = info.entries.values();
        let writable: Vec<u64> = entries
            .filter(|entry| bits::private_writable(**entry))
            .map(|entry| bits::frame(*entry))
            .collect();
        for frame in writable {
            self.exclusive(at, frame, event);
        }
    }

    /// E13: if a private page may write the frame, nobody else maps it.
    fn exclusive(&mut self, at: At, frame: u64, event: &dyn Display) {
        if self.cpus.len() > 1 {
            return;
        }
        let Some(info) = self.graph.frames.get(&frame) else {
            return;
        };
        if info.writable == 0 {
            return;
        }
        let live = info.live;
        let mut found = None;
        for &place in &info.places {
            let Some(table) = self.graph.tables.get(&place.table()) else {
                continue;
            };
            let entry = table.entries.get(&place.index()).copied().unwrap_or(0);
            if table.live == 0 || table.open == 0 || !bits::private_writable(entry) {
                continue;
            }
            if entry & bits::ANON == 0 {
                let what = "the frame belongs to a file's cache, or is the zero page".to_owned();
                found = Some((place, what));
            } else if table.live > 1 {
                let what = format!(
                    "{} entries lead to its table, and one of them does not forbid writing",
                    table.live
                );
                found = Some((place, what));
            } else if live > 1 {
                found = Some((place, format!("{live} leaves map its frame")));
            }
            if found.is_some() {
                break;
            }
        }
        let Some((place, what)) = found else {
            return;
        };
        let page = self.page_of(place);
        self.report(Violation {
            rule: Rule::E13,
            at,
            event: event.to_string(),
            page,
            frame: Some(frame),
            descriptor: Some((place.table(), place.index(), 3)),
            what: format!("a private page is writable, but {what}"),
            missing: "a copy, or the right to write taken away, expected before".to_owned(),
        });
    }

    /// What has more owners since the last operation.
    pub(super) fn check_grown(&mut self, at: At, operation: Operation) {
        let grown = core::mem::take(&mut self.graph.grown);
        for frame in grown {
            let event = operation;
            if self.graph.tables.contains_key(&frame) {
                self.exclusive_below(at, frame, &event);
            } else {
                self.exclusive(at, frame, &event);
            }
        }
    }

    pub(super) fn references(&mut self, at: At, frame: u64, count: u32) {
        let info = self.graph.frames.get(&frame);
        // After a loss there may be address spaces that the stream has not named.
        let whole = self.counts.losses == 0 && self.cpus.len() == 1;
        let info = info.filter(|info| info.free == Some(false) && whole);
        let leaf = info.and_then(|info| {
            let mut places = info.places.iter();
            places.find_map(|&place| self.graph.entry(place).filter(|entry| valid(*entry)))
        });
        let (Some(info), Some(leaf)) = (info, leaf) else {
            self.counts.references_unknown += 1;
            return;
        };
        if leaf & bits::SPECIAL != 0 {
            return;
        }
        self.counts.references += 1;
        // A cache holds its frames itself.
        let expected = info.live + u32::from(leaf & bits::ANON == 0);
        if expected == count {
            return;
        }
        let place = info.places.first().copied();
        let page = place.and_then(|place| self.page_of(place));
        self.report(Violation {
            rule: Rule::E14,
            at,
            event: format!("the kernel counts {count} references to frame {frame:#x}"),
            page,
            frame: Some(frame),
            descriptor: None,
            what: format!("the descriptors written so far make it {expected}"),
            missing: format!("a count of {expected} expected"),
        });
    }
}
