//! Address spaces that programs on several CPUs use, and the accounts at the end.

use crate::descriptor::{Leaf, Table};
use crate::lock::{Rank, RwLock};
use crate::machine::{FIRST, Machine};
use crate::sync::be_cpu;
use crate::tables::L3_SPAN;
use crate::{
    Access, AddressSpace, Backing, ForkMode, Frame, FrameMeta, Frames, Mapping, Memory, Mmu,
    PAGE_SIZE, PageCache, Prot, Region, Request, Root,
};
use shuttle::thread::{self, JoinHandle};
use std::collections::{BTreeMap, BTreeSet};
use std::mem::ManuallyDrop;
use std::sync::Arc;

/// Where the programs have their memory: a level 3 table of its own.
pub const BASE: u64 = 8 * L3_SPAN;

/// The CPUs; number 0 makes the world and looks at what is left of it.
const CPUS: usize = 4;

pub type World = Arc<Memory<Machine>>;

/// RAM, and nothing in it.
pub fn world(frames: usize) -> World {
    world_of(CPUS, frames, 16)
}

/// With fewer CPUs. There are at least enough ASIDs for them.
pub fn world_of(cpus: usize, frames: usize, asid_bits: u8) -> World {
    let meta = Vec::leak((0..frames).map(|_| FrameMeta::new()).collect());
    let mut all = Frames::new(meta, Frame::new(FIRST));
    // Few frames make for meetings, and few of the pages that are mapped are used.
    all.set_overcommit();
    all.add(Frame::new(FIRST)..Frame::new(FIRST + frames as u64));
    let mut mem = Memory::new(Machine::new(cpus, frames), all, asid_bits, cpus)
        .expect("a frame for the zero page");
    mem.share_from = 1;
    Arc::new(mem)
}

/// Runs on another CPU, from now on.
pub fn on_cpu<T: Send + 'static>(
    cpu: usize,
    f: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    assert!((1..CPUS).contains(&cpu));
    thread::spawn(move || {
        be_cpu(cpu);
        f()
    })
}

/// Waits for what runs on another CPU.
pub fn join<T>(handle: JoinHandle<T>) -> T {
    handle.join().expect("no CPU has panicked")
}

/// The address of a page.
pub fn page(number: u64) -> u64 {
    BASE + number * PAGE_SIZE
}

/// An address space, as the kernel has it.
pub struct Space {
    mem: World,
    root: Root,
    /// Not dropped when a race is lost: only an end may do that.
    map: ManuallyDrop<RwLock<AddressSpace>>,
}

impl Space {
    fn wrap(mem: &World, map: AddressSpace) -> Space {
        Space {
            mem: mem.clone(),
            root: map.root(),
            map: ManuallyDrop::new(RwLock::new(Rank::Space, map)),
        }
    }

    /// With one mapping, of all that a level 3 table can map.
    pub fn new(mem: &World, backing: Backing) -> Space {
        Space::of(mem, backing, 1)
    }

    /// With one mapping, of all that some level 3 tables can map.
    pub fn of(mem: &World, backing: Backing, tables: u64) -> Space {
        let mut map = AddressSpace::new(mem).expect("memory is left");
        let mapping = Mapping {
            start: BASE,
            end: BASE + tables * L3_SPAN,
            prot: Prot::READ.union(Prot::WRITE),
            shared: false,
            may_write: true,
            backing,
            region: Region::Mmap,
            charged: false,
        };
        map.map(mem, mapping).expect("memory is left");
        Space::wrap(mem, map)
    }

    pub fn fork(&self, mode: ForkMode) -> Space {
        let forked = self.map.write().fork(&self.mem, mode);
        Space::wrap(&self.mem, forked.expect("memory is left").0)
    }

    pub fn unmap(&self, start: u64, end: u64) {
        let done = self.map.write().unmap(&self.mem, start, end);
        done.expect("memory is left");
    }

