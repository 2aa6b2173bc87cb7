//! PSCI: the firmware's power management.

use boards::Conduit;
use smccc::{Hvc, Smc, psci};

/// Starts a core at a physical address; false if the firmware refuses.
pub fn cpu_on(conduit: Conduit, affinity: u64, entry: u64) -> bool {
    match conduit {
        Conduit::Hvc => psci::cpu_on::<Hvc>(affinity, entry, 0),
        Conduit::Smc => psci::cpu_on::<Smc>(affinity, entry, 0),
    }
    .is_ok()
}

/// Powers the machine off. Returns if the firmware does not.
pub fn system_off(conduit: Conduit) {
    // An error means that we are still here, and the caller knows what else to try.
    let _ = match conduit {
        Conduit::Hvc => psci::system_off::<Hvc>(),
        Conduit::Smc => psci::system_off::<Smc>(),
    };
}
