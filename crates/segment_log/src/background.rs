//! Behind the writers: files prepared ahead, full segments sealed and packed, runs merged, and every
//! such step written to the manifest before anything is freed.
//!
//! Full segments leave in order, oldest first; the manifest is appended to in the order of the facts'
//! meaning, one record job at a time.

use crate::{
    bulk::UnusedEnd,
    files::{CellFile, Home},
    log::Log,
    planted,
    recording::{Recorder, Then},
    rolling::FullSegment,
    state::{Fact, Interval},
    terms::{Config, Environment, Event, Room},
    work::{
        Ended, Moved, NewBulk, NewSegment, Outcome, Pack, PackedSegment, PreparedSegment, Task,
        Work, WorkError, run_path,
    },
};
use history_index::{Index, IndexSnapshot, MemoryRun, PageCache, Run, Source, pick_merge};
use manifest::Manifest;
use std::{
    collections::{BTreeMap, VecDeque},
    io, mem,
    sync::Arc,
};
use units::{FileId, RunId};

pub use crate::work::PreparedBulk;

/// Length of the first bulk file of a session; each is four times as long as the one before it, up to
/// [`BULK_LAST_BYTES`]: a few long writes do not reserve a gibibyte, and many seldom wait for a new file.
const BULK_FIRST_BYTES: u64 = 64 << 20;
/// Length of the longest bulk files.
const BULK_LAST_BYTES: u64 = 1 << 30;
/// Length of the shortest bulk files that are made before somebody needs one.
const BULK_LEAST_BYTES: u64 = 1 << 20;
/// Nanoseconds until room is looked for again after there was none.
const RETRY_NS: u64 = 1_000_000_000;

/// Failures to make a file, one after the other, until who needs it is told.
const FAILURES_BORNE: u32 = 3;

/// See the module's head.
pub struct Background {
    env: Arc<Environment>,
    pub(crate) index: Index,
    pub(crate) cache: Arc<PageCache>,
    works: Vec<Work>,
    pub(crate) recorder: Recorder,
    segment: Prepared<PreparedSegment>,
    bulk: Prepared<PreparedBulk>,
    /// Prepared and too short for who needs one: it goes before another is made.
    unfit_bulk: Option<FileId>,
    /// Length of the next bulk file.
    bulk_bytes: u64,
    free_slots: Vec<u64>,
    next_slot: u64,
    next_run: u64,
    /// A segment is being sealed or packed.
    packing: bool,
    merging: bool,
    /// How making segments goes, and bulk files: the one may find room where the other does not.
    segments_made: Making,
    bulk_made: Making,
    /// After a job failed: boot time before which none is begun.
    paused_until_ns: u64,
    /// Why jobs failed of which none has gone well since, for who looks at the store.
    pub(crate) troubles: BTreeMap<Chore, String>,
    /// What could not be had when the store was opened.
    damage: Vec<String>,
    /// Runs that cannot be read in full, found when they were to be merged.
    unmergeable: Vec<RunId>,
}

/// What may fail and go well later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Chore {
    /// Making files to write to.
    MakeFiles,
    /// Indexing and packing full segments.
    Pack,
    /// Merging runs.
    Merge,
    /// Writing the manifest anew.
    Rewrite,
}

/// How files of a kind could be made of late.
#[derive(Clone, Copy, Default)]
struct Making {
    /// Boot time at which one could not, and whether it was for want of room.
    refused: Option<(u64, Room)>,
    /// The least length that was asked for last: a shorter file may find room.
    least_bytes: u64,
    /// How often in a row one could not though there was room.
    failures: u32,
}

enum Prepared<T> {
    No,
    Under,
    Ready(T),
}

/// Cells that were moved out of a segment. Who holds places in it follows them, then says so with
/// [`Log::moves_followed`].
pub struct Moves {
    /// The segment that they left.
    pub segment: FileId,
    /// Each cell.
    pub cells: VecDeque<Moved>,
}

