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
    bulk::BulkWriter,
    clock::HistoryClock,
    files::{CellFile, FileTable},
    finish::Finish,
    flushing::Flushing,
    landing::{Flight, Io},
    planted,
    rolling::FullSegment,
    state::{EpochRecord, Fact, LogState},
    terms::{AckPolicy, Config, Environment, Event, Located, Poison, Room},
    writer::{OpenSegment, Shape, Waiting},
};
use history_index::{Bound, FlushPoint, LeafVersions, ZeroRange};
use seal::{CellKey, CellName};
use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::Arc,
};
use units::{BranchId, CELL, ClientId, Epoch, Extent, FileId, Lba, Leaf, Place, Sequence};
use world::{Chance, Done, Finished, Image, Op};

/// A batch of this size goes out even while another is in flight.
const BATCH_EARLY: usize = 128 << 10;
/// The open batch does not grow past this.
const BATCH_SOFT: usize = 1 << 20;
/// Batches in flight at most.
const FLIGHTS_MAX: usize = 4;
/// Requests of this size go to bulk files.
pub const BULK_BYTES: u64 = 256 << 10;

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
    pub(crate) last: Sequence,
    /// All up to here has landed.
    pub(crate) landed: Sequence,
    pub(crate) flights: VecDeque<Flight>,
    pub(crate) next_flight: u64,
    pub(crate) ops: Vec<(u64, Op)>,
    pub(crate) ios: BTreeMap<u64, Io>,
    pub(crate) next_io: u64,
    request: Option<Request>,
    seal_key: Option<(BranchId, Arc<CellKey>)>,
    flushed_by_client: BTreeMap<BranchId, Sequence>,
    written_by_branch: BTreeMap<BranchId, Sequence>,
    /// Writes failed: nothing goes out until all flights have ended and were logged again.
    pub(crate) relog: bool,
    /// How often in a row that was done.
    pub(crate) relogs: u32,
    pub(crate) finish: Finish,
    pub(crate) next_file: u64,
}

/// Whether this run's epoch is in the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EpochStage {
    None,
    Recording(EpochRecord),
    Begun,
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
            let room = self.next_bulk_file(self.last.next(), bulk_blocks);
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

    /// Makes durable all that was begun. Where nothing was, as in a log that is only read, that is no
    /// failure even of one that takes no writes.
    pub fn flush_all(&mut self, ticket: u64) {
        if self.poison.is_some() {
            let nothing = self.last == self.started_at;
            self.events.push_back(if nothing {
                Event::Flushed { ticket }
            } else {
                Event::Failed { ticket, full: false }
            });
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
}

/// An array of random bytes.
pub(crate) fn random<const N: usize>(chance: &dyn Chance) -> [u8; N] {
    let mut bytes = [0; N];
    chance.fill(&mut bytes);
    bytes
}
