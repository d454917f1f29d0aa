//! Which ranges of a disk an image of it has to hold.
//!
//! Formats that keep a map say it by theirs. One that keeps none (raw, fixed VHD, flat VMDK) says
//! nothing where its file has no holes: there the bytes are read once to find the zeroes. What a
//! plan may hold in memory is bounded: past [`HELD_MAX`] ranges it becomes coarser, and a few zeroes
//! are written as data.

use images::{Extent, layout::Held};

use crate::{
    Disk, Error, Watch,
    fetch::Fetcher,
    order,
    sink::full_runs,
    source::{Source, is_zero},
};

/// Ranges in a plan.
const HELD_MAX: usize = 1 << 20;

/// Multiples at which ranges begin and end, at first.
const GRAIN_BYTES: u64 = 4096;

impl Disk {
    /// The ranges that hold anything but zeroes, in order.
    pub(crate) fn held(&mut self, watch: &mut Watch<'_>) -> Result<Vec<Held>, Error> {
        let looks = self.chain.layers().iter().any(|layer| layer.facts().unit == 0);
        if looks { self.held_by_bytes(watch) } else { self.held_by_map(watch) }
    }

    /// The ranges that its map, and holes of its files, do not say to be zero, in order: known
    /// without reading a byte of the guest's.
    pub fn held_by_map(&mut self, watch: &mut Watch<'_>) -> Result<Vec<Held>, Error> {
        let size = self.virtual_size();
        let mut ranges = Ranges::new(size);
        let mut source = Source::new(&mut self.chain, &self.files);
        let mut place = 0;
        while place < size {
            for extent in source.extents(place, size)? {
                place = extent.end();
                if !is_zero(&extent.kind) {
                    ranges.add(extent.start, extent.end());
                }
            }
            if (watch.stopped)() {
                return Err(Error::Interrupted);
            }
        }
        Ok(ranges.held)
    }

    fn held_by_bytes(&mut self, watch: &mut Watch<'_>) -> Result<Vec<Held>, Error> {
        let size = self.virtual_size();
        let mut ranges = Ranges::new(size);
        let files = &self.files;
        let mut source = Source::new(&mut self.chain, files);
        let mut place = 0;
        let next = || {
            if place >= size {
                return Ok(None);
            }
            let extents: Vec<Extent> = source.extents(place, size)?;
            place = extents.last().map_or(size, Extent::end);
            Ok(Some(extents))
        };
        let work = |fetcher: &mut Fetcher, extents: Vec<Extent>| {
            let mut found = Vec::new();
            let mut bytes = Vec::new();
            for extent in extents.iter().filter(|extent| !is_zero(&extent.kind)) {
                bytes.clear();
                // Damage is held: whoever writes the range meets it again, and says so.
                match fetcher.fetch(files, extent, &mut bytes) {
                    Ok(()) => found.extend(full_runs(extent.start, &bytes).into_iter().map(
                        |(start, run)| {
                            let start = extent.start + start as u64;
                            (start, start + run.len() as u64)
                        },
                    )),
                    Err(_) => found.push((extent.start, extent.end())),
                }
            }
            Ok(found)
        };
        order::in_order(order::threads(), next, work, |found| {
            for (start, end) in found {
                ranges.add(start, end);
            }
            if (watch.stopped)() { Err(Error::Interrupted) } else { Ok(()) }
        })?;
        Ok(ranges.held)
    }
}

/// Ranges in order, joined where they meet.
struct Ranges {
    held: Vec<Held>,
    size: u64,
    grain: u64,
    max: usize,
}

impl Ranges {
    fn new(size: u64) -> Self {
        Self { held: Vec::new(), size, grain: GRAIN_BYTES, max: HELD_MAX }
    }

    /// Adds a range that begins at or behind the start of the last one.
    fn add(&mut self, start: u64, end: u64) {
        let start = start / self.grain * self.grain;
        let end = end.checked_next_multiple_of(self.grain).unwrap_or(self.size).min(self.size);
        if let Some(last) = self.held.last_mut()
            && start <= last.start + last.len
        {
            last.len = last.len.max(end.saturating_sub(last.start));
            return;
        }
        self.held.push(Held { start, len: end - start, zero: false });
        if self.held.len() > self.max {
            self.grain *= 2;
            for held in std::mem::take(&mut self.held) {
                self.add(held.start, held.start + held.len);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(max: usize, ranges: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut all = Ranges { max, ..Ranges::new(1 << 30) };
        for (start, end) in ranges {
            all.add(*start, *end);
        }
        all.held.iter().map(|held| (held.start, held.start + held.len)).collect()
    }

    #[test]
    fn ranges_are_whole_grains_and_join() {
        assert_eq!(
            held(9, &[(1, 2), (4095, 4097), (12_288, 12_289)]),
            [(0, 8192), (12_288, 16_384)]
        );
        let mut odd = Ranges::new(5000);
        odd.add(4500, 5000);
        assert_eq!(odd.held, [Held { start: 4096, len: 904, zero: false }]);
    }

    #[test]
    fn a_plan_that_grows_too_long_becomes_coarser() {
        let scattered: Vec<(u64, u64)> = (0..64).map(|n| (n * 16_384, n * 16_384 + 512)).collect();
        assert_eq!(held(64, &scattered).len(), 64);
        let coarse = held(16, &scattered);
        assert!(coarse.len() <= 16, "{coarse:?}");
        let holds =
            |(start, end): &(u64, u64)| coarse.iter().any(|(from, to)| from <= start && end <= to);
        assert!(scattered.iter().all(holds));
    }
}