impl Background {
    pub(crate) fn new(
        env: Arc<Environment>,
        manifest: Manifest,
        cache: Arc<PageCache>,
        free_slots: Vec<u64>,
        next_slot: u64,
        next_run: u64,
    ) -> Self {
        Self {
            env,
            index: Index::new(),
            cache,
            works: Vec::new(),
            recorder: Recorder::new(manifest),
            segment: Prepared::No,
            bulk: Prepared::No,
            unfit_bulk: None,
            bulk_bytes: BULK_FIRST_BYTES,
            free_slots,
            next_slot,
            next_run: next_run.max(1),
            packing: false,
            merging: false,
            segments_made: Making::default(),
            bulk_made: Making::default(),
            paused_until_ns: 0,
            troubles: BTreeMap::new(),
            damage: Vec::new(),
            unmergeable: Vec::new(),
        }
    }

    /// What could not be had when the store was opened.
    pub(crate) fn found_damaged(&mut self, damage: Vec<String>) {
        self.damage = damage;
    }

    /// Begins to write this run's epoch to the manifest.
    pub(crate) fn record_epoch(&mut self, fact: Fact) {
        self.record_facts(vec![fact], Then::Epoch);
    }

    pub(crate) fn add_memory_run(&mut self, run: Arc<MemoryRun>) {
        self.index.push(Source::Memory(run));
    }

    /// The segment file that was prepared, if it is ready.
    pub(crate) fn prepared_segment(&mut self) -> Option<PreparedSegment> {
        match mem::replace(&mut self.segment, Prepared::No) {
            Prepared::Ready(next) => Some(next),
            other => {
                self.segment = other;
                None
            }
        }
    }

    /// The bulk file that was prepared, if it is ready.
    pub(crate) fn prepared_bulk(&mut self) -> Option<PreparedBulk> {
        match mem::replace(&mut self.bulk, Prepared::No) {
            Prepared::Ready(next) => Some(next),
            other => {
                self.bulk = other;
                None
            }
        }
    }

    /// Whether a bulk file of that length is ready. A shorter one is given up: it was made on a disk that
    /// was nearly full, and nobody would get past it.
    pub(crate) fn has_bulk(&mut self, needed_bytes: u64) -> bool {
        let Prepared::Ready(next) = &self.bulk else { return false };
        let fits = next.end_bytes >= needed_bytes;
        if !fits {
            self.unfit_bulk = self.prepared_bulk().map(|next| next.id);
        }
        fits
    }

    pub(crate) fn is_preparing_bulk(&self) -> bool {
        !matches!(self.bulk, Prepared::No)
    }

    /// Has the next segment file made ready.
    pub(crate) fn prepare_segment(&mut self, config: &Config) {
        if !matches!(self.segment, Prepared::No) || self.refusal(self.segments_made).is_some() {
            return;
        }
        let free = self.free_slots.pop();
        let (slot, recycled) = (free.unwrap_or(self.next_slot), free.is_some());
        self.next_slot = self.next_slot.max(slot + 1);
        let (bytes, reserve_bytes) = (config.segment_bytes, config.reserve_bytes);
        self.segment = Prepared::Under;
        let fill = config.pack; // else it is written once and stays
        let new = NewSegment { slot, recycled, fill, bytes, reserve_bytes };
        self.push(Task::PrepareSegment(new));
    }

    /// Has the next bulk file made ready, under that id, for at least so many bytes.
    pub(crate) fn prepare_bulk(&mut self, id: FileId, needed_bytes: u64, config: &Config) {
        let least_bytes = needed_bytes.max(BULK_LEAST_BYTES);
        if !matches!(self.bulk, Prepared::No) || self.bulk_refusal(needed_bytes).is_some() {
            return;
        }
        let most = BULK_LAST_BYTES.min(config.segment_bytes * 16);
        let bytes = self.bulk_bytes.min(most).max(least_bytes);
        self.bulk_bytes = (self.bulk_bytes * 4).min(BULK_LAST_BYTES);
        self.bulk = Prepared::Under;
        self.bulk_made.least_bytes = least_bytes;
        self.bulk_made.refused = None; // that was about a longer one, or long ago
        let reserve_bytes = config.reserve_bytes;
        let instead_of = self.unfit_bulk.take();
        let new = NewBulk { id, bytes, least_bytes, reserve_bytes, instead_of };
        self.push(Task::PrepareBulk(new));
    }

