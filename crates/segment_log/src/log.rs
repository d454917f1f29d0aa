//! The log as a state machine: requests in; operations for the ring, jobs for workers, events out.
//!
//! ```text
//! room ─ begin ─ cell/range/bulk ─ end ─▶ open batch ─ cut ─▶ flight ─ all earlier landed ─▶ answered
//!                                           segment full ─▶ synced ─▶ packed (job) ─▶ manifest ─▶ slot free
//! ```
//! Invariants: requests are answered in the order of their sequences, none before its batch and all
//! earlier ones have landed; a flush is answered when a sync that began after the landing of all it
//! covers has ended well; a failed sync poisons the log; a batch whose write failed is logged again
//! elsewhere with the same sequences; no slot is used again before the manifest knows its pack and the
//! last reader has let go.

use crate::{
    background::Background,
    batch::SegmentHeader,
    bulk::{BulkWrite, BulkWriter},
    clock::HistoryClock,
    files::{CellFile, FileTable, Home},
    finish::Finish,
    flushing::Flushing,
    keyring::Keyring,
    planted,
    state::{EpochRecord, Fact, LogState},
    work::PreparedSegment,
    writer::{CutBatch, OpenSegment, Shape, Waiting},
};
use history_index::{Bound, FlushPoint, LeafVersions, ZeroRange};
use seal::{CellKey, CellName, Key, Tag, TagKey};
use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::Arc,
};
use thiserror::Error;
use units::{BranchId, CELL, ClientId, Epoch, Extent, FileId, Lba, Leaf, Place, Sequence, StoreId};
use world::{Chance, Clock, Disk, Done, File, Finished, Image, Op, Pool};

/// A batch of this size goes out even while another is in flight.
const BATCH_EARLY: usize = 128 << 10;
/// The open batch does not grow past this.
const BATCH_SOFT: usize = 1 << 20;
/// Batches in flight at most.
const FLIGHTS_MAX: usize = 4;
/// Requests of this size go to bulk files.
pub const BULK_BYTES: u64 = 256 << 10;

/// When a write is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AckPolicy {
    /// When its batch, and all earlier ones, are on the disk (perhaps in its cache).
    #[default]
    Disk,
    /// When they are in the page cache.
    Page,
    /// When it is sealed in memory: a killed server loses it.
    Memory,
}

/// How a log works.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// When a write is answered.
    pub ack: AckPolicy,
    /// Whether full segments become packs.
    pub pack: bool,
    /// Length of a segment.
    pub segment_bytes: u64,
    /// Segments and batches are aligned to it (512 or 4096).
    pub sector: usize,
    /// Full segments kept in memory for the packer.
    pub images: usize,
    /// Free slots kept for new segments.
    pub pool_files: usize,
    /// Full segments that may wait for the packer before writers do.
    pub backlog_segments: usize,
    /// Room left to the file system: below it the store is full.
    pub reserve_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ack: AckPolicy::Disk,
            pack: true,
            segment_bytes: 64 << 20,
            sector: 4096,
            images: 2,
            pool_files: 16,
            backlog_segments: 64,
            reserve_bytes: 0,
        }
    }
}

/// What the log shares with its jobs.
pub struct Environment {
    /// The store's directory.
    pub disk: Arc<dyn Disk>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Salts and ids.
    pub chance: Arc<dyn Chance>,
    /// I/O buffers.
    pub pool: Pool,
    /// The master key.
    pub master: Key,
    /// The store.
    pub store: StoreId,
    /// Keys of the cells.
    pub keyring: Arc<Keyring>,
}

/// Whether a request can be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Now.
    Yes,
    /// Not before something that is under way has ended.
    Wait,
    /// The store is full.
    Full,
    /// The files that it needs cannot be made, and not for want of room.
    Failing,
    /// The log takes no writes any more.
    Poisoned,
}

/// What the caller hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A request's answer is due.
    Written {
        /// Of [`Log::end`].
        ticket: u64,
        /// Its place in history.
        sequence: Sequence,
    },
    /// A flush's answer is due.
    Flushed {
        /// Of [`Log::flush`].
        ticket: u64,
    },
    /// A request or flush failed.
    Failed {
        /// Its ticket.
        ticket: u64,
        /// Why, as far as a client is told.
        full: bool,
    },
    /// Records of [`Log::record`] are durable (or not).
    Recorded {
        /// Its ticket.
        ticket: u64,
        /// Whether they are.
        durable: bool,
    },
}

