//! Sockets that only lead to each other.
//!
//! A socket that was sent to itself, and closed, is in a queue that nobody can read any more. As on Linux
//! (net/unix/garbage.c) such ones are found when a socket is closed: those whose files are nowhere but in
//! queues, and whose queues no other one leads to.

use super::{Message, Socket};
use crate::fs::File;
use crate::syscall::errno::Errno;
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use memory::{Lock, Rank};

static ALL: Lock<Vec<Weak<Socket>>> = Lock::new(Rank::Labels, Vec::new());

/// Sockets that were ever sent: mostly none.
static SENT: AtomicUsize = AtomicUsize::new(0);

/// Enters a socket.
pub fn register(socket: &Arc<Socket>) -> Result<(), Errno> {
    let mut all = ALL.lock();
    if all.len() == all.capacity() {
        all.retain(|socket| socket.strong_count() > 0);
        all.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    }
    all.push(Arc::downgrade(socket));
    Ok(())
}

/// Files are about to be sent.
pub fn note(rights: &[Arc<File>]) {
    if rights.iter().any(|file| Socket::find(file).is_some()) {
        SENT.fetch_add(1, Ordering::Relaxed);
    }
}

/// A socket, as the search sees it.
struct Found {
    socket: Arc<Socket>,
    /// Its file, and how often that lies in queues.
    file: Option<(*const File, usize)>,
    /// How many others have the file.
    references: usize,
    /// What lies in its queue, and in its backlog.
    leads_to: Vec<*const Socket>,
    reached: bool,
}

/// Empties the queues that nobody can reach. Without memory for the search that is left to a later one.
pub fn collect() {
    if SENT.load(Ordering::Relaxed) == 0 || DISCARDING.load(Ordering::Acquire) {
        return;
    }
    let Ok(mut found) = search() else {
        return;
    };
    let mut open: Vec<usize> = Vec::new();
    if open.try_reserve(found.len()).is_err() {
        return;
    }
    for (index, one) in found.iter_mut().enumerate() {
        // Those without a file in a queue are reached by descriptors, by a listener, or by nobody.
        let hidden = one.file.is_some_and(|(_, queued)| one.references <= queued);
        if !hidden {
            one.reached = true;
            open.push(index);
        }
    }
    while let Some(index) = open.pop() {
        let leads_to = core::mem::take(&mut found[index].leads_to);
        for target in leads_to {
            let next = found
                .iter()
                .position(|one| Arc::as_ptr(&one.socket) == target);
            if let Some(next) = next.filter(|&next| !found[next].reached) {
                found[next].reached = true;
                open.push(next);
            }
        }
    }
    for one in found.iter().filter(|one| !one.reached) {
        let queue = one.socket.state.lock().forget();
        discard(queue);
    }
}

/// What is to be dropped, while somebody does that.
static DISCARDED: Lock<VecDeque<Message>> = Lock::new(Rank::Labels, VecDeque::new());
static DISCARDING: AtomicBool = AtomicBool::new(false);

/// Drops messages, and files with them. One after the other, however they are nested: a socket in a
/// socket's queue in a socket's queue would need as much stack as a program likes.
pub fn discard(mut queue: VecDeque<Message>) {
    if queue.iter().all(|message| message.rights.is_empty()) {
        return;
    }
    {
        let mut discarded = DISCARDED.lock();
        if discarded.try_reserve(queue.len()).is_ok() {
            discarded.append(&mut queue);
        }
    }
    // Without memory for the list it goes at once.
    drop(queue);
    while !DISCARDING.swap(true, Ordering::AcqRel) {
        loop {
            let next = DISCARDED.lock().pop_front();
            let Some(next) = next else { break };
            drop(next);
        }
        DISCARDING.store(false, Ordering::Release);
        // Somebody may have added to it meanwhile, in the belief that it would be seen.
        if DISCARDED.lock().is_empty() {
            break;
        }
    }
}

/// All sockets, and what leads to what.
fn search() -> Result<Vec<Found>, Errno> {
    let mut found: Vec<Found> = Vec::new();
    loop {
        let wanted = ALL.lock().len();
        found.try_reserve(wanted).map_err(|_| Errno::ENOMEM)?;
        let all = ALL.lock();
        if all.len() > found.capacity() {
            continue;
        }
        found.extend(all.iter().filter_map(Weak::upgrade).map(|socket| Found {
            socket,
            file: None,
            references: 0,
            leads_to: Vec::new(),
            reached: false,
        }));
        break;
    }
    for index in 0..found.len() {
        let (mut leads_to, mut files) = (Vec::new(), Vec::new());
        {
            let state = found[index].socket.state.lock();
            let sent = state.queue.iter().flat_map(|message| &message.rights);
            let count = sent.clone().count() + state.backlog.len();
            leads_to.try_reserve(count).map_err(|_| Errno::ENOMEM)?;
            files.try_reserve(count).map_err(|_| Errno::ENOMEM)?;
            leads_to.extend(state.backlog.iter().map(Arc::as_ptr));
            for file in sent {
                if let Some(socket) = Socket::find(file) {
                    leads_to.push(Arc::as_ptr(socket));
                    files.push((
                        Arc::as_ptr(socket),
                        Arc::as_ptr(file),
                        Arc::strong_count(file),
                    ));
                }
            }
        }
        found[index].leads_to = leads_to;
        for (socket, file, references) in files {
            let place = found
                .iter_mut()
                .find(|one| Arc::as_ptr(&one.socket) == socket);
            if let Some(one) = place {
                let queued = one.file.map_or(0, |(_, queued)| queued);
                one.file = Some((file, queued + 1));
                one.references = references;
            }
        }
    }
    Ok(found)
}
