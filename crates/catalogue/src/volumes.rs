//! Making, renaming and resizing volumes.

use units::{BranchId, Sequence, VolumeId};

use crate::{
    error::{CatalogueError, SizeError},
    name::VolumeName,
    record::CatalogueRecord,
    state::{Branch, Catalogue, LogicalBlock, Presence, Volume, VolumeKey, VolumeOptions, When},
};

/// The largest volume: 2^48 blocks of 4 KiB, 1 EiB.
pub const VOLUME_BYTES_MAX: u64 = 1 << 60;

/// What a new volume needs beside its origin.
#[derive(Clone, Debug)]
pub struct NewVolume {
    /// Its name.
    pub name: VolumeName,
    /// 32 fresh random bytes.
    pub key: VolumeKey,
    /// How it is served.
    pub options: VolumeOptions,
}

impl Catalogue {
    /// A volume of zeros. `now.sequence` is the store's last one.
    pub fn plan_create(
        &self,
        new: NewVolume,
        block: LogicalBlock,
        size_bytes: u64,
        now: When,
    ) -> Result<(VolumeId, Vec<CatalogueRecord>), CatalogueError> {
        self.name_must_be_free(&new.name)?;
        check_size(size_bytes, block)?;
        let (volume, root) = (self.new_volume(new, block, now)?, self.new_branch_id()?);
        let id = volume.id;
        let records = vec![
            CatalogueRecord::Volume(volume),
            CatalogueRecord::Branch(Branch::new(root, id, now)),
            CatalogueRecord::Size { branch: root, sequence: now.sequence, size_bytes },
            CatalogueRecord::served(id, root, now),
        ];
        Ok((id, CatalogueRecord::as_one_step(records)))
    }

    /// Another name; what clients hold is not touched.
    pub fn plan_rename(
        &self,
        volume: VolumeId,
        name: VolumeName,
    ) -> Result<Vec<CatalogueRecord>, CatalogueError> {
        let volume = self.live_volume(volume)?;
        if volume.name == name {
            return Ok(Vec::new());
        }
        self.name_must_be_free(&name)?;
        Ok(vec![CatalogueRecord::Volume(Volume { name, ..volume.clone() })])
    }

    /// Other options. Clients that are attached stay, also with `exclusive`.
    pub fn plan_set_options(
        &self,
        volume: VolumeId,
        options: VolumeOptions,
    ) -> Result<Vec<CatalogueRecord>, CatalogueError> {
        let volume = self.live_volume(volume)?;
        if volume.options == options {
            return Ok(Vec::new());
        }
        Ok(vec![CatalogueRecord::Volume(Volume { options, ..volume.clone() })])
    }

    /// Another size of the present. Earlier instants keep theirs: so `first` must be a sequence of
    /// this change's own. (The caller takes it for a trim of the bytes that come or go, which also
    /// makes them zero if the volume grows again.) Shrinking must be said, and needs that nobody is
    /// attached.
    pub fn plan_resize(
        &self,
        volume: VolumeId,
        size_bytes: u64,
        may_shrink: bool,
        first: Sequence,
    ) -> Result<Vec<CatalogueRecord>, CatalogueError> {
        let volume = self.live_volume(volume)?;
        check_size(size_bytes, volume.block)?;
        let present = self.present_branch(volume.id)?;
        let from_bytes = self.size_at(present.id, Sequence::MAX).unwrap_or(0);
        if size_bytes == from_bytes {
            return Ok(Vec::new());
        }
        if size_bytes < from_bytes {
            if !may_shrink {
                let (volume, to_bytes) = (volume.name.clone(), size_bytes);
                return Err(CatalogueError::WouldShrink { volume, from_bytes, to_bytes });
            }
            self.nobody_may_be_attached(volume, |branch| branch == present.id)?;
        }
        let settled = self.sizes(present.id).last().map_or(Sequence::ZERO, |&(last, _)| last);
        let last = settled.max(present.created.sequence);
        if first <= last {
            return Err(CatalogueError::SequenceUsed { given: first, last });
        }
        Ok(vec![CatalogueRecord::Size { branch: present.id, sequence: first, size_bytes }])
    }

    pub(crate) fn new_volume(
        &self,
        NewVolume { name, key, options }: NewVolume,
        block: LogicalBlock,
        created: When,
    ) -> Result<Volume, CatalogueError> {
        let id = VolumeId(below_last(self.next.volume, "volume")?);
        Ok(Volume { id, name, block, key, created, options, presence: Presence::Live })
    }

    pub(crate) fn new_branch_id(&self) -> Result<BranchId, CatalogueError> {
        below_last(self.next.branch, "branch").map(BranchId)
    }

    pub(crate) fn name_must_be_free(&self, name: &VolumeName) -> Result<(), CatalogueError> {
        let Some(other) = self.find(name.as_str()) else { return Ok(()) };
        let present = self.present(other.id);
        Err(CatalogueError::VolumeExists {
            name: name.clone(),
            size_bytes: present.and_then(|it| self.size_at(it.id, Sequence::MAX)).unwrap_or(0),
            created: other.created.time,
        })
    }
}

/// Whether a volume can have that size: whole logical blocks, at least one, at most 1 EiB.
pub fn check_size(size_bytes: u64, block: LogicalBlock) -> Result<(), SizeError> {
    if size_bytes > VOLUME_BYTES_MAX {
        return Err(SizeError::TooLarge { size_bytes, largest_bytes: VOLUME_BYTES_MAX });
    }
    let block_bytes = block.bytes();
    let next_bytes = size_bytes.next_multiple_of(block_bytes).max(block_bytes);
    if next_bytes != size_bytes {
        return Err(SizeError::NotWholeBlocks { size_bytes, block_bytes, next_bytes });
    }
    Ok(())
}

/// A number that still has one after it.
fn below_last(next: u32, what: &'static str) -> Result<u32, CatalogueError> {
    if next == u32::MAX { Err(CatalogueError::NumbersUsedUp(what)) } else { Ok(next) }
}

impl Branch {
    /// A branch that begins with nothing and is the present.
    pub(crate) fn new(id: BranchId, volume: VolumeId, created: When) -> Self {
        Self {
            id,
            volume,
            parent: None,
            created,
            name: None,
            ended: None,
            read_only: false,
            pinned: false,
            ttl_ns: None,
            presence: Presence::Live,
        }
    }
}
