//! A trace as long as one likes.

use wire::event::ForkMode;

use crate::support::{Kernel, PAGE};

/// The trace of a process that writes to all of its `pages` after each of so many forks; so do the
/// children. Every copy goes to a frame that was never used before.
pub fn sweeps(pages: u64, forks: usize) -> Kernel {
    const START: u64 = 0x7000_0000;
    let mut kernel = Kernel::boot();
    kernel.map(1, START, pages);
    let sweep = |kernel: &mut Kernel, pid| {
        for page in 0..pages {
            kernel.access(pid, START + page * PAGE, true);
        }
    };
    sweep(&mut kernel, 1);
    for _ in 0..forks {
        let child = kernel.fork(1, ForkMode::Classic);
        sweep(&mut kernel, child);
        kernel.exit(child, 1, 0);
        sweep(&mut kernel, 1);
    }
    kernel
}