/// Why the log takes no writes.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{what} failed: {cause}")]
pub struct Poison {
    /// What was tried.
    pub what: &'static str,
    /// What the disk said.
    pub cause: String,
}

/// Where a cell is to be had.
#[derive(Debug)]
pub enum Located<'a> {
    /// Here.
    Memory(&'a [u8]),
    /// In this file, at the place's offset. Keep the first until the read has ended.
    Disk(Arc<CellFile>, File),
    /// Somewhere else by now: ask the index.
    Gone,
    /// The file does not open.
    Lost,
}

/// See the module's head.
pub struct Log {
    pub(crate) config: Config,
    pub(crate) env: Arc<Environment>,
    pub(crate) state: LogState,
    pub(crate) files: FileTable,
    pub(crate) background: Background,
    pub(crate) flushing: Flushing,
    pub(crate) segment: Option<OpenSegment>,
    pub(crate) full: VecDeque<FullSegment>,
    pub(crate) spare: Vec<Image>,
    pub(crate) poison: Option<Poison>,
    pub(crate) events: VecDeque<Event>,
    pub(crate) clock: HistoryClock,
    pub(crate) bulk: BulkWriter,
    epoch: EpochStage,
    /// The last sequence when the store was opened.
    started_at: Sequence,
    /// The last sequence that was given.
    last: Sequence,
    /// All up to here has landed.
    landed: Sequence,
    pub(crate) flights: VecDeque<Flight>,
    next_flight: u64,
    ops: Vec<(u64, Op)>,
    pub(crate) ios: BTreeMap<u64, Io>,
    next_io: u64,
    request: Option<Request>,
    seal_key: Option<(BranchId, Arc<CellKey>)>,
    flushed_by_client: BTreeMap<BranchId, Sequence>,
    written_by_branch: BTreeMap<BranchId, Sequence>,
    /// Writes failed: nothing goes out until all flights have ended and were logged again.
    pub(crate) relog: bool,
    /// How often in a row that was done.
    pub(crate) relogs: u32,
    pub(crate) finish: Finish,
    next_file: u64,
}

/// A segment that takes no more batches.
pub struct FullSegment {
    pub cells: Arc<CellFile>,
    pub file: File,
    pub slot: u64,
    /// Its contents, while there is memory for them.
    pub image: Option<Image>,
    pub end_bytes: u64,
    pub last_tag: Tag,
    pub run: Arc<history_index::MemoryRun>,
    pub bulk: Vec<(FileId, Sequence)>,
    /// Its run on disk, once it is sealed.
    pub sealed: Option<units::RunId>,
    pub busy: bool,
    /// It could not be packed: it is only indexed, and stays where it is.
    pub stays: bool,
}

/// Whether this run's epoch is in the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EpochStage {
    None,
    Recording(EpochRecord),
    Begun,
}

/// What an operation in the ring is for.
#[derive(Clone, Debug)]
pub enum Io {
    Batch { flight: u64 },
    Bulk { write: u64 },
    Sync { file: FileId },
}

pub struct Flight {
    number: u64,
    pub segment: FileId,
    pub cut: CutBatch,
    pub outcome: Outcome,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Pending,
    Landed,
    Failed,
}

#[derive(Clone, Copy)]
struct Request {
    sequence: Sequence,
    branch: BranchId,
}

impl Log {
    /// A log that goes on after what was recovered; see [`crate::open()`].
    pub(crate) fn new(
        config: Config,
        env: Arc<Environment>,
        state: LogState,
        background: Background,
        clock: HistoryClock,
        last: Sequence,
        next_file: u64,
    ) -> Self {
        Self {
            config,
            bulk: BulkWriter::new(env.clone()),
            env,
            state,
            files: FileTable::default(),
            background,
            flushing: Flushing::new(last),
            segment: None,
            full: VecDeque::new(),
            spare: Vec::new(),
            poison: None,
            events: VecDeque::new(),
            clock,
            epoch: EpochStage::None,
            started_at: last,
            last,
            landed: last,
            flights: VecDeque::new(),
            next_flight: 0,
            ops: Vec::new(),
            ios: BTreeMap::new(),
            next_io: 0,
            request: None,
            seal_key: None,
            flushed_by_client: BTreeMap::new(),
            written_by_branch: BTreeMap::new(),
            relog: false,
            relogs: 0,
            finish: Finish::No,
            next_file,
        }
    }