    /// Gives back what was reserved for bulk writes and not used: the end of `current`, and the next file.
    pub(crate) fn give_back_bulk(&mut self, current: Option<UnusedEnd>) {
        if let Some(UnusedEnd { file, used_bytes }) = current {
            self.push(Task::Shorten { file, length_bytes: used_bytes });
        }
        let next = self.prepared_bulk().map(|next| next.id);
        let unused = next.into_iter().chain(self.unfit_bulk.take());
        let paths: Vec<String> = unused.map(|id| Home::Bulk(id).path()).collect();
        if !paths.is_empty() {
            self.push(Task::Remove { paths });
        }
    }

    /// What who needs the next segment has to expect.
    pub(crate) fn room_for_segments(&self) -> Room {
        self.refusal(self.segments_made).unwrap_or(Room::Wait)
    }

    /// What who needs so many bytes in the next bulk file has to expect.
    pub(crate) fn room_for_bulk(&self, needed_bytes: u64) -> Room {
        self.bulk_refusal(needed_bytes).unwrap_or(Room::Wait)
    }

    /// Why no bulk file of that length is made at present. That there was no room for a longer one says nothing.
    fn bulk_refusal(&self, needed_bytes: u64) -> Option<Room> {
        let why = self.refusal(self.bulk_made)?;
        let shorter = needed_bytes.max(BULK_LEAST_BYTES) < self.bulk_made.least_bytes;
        (why != Room::Full || !shorter).then_some(why)
    }

    /// Why no such file is made at present, if that was tried of late and failed.
    fn refusal(&self, making: Making) -> Option<Room> {
        let (since_ns, why) = making.refused?;
        (self.env.clock.boot_ns().saturating_sub(since_ns) < RETRY_NS).then_some(why)
    }

    pub(crate) fn push(&mut self, task: Task) {
        self.works.push(Work { env: self.env.clone(), task });
    }

    fn new_run(&mut self) -> RunId {
        self.next_run += 1;
        RunId(self.next_run - 1)
    }

    /// A file could not be made. A few failures for another reason than want of room are borne: it is
    /// tried again at once, and who needs it waits.
    fn refuse(&mut self, error: &io::Error, mut making: Making) -> Making {
        self.troubles.insert(Chore::MakeFiles, error.to_string());
        let now_ns = self.env.clock.boot_ns();
        if is_no_room(error) {
            making.refused = Some((now_ns, Room::Full));
            return making;
        }
        making.failures += 1;
        if making.failures > FAILURES_BORNE {
            making.refused = Some((now_ns, Room::Failing));
        }
        making
    }

    /// A slot that was used before could not be prepared. For want of room it waits for its turn; else
    /// its file goes, so that another is made in its stead.
    fn give_back(&mut self, slot: u64, error: &io::Error) {
        if is_no_room(error) {
            self.free_slots.insert(0, slot);
        } else {
            self.push(Task::Remove { paths: vec![Home::Slot(slot).path()] });
        }
    }
}

impl Log {
    /// Takes the jobs that are to be run.
    pub fn take_works(&mut self) -> Vec<Work> {
        mem::take(&mut self.background.works)
    }

    /// The index of all that is closed; the open segment's part is [`Log::load_open_leaf`].
    pub fn index(&self) -> IndexSnapshot {
        self.background.index.snapshot()
    }

    /// The index of everything up to the last batch that was cut.
    pub fn whole_index(&self) -> IndexSnapshot {
        let open = self.segment.as_ref().map(|segment| segment.run.snapshot());
        self.background
            .index
            .snapshot()
            .with(open.unwrap_or_default().into_iter().map(Source::Memory))
    }

    /// Why a background job failed, if none of its kind has gone well since.
    pub fn trouble(&self) -> Option<&str> {
        let now = self.background.troubles.values().next();
        now.or(self.background.damage.last()).map(String::as_str)
    }

