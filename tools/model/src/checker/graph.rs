//! Tables, the frames they map and the address spaces that reach them, as the stream tells.
//!
//! Its size is that of the live tables, and one small record per frame that the stream has named.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::bits::{self, TABLE_READ_ONLY};

/// The place of a descriptor: an entry of a table, or a page of the kernel's half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(u64);

impl Place {
    const KERNEL: u64 = 1 << 63;

    pub fn new(table: u64, index: u16) -> Place {
        Place((table & (u64::MAX >> 11)) << 9 | u64::from(index & 511))
    }

    pub fn kernel(va: u64) -> Place {
        Place(Self::KERNEL | va >> 12)
    }

    pub fn is_kernel(self) -> bool {
        self.0 & Self::KERNEL != 0
    }

    /// Of a page of the kernel's.
    pub fn va(self) -> u64 {
        self.0 << 12
    }

    pub fn table(self) -> u64 {
        self.0 >> 9
    }

    pub fn index(self) -> u16 {
        (self.0 & 511) as u16
    }
}

/// A translation table.
#[derive(Debug)]
pub struct Table {
    pub level: u8,
    /// Entries that were never written are known to be 0.
    pub whole: bool,
    /// By index; those that are 0 or unknown are left out.
    pub entries: BTreeMap<u16, u64>,
    /// Valid entries that lead here.
    pub parents: BTreeSet<Place>,
    /// Entries that led here and may still be cached, with what they were.
    pub broken: Vec<(Place, u64)>,
    /// Parents in live tables; a root has one for its address space.
    pub live: u32,
    /// Those of them that do not forbid writing.
    pub open: u32,
}

/// What instruction fetches see of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fetch {
    /// The frame was in use before the stream began.
    #[default]
    Unknown,
    /// Perhaps not what is in memory.
    Dirty,
    /// What is in memory.
    Clean,
    /// What was in memory before programs stored to it through a MAP_SHARED mapping: to make that
    /// visible is for them, as it is for who has mapped it elsewhere before.
    Written,
}

/// A frame.
#[derive(Debug, Default)]
pub struct Frame {
    /// `None`: the stream has not said.
    pub free: Option<bool>,
    /// The CPU that stored its contents, and the store barriers it had executed before.
    pub stored: Option<(u8, u64)>,
    pub fetch: Fetch,
    /// Valid leaves that map it.
    pub places: BTreeSet<Place>,
    /// Those in live tables.
    pub live: u32,
    /// Those that are private and writable by themselves.
    pub writable: u32,
}

/// An address space, known by its root table.
#[derive(Debug)]
pub struct Space {
    pub serial: Option<u32>,
    pub asid: u16,
    /// CPUs that may cache its translations.
    pub cached: u64,
    /// CPUs that have it in TTBR0.
    pub active: u64,
    /// Position of the event by which a CPU last left it.
    pub left: u64,
}

/// A way from a root to a table.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    pub root: u64,
    /// Where the table's first page is mapped.
    pub va: u64,
    /// An entry on the way forbids writing.
    pub read_only: bool,
    /// The broken entry that it goes through, if any.
    pub via: Option<Place>,
}

#[derive(Debug, Default)]
pub struct Graph {
    pub tables: BTreeMap<u64, Table>,
    pub frames: BTreeMap<u64, Frame>,
    pub spaces: BTreeMap<u64, Space>,
    pub by_asid: BTreeMap<u16, BTreeSet<u64>>,
    pub by_serial: BTreeMap<u32, u64>,
    /// By ASID, the CPUs that may hold entries of address spaces that have another number by now. They
    /// do no harm until the number is used there again.
    pub dormant: BTreeMap<u16, u64>,
    /// Frames and tables that have more owners than before.
    pub grown: Vec<u64>,
}

impl Graph {
    /// The value of an entry, if it is known.
    pub fn entry(&self, place: Place) -> Option<u64> {
        let table = self.tables.get(&place.table())?;
        let entry = table.entries.get(&place.index()).copied();
        entry.or_else(|| table.whole.then_some(0))
    }

