//! Branches: clone, rewind, `open`; and what can be seen along them.

use units::{BranchId, Sequence, Timestamp, VolumeId};

use crate::{
    error::CatalogueError,
    name::{BranchName, utc_name},
    record::CatalogueRecord,
    state::{Branch, Catalogue, Fork, Opening, OpeningId, Presence, VolumeKey, When},
    trash::TRASH_NS,
    volumes::NewVolume,
};

/// What a rewind makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewound {
    /// The new present.
    pub present: BranchId,
    /// The future that was left.
    pub left: BranchId,
    /// Its name from now on.
    pub left_name: BranchName,
}

/// What `open --rw` makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The new branch.
    pub branch: BranchId,
    /// Its name: `open-<UTC>`.
    pub name: BranchName,
}

impl Catalogue {
    /// A writable volume that begins at an instant of another one, of whatever depth.
    pub fn plan_clone(
        &self,
        source: BranchId,
        at: When,
        new: NewVolume,
        now: When,
    ) -> Result<(VolumeId, Vec<CatalogueRecord>), CatalogueError> {
        self.name_must_be_free(&new.name)?;
        let parent = self.some_branch(source)?;
        let block = self.live_volume(parent.volume)?.block;
        let (volume, root) = (self.new_volume(new, block, now)?, self.new_branch_id()?);
        let id = volume.id;
        let records = vec![
            CatalogueRecord::Volume(volume),
            CatalogueRecord::Branch(Branch {
                parent: Some(self.fork(source, at)),
                ..Branch::new(root, id, now)
            }),
            CatalogueRecord::served(id, root, now),
        ];
        Ok((id, CatalogueRecord::as_one_step(records)))
    }

    /// The present becomes a branch with a name, and a new one begins at `(branch, at)`, which is an
    /// instant of the same volume. Undo is a rewind to the end of the branch that was left.
    pub fn plan_rewind(
        &self,
        volume: VolumeId,
        branch: BranchId,
        at: When,
        now: When,
    ) -> Result<(Rewound, Vec<CatalogueRecord>), CatalogueError> {
        let volume = self.live_volume(volume)?;
        let left = self.present_branch(volume.id)?;
        self.must_be_of(volume.id, branch)?;
        self.nobody_may_be_attached(volume, |of| of == left.id)?;
        let left_name = self.free_branch_name(volume.id, &utc_name(now.time))?;
        let present = self.new_branch_id()?;
        let records = vec![
            CatalogueRecord::Branch(Branch {
                name: Some(left_name.clone()),
                ended: Some(now),
                read_only: true,
                ..left.clone()
            }),
            CatalogueRecord::Branch(Branch {
                parent: Some(self.fork(branch, at)),
                ..Branch::new(present, volume.id, now)
            }),
            CatalogueRecord::served(volume.id, present, now),
        ];
        let rewound = Rewound { present, left: left.id, left_name };
        Ok((rewound, CatalogueRecord::as_one_step(records)))
    }

    /// A branch that can be written beside the present (`open --rw`).
    pub fn plan_open_branch(
        &self,
        volume: VolumeId,
        branch: BranchId,
        at: When,
        ttl_ns: Option<u64>,
        now: When,
    ) -> Result<(Opened, Vec<CatalogueRecord>), CatalogueError> {
        let volume = self.live_volume(volume)?.id;
        self.must_be_of(volume, branch)?;
        let name = self.free_branch_name(volume, &format!("open-{}", utc_name(now.time)))?;
        let id = self.new_branch_id()?;
        let record = CatalogueRecord::Branch(Branch {
            parent: Some(self.fork(branch, at)),
            name: Some(name.clone()),
            ttl_ns,
            ..Branch::new(id, volume, now)
        });
        Ok((Opened { branch: id, name }, vec![record]))
    }

    /// A branch of `open --rw` goes to the trash; clones of it live on.
    pub fn plan_close(
        &self,
        branch: BranchId,
        now: When,
    ) -> Result<Vec<CatalogueRecord>, CatalogueError> {
        let branch = self.some_branch(branch)?;
        let volume = self.live_volume(branch.volume)?;
        let opened = branch.name.as_ref().filter(|name| name.as_str().starts_with("open-"));
        let Some(name) = opened.filter(|_| branch.presence == Presence::Live) else {
            let (volume, branch) = (volume.name.clone(), branch.id);
            return Err(CatalogueError::NotOpened { volume, branch });
        };
        self.nobody_may_be_attached(volume, |of| of == branch.id)?;
        if branch.pinned {
            let (volume, branch) = (volume.name.clone(), name.clone());
            return Err(CatalogueError::BranchPinned { volume, branch });
        }
        self.no_mark_may_be_pinned(volume, |of| of == branch.id)?;
        let until = now.time.plus_ns(TRASH_NS);
        Ok(vec![CatalogueRecord::Branch(Branch {
            ended: Some(now),
            read_only: true,
            presence: Presence::Trash { since: now.time, until },
            ..branch.clone()
        })])
    }