    /// What could not be had when the store was opened: runs and bulk files, one text for each.
    pub fn damage(&self) -> &[String] {
        &self.background.damage
    }

    /// Full segments that wait to be packed.
    pub fn backlog(&self) -> usize {
        self.full.len()
    }

    /// Recycled segment files that wait to be used again.
    pub fn free_segments(&self) -> usize {
        self.background.free_slots.len()
    }

    /// The file of that id, while it holds cells; its slot is not used again while it is held.
    pub fn cell_file(&self, id: FileId) -> Option<Arc<CellFile>> {
        self.files.get(id)
    }

    /// Who held places in this segment holds them no longer.
    pub fn moves_followed(&mut self, segment: FileId) {
        self.files.retire(segment);
    }

    /// Starts what is due. Called each turn.
    pub(crate) fn schedule(&mut self) {
        while let Some(slot) = self.files.freed() {
            if self.background.free_slots.len() < self.config.pool_files {
                self.background.free_slots.push(slot);
            } else {
                let paths = vec![Home::Slot(slot).path()];
                self.background.push(Task::Remove { paths });
            }
        }
        if self.segment.is_some() {
            self.background.prepare_segment(&self.config);
        }
        self.keep_few_images();
        if !self.background.packing {
            self.start_next_segment();
        }
        if self.is_finishing() {
            self.look_for_end();
        }
    }

    /// Drops images beyond what may be kept; those segments are read back from disk.
    fn keep_few_images(&mut self) {
        let landed = self.landed();
        // A last batch without requests may still be on its way when all requests have landed, and it
        // may have to be logged again.
        let flying: Vec<FileId> = self.flights.iter().map(|flight| flight.segment).collect();
        let mut kept = self.full.iter().filter(|full| full.image.is_some()).count();
        for full in self.full.iter_mut().rev() {
            if kept <= self.config.images {
                break;
            }
            let landed = full.run.last() <= landed && !flying.contains(&full.cells.id);
            if !full.busy && landed && full.image.is_some() {
                if let Some(image) = full.image.take().and_then(world::Image::recycle) {
                    self.spare.push(image);
                }
                kept -= 1;
            }
        }
        self.spare.truncate(2);
    }

    /// Packs (or seals) the oldest full segment that is durable. At the end they are only sealed.
    fn start_next_segment(&mut self) {
        let durable = self.durable();
        let packs = self.config.pack && !self.is_finishing();
        let flying: Vec<FileId> = self.flights.iter().map(|flight| flight.segment).collect();
        if self.env.clock.boot_ns() < self.background.paused_until_ns {
            return;
        }
        let next = self.full.iter_mut().find(|full| packs || full.sealed.is_none());
        let Some(full) = next else { return };
        let pack = packs && !full.stays;
        // A last batch without requests may still be on its way when all requests are durable: the
        // slot must not be used again under it.
        if full.busy || full.run.last() > durable || flying.contains(&full.cells.id) {
            return;
        }
        full.busy = true;
        let contents = full.run.clone();
        let segment = full.cells.id;
        let (file, end_bytes) = (full.file.clone(), full.end_bytes);
        let image = full.image.as_ref().map(|image| image.frozen(0..image.length_bytes()));
        let run = self.background.new_run();
        let cache = self.background.cache.clone();
        self.background.packing = true;
        let task = if pack {
            let into = self.new_file_id();
            Task::Pack(Pack { segment, file, image, end_bytes, contents, into, run, cache })
        } else {
            Task::Seal { segment, contents, run, cache }
        };
        self.background.push(task);
    }

