//! Bases: what lies below a volume's first branch, in a foreign image that is taken over bit by bit.
//!
//! A base has a number of branches' kind, and cells of its own in the log, but is no [`Branch`]: it has
//! no instants. Whatever it holds was there before the volume's first write, so all of it is seen at
//! every instant, below all branches. What neither branches nor base know stands in the source until
//! the base is *detached* from it; after that it is zero.

use units::{BranchId, VolumeId};

use crate::{
    error::CatalogueError,
    record::CatalogueRecord,
    state::{Branch, Catalogue, LogicalBlock, When},
    volumes::{NewVolume, check_size},
};

/// Bytes of a unit: what is taken over at once.
pub const UNIT_BYTES: u64 = 1 << 20;

/// Bytes of an origin or a seal, at most.
pub const SOURCE_BYTES_MAX: usize = 1 << 20;

/// What a volume stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// Its number, from those of branches: the cells that were taken over have it.
    pub id: BranchId,
    /// The first branch of the volume that was made on it.
    pub root: BranchId,
    /// Bytes that the source shows; zeros follow them.
    pub size_bytes: u64,
    /// When it was made.
    pub made: When,
    /// All of it shall be taken over.
    pub fill: bool,
    /// Bytes a second that may be taken over; 0: as many as can be.
    pub rate_bytes: u64,
    /// Nothing of the source is needed any more.
    pub detached: bool,
    /// Where the source is and how it is read; not understood here.
    pub origin: Vec<u8>,
    /// What was true of the source when it was adopted; not understood here.
    pub seal: Vec<u8>,
}

/// The image that a new volume stands on.
#[derive(Clone, Debug)]
pub struct NewBase {
    /// See [`Base::size_bytes`]; rounded up to whole logical blocks it is the volume's size.
    pub size_bytes: u64,
    /// See [`Base::fill`].
    pub fill: bool,
    /// See [`Base::rate_bytes`].
    pub rate_bytes: u64,
    /// See [`Base::origin`].
    pub origin: Vec<u8>,
    /// See [`Base::seal`].
    pub seal: Vec<u8>,
}

/// Units that were taken over and are durable: runs, ascending, with a gap between any two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Units(Vec<(u64, u64)>);

impl Base {
    /// Units in all.
    pub fn units(&self) -> u64 {
        self.size_bytes.div_ceil(UNIT_BYTES)
    }
}

impl Units {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the units from `first` to before `end`; nothing if that is none.
    pub fn insert(&mut self, first: u64, end: u64) {
        if first >= end {
            return;
        }
        let from = self.0.partition_point(|&(_, stop)| stop < first);
        let to = self.0.partition_point(|&(start, _)| start <= end);
        let (mut start, mut stop) = (first, end);
        if from < to {
            start = start.min(self.0[from].0);
            stop = stop.max(self.0[to - 1].1);
        }
        self.0.splice(from..to, [(start, stop)]);
    }

    /// Whether a unit is among them.
    pub fn has(&self, unit: u64) -> bool {
        let after = self.0.partition_point(|&(start, _)| start <= unit);
        after > 0 && unit < self.0[after - 1].1
    }

    /// The first unit at or behind `unit` that is not among them.
    pub fn next_missing(&self, unit: u64) -> u64 {
        let after = self.0.partition_point(|&(start, _)| start <= unit);
        if after > 0 { unit.max(self.0[after - 1].1) } else { unit }
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }

    /// Runs from a first unit to before an end.
    pub fn runs(&self) -> &[(u64, u64)] {
        &self.0
    }
}

impl Catalogue {
    /// A volume on an image: what is not written to it is read from there.
    pub fn plan_adopt(
        &self,
        new: NewVolume,
        block: LogicalBlock,
        base: NewBase,
        now: When,
    ) -> Result<(VolumeId, Base, Vec<CatalogueRecord>), CatalogueError> {
        self.name_must_be_free(&new.name)?;
        let size_bytes = base.size_bytes.next_multiple_of(block.bytes());
        check_size(size_bytes, block)?;
        let (volume, root) = (self.new_volume(new, block, now)?, self.new_branch_id()?);
        let below = root.0.checked_add(1).filter(|id| *id < u32::MAX);
        let below = below.ok_or(CatalogueError::NumbersUsedUp("branch"))?;
        let base = Base {
            id: BranchId(below),
            root,
            size_bytes: base.size_bytes,
            made: now,
            fill: base.fill,
            rate_bytes: base.rate_bytes,
            detached: false,
            origin: base.origin,
            seal: base.seal,
        };
        let id = volume.id;
        let records = vec![
            CatalogueRecord::Volume(volume),
            CatalogueRecord::Branch(Branch::new(root, id, now)),
            CatalogueRecord::Base(base.clone()),
            CatalogueRecord::Size { branch: root, sequence: now.sequence, size_bytes },
            CatalogueRecord::served(id, root, now),
        ];
        Ok((id, base, CatalogueRecord::as_one_step(records)))
    }

