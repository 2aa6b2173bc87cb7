//! epoll(7).
//!
//! An epoll has an item per file and descriptor, which the file's list of watchers has as well. An
//! item notes that its file told something, for edge-triggered ones; whoever waits looks at all.
//! A file that goes takes its items with it.

use super::Special;
use crate::arch::heap;
use crate::fs::watch::{ALWAYS, Events, Poller, Ticket, Watcher, Watchers};
use crate::fs::{File, Object};
use crate::syscall::errno::Errno;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use linux_raw_sys::general::{EPOLLET, EPOLLEXCLUSIVE, EPOLLONESHOT, EPOLLWAKEUP, POLLIN};
use memory::{Lock, Rank};

/// Flags of an item that are no events.
const FLAGS: u32 = EPOLLET | EPOLLONESHOT | EPOLLWAKEUP | EPOLLEXCLUSIVE;

/// An epoll, as a file has it.
pub struct Epoll(Arc<Set>);

struct Set {
    /// By descriptor and the file's address.
    items: Lock<Vec<Arc<Item>>>,
    /// Where the next look begins: all shall have their turn.
    next: AtomicU32,
    watchers: Watchers,
}

/// A file that an epoll watches.
pub struct Item {
    set: Weak<Set>,
    file: Weak<File>,
    key: (u32, usize),
    events: AtomicU32,
    data: AtomicU64,
    /// The file has told something since the last look.
    told: AtomicBool,
    ticket: Lock<Option<Ticket>>,
}

impl Watcher for Item {
    fn notify(&self, _: Events) {
        self.told.store(true, Ordering::Release);
        if let Some(set) = self.set.upgrade() {
            set.watchers.notify(POLLIN);
        }
    }
}

impl Item {
    /// What is reported now, and with what; it counts as reported.
    fn report(&self) -> Option<(Events, u64)> {
        let wanted = self.events.load(Ordering::Relaxed);
        let edge = wanted & EPOLLET != 0;
        if wanted & !FLAGS == 0 || edge && !self.told.swap(false, Ordering::AcqRel) {
            return None;
        }
        let ready = self.file.upgrade()?.ready() & wanted & !FLAGS;
        if ready == 0 {
            return None;
        }
        if wanted & EPOLLONESHOT != 0 {
            self.events.store(wanted & FLAGS, Ordering::Relaxed);
        }
        Some((ready, self.data.load(Ordering::Relaxed)))
    }

    /// Whether something would be.
    fn is_ready(&self) -> bool {
        let wanted = self.events.load(Ordering::Relaxed);
        if wanted & EPOLLET != 0 && !self.told.load(Ordering::Acquire) {
            return false;
        }
        let file = self.file.upgrade();
        file.is_some_and(|file| file.ready() & wanted & !FLAGS != 0)
    }

    /// Its file goes.
    pub fn end(&self, watchers: Option<&Watchers>) {
        let ticket = self.ticket.lock().take();
        if let (Some(ticket), Some(watchers)) = (ticket, watchers) {
            watchers.remove(ticket);
        }
        if let Some(set) = self.set.upgrade() {
            let gone = set.remove(self.key);
            drop(gone);
        }
    }
}

impl Set {
    fn find(&self, key: (u32, usize)) -> Result<Arc<Item>, usize> {
        let items = self.items.lock();
        let place = items.binary_search_by_key(&key, |item| item.key);
        place.map(|place| items[place].clone())
    }

    fn remove(&self, key: (u32, usize)) -> Option<Arc<Item>> {
        let mut items = self.items.lock();
        let place = items.binary_search_by_key(&key, |item| item.key).ok()?;
        Some(items.remove(place))
    }

    /// All items, to be looked at without the lock: a file's state is behind locks of its own.
    fn items(&self) -> Result<Vec<Arc<Item>>, Errno> {
        let mut copy = Vec::new();
        loop {
            let wanted = self.items.lock().len();
            copy.try_reserve_exact(wanted).map_err(|_| Errno::ENOMEM)?;
            let items = self.items.lock();
            if items.len() <= copy.capacity() {
                copy.extend_from_slice(&items);
                return Ok(copy);
            }
        }
    }
}

/// The epoll of a file; EINVAL if it is none.
pub fn of(file: &File) -> Result<&Epoll, Errno> {
    match &file.object {
        Object::Special(special) => special.downcast().ok_or(Errno::EINVAL),
        _ => Err(Errno::EINVAL),
    }
}

impl Epoll {
    /// An empty one.
    pub fn new() -> Result<Epoll, Errno> {
        let set = heap::try_arc(Set {
            items: Lock::new(Rank::Ready, Vec::new()),
            next: AtomicU32::new(0),
            watchers: Watchers::new(),
        });
        Ok(Epoll(set.ok_or(Errno::ENOMEM)?))
    }