    /// A job has ended. Gives moved cells to follow.
    pub fn work_done(&mut self, outcome: Outcome) -> Option<Moves> {
        match outcome.0 {
            Ended::Segment { slot, recycled, result } => {
                self.background.segment = match result {
                    Ok(next) => {
                        self.background.segments_made = Making::default();
                        self.background.troubles.remove(&Chore::MakeFiles);
                        Prepared::Ready(next)
                    }
                    Err(error) => {
                        let before = self.background.segments_made;
                        self.background.segments_made = self.background.refuse(&error, before);
                        if recycled {
                            self.background.give_back(slot, &error);
                        }
                        Prepared::No
                    }
                };
            }
            Ended::Bulk(result) => {
                self.background.bulk = match result {
                    Ok(next) => {
                        self.background.bulk_made = Making::default();
                        self.background.troubles.remove(&Chore::MakeFiles);
                        Prepared::Ready(*next)
                    }
                    Err(error) => {
                        let before = self.background.bulk_made;
                        self.background.bulk_made = self.background.refuse(&error, before);
                        Prepared::No
                    }
                };
            }
            Ended::Recorded(ended) => return self.recorded(ended),
            Ended::Sealed { segment, run } => match run {
                Ok(run) => self.record_sealed(segment, run),
                Err(error) => self.background_failed(segment, &error),
            },
            Ended::Packed { segment, result } => match result {
                Ok(packed) => {
                    if planted::is(12) {
                        let early = self.full.iter().filter(|full| full.cells.id == segment);
                        self.background.free_slots.extend(early.map(|full| full.slot));
                    }
                    self.record_packed(segment, packed);
                }
                Err(error) => self.packing_failed(segment, &error),
            },
            Ended::Merged { inputs, run } => match run {
                Ok(run) => self.record_merged(run, inputs),
                Err(error) => {
                    self.background.merging = false;
                    self.background.troubles.insert(Chore::Merge, error.to_string());
                    if let WorkError::Index(error) = &error {
                        // Damaged, it would fail each merge to come: it stays as it is.
                        let bad = inputs.into_iter().filter(|run| run_path(*run) == error.path());
                        self.background.unmergeable.extend(bad);
                    }
                }
            },
            Ended::Tidied => {}
        }
        None
    }

    /// For want of room packing is tried again. A segment that cannot be read or copied for another
    /// reason must not hold up those behind it: it is only indexed, and stays where it is.
    fn packing_failed(&mut self, segment: FileId, error: &WorkError) {
        self.background_failed(segment, error);
        if matches!(error, WorkError::Disk(error) if error.kind() == io::ErrorKind::StorageFull) {
            return;
        }
        if let Some(full) = self.full.iter_mut().find(|full| full.cells.id == segment) {
            full.stays = true;
            if full.sealed.is_some() {
                self.leave(segment);
            }
        }
    }

    /// The segment stays as it is and is tried again later.
    fn background_failed(&mut self, segment: FileId, error: &WorkError) {
        self.background.packing = false;
        self.background.troubles.insert(Chore::Pack, error.to_string());
        self.background.paused_until_ns = self.env.clock.boot_ns() + RETRY_NS;
        if let Some(full) = self.full.iter_mut().find(|full| full.cells.id == segment) {
            full.busy = false;
        }
    }

    fn record_sealed(&mut self, segment: FileId, run: Arc<Run>) {
        let Some(full) = self.full.iter().find(|full| full.cells.id == segment) else { return };
        let mut facts = sealing_facts(full, run.meta().run);
        facts.extend(self.bulk_facts(full));
        self.background.record_facts(facts, Then::Sealed { segment, run });
    }

    fn record_packed(&mut self, segment: FileId, packed: PackedSegment) {
        let Some(full) = self.full.iter().find(|full| full.cells.id == segment) else { return };
        let interval = interval_of(full);
        let mut facts = Pack::facts(segment, interval, &packed, full.sealed, full.last_tag);
        facts.extend(self.bulk_facts(full));
        self.background.record_facts(facts, Then::Packed { segment, packed });
    }

    fn record_merged(&mut self, run: Arc<Run>, old: Vec<RunId>) {
        let meta = run.meta();
        let interval = Interval { first: meta.first, last: meta.last };
        let facts = vec![Fact::Run { run: meta.run, interval, replaces: old.clone() }];
        self.background.record_facts(facts, Then::Merged { run, old });
    }

