//! Waiting for children.

use super::table::{self, Found, Select};
use super::{Process, scheduler, thread};
use crate::syscall::errno::Errno;
use crate::trace;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use wire::event::Event;

/// Waits for a child that has ended. `None`: there is none yet, and the caller does not want to
/// sleep. The child is collected unless `keep`.
pub fn wait(select: Select, sleep: bool, keep: bool) -> Result<Option<Arc<Process>>, Errno> {
    let thread = thread::current();
    let process = &thread.process;
    loop {
        // Before the look at the table: a child that ends after it finds the flag.
        process.waiting.store(sleep, Ordering::Release);
        thread.set_state(if sleep {
            thread::State::Blocking
        } else {
            thread::State::Running
        });
        let found = table::find_ended(process.pid, select);
        if !sleep || !matches!(found, Found::Running) {
            process.waiting.store(false, Ordering::Relaxed);
            thread.set_state(thread::State::Running);
        }
        match found {
            Found::Ended(child) if keep => return Ok(Some(child)),
            Found::Ended(child) => {
                if table::remove(child.pid) {
                    trace::emit(Event::Reap {
                        pid: child.pid,
                        by: process.pid,
                    });
                    return Ok(Some(child));
                }
            }
            Found::None => return Err(Errno::ECHILD),
            Found::Running if !sleep => return Ok(None),
            Found::Running => {
                scheduler::block();
                if thread.interrupted() {
                    process.waiting.store(false, Ordering::Relaxed);
                    return Err(Errno::EINTR);
                }
            }
        }
    }
}
