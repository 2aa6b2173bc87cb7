//! The program's FP and SIMD registers. The kernel is compiled without them.

/// q0 to q31, FPCR, FPSR.
#[repr(C, align(16))]
#[derive(Clone, Debug)]
pub struct State {
    q: [u128; 32],
    fpcr: u64,
    fpsr: u64,
}

unsafe extern "C" {
    fn fp_save(state: *mut State);
    fn fp_restore(state: *const State);
}

impl State {
    /// All zero: what a program starts with.
    pub const fn new() -> Self {
        Self {
            q: [0; 32],
            fpcr: 0,
            fpsr: 0,
        }
    }

    /// Stores the registers here.
    pub fn save(&mut self) {
        // SAFETY: `State` has the layout that the assembly writes.
        unsafe { fp_save(self) }
    }

    /// Loads the registers from here.
    pub fn restore(&self) {
        // SAFETY: `State` has the layout that the assembly reads; the kernel uses no FP register.
        unsafe { fp_restore(self) }
    }
}

/// As a signal's frame has them.
impl State {
    /// q0 to q31.
    pub fn vectors(&self) -> &[u128; 32] {
        &self.q
    }

    /// q0 to q31, to set.
    pub fn vectors_mut(&mut self) -> &mut [u128; 32] {
        &mut self.q
    }

    /// FPSR and FPCR.
    pub fn control(&self) -> (u32, u32) {
        (self.fpsr as u32, self.fpcr as u32)
    }

    /// Sets FPSR and FPCR.
    pub fn set_control(&mut self, fpsr: u32, fpcr: u32) {
        (self.fpsr, self.fpcr) = (fpsr.into(), fpcr.into());
    }
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}
