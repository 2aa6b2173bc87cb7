//! The trace against the kernel: what the kernel counted, what the events add up to.

use serde::Serialize;
use wire::event::Space;

use super::overlap::{Object, Overlap};

/// What was compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// Valid leaves of an address space by class (`Resident`).
    Resident,
    /// References to the frame of a fault.
    References,
    /// The descriptor before a fault.
    Descriptor,
    /// Descriptors a fork wrote, pages it shared.
    Fork,
    /// References dropped and frames freed by unmapping and by ends.
    Drop,
    /// The frame that a fault took was free.
    NewFrame,
}

impl Subject {
    /// All of them.
    pub const ALL: [Subject; 6] = [
        Subject::Resident,
        Subject::References,
        Subject::Descriptor,
        Subject::Fork,
        Subject::Drop,
        Subject::NewFrame,
    ];

    /// As reports print it.
    pub const fn name(self) -> &'static str {
        match self {
            Subject::Resident => "resident pages",
            Subject::References => "reference counts",
            Subject::Descriptor => "descriptors",
            Subject::Fork => "forks",
            Subject::Drop => "references dropped",
            Subject::NewFrame => "new frames",
        }
    }
}

/// The kernel said one thing and the events another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was compared.
    pub subject: Subject,
    /// Counter ticks.
    pub time: u64,
    /// The address space.
    pub space: Space,
    /// The page, if it is about one.
    pub address: Option<u64>,
    /// What the kernel says.
    pub kernel: String,
    /// What the trace says.
    pub trace: String,
}

/// How often one subject was compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// They agreed.
    pub agreed: u64,
    /// They did not.
    pub differed: u64,
    /// The trace could not tell (loss, late start, eager copies).
    pub unknown: u64,
    /// They did not agree, but another CPU changed the same thing at the same time.
    pub concurrent: u64,
}

/// Findings kept in full; more are only counted.
const FINDINGS_MAX: usize = 64;

/// The results of all comparisons.
#[derive(Debug, Default)]
pub struct Checks {
    tallies: [Tally; Subject::ALL.len()],
    findings: Vec<Finding>,
}

/// Where a comparison was made.
#[derive(Clone, Copy, Debug)]
pub struct Spot {
    /// Counter ticks.
    pub time: u64,
    /// Address space.
    pub space: Space,
    /// The page, if it is about one.
    pub address: Option<u64>,
}

impl Checks {
    /// Compares; `trace` is `None` when the trace cannot tell.
    pub fn compare<T: PartialEq>(
        &mut self,
        subject: Subject,
        spot: Spot,
        kernel: T,
        trace: Option<T>,
        show: impl Fn(&T) -> String,
    ) {
        if let Some(finding) = self.differs(subject, spot, kernel, trace, show) {
            self.found(finding);
        }
    }

    /// Compares what other CPUs may change at the same time: a difference is for `overlap` to judge.
    pub fn compare_shared<T: PartialEq>(
        &mut self,
        subject: Subject,
        spot: Spot,
        (kernel, trace): (T, Option<T>),
        (overlap, objects): (&mut Overlap, impl FnOnce(&Overlap) -> Vec<Object>),
        show: impl Fn(&T) -> String,
    ) {
        match self.differs(subject, spot, kernel, trace, show) {
            Some(finding) if overlap.possible() => {
                let objects = objects(overlap);
                overlap.doubt(finding, objects);
            }
            Some(finding) => self.found(finding),
            None => {}
        }
    }

    fn differs<T: PartialEq>(
        &mut self,
        subject: Subject,
        spot: Spot,
        kernel: T,
        trace: Option<T>,
        show: impl Fn(&T) -> String,
    ) -> Option<Finding> {
        let tally = &mut self.tallies[subject as usize];
        match trace {
            None => tally.unknown += 1,
            Some(trace) if trace == kernel => tally.agreed += 1,
            Some(trace) => {
                return Some(Finding {
                    subject,
                    time: spot.time,
                    space: spot.space,
                    address: spot.address,
                    kernel: show(&kernel),
                    trace: show(&trace),
                });
            }
        }
        None
    }

    fn found(&mut self, finding: Finding) {
        self.tallies[finding.subject as usize].differed += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        }
    }

    /// Counts what `overlap` has judged.
    pub fn decide(&mut self, overlap: &mut Overlap) {
        if overlap.has_decided() {
            let decided = overlap.decided();
            for finding in decided.excused {
                self.tallies[finding.subject as usize].concurrent += 1;
            }
            decided
                .findings
                .into_iter()
                .for_each(|finding| self.found(finding));
        }
    }

    /// Results of one subject.
    pub fn tally(&self, subject: Subject) -> Tally {
        self.tallies[subject as usize]
    }

    /// Results of all subjects.
    pub fn total(&self) -> Tally {
        self.tallies
            .iter()
            .fold(Tally::default(), |sum, tally| Tally {
                agreed: sum.agreed + tally.agreed,
                differed: sum.differed + tally.differed,
                unknown: sum.unknown + tally.unknown,
                concurrent: sum.concurrent + tally.concurrent,
            })
    }

    /// The first differences, in full.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }
}
