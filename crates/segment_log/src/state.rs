//! What the manifest says of the log: epochs, runs, and the files that hold cells.
//!
//! Records are plain facts; an action (seal, pack, merge) is a few of them in one append, which is
//! all there after a crash or not at all. What the directory holds beside it is the tail (segments
//! after the last covered one) or garbage. Layouts: `docs/format.md` 10.1.

use crate::batch::{array_at, u32_at, u64_at};
use manifest::Record as ManifestRecord;
use seal::Tag;
use std::collections::BTreeMap;
use thiserror::Error;
use units::{Epoch, FileId, RunId, Sequence, Timestamp};

/// Kinds of records from here on are not the log's.
pub const KIND_END: u16 = 0x100;

const EPOCH: u16 = 1;
const RUN: u16 = 2;
const SEGMENT: u16 = 3;
const PACK: u16 = 4;
const BULK: u16 = 5;
const TAIL: u16 = 6;
const GONE: u16 = 7;
const NEXT: u16 = 8;

/// One opening of the store for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochRecord {
    /// Its number.
    pub epoch: Epoch,
    /// Its first sequence.
    pub first: Sequence,
    /// Makes its cell keys; the first 16 bytes begin its chain of batches.
    pub random: [u8; 32],
    /// When.
    pub wall: Timestamp,
}

impl EpochRecord {
    /// Where the chain of its batches begins.
    pub fn chain_start(&self) -> Tag {
        array_at(&self.random, 0)
    }
}

/// A closed interval of sequences; `last` may be `first - 1`: none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// The first.
    pub first: Sequence,
    /// The last.
    pub last: Sequence,
}

impl Interval {
    /// Whether the sequence lies inside.
    pub fn holds(self, sequence: Sequence) -> bool {
        self.first <= sequence && sequence <= self.last
    }
}

/// One fact of the log's part of the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// The store was opened for writing.
    Epoch(EpochRecord),
    /// An index run covers these sequences, in place of those it replaces (adjacent, oldest first).
    Run {
        /// The new one.
        run: RunId,
        /// What it covers.
        interval: Interval,
        /// What is no longer needed.
        replaces: Vec<RunId>,
    },
    /// A segment whose contents are indexed and that stays where it is.
    Segment {
        /// This use of the slot.
        segment: FileId,
        /// Name of its file.
        slot: u64,
        /// Where its batches end.
        end_bytes: u64,
        /// Sequences in it.
        interval: Interval,
    },
    /// Cells of a segment, sorted.
    Pack {
        /// The file.
        pack: FileId,
        /// Sequences in it.
        interval: Interval,
    },
    /// A bulk file that indexed sequences name; said again with each segment that names it.
    Bulk {
        /// The file.
        file: FileId,
        /// Sequences in it so far.
        interval: Interval,
    },
    /// All up to this segment is indexed.
    Tail {
        /// The segment.
        segment: FileId,
        /// Tag of its last batch: the next one follows it.
        last_tag: Tag,
    },
    /// A file holds no cells any more.
    Gone {
        /// The file.
        file: FileId,
    },
    /// Ids below these were used.
    Next {
        /// File ids.
        file: u64,
        /// Run ids.
        run: u64,
    },
}

/// A record of the manifest that is none of ours, or contradicts those before it.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("manifest record of kind {kind}: {why}")]
pub struct BadRecord {
    /// Its kind.
    pub kind: u16,
    /// What is wrong.
    pub why: &'static str,
}

/// A segment that stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StayingSegment {
    /// Name of its file.
    pub slot: u64,
    /// Where its batches end.
    pub end_bytes: u64,
    /// Sequences in it.
    pub interval: Interval,
}

