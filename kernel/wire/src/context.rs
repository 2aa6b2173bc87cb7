//! Delta coding: what both sides remember of the records already in a batch, and the layout of a
//! record given that.
//!
//! A record begins with a tag byte:
//!
//! ```text
//! 1 s s s x n o a   a fault like the last one in slot s: see `faults`
//! 0 t k k k k k k   kind k (Event::kind); t: the thread is not the last one of this CPU and follows
//! 0 0 1 1 1 1 1 1   the CPU is not the last record's (at first 0), and follows; then a tag as above
//! ```
//!
//! then the time since the last record, then the event.

use crate::codec::{Port, Stop};
use crate::event::{Event, MAX_CPUS, Record};
use crate::faults::{AGAIN, Faults, KIND_FAULT};
use crate::kinds::{self, Last};

const TID: u8 = 1 << 6;
const CPU: u8 = 63;

/// What both sides remember within a batch.
pub(crate) struct Context {
    time: u64,
    cpu: u8,
    /// The last thread of each CPU.
    tids: [u32; MAX_CPUS],
    faults: Faults,
    last: Last,
}

impl Context {
    pub(crate) const fn new(time: u64, tid: u32) -> Self {
        Context {
            time,
            cpu: 0,
            tids: [tid; MAX_CPUS],
            faults: Faults::new(),
            last: Last::NEW,
        }
    }

    /// Forgets everything, without writing all of it.
    pub(crate) fn reset(&mut self, time: u64, tid: u32) {
        self.time = time;
        self.cpu = 0;
        self.tids = [tid; MAX_CPUS];
        self.faults.reset();
        self.last = Last::NEW;
    }

    /// Writes one record. On an error nothing is remembered of it.
    pub(crate) fn write<P: Port>(&mut self, port: &mut P, record: &Record) -> Result<(), Stop> {
        let mut record = *record;
        let last = self.tids.get(usize::from(record.cpu)).ok_or(Stop::End)?;
        let (mut tag, changes) = match &record.event {
            Event::Fault(fault) => self.faults.tag(record.tid, fault),
            event => {
                let tid = if record.tid == *last { 0 } else { TID };
                (event.kind() as u8 | tid, 0)
            }
        };
        if record.cpu != self.cpu {
            port.field(&mut { CPU })?;
            port.field(&mut record.cpu)?;
        }
        port.field(&mut tag)?;
        self.record(port, tag, changes, &mut record)
    }

    /// Reads one record.
    pub(crate) fn read<P: Port>(&mut self, port: &mut P) -> Result<Record, Stop> {
        let mut tag = 0;
        let mut cpu = self.cpu;
        port.field(&mut tag)?;
        if tag == CPU {
            port.field(&mut cpu)?;
            port.field(&mut tag)?;
        }
        let tid = *self.tids.get(usize::from(cpu)).ok_or(Stop::End)?;
        let kind = if tag & AGAIN != 0 {
            KIND_FAULT
        } else {
            tag & !TID
        };
        let mut record = Record {
            time: 0,
            cpu,
            tid,
            event: kinds::blank(kind).ok_or(Stop::Unknown)?,
        };
        self.record(port, tag, 0, &mut record)?;
        Ok(record)
    }

    fn record<P: Port>(
        &mut self,
        port: &mut P,
        tag: u8,
        changes: u8,
        record: &mut Record,
    ) -> Result<(), Stop> {
        // Times do not decrease; should they, the difference still comes out right.
        let mut elapsed = record.time.wrapping_sub(self.time);
        port.field(&mut elapsed)?;
        record.time = self.time.wrapping_add(elapsed);
        if let Event::Fault(fault) = &mut record.event {
            self.faults
                .code(port, tag, changes, &mut record.tid, fault)?;
        } else {
            if tag & TID != 0 {
                port.field(&mut record.tid)?;
            }
            let mut last = self.last;
            kinds::code(port, &mut last, &mut record.event)?;
            self.last = last;
        }
        self.time = record.time;
        self.cpu = record.cpu;
        self.tids[usize::from(record.cpu)] = record.tid;
        Ok(())
    }
}
