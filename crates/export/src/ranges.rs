//! Which ranges of a state an image of it has to hold, in bounded memory.

use images::layout::Held;

/// Ranges in a plan: 24 bytes each, and about as much again in the tables made of them.
pub const RANGES_MAX: usize = 1 << 20;

/// Multiples at which ranges of data begin and end once there are too many, at first: the block of a
/// volume's map, doubled.
const GRAIN_BYTES: u64 = 8192;

/// Ranges in order, joined where they meet. Past [`RANGES_MAX`] they become coarser: gaps between
/// data count as data, which is read as the guest sees it, so the disk stays the same.
#[derive(Clone, Debug)]
pub struct Ranges {
    held: Vec<Held>,
    size: u64,
    /// 1 while ranges are as they were added.
    grain: u64,
    max: usize,
}

impl Ranges {
    /// None yet, of a disk of so many bytes.
    pub fn new(size_bytes: u64) -> Self {
        Self::bounded(size_bytes, RANGES_MAX)
    }

    /// The same with another bound.
    pub fn bounded(size_bytes: u64, max: usize) -> Self {
        Self { held: Vec::new(), size: size_bytes, grain: 1, max: max.max(2) }
    }

    /// Adds a range behind those that are there; what lies past the disk's end is left out.
    pub fn add(&mut self, start: u64, len: u64, zero: bool) {
        let end = start.saturating_add(len).min(self.size);
        if start >= end {
            return;
        }
        let (outer, outer_end) = (self.down(start), self.up(end));
        // Zeroes only where all of a grain is; the rest of it is read as it is.
        let (inner, inner_end) = (self.up(start), self.down_or_end(end));
        if zero && inner < inner_end {
            self.push(outer, inner, false);
            self.push(inner, inner_end, true);
            self.push(inner_end, outer_end, false);
        } else {
            self.push(outer, outer_end, false);
        }
        while self.held.len() > self.max {
            self.grain = (self.grain * 2).max(GRAIN_BYTES);
            for held in std::mem::take(&mut self.held) {
                // Fewer come than went: this does not come here again.
                self.add(held.start, held.len, held.zero);
            }
        }
    }

    /// The ranges.
    pub fn into_held(self) -> Vec<Held> {
        self.held
    }

    fn push(&mut self, start: u64, end: u64, zero: bool) {
        let reached = self.held.last().map_or(0, |last| last.start + last.len);
        let start = start.max(reached);
        if start >= end {
            return;
        }
        match self.held.last_mut() {
            Some(last) if last.zero == zero && reached == start => last.len += end - start,
            _ => self.held.push(Held { start, len: end - start, zero }),
        }
    }

    const fn down(&self, at: u64) -> u64 {
        at / self.grain * self.grain
    }

    /// The disk's end counts as a whole grain's.
    const fn down_or_end(&self, at: u64) -> u64 {
        if at == self.size { at } else { self.down(at) }
    }

    fn up(&self, at: u64) -> u64 {
        at.checked_next_multiple_of(self.grain).unwrap_or(self.size).min(self.size)
    }
}
