//! What lies below a volume's first branch: cells that were taken over, and a foreign source.
//!
//! A base's cells have a branch number of their own and greater sequences than the writes they lie
//! under, so the index is asked twice: the branches decide, and only what none of them knows is asked of
//! the base, whatever its sequence. What the base does not know either stands in the source, and after
//! the source was detached it is zero. So a unit can be taken over at any time, twice as well as once,
//! without any instant changing.
//!
//! A source is read by jobs, never here. One that cannot be trusted any more is let go of: reads
//! that need it fail, the volumes on it take no writes, all else goes on.

use crate::{Store, View, ViewId, read::Read, view::Loading};
use block_device::BlockError;
use catalogue::{Catalogue, CatalogueRecord};
use history_index::{Bound, IndexSnapshot, LeafVersions};
use segment_log::{BULK_BYTES, Room, Shape, planted};
use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    ops::Range,
    sync::Arc,
};
use units::{BLOCK, BLOCK_BYTES, BranchId, ClientId, Extent, Lba, Sequence};
use world::Page;

/// Units that readers asked for and that are kept in mind, at most.
const WANTED_MAX: usize = 256;

/// Why a source does not give bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceError {
    /// These are damaged; others can be had.
    Damaged(String),
    /// It is not what it was, or not there: nothing of it can be trusted.
    Lost(String),
}

/// A foreign image as a volume stands on it. Called by jobs, several at once; may block.
pub trait Source: Send + Sync + fmt::Debug {
    /// Bytes from `offset` on, zeros past the end.
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), SourceError>;

    /// Ranges within `range` that are known to be zero, ascending. It may leave out some.
    fn zeros(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, SourceError>;
}

/// Of a view: what it stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Below {
    /// The base.
    pub(crate) id: BranchId,
    /// Blocks that the source shows, the last one perhaps in part.
    pub(crate) blocks: u64,
    /// Its source is needed for what is not taken over.
    pub(crate) attached: bool,
}

/// A base's source, as far as it is there.
#[derive(Debug, Default)]
pub struct Standing {
    source: Option<Arc<dyn Source>>,
    trouble: Option<String>,
    /// Units that readers asked for, those that were asked for first in front.
    wanted: VecDeque<u64>,
}

/// A part of a read that a source has to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Which blocks.
    pub extent: Extent,
    /// Of the first one in the read.
    pub index: usize,
}

/// Blocks to be read from a source.
pub struct SourceRead {
    read: u64,
    base: BranchId,
    piece: Piece,
    page: Page,
    source: Arc<dyn Source>,
}

/// The end of a [`SourceRead`].
pub struct SourceDone {
    pub(crate) read: u64,
    base: BranchId,
    piece: Piece,
    page: Page,
    result: Result<(), SourceError>,
    source: Arc<dyn Source>,
}

/// Blocks of a base on their way into the log.
#[derive(Debug)]
pub struct Fill {
    base: BranchId,
    ticket: u64,
    client: ClientId,
    start: Lba,
    /// Whole blocks.
    bytes: Vec<u8>,
}

/// What a question to the index says of blocks that no branch knows.
#[derive(Debug)]
pub enum Rest {
    /// They are zero.
    Zero,
    /// For each block of the leaf: whether it stands in the source.
    Source(Box<[bool]>),
}

/// Asks below the branches: the base, then the source's map.
pub(crate) struct AskBelow {
    pub below: Below,
    /// It knows which units were taken over, zeros included.
    pub catalogue: Arc<Catalogue>,
    pub versions: LeafVersions,
    pub source: Option<Arc<dyn Source>>,
}

impl Below {
    /// What a branch stands on by the catalogue.
    pub fn of(catalogue: &Catalogue, branch: BranchId) -> Option<Self> {
        let base = catalogue.base_of(branch)?;
        let blocks = base.size_bytes.div_ceil(BLOCK_BYTES);
        Some(Self { id: base.id, blocks, attached: !base.detached })
    }

    /// All cells of the base are visible.
    pub fn bound(self) -> Bound {
        Bound { branch: self.id, up_to: Sequence::MAX }
    }
}