    /// Another wish for the rest of a base: whether it shall be taken over, and how fast.
    pub fn plan_fill(
        &self,
        base: BranchId,
        fill: bool,
        rate_bytes: u64,
    ) -> Result<Vec<CatalogueRecord>, CatalogueError> {
        let base = self.some_base(base)?;
        if base.detached || (base.fill, base.rate_bytes) == (fill, rate_bytes) {
            return Ok(Vec::new());
        }
        Ok(vec![CatalogueRecord::Base(Base { fill, rate_bytes, ..base.clone() })])
    }

    /// The source is somewhere else, or was proved to be the same though it looks otherwise.
    pub fn plan_source(
        &self,
        base: BranchId,
        origin: Vec<u8>,
        seal: Vec<u8>,
    ) -> Result<Vec<CatalogueRecord>, CatalogueError> {
        let base = self.some_base(base)?;
        Ok(vec![CatalogueRecord::Base(Base { origin, seal, ..base.clone() })])
    }

    /// Units were taken over, and are durable. (The volume records that itself, behind a flush.)
    pub fn plan_taken(
        &self,
        base: BranchId,
        runs: Vec<(u64, u64)>,
    ) -> Result<Vec<CatalogueRecord>, CatalogueError> {
        let base = self.some_base(base)?;
        if base.detached || runs.is_empty() {
            return Ok(Vec::new());
        }
        Ok(vec![CatalogueRecord::Taken { base: base.id, runs }])
    }

    /// Nothing of the source is needed any more: every unit was taken over, durably.
    pub fn plan_detach_base(&self, base: BranchId) -> Result<Vec<CatalogueRecord>, CatalogueError> {
        let base = self.some_base(base)?;
        if base.detached {
            return Ok(Vec::new());
        }
        let missing = base.units() - self.taken(base.id).count();
        if missing > 0 {
            return Err(CatalogueError::NotAllTaken { missing });
        }
        Ok(vec![CatalogueRecord::Base(Base { detached: true, ..base.clone() })])
    }

    /// All bases, also of volumes in the trash.
    pub fn bases(&self) -> impl Iterator<Item = &Base> {
        self.bases.values()
    }

    /// A base by its number.
    pub fn base(&self, id: BranchId) -> Option<&Base> {
        self.bases.get(&id)
    }

    /// What a branch stands on in the end: the base of the first branch of its line.
    pub fn base_of(&self, branch: BranchId) -> Option<&Base> {
        if self.bases.is_empty() {
            return None;
        }
        let mut root = self.branches.get(&branch)?;
        while let Some(fork) = root.parent {
            root = self.branches.get(&fork.branch)?;
        }
        self.bases.values().find(|base| base.root == root.id)
    }

    /// Whose volume the cells of that number are: a branch's or a base's.
    pub fn volume_of_cells(&self, id: BranchId) -> Option<VolumeId> {
        let root = self.bases.get(&id).map_or(id, |base| base.root);
        self.branches.get(&root).map(|branch| branch.volume)
    }

    /// Units of a base that were taken over and are durable.
    pub fn taken(&self, base: BranchId) -> &Units {
        static NONE: Units = Units(Vec::new());
        self.taken.get(&base).unwrap_or(&NONE)
    }

    fn some_base(&self, id: BranchId) -> Result<&Base, CatalogueError> {
        self.bases.get(&id).ok_or(CatalogueError::BranchGone(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn units_are_what_was_inserted(runs in vec((0..200_u64, 0..40_u64), 0..30)) {
            let (mut units, mut model) = (Units::new(), BTreeSet::new());
            for (first, count) in runs {
                units.insert(first, first + count);
                model.extend(first..first + count);
            }
            prop_assert_eq!(units.count(), model.len() as u64);
            prop_assert!(units.runs().windows(2).all(|pair| pair[0].1 < pair[1].0));
            for unit in 0..250 {
                prop_assert_eq!(units.has(unit), model.contains(&unit));
                let next = (unit..1000).find(|unit| !model.contains(unit));
                prop_assert_eq!(Some(units.next_missing(unit)), next);
            }
        }
    }
}
