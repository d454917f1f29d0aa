//! A set of leaves, kept as disjoint intervals: one trim may touch 2^39 of them.

use std::collections::BTreeMap;
use units::{Extent, LEAF_BLOCKS, Lba, Leaf};

/// Leaves, in order, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeafSet {
    intervals: BTreeMap<u64, u64>, // first leaf → the leaf after the last; never touching
}

impl LeafSet {
    /// Adds each leaf that the extent touches.
    pub fn insert(&mut self, extent: Extent) {
        let mut start = extent.start().leaf().number();
        let mut end = extent.end().div_ceil(LEAF_BLOCKS);
        while let Some((&old_start, &old_end)) = self.intervals.range(..=end).next_back() {
            if old_end < start {
                break;
            }
            self.intervals.remove(&old_start);
            (start, end) = (start.min(old_start), end.max(old_end));
        }
        self.intervals.insert(start, end);
    }

    /// Its intervals as extents of whole leaves, in order.
    pub fn extents(&self) -> impl Iterator<Item = Extent> {
        self.intervals.iter().filter_map(|(start, end)| {
            Extent::new(Lba::new(start * LEAF_BLOCKS)?, (end - start) * LEAF_BLOCKS)
        })
    }

    /// Its leaves inside `within` (the disk's size, or there may be 2^39), in order.
    pub fn leaves(&self, within: Extent) -> impl Iterator<Item = Leaf> {
        let parts = self.extents().filter_map(move |extent| extent.overlap(within));
        parts.flat_map(|part| part.leaves().map(|(leaf, _)| leaf))
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.intervals.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn holds_what_was_inserted(extents in vec((0..60_u64, 1..9_u64), 0..20)) {
            let (mut set, mut model) = (LeafSet::default(), BTreeSet::new());
            for (start, leaves) in extents {
                let lba = Lba::new(start * LEAF_BLOCKS + 7).expect("small");
                let extent = Extent::new(lba, (leaves - 1) * LEAF_BLOCKS + 1).expect("not empty");
                set.insert(extent);
                model.extend(start..start + leaves);
            }
            let all = Extent::new(Lba::default(), 100 * LEAF_BLOCKS).expect("not empty");
            let got: Vec<u64> = set.leaves(all).map(Leaf::number).collect();
            prop_assert_eq!(got, model.into_iter().collect::<Vec<_>>());
            let ends: Vec<u64> = set.extents().map(Extent::end).collect();
            let starts: Vec<u64> = set.extents().map(|e| e.start().number()).skip(1).collect();
            prop_assert!(ends.iter().zip(&starts).all(|(end, start)| end < start), "intervals touch");
        }
    }
}