    /// Whether it watches other epolls.
    fn has_epolls(&self) -> Result<bool, Errno> {
        let items = self.0.items()?;
        let mut files = items.iter().filter_map(|item| item.file.upgrade());
        Ok(files.any(|file| of(&file).is_ok()))
    }

    /// EPOLL_CTL_ADD. `own` is the epoll's own file.
    pub fn add(
        &self,
        own: &File,
        fd: u32,
        file: &Arc<File>,
        events: u32,
        data: u64,
    ) -> Result<(), Errno> {
        let watchers = file.watchers().ok_or(Errno::EPERM)?;
        if let Ok(inner) = of(file)
            // Two deep, which leaves no way to make a circle.
            && (inner.has_epolls()? || own.is_watched())
        {
            return Err(Errno::ELOOP);
        }
        let key = (fd, file.address());
        let item = heap::try_arc(Item {
            set: Arc::downgrade(&self.0),
            file: Arc::downgrade(file),
            key,
            events: AtomicU32::new(events | ALWAYS),
            data: AtomicU64::new(data),
            told: AtomicBool::new(true),
            ticket: Lock::new(Rank::Ready, None),
        })
        .ok_or(Errno::ENOMEM)?;
        {
            let mut items = self.0.items.lock();
            items.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            match items.binary_search_by_key(&key, |item| item.key) {
                Ok(_) => return Err(Errno::EEXIST),
                Err(place) => items.insert(place, item.clone()),
            }
        }
        let entered = file
            .add_item(item.clone())
            .and_then(|()| watchers.add(item.clone()));
        match entered {
            Ok(ticket) => *item.ticket.lock() = Some(ticket),
            Err(error) => {
                self.remove(fd, file)?;
                return Err(error);
            }
        }
        // Who waits already has to look at it.
        self.0.watchers.notify(POLLIN);
        Ok(())
    }

    /// EPOLL_CTL_MOD.
    pub fn change(&self, fd: u32, file: &Arc<File>, events: u32, data: u64) -> Result<(), Errno> {
        let item = self
            .0
            .find((fd, file.address()))
            .map_err(|_| Errno::ENOENT)?;
        if (item.events.load(Ordering::Relaxed) | events) & EPOLLEXCLUSIVE != 0 {
            return Err(Errno::EINVAL);
        }
        item.data.store(data, Ordering::Relaxed);
        item.events.store(events | ALWAYS, Ordering::Relaxed);
        item.told.store(true, Ordering::Release);
        self.0.watchers.notify(POLLIN);
        Ok(())
    }

    /// EPOLL_CTL_DEL.
    pub fn remove(&self, fd: u32, file: &Arc<File>) -> Result<(), Errno> {
        let item = self.0.remove((fd, file.address())).ok_or(Errno::ENOENT)?;
        file.remove_item(&item);
        item.end(file.watchers());
        Ok(())
    }

    /// What is ready, at most `most`.
    fn collect(&self, most: usize) -> Result<Vec<(Events, u64)>, Errno> {
        let items = self.0.items()?;
        let mut found = Vec::new();
        found
            .try_reserve_exact(most.min(items.len()))
            .map_err(|_| Errno::ENOMEM)?;
        let start = self.0.next.load(Ordering::Relaxed) as usize % items.len().max(1);
        for (count, item) in items[start..].iter().chain(&items[..start]).enumerate() {
            if found.len() == most {
                let next = (start + count) as u32;
                self.0.next.store(next, Ordering::Relaxed);
                break;
            }
            found.extend(item.report());
        }
        Ok(found)
    }

    /// Waits until something is ready; nothing at `deadline`.
    pub fn wait(&self, most: usize, deadline: Option<u64>) -> Result<Vec<(Events, u64)>, Errno> {
        let found = self.collect(most)?;
        if !found.is_empty() || deadline.is_some_and(|end| crate::arch::time::now() >= end) {
            return Ok(found);
        }
        let poller = Poller::new()?;
        let ticket = self.0.watchers.add(poller.clone())?;
        let result = loop {
            match self.collect(most) {
                Ok(found) if found.is_empty() => {}
                result => break result,
            }
            match poller.wait(deadline) {
                Ok(true) => {}
                Ok(false) => break self.collect(most),
                Err(error) => break Err(error),
            }
        };
        self.0.watchers.remove(ticket);
        result
    }
}

impl Special for Epoll {
    fn ready(&self) -> Events {
        let items = self.0.items().unwrap_or_default();
        if items.iter().any(|item| item.is_ready()) {
            POLLIN
        } else {
            0
        }
    }

    fn watchers(&self) -> &Watchers {
        &self.0.watchers
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        let items = core::mem::take(&mut *self.0.items.lock());
        for item in items {
            if let Some(file) = item.file.upgrade() {
                file.remove_item(&item);
                item.end(file.watchers());
            }
        }
    }
}