/// What the facts so far amount to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// In order of their first sequences.
    pub epochs: Vec<EpochRecord>,
    /// Runs by their first sequence; they cover history without gaps.
    pub runs: BTreeMap<Sequence, (RunId, Sequence)>,
    /// Segments that stay.
    pub segments: BTreeMap<FileId, StayingSegment>,
    /// Packs.
    pub packs: BTreeMap<FileId, Interval>,
    /// Bulk files.
    pub bulk: BTreeMap<FileId, Interval>,
    /// The last segment that is indexed.
    pub tail: Option<FileId>,
    /// Tag of its last batch, if it is of the present epoch.
    pub tail_tag: Option<Tag>,
    /// The last sequence that runs cover.
    pub last: Sequence,
    /// Above every file id named so far.
    pub next_file: u64,
    /// Above every run id named so far.
    pub next_run: u64,
}

impl LogState {
    /// The present epoch.
    pub fn epoch(&self) -> Option<&EpochRecord> {
        self.epochs.last()
    }

    /// Where the next segment's chain begins, once there is an epoch.
    pub fn chain(&self) -> Option<Tag> {
        self.tail_tag.or_else(|| self.epoch().map(EpochRecord::chain_start))
    }

    /// Takes one fact in.
    pub fn apply(&mut self, fact: &Fact) -> Result<(), BadRecord> {
        match fact {
            Fact::Epoch(epoch) => self.apply_epoch(*epoch)?,
            Fact::Run { run, interval, replaces } => {
                self.apply_run(*run, *interval, replaces)?;
                self.next_run = self.next_run.max(run.0 + 1);
            }
            &Fact::Segment { segment, slot, end_bytes, interval } => {
                self.segments.insert(segment, StayingSegment { slot, end_bytes, interval });
                self.note_file(segment);
            }
            &Fact::Pack { pack, interval } => {
                self.packs.insert(pack, interval);
                self.note_file(pack);
            }
            &Fact::Bulk { file, interval } => {
                let known = self.bulk.entry(file).or_insert(interval);
                known.last = known.last.max(interval.last);
                self.note_file(file);
            }
            &Fact::Tail { segment, last_tag } => {
                self.tail = Some(segment);
                self.tail_tag = Some(last_tag);
                self.note_file(segment);
            }
            Fact::Gone { file } => {
                self.segments.remove(file);
                self.packs.remove(file);
                self.bulk.remove(file);
            }
            &Fact::Next { file, run } => {
                self.next_file = self.next_file.max(file);
                self.next_run = self.next_run.max(run);
            }
        }
        Ok(())
    }

    /// The facts that make this state out of an empty one.
    pub fn snapshot(&self) -> Vec<Fact> {
        let runs = self.runs.iter().map(|(&first, &(run, last))| Fact::Run {
            run,
            interval: Interval { first, last },
            replaces: Vec::new(),
        });
        let segments = self.segments.iter().map(|(&segment, stays)| Fact::Segment {
            segment,
            slot: stays.slot,
            end_bytes: stays.end_bytes,
            interval: stays.interval,
        });
        let packs = self.packs.iter().map(|(&pack, &interval)| Fact::Pack { pack, interval });
        let bulk = self.bulk.iter().map(|(&file, &interval)| Fact::Bulk { file, interval });
        // A new epoch forgets the tail's tag, so the tail stands before the last epoch or behind it.
        let tail = self.tail.map(|segment| {
            let last_tag = self.tail_tag.unwrap_or_default();
            Fact::Tail { segment, last_tag }
        });
        let (forgotten, present) = match self.tail_tag {
            None => (tail, None),
            Some(_) => (None, tail),
        };
        let mut epochs = self.epochs.iter().map(|epoch| Fact::Epoch(*epoch)).collect::<Vec<_>>();
        let last_epoch = epochs.pop();
        epochs
            .into_iter()
            .chain(forgotten)
            .chain(last_epoch)
            .chain(runs)
            .chain(segments)
            .chain(packs)
            .chain(bulk)
            .chain(present)
            .chain([Fact::Next { file: self.next_file, run: self.next_run }])
            .collect()
    }

