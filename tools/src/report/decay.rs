//! How the sharing that a fork made went away: the pages still shared, over time.

use std::collections::BTreeMap;

use wire::event::Record;

use crate::analysis::fork::{Fork, Parting};
use crate::analysis::machine::Change;
use crate::analysis::space::ForkId;
use crate::analysis::stream::{Observer, State};

/// Forks whose curves are kept; the newest.
const FORKS_MAX: usize = 4096;
/// Points of a curve, at most.
const POINTS_MAX: usize = 128;
/// Letters of a sparkline.
pub const SPARK: usize = 8;

/// When how many pages had been written since the fork.
#[derive(Clone, Debug)]
pub(super) struct Curve {
    points: Vec<(u64, u32)>,
    broken: u32,
    /// When the last of them was.
    last: u64,
    /// A point is kept for so many pages.
    step: u32,
}

impl Default for Curve {
    fn default() -> Self {
        Curve {
            points: Vec::new(),
            broken: 0,
            last: 0,
            step: 1,
        }
    }
}

impl Curve {
    /// The points that were kept: a time, and how many there were until then.
    pub(super) fn points(&self) -> &[(u64, u32)] {
        &self.points
    }

    /// The last one, kept or not.
    pub(super) fn last(&self) -> (u64, u32) {
        (self.last, self.broken)
    }

    pub(super) fn add(&mut self, time: u64) {
        self.broken += 1;
        self.last = time;
        if !self.broken.is_multiple_of(self.step) {
            return;
        }
        if self.points.len() >= POINTS_MAX {
            self.step *= 2;
            let step = self.step;
            self.points
                .retain(|(_, broken)| broken.is_multiple_of(step));
            if !self.broken.is_multiple_of(step) {
                return;
            }
        }
        self.points.push((time, self.broken));
    }
}

/// Collects the curves.
#[derive(Debug, Default)]
pub struct Decay {
    curves: BTreeMap<ForkId, Curve>,
}

/// Pages still shared at a time.
pub type Point = (u64, u32);

impl Decay {
    /// The pages that a fork's two sides still shared, from the fork to the child's leaving, or to
    /// `end`: in ticks since the fork, without the steps in between if they are many.
    pub fn of(&self, fork: &Fork, end: u64) -> Vec<Point> {
        let all = fork.pages_shared();
        let since = |time: u64| time.saturating_sub(fork.time);
        let mut points = vec![(0, all)];
        let parted = fork.parting.map(|parting| match parting {
            Parting::Exec(time) | Parting::Exit(time) => time,
        });
        let last = parted.unwrap_or(end);
        let curve = self.curves.get(&fork.id);
        for (time, broken) in curve.into_iter().flat_map(|curve| &curve.points) {
            if *time <= last {
                points.push((since(*time), all.saturating_sub(*broken)));
            }
        }
        let left = points.last().map_or(all, |(_, left)| *left);
        points.push((since(last), left));
        points
    }
}

impl Observer for Decay {
    fn after(&mut self, _state: &State, _cpu: u8, record: &Record, change: &Change) {
        if change.fork == 0 {
            return;
        }
        let curve = self.curves.entry(change.fork).or_default();
        curve.add(record.time);
        if self.curves.len() > FORKS_MAX {
            self.curves.pop_first();
        }
    }

    fn restart(&mut self) {
        self.curves.clear();
    }
}

const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Numbers as a line of blocks; the highest is the largest.
pub fn bars(numbers: &[u32]) -> String {
    let most = u64::from(numbers.iter().copied().max().unwrap_or(0).max(1));
    let block = |number: &u32| BLOCKS[(u64::from(*number) * 8).div_ceil(most) as usize % 9];
    numbers.iter().map(block).collect()
}

/// The curve as a line of blocks, from the fork to the last point, and how much was left, in percent.
pub fn sparkline(points: &[Point]) -> Option<(String, u32)> {
    let (&(_, all), &(end, left)) = (points.first()?, points.last()?);
    if all == 0 || end == 0 {
        return None;
    }
    let line = (0..SPARK).map(|step| {
        // At the end of its part of the time.
        let time = u128::from(end) * (step as u128 + 1) / SPARK as u128;
        let at = points.partition_point(|(when, _)| u128::from(*when) <= time);
        let shared = points[at.saturating_sub(1)].1;
        BLOCKS[(u64::from(shared) * 8).div_ceil(u64::from(all)) as usize % 9]
    });
    let percent = u64::from(left) * 100 / u64::from(all);
    Some((line.collect(), percent as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_curve_keeps_its_beginning() {
        let mut curve = Curve::default();
        (1..=100_000).for_each(|time| curve.add(time));
        assert!(curve.points.len() <= POINTS_MAX && curve.points.len() > POINTS_MAX / 3);
        for (number, (time, broken)) in (1u64..).zip(&curve.points) {
            assert_eq!((*time, *broken), (number * 1024, number as u32 * 1024));
        }
    }

    #[test]
    fn a_curve_is_drawn_to_its_end() {
        assert_eq!(sparkline(&[]), None);
        assert_eq!(sparkline(&[(0, 0), (9, 0)]), None);
        let (line, left) = sparkline(&[(0, 4), (120, 4)]).expect("a line");
        assert_eq!((line.as_str(), left), ("████████", 100));
        let (line, left) = sparkline(&[(0, 4), (60, 2), (120, 0), (120, 0)]).expect("a line");
        assert_eq!((line.as_str(), left), ("███▄▄▄▄ ", 0));
    }
}
