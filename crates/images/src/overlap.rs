//! Whether two things claim the same bytes of a file.
//!
//! [`Seen`] for units of equal size met in any order, [`Sweep`] for ranges of any size. Both are
//! bounded and say so when they give up.

use std::collections::HashMap;

use crate::bytes::narrow;

/// Units that were claimed: a sparse set of bits.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pages: HashMap<u64, Box<[u64; PAGE_WORDS]>>,
}

const PAGE_WORDS: usize = 512;
const PAGE_UNITS: u64 = 512 * 64;

/// Pages of a [`Seen`]: 32 MiB.
const PAGES_MAX: usize = 8192;

/// What a [`Seen`] says of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Nobody had it.
    First,
    /// Somebody had it.
    Again,
    /// The set is full and does not know.
    Unknown,
}

impl Seen {
    /// Claims a unit.
    pub fn claim(&mut self, unit: u64) -> Claim {
        let key = unit / PAGE_UNITS;
        if self.pages.len() >= PAGES_MAX && !self.pages.contains_key(&key) {
            return Claim::Unknown;
        }
        let page = self.pages.entry(key).or_insert_with(|| Box::new([0; PAGE_WORDS]));
        let word = &mut page[narrow(unit % PAGE_UNITS / 64)];
        let bit = 1 << (unit % 64);
        let claim = if *word & bit == 0 { Claim::First } else { Claim::Again };
        *word |= bit;
        claim
    }

    /// Whether somebody has it.
    pub fn has(&self, unit: u64) -> bool {
        self.pages
            .get(&(unit / PAGE_UNITS))
            .is_some_and(|page| page[narrow(unit % PAGE_UNITS / 64)] & (1 << (unit % 64)) != 0)
    }
}

/// Ranges of a file with their owners, sorted at the end.
#[derive(Debug)]
pub(crate) struct Sweep<O> {
    ranges: Vec<(u64, u64, O)>,
    full: bool,
}

/// Two owners of the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overlap<O> {
    /// First byte that both claim.
    pub start: u64,
    /// End of what both claim.
    pub end: u64,
    /// Whose range begins first.
    pub first: O,
    /// The other one.
    pub second: O,
}

impl<O: Copy + Ord> Sweep<O> {
    /// Ranges that are kept: about 64 MiB.
    const RANGES_MAX: usize = 2 << 20;

    /// Nothing claimed.
    pub fn new() -> Self {
        Self { ranges: Vec::new(), full: false }
    }

    /// Claims `len` bytes from `start` on; nothing for an empty range.
    pub fn add(&mut self, start: u64, len: u64, owner: O) {
        if len == 0 {
            return;
        }
        if self.ranges.len() >= Self::RANGES_MAX {
            self.full = true;
            return;
        }
        self.ranges.push((start, start.saturating_add(len), owner));
    }

    /// Whether some claims had no room, so that overlaps may be missing.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Every range that meets one before it, with the one that reaches furthest; in order.
    pub fn overlaps(mut self) -> Vec<Overlap<O>> {
        self.ranges.sort_unstable();
        let mut found = Vec::new();
        let mut ranges = self.ranges.into_iter();
        let Some((_, mut reach, mut holder)) = ranges.next() else { return found };
        for (start, end, owner) in ranges {
            if start < reach {
                found.push(Overlap { start, end: end.min(reach), first: holder, second: owner });
            }
            if end > reach {
                (reach, holder) = (end, owner);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_claim_is_told() {
        let mut seen = Seen::default();
        assert_eq!(seen.claim(1 << 40), Claim::First);
        assert_eq!(seen.claim((1 << 40) + 1), Claim::First);
        assert_eq!(seen.claim(1 << 40), Claim::Again);
        assert!(!seen.has(0));
    }

    #[test]
    fn full_set_does_not_know() {
        let mut seen = Seen::default();
        for page in 0..8192 {
            assert_eq!(seen.claim(page * PAGE_UNITS), Claim::First);
        }
        assert_eq!(seen.claim(8192 * PAGE_UNITS), Claim::Unknown);
        assert_eq!(seen.claim(0), Claim::Again);
    }

    #[test]
    fn ranges_that_meet_are_found() {
        let mut sweep = Sweep::new();
        for (start, len, owner) in [(0, 10, 'a'), (30, 5, 'd'), (10, 10, 'b'), (15, 10, 'c')] {
            sweep.add(start, len, owner);
        }
        assert_eq!(sweep.overlaps(), [Overlap { start: 15, end: 20, first: 'b', second: 'c' }]);
    }

    #[test]
    fn long_range_meets_all_within() {
        let mut sweep = Sweep::new();
        for (start, len, owner) in [(0, 100, 'a'), (10, 5, 'b'), (50, 5, 'c'), (100, 5, 'd')] {
            sweep.add(start, len, owner);
        }
        let met: Vec<char> = sweep.overlaps().into_iter().map(|overlap| overlap.second).collect();
        assert_eq!(met, ['b', 'c']);
    }
}
