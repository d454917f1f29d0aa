//! Chance from one seed, by name.
//!
//! A seed is forked by label (`seed.rng("faults")`), never by order of use, so that one more draw
//! in a workload does not move a fault. Not fit for secrets: that is what makes runs repeatable.

use std::sync::{Arc, Mutex, PoisonError};
use world::Chance;

/// What a whole run follows from. Print it first when something fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seed(pub u64);

impl Seed {
    /// A seed of its own for what the label names.
    #[must_use]
    pub fn fork(self, label: &str) -> Self {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ self.0; // FNV-1a, then mixed with the seed again
        for byte in label.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Self(mix(hash ^ self.0.rotate_left(32)))
    }

    /// The generator for what the label names.
    pub fn rng(self, label: &str) -> Rng {
        Rng::new(self.fork(label))
    }
}

/// xoshiro256++, filled from a seed by splitmix64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rng([u64; 4]);

impl Rng {
    /// The generator of a seed.
    pub fn new(seed: Seed) -> Self {
        let mut at = seed.0;
        Self(std::array::from_fn(|_| {
            at = at.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(at)
        }))
    }

    /// Another generator, drawn from this one.
    #[must_use]
    pub fn split(&mut self) -> Self {
        Self::new(Seed(self.next_u64()))
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = self.0;
        let result = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c, d) = (c ^ a, d ^ b);
        self.0 = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        result
    }

    /// A number below `end`, which must not be 0.
    pub fn below(&mut self, end: u64) -> u64 {
        assert!(end > 0, "nothing lies below 0");
        let wide = u128::from(self.next_u64()) * u128::from(end);
        u64::try_from(wide >> 64).expect("upper half of 128 bits")
    }

    /// An index below `length`, which must not be 0.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("below a usize")
    }

    /// A number in `start..end`.
    pub fn between(&mut self, start: u64, end: u64) -> u64 {
        start + self.below(end - start)
    }

    /// Heads or tails.
    pub fn coin(&mut self) -> bool {
        self.next_u64() >> 63 == 1
    }

    /// True in so many of a million cases.
    pub fn chance(&mut self, per_million: u32) -> bool {
        self.below(1_000_000) < u64::from(per_million)
    }

    /// One of them.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.index(from.len())]
    }

    /// Fills all of `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next_u64().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// [`Chance`] that repeats itself; clones draw from the same row.
#[derive(Clone, Debug)]
pub struct SimChance(Arc<Mutex<Rng>>);

impl SimChance {
    /// The row of a seed.
    pub fn new(seed: Seed) -> Self {
        Self(Arc::new(Mutex::new(seed.rng("chance"))))
    }
}

impl Chance for SimChance {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fill(bytes);
    }
}

/// splitmix64's finaliser.
pub(crate) const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_give_rows_of_their_own() {
        let mut again = Seed(7).rng("faults");
        let row: Vec<u64> = (0..4).map(|_| again.next_u64()).collect();
        let mut same = Seed(7).rng("faults");
        assert_eq!(row, (0..4).map(|_| same.next_u64()).collect::<Vec<_>>());
        assert_ne!(row[0], Seed(7).rng("timing").next_u64());
        assert_ne!(row[0], Seed(8).rng("faults").next_u64());
    }

    #[test]
    fn draws_stay_below_their_end() {
        let mut rng = Seed(1).rng("x");
        let mut seen = [0_u32; 5];
        for _ in 0..5_000 {
            seen[rng.index(5)] += 1;
        }
        assert!(seen.iter().all(|n| (800..1_200).contains(n)), "{seen:?}");
        assert!((0..1000).all(|_| (3..5).contains(&rng.between(3, 5))));
    }

    #[test]
    fn chance_repeats_for_one_seed() {
        let (a, b) = (SimChance::new(Seed(3)), SimChance::new(Seed(3)));
        assert_eq!(a.bytes::<33>(), b.bytes::<33>());
        assert_ne!(a.bytes::<16>(), a.bytes::<16>());
    }
}