    fn table_mut(&mut self, table: u64, level: u8) -> &mut Table {
        let frames = &self.frames;
        self.tables.entry(table).or_insert_with(|| Table {
            level,
            whole: frames.get(&table).is_some_and(|f| f.free == Some(false)),
            entries: BTreeMap::new(),
            parents: BTreeSet::new(),
            broken: Vec::new(),
            live: 0,
            open: 0,
        })
    }

    /// Stores an entry; `old` is what it was.
    pub fn store(&mut self, place: Place, level: u8, old: u64, new: u64) {
        let table = self.table_mut(place.table(), level);
        let live = table.live > 0;
        if new == 0 && table.whole {
            table.entries.remove(&place.index());
        } else {
            table.entries.insert(place.index(), new);
        }
        if bits::valid(old) {
            self.unlink(place, level, old);
        }
        if bits::valid(new) {
            self.link(place, level, new, live);
        }
    }

    fn link(&mut self, place: Place, level: u8, value: u64, live: bool) {
        let child = bits::frame(value);
        if level < 3 {
            let table = self.table_mut(child, level + 1);
            table.parents.insert(place);
            if live {
                self.enliven(child, value);
            }
        } else {
            let frame = self.frames.entry(child).or_default();
            frame.places.insert(place);
            frame.writable += u32::from(bits::private_writable(value));
            if live {
                self.count(child);
            }
        }
    }

    /// One more live leaf for a frame.
    fn count(&mut self, frame: u64) {
        let info = self.frames.entry(frame).or_default();
        info.live += 1;
        if info.live > 1 && info.writable > 0 {
            self.grown.push(frame);
        }
    }

    /// One more live parent, with the entry `value`.
    fn enliven(&mut self, child: u64, value: u64) {
        let Some(table) = self.tables.get_mut(&child) else {
            return;
        };
        table.live += 1;
        table.open += u32::from(value & TABLE_READ_ONLY == 0);
        if table.live > 1 {
            self.grown.push(child);
            return;
        }
        let level = table.level;
        let below: Vec<u64> = table.entries.values().copied().collect();
        for value in below.into_iter().filter(|value| bits::valid(*value)) {
            if level < 3 {
                self.enliven(bits::frame(value), value);
            } else {
                self.count(bits::frame(value));
            }
        }
    }

    fn unlink(&mut self, place: Place, level: u8, value: u64) {
        let child = bits::frame(value);
        let live = self.tables.get(&place.table()).is_some_and(|t| t.live > 0);
        if level < 3 {
            let linked = self.tables.get_mut(&child);
            if linked.is_some_and(|table| table.parents.remove(&place)) && live {
                self.deaden(child, value);
            }
        } else if let Some(frame) = self.frames.get_mut(&child)
            && frame.places.remove(&place)
        {
            frame.writable -= u32::from(bits::private_writable(value));
            frame.live = frame.live.saturating_sub(u32::from(live));
        }
    }

    fn deaden(&mut self, child: u64, value: u64) {
        let Some(table) = self.tables.get_mut(&child) else {
            return;
        };
        table.live = table.live.saturating_sub(1);
        let open = u32::from(value & TABLE_READ_ONLY == 0);
        table.open = table.open.saturating_sub(open);
        if table.live > 0 {
            return;
        }
        let level = table.level;
        let below: Vec<(Place, u64)> = table
            .entries
            .iter()
            .map(|(&index, &value)| (Place::new(child, index), value))
            .collect();
        for (place, value) in below.into_iter().filter(|(_, value)| bits::valid(*value)) {
            let below = bits::frame(value);
            if level < 3 {
                let linked = self.tables.get(&below);
                if linked.is_some_and(|table| table.parents.contains(&place)) {
                    self.deaden(below, value);
                }
            } else if let Some(frame) = self.frames.get_mut(&below)
                && frame.places.contains(&place)
            {
                frame.live = frame.live.saturating_sub(1);
            }
        }
    }

