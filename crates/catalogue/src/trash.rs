//! Removing volumes, bringing them back, and letting them go for good.

use std::collections::BTreeSet;

use units::{BranchId, Sequence, Timestamp, VolumeId};

use crate::{
    error::CatalogueError,
    name::VolumeName,
    record::CatalogueRecord,
    state::{Branch, Catalogue, Presence, Volume},
};

/// How long the trash keeps what is thrown away: 7 days.
pub const TRASH_NS: i64 = 7 * 24 * 3600 * 1_000_000_000;

/// What to empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trash {
    /// All that lies in it.
    All,
    /// What has lain in it for its time.
    Expired,
    /// One volume.
    Volume(VolumeId),
}

/// What an emptied trash sets free.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Emptied {
    /// Branches and bases whose cells nothing can reach any more.
    pub branches: Vec<BranchId>,
    /// Volumes whose key is destroyed with the record.
    pub volumes: Vec<VolumeId>,
    /// Branches of emptied volumes that clones still need, each with the last sequence they need.
    pub kept: Vec<(BranchId, Sequence)>,
}

impl Catalogue {
    /// Into the trash: the name is free at once, clones live on.
    pub fn plan_remove(
        &self,
        volume: VolumeId,
        now: Timestamp,
    ) -> Result<Vec<CatalogueRecord>, CatalogueError> {
        let volume = self.live_volume(volume)?;
        self.nobody_may_be_attached(volume, |_| true)?;
        self.no_mark_may_be_pinned(volume, |_| true)?;
        let presence = Presence::Trash { since: now, until: now.plus_ns(TRASH_NS) };
        Ok(vec![CatalogueRecord::Volume(Volume { presence, ..volume.clone() })])
    }

    /// Back out of the trash, under its own name or `name`.
    pub fn plan_undelete(
        &self,
        volume: VolumeId,
        name: Option<VolumeName>,
    ) -> Result<Vec<CatalogueRecord>, CatalogueError> {
        let volume = self.some_volume(volume)?;
        match volume.presence {
            Presence::Trash { .. } => {}
            Presence::Live => {
                return Err(CatalogueError::NotInTrash { volume: volume.name.clone() });
            }
            Presence::Emptied => return Err(CatalogueError::VolumeGone(volume.id)),
        }
        let name = name.unwrap_or_else(|| volume.name.clone());
        self.name_must_be_free(&name)?;
        let presence = Presence::Live;
        Ok(vec![CatalogueRecord::Volume(Volume { name, presence, ..volume.clone() })])
    }

    /// For good. What clones need stays without being a volume, and goes when they do: so every call
    /// also looks at volumes that were emptied before.
    pub fn plan_empty_trash(
        &self,
        which: Trash,
        now: Timestamp,
    ) -> Result<(Emptied, Vec<CatalogueRecord>), CatalogueError> {
        if let Trash::Volume(id) = which {
            let volume = self.some_volume(id)?;
            if volume.presence == Presence::Live {
                return Err(CatalogueError::NotInTrash { volume: volume.name.clone() });
            }
        }
        let goes = |volume: &Volume| match volume.presence {
            Presence::Live => false,
            Presence::Emptied => true,
            Presence::Trash { until, .. } => is_due(which, volume.id, until, now),
        };
        let going: BTreeSet<VolumeId> =
            self.volumes.values().filter(|it| goes(it)).map(|it| it.id).collect();
        let branch_goes = |branch: &Branch| {
            let due = match branch.presence {
                Presence::Trash { until, .. } => is_due(which, branch.volume, until, now),
                Presence::Live | Presence::Emptied => false,
            };
            due || going.contains(&branch.volume)
        };
        let staying = self.branches.values().filter(|it| !branch_goes(it)).map(|it| it.id);
        let needed = self.with_ancestors(staying);

        let unneeded: Vec<&Branch> =
            self.branches.values().rev().filter(|branch| !needed.contains(&branch.id)).collect();
        let is_gone = |id| unneeded.iter().any(|branch| branch.id == id);
        let mut records =
            self.holders_gone(|volume, branch| going.contains(&volume) || is_gone(branch));
        records.extend(unneeded.iter().map(|branch| CatalogueRecord::BranchGone(branch.id)));

        // A base goes with the branch that stands on it.
        let below = |id| self.bases.values().find(move |base| base.root == id).map(|it| it.id);
        let branches = unneeded.iter().flat_map(|branch| [Some(branch.id), below(branch.id)]);
        let mut emptied = Emptied { branches: branches.flatten().collect(), ..Emptied::default() };
        for volume in self.volumes.values().filter(|it| going.contains(&it.id)) {
            let left = self.branches(volume.id).filter(|branch| needed.contains(&branch.id));
            let left: Vec<_> =
                left.map(|branch| (branch.id, self.last_fork(branch.id, &needed))).collect();
            if left.is_empty() {
                emptied.volumes.push(volume.id);
                records.push(CatalogueRecord::VolumeGone(volume.id));
            } else if volume.presence != Presence::Emptied {
                let presence = Presence::Emptied;
                records.push(CatalogueRecord::Volume(Volume { presence, ..volume.clone() }));
            }
            emptied.kept.extend(left);
        }
        Ok((emptied, CatalogueRecord::as_one_step(records)))
    }

    /// Records that end marks and opened instants in what goes.
    fn holders_gone(&self, goes: impl Fn(VolumeId, BranchId) -> bool) -> Vec<CatalogueRecord> {
        let marks = self.marks.values().filter(|mark| goes(mark.volume, mark.branch));
        let openings = self.openings.values().filter(|it| goes(it.volume, it.branch));
        marks
            .map(|mark| CatalogueRecord::MarkGone(mark.id))
            .chain(openings.map(|it| CatalogueRecord::OpeningGone(it.id)))
            .collect()
    }

    /// The last sequence of a branch that any of `children` has.
    fn last_fork(&self, branch: BranchId, children: &BTreeSet<BranchId>) -> Sequence {
        let forks = children.iter().filter_map(|id| self.branches.get(id)?.parent);
        let here = forks.filter(|fork| fork.branch == branch);
        here.map(|fork| fork.at.sequence).max().unwrap_or(Sequence::ZERO)
    }

    pub(crate) fn no_mark_may_be_pinned(
        &self,
        volume: &Volume,
        of: impl Fn(BranchId) -> bool,
    ) -> Result<(), CatalogueError> {
        let pinned = self.marks(volume.id).filter(|mark| mark.pinned && of(mark.branch));
        let marks: Vec<_> = pinned.map(|mark| mark.name.clone()).collect();
        if marks.is_empty() {
            return Ok(());
        }
        Err(CatalogueError::PinnedMarks { volume: volume.name.clone(), marks })
    }
}

fn is_due(which: Trash, volume: VolumeId, until: Timestamp, now: Timestamp) -> bool {
    match which {
        Trash::All => true,
        Trash::Expired => until <= now,
        Trash::Volume(id) => id == volume,
    }
}