    /// Private frames that it thinks it maps.
    pub fn resident(&self) -> u32 {
        self.map.read().resident().anon
    }

    /// The kernel switches to a thread of it.
    pub fn enter(&self) {
        // From here to the write of TTBR0 its old value may name a number that is another's by now.
        // Only speculation can use it, and what that puts into the TLB goes before this CPU runs
        // with that number: a rollover that frees it also wants this TLB emptied.
        self.leave();
        self.mem.activate(self.root, crate::sync::cpu());
        self.mem.mmu.switch(Some(self.root));
    }

    /// The kernel goes idle.
    pub fn leave(&self) {
        self.mem.mmu.switch(None);
    }

    fn access(&self, va: u64, word: usize, value: Option<u64>) -> u64 {
        self.enter();
        let value = self.go_on(va, word, value);
        self.leave();
        value
    }

    /// The thread accesses a page, until it does not fault.
    pub fn go_on(&self, va: u64, word: usize, value: Option<u64>) -> u64 {
        let access = match value {
            Some(_) => Access::Write,
            None => Access::Read,
        };
        loop {
            if let Some(value) = self.mem.mmu.access(va, word, value) {
                return value;
            }
            let request = Request { addr: va, access };
            let beside = self.map.read().fault_beside(&self.mem, request, |_| ());
            let handled = match beside {
                Some(handled) => handled,
                None => self.map.write().fault(&self.mem, request),
            };
            assert!(handled.succeeded(), "{handled:?}");
        }
    }

    /// A program's store.
    pub fn write(&self, va: u64, word: usize, value: u64) {
        self.access(va, word, Some(value));
    }

    /// A program's load.
    pub fn read(&self, va: u64, word: usize) -> u64 {
        self.access(va, word, None)
    }

    pub fn end(self) {
        ManuallyDrop::into_inner(self.map)
            .into_inner()
            .destroy(&self.mem);
    }
}

/// Ends a space that threads shared, once they are gone.
pub fn end(space: Arc<Space>) {
    Arc::into_inner(space).expect("the threads are gone").end();
}

/// Compares all reference counts with the tables of these, which are all there are.
pub fn check_counts(mem: &World, spaces: &[&Space], caches: &[(&PageCache, u64)]) {
    let mut parents = BTreeMap::<Frame, u32>::new();
    let mut users = BTreeMap::<Frame, u32>::new();
    let tables = |table: Frame| {
        (0..512).filter_map(move |at| Table::from_bits(mem.mmu.read_descriptor(table, at)))
    };
    for space in spaces {
        for l2 in tables(space.root.frame()) {
            for l3 in tables(l2.frame()) {
                *parents.entry(l3.frame()).or_default() += 1;
            }
        }
    }
    for &table in parents.keys() {
        for at in 0..512 {
            let leaf = Leaf::from_bits(mem.mmu.read_descriptor(table, at));
            if let Some(leaf) = leaf.filter(|leaf| leaf.counted()) {
                *users.entry(leaf.frame()).or_default() += 1;
            }
        }
    }
    for &(cache, pages) in caches {
        for page in 0..pages {
            let held = cache.frame(mem, page).expect("it is there");
            *users.entry(held.frame()).or_default() += 1;
            held.let_go(mem);
        }
    }
    for (frame, count) in parents.into_iter().chain(users) {
        assert_eq!(mem.frames.refs(frame), count, "references to {frame:?}");
    }
}

/// All has ended: every frame but the zero page is free, once, and can be taken.
pub fn check_empty(mem: &World) {
    let all = mem.frames.total() - 1;
    assert_eq!(
        mem.frames.free_count(),
        all,
        "frames are lost, or free twice"
    );
    let mut taken = BTreeSet::new();
    while let Some(frame) = mem.alloc() {
        assert!(taken.insert(frame), "{frame:?} is free twice");
    }
    assert_eq!(taken.len() as u64, all);
    assert_eq!(mem.frames.free_count(), 0);
}