    /// What the segment says of bulk files. Where it is the first to name one, its own first
    /// sequence bounds what lies there: a reader takes no cell from before it.
    fn bulk_facts(&self, full: &FullSegment) -> Vec<Fact> {
        full.bulk
            .iter()
            .map(|&(file, last)| {
                let known = self.state.bulk.get(&file);
                let own = if planted::is(33) { last } else { full.run.first() };
                let first = known.map_or(own, |interval| interval.first);
                Fact::Bulk { file, interval: Interval { first, last } }
            })
            .collect()
    }

    /// What was waiting for the manifest goes on.
    pub(crate) fn recorded_then(&mut self, then: Then) -> Option<Moves> {
        match then {
            Then::Epoch => self.epoch_begun(),
            Then::Tell(ticket) => {
                self.events.push_back(Event::Recorded { ticket, durable: true });
            }
            Then::Sealed { segment, run } => {
                self.background.packing = false;
                self.background.troubles.remove(&Chore::Pack);
                self.background.index.replace(Source::File(run));
                self.leave(segment);
                self.merge_next();
            }
            Then::Packed { segment, packed } => {
                self.background.packing = false;
                self.background.troubles.remove(&Chore::Pack);
                self.background.index.replace(Source::File(packed.run));
                if let Some(pack) = packed.pack {
                    self.files.insert(pack);
                }
                self.leave(segment);
                self.merge_next();
                return Some(Moves { segment, cells: packed.moved.into() });
            }
            Then::Merged { run, old } => {
                self.background.merging = false;
                self.background.troubles.remove(&Chore::Merge);
                self.background.index.replace(Source::File(run));
                let paths = old.into_iter().map(run_path).collect();
                self.background.push(Task::Remove { paths });
                self.merge_next();
            }
        }
        None
    }

    /// The segment's contents are on disk and indexed.
    fn leave(&mut self, segment: FileId) {
        let Some(at) = self.full.iter().position(|full| full.cells.id == segment) else { return };
        let Some(full) = self.full.remove(at) else { return };
        self.flushing.forget(segment);
        if let Some(image) = full.image.and_then(world::Image::recycle) {
            self.spare.push(image);
        }
    }

    fn merge_next(&mut self) {
        if self.background.merging {
            return;
        }
        let snapshot = self.background.index.snapshot();
        // A segment that is still to be packed gets another run: leave what it has alone.
        let passing: Vec<RunId> = self.full.iter().filter_map(|full| full.sealed).collect();
        let runs: Vec<&Arc<Run>> = snapshot
            .sources()
            .iter()
            .map_while(|source| match source {
                Source::File(run) => Some(run),
                Source::Memory(_) => None,
            })
            .collect();
        // What cannot be read stays where it is, and what is merged are neighbours.
        let stays = |run: &&Arc<Run>| {
            let id = run.meta().run;
            run.is_lost() || passing.contains(&id) || self.background.unmergeable.contains(&id)
        };
        let picked = runs.split(stays).find_map(|stretch| {
            let metas: Vec<_> = stretch.iter().map(|run| *run.meta()).collect();
            pick_merge(&metas).map(|range| &stretch[range])
        });
        let Some(picked) = picked else { return };
        let inputs = picked.iter().map(|run| Arc::clone(run)).collect();
        let run = self.background.new_run();
        let cache = self.background.cache.clone();
        self.background.merging = true;
        self.background.push(Task::Merge { inputs, run, cache });
    }
}

fn is_no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn interval_of(full: &FullSegment) -> Interval {
    Interval { first: full.run.first(), last: full.run.last() }
}

/// The facts that make a segment's index part of history while its cells stay where they are.
pub(crate) fn sealing_facts(full: &FullSegment, run: RunId) -> Vec<Fact> {
    let (segment, interval) = (full.cells.id, interval_of(full));
    let (slot, end_bytes) = (full.slot, full.end_bytes);
    vec![
        Fact::Run { run, interval, replaces: Vec::new() },
        Fact::Segment { segment, slot, end_bytes, interval },
        Fact::Tail { segment, last_tag: full.last_tag },
    ]
}
