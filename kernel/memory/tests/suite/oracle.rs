//! What memory means, without tables: a process is a map of pages to bytes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use memory::{Access, PAGE_SIZE, Prot, USER_END};

/// The offsets in a page that programs use.
pub const OFFSETS: [u64; 3] = [0, 1, 4095];

/// The bytes of a page at [`OFFSETS`].
pub type Bytes = [u8; OFFSETS.len()];

/// The bytes of a file, or of anonymous shared memory, page by page.
pub type Object = Rc<RefCell<Vec<Bytes>>>;

/// Pages of a group, and the groups: across a 2 MiB boundary, across a 1 GiB boundary, and far away.
pub const GROUP: usize = 8;
const GROUPS: [u64; 3] = [0x1f_c000, 0x3fff_c000, USER_END - 64 * PAGE_SIZE];

/// How many pages programs use.
pub const PAGES: usize = GROUP * GROUPS.len();

/// The address of a page by number.
pub fn va(page: usize) -> u64 {
    GROUPS[page / GROUP] + (page % GROUP) as u64 * PAGE_SIZE
}

/// A page of a process.
#[derive(Clone, Debug)]
pub struct Page {
    pub prot: Prot,
    pub shared: bool,
    /// Of a stack, which grows down.
    pub stack: bool,
    /// It may be made writable.
    pub may_write: bool,
    /// What it shows until the process writes it privately: a page of an object, or zeros.
    pub object: Option<(Object, usize)>,
    /// Its own bytes, since the first private write.
    pub own: Option<Bytes>,
}

impl Page {
    /// Past the end of its object.
    pub fn past_end(&self) -> bool {
        self.own.is_none()
            && self
                .object
                .as_ref()
                .is_some_and(|(object, page)| *page >= object.borrow().len())
    }

    pub fn bytes(&self) -> Bytes {
        match (&self.own, &self.object) {
            (Some(own), _) => *own,
            (None, Some((object, page))) => object.borrow()[*page],
            (None, None) => [0; OFFSETS.len()],
        }
    }

    fn write(&mut self, offset: usize, value: u8) {
        if let (true, Some((object, page))) = (self.shared, &self.object) {
            object.borrow_mut()[*page][offset] = value;
            return;
        }
        let mut bytes = self.bytes();
        bytes[offset] = value;
        self.own = Some(bytes);
    }
}

/// The pages of a process.
#[derive(Clone, Debug, Default)]
pub struct Pages(pub BTreeMap<usize, Page>);

impl Pages {
    pub fn permits(&self, page: usize, access: Access) -> bool {
        self.0
            .get(&page)
            .is_some_and(|page| page.prot.allows(access) && !page.past_end())
    }

    /// The page of a stack down to which an access makes it grow: nothing else is between the two,
    /// or in the same group below.
    fn above(&self, page: usize, access: Access) -> Option<usize> {
        let group = page / GROUP;
        let below = self.0.range(..page).next_back();
        let (above, stack) = self.0.range(page..).next()?;
        let grows = *above > page
            && above / GROUP == group
            && below.is_none_or(|(below, _)| below / GROUP < group);
        (grows && stack.stack && stack.prot.allows(access)).then_some(*above)
    }

    /// Whether a stack grows when this is accessed.
    pub fn grows(&self, page: usize, access: Access) -> bool {
        self.above(page, access).is_some()
    }

    /// Whether what comes next in the same group is a stack.
    pub fn is_below_stack(&self, page: usize) -> bool {
        let above = self.0.range(page..).next();
        above.is_some_and(|(above, next)| next.stack && above / GROUP == (page - 1) / GROUP)
    }

    /// Pages have been elsewhere, and are no stack any more.
    pub fn moved(&mut self, page: usize, count: usize) {
        let moved = self.0.range_mut(page..page + count);
        moved.for_each(|(_, page)| page.stack = false);
    }

    /// Whether an access works, if there is memory.
    pub fn reaches(&self, page: usize, access: Access) -> bool {
        self.permits(page, access) || self.grows(page, access)
    }

    /// A stack has grown, if this access made it.
    pub fn grow(&mut self, page: usize, access: Access) {
        if let Some(above) = self.above(page, access) {
            let new = Page {
                own: None,
                ..self.0[&above].clone()
            };
            self.0.extend((page..above).map(|at| (at, new.clone())));
        }
    }

    /// How many pages from a first one on may be given a protection, at most `count`.
    pub fn protectable(&self, page: usize, count: usize, prot: Prot) -> usize {
        let may = |page: &Page| page.may_write || !prot.contains(Prot::WRITE);
        (page..page + count)
            .take_while(|at| self.0.get(at).is_some_and(may))
            .count()
    }

    /// How many pages from a first one are mapped without a hole, at most `count`.
    pub fn run(&self, page: usize, count: usize) -> usize {
        (page..page + count)
            .take_while(|at| self.0.contains_key(at))
            .count()
    }

    /// A private page shows what it does now until it is written.
    pub fn own(&mut self, page: usize) {
        if let Some(page) = self.0.get_mut(&page).filter(|page| !page.shared) {
            page.own = Some(page.bytes());
        }
    }

    pub fn discard(&mut self, page: usize, count: usize) {
        self.0
            .range_mut(page..page + count)
            .for_each(|(_, page)| page.own = None);
    }

    pub fn unmap(&mut self, page: usize, count: usize) {
        self.0.retain(|at, _| !(page..page + count).contains(at));
    }

    /// `count` pages become `new_count` at `to`; all in one mapping.
    pub fn remap(&mut self, page: usize, count: usize, to: usize, new_count: usize, keep: bool) {
        let kept = count.min(new_count);
        let mut moved: Vec<Page> = (page..page + kept).map(|at| self.0[&at].clone()).collect();
        // What makes a stack is where it is.
        moved.iter_mut().for_each(|moved| moved.stack &= to == page);
        let last = moved[kept - 1].clone();
        moved.extend((1..=new_count - kept).map(|further| {
            Page {
                object: last
                    .object
                    .as_ref()
                    .map(|(object, at)| (object.clone(), at + further)),
                own: None,
                ..last
            }
        }));
        if keep {
            self.discard(page, count);
        } else {
            self.unmap(page, count);
        }
        self.unmap(to, new_count);
        self.0.extend((to..).zip(moved));
    }

    pub fn read(&self, page: usize, offset: usize) -> u8 {
        self.0[&page].bytes()[offset]
    }

    pub fn write(&mut self, page: usize, offset: usize, value: u8) {
        self.0
            .get_mut(&page)
            .expect("permitted")
            .write(offset, value);
    }
}
