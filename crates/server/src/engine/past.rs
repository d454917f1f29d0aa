//! The store at one moment, and what is asked of its past: instants as users name them.
//!
//! A [`Past`] is a snapshot whose present is the last durable sequence: so what is told of it holds
//! after a power cut, and every sequence up to there is in the index with its time.

use super::failures::{Teller, index_failure};
use super::naming::{api_volume, catalogue_instant};
use api::{
    BranchName, Failure, InstantSpec, Point, Reference, VolumeName, codes,
    reference::Subject,
    verbs::{Moment, Resolution},
};
use catalogue::{AtTime, Catalogue, History, Resolved, Volume, When};
use history_index::{EraSpan, FlushPoint, Source};
use std::cell::{OnceCell, RefCell};
use units::{BranchId, Sequence, Timestamp};
use volume::Snapshot;

/// A clock that goes back further than this has leapt; less is clamped.
const LEAP_NS: i64 = 3_600_000_000_000;

/// See the module's head.
pub(super) struct Past {
    pub snapshot: Snapshot,
    /// The last durable sequence, and the server's clock.
    pub now: When,
    eras: OnceCell<Vec<EraSpan>>,
    /// The first page that could not be read: whatever came of it is not to be told.
    trouble: RefCell<Option<Failure>>,
}

/// A state of a volume that was found.
pub(super) struct Found {
    pub volume: Volume,
    pub name: VolumeName,
    pub resolved: Resolved,
    /// By its fixed name.
    pub reference: Reference,
    /// Unless it was named so.
    pub resolution: Option<Resolution>,
    /// Size of the disk then.
    pub size: u64,
}

impl Found {
    pub(super) fn state(&self) -> (BranchId, Sequence) {
        (self.resolved.branch, self.resolved.sequence)
    }

    pub(super) fn moment(&self) -> Moment {
        moment(self.resolved.when())
    }
}

/// A place in history as answers say it.
pub(super) fn moment(at: When) -> Moment {
    Moment { seq: at.sequence.number(), time: at.time.into() }
}

impl Past {
    /// As it stands, by the clock.
    pub(super) fn new(snapshot: Snapshot, wall: Timestamp) -> Self {
        let sequence = snapshot.durable.min(snapshot.head);
        let last = snapshot.index.clock_ends().map(|(_, last)| last.wall);
        let time = match last {
            // History's clock stands still while the wall catches up.
            Some(last) if last > wall && last.since_ns(wall) <= LEAP_NS => last,
            _ => wall,
        };
        let now = When { sequence, time };
        Self { snapshot, now, eras: OnceCell::new(), trouble: RefCell::new(None) }
    }

    pub(super) fn catalogue(&self) -> &Catalogue {
        &self.snapshot.catalogue
    }

    /// Says what is refused.
    pub(super) fn teller(&self) -> Teller {
        Teller { now: self.now.time }
    }

    /// The volume of that name.
    pub(super) fn volume(&self, name: &VolumeName) -> Result<&Volume, Failure> {
        let found = self.catalogue().find_volume(name.as_str());
        found.map_err(|error| self.teller().catalogue(error))
    }

    /// The volume that a reference names, and its branch.
    pub(super) fn subject<'a>(
        &self,
        reference: &'a Reference,
    ) -> Result<(&Volume, Option<&'a BranchName>), Failure> {
        let (name, branch) = reference.local()?;
        Ok((self.volume(name)?, branch))
    }

    /// The state that a reference names; without an instant the present.
    pub(super) fn find(&self, reference: &Reference, exact: bool) -> Result<Found, Failure> {
        let (volume, branch) = self.subject(reference)?;
        let spec = reference.instant.clone().unwrap_or(InstantSpec::NOW);
        let instant = catalogue_instant(&spec);
        let branch = branch.map(BranchName::as_str);
        let resolved = self.catalogue().resolve(volume.id, branch, &instant, self);
        if let Some(failure) = self.trouble.take() {
            return Err(failure);
        }
        let asked_time = match spec.point {
            Point::At(time) => Some(time),
            _ => None,
        };
        let resolved = resolved.map_err(|error| self.teller().instant(error, asked_time))?;
        if exact && resolved.thinned {
            return Err(Failure::new(
                codes::THINNED,
                format!(
                    "`{reference}` was thinned; the kept instant before it is seq:{}",
                    resolved.sequence
                ),
            )
            .doing("name that one, or leave --exact out"));
        }
        let name = api_volume(&volume.name)?;
        let resolution = (!spec.is_fixed() && reference.instant.is_some()).then(|| Resolution {
            asked: spec.to_string(),
            asked_time: resolved.asked.map(Into::into),
            before_ns: resolved.before_ns,
            thinned: resolved.thinned,
        });
        let reference = fixed(&name, &resolved)?;
        let size = self.catalogue().size_at(resolved.branch, resolved.sequence).unwrap_or(0);
        Ok(Found { volume: volume.clone(), name, resolved, reference, resolution, size })
    }

    /// The same, where an instant must be named (a branch that has ended names its end).
    pub(super) fn find_instant(
        &self,
        reference: &Reference,
        exact: bool,
    ) -> Result<Found, Failure> {
        if reference.instant.is_none() && reference.branch.is_none() {
            return Err(Failure::new(codes::INSTANT_WANTED, format!("`{reference}` names no instant"))
                .doing(format!("write {reference}@10:03:40, {reference}@-5m, {reference}@seq:N or {reference}@mark:NAME")));
        }
        self.find(reference, exact)
    }

    /// A place of which only the sequence is known.
    pub(super) fn when(&self, sequence: Sequence) -> When {
        When { sequence, time: self.time_of(sequence).unwrap_or(self.now.time) }
    }

    fn eras(&self) -> &[EraSpan] {
        self.eras.get_or_init(|| {
            let eras = self.snapshot.index.eras();
            let mut eras = self.or_trouble(eras).unwrap_or_default();
            if let Some(last) = eras.last_mut() {
                // The newest era goes on to the present, though nothing was written since.
                last.last.wall = last.last.wall.max(self.now.time);
            }
            eras
        })
    }

    fn or_trouble<T>(&self, result: history_index::Result<T>) -> Option<T> {
        match result {
            Ok(found) => Some(found),
            Err(error) => {
                self.trouble.borrow_mut().get_or_insert(index_failure(&error));
                None
            }
        }
    }

    fn flushes(&self, source: &Source, up_to: Sequence) -> Vec<FlushPoint> {
        let interval = Sequence::ZERO..=up_to;
        let found = match source {
            Source::Memory(run) => Ok(run.flushes_of(&interval)),
            Source::File(run) => run.flushes_of(&interval),
        };
        self.or_trouble(found).unwrap_or_default()
    }
}

