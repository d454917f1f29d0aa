//! Instants: from what a user says to a branch and a sequence.
//!
//! `VOL@I` is the disk as it was served at I, so an instant in a stretch that a rewind left lies in
//! the branch that was left; `VOL~B@I` stays on B. What is answered has one name for ever: asking for
//! [`Resolved::sequence`] (on [`Resolved::needs_branch`]) finds the same state again, whatever is
//! written or rewound later.

use thiserror::Error;
use units::{BranchId, Sequence, Timestamp, VolumeId};

use crate::{
    error::CatalogueError,
    name::{BranchName, VolumeName, nearest},
    state::{Catalogue, Mark, When},
};

/// An instant as said; local times are already UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instant {
    /// Where.
    pub at: At,
    /// Then back to.
    pub rounding: Option<Rounding>,
}

/// A place in a volume's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// The newest state; of a branch that was left or closed, its end.
    Now,
    /// The first state of the volume: empty, or where a clone forked.
    Start,
    /// So many nanoseconds before the server's clock.
    Ago(u64),
    /// All writes acknowledged at or before it, none issued after.
    Time(Timestamp),
    /// All writes up to that sequence.
    Sequence(u64),
    /// The last mark of that name.
    Mark {
        /// Its name.
        name: String,
        /// How many of that name to go back.
        earlier: u32,
    },
    /// Just before that detection alarm.
    Alarm(u64),
}

/// Down to the last such place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// A client's flush.
    Flush,
    /// A mark.
    Mark,
    /// So many nanoseconds without a write.
    Quiet(u64),
}

/// What resolving needs to know of the log.
///
/// A *chain* ([`Catalogue::chain`]) is never empty here; its first bound is the place to look back
/// from, and answers are sequences at or before it.
pub trait History {
    /// The store's last sequence, and the clock of the server.
    fn now(&self) -> When;

    /// The last sequence whose batch clock is not after `time`, [`Sequence::ZERO`] if none is.
    fn sequence_at(&self, time: Timestamp) -> AtTime;

    /// The clock of the batch that a sequence lies in, if that is still known.
    fn time_of(&self, sequence: Sequence) -> Option<Timestamp>;

    /// The last sequence covered by a client's flush of a branch of the chain.
    fn last_flush(&self, chain: &[(BranchId, Sequence)]) -> Option<Sequence>;

    /// The last sequence after which nothing was written for so long.
    fn last_quiet(&self, chain: &[(BranchId, Sequence)], quiet_ns: u64) -> Option<Sequence>;

    /// The last place that retention has kept. `Err` names the oldest one when none is early enough.
    /// A history that keeps all says the place itself.
    fn last_kept(&self, chain: &[(BranchId, Sequence)]) -> Result<Sequence, When>;
}

/// Which sequence a time means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AtTime {
    /// This one.
    One(Sequence),
    /// Several clock eras contain the time: the reading of each.
    Ambiguous(Vec<When>),
}

/// A state that can be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The volume.
    pub volume: VolumeId,
    /// The branch whose state it is.
    pub branch: BranchId,
    /// All writes up to here.
    pub sequence: Sequence,
    /// When that was.
    pub time: Timestamp,
    /// The time that was asked for, where a time was.
    pub asked: Option<Timestamp>,
    /// How long before it the answer lies.
    pub before_ns: u64,
    /// Retention has thinned what was asked for: this is the kept instant before (`--exact` refuses).
    pub thinned: bool,
    /// The branch's name where it is not the present.
    pub left: Option<BranchName>,
    /// The fixed name is `VOL~THIS@seq:N`; without it `VOL@seq:N` will do.
    pub needs_branch: Option<BranchName>,
}

impl Resolved {
    /// As the place that [`Catalogue::plan_rewind`] and its like take.
    pub fn when(&self) -> When {
        When { sequence: self.sequence, time: self.time }
    }
}