    /// Keeps a branch whatever the rule says, or no longer.
    pub fn plan_pin_branch(
        &self,
        branch: BranchId,
        pinned: bool,
    ) -> Result<Vec<CatalogueRecord>, CatalogueError> {
        let branch = self.some_branch(branch)?;
        self.live_volume(branch.volume)?;
        if branch.pinned == pinned {
            return Ok(Vec::new());
        }
        Ok(vec![CatalogueRecord::Branch(Branch { pinned, ..branch.clone() })])
    }

    /// An instant is opened read-only: pinned until [`Self::plan_close_instant`].
    pub fn plan_open_instant(
        &self,
        branch: BranchId,
        at: When,
        ttl_ns: u64,
        now: Timestamp,
    ) -> Result<(OpeningId, Vec<CatalogueRecord>), CatalogueError> {
        let volume = self.live_volume(self.some_branch(branch)?.volume)?.id;
        let id = OpeningId(self.next.opening);
        let opening = Opening { id, volume, branch, at, since: now, ttl_ns };
        Ok((id, vec![CatalogueRecord::Opened(opening)]))
    }

    /// Ends [`Self::plan_open_instant`].
    pub fn plan_close_instant(
        &self,
        id: OpeningId,
    ) -> Result<Vec<CatalogueRecord>, CatalogueError> {
        self.openings.get(&id).ok_or(CatalogueError::OpeningGone(id))?;
        Ok(vec![CatalogueRecord::OpeningGone(id)])
    }

    /// Where to look for the blocks of `branch` as of `up_to`, newest first: each branch with the last
    /// of its sequences that counts. What cannot hold a visible write is left out.
    pub fn chain(&self, branch: BranchId, up_to: Sequence) -> Vec<(BranchId, Sequence)> {
        let mut chain = Vec::new();
        let (mut next, mut up_to) = (self.branches.get(&branch), up_to);
        while let Some(branch) = next {
            let last = branch.ended.map_or(up_to, |end| up_to.min(end.sequence));
            if last > branch.created.sequence {
                chain.push((branch.id, last));
            }
            let Some(fork) = branch.parent else { break };
            up_to = last.min(fork.at.sequence);
            next = self.branches.get(&fork.branch);
        }
        chain
    }

    /// The size of a branch as of a sequence; `None` if the branch is gone.
    pub fn size_at(&self, branch: BranchId, sequence: Sequence) -> Option<u64> {
        let (mut branch, mut sequence) = (self.branches.get(&branch)?, sequence);
        loop {
            let sizes = self.sizes(branch.id);
            let count = sizes.partition_point(|&(first, _)| first <= sequence);
            if let Some(&(_, size_bytes)) = sizes[..count].last() {
                return Some(size_bytes);
            }
            let Some(fork) = branch.parent else { return sizes.first().map(|&(_, bytes)| bytes) };
            sequence = sequence.min(fork.at.sequence);
            branch = self.branches.get(&fork.branch)?;
        }
    }

    /// The key that opens the cells of a branch: its own volume's, also where a clone reads them.
    pub fn key_of(&self, branch: BranchId) -> Option<&VolumeKey> {
        let volume = self.branches.get(&branch)?.volume;
        self.volumes.get(&volume).map(|volume| &volume.key)
    }

    /// The same state by its first name within the volume: an instant of a branch from before the
    /// branch's own writes is one of its parent. (`VOL@seq:N` of that name finds it again.)
    pub(crate) fn first_name(&self, branch: BranchId, at: Sequence) -> (BranchId, Sequence) {
        let (mut id, mut at) = (branch, at);
        while let Some(branch) = self.branches.get(&id) {
            if at > branch.created.sequence {
                break;
            }
            let Some(fork) = branch.parent else {
                at = branch.created.sequence; // nothing is earlier than a volume's creation
                break;
            };
            at = at.min(fork.at.sequence);
            let parent = self.branches.get(&fork.branch);
            if parent.is_none_or(|parent| parent.volume != branch.volume) {
                at = fork.at.sequence; // nor than where a clone forked
                break;
            }
            id = fork.branch;
        }
        (id, at)
    }

    /// Where a child of that instant begins.
    fn fork(&self, branch: BranchId, at: When) -> Fork {
        let (branch, sequence) = self.first_name(branch, at.sequence);
        Fork { branch, at: When { sequence, time: at.time } }
    }

    fn must_be_of(&self, volume: VolumeId, branch: BranchId) -> Result<(), CatalogueError> {
        if self.some_branch(branch)?.volume == volume {
            return Ok(());
        }
        let volume = self.some_volume(volume)?.name.clone();
        Err(CatalogueError::ForeignBranch { volume, branch })
    }

    /// `name`, or `name-2`, `name-3` … where it is taken.
    fn free_branch_name(&self, volume: VolumeId, name: &str) -> Result<BranchName, CatalogueError> {
        let is_free = |name: &str| {
            let taken =
                |branch: &Branch| branch.name.as_ref().is_some_and(|it| it.as_str() == name);
            !self.branches(volume).any(taken)
        };
        let numbered = (2_u32..).map(|n| format!("{name}-{n}"));
        let free = std::iter::once(name.to_owned()).chain(numbered).find(|name| is_free(name));
        Ok(BranchName::parse(&free.unwrap_or_default())?)
    }
}
