//! What several CPUs did at the same time.
//!
//! The events of a trace are in one order. What they tell of took a while, though: it happened on
//! its CPU after the operation before it, and no later than its own event. Two operations of
//! different CPUs that overlap may both have counted the references to a frame, say, in an order
//! that is not that of their events. So a difference between the kernel's count and the events' is
//! a finding only if no operation of another CPU that changed the same thing overlaps.

use rustc_hash::FxHashMap;
use wire::event::{Event, Record};

use super::check::Finding;
use super::space::TableId;

/// Something that operations of several CPUs may change: a frame or a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Object {
    /// By its number.
    Frame(u64),
    /// By its number here.
    Table(TableId),
}

/// When, and on which CPU.
type Moment = (u64, u8);

/// A difference that another CPU may explain yet.
#[derive(Debug)]
struct Doubt {
    finding: Finding,
    objects: Vec<Object>,
    cpu: u8,
    /// A bit per CPU whose next operation may have begun before the event.
    waits_for: u64,
}

/// The differences that turned out to be one thing or the other.
#[derive(Debug, Default)]
pub struct Decided {
    /// Nobody else was there.
    pub findings: Vec<Finding>,
    /// Another CPU changed the same thing at the same time.
    pub excused: Vec<Finding>,
}

/// Follows who changes what, if there is more than one CPU.
#[derive(Debug, Default)]
pub struct Overlap {
    cpus: u8,
    /// By CPU, when its last operation was over.
    over: Vec<u64>,
    /// The last to change an object, and the last of any other CPU.
    changed: FxHashMap<Object, (Moment, Moment)>,
    /// What the event at hand changes.
    changes: Vec<Object>,
    doubts: Vec<Doubt>,
    now: Moment,
    decided: Decided,
}

impl Overlap {
    /// The machine has so many CPUs.
    pub fn set_cpus(&mut self, cpus: u8) {
        self.cpus = cpus.min(64);
        self.over.resize(usize::from(self.cpus), 0);
    }

    /// Whether two things can happen at the same time.
    pub fn possible(&self) -> bool {
        self.cpus > 1
    }

    /// An event follows.
    pub fn begin(&mut self, record: &Record) {
        self.now = (record.time, record.cpu);
        self.changes.clear();
    }

    /// The event at hand changes this.
    pub fn change(&mut self, object: Object) {
        if self.possible() {
            self.changes.push(object);
        }
    }

    /// What the event at hand has changed so far.
    pub fn changes(&self) -> Vec<Object> {
        self.changes.clone()
    }

    /// The event at hand and the kernel differ in what concerns these objects.
    pub fn doubt(&mut self, finding: Finding, objects: Vec<Object>) {
        let (_, cpu) = self.now;
        let since = self.over.get(usize::from(cpu)).copied().unwrap_or(0);
        let other = |object: &Object| {
            let Some((last, before)) = self.changed.get(object) else {
                return false;
            };
            let (time, _) = if last.1 == cpu { before } else { last };
            *time > since
        };
        if objects.iter().any(other) {
            self.decided.excused.push(finding);
            return;
        }
        let all = u64::MAX >> (64 - u32::from(self.cpus.max(1)));
        self.doubts.push(Doubt {
            finding,
            objects,
            cpu,
            waits_for: all & !(1 << cpu),
        });
    }

    /// The event at hand has been applied.
    pub fn end(&mut self, event: &Event) {
        if !self.possible() {
            return;
        }
        let (time, cpu) = self.now;
        for object in &self.changes {
            let (last, before) = self.changed.entry(*object).or_insert((self.now, (0, cpu)));
            if last.1 != cpu {
                *before = *last;
            }
            *last = self.now;
        }
        // What others had in doubt, this may explain: also if its operation is not over.
        let (changes, decided) = (&self.changes, &mut self.decided);
        let over = ends_operation(event);
        self.doubts.retain_mut(|doubt| {
            if doubt.cpu == cpu {
                return true;
            }
            let waits = doubt.waits_for & 1 << cpu != 0;
            if waits && doubt.objects.iter().any(|object| changes.contains(object)) {
                decided.excused.push(doubt.finding.clone());
                return false;
            }
            if over {
                doubt.waits_for &= !(1 << cpu);
            }
            if doubt.waits_for == 0 {
                decided.findings.push(doubt.finding.clone());
            }
            doubt.waits_for != 0
        });
        if over && let Some(over) = self.over.get_mut(usize::from(cpu)) {
            *over = time;
        }
    }

