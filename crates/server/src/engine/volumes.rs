//! `vol create|ls|show|set|resize|rename|rm|undelete|release`.

use super::{
    census::Shares,
    failures::{block_failure, missing},
    marks,
    naming::{api_volume, catalogue_volume},
    past::{Past, moment},
    running::Engine,
    sessions::who_of,
};
use crate::data::SessionInfo;
use api::{
    Failure, Reference, codes,
    reference::Subject,
    verbs::{
        Moment,
        vol::{
            Branch, VolCreate, VolCreated, VolDetails, VolList, VolRelease, VolReleased, VolRemove,
            VolRemoved, VolRename, VolRenamed, VolResize, VolResized, VolSet, VolShow, VolSummary,
            VolUndelete, WhenFull,
        },
    },
};
use catalogue::{
    CatalogueRecord, LogicalBlock, NewVolume, Presence, TRASH_NS, Volume, VolumeKey, VolumeOptions,
    When,
};
use segment_log::AckPolicy;
use units::{BranchId, Sequence};
use world::Chance;

/// The rule of all volumes: nothing is thinned.
pub(super) const KEEP: &str = "all";

impl Engine {
    pub(super) fn vol_create(&self, request: VolCreate) -> Result<VolCreated, Failure> {
        let name = catalogue_volume(&request.name)?;
        let block = LogicalBlock::of_bytes(u64::from(request.block)).ok_or_else(|| {
            Failure::new(codes::SIZE, format!("a block cannot have {} bytes", request.block))
                .doing("use 512 or 4096")
        })?;
        let options = VolumeOptions { exclusive: request.exclusive, ..VolumeOptions::default() };
        let new = NewVolume { name, key: new_key(&*self.held.chance), options };
        let id = self.change(|past| {
            let planned = past.catalogue().plan_create(new, block, request.size, past.now);
            planned.map_err(|error| past.teller().catalogue(error))
        })?;
        Ok(VolCreated {
            id: id.0,
            size: request.size,
            block: request.block,
            keep: KEEP.to_owned(),
            uri: self.uri(&Reference::volume(request.name.clone())),
            name: request.name,
        })
    }

    pub(super) fn vol_ls(&self) -> Result<VolList, Failure> {
        let past = self.look()?;
        let sessions = self.sessions()?;
        let live = past.catalogue().volumes().filter(|it| it.presence == Presence::Live);
        let history = self.history(&past);
        let mut volumes = live
            .map(|volume| Self::summary(&past, &sessions, &history, volume))
            .collect::<Result<Vec<_>, _>>()?;
        volumes.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(VolList { volumes })
    }

    fn summary(
        past: &Past,
        sessions: &[SessionInfo],
        history: &Shares,
        volume: &Volume,
    ) -> Result<VolSummary, Failure> {
        let present = present(past, volume)?;
        Ok(VolSummary {
            id: volume.id.0,
            name: api_volume(&volume.name)?,
            size: size_now(past, present.id),
            branch: present.id.to_string(),
            block: block_bytes(volume),
            history: history.of_volume(past, volume.id),
            clients: Self::connections(sessions, volume.id),
            attached: past.catalogue().attachments(volume.id).next().is_some(),
            keep: KEEP.to_owned(),
            now: moment(past.now),
            oldest: oldest(past, volume),
        })
    }

