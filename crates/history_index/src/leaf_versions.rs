//! The newest visible version of each block of one leaf, as far as it is known.
//!
//! Filled by [`load_leaf`](crate::MemoryRun::load_leaf) of one source after the other; a block that
//! is still unknown after the oldest source was never written and reads as zero.

use crate::{Version, ZeroRange, planted};
use units::{LEAF_BLOCKS, Lba, Leaf, Sequence};

/// Versions of the blocks of one leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafVersions {
    leaf: Leaf,
    versions: Vec<Option<Version>>, // LEAF_BLOCKS of them
    missing: usize,
}

impl LeafVersions {
    /// Nothing known yet.
    pub fn new(leaf: Leaf) -> Self {
        let versions: Vec<_> = (0..LEAF_BLOCKS).map(|_| None).collect();
        Self { leaf, missing: versions.len(), versions }
    }

    /// Which leaf.
    pub fn leaf(&self) -> Leaf {
        self.leaf
    }

    /// Takes the version unless a newer one of the block is known; a block outside the leaf is a
    /// bug. Of equal sequences a cell wins over zeros.
    pub fn offer(&mut self, lba: Lba, version: Version) {
        assert_eq!(lba.leaf(), self.leaf, "a block of another leaf");
        let known = &mut self.versions[lba.index_in_leaf()];
        match known {
            None => self.missing -= 1,
            Some(old) if old.sequence > version.sequence && !planted::is(21) => return,
            Some(old)
                if old.sequence == version.sequence && version.content == crate::Content::Zero =>
            {
                return;
            }
            Some(_) => {}
        }
        *known = Some(version);
    }

    /// Offers zeros for the part of the range that lies in the leaf.
    pub fn offer_range(&mut self, range: &ZeroRange) {
        let Some(part) = range.extent.overlap(self.leaf.extent()) else { return };
        for lba in part.lbas() {
            self.offer(lba, Version::of_range(range));
        }
    }

    /// Forgets what was written up to that sequence.
    pub(crate) fn forget_up_to(&mut self, sequence: Sequence) {
        for known in &mut self.versions {
            if known.is_some_and(|version| version.sequence <= sequence) {
                *known = None;
                self.missing += 1;
            }
        }
    }

    /// The newest known version of a block of this leaf.
    pub fn get(&self, lba: Lba) -> Option<Version> {
        assert_eq!(lba.leaf(), self.leaf, "a block of another leaf");
        self.versions[lba.index_in_leaf()]
    }

    /// All [`LEAF_BLOCKS`] of them, in order.
    pub fn versions(&self) -> &[Option<Version>] {
        &self.versions
    }

    /// How many blocks have no known version.
    pub fn missing(&self) -> usize {
        self.missing
    }

    /// Whether every block has a version, so that older sources cannot add anything.
    pub fn is_complete(&self) -> bool {
        self.missing == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Content;
    use units::{BranchId, Extent, FileId, Place};

    fn version(sequence: u64, content: Content) -> Version {
        Version { branch: BranchId(1), sequence: Sequence::new(sequence).expect("small"), content }
    }

    #[test]
    fn the_greatest_sequence_stays() {
        let lba = Lba::new(700).expect("small");
        let place = Content::Place(Place::new(FileId::MAX, 64).expect("aligned"));
        let mut versions = LeafVersions::new(lba.leaf());
        for offered in [version(5, place), version(3, Content::Zero), version(5, Content::Zero)] {
            versions.offer(lba, offered);
        }
        assert_eq!(versions.get(lba), Some(version(5, place)));
        assert_eq!(versions.missing(), 511);
    }

    #[test]
    fn a_range_over_all_completes_the_leaf() {
        let leaf = Lba::new(700).expect("small").leaf();
        let extent = Extent::new(Lba::new(0).expect("small"), 2000).expect("not empty");
        let sequence = Sequence::new(9).expect("small");
        let mut versions = LeafVersions::new(leaf);
        versions.offer_range(&ZeroRange { branch: BranchId(1), sequence, extent, kind: 1 });
        assert!(versions.is_complete());
    }
}