    /// Whether anything was decided.
    pub fn has_decided(&self) -> bool {
        !self.decided.findings.is_empty() || !self.decided.excused.is_empty()
    }

    /// What was decided since it was last asked.
    pub fn decided(&mut self) -> Decided {
        std::mem::take(&mut self.decided)
    }

    /// No more events: what is in doubt, nobody explains.
    pub fn finish(&mut self) {
        let doubts = self.doubts.drain(..).map(|doubt| doubt.finding);
        self.decided.findings.extend(doubts);
    }
}

/// Whether all that this CPU has done before is over with this event: the others are told in the
/// middle of what a later event is about.
fn ends_operation(event: &Event) -> bool {
    matches!(
        event,
        Event::Fault(_)
            | Event::Fork(_)
            | Event::Unmap { .. }
            | Event::Protect { .. }
            | Event::Discard { .. }
            | Event::Move { .. }
            | Event::Exec { .. }
            | Event::Exit { .. }
            | Event::SpaceEnd { .. }
            | Event::Reap { .. }
            | Event::Switch { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::super::check::Subject;
    use super::*;

    const F: Object = Object::Frame(7);

    fn finding(time: u64) -> Finding {
        Finding {
            subject: Subject::References,
            time,
            space: 1,
            address: None,
            kernel: String::new(),
            trace: String::new(),
        }
    }

    /// An operation of a CPU that ends at a time, changes objects, and may be in doubt about them.
    fn operation(overlap: &mut Overlap, time: u64, cpu: u8, changes: &[Object], doubt: bool) {
        let event = Event::Reap { pid: 1, by: 1 };
        overlap.begin(&Record {
            time,
            cpu,
            tid: 0,
            event,
        });
        if doubt {
            overlap.doubt(finding(time), changes.to_vec());
        }
        for object in changes {
            overlap.change(*object);
        }
        overlap.end(&event);
    }

    fn decide(operations: &[(u64, u8, &[Object], bool)]) -> (usize, usize) {
        let mut overlap = Overlap::default();
        overlap.set_cpus(2);
        for (time, cpu, changes, doubt) in operations {
            operation(&mut overlap, *time, *cpu, changes, *doubt);
        }
        overlap.finish();
        let decided = overlap.decided();
        (decided.findings.len(), decided.excused.len())
    }

    #[test]
    fn another_cpu_explains_a_difference_only_if_it_overlaps() {
        let other = Object::Table(7);
        // Before: overlapping, over long before, or about something else.
        assert_eq!(
            decide(&[(5, 0, &[], false), (7, 1, &[F], false), (9, 0, &[F], true)]),
            (0, 1)
        );
        assert_eq!(
            decide(&[(7, 1, &[F], false), (8, 0, &[], false), (9, 0, &[F], true)]),
            (1, 0)
        );
        assert_eq!(
            decide(&[(7, 1, &[other], false), (9, 0, &[F], true)]),
            (1, 0)
        );
        // After: the next operation of the other CPU began before, the one after that did not.
        assert_eq!(decide(&[(9, 0, &[F], true), (12, 1, &[F], false)]), (0, 1));
        assert_eq!(
            decide(&[
                (9, 0, &[F], true),
                (12, 1, &[], false),
                (15, 1, &[F], false)
            ]),
            (1, 0)
        );
        // The same CPU cannot.
        assert_eq!(
            decide(&[
                (7, 0, &[F], false),
                (9, 0, &[F], true),
                (10, 0, &[F], false)
            ]),
            (1, 0)
        );
        // A frame that both changed, the other one last but one.
        let both = [
            (2, 1, &[F][..], false),
            (3, 0, &[F], false),
            (4, 0, &[F], true),
        ];
        assert_eq!(decide(&both), (1, 0));
    }
}
