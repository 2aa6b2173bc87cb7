//! Ctrl-C (and SIGTERM, SIGHUP): the work in hand is finished, not cut off. A second one does cut.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::exit::Exit;
use crate::machine::terminal;

static STOP: AtomicBool = AtomicBool::new(false);
static INSTALL: Once = Once::new();

/// From now on an interruption is noted instead of ending the process.
pub fn watch() {
    INSTALL.call_once(|| {
        let set = ctrlc::set_handler(|| {
            if STOP.swap(true, Ordering::Relaxed) {
                terminal::restore();
                std::process::exit(Exit::Interrupted as i32);
            }
        });
        if let Err(error) = set {
            eprintln!("cowscope: warning: Ctrl-C will not finish the trace: {error}");
        }
    });
}

/// As if there had been one.
pub fn request() {
    STOP.store(true, Ordering::Relaxed);
}

/// Whether the user wants an end.
pub fn requested() -> bool {
    STOP.load(Ordering::Relaxed)
}