    /// An address space with this root.
    pub fn register(&mut self, root: u64, asid: u16, serial: Option<u32>) {
        if let Some(space) = self.spaces.get_mut(&root) {
            let old = core::mem::replace(&mut space.asid, asid);
            if old != asid {
                let cached = core::mem::take(&mut space.cached);
                if cached != 0 {
                    *self.dormant.entry(old).or_default() |= cached;
                }
                self.forget_asid(root, old);
                self.by_asid.entry(asid).or_default().insert(root);
            }
            if let Some(serial) = serial {
                self.by_serial.insert(serial, root);
                if let Some(space) = self.spaces.get_mut(&root) {
                    space.serial = Some(serial);
                }
            }
            return;
        }
        self.table_mut(root, 1);
        let space = Space {
            serial,
            asid,
            cached: 0,
            active: 0,
            left: 0,
        };
        self.spaces.insert(root, space);
        if let Some(serial) = serial {
            self.by_serial.insert(serial, root);
        }
        self.by_asid.entry(asid).or_default().insert(root);
        self.enliven(root, 0);
    }

    pub fn unregister(&mut self, root: u64) {
        let Some(space) = self.spaces.remove(&root) else {
            return;
        };
        if let Some(serial) = space.serial {
            self.by_serial.remove(&serial);
        }
        self.forget_asid(root, space.asid);
        self.deaden(root, 0);
    }

    fn forget_asid(&mut self, root: u64, asid: u16) {
        if let Some(roots) = self.by_asid.get_mut(&asid) {
            roots.remove(&root);
            if roots.is_empty() {
                self.by_asid.remove(&asid);
            }
        }
    }

    /// A frame leaves the allocator or comes back: what it was as a table is over.
    pub fn reset(&mut self, frame: u64, freed: bool) {
        self.unregister(frame);
        if let Some(table) = self.tables.get(&frame) {
            let level = table.level;
            let entries: Vec<(u16, u64)> = table.entries.iter().map(|(&i, &v)| (i, v)).collect();
            for (index, value) in entries.into_iter().filter(|(_, v)| bits::valid(*v)) {
                self.unlink(Place::new(frame, index), level, value);
            }
            self.tables.remove(&frame);
        }
        let info = self.frames.entry(frame).or_default();
        *info = Frame {
            free: Some(freed),
            fetch: Fetch::Dirty,
            ..Frame::default()
        };
    }

    /// All ways from roots to a table; `broken`: also by entries that may still be cached.
    pub fn paths(&self, table: u64, broken: bool) -> Vec<Path> {
        let mut paths = Vec::new();
        let here = Path {
            root: table,
            va: 0,
            read_only: false,
            via: None,
        };
        self.climb(here, broken, 0, &mut paths);
        paths
    }

    fn climb(&self, here: Path, broken: bool, depth: u8, paths: &mut Vec<Path>) {
        if self.spaces.contains_key(&here.root) {
            paths.push(here);
        }
        let Some(table) = self.tables.get(&here.root) else {
            return;
        };
        if depth == 3 {
            return;
        }
        let valid = table.parents.iter().map(|&place| (place, None));
        let gone = table.broken.iter().map(|&(place, old)| (place, Some(old)));
        for (place, old) in valid.chain(gone.filter(|_| broken)) {
            let Some(parent) = self.tables.get(&place.table()) else {
                continue;
            };
            let entry = old.or_else(|| parent.entries.get(&place.index()).copied());
            let next = Path {
                root: place.table(),
                va: here.va | u64::from(place.index()) << bits::shift(parent.level),
                read_only: here.read_only || entry.is_some_and(|e| e & TABLE_READ_ONLY != 0),
                via: here.via.or(old.map(|_| place)),
            };
            self.climb(next, broken, depth + 1, paths);
        }
    }

    /// The ways by which some TLB or walk cache may hold translations of a table.
    pub fn cached_paths(&self, table: u64) -> Vec<Path> {
        let mut paths = self.paths(table, true);
        paths.retain(|path| self.spaces[&path.root].cached != 0);
        paths
    }
}