impl AskBelow {
    /// Adds what the base knows to versions that the branches lack; tells of the rest.
    pub fn run(
        mut self,
        index: &IndexSnapshot,
        versions: &mut LeafVersions,
    ) -> Result<Rest, history_index::Error> {
        let leaf = versions.leaf();
        let asked = index.complete_leaf(&[self.below.bound()], &mut self.versions);
        for lba in leaf.extent().lbas() {
            let found = self.versions.get(lba);
            let over = versions.get(lba);
            let newer = over.zip(found).is_some_and(|(over, found)| over.sequence < found.sequence);
            let first = over.is_none() || planted::is(37) && newer;
            if let Some(version) = found.filter(|_| first) {
                versions.offer(lba, version);
            }
        }
        asked?;
        if !self.below.attached {
            return Ok(Rest::Zero);
        }
        let taken = self.catalogue.taken(self.below.id);
        let stands = |lba: Lba| {
            let unit = lba.offset_bytes() / catalogue::UNIT_BYTES;
            lba.number() < self.below.blocks && !taken.has(unit)
        };
        let mut stands: Box<[bool]> = leaf.extent().lbas().map(stands).collect();
        // What cannot be asked now is asked when it is read.
        let range = leaf.extent().start().offset_bytes()..leaf.extent().end() * BLOCK_BYTES;
        if let Some(Ok(zeros)) = self.source.as_ref().map(|source| source.zeros(range.clone())) {
            for zero in zeros {
                let zero = zero.start.max(range.start)..zero.end.min(range.end);
                let first = (zero.start - range.start).div_ceil(BLOCK_BYTES);
                let end = (zero.end - range.start) / BLOCK_BYTES;
                if let Some(stands) = stands.get_mut(narrow(first)..narrow(end).max(narrow(first)))
                {
                    stands.fill(false);
                }
            }
        }
        Ok(Rest::Source(stands))
    }
}

impl SourceRead {
    /// Does it.
    pub fn run(self) -> SourceDone {
        let Self { read, base, piece, mut page, source } = self;
        let result = source.read(piece.extent.start().offset_bytes(), &mut page);
        SourceDone { read, base, piece, page, result, source }
    }
}

impl Standing {
    fn want(&mut self, extent: Extent) {
        let first = extent.start().offset_bytes() / catalogue::UNIT_BYTES;
        let end = (extent.end() * BLOCK_BYTES).div_ceil(catalogue::UNIT_BYTES);
        for unit in first..end {
            if self.wanted.len() < WANTED_MAX && !self.wanted.contains(&unit) {
                self.wanted.push_back(unit);
            }
        }
    }
}

impl Store {
    /// From now on a base's source is this one: it was found to be what was adopted.
    pub fn set_source(&mut self, base: BranchId, source: Arc<dyn Source>) {
        let standing = self.standing.entry(base).or_default();
        standing.source = Some(source);
        standing.trouble = None;
    }

    /// Lets go of a source that cannot be trusted, or is not there. What was read of it is kept by nobody:
    /// each block is asked for anew, as it may have been taken over.
    pub fn lose_source(&mut self, base: BranchId, why: String) {
        let standing = self.standing.entry(base).or_default();
        standing.source = None;
        standing.trouble = Some(why);
        self.ask_anew(base);
    }

    /// Whether a base's source is there, and why not.
    pub fn source_trouble(&self, base: BranchId) -> Option<&str> {
        const UNTRIED: &str = "it was not opened yet";
        match self.standing.get(&base) {
            Some(Standing { source: Some(_), .. }) => None,
            Some(Standing { trouble: Some(trouble), .. }) => Some(trouble),
            _ => Some(UNTRIED),
        }
    }

    /// The source of a base, if it is there.
    pub fn source(&self, base: BranchId) -> Option<Arc<dyn Source>> {
        self.standing.get(&base)?.source.clone()
    }

    /// Takes the units that readers asked the source for, those that were asked for first in front.
    pub fn take_wanted(&mut self, base: BranchId) -> Vec<u64> {
        let standing = self.standing.get_mut(&base);
        standing.map(|standing| standing.wanted.drain(..).collect()).unwrap_or_default()
    }

