//! `store trash ls|empty`.
//!
//! Emptying takes effect at once for everybody: what went cannot be named or brought back. Its key goes as
//! soon as no recovery can need it to tell a torn cell from a whole one: when what it sealed is indexed, or
//! lies before a batch of the same segment that calls it flushed. Until then the volume stays as one that
//! was emptied, and is looked at again every few seconds.

use super::{
    census::Shares, failures::block_failure, naming::api_volume, past::Past, running::Engine,
    volumes::size_now,
};
use api::{
    Failure, codes,
    verbs::trash::{TrashEmptied, TrashEmpty, TrashList, Trashed},
};
use catalogue::{CatalogueRecord, Presence, Trash, Volume};
use history_index::Source;
use units::{BLOCK_BYTES, BranchId, Sequence, VolumeId};

impl Engine {
    pub(super) fn trash_ls(&self) -> Result<TrashList, Failure> {
        let past = self.look()?;
        let (mut trash, history) = (Vec::new(), self.history(&past));
        for volume in past.catalogue().volumes() {
            if let Some(trashed) = trashed(&past, &history, volume)? {
                trash.push(trashed);
            }
            trash.extend(closed_branches(&past, volume)?);
        }
        trash.sort_by_key(|it| std::cmp::Reverse(it.removed));
        Ok(TrashList { trash })
    }

    pub(super) fn trash_empty(&self, request: &TrashEmpty) -> Result<TrashEmptied, Failure> {
        let plan = |past: &Past| {
            let (mut gone, mut records) = (Vec::new(), Vec::new());
            let history = self.history(past);
            for volume in past.catalogue().volumes() {
                let meant = request.name.as_ref();
                if meant.is_some_and(|name| name.as_str() != volume.name.as_str()) {
                    continue;
                }
                let Some(trashed) = trashed(past, &history, volume)? else { continue };
                gone.push(trashed);
                let volume = Volume { presence: Presence::Emptied, ..volume.clone() };
                let id = volume.id;
                records
                    .extend(past.catalogue().marks(id).map(|it| CatalogueRecord::MarkGone(it.id)));
                let openings = past.catalogue().openings().filter(|it| it.volume == id);
                records.extend(openings.map(|it| CatalogueRecord::OpeningGone(it.id)));
                records.push(CatalogueRecord::Volume(volume));
            }
            if gone.is_empty()
                && let Some(name) = &request.name
            {
                return Err(Failure::new(
                    codes::NOT_IN_TRASH,
                    format!("the trash holds no volume `{name}`"),
                )
                .seeing("strandline store trash ls"));
            }
            if records.len() > 1 {
                records = vec![CatalogueRecord::Together(records)];
            }
            // Nothing is thinned yet, so the cells stay until packs are written anew.
            Ok((TrashEmptied { gone, freed: 0, done: !request.dry_run }, records))
        };
        if request.dry_run {
            return plan(&self.look()?).map(|(emptied, _)| emptied);
        }
        let emptied = self.change(plan)?;
        let barrier = self.barrier(&emptied.gone)?;
        self.destroy_keys(barrier)?;
        Ok(emptied)
    }

    /// Writes something after all that the volumes hold, so that its batch calls that flushed; `None`
    /// if none of them can be written.
    fn barrier(&self, gone: &[Trashed]) -> Result<Option<Sequence>, Failure> {
        let past = self.settled()?;
        let present = gone.iter().filter_map(|it| past.catalogue().present(VolumeId(it.id)));
        let whole = |branch: BranchId| size_now(&past, branch) >= BLOCK_BYTES;
        let branch = present.filter(|it| !it.read_only && whole(it.id)).map(|it| it.id).next();
        let Some(branch) = branch else { return Ok(None) };
        let Some(view) = self.visit(move |core| core.store.open_view(branch, None))? else {
            return Ok(None);
        };
        let trimmed = self.hub.trim(view, 0, BLOCK_BYTES);
        self.visit(move |core| core.store.close_view(view))?;
        trimmed.map(Some).map_err(|error| block_failure(error, "a volume that was emptied"))
    }

    /// Lets go of the keys of emptied volumes that no recovery can need any more.
    pub(super) fn destroy_keys(&self, barrier: Option<Sequence>) -> Result<(), Failure> {
        let plan = |past: &Past| -> Result<_, Failure> {
            let planned = past.catalogue().plan_empty_trash(Trash::Expired, past.now.time);
            let (emptied, records) = planned.map_err(|error| past.teller().catalogue(error))?;
            let waits = emptied.branches.is_empty() || needed(past, &emptied.branches, barrier);
            Ok((!waits).then_some((emptied, records)))
        };
        // What clones need stays emptied for years: that must cost nobody a flush.
        if plan(&self.look()?)?.is_none() {
            return Ok(());
        }
        let planning = self.planning()?;
        let Some((emptied, records)) = plan(&self.settled()?)? else { return Ok(()) };
        self.commit(&planning, records)?;
        for branch in emptied.branches {
            self.held.keyring.forget_branch(branch);
        }
        self.forget_destroyed_keys();
        Ok(())
    }

    /// The records that held destroyed keys lie in the manifest until that is written anew.
    pub(super) fn forget_destroyed_keys(&self) {
        if self.hub.rewrite_manifest().is_err() {
            tracing::warn!("destroyed keys stay in the manifest until the next start");
        }
    }
}

/// Whether recovery could have to verify a cell of these branches: one that is in no run yet, in a
/// segment that ends before the barrier.
fn needed(past: &Past, branches: &[BranchId], barrier: Option<Sequence>) -> bool {
    past.snapshot.index.sources().iter().any(|source| match source {
        Source::File(_) => false,
        Source::Memory(run) => {
            barrier.is_none_or(|barrier| run.last() < barrier)
                && run.contents().entries.iter().any(|entry| branches.contains(&entry.branch))
        }
    })
}

fn trashed(past: &Past, history: &Shares, volume: &Volume) -> Result<Option<Trashed>, Failure> {
    let Presence::Trash { since, until } = volume.presence else { return Ok(None) };
    let present = past.catalogue().present(volume.id);
    Ok(Some(Trashed {
        id: volume.id.0,
        name: api_volume(&volume.name)?.to_string(),
        size: present.map_or(0, |present| size_now(past, present.id)),
        bytes: history.of_volume(past, volume.id),
        removed: since.into(),
        until: until.into(),
    }))
}

/// Branches of `open --rw` that were closed.
fn closed_branches(past: &Past, volume: &Volume) -> Result<Vec<Trashed>, Failure> {
    if volume.presence == Presence::Emptied {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for branch in past.catalogue().branches(volume.id) {
        if let (Presence::Trash { since, until }, Some(name)) = (branch.presence, &branch.name) {
            found.push(Trashed {
                id: volume.id.0,
                name: format!("{}~{name}", api_volume(&volume.name)?),
                size: size_now(past, branch.id),
                bytes: 0,
                removed: since.into(),
                until: until.into(),
            });
        }
    }
    Ok(found)
}