/// Why an instant cannot be opened.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum InstantError {
    /// The volume or the branch is not there.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// It is still to come.
    #[error("volume `{volume}` is at sequence {} now", now.sequence)]
    AfterNow {
        /// The volume.
        volume: VolumeName,
        /// The nearest kept instant.
        now: When,
    },
    /// The branch had ended by then.
    #[error("branch `{volume}~{branch}` ends at sequence {}", end.sequence)]
    AfterEnd {
        /// The volume.
        volume: VolumeName,
        /// The branch.
        branch: BranchName,
        /// The nearest kept instant.
        end: When,
    },
    /// Nothing that old is kept.
    #[error("volume `{volume}` keeps nothing before sequence {}", oldest.sequence)]
    BeforeOldest {
        /// The volume.
        volume: VolumeName,
        /// The nearest kept instant.
        oldest: When,
    },
    /// Several clock eras contain the time.
    #[error("volume `{volume}` has {} readings of that time", readings.len())]
    Ambiguous {
        /// The volume.
        volume: VolumeName,
        /// All of them; `seq:` tells them apart.
        readings: Vec<When>,
    },
    /// No mark has that name.
    #[error("volume `{volume}` has no instant `mark:{}`", name.escape_debug())]
    NoMark {
        /// The volume.
        volume: VolumeName,
        /// As asked for.
        name: String,
        /// Names that may have been meant, each with the last instant of that name.
        near: Vec<(String, When)>,
    },
    /// Not so many marks have that name.
    #[error("volume `{volume}` has {count} mark(s) of the name `{name}`")]
    TooFewMarks {
        /// The volume.
        volume: VolumeName,
        /// The name.
        name: String,
        /// How many have it.
        count: usize,
    },
    /// The mark is in another line of history than the branch that was named.
    #[error("mark `{name}` of volume `{volume}` is not on branch `{branch}`")]
    MarkElsewhere {
        /// The volume.
        volume: VolumeName,
        /// The mark.
        name: String,
        /// The branch that was named.
        branch: String,
    },
    /// Nothing to round down to.
    #[error("volume `{volume}` has no such place at or before sequence {}", before.sequence)]
    NothingBefore {
        /// The volume.
        volume: VolumeName,
        /// What was looked for.
        rounding: Rounding,
        /// Where the search began.
        before: When,
    },
    /// Detection does not exist yet.
    #[error("volume `{volume}` has no alarm {alarm}")]
    NoAlarm {
        /// The volume.
        volume: VolumeName,
        /// As asked for.
        alarm: u64,
    },
}

impl Catalogue {
    /// The state that an instant of a volume (on its branch of that name) means.
    pub fn resolve(
        &self,
        volume: VolumeId,
        branch: Option<&str>,
        instant: &Instant,
        history: &dyn History,
    ) -> Result<Resolved, InstantError> {
        let name = self.live_volume(volume)?.name.clone();
        let branch = branch.map(|name| self.find_branch(volume, name)).transpose()?;
        let branch = branch.map(|branch| branch.id);
        let present = self.present_branch(volume)?.id;
        let start = self.start(volume)?;
        let search = Search { catalogue: self, history, volume, name, branch, present, start };
        search.resolve(instant)
    }

    /// The first instant of a volume: its creation, or where it forked from its source.
    pub fn start(&self, volume: VolumeId) -> Result<When, CatalogueError> {
        let created = self.some_volume(volume)?.created;
        let root = self.served(volume).first().and_then(|first| self.branch(first.branch));
        Ok(root.and_then(|root| root.parent).map_or(created, |fork| fork.at))
    }
}

/// One question: the volume, the branch that was named, and what is fixed while it is answered.
struct Search<'a> {
    catalogue: &'a Catalogue,
    history: &'a dyn History,
    volume: VolumeId,
    name: VolumeName,
    branch: Option<BranchId>,
    present: BranchId,
    start: When,
}

