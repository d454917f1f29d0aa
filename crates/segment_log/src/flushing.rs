//! Who waits for durability, and the syncs that bring it.
//!
//! One round of syncs at a time covers everything that had landed when it began, in every file that
//! was written since its last sync; all who wait for that much share it. Nothing is synced when
//! nothing was written.

use crate::{planted, terms::Event};
use std::collections::{BTreeMap, VecDeque};
use units::{FileId, Sequence};
use world::File;

/// See the module's head.
#[derive(Debug)]
pub struct Flushing {
    durable: Sequence,
    waiting: Vec<(Sequence, Event)>,
    due: VecDeque<Event>,
    files: BTreeMap<FileId, Written>,
    round: Option<Round>,
    /// Durability that nobody waits for but that is wanted soon.
    wanted: Sequence,
    hurried: bool,
}

/// How often a file was written and how much of it is synced.
#[derive(Debug)]
struct Written {
    file: File,
    writes: u64,
    synced: u64,
}

#[derive(Debug)]
struct Round {
    covers: Sequence,
    pending: Vec<(FileId, u64)>,
}

impl Flushing {
    /// All up to `durable` is durable already.
    pub fn new(durable: Sequence) -> Self {
        Self {
            durable,
            waiting: Vec::new(),
            due: VecDeque::new(),
            files: BTreeMap::new(),
            round: None,
            wanted: Sequence::ZERO,
            hurried: false,
        }
    }

    /// All up to here is durable.
    pub fn durable(&self) -> Sequence {
        self.durable
    }

    /// The event is due once all up to `target` is durable.
    pub fn wait_for(&mut self, target: Sequence, event: Event) {
        if target <= self.durable {
            self.due.push_back(event);
        } else {
            self.waiting.push((target, event));
        }
    }

    /// All up to `target` should become durable soon.
    pub fn want(&mut self, target: Sequence) {
        self.wanted = self.wanted.max(target);
    }

    /// A write to the file has ended well.
    pub fn wrote(&mut self, id: FileId, file: File) {
        self.files.entry(id).or_insert(Written { file, writes: 0, synced: 0 }).writes += 1;
    }

    /// The file holds nothing any more.
    pub fn forget(&mut self, id: FileId) {
        self.files.remove(&id);
    }

    /// The open batch is to be cut at once.
    pub fn hurry(&mut self) {
        self.hurried = true;
    }

    /// It was cut.
    pub fn calm(&mut self) {
        self.hurried = false;
    }

    /// Whether the open batch is to be cut at once.
    pub fn is_hurried(&self) -> bool {
        self.hurried
    }

    /// Whether somebody waits for what has not landed yet.
    pub fn wants_beyond(&self, landed: Sequence) -> bool {
        self.waiting.iter().any(|(target, _)| *target > landed)
    }

    /// The files to sync now, if a round is due and none is under way.
    pub fn start(&mut self, landed: Sequence) -> Vec<(FileId, File)> {
        let asked = self.waiting.iter().any(|(target, _)| *target <= landed)
            || self.wanted > self.durable && self.wanted <= landed;
        if !asked || self.round.is_some() {
            return Vec::new();
        }
        let skipped = if planted::is(3) { self.files.len().saturating_sub(1) } else { 0 };
        let dirty = self.files.iter().skip(skipped);
        let dirty = dirty.filter(|(_, written)| written.writes > written.synced);
        let pending: Vec<_> = dirty.clone().map(|(id, written)| (*id, written.writes)).collect();
        let files = dirty.map(|(id, written)| (*id, written.file.clone())).collect();
        self.round = Some(Round { covers: landed, pending });
        self.end_round();
        files
    }

    /// The sync of a file of this round has ended well.
    pub fn synced(&mut self, id: FileId) {
        let Some(round) = &mut self.round else { return };
        let Some(index) = round.pending.iter().position(|(pending, _)| *pending == id) else {
            return;
        };
        let (_, writes) = round.pending.swap_remove(index);
        if let Some(written) = self.files.get_mut(&id) {
            written.synced = written.synced.max(writes);
        }
        self.end_round();
    }

    /// The next event that is due.
    pub fn next_due(&mut self) -> Option<Event> {
        self.due.pop_front()
    }

    /// Nothing will become durable any more: tickets of all who wait.
    pub fn fail(&mut self) -> Vec<u64> {
        self.round = None;
        let ticket = |event| match event {
            Event::Written { ticket, .. } | Event::Flushed { ticket } => Some(ticket),
            Event::Failed { .. } | Event::Recorded { .. } => None,
        };
        self.waiting.drain(..).filter_map(|(_, event)| ticket(event)).collect()
    }

    fn end_round(&mut self) {
        let ends = |round: &Round| round.pending.is_empty() || planted::is(2);
        if !self.round.as_ref().is_some_and(ends) {
            return;
        }
        let Some(round) = self.round.take() else { return };
        self.durable = self.durable.max(round.covers);
        self.files.retain(|_, written| written.writes > written.synced);
        let durable = self.durable;
        for (_, event) in self.waiting.extract_if(.., |(target, _)| *target <= durable) {
            self.due.push_back(event);
        }
    }
}
