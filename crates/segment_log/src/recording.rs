//! What goes into the manifest: facts of the log and records of others (the catalogue's), in the order
//! in which they are meant, one job at a time.
//!
//! What was said and no longer holds stays in the file until all is written anew: a snapshot in place of
//! history. So a key that was given up is gone from the disk only after [`Log::rewrite`]. Facts change
//! the state once they are durable; a snapshot is taken while none is on its way.

use crate::{
    background::{Background, Chore, Moves},
    log::Log,
    state::Fact,
    terms::{Config, Event},
    work::{PackedSegment, Task},
};
use history_index::Run;
use manifest::{Manifest, Record};
use std::{
    collections::VecDeque,
    io, mem,
    sync::{Arc, Mutex},
};
use units::{FileId, RunId};

/// The way to the manifest.
pub(crate) struct Recorder {
    manifest: Arc<Mutex<Manifest>>,
    /// Facts and records on their way, in order.
    queue: VecDeque<Recording>,
    busy: bool,
    /// Length of one copy.
    bytes: u64,
    /// The same, when it was last written anew or that was last tried.
    rewritten_bytes: u64,
}

struct Recording {
    records: Vec<Record>,
    facts: Vec<Fact>,
    how: How,
    then: Then,
}

/// What happens to what the manifest says already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// It stays, the records follow it.
    Append,
    /// The records take its place.
    Rewrite,
}

/// What waits for a recording.
pub(crate) enum Then {
    Epoch,
    Tell(u64),
    Sealed { segment: FileId, run: Arc<Run> },
    Packed { segment: FileId, packed: PackedSegment },
    Merged { run: Arc<Run>, old: Vec<RunId> },
}

/// How a recording ended.
pub(crate) struct Recorded {
    pub error: Option<String>,
    /// The manifest can still be written to.
    pub usable: bool,
    /// Length of one copy.
    pub bytes: u64,
}

impl Recorder {
    pub(crate) fn new(manifest: Manifest) -> Self {
        let bytes = manifest.bytes();
        let manifest = Arc::new(Mutex::new(manifest));
        Self { manifest, queue: VecDeque::new(), busy: false, bytes, rewritten_bytes: 0 }
    }
}

impl Background {
    /// Writes facts to the manifest, then goes on as told.
    pub(crate) fn record_facts(&mut self, facts: Vec<Fact>, then: Then) {
        let records = facts.iter().map(Fact::encode).collect();
        self.record(Recording { records, facts, how: How::Append, then });
    }

    fn record(&mut self, recording: Recording) {
        self.recorder.queue.push_back(recording);
        self.record_next();
    }

    fn record_next(&mut self) {
        if self.recorder.busy {
            return;
        }
        let Some(next) = self.recorder.queue.front_mut() else { return };
        self.recorder.busy = true;
        let (how, records) = (next.how, mem::take(&mut next.records));
        let manifest = self.recorder.manifest.clone();
        self.push(Task::Record { manifest, how, records });
    }
}

impl Log {
    /// Writes records of another kind (the catalogue's) to the manifest; [`Event::Recorded`] tells.
    pub fn record(&mut self, ticket: u64, records: Vec<Record>) {
        let (how, then) = (How::Append, Then::Tell(ticket));
        self.background.record(Recording { records, facts: Vec::new(), how, then });
    }

    /// Writes the manifest anew, with what the log knows and these records of others in place of all
    /// that was said before; [`Event::Recorded`] tells. If there is no room for it, the old one goes on.
    /// Only while nothing [is being recorded](Self::is_recording).
    pub fn rewrite(&mut self, ticket: u64, others: Vec<Record>) {
        assert!(!self.is_recording(), "a snapshot would lack what is on its way");
        let facts = self.state.snapshot();
        let records = facts.iter().map(Fact::encode).chain(others).collect();
        let (how, then) = (How::Rewrite, Then::Tell(ticket));
        self.background.record(Recording { records, facts: Vec::new(), how, then });
    }

    /// Whether something is on its way to the manifest.
    pub fn is_recording(&self) -> bool {
        !self.background.recorder.queue.is_empty()
    }

    /// Whether the manifest holds so much that was overtaken that it should be written anew.
    pub fn manifest_is_long(&self) -> bool {
        let Config { manifest_bytes, .. } = self.config;
        let Recorder { bytes, rewritten_bytes, .. } = self.background.recorder;
        self.poison.is_none() && bytes > manifest_bytes.max(rewritten_bytes * 2)
    }

    /// The manifest has the oldest recording, or does not take it.
    pub(crate) fn recorded(&mut self, ended: Recorded) -> Option<Moves> {
        let recorder = &mut self.background.recorder;
        recorder.busy = false;
        recorder.bytes = ended.bytes;
        let done = recorder.queue.pop_front()?;
        if done.how == How::Rewrite {
            recorder.rewritten_bytes = ended.bytes;
            self.background.troubles.remove(&Chore::Rewrite);
        }
        let Some(error) = ended.error else {
            for fact in &done.facts {
                self.state.apply(fact).expect("facts follow from the state they were made of");
            }
            let moves = self.recorded_then(done.then);
            self.background.record_next();
            return moves;
        };
        if ended.usable && done.how == How::Rewrite {
            self.background.troubles.insert(Chore::Rewrite, error); // a snapshot that found no room
        } else {
            self.take_no_more("writing the manifest", &io::Error::other(error));
        }
        if let Then::Tell(ticket) = done.then {
            self.events.push_back(Event::Recorded { ticket, durable: false });
        }
        self.background.record_next();
        None
    }
}
