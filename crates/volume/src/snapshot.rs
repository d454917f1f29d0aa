//! All that can be asked of a store without changing it, as it stood at one moment.
//!
//! Cheap to make and to keep; belongs to whoever asked, on any thread. Files of runs that it names
//! stay readable while it lives; cells it names may move, and who reads them asks again.

use crate::Below;
use catalogue::Catalogue;
use history_index::{Bound, Content, IndexSnapshot, LeafVersions};
use std::sync::Arc;
use units::{BLOCK_BYTES, BranchId, Extent, Lba, Leaf, Sequence};

/// See the module's head.
#[derive(Clone)]
pub struct Snapshot {
    /// Volumes, branches, marks.
    pub catalogue: Arc<Catalogue>,
    /// Every version there is.
    pub index: IndexSnapshot,
    /// The last sequence.
    pub head: Sequence,
    /// All up to here is durable.
    pub durable: Sequence,
}

/// What became of a range of bytes between two instants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// First byte.
    pub offset_bytes: u64,
    /// How many.
    pub length_bytes: u64,
    /// What is there afterwards.
    pub kind: ChangedKind,
}

/// See [`Changed::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangedKind {
    /// Other data.
    Data,
    /// Zeros.
    Zero,
}

impl Snapshot {
    /// Whose versions a branch shows up to a sequence.
    pub fn chain(&self, branch: BranchId, up_to: Sequence) -> Vec<Bound> {
        let chain = self.catalogue.chain(branch, up_to);
        chain.into_iter().map(|(branch, up_to)| Bound { branch, up_to }).collect()
    }

    /// Where blocks differ between two instants, in order, neighbours of one kind joined. Costs by
    /// what was written between them, not by the size of the disk; a block written anew with equal
    /// bytes counts as changed, and all of a base counts as data. Two that stand on different bases cost by
    /// the size of those. `found` is called for each; it may end the search by `false`.
    pub fn diff(
        &self,
        one: (BranchId, Sequence),
        other: (BranchId, Sequence),
        found: impl FnMut(Changed) -> bool,
    ) -> Result<(), history_index::Error> {
        self.between(Some(one), other, found)
    }

    /// What an instant holds, all of a base counting as data; as [`Snapshot::diff`] against nothing.
    pub fn held(
        &self,
        state: (BranchId, Sequence),
        found: impl FnMut(Changed) -> bool,
    ) -> Result<(), history_index::Error> {
        self.between(None, state, found)
    }

    fn between(
        &self,
        one: Option<(BranchId, Sequence)>,
        other: (BranchId, Sequence),
        mut found: impl FnMut(Changed) -> bool,
    ) -> Result<(), history_index::Error> {
        let before = one.map_or_else(Vec::new, |one| self.chain(one.0, one.1));
        let after = self.chain(other.0, other.1);
        let below = |branch| Below::of(&self.catalogue, branch);
        let (below_before, below_after) = (one.and_then(|one| below(one.0)), below(other.0));
        let size = |(branch, up_to)| self.catalogue.size_at(branch, up_to).unwrap_or(0);
        let size_bytes = one.map_or(0, size).max(size(other));
        let blocks = size_bytes.div_ceil(BLOCK_BYTES);
        let Some(all) = Lba::new(0).and_then(|start| Extent::new(start, blocks)) else {
            return Ok(());
        };
        let mut joined: Option<Changed> = None;
        let changed = self.index.changed_leaves(&before, &after)?;
        // Two that stand on the same base differ where one was written; else anywhere in a base.
        let same = below_before.map(|below| below.id) == below_after.map(|below| below.id);
        let apart = [below_before, below_after].into_iter().flatten().map(|below| below.blocks);
        let apart = apart.max().filter(|_| !same).unwrap_or(0);
        let leaves: Box<dyn Iterator<Item = Leaf>> = match Extent::new(all.start(), apart) {
            None => Box::new(changed.leaves(all)),
            Some(_) => Box::new(all.leaves().map(|(leaf, _)| leaf)),
        };
        for leaf in leaves {
            let was = Seen { versions: self.index.load_leaf(&before, leaf)?, below: below_before };
            let is = Seen { versions: self.index.load_leaf(&after, leaf)?, below: below_after };
            if !Self::diff_leaf(leaf, &was, &is, size_bytes, &mut joined, &mut found) {
                return Ok(());
            }
        }
        if let Some(last) = joined {
            found(last);
        }
        Ok(())
    }

    fn diff_leaf(
        leaf: Leaf,
        was: &Seen,
        is: &Seen,
        size_bytes: u64,
        joined: &mut Option<Changed>,
        found: &mut impl FnMut(Changed) -> bool,
    ) -> bool {
        for lba in leaf.extent().lbas() {
            let offset_bytes = lba.offset_bytes();
            if offset_bytes >= size_bytes {
                break;
            }
            let kind = match (was.data(lba), is.data(lba)) {
                (None, None) => continue,
                (Some(was), Some(is)) if was == is => continue,
                (_, Some(_)) => ChangedKind::Data,
                (Some(_), None) => ChangedKind::Zero,
            };
            let length_bytes = BLOCK_BYTES.min(size_bytes - offset_bytes);
            match joined {
                Some(last)
                    if last.kind == kind
                        && last.offset_bytes + last.length_bytes == offset_bytes =>
                {
                    last.length_bytes += length_bytes;
                }
                _ => {
                    let next = Changed { offset_bytes, length_bytes, kind };
                    if let Some(done) = joined.replace(next)
                        && !found(done)
                    {
                        return false;
                    }
                }
            }
        }
        true
    }
}

/// A leaf as an instant shows it.
struct Seen {
    versions: LeafVersions,
    below: Option<Below>,
}

impl Seen {
    /// The write that gave a block its data, or the base that it stands in; `None` if it reads as zero.
    fn data(&self, lba: Lba) -> Option<(BranchId, Sequence)> {
        let Some(version) = self.versions.get(lba) else {
            let below = self.below.filter(|below| lba.number() < below.blocks)?;
            return Some((below.id, Sequence::ZERO));
        };
        match version.content {
            Content::Place(_) => Some((version.branch, version.sequence)),
            Content::Zero => None,
        }
    }
}