impl Search<'_> {
    fn resolve(&self, instant: &Instant) -> Result<Resolved, InstantError> {
        let now = self.history.now();
        let (asked, (branch, sequence)) = match instant.at {
            At::Now => self.newest(now),
            At::Start => {
                (None, (self.branch.unwrap_or(self.served_at(self.start)), self.start.sequence))
            }
            At::Ago(ns) => {
                let ns = i64::try_from(ns).unwrap_or(i64::MAX);
                self.at_time(Timestamp(now.time.0.saturating_sub(ns)), now)?
            }
            At::Time(time) => self.at_time(time, now)?,
            At::Sequence(number) => (None, self.at_sequence(number, now)?),
            At::Mark { ref name, earlier } => (None, self.at_mark(name, earlier, now)?),
            At::Alarm(alarm) => {
                return Err(InstantError::NoAlarm { volume: self.name.clone(), alarm });
            }
        };
        let (branch, sequence) = match instant.rounding {
            None => (branch, sequence),
            Some(rounding) => self.round(rounding, branch, sequence)?,
        };
        let chain = self.catalogue.chain(branch, sequence);
        let kept = match chain.first() {
            None => sequence, // the volume's first state needs no version of any block
            Some(_) => self.history.last_kept(&chain).map_err(|oldest| self.before(oldest))?,
        };
        Ok(self.answer(branch, kept.min(sequence), asked, kept < sequence))
    }

    fn newest(&self, now: When) -> (Option<Timestamp>, (BranchId, Sequence)) {
        match self.branch.and_then(|id| self.catalogue.branch(id)) {
            Some(branch) => match branch.ended {
                Some(end) => (None, (branch.id, end.sequence)),
                None => (Some(now.time), (branch.id, now.sequence)),
            },
            None => (Some(now.time), (self.present, now.sequence)),
        }
    }

    fn at_time(
        &self,
        time: Timestamp,
        now: When,
    ) -> Result<(Option<Timestamp>, (BranchId, Sequence)), InstantError> {
        if time > now.time {
            return Err(InstantError::AfterNow { volume: self.name.clone(), now });
        }
        let sequence = match self.history.sequence_at(time) {
            AtTime::One(sequence) => sequence.min(now.sequence),
            AtTime::Ambiguous(readings) => {
                return Err(InstantError::Ambiguous { volume: self.name.clone(), readings });
            }
        };
        let when = When { sequence, time };
        if when < self.start {
            return Err(self.before(self.start));
        }
        let branch = self.branch_at(when)?;
        Ok((Some(time), (branch, sequence)))
    }

    fn at_sequence(&self, number: u64, now: When) -> Result<(BranchId, Sequence), InstantError> {
        let Some(sequence) = Sequence::new(number).filter(|&sequence| sequence <= now.sequence)
        else {
            return Err(InstantError::AfterNow { volume: self.name.clone(), now });
        };
        if sequence < self.start.sequence {
            return Err(self.before(self.start));
        }
        // A change of the present at that very sequence came after it: its writes are greater.
        let branch = self.branch_at(When { sequence, time: Timestamp(i64::MIN) })?;
        Ok((branch, sequence))
    }

    /// The branch that was named, if it had not ended; else what was served.
    fn branch_at(&self, when: When) -> Result<BranchId, InstantError> {
        let Some(branch) = self.branch.and_then(|id| self.catalogue.branch(id)) else {
            return Ok(self.served_at(when));
        };
        match (branch.ended, &branch.name) {
            (Some(end), Some(name)) if end.sequence < when.sequence => {
                let (volume, branch) = (self.name.clone(), name.clone());
                Err(InstantError::AfterEnd { volume, branch, end })
            }
            _ => Ok(branch.id),
        }
    }

    /// What clients saw then. The time tells only changes at one sequence apart: clocks may step.
    fn served_at(&self, when: When) -> BranchId {
        let served = self.catalogue.served(self.volume);
        let count = served.partition_point(|it| it.from <= when);
        let before = served[..count].last().or(served.first());
        before.map_or(self.present, |it| it.branch)
    }

    fn at_mark(
        &self,
        name: &str,
        earlier: u32,
        now: When,
    ) -> Result<(BranchId, Sequence), InstantError> {
        let volume = self.name.clone();
        let named = || self.catalogue.marks(self.volume).filter(|mark| mark.name.as_str() == name);
        let Some(mark) = self.catalogue.find_mark(self.volume, name, earlier) else {
            let name = name.to_owned();
            return Err(match named().count() {
                0 => InstantError::NoMark { volume, near: self.near_marks(&name), name },
                count => InstantError::TooFewMarks { volume, name, count },
            });
        };
        if let Some(branch) = self.branch
            && !self.sees(branch, now.sequence, mark)
        {
            let named = self.catalogue.branch(branch).and_then(|it| it.name.as_ref());
            let branch = named.map_or_else(String::new, ToString::to_string);
            return Err(InstantError::MarkElsewhere { volume, name: name.to_owned(), branch });
        }
        Ok((mark.branch, mark.at.sequence))
    }

    fn near_marks(&self, name: &str) -> Vec<(String, When)> {
        let names = self.catalogue.marks(self.volume).map(|mark| mark.name.as_str());
        let at = |name: String| {
            let mark = self.catalogue.find_mark(self.volume, &name, 0)?;
            Some((name, mark.at))
        };
        nearest(name, names).into_iter().filter_map(at).collect()
    }

    /// Whether a mark's state lies in the past of `(branch, up_to)`.
    fn sees(&self, branch: BranchId, up_to: Sequence, mark: &Mark) -> bool {
        let (of, at) = self.catalogue.first_name(mark.branch, mark.at.sequence);
        let chain = self.catalogue.chain(branch, up_to);
        let in_chain = chain.iter().any(|&(id, last)| id == of && at <= last);
        in_chain || at <= self.start.sequence
    }

    fn round(
        &self,
        rounding: Rounding,
        branch: BranchId,
        sequence: Sequence,
    ) -> Result<(BranchId, Sequence), InstantError> {
        let chain = self.catalogue.chain(branch, sequence);
        let found = match rounding {
            Rounding::Mark => {
                let seen = |mark: &&Mark| {
                    mark.at.sequence <= sequence && self.sees(branch, sequence, mark)
                };
                let marks = self.catalogue.marks(self.volume).filter(seen);
                let last = marks.max_by_key(|mark| (mark.at.sequence, mark.id));
                last.map(|mark| (mark.branch, mark.at.sequence))
            }
            Rounding::Flush if !chain.is_empty() => {
                self.history.last_flush(&chain).map(|flushed| (branch, flushed))
            }
            Rounding::Quiet(ns) if !chain.is_empty() => {
                self.history.last_quiet(&chain, ns).map(|quiet| (branch, quiet))
            }
            Rounding::Flush | Rounding::Quiet(_) => None,
        };
        let found = found.filter(|&(_, at)| at <= sequence && at >= self.start.sequence);
        found.ok_or_else(|| {
            let time = self.time_of(sequence);
            let (volume, before) = (self.name.clone(), When { sequence, time });
            InstantError::NothingBefore { volume, rounding, before }
        })
    }

    fn answer(
        &self,
        branch: BranchId,
        sequence: Sequence,
        asked: Option<Timestamp>,
        thinned: bool,
    ) -> Resolved {
        let (branch, sequence) = self.catalogue.first_name(branch, sequence);
        let time = self.time_of(sequence);
        let name = self.catalogue.branch(branch).and_then(|branch| branch.name.clone());
        let served = self.served_at(When { sequence, time: Timestamp(i64::MIN) });
        let found_by_number = self.catalogue.first_name(served, sequence) == (branch, sequence);
        Resolved {
            volume: self.volume,
            branch,
            sequence,
            time,
            asked,
            before_ns: asked.map_or(0, |asked| asked.since_ns(time).max(0).unsigned_abs()),
            thinned,
            left: name.clone().filter(|_| branch != self.present),
            needs_branch: name.filter(|_| !found_by_number),
        }
    }

    fn time_of(&self, sequence: Sequence) -> Timestamp {
        if sequence <= self.start.sequence {
            return self.start.time;
        }
        let known = self.history.time_of(sequence);
        let marks = || self.catalogue.marks(self.volume).find(|mark| mark.at.sequence == sequence);
        known.or_else(|| marks().map(|mark| mark.at.time)).unwrap_or(self.start.time)
    }

    fn before(&self, oldest: When) -> InstantError {
        InstantError::BeforeOldest { volume: self.name.clone(), oldest }
    }
}