    /// Takes blocks of a source over: `bytes` are what it shows from `start` on, whole blocks, the last
    /// one filled up with zeros, at most [`catalogue::UNIT_BYTES`]. Answered as a write is, and durable
    /// after a flush like one. Writes of clients that wait for room go first.
    pub fn fill(
        &mut self,
        base: BranchId,
        ticket: u64,
        client: ClientId,
        start: Lba,
        bytes: Vec<u8>,
    ) {
        let known = self.catalogue.base(base).filter(|base| !base.detached);
        let whole = !bytes.is_empty() && bytes.len().is_multiple_of(BLOCK);
        if known.is_none() || !whole || bytes.len() as u64 > catalogue::UNIT_BYTES {
            return self.complete(ticket, Err(BlockError::OutOfRange));
        }
        self.fills.push_back(Fill { base, ticket, client, start, bytes });
        self.retry_fills();
    }

    /// Records units of a base as taken over: all that was written of them before this call is made durable
    /// first. [`Store::take_changed`] tells by the id. Of a base that is gone or detached by then it says
    /// nothing.
    pub fn take_over(&mut self, base: BranchId, runs: Vec<(u64, u64)>) -> u64 {
        let id = self.own_id();
        self.takings.insert(id, (base, runs));
        self.log.flush_all(id);
        id
    }

    /// Writes of units are durable.
    pub(crate) fn record_taken(&mut self, id: u64, base: BranchId, runs: Vec<(u64, u64)>) {
        self.change_as(id, vec![CatalogueRecord::Taken { base, runs }]);
    }

    /// Logs what is to be taken over, as far as there is room and no client waits.
    pub(crate) fn retry_fills(&mut self) {
        while self.stalled.is_empty()
            && let Some(fill) = self.fills.pop_front()
        {
            if let Some(fill) = self.try_fill(fill) {
                self.fills.push_front(fill);
                break;
            }
        }
    }

    /// Gives it back if there is no room for it yet.
    fn try_fill(&mut self, fill: Fill) -> Option<Fill> {
        let blocks = (fill.bytes.len() / BLOCK) as u64;
        let bulk = fill.bytes.len() as u64 >= BULK_BYTES;
        let shape = if bulk {
            Shape { cells: 0, records: 1 }
        } else {
            Shape { cells: fill.bytes.len() / BLOCK, records: 0 }
        };
        let refused = match self.log.room(shape, if bulk { blocks } else { 0 }) {
            Room::Yes => None,
            Room::Wait => return Some(fill),
            Room::Full => Some(BlockError::NoSpace),
            Room::Failing | Room::Poisoned => Some(BlockError::Io),
        };
        // It may have been detached, or be gone, since it was handed in.
        let known = self.catalogue.base(fill.base).is_some_and(|base| !base.detached);
        let extent = Extent::new(fill.start, blocks).filter(|_| known);
        let (None, Some(extent)) = (refused, extent) else {
            self.complete(fill.ticket, Err(refused.unwrap_or(BlockError::OutOfRange)));
            return None;
        };
        let mut branch = fill.base;
        if planted::is(38) {
            branch = self.catalogue.base(fill.base).map_or(branch, |base| base.root);
        }
        self.log.begin(branch, fill.client);
        let block = |index: usize| &fill.bytes[index * BLOCK..][..BLOCK];
        if bulk {
            self.log.bulk(extent, block);
        } else {
            for (index, lba) in extent.lbas().enumerate() {
                self.log.cell(lba, block(index));
            }
        }
        self.log.end(fill.ticket, false);
        None
    }

