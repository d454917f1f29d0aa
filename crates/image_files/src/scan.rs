//! The guest's bytes in units of one length, each worked on by one of a few threads.
//!
//! What reads as zero by its map alone is told as a run and not read; what is damaged is told as a
//! run with its fault, and the units around it go on.

use std::{collections::VecDeque, ops::Range};

use images::{Extent, Kind};

use crate::{
    Disk, Error, Watch,
    fetch::Fetcher,
    narrow, order,
    source::{JOB_BYTES, Source, is_zero},
};

/// What was found, in rising order of offsets.
#[derive(Debug)]
pub enum Scanned<R> {
    /// What was made of a unit that begins here.
    Unit(u64, R),
    /// Whole units that read as zero; the last may be cut by the end of the disk.
    Zeroes(Range<u64>),
    /// Units in which something cannot be read, and why.
    Damaged(Range<u64>, Error),
}

/// A piece of work: whole units.
enum Job {
    Zeroes(Range<u64>),
    Bytes(Range<u64>, Vec<Extent>),
}

impl Disk {
    /// Looks at the units of `unit` bytes in `wanted`: ranges that ascend, begin at a multiple of
    /// `unit` and end at one or at the end of the disk. `make` is given the offset and the bytes of
    /// each unit that is not zero by its map, on some thread; `take` what it made, in order.
    pub fn scan<R: Send>(
        &mut self,
        wanted: &[Range<u64>],
        unit: u64,
        make: &(dyn Fn(u64, &[u8]) -> R + Sync),
        take: &mut dyn FnMut(Scanned<R>),
        watch: &mut Watch<'_>,
    ) -> Result<(), Error> {
        let size = self.virtual_size();
        for range in wanted {
            let ends = range.is_empty() || range.end.is_multiple_of(unit) || range.end == size;
            let begins = range.is_empty() || range.start.is_multiple_of(unit);
            assert!(begins && ends, "units are looked at whole");
        }
        let files = &self.files;
        let mut source = Source::new(&mut self.chain, files);
        let mut left: VecDeque<Range<u64>> =
            wanted.iter().filter(|r| !r.is_empty()).cloned().collect();
        let next = || -> Result<Option<Job>, Error> {
            let Some(range) = left.front_mut() else { return Ok(None) };
            let job = job(&mut source, range.clone(), unit)?;
            range.start = job.range().end;
            if range.is_empty() {
                left.pop_front();
            }
            Ok(Some(job))
        };
        let work = |fetcher: &mut Fetcher, job: Job| -> Result<_, Error> {
            let (range, extents) = match job {
                Job::Zeroes(range) => return Ok((range.clone(), vec![Scanned::Zeroes(range)])),
                Job::Bytes(range, extents) => (range, extents),
            };
            let mut bytes = Vec::new();
            let whole =
                extents.iter().try_for_each(|extent| fetcher.fetch(files, extent, &mut bytes));
            let units = (range.start..range.end).step_by(narrow(unit));
            let made = units.map(|start| {
                let end = range.end.min(start + unit);
                if whole.is_ok() {
                    let (from, to) = (narrow(start - range.start), narrow(end - range.start));
                    return Ok(Scanned::Unit(start, make(start, &bytes[from..to])));
                }
                // Something in this piece of work is damaged: unit by unit, to spare the others.
                let mut bytes = Vec::new();
                let cut =
                    extents.iter().filter(|extent| extent.start < end && start < extent.end());
                let mut cut = cut.map(|extent| extent.cut(start.max(extent.start), end));
                match cut.try_for_each(|extent| fetcher.fetch(files, &extent, &mut bytes)) {
                    Ok(()) => Ok(Scanned::Unit(start, make(start, &bytes))),
                    Err(error @ Error::Fault { .. }) => Ok(Scanned::Damaged(start..end, error)),
                    Err(error) => Err(error),
                }
            });
            Ok((range.clone(), made.collect::<Result<Vec<_>, Error>>()?))
        };
        order::in_order(order::threads(), next, work, |(range, made)| {
            made.into_iter().for_each(&mut *take);
            watch.advance(range.end - range.start)
        })
    }
}

impl Job {
    fn range(&self) -> &Range<u64> {
        match self {
            Self::Zeroes(range) | Self::Bytes(range, _) => range,
        }
    }
}

/// The first piece of work of `range`: units that are zero, or about [`JOB_BYTES`] of others.
fn job(source: &mut Source<'_>, range: Range<u64>, unit: u64) -> Result<Job, Error> {
    let mut zero = range.start;
    while zero < range.end {
        let extent = source.extent(zero, range.end)?;
        if !is_zero(&extent.kind) {
            break;
        }
        zero = extent.end();
    }
    // The end of the range ends a unit, too.
    let whole = if zero == range.end { zero } else { zero / unit * unit };
    if whole > range.start {
        return Ok(Job::Zeroes(range.start..whole));
    }
    let most = (JOB_BYTES / unit).max(1) * unit;
    let end = range.end.min(range.start.saturating_add(most));
    let (mut place, mut extents) = (range.start, Vec::new());
    while place < end {
        let extent = source.extent(place, end)?;
        // A long run of zeroes that begins here is better told than read.
        let begins_unit = place > range.start && place.is_multiple_of(unit);
        if begins_unit && is_zero(&extent.kind) && extent.len >= unit {
            return Ok(Job::Bytes(range.start..place, extents));
        }
        place = extent.end();
        let kind = if is_zero(&extent.kind) { Kind::Zero } else { extent.kind };
        extents.push(Extent { kind, ..extent });
    }
    Ok(Job::Bytes(range.start..end, extents))
}

#[cfg(test)]
mod tests;
