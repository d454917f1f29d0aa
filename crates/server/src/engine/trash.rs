//! `store trash ls|empty`.
//!
//! Emptying takes effect at once for everybody: what went cannot be named or brought back. Its key is
//! destroyed at the next start of the server, when no unsealed segment can need it for recovery.

use super::{naming::api_volume, past::Past, running::Engine, volumes::size_now};
use api::{
    Failure, codes,
    verbs::trash::{TrashEmptied, TrashEmpty, TrashList, Trashed},
};
use catalogue::{CatalogueRecord, Presence, Volume};

impl Engine {
    pub(super) fn trash_ls(&self) -> Result<TrashList, Failure> {
        let past = self.look()?;
        let mut trash = Vec::new();
        for volume in past.catalogue().volumes() {
            if let Some(trashed) = self.trashed(&past, volume)? {
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
            for volume in past.catalogue().volumes() {
                let meant = request.name.as_ref();
                if meant.is_some_and(|name| name.as_str() != volume.name.as_str()) {
                    continue;
                }
                let Some(trashed) = self.trashed(past, volume)? else { continue };
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
        self.change(plan)
    }

    fn trashed(&self, past: &Past, volume: &Volume) -> Result<Option<Trashed>, Failure> {
        let Presence::Trash { since, until } = volume.presence else { return Ok(None) };
        let present = past.catalogue().present(volume.id);
        Ok(Some(Trashed {
            id: volume.id.0,
            name: api_volume(&volume.name)?.to_string(),
            size: present.map_or(0, |present| size_now(past, present.id)),
            bytes: self.history_bytes(past, volume.id),
            removed: since.into(),
            until: until.into(),
        }))
    }
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