    /// Starts what a read needs of its source; gives back the pieces for which there is no memory now.
    pub(crate) fn ask_source(&mut self, id: u64, read: &mut Read) -> Vec<Piece> {
        let mut pieces = std::mem::take(&mut read.below);
        let below = self.views.get(&read.view).and_then(|view| view.below);
        let Some(below) = below.filter(|_| !pieces.is_empty()) else { return Vec::new() };
        let standing = self.standing.entry(below.id).or_default();
        let Some(source) = standing.source.clone() else {
            read.error = Some(BlockError::Io);
            return Vec::new();
        };
        let pool = self.log.environment().pool.clone();
        while let Some(piece) = pieces.first().copied() {
            let bytes = narrow(piece.extent.bytes());
            let Some(page) = pool.take(bytes) else { break };
            pieces.remove(0);
            standing.want(piece.extent);
            read.pending += 1;
            let source = source.clone();
            let asked = SourceRead { read: id, base: below.id, piece, page, source };
            self.jobs.push(crate::Job::Source(asked));
        }
        pieces
    }

    /// A source has given blocks, or not.
    pub(crate) fn source_read(&mut self, done: SourceDone) {
        let SourceDone { read: id, base, piece, page, result, source } = done;
        let lost = match &result {
            Err(SourceError::Lost(why)) => Some(why.clone()),
            _ => None,
        };
        if let Some(why) = &lost
            && self.source(base).is_some_and(|now| Arc::ptr_eq(&now, &source))
        {
            self.lose_source(base, why.clone());
        }
        let Some(mut read) = self.reads.remove(&id) else { return };
        read.pending -= 1;
        match result {
            Ok(()) => {
                for (at, index) in (piece.index..).take(narrow(piece.extent.blocks())).enumerate() {
                    let block = &page[at * BLOCK..][..BLOCK];
                    read.sheet().block(index).copy_from_slice(block);
                }
            }
            // By now it may have been taken over: asked anew, it is had or refused.
            Err(SourceError::Lost(_)) => read.again = true,
            Err(SourceError::Damaged(_)) => read.error = Some(BlockError::Io),
        }
        drop(page);
        self.goes_on(id, read);
    }

    /// Nothing that was said of blocks which stand in a base's source holds any more.
    pub(crate) fn ask_anew(&mut self, base: BranchId) {
        let on_it = |view: &&mut View| view.below.is_some_and(|below| below.id == base);
        for view in self.views.values_mut().filter(on_it) {
            view.map.forget_sources();
            for Loading { stale, .. } in view.loading.values_mut() {
                *stale = true;
            }
        }
    }

    /// Follows the catalogue: bases that were detached are asked no more, and those that are gone are
    /// forgotten.
    pub(crate) fn learn_bases(&mut self) {
        let mut detached: Vec<BranchId> = Vec::new();
        for view in self.views.values_mut() {
            if let Some(below) = &mut view.below
                && below.attached
                && self.catalogue.base(below.id).is_none_or(|base| base.detached)
            {
                below.attached = false;
                detached.push(below.id);
            }
        }
        for base in detached {
            self.ask_anew(base);
        }
        let attached = |id: &BranchId| self.catalogue.base(*id).is_some_and(|base| !base.detached);
        self.standing.retain(|id, _| attached(id));
    }

    /// Whether a view's volume takes no writes now because its source is not there.
    pub(crate) fn lacks_source(&self, id: ViewId) -> bool {
        let below = self.views.get(&id).and_then(|view| view.below);
        below.is_some_and(|below| below.attached && self.source(below.id).is_none())
    }
}

/// Sources by base.
pub(crate) type Standings = BTreeMap<BranchId, Standing>;

/// Blocks that stand in a source, joined into pieces of at most a page.
#[derive(Debug, Default)]
pub(crate) struct Pieces(pub Vec<Piece>);

/// Blocks of a piece, at most: 1 MiB.
const PIECE_BLOCKS: u64 = 256;

impl Pieces {
    /// Adds a block, which lies behind those added before.
    pub fn add(&mut self, lba: Lba, index: usize) {
        if let Some(last) = self.0.last_mut()
            && last.extent.end() == lba.number()
            && last.index + narrow(last.extent.blocks()) == index
            && last.extent.blocks() < PIECE_BLOCKS
            && let Some(longer) = Extent::new(last.extent.start(), last.extent.blocks() + 1)
        {
            last.extent = longer;
            return;
        }
        let extent = Extent::new(lba, 1).expect("one block");
        self.0.push(Piece { extent, index });
    }
}

fn narrow(number: u64) -> usize {
    usize::try_from(number).expect("within a request")
}