    fn apply_epoch(&mut self, epoch: EpochRecord) -> Result<(), BadRecord> {
        let grows =
            self.epoch().is_none_or(|last| epoch.epoch > last.epoch && epoch.first >= last.first);
        if !grows {
            return Err(BadRecord { kind: EPOCH, why: "epochs go backwards" });
        }
        self.epochs.push(epoch);
        self.tail_tag = None;
        Ok(())
    }

    fn apply_run(
        &mut self,
        run: RunId,
        interval: Interval,
        replaces: &[RunId],
    ) -> Result<(), BadRecord> {
        if replaces.is_empty() {
            let follows = interval.first.number() == self.last.number() + 1
                && interval.last.number() + 1 >= interval.first.number();
            if !follows {
                return Err(BadRecord { kind: RUN, why: "does not follow the runs before it" });
            }
            self.last = interval.last;
        }
        let mut next = interval.first;
        for old in replaces {
            match self.runs.get(&next) {
                Some(&(known, last)) if known == *old => {
                    self.runs.remove(&next);
                    next = last.next();
                }
                _ => return Err(BadRecord { kind: RUN, why: "replaces what is not there" }),
            }
        }
        if !replaces.is_empty() && next != interval.last.next() {
            return Err(BadRecord { kind: RUN, why: "covers other sequences than it replaces" });
        }
        if interval.last >= interval.first {
            self.runs.insert(interval.first, (run, interval.last));
        }
        Ok(())
    }

    fn note_file(&mut self, file: FileId) {
        self.next_file = self.next_file.max(file.number() + 1);
    }
}

impl Fact {
    /// As a record of the manifest.
    pub fn encode(&self) -> ManifestRecord {
        let mut body = Vec::with_capacity(64);
        let mut put = |bytes: &[u8]| body.extend_from_slice(bytes);
        let kind = match self {
            Self::Epoch(epoch) => {
                put(&epoch.epoch.0.to_le_bytes());
                put(&epoch.first.number().to_le_bytes());
                put(&epoch.random);
                put(&epoch.wall.0.to_le_bytes());
                EPOCH
            }
            Self::Run { run, interval, replaces } => {
                put(&run.0.to_le_bytes());
                put(&interval.first.number().to_le_bytes());
                put(&interval.last.number().to_le_bytes());
                for old in replaces {
                    put(&old.0.to_le_bytes());
                }
                RUN
            }
            Self::Segment { segment, slot, end_bytes, interval } => {
                put(&segment.number().to_le_bytes());
                put(&interval.first.number().to_le_bytes());
                put(&interval.last.number().to_le_bytes());
                put(&slot.to_le_bytes());
                put(&end_bytes.to_le_bytes());
                SEGMENT
            }
            Self::Pack { pack: file, interval } | Self::Bulk { file, interval } => {
                put(&file.number().to_le_bytes());
                put(&interval.first.number().to_le_bytes());
                put(&interval.last.number().to_le_bytes());
                if matches!(self, Self::Pack { .. }) { PACK } else { BULK }
            }
            Self::Tail { segment, last_tag } => {
                put(&segment.number().to_le_bytes());
                put(last_tag);
                TAIL
            }
            Self::Gone { file } => {
                put(&file.number().to_le_bytes());
                GONE
            }
            Self::Next { file, run } => {
                put(&file.to_le_bytes());
                put(&run.to_le_bytes());
                NEXT
            }
        };
        ManifestRecord { kind, body }
    }

    /// From a record of the manifest.
    pub fn decode(record: &ManifestRecord) -> Result<Self, BadRecord> {
        let kind = record.kind;
        Self::parse(kind, &record.body).ok_or(BadRecord { kind, why: "body of the wrong form" })
    }

