//! PSCI: the firmware's power management.

use smccc::{Hvc, Smc, psci};

/// The instruction that reaches the firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// HVC.
    Hvc,
    /// SMC.
    Smc,
}

impl Conduit {
    /// Starts a core at a physical address; false if the firmware refuses.
    pub fn cpu_on(self, affinity: u64, entry: u64) -> bool {
        match self {
            Self::Hvc => psci::cpu_on::<Hvc>(affinity, entry, 0),
            Self::Smc => psci::cpu_on::<Smc>(affinity, entry, 0),
        }
        .is_ok()
    }

    /// Powers the machine off. Returns if the firmware does not.
    pub fn system_off(self) {
        // An error means that we are still here, and the caller knows what else to try.
        let _ = match self {
            Self::Hvc => psci::system_off::<Hvc>(),
            Self::Smc => psci::system_off::<Smc>(),
        };
    }
}