    pub(super) fn vol_show(&self, request: &VolShow) -> Result<VolDetails, Failure> {
        let past = if request.reference.instant.is_some() { self.settled()? } else { self.look()? };
        let found = past.find(&request.reference, request.exact)?;
        let moves = request.reference.instant.is_none();
        // The line that is written, though the last write on it may be its parent's.
        let branch = match &request.reference.branch {
            _ if !moves => found.resolved.branch,
            None => present(&past, &found.volume)?.id,
            Some(name) => {
                let named = past.catalogue().find_branch(found.volume.id, name.as_str());
                named.map_err(|error| past.teller().catalogue(error))?.id
            }
        };
        let at = found.resolved.sequence;
        let reference = if moves { request.reference.clone() } else { found.reference.clone() };
        let known = past.catalogue().branch(branch);
        let ended = known.is_none_or(|branch| branch.read_only);
        let size = if moves && !ended { size_now(&past, branch) } else { found.size };
        let volume = &found.volume;
        Ok(VolDetails {
            id: volume.id.0,
            name: found.name.clone(),
            size,
            branch: branch.to_string(),
            uri: self.uri(&reference),
            reference,
            seq: at.number(),
            time: found.resolved.time.into(),
            resolution: found.resolution.clone(),
            block: block_bytes(volume),
            created: Some(volume.created.time.into()),
            origin: origin(&past, volume)?,
            ack: self.ack().to_owned(),
            keep: KEEP.to_owned(),
            exclusive: volume.options.exclusive,
            read_only: self.held.read_only || !moves || ended,
            when_full: match volume.options.when_full {
                catalogue::WhenFull::History => WhenFull::Thin,
                catalogue::WhenFull::Stop => WhenFull::Stop,
            },
            history: self.history(&past).of_volume(&past, volume.id),
            oldest: oldest(&past, volume),
            serial: self.serial(branch, (!moves).then_some(at)),
            clients: self.attached(&past, volume.id)?,
            branches: branches(&past, volume, Sequence::ZERO)?,
            marks: past.catalogue().marks(volume.id).count() as u64,
            base: self.base_of(&past, branch)?,
        })
    }

    pub(super) fn vol_set(&self, request: &VolSet) -> Result<VolDetails, Failure> {
        self.change(|past| {
            let volume = past.volume(&request.name)?;
            let mut options = volume.options;
            options.exclusive = request.exclusive.unwrap_or(options.exclusive);
            options.when_full = match request.when_full {
                None => options.when_full,
                Some(WhenFull::Thin) => catalogue::WhenFull::History,
                Some(WhenFull::Stop) => catalogue::WhenFull::Stop,
            };
            let planned = past.catalogue().plan_set_options(volume.id, options);
            let mut records = planned.map_err(|error| past.teller().catalogue(error))?;
            let present = present(past, volume)?;
            if let Some(read_only) = request.read_only
                && read_only != present.read_only
            {
                records.push(CatalogueRecord::Branch(catalogue::Branch {
                    read_only,
                    ..present.clone()
                }));
            }
            Ok(((), records))
        })?;
        let reference = Reference::volume(request.name.clone());
        self.vol_show(&VolShow { reference, exact: false })
    }

    /// A new size needs a sequence of its own: a trim of the bytes that come or go.
    pub(super) fn vol_resize(&self, request: VolResize) -> Result<VolResized, Failure> {
        let VolResize { name, size, shrink } = request;
        let planning = self.planning()?;
        let past = self.settled()?;
        let volume = past.volume(&name)?.clone();
        let branch = present(&past, &volume)?.id;
        let size_before = size_now(&past, branch);
        let plan = |past: &Past, first: Sequence| {
            let planned = past.catalogue().plan_resize(volume.id, size, shrink, first);
            planned.map_err(|error| past.teller().catalogue(error))
        };
        // Refuses what cannot be before anything is trimmed.
        let records = plan(&past, past.snapshot.head.next())?;
        let trim = |from: u64, to: u64| {
            let view = self.visit(move |core| core.store.open_view(branch, None))?;
            let view = view.ok_or_else(|| Failure::bug("the present cannot be opened"))?;
            let trimmed = self.hub.trim(view, from, to - from);
            self.visit(move |core| core.store.close_view(view))?;
            trimmed.map_err(|error| block_failure(error, &format!("the end of volume `{name}`")))
        };
        if size > size_before {
            self.commit(&planning, records)?;
            trim(size_before, size)?;
        } else if size < size_before {
            let first = trim(size, size_before)?;
            self.commit(&planning, plan(&self.look()?, first)?)?;
        }
        let clients = self.attached(&self.look()?, volume.id)?;
        Ok(VolResized { name: name.clone(), size_before, size, clients })
    }

