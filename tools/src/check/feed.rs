//! From the trace to the checker: in what order, and where it is not whole.

use std::collections::VecDeque;

use model::checker::{At, Checker, Event, of_trace};
use wire::event::Record;
use wire::{Body, Item};

use crate::analysis::stream::{Observer, State};

/// Events shown with a violation.
const CONTEXT: usize = 12;
/// Events remembered, to choose those from.
const REMEMBERED: usize = 64 * CONTEXT;

/// Feeds a checker, and keeps what led to each violation that it keeps.
pub struct Feed {
    /// The checker.
    pub checker: Checker,
    /// For each of its violations, the events of that CPU up to it.
    pub contexts: Vec<Vec<(At, Event)>>,
    /// Events of any kind.
    pub events: u64,
    /// Events that came after later ones.
    pub late: u64,
    latest: u64,
    recent: VecDeque<(At, Event)>,
    /// The next frame's number.
    expected: Option<u32>,
    /// Events that all CPUs have dropped so far.
    dropped: u64,
    /// The same by CPU, as of their last snapshots.
    dropped_by_cpu: Vec<u64>,
    unreadable: u64,
    /// The batch that is being read may have had its loss anywhere.
    lossy_batch: bool,
}

impl Feed {
    /// `limit`: violations kept in full.
    pub fn new(limit: usize) -> Feed {
        Feed {
            checker: Checker::new(limit),
            contexts: Vec::new(),
            events: 0,
            late: 0,
            latest: 0,
            recent: VecDeque::new(),
            expected: None,
            dropped: 0,
            dropped_by_cpu: Vec::new(),
            unreadable: 0,
            lossy_batch: false,
        }
    }

    fn lost(&mut self) {
        self.checker.lost();
        self.recent.clear();
    }

    fn check(&mut self, at: At, event: Event) {
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back((at, event));
        self.checker.event(at, event);
        while self.contexts.len() < self.checker.violations().len() {
            let here = self.recent.iter().filter(|(other, _)| other.cpu == at.cpu);
            let mut context: Vec<_> = here.rev().take(CONTEXT).copied().collect();
            context.reverse();
            self.contexts.push(context);
        }
    }

    /// All CPUs have dropped at least so many events.
    fn drops(&mut self, dropped: u64) {
        if dropped > self.dropped {
            self.dropped = dropped;
            self.lost();
            // A batch says how many there are, not where.
            self.lossy_batch = true;
        }
    }
}

impl Observer for Feed {
    fn item(&mut self, item: &Item<'_>, state: &State) {
        if std::mem::take(&mut self.lossy_batch) || state.losses.unreadable_events > self.unreadable
        {
            self.unreadable = state.losses.unreadable_events;
            self.lost();
        }
        let Item::Frame(envelope) = item else {
            // What it held is missed by its number.
            return;
        };
        let first = self.expected.is_none() && state.losses.late_start;
        if first || self.expected.is_some_and(|next| next != envelope.seq) {
            self.lost();
        }
        self.expected = Some(envelope.seq.wrapping_add(1));
        match &envelope.body {
            Body::Batch(batch) => self.drops(batch.dropped),
            Body::Snapshot(snapshot) => {
                let cpu = usize::from(envelope.cpu);
                if self.dropped_by_cpu.len() <= cpu {
                    self.dropped_by_cpu.resize(cpu + 1, 0);
                }
                self.dropped_by_cpu[cpu] = snapshot.dropped.iter().sum();
                self.drops(self.dropped_by_cpu.iter().sum());
            }
            _ => {}
        }
    }

    fn before(&mut self, _: &State, cpu: u8, record: &Record) {
        self.events += 1;
        self.late += u64::from(record.time < self.latest);
        self.latest = self.latest.max(record.time);
        let at = At {
            position: self.events,
            time: record.time,
            cpu,
        };
        of_trace(&record.event, |event| self.check(at, event));
    }

    fn restart(&mut self) {
        self.lost();
        self.latest = 0;
        self.dropped = 0;
        self.dropped_by_cpu.clear();
        self.expected = None;
    }
}
