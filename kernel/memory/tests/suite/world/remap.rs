//! mremap, and what must come of it.

use memory::{MapError, PAGE_SIZE, Place, Remap};

use super::execute::honest;
use super::{Result, World};
use crate::oracle::va;
use crate::program::To;

impl World {
    pub fn remap(
        &mut self,
        process: usize,
        page: usize,
        count: usize,
        new_count: usize,
        to: To,
    ) -> Result {
        let (place, at, keep) = match to {
            To::AwayAndBack => return self.away_and_back(process, page, count),
            To::Here => (Place::Here, page, false),
            To::Page(at) => (Place::At(va(at)), at, false),
            To::Keeping(at) => (Place::At(va(at)), at, true),
        };
        let expected = self.expected(process, page, count, new_count, to);
        let owner = &mut self.processes[process];
        let done = owner.space.remap(
            &self.mem,
            Remap {
                start: va(page),
                len: count as u64 * PAGE_SIZE,
                new_len: new_count as u64 * PAGE_SIZE,
                place,
                keep,
            },
        );
        if done == Err(MapError::OutOfMemory) && self.shortage.any() {
            return Ok(());
        }
        if let Err(MapError::Refused(refusal)) = done
            && self.strict
        {
            return honest(refusal);
        }
        let start = done.map(|done| done.start);
        if start != expected.map(|()| va(at)) {
            return Err(format!("remap says {done:?}, not {expected:?}"));
        }
        let (Ok(()), Ok(done)) = (expected, done) else {
            *self.outcomes.entry("remap-refused").or_default() += 1;
            return Ok(());
        };
        if at != page {
            owner.pages.remap(page, count, at, new_count, keep);
        } else if new_count < count {
            owner.pages.unmap(page + new_count, count - new_count);
        } else if new_count > count {
            owner.pages.remap(page, count, page, new_count, false);
        }
        let name = match (keep, done.moved > 0, new_count.cmp(&count)) {
            (true, ..) => "remap-keep",
            (_, true, _) => "remap-move",
            (_, _, std::cmp::Ordering::Greater) => "remap-grow",
            _ => "remap-shrink",
        };
        *self.outcomes.entry(name).or_default() += 1;
        Ok(())
    }

    /// Whether it must work. What is one mapping, the address space says itself.
    fn expected(
        &self,
        process: usize,
        page: usize,
        count: usize,
        new_count: usize,
        to: To,
    ) -> std::result::Result<(), MapError> {
        let owner = &self.processes[process];
        let mut mappings = owner.space.mappings().iter();
        let mapping = mappings.find(|m| (m.start..m.end).contains(&va(page)));
        let mapping = mapping.ok_or(MapError::NotMapped)?;
        if matches!(to, To::Here) && new_count <= count {
            return Ok(());
        }
        let kept = count.min(new_count);
        if owner.pages.run(page, kept) < kept || va(page + kept - 1) >= mapping.end {
            return Err(MapError::NotMapped);
        }
        match to {
            To::Page(at) | To::Keeping(at) if at < page + count && page < at + new_count => {
                Err(MapError::Invalid)
            }
            To::Here
                if (page + count..page + new_count).any(|at| owner.pages.0.contains_key(&at)) =>
            {
                Err(MapError::NoRoom)
            }
            // Nor does it take the room of a stack.
            To::Here if owner.pages.is_below_stack(page + count) => Err(MapError::NoRoom),
            _ => Ok(()),
        }
    }

    /// To wherever one page more has room, and back.
    fn away_and_back(&mut self, process: usize, page: usize, count: usize) -> Result {
        let expected = self.expected(process, page, count, count, To::Page(usize::MAX / 2));
        let len = count as u64 * PAGE_SIZE;
        let mut remap = Remap {
            start: va(page),
            len,
            new_len: len + PAGE_SIZE,
            place: Place::Anywhere,
            keep: false,
        };
        let space = &mut self.processes[process].space;
        match space.remap(&self.mem, remap) {
            Ok(done) if expected.is_ok() => remap.start = done.start,
            Err(MapError::OutOfMemory) if self.shortage.any() => return Ok(()),
            Err(MapError::Refused(refusal)) if self.strict => return honest(refusal),
            Err(error) if expected == Err(error) => return Ok(()),
            done => return Err(format!("remap says {done:?}, not {expected:?}")),
        }
        self.check()?;
        for hog in self.shortage.hogs.drain(..) {
            self.mem.free(hog);
        }
        if remap.start != va(page) {
            self.processes[process].pages.moved(page, count);
            *self.outcomes.entry("remap-anywhere").or_default() += 1;
            remap.place = Place::At(va(page));
        }
        (remap.len, remap.new_len) = (len + PAGE_SIZE, len);
        let space = &mut self.processes[process].space;
        match space.remap(&self.mem, remap) {
            Ok(done) if done.start == va(page) => Ok(()),
            // It may take tables that cannot be promised. Then it is lost to the oracle.
            Err(MapError::Refused(refusal)) if self.strict => {
                let lost = (remap.start, remap.start + remap.len);
                let done = space.unmap(&self.mem, lost.0, lost.1);
                done.map_err(|error| format!("unmap: {error}"))?;
                self.processes[process].pages.unmap(page, count);
                honest(refusal)
            }
            // Refused once, it is not again.
            Err(MapError::OutOfMemory) if self.shortage.any() => {
                match space.remap(&self.mem, remap) {
                    Ok(done) if done.start == va(page) => Ok(()),
                    done => Err(format!("remap back says {done:?}")),
                }
            }
            done => Err(format!("remap back says {done:?}")),
        }
    }
}
