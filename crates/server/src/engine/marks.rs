//! `mark add|ls|rm|pin`.

use super::{
    naming::{api_volume, catalogue_mark},
    past::Past,
    running::Engine,
};
use api::{
    Failure, InstantSpec, MarkName, Point, Reference, VolumeName, codes,
    verbs::mark::{Mark, MarkAdd, MarkList, MarkLs, MarkPin, MarkRemove, MarkRemoved},
};
use catalogue::{InstantError, NewMark, Note, Presence, Volume};
use units::ClientId;

/// What a mark of ours promises of a guest: what a power cut would have left.
const CONSISTENCY: &str = "crash";

impl Engine {
    pub(super) fn mark_add(&self, request: &MarkAdd) -> Result<Mark, Failure> {
        let note = request.note.as_deref().map(line).transpose()?;
        let name = catalogue_mark(&request.name)?;
        self.change(|past| {
            let found = past.find(&request.reference, false)?;
            let same = past
                .catalogue()
                .marks(found.volume.id)
                .find(|mark| mark.name == name && (mark.branch, mark.at.sequence) == found.state());
            if let Some(same) = same {
                let place = format!("{} has the mark `{name}` already", found.reference);
                return Err(Failure::new(
                    codes::MARK_EXISTS,
                    format!("{place}, made {}", api::Time(same.made)),
                ));
            }
            let keep_ns = request.keep_ns.map(|ns| i64::try_from(ns).unwrap_or(i64::MAX));
            let new = NewMark {
                branch: found.resolved.branch,
                at: found.resolved.when(),
                name: name.clone(),
                keep_until: keep_ns.map(|ns| past.now.time.plus_ns(ns)),
                pinned: request.pinned,
                made_by: ClientId(0),
                note: note.clone(),
            };
            let planned = past.catalogue().plan_mark(new.clone(), past.now.time);
            let (id, records) = planned.map_err(|error| past.teller().catalogue(error))?;
            let mark = catalogue::Mark {
                id,
                volume: found.volume.id,
                branch: new.branch,
                at: new.at,
                name: new.name,
                keep_until: new.keep_until,
                pinned: new.pinned,
                made_by: new.made_by,
                made: past.now.time,
                note: new.note,
            };
            Ok((answer(&found.volume, &mark, 0)?, records))
        })
    }

    pub(super) fn mark_ls(&self, request: &MarkLs) -> Result<MarkList, Failure> {
        let past = self.look()?;
        let mut volumes: Vec<&Volume> = match &request.volume {
            Some(name) => vec![past.volume(name)?],
            None => past.catalogue().volumes().filter(|it| it.presence == Presence::Live).collect(),
        };
        volumes.sort_by(|one, other| one.name.cmp(&other.name));
        let mut marks = Vec::new();
        for volume in volumes {
            let mut of_it: Vec<&catalogue::Mark> = past.catalogue().marks(volume.id).collect();
            of_it.sort_by_key(|mark| (mark.at, mark.id));
            for mark in of_it {
                marks.push(told(&past, volume, mark)?);
            }
        }
        Ok(MarkList { marks })
    }

    pub(super) fn mark_rm(&self, request: &MarkRemove) -> Result<MarkRemoved, Failure> {
        let plan = |past: &Past| {
            let (volume, mark) = find(past, &request.volume, &request.name, request.back)?;
            let planned = past.catalogue().plan_unmark(mark.id);
            let records = planned.map_err(|error| past.teller().catalogue(error))?;
            let mark = told(past, volume, mark)?;
            Ok((MarkRemoved { mark, done: !request.dry_run }, records))
        };
        if request.dry_run {
            return plan(&self.look()?).map(|(removed, _)| removed);
        }
        self.change(plan)
    }

    pub(super) fn mark_pin(&self, request: &MarkPin) -> Result<Mark, Failure> {
        self.change(|past| {
            let (volume, mark) = find(past, &request.volume, &request.name, request.back)?;
            let planned = past.catalogue().plan_pin(mark.id, request.pinned);
            let records = planned.map_err(|error| past.teller().catalogue(error))?;
            let told = told(past, volume, mark)?;
            Ok((Mark { pinned: request.pinned, ..told }, records))
        })
    }
}

/// A mark as answers say it.
pub(super) fn told(past: &Past, volume: &Volume, mark: &catalogue::Mark) -> Result<Mark, Failure> {
    let later = |other: &&catalogue::Mark| other.name == mark.name && other.id > mark.id;
    let back = past.catalogue().marks(volume.id).filter(later).count();
    answer(volume, mark, u32::try_from(back).unwrap_or(u32::MAX))
}

fn line(text: &str) -> Result<Note, Failure> {
    Note::parse(text).ok_or_else(|| {
        let text = format!("a note is one line of 1 to {} bytes", Note::BYTES_MAX);
        Failure::new(codes::USAGE, text)
    })
}

fn answer(volume: &Volume, mark: &catalogue::Mark, back: u32) -> Result<Mark, Failure> {
    let (volume, name) = (api_volume(&volume.name)?, mark.name.as_str().parse::<MarkName>()?);
    let instant = InstantSpec::of(Point::Mark { name: name.clone(), back });
    Ok(Mark {
        reference: Reference::volume(volume.clone()).at(instant),
        volume,
        name,
        seq: mark.at.sequence.number(),
        time: mark.at.time.into(),
        created: mark.made.into(),
        until: mark.keep_until.map(Into::into),
        pinned: mark.pinned,
        consistency: CONSISTENCY.to_owned(),
        note: mark.note.as_ref().map(|note| note.as_str().to_owned()),
    })
}

fn find<'a>(
    past: &'a Past,
    volume: &VolumeName,
    name: &MarkName,
    back: u32,
) -> Result<(&'a Volume, &'a catalogue::Mark), Failure> {
    let volume = past.volume(volume)?;
    let catalogue = past.catalogue();
    if let Some(mark) = catalogue.find_mark(volume.id, name.as_str(), back) {
        return Ok((volume, mark));
    }
    let names = || catalogue.marks(volume.id).map(|mark| mark.name.as_str());
    let (volume_name, name) = (volume.name.clone(), name.as_str().to_owned());
    let count = names().filter(|known| *known == name).count();
    let error = if count > 0 {
        InstantError::TooFewMarks { volume: volume_name, name, count }
    } else {
        let last = |near: String| {
            let at = catalogue.find_mark(volume.id, &near, 0)?.at;
            Some((near, at))
        };
        let near = catalogue::nearest(&name, names()).into_iter().filter_map(last).collect();
        InstantError::NoMark { volume: volume_name, name, near }
    };
    Err(past.teller().instant(error, None))
}