    pub(super) fn vol_rename(&self, request: VolRename) -> Result<VolRenamed, Failure> {
        let to = catalogue_volume(&request.to)?;
        let id = self.change(|past| {
            let id = past.volume(&request.name)?.id;
            let planned = past.catalogue().plan_rename(id, to);
            Ok((id, planned.map_err(|error| past.teller().catalogue(error))?))
        })?;
        Ok(VolRenamed { id: id.0, name_before: request.name, name: request.to })
    }

    pub(super) fn vol_rm(&self, request: &VolRemove) -> Result<VolRemoved, Failure> {
        let plan = |past: &Past| {
            let volume = past.volume(&request.name)?;
            let planned = past.catalogue().plan_remove(volume.id, past.now.time);
            let records = planned.map_err(|error| past.teller().catalogue(error))?;
            let removed = VolRemoved {
                id: volume.id.0,
                name: request.name.clone(),
                size: size_now(past, present(past, volume)?.id),
                history: self.history(past).of_volume(past, volume.id),
                until: past.now.time.plus_ns(TRASH_NS).into(),
                clones: clones(past, volume)?,
                done: !request.dry_run,
            };
            Ok((removed, records))
        };
        if request.dry_run {
            return plan(&self.look()?).map(|(removed, _)| removed);
        }
        let removed = self.change(plan)?;
        let id = removed.id;
        self.kick(move |info| info.export.as_ref().is_some_and(|export| export.volume.0 == id))?;
        Ok(removed)
    }

    pub(super) fn vol_undelete(&self, request: VolUndelete) -> Result<VolCreated, Failure> {
        let VolUndelete { name, id, new_name } = request;
        let new = new_name.as_ref().map(catalogue_volume).transpose()?;
        let (volume, size) = self.change(|past| {
            let catalogue = past.catalogue();
            let volume = match id {
                None => catalogue.find_in_trash(name.as_str()),
                Some(id) => catalogue.volume(units::VolumeId(id)).filter(|volume| {
                    volume.name.as_str() == name.as_str()
                        && matches!(volume.presence, Presence::Trash { .. })
                }),
            };
            let volume = volume.ok_or_else(|| {
                let text = format!("the trash holds no volume `{name}`");
                missing(codes::NOT_IN_TRASH, text, "strandline store trash ls")
            })?;
            let planned = catalogue.plan_undelete(volume.id, new);
            let records = planned.map_err(|error| past.teller().catalogue(error))?;
            let size = size_now(past, present(past, volume)?.id);
            Ok(((volume.clone(), size), records))
        })?;
        let name = new_name.unwrap_or(name);
        Ok(VolCreated {
            id: volume.id.0,
            size,
            block: block_bytes(&volume),
            keep: KEEP.to_owned(),
            uri: self.uri(&Reference::volume(name.clone())),
            name,
        })
    }

    pub(super) fn vol_release(&self, request: VolRelease) -> Result<VolReleased, Failure> {
        let released = self.release(&request.name)?;
        Ok(VolReleased { name: request.name, released })
    }

    /// What an answered write has reached.
    pub(super) fn ack(&self) -> &'static str {
        match self.held.config.ack {
            AckPolicy::Disk => "disk",
            AckPolicy::Page => "page",
            AckPolicy::Memory => "memory",
        }
    }

    /// Each branch and each instant has its own, so that no multipath merges them.
    fn serial(&self, branch: BranchId, at: Option<Sequence>) -> String {
        let store = self.held.facts.store;
        match at {
            None => format!("SL-{store}-{branch}"),
            Some(at) => format!("SL-{store}-{branch}-{at}"),
        }
    }

    /// Who is connected to a branch as one of these clients.
    pub(super) fn connections_of(
        &self,
        branch: BranchId,
        clients: &[catalogue::Who],
    ) -> Result<Vec<u64>, Failure> {
        let of = |info: &SessionInfo| {
            info.export
                .as_ref()
                .is_some_and(|export| export.branch == branch && export.at.is_none())
                && who_of(&info.peer).is_none_or(|who| clients.contains(&who))
        };
        Ok(self.sessions()?.iter().filter(|info| of(info)).map(|info| info.id).collect())
    }
}

