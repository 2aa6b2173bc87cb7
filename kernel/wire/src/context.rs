//! Delta coding: what both sides remember of the records already in a batch, and the layout of a
//! record given that.
//!
//! A record begins with a tag byte:
//!
//! ```text
//! 1 s s s x n o a   a fault like the last one in slot s: see `faults`
//! 0 t k k k k k k   kind k (Event::kind); t: the thread is not the last record's and follows
//! ```
//!
//! then the time since the last record, then the event.

use crate::codec::{Port, Stop};
use crate::event::{Event, Record};
use crate::faults::{AGAIN, Faults, KIND_FAULT};
use crate::kinds::{self, Last};

const TID: u8 = 1 << 6;

/// What both sides remember within a batch.
pub(crate) struct Context {
    time: u64,
    tid: u32,
    faults: Faults,
    last: Last,
}

impl Context {
    pub(crate) const fn new(time: u64, tid: u32) -> Self {
        Context {
            time,
            tid,
            faults: Faults::new(),
            last: Last::NEW,
        }
    }

    /// Forgets everything, without writing all of it.
    pub(crate) fn reset(&mut self, time: u64, tid: u32) {
        self.time = time;
        self.tid = tid;
        self.faults.reset();
        self.last = Last::NEW;
    }

    /// Writes one record. On an error nothing is remembered of it.
    pub(crate) fn write<P: Port>(&mut self, port: &mut P, record: &Record) -> Result<(), Stop> {
        let mut record = *record;
        let (mut tag, changes) = match &record.event {
            Event::Fault(fault) => self.faults.tag(record.tid, fault),
            event => {
                let tid = if record.tid == self.tid { 0 } else { TID };
                (event.kind() as u8 | tid, 0)
            }
        };
        port.field(&mut tag)?;
        self.record(port, tag, changes, &mut record)
    }

    /// Reads one record.
    pub(crate) fn read<P: Port>(&mut self, port: &mut P) -> Result<Record, Stop> {
        let mut tag = 0;
        port.field(&mut tag)?;
        let kind = if tag & AGAIN != 0 {
            KIND_FAULT
        } else {
            tag & !TID
        };
        let mut record = Record {
            time: 0,
            tid: self.tid,
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
        // Times do not decrease on one CPU; should they, the difference still comes out right.
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
        self.tid = record.tid;
        Ok(())
    }
}
