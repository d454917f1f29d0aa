//! Which leaves of which branches a run has entries of: a Bloom filter, so that most look-ups skip
//! most runs without a read. It may say yes for nothing (1 in 100), never no for something.

use crate::{page::PAYLOAD, planted};
use units::{BranchId, Leaf};

/// Bits for each leaf, and questions asked of each.
const BITS_EACH: usize = 10;
const PROBES: u64 = 7;

/// Leaves past which a run has no filter: collecting their hashes would take more than 32 MiB.
const LEAVES_MAX: usize = 4 << 20;

/// A filter; without bits it says yes to all.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    bytes: Vec<u8>, // a multiple of PAYLOAD
}

impl Filter {
    /// From the payloads of its pages, one after the other.
    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    /// The payloads of its pages.
    pub(crate) fn pages(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.chunks(PAYLOAD)
    }

    /// Whether the run may have entries there.
    pub(crate) fn may_hold(&self, branch: BranchId, leaf: Leaf) -> bool {
        self.bytes.is_empty()
            || self.bits_of(hash(branch, leaf)).all(|(byte, bit)| self.bytes[byte] & bit != 0)
    }

    /// The bytes and masks that a hash stands for.
    fn bits_of(&self, hash: u64) -> impl Iterator<Item = (usize, u8)> + use<> {
        let bits = 8 * self.bytes.len() as u64;
        let (low, high) = (hash & 0xffff_ffff, hash >> 32 | 1);
        (0..PROBES).map(move |probe| {
            let bit = (low + probe * high) % bits;
            let byte = usize::try_from(bit / 8).expect("inside a vector");
            (byte, 1 << (bit % 8))
        })
    }
}

/// Collects leaves for a filter.
#[derive(Debug, Default)]
pub(crate) struct FilterBuilder {
    hashes: Vec<u64>,
    last: Option<(BranchId, Leaf)>,
    overflowed: bool,
}

impl FilterBuilder {
    /// Adds a leaf; in order, so that each is counted once.
    pub(crate) fn add(&mut self, branch: BranchId, leaf: Leaf) {
        if self.last == Some((branch, leaf)) || self.overflowed {
            return;
        }
        self.last = Some((branch, leaf));
        self.overflowed = self.hashes.len() == LEAVES_MAX;
        if self.overflowed {
            self.hashes = Vec::new();
        } else {
            self.hashes.push(hash(branch, leaf));
        }
    }

    /// The filter of all that was added; none if that was nothing or too much.
    pub(crate) fn finish(self) -> Filter {
        let bytes = (self.hashes.len() * BITS_EACH).div_ceil(8).next_multiple_of(PAYLOAD);
        let mut filter = Filter { bytes: vec![0; bytes] };
        let forgotten = usize::from(planted::is(22));
        for hash in self.hashes.into_iter().skip(forgotten) {
            for (byte, bit) in filter.bits_of(hash) {
                filter.bytes[byte] |= bit;
            }
        }
        filter
    }
}

fn hash(branch: BranchId, leaf: Leaf) -> u64 {
    mix(mix(u64::from(branch.0)) ^ leaf.number())
}

/// The finalizer of splitmix64, one step from its seed.
fn mix(seed: u64) -> u64 {
    let a = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let b = (a ^ a >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let c = (b ^ b >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    c ^ c >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::btree_set, prelude::*};
    use units::Lba;

    fn leaf(number: u64) -> Leaf {
        Lba::new(number * 512).expect("small").leaf()
    }

    proptest! {
        #[test]
        fn what_was_added_is_always_found(keys in btree_set((0..5_u32, 0..(1_u64 << 39)), 1..2000)) {
            let mut builder = FilterBuilder::default();
            for (branch, number) in &keys {
                builder.add(BranchId(*branch), leaf(*number));
            }
            let filter = builder.finish();
            for (branch, number) in &keys {
                prop_assert!(filter.may_hold(BranchId(*branch), leaf(*number)));
            }
        }
    }

    #[test]
    fn most_others_are_not_found() {
        let mut builder = FilterBuilder::default();
        for number in 0..50_000 {
            builder.add(BranchId(1), leaf(number * 3));
        }
        let filter = builder.finish();
        let wrong = (0..50_000).filter(|n| filter.may_hold(BranchId(1), leaf(n * 3 + 1))).count();
        assert!(wrong < 1_000, "{wrong} of 50000 found without being there");
    }
}
