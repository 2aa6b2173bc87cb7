//! Registers that remember what was done to them.

use super::Registers;
extern crate std;
use std::cell::RefCell;
use std::collections::HashMap;
use std::vec::Vec;

#[derive(Default)]
pub(super) struct Fake {
    pub values: RefCell<HashMap<u64, u32>>,
    pub writes: RefCell<Vec<(u64, u32)>>,
    pub waited: RefCell<u64>,
}

impl Fake {
    pub fn with(values: &[(u64, u32)]) -> Self {
        Self {
            values: RefCell::new(values.iter().copied().collect()),
            ..Self::default()
        }
    }

    pub fn value(&self, offset: u64) -> u32 {
        self.values.borrow().get(&offset).copied().unwrap_or(0)
    }
}

impl Registers for Fake {
    fn read(&self, offset: u64) -> u32 {
        self.value(offset)
    }

    fn write(&self, offset: u64, value: u32) {
        self.writes.borrow_mut().push((offset, value));
        self.values.borrow_mut().insert(offset, value);
    }

    fn wait(&self, microseconds: u64) {
        *self.waited.borrow_mut() += microseconds;
    }
}