/// A fresh key of a volume.
pub(super) fn new_key(chance: &dyn Chance) -> VolumeKey {
    let mut key = [0; 32];
    chance.fill(&mut key);
    VolumeKey(key)
}

/// What clients of a volume see.
pub(super) fn present<'a>(
    past: &'a Past,
    volume: &Volume,
) -> Result<&'a catalogue::Branch, Failure> {
    let present = past.catalogue().present(volume.id);
    present.ok_or_else(|| Failure::bug(format!("volume `{}` has no present", volume.name)))
}

/// The size that clients see.
pub(super) fn size_now(past: &Past, branch: BranchId) -> u64 {
    past.catalogue().size_at(branch, Sequence::MAX).unwrap_or(0)
}

/// The oldest instant of a volume.
pub(super) fn oldest(past: &Past, volume: &Volume) -> Option<Moment> {
    past.catalogue().start(volume.id).ok().map(moment)
}

fn block_bytes(volume: &Volume) -> u32 {
    match volume.block {
        LogicalBlock::B512 => 512,
        LogicalBlock::B4096 => 4096,
    }
}

/// Where a clone forked, by its fixed name.
fn origin(past: &Past, volume: &Volume) -> Result<Option<Reference>, Failure> {
    let catalogue = past.catalogue();
    let root = catalogue.served(volume.id).first().and_then(|it| catalogue.branch(it.branch));
    let Some(fork) = root.and_then(|root| root.parent) else { return Ok(None) };
    let parent = catalogue.branch(fork.branch);
    let source = parent.and_then(|parent| catalogue.volume(parent.volume));
    let (Some(parent), Some(source)) = (parent, source) else { return Ok(None) };
    let branch = parent.name.as_ref().map(|name| name.as_str().parse()).transpose()?;
    let subject = Subject::Volume(api_volume(&source.name)?);
    let reference = Reference { remote: None, subject, branch, instant: None };
    Ok(Some(reference.at_sequence(fork.at.sequence)))
}

/// Volumes that go on from one of this one's branches.
fn clones(past: &Past, volume: &Volume) -> Result<Vec<api::VolumeName>, Failure> {
    let catalogue = past.catalogue();
    let of_it = |other: &&Volume| {
        let from_it = |branch: &catalogue::Branch| {
            let parent = branch.parent.and_then(|fork| catalogue.branch(fork.branch));
            parent.is_some_and(|parent| parent.volume == volume.id)
        };
        other.id != volume.id
            && other.presence == Presence::Live
            && catalogue.branches(other.id).any(from_it)
    };
    catalogue.volumes().filter(of_it).map(|clone| api_volume(&clone.name)).collect()
}

/// Lines of history beside the present one that were left or opened after a sequence.
pub(super) fn branches(
    past: &Past,
    volume: &Volume,
    after: Sequence,
) -> Result<Vec<Branch>, Failure> {
    let mut branches = Vec::new();
    for branch in past.catalogue().branches(volume.id) {
        let Some(name) = &branch.name else { continue };
        if branch.presence != Presence::Live {
            continue;
        }
        let end = branch.ended.unwrap_or(past.now);
        if end.sequence < after {
            continue;
        }
        let from = branch.parent.map_or(branch.created, |fork| fork.at);
        branches.push(Branch {
            name: name.as_str().parse()?,
            from: moment(from),
            end: moment(end),
            writable: !branch.read_only && branch.ended.is_none(),
        });
    }
    Ok(branches)
}

/// A place for marks of answers: so many of a volume.
pub(super) fn marks_between(
    past: &Past,
    volume: &Volume,
    from: When,
    to: When,
) -> Result<Vec<api::verbs::mark::Mark>, Failure> {
    let mut found = Vec::new();
    for mark in past.catalogue().marks(volume.id) {
        if from.sequence <= mark.at.sequence && mark.at.sequence <= to.sequence {
            found.push(marks::told(past, volume, mark)?);
        }
    }
    found.sort_by_key(|mark| mark.seq);
    Ok(found)
}