    /// The last sequence that was given to a request.
    pub fn last(&self) -> Sequence {
        self.last
    }

    /// All up to here is durable.
    pub fn durable(&self) -> Sequence {
        self.flushing.durable()
    }

    /// The last epoch that writes were made in.
    pub fn epoch(&self) -> Epoch {
        self.state.epoch().map_or(Epoch(0), |epoch| epoch.epoch)
    }

    /// Why it takes no writes, if so.
    pub fn poison(&self) -> Option<&Poison> {
        self.poison.as_ref()
    }

    /// The files that hold cells, for who reads them.
    pub fn environment(&self) -> &Arc<Environment> {
        &self.env
    }

    /// Whether a request of that shape can be begun now. `bulk` = its payload goes to a bulk file.
    pub fn room(&mut self, shape: Shape, bulk_blocks: u64) -> Room {
        if self.poison.is_some() {
            return Room::Poisoned;
        }
        if self.relog || self.is_finishing() || self.full.len() > self.config.backlog_segments {
            return Room::Wait;
        }
        match self.epoch {
            EpochStage::Begun => {}
            EpochStage::None => {
                self.begin_epoch();
                return Room::Wait;
            }
            EpochStage::Recording(_) => return Room::Wait,
        }
        if self.segment.as_ref().is_some_and(|segment| segment.batch_bytes() > BATCH_SOFT) {
            if self.writing() >= FLIGHTS_MAX {
                return Room::Wait;
            }
            self.cut();
        }
        if bulk_blocks > 0 && !self.bulk.has_room(bulk_blocks) {
            let room = self.next_bulk_file(self.last.next());
            if room != Room::Yes {
                return room;
            }
        }
        if self.segment.is_none() {
            self.background.prepare_segment(&self.config);
        }
        let fits = self.segment.as_ref().is_some_and(|segment| segment.has_room(shape));
        if fits { Room::Yes } else { self.roll() }
    }

    /// Begins a request for which there is room; cells, ranges and [`Log::end`] follow at once.
    pub fn begin(&mut self, branch: BranchId, client: ClientId) -> Sequence {
        assert!(self.request.is_none(), "one request at a time");
        let sequence = self.last.next();
        let segment = self.segment.as_mut().expect("there is room");
        segment.begin_request(sequence, client);
        self.last = sequence;
        self.written_by_branch.insert(branch, sequence);
        self.request = Some(Request { sequence, branch });
        if self.seal_key.as_ref().is_none_or(|(known, _)| *known != branch) {
            let key = self.env.keyring.cell_key(branch, sequence);
            self.seal_key =
                Some((branch, key.expect("the branch's key is known before it is used")));
        }
        sequence
    }

    /// Adds a block to the present request.
    pub fn cell(&mut self, lba: Lba, plain: &[u8]) -> Place {
        let (name, key) = self.named(lba);
        let segment = self.segment.as_mut().expect("there is room");
        segment.push_cell(&key, name, plain)
    }

    /// Makes blocks zero in the present request; `kind` as in a range record.
    pub fn range(&mut self, extent: Extent, kind: u8) {
        let Request { sequence, branch } = self.request.expect("a request was begun");
        let segment = self.segment.as_mut().expect("there is room");
        segment.push_range(ZeroRange { branch, sequence, extent, kind });
    }

