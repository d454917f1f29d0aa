//! Whether two things claim the same unit of a file: clusters, blocks, grains, met in any order.
//! Bounded, and says so when it gives up.

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
}