    fn parse(kind: u16, body: &[u8]) -> Option<Self> {
        let long = |bytes: usize| (body.len() == bytes).then_some(());
        let file = || FileId::new(u64_at(body, 0));
        let interval = |at| {
            let first = Sequence::new(u64_at(body, at))?;
            Some(Interval { first, last: Sequence::new(u64_at(body, at + 8))? })
        };
        Some(match kind {
            EPOCH => {
                long(52)?;
                Self::Epoch(EpochRecord {
                    epoch: Epoch(u32_at(body, 0)),
                    first: Sequence::new(u64_at(body, 4))?,
                    random: array_at(body, 12),
                    wall: Timestamp(i64::from_le_bytes(array_at(body, 44))),
                })
            }
            RUN => {
                let replaces = body.get(24..)?;
                if replaces.len() % 8 != 0 {
                    return None;
                }
                let replaces = replaces.chunks_exact(8).map(|old| RunId(u64_at(old, 0))).collect();
                Self::Run { run: RunId(u64_at(body, 0)), interval: interval(8)?, replaces }
            }
            SEGMENT => {
                long(40)?;
                Self::Segment {
                    segment: file()?,
                    interval: interval(8)?,
                    slot: u64_at(body, 24),
                    end_bytes: u64_at(body, 32),
                }
            }
            PACK => {
                long(24)?;
                Self::Pack { pack: file()?, interval: interval(8)? }
            }
            BULK => {
                long(24)?;
                Self::Bulk { file: file()?, interval: interval(8)? }
            }
            TAIL => {
                long(24)?;
                Self::Tail { segment: file()?, last_tag: array_at(body, 8) }
            }
            GONE => {
                long(8)?;
                Self::Gone { file: file()? }
            }
            NEXT => {
                long(16)?;
                Self::Next { file: u64_at(body, 0), run: u64_at(body, 8) }
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(number: u64) -> Sequence {
        Sequence::new(number).expect("small")
    }

    fn file(number: u64) -> FileId {
        FileId::new(number).expect("small")
    }

    fn facts() -> Vec<Fact> {
        let interval = |first, last| Interval { first: sequence(first), last: sequence(last) };
        let epoch = EpochRecord {
            epoch: Epoch(1),
            first: sequence(1),
            random: [7; 32],
            wall: Timestamp(-5),
        };
        vec![
            Fact::Epoch(epoch),
            Fact::Run { run: RunId(1), interval: interval(1, 10), replaces: vec![] },
            Fact::Segment { segment: file(1), slot: 3, end_bytes: 9000, interval: interval(1, 10) },
            Fact::Tail { segment: file(1), last_tag: [1; 16] },
            Fact::Run { run: RunId(2), interval: interval(11, 12), replaces: vec![] },
            Fact::Pack { pack: file(4), interval: interval(11, 12) },
            Fact::Bulk { file: file(9), interval: interval(5, 12) },
            Fact::Tail { segment: file(2), last_tag: [2; 16] },
            Fact::Run {
                run: RunId(3),
                interval: interval(1, 12),
                replaces: vec![RunId(1), RunId(2)],
            },
            Fact::Gone { file: file(1) },
        ]
    }

    #[test]
    fn a_snapshot_makes_the_same_state() {
        let mut state = LogState::default();
        for fact in facts() {
            let again = Fact::decode(&fact.encode()).expect("ours");
            assert_eq!(again, fact);
            state.apply(&again).expect("in order");
        }
        let mut copy = LogState::default();
        for fact in state.snapshot() {
            copy.apply(&fact).expect("in order");
        }
        assert_eq!(copy, state);
        assert_eq!((state.next_file, state.next_run, state.runs.len()), (10, 4, 1));
    }

    #[test]
    fn runs_cover_history_without_gaps() {
        let mut state = LogState::default();
        let interval = Interval { first: sequence(2), last: sequence(3) };
        let gap = Fact::Run { run: RunId(1), interval, replaces: vec![] };
        assert!(state.apply(&gap).is_err());
        let unknown = Fact::Run { run: RunId(1), interval, replaces: vec![RunId(7)] };
        assert!(state.apply(&unknown).is_err());
    }
}