    /// Adds a long run of blocks to the present request; its first cell lies at the place, the others
    /// follow in a row. `block` gives the plain text of the block of that index.
    pub fn bulk<'a>(
        &mut self,
        extent: Extent,
        block: impl FnMut(usize) -> &'a [u8],
    ) -> Option<Place> {
        let (name, key) = self.named(extent.start());
        let write = self.next_io;
        let (sealed, parts) = self.bulk.seal(write, &key, name, extent, block)?;
        self.next_io += 1;
        let (file, offset_bytes) = (self.bulk.file(), sealed.place.offset_bytes());
        self.ios.insert(write, Io::Bulk { write });
        self.ops.push((write, Op::Write { file, offset_bytes, parts }));
        let segment = self.segment.as_mut().expect("there is room");
        segment.push_bulk(name.branch, name.sequence, &sealed, write);
        Some(sealed.place)
    }

    /// Ends the present request. The answer comes as [`Event::Written`]; with `fua` when durable.
    pub fn end(&mut self, ticket: u64, fua: bool) {
        let Request { sequence, .. } = self.request.take().expect("a request was begun");
        let segment = self.segment.as_mut().expect("there is room");
        if (self.config.ack == AckPolicy::Memory || planted::is(1)) && !fua {
            self.events.push_back(Event::Written { ticket, sequence });
        } else {
            segment.end_request(Waiting { ticket, sequence, fua });
        }
        if fua {
            self.flushing.hurry();
        }
    }

    /// Makes durable what was answered before; [`Event::Flushed`] tells. A client's flush (with the
    /// branch it asked for) leaves a trace in history if it covers new writes.
    pub fn flush(&mut self, ticket: u64, of: Option<BranchId>) {
        if self.poison.is_some() {
            self.events.push_back(Event::Failed { ticket, full: false });
            return;
        }
        let target = match self.config.ack {
            AckPolicy::Memory => self.last,
            _ => self.landed,
        };
        if let Some(branch) = of {
            self.note_flush(branch, target);
        }
        self.flushing.wait_for(target, Event::Flushed { ticket });
    }

    /// Makes durable all that was begun.
    pub fn flush_all(&mut self, ticket: u64) {
        if self.poison.is_some() {
            self.events.push_back(Event::Failed { ticket, full: false });
            return;
        }
        self.flushing.hurry();
        self.flushing.wait_for(self.last, Event::Flushed { ticket });
    }

    /// Whether nothing was ever written to a branch that was made at `made`.
    pub fn never_wrote(&self, branch: BranchId, made: Sequence) -> bool {
        made >= self.started_at && !self.written_by_branch.contains_key(&branch)
    }

    /// Where a cell is.
    pub fn locate(&mut self, place: Place) -> Located<'_> {
        let id = place.file();
        let Ok(at) = usize::try_from(place.offset_bytes()) else { return Located::Gone };
        let range = at..at + CELL;
        let open = self.segment.as_ref().filter(|segment| segment.id() == id && !planted::is(18));
        if let Some(segment) = open {
            return Located::Memory(segment.image.get(range));
        }
        let full = self.full.iter().find(|full| full.cells.id == id);
        if full.is_some_and(|full| place.offset_bytes() >= full.end_bytes) {
            return Located::Gone; // logged again elsewhere
        }
        if let Some(image) = full.and_then(|full| full.image.as_ref()) {
            return Located::Memory(image.get(range));
        }
        if let Some(cell) = self.bulk.in_flight(place) {
            return Located::Memory(cell);
        }
        if self.bulk.has_left(place) {
            return Located::Gone; // could not be written there
        }
        match self.files.open(id, &*self.env.disk) {
            None => Located::Gone,
            Some(Ok((cells, file))) => Located::Disk(cells, file),
            Some(Err(_)) => Located::Lost,
        }
    }

    /// Whether a cell of that sequence can stand in that file now.
    pub fn may_hold(&self, file: &CellFile, sequence: Sequence) -> bool {
        file.first <= sequence && sequence <= self.last
    }

    /// Offers what the open segment knows of a leaf; the index has the rest.
    pub fn load_open_leaf(&self, chain: &[Bound], leaf: Leaf, versions: &mut LeafVersions) {
        if let Some(segment) = &self.segment {
            segment.run.load_leaf(chain, leaf, versions);
        }
    }

    /// Cuts what is due, starts syncs and jobs: call it once a turn, after the turn's requests.
    pub fn advance(&mut self) {
        if self.poison.is_some() {
            // What the disk holds is in doubt: nothing is cut, synced or packed any more.
            return;
        }
        let waits = self.flushing.is_hurried() || self.flushing.wants_beyond(self.landed);
        let writing = self.writing();
        let due = self.segment.as_ref().is_some_and(|segment| {
            let early = segment.batch_bytes() >= BATCH_EARLY;
            segment.has_batch() && (writing == 0 || early && writing < FLIGHTS_MAX || waits)
        });
        if self.relog {
            self.log_again();
        } else if due {
            self.cut();
        }
        self.start_sync();
        self.schedule();
    }

    /// Takes the operations that are to be started.
    pub fn take_ops(&mut self, ops: &mut Vec<(u64, Op)>) {
        ops.append(&mut self.ops);
    }

    /// Whether any operation is under way.
    pub fn is_idle(&self) -> bool {
        self.ios.is_empty() && self.ops.is_empty() && self.flights.is_empty()
    }

    /// The next thing that came of it all.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// An operation of [`Log::take_ops`] has ended.
    pub fn done(&mut self, io: u64, done: Done) {
        let moved = done.result.map(|finished| match finished {
            Finished::Bytes(bytes) => bytes,
            Finished::Socket(_) => 0,
        });
        match self.ios.remove(&io) {
            Some(Io::Batch { flight }) => self.batch_done(flight, &moved),
            Some(Io::Bulk { write }) => self.bulk_done(write, &moved),
            Some(Io::Sync { file }) => self.sync_done(file, moved.err()),
            None => unreachable!("an operation that was never started has ended"),
        }
    }

    /// Stops taking writes; what is not answered yet fails.
    pub(crate) fn take_no_more(&mut self, what: &'static str, cause: &io::Error) {
        if self.poison.is_none() {
            self.poison = Some(Poison { what, cause: cause.to_string() });
        }
        for flight in std::mem::take(&mut self.flights) {
            self.fail(&flight.cut.waiting, false);
        }
        if let Some(segment) = &mut self.segment {
            let waiting = segment.abandon_batch();
            self.fail(&waiting, false);
        }
        for ticket in self.flushing.fail() {
            self.events.push_back(Event::Failed { ticket, full: false });
        }
        self.finished(false);
    }

    pub(crate) fn push_op(&mut self, io: Io, op: Op) {
        self.ios.insert(self.next_io, io);
        self.ops.push((self.next_io, op));
        self.next_io += 1;
    }

    pub(crate) fn new_file_id(&mut self) -> FileId {
        let id = FileId::new(self.next_file).expect("2^36 files take centuries");
        self.next_file += 1;
        id
    }

    /// All up to here has landed.
    pub fn landed(&self) -> Sequence {
        self.landed
    }

    fn named(&self, lba: Lba) -> (CellName, Arc<CellKey>) {
        let Request { sequence, branch } = self.request.expect("a request was begun");
        let (_, key) = self.seal_key.as_ref().expect("made when the request was begun");
        (CellName { branch, lba, sequence }, key.clone())
    }

    fn begin_epoch(&mut self) {
        if planted::is(6) && self.state.epoch().is_some() {
            self.epoch = EpochStage::Begun;
            return;
        }
        let epoch = EpochRecord {
            epoch: Epoch(self.state.epoch().map_or(1, |epoch| epoch.epoch.0 + 1)),
            first: self.last.next(),
            random: match self.state.epoch() {
                Some(last) if planted::is(11) => last.random,
                _ => random(&*self.env.chance),
            },
            wall: self.env.clock.wall(),
        };
        self.epoch = EpochStage::Recording(epoch);
        self.background.record_epoch(Fact::Epoch(epoch));
    }

    /// The epoch's record is durable.
    pub(crate) fn epoch_begun(&mut self) {
        if let EpochStage::Recording(epoch) = self.epoch {
            self.env.keyring.learn_epoch(&epoch);
            self.epoch = EpochStage::Begun;
        }
    }

    fn note_flush(&mut self, branch: BranchId, covered: Sequence) {
        let Some(&written) = self.written_by_branch.get(&branch) else { return };
        let newest = written.min(covered);
        let before = self.flushed_by_client.insert(branch, newest);
        if before.is_none_or(|before| before < newest)
            && let Some(segment) = &mut self.segment
            && segment.has_room(Shape { cells: 0, records: 1 })
        {
            segment.push_flush(FlushPoint { branch, sequence: newest }, self.last.next());
        }
    }

    /// Sends the open batch off.
    pub(crate) fn cut(&mut self) {
        let Some(segment) = &mut self.segment else { return };
        let (wall, era) = self.clock.now(&*self.env.clock);
        let Some(cut) = segment.cut(wall, era, self.flushing.durable()) else { return };
        let (file, segment) = (segment.file.clone(), segment.id());
        let number = self.next_flight;
        self.next_flight += 1;
        let op = Op::Write { file, offset_bytes: cut.offset_bytes, parts: vec![cut.bytes.clone()] };
        self.push_op(Io::Batch { flight: number }, op);
        self.flights.push_back(Flight { number, segment, cut, outcome: Outcome::Pending });
        self.flushing.calm();
    }

    fn batch_done(&mut self, number: u64, moved: &io::Result<usize>) {
        let Some(flight) = self.flights.iter_mut().find(|flight| flight.number == number) else {
            return; // poisoned meanwhile
        };
        let length = flight.cut.bytes.len();
        match moved {
            Ok(bytes) if *bytes >= length || planted::is(16) => flight.outcome = Outcome::Landed,
            &Ok(bytes) if bytes > 0 && bytes.is_multiple_of(self.config.sector) => {
                // A short write: the rest goes on from there.
                flight.cut.bytes = flight.cut.bytes.slice(bytes..length);
                flight.cut.offset_bytes += bytes as u64;
                let (offset_bytes, parts) =
                    (flight.cut.offset_bytes, vec![flight.cut.bytes.clone()]);
                let segment = flight.segment;
                if let Some(file) = self.file_of(segment) {
                    self.push_op(
                        Io::Batch { flight: number },
                        Op::Write { file, offset_bytes, parts },
                    );
                }
                return;
            }
            Err(error) if planted::is(17) && error.kind() == io::ErrorKind::StorageFull => {
                flight.outcome = Outcome::Landed;
            }
            Ok(_) | Err(_) => {
                flight.outcome = Outcome::Failed;
                self.relog = true;
            }
        }
        self.land();
    }

    fn bulk_done(&mut self, write: u64, moved: &io::Result<usize>) {
        match self.bulk.ended(write, moved) {
            BulkWrite::Done(file) => self.flushing.wrote(file.0, file.1),
            BulkWrite::Again { file, offset_bytes, parts } => {
                self.ios.insert(write, Io::Bulk { write });
                self.ops.push((write, Op::Write { file, offset_bytes, parts }));
                return;
            }
            // Its place is named by a batch that may be on disk already: both are logged again.
            BulkWrite::Failed => self.relog = true,
        }
        self.land();
    }

    /// Answers flights from the front on, as far as they have landed.
    fn land(&mut self) {
        if planted::is(5) {
            self.flights.make_contiguous().sort_by_key(|flight| flight.outcome != Outcome::Landed);
        }
        while let Some(front) = self.flights.front() {
            let bulk = front.cut.bulk.iter().any(|write| self.bulk.is_pending(*write));
            if front.outcome != Outcome::Landed || bulk {
                break;
            }
            let Some(flight) = self.flights.pop_front() else { break };
            self.relogs = 0;
            if let Some(file) = self.file_of(flight.segment) {
                self.flushing.wrote(flight.segment, file);
            }
            self.landed = self.landed.max(flight.cut.last);
            for waiting in &flight.cut.waiting {
                let Waiting { ticket, sequence, fua } = *waiting;
                let event = Event::Written { ticket, sequence };
                if fua && !planted::is(4) {
                    self.flushing.wait_for(sequence, event);
                } else {
                    self.events.push_back(event);
                }
            }
        }
        self.log_again();
    }

    /// Batches whose own write is under way; what only waits for bulk payload does not hold up others.
    fn writing(&self) -> usize {
        self.flights.iter().filter(|flight| flight.outcome == Outcome::Pending).count()
    }

    /// Takes back the write that was pushed last.
    pub(crate) fn withdraw_last(&mut self) {
        let pushed = self.ops.last().map(|(io, _)| *io);
        if let Some(io) = pushed
            && let Some(Io::Batch { flight }) = self.ios.get(&io)
            && self
                .flights
                .back()
                .is_some_and(|back| back.number == *flight && back.outcome == Outcome::Pending)
        {
            self.ops.pop();
            self.ios.remove(&io);
        }
    }

    fn file_of(&self, segment: FileId) -> Option<File> {
        let open = self.segment.as_ref().filter(|open| open.id() == segment);
        open.map(|open| open.file.clone()).or_else(|| {
            let full = self.full.iter().find(|full| full.cells.id == segment)?;
            Some(full.file.clone())
        })
    }

    /// Closes the open segment, if any, and begins the next one.
    fn roll(&mut self) -> Room {
        let Some(next) = self.background.prepared_segment() else {
            return self.background.room_for_segments();
        };
        self.close_segment();
        let (first, previous) = (self.last.next(), self.chain_tag());
        self.begin_segment(next, first, previous);
        Room::Yes
    }

    /// Begins a segment whose first request will be `first`, behind the batch with tag `previous`.
    pub(crate) fn begin_segment(&mut self, next: PreparedSegment, first: Sequence, previous: Tag) {
        let image = self.spare.pop().unwrap_or_else(|| {
            Image::new(usize::try_from(self.config.segment_bytes).expect("a 64-bit machine"))
        });
        let salt = random(&*self.env.chance);
        let id = self.new_file_id();
        let epoch = self.state.epoch().map_or(Epoch(0), |epoch| epoch.epoch);
        let (wall, _) = self.clock.now(&*self.env.clock);
        let store = self.env.store;
        let header = SegmentHeader { epoch, file: id, store, salt, first, previous, wall };
        let key = TagKey::new(&self.env.master.derive("segment", &salt));
        let cells = CellFile::new(id, Home::Slot(next.slot), first, Some(next.file.clone()));
        self.files.insert(cells.clone());
        let sector = self.config.sector;
        self.segment =
            Some(OpenSegment::begin(cells, next.file, next.slot, image, &header, key, sector));
        self.background.prepare_segment(&self.config);
    }

    /// Cuts the open batch and hands the segment to the background.
    pub(crate) fn close_segment(&mut self) {
        if self.segment.is_none() {
            return;
        }
        self.cut();
        let Some(segment) = self.segment.take() else { return };
        let end_bytes = segment.image.length_bytes() as u64;
        let run = Arc::new(history_index::MemoryRun::new(segment.run.finish()));
        self.background.add_memory_run(run.clone());
        self.full.push_back(FullSegment {
            cells: segment.cells,
            file: segment.file,
            slot: segment.slot,
            image: Some(segment.image),
            end_bytes,
            last_tag: segment.last_tag,
            run,
            bulk: segment.bulk,
            sealed: None,
            busy: false,
            stays: false,
        });
        self.flushing.want(self.last);
    }

    /// Tag of the last batch that was cut, where the next segment's chain begins.
    fn chain_tag(&self) -> Tag {
        let open = self.segment.as_ref().map(|segment| segment.last_tag);
        // What is sealed already was found at the start: it belongs to an epoch before this one.
        let full = self.full.back().filter(|full| full.sealed.is_none());
        let full = full.map(|full| full.last_tag);
        open.or(full).or_else(|| self.state.chain()).unwrap_or_default()
    }

    /// Goes on in another bulk file, whose cells have sequences from `first` on.
    pub(crate) fn next_bulk_file(&mut self, first: Sequence) -> Room {
        if let Some(next) = self.background.prepared_bulk() {
            let file = Some(next.file.clone());
            self.files.insert(CellFile::new(next.id, Home::Bulk(next.id), first, file));
            if let Some(full) = self.bulk.use_file(next) {
                self.files.close(full);
            }
            self.prepare_bulk();
            return Room::Yes;
        }
        self.prepare_bulk();
        self.background.room_for_bulk()
    }

    /// Writes bulk payload to the place it was given last.
    pub(crate) fn start_bulk(&mut self, write: u64) {
        if let Some((file, offset_bytes, parts)) = self.bulk.to_write(write) {
            self.ios.insert(write, Io::Bulk { write });
            self.ops.push((write, Op::Write { file, offset_bytes, parts }));
        }
    }

    pub(crate) fn prepare_bulk(&mut self) {
        if !self.background.is_preparing_bulk() {
            let id = self.new_file_id();
            self.background.prepare_bulk(id, &self.config);
        }
    }

    fn start_sync(&mut self) {
        for (id, file) in self.flushing.start(self.landed) {
            self.push_op(Io::Sync { file: id }, Op::Sync { file });
        }
        self.tell_flushed();
    }

    fn sync_done(&mut self, file: FileId, error: Option<io::Error>) {
        if let Some(error) = error.filter(|_| !planted::is(15)) {
            self.take_no_more("syncing the log", &error);
            return;
        }
        self.flushing.synced(file);
        self.tell_flushed();
    }

    fn tell_flushed(&mut self) {
        while let Some(event) = self.flushing.next_due() {
            self.events.push_back(event);
        }
    }

    fn fail(&mut self, waiting: &[Waiting], full: bool) {
        for waiting in waiting {
            self.events.push_back(Event::Failed { ticket: waiting.ticket, full });
        }
    }
}

/// An array of random bytes.
pub(crate) fn random<const N: usize>(chance: &dyn Chance) -> [u8; N] {
    let mut bytes = [0; N];
    chance.fill(&mut bytes);
    bytes
}
