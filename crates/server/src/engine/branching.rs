//! `clone`, `rewind` and `diff`.

use super::{
    failures::index_failure,
    naming::catalogue_volume,
    past::{Past, moment},
    running::Engine,
    volumes::{new_key, present, size_now},
    writes,
};
use api::{
    Failure, Reference,
    reference::Subject,
    verbs::history::{
        Cloned, Diff, DiffPage, Difference, DifferenceKind, Rewind, Rewound, VolClone,
    },
};
use catalogue::{CatalogueRecord, NewVolume, Who};
use units::{BranchId, Sequence};
use volume::ChangedKind;

/// Ranges in a page of a diff, unless fewer are asked for.
const RANGES_MAX: usize = 1 << 16;

impl Engine {
    pub(super) fn clone_past(&self, request: VolClone) -> Result<Cloned, Failure> {
        let name = catalogue_volume(&request.name)?;
        let key = new_key(&*self.held.chance);
        let (id, found) = self.change(|past| {
            let found = past.find(&request.reference, request.exact)?;
            let new = NewVolume { name, key, options: found.volume.options };
            let (branch, at) = (found.resolved.branch, found.resolved.when());
            let planned = past.catalogue().plan_clone(branch, at, new, past.now);
            let (id, records) = planned.map_err(|error| past.teller().catalogue(error))?;
            Ok(((id, found), records))
        })?;
        Ok(Cloned {
            id: id.0,
            size: found.size,
            seq: found.resolved.sequence.number(),
            time: found.resolved.time.into(),
            origin: found.reference,
            resolution: found.resolution,
            uri: self.uri(&Reference::volume(request.name.clone())),
            name: request.name,
        })
    }

    /// What is attached refuses a rewind, or is cut off by `detach`: first those clients lose their
    /// connections and the right to come back, then the present changes.
    pub(super) fn rewind(&self, request: &Rewind) -> Result<Rewound, Failure> {
        let begun = self.held.clock.boot_ns();
        if request.dry_run {
            let past = self.settled()?;
            return self.plan_rewind(&past, request).map(|(rewound, _)| rewound);
        }
        let planning = self.planning()?;
        let past = self.settled()?;
        let found = past.find_instant(&request.reference, request.exact)?;
        let left = present(&past, &found.volume)?.clone();
        let clients = self.attached(&past, found.volume.id)?;
        if request.detach {
            let catalogue = past.catalogue();
            let planned = catalogue.plan_detach(found.volume.id, Some(left.id), past.now.time);
            let (cut_off, records) = planned.map_err(|error| past.teller().catalogue(error))?;
            self.commit(&planning, records)?;
            let who: Vec<Who> = cut_off.into_iter().map(|client| client.who).collect();
            let ids = self.connections_of(left.id, &who)?;
            self.kick(move |info| ids.contains(&info.id))?;
        }
        let past = self.settled()?;
        let (mut rewound, records) = self.plan_rewind(&past, request)?;
        self.commit(&planning, records)?;
        if left.read_only {
            // What takes no writes goes on taking none.
            let past = self.look()?;
            let present = present(&past, &found.volume)?;
            let still = catalogue::Branch { read_only: true, ..present.clone() };
            self.commit(&planning, vec![CatalogueRecord::Branch(still)])?;
        }
        rewound.clients = if request.detach { clients } else { Vec::new() };
        rewound.done = true;
        rewound.took_ns = self.held.clock.boot_ns().saturating_sub(begun);
        Ok(rewound)
    }

    fn plan_rewind(
        &self,
        past: &Past,
        request: &Rewind,
    ) -> Result<(Rewound, Vec<CatalogueRecord>), Failure> {
        let found = past.find_instant(&request.reference, request.exact)?;
        let volume = &found.volume;
        let left = present(past, volume)?;
        let (branch, at) = (found.resolved.branch, found.resolved.when());
        let planned = past.catalogue().plan_rewind(volume.id, branch, at, past.now);
        let (kept, records) = match planned {
            Ok((rewound, records)) => (Some(rewound.left_name), records),
            Err(catalogue::CatalogueError::Busy { .. }) if request.dry_run => (None, Vec::new()),
            Err(error) => return Err(past.teller().catalogue(error)),
        };
        let catalogue = past.catalogue();
        let all = catalogue.chain(left.id, past.now.sequence);
        let stays = catalogue.chain(branch, at.sequence);
        let leaves = writes::spans_without(&all, &stays);
        let counted = writes::count(&past.snapshot.index, &leaves);
        let kept = kept.map(|name| name.as_str().parse()).transpose()?.map(|name| Reference {
            remote: None,
            subject: Subject::Volume(found.name.clone()),
            branch: Some(name),
            instant: None,
        });
        let rewound = Rewound {
            name: found.name.clone(),
            from: moment(past.now),
            to: found.moment(),
            reference: found.reference.clone(),
            resolution: found.resolution.clone(),
            writes: counted.map_err(|error| index_failure(&error))?,
            kept,
            size_before: size_now(past, left.id),
            size: found.size,
            clients: self.attached(past, volume.id)?,
            done: false,
            took_ns: 0,
        };
        Ok((rewound, records))
    }

    pub(super) fn diff(&self, request: &Diff) -> Result<DiffPage, Failure> {
        let past = self.settled()?;
        let one = past.find(&request.from, request.exact)?;
        let other = past.find(&request.to, request.exact)?;
        let asked =
            request.limit.map_or(RANGES_MAX, |limit| usize::try_from(limit).unwrap_or(RANGES_MAX));
        let limit = asked.clamp(1, RANGES_MAX);
        let (ranges, next) = differences(&past, one.state(), other.state(), request.after, limit)?;
        Ok(DiffPage {
            from: one.reference,
            to: other.reference,
            size_from: one.size,
            size_to: other.size,
            ranges,
            next,
        })
    }
}

/// Up to `limit` ranges after an offset, and the offset after which there is more.
fn differences(
    past: &Past,
    one: (BranchId, Sequence),
    other: (BranchId, Sequence),
    after: Option<u64>,
    limit: usize,
) -> Result<(Vec<Difference>, Option<u64>), Failure> {
    let after = after.unwrap_or(0);
    let mut ranges: Vec<Difference> = Vec::new();
    let mut more = false;
    let searched = past.snapshot.diff(one, other, |changed| {
        if changed.offset_bytes < after {
            return true;
        }
        if ranges.len() == limit {
            more = true;
            return false;
        }
        ranges.push(Difference {
            offset: changed.offset_bytes,
            length: changed.length_bytes,
            kind: match changed.kind {
                ChangedKind::Data => DifferenceKind::Data,
                ChangedKind::Zero => DifferenceKind::Zero,
            },
        });
        true
    });
    searched.map_err(|error| index_failure(&error))?;
    let next = ranges.last().filter(|_| more).map(|last| last.offset + last.length);
    Ok((ranges, next))
}