/// The name of a state that never moves.
fn fixed(name: &VolumeName, resolved: &Resolved) -> Result<Reference, Failure> {
    let branch = resolved.needs_branch.as_ref().map(|branch| branch.as_str().parse());
    let reference = Reference {
        remote: None,
        subject: Subject::Volume(name.clone()),
        branch: branch.transpose()?,
        instant: None,
    };
    Ok(reference.at_sequence(resolved.sequence))
}

impl History for Past {
    fn now(&self) -> When {
        self.now
    }

    fn sequence_at(&self, time: Timestamp) -> AtTime {
        let holds = |era: &&EraSpan| era.first.wall <= time && time <= era.last.wall;
        let holding: Vec<&EraSpan> = self.eras().iter().filter(holds).collect();
        let point =
            |era: u32| self.or_trouble(self.snapshot.index.sequence_at(time, era)).flatten();
        match holding[..] {
            [] => {
                // The index is asked though the answer is an era's end: a lost run may lie there.
                let eras = self.eras();
                let before = eras.iter().rev().find(|era| era.last.wall <= time).or(eras.first());
                let found = before.and_then(|era| point(era.last.era));
                AtTime::One(found.map_or(Sequence::ZERO, |point| point.sequence))
            }
            [era] => {
                let found = point(era.first.era).map_or(Sequence::ZERO, |point| point.sequence);
                AtTime::One(found)
            }
            _ => {
                let readings = holding.iter().filter_map(|era| point(era.first.era));
                let when = readings.map(|it| When { sequence: it.sequence, time: it.wall });
                AtTime::Ambiguous(when.collect())
            }
        }
    }

    fn time_of(&self, sequence: Sequence) -> Option<Timestamp> {
        let point = self.or_trouble(self.snapshot.index.time_of(sequence)).flatten();
        point.map(|point| point.wall)
    }

    fn last_flush(&self, chain: &[(BranchId, Sequence)]) -> Option<Sequence> {
        let (_, from) = *chain.first()?;
        let seen = |flush: &FlushPoint| {
            chain.iter().any(|&(branch, up_to)| flush.branch == branch && flush.sequence <= up_to)
        };
        let mut best: Option<Sequence> = None;
        for source in self.snapshot.index.sources().iter().rev() {
            // A flush is written down in its run or a later one, never in an earlier one.
            if best.is_some_and(|best| best > source.last()) {
                break;
            }
            let flushes = self.flushes(source, from);
            let last = flushes.iter().filter(|flush| seen(flush)).map(|flush| flush.sequence).max();
            best = best.max(last);
        }
        best
    }

    fn last_quiet(&self, chain: &[(BranchId, Sequence)], quiet_ns: u64) -> Option<Sequence> {
        let spans = super::writes::spans_of(chain, Sequence::ZERO);
        let quiet_ns = i64::try_from(quiet_ns).unwrap_or(i64::MAX);
        let found =
            super::writes::last_pause(&self.snapshot.index, &spans, self.now.time, quiet_ns);
        self.or_trouble(found).flatten()
    }

    fn last_kept(&self, _chain: &[(BranchId, Sequence)]) -> Result<Sequence, When> {
        // Nothing is thinned: each place is kept, also where nothing was written for long.
        Ok(self.now.sequence)
    }
}
