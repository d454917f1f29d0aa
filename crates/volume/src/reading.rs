//! Reads and questions for extents: from the map to the cells and back to the client.

use crate::{
    Block, Store, ViewId,
    base::Pieces,
    read::{Fetch, Purpose, Read, Sheet, Wanted, group},
    view::Parked,
};
use block_device::{Answer, BlockError, BlockExtent};
use seal::CellName;
use segment_log::{Located, planted};
use std::sync::Arc;
use units::{BLOCK_BYTES, CELL, Extent, Lba, Leaf};
use world::{Done, Finished, Page};

/// How often a read is done again because cells moved under it.
const TRIES_MAX: u32 = 8;
/// Leaves that one question for extents asks of the index at most; its answer may be short.
const LEAVES_MAX: usize = 64;

/// A question for extents on its way.
#[derive(Debug)]
pub struct Extents {
    pub(crate) view: ViewId,
    pub(crate) ticket: u64,
    pub(crate) offset_bytes: u64,
    pub(crate) length_bytes: u64,
    pub(crate) count_max: usize,
    pub(crate) loads: usize,
    /// A leaf of which the index could not tell all: it is not asked for it again.
    pub(crate) refused: Option<Leaf>,
}

impl Store {
    /// Begins to read bytes for a client.
    pub(crate) fn read(&mut self, view: ViewId, ticket: u64, offset_bytes: u64, length_bytes: u64) {
        let Some(start) = Lba::holding(offset_bytes) else {
            return self.complete(ticket, Err(BlockError::OutOfRange));
        };
        let end = (offset_bytes + length_bytes).div_ceil(BLOCK_BYTES);
        let Some(extent) = Extent::new(start, end - start.number()) else {
            return self.complete(ticket, Ok(Answer::Data(Vec::new())));
        };
        let (Ok(skip_bytes), Ok(length_bytes)) =
            (usize::try_from(offset_bytes % BLOCK_BYTES), usize::try_from(length_bytes))
        else {
            return self.complete(ticket, Err(BlockError::TooLarge));
        };
        let purpose = Purpose::Answer { skip_bytes, length_bytes };
        self.begin_read(Read::begun(view, ticket, purpose, extent));
    }

    /// Begins to read an edge block for a write.
    pub(crate) fn read_edge(&mut self, view: ViewId, write: u64, lba: Lba) {
        let extent = Extent::new(lba, 1).expect("one block");
        self.begin_read(Read::begun(view, 0, Purpose::Edge { write }, extent));
    }

    fn begin_read(&mut self, read: Read) {
        let id = self.new_id();
        self.reads.insert(id, read);
        self.start_read(id);
    }

    /// Starts a read, or goes on with one whose leaf or memory has come.
    pub(crate) fn start_read(&mut self, id: u64) {
        let Some(mut read) = self.reads.remove(&id) else { return };
        let Some(view) = self.views.get(&read.view) else {
            return self.end_read(read, Err(BlockError::Stopping));
        };
        let mut wanted: Vec<Wanted> = Vec::new();
        let mut below = Pieces::default();
        let mut index = 0;
        for (leaf, part) in read.extent.leaves() {
            let known = view.map.leaf(leaf);
            if known.all_zero() {
                index += usize::try_from(part.blocks()).expect("a leaf");
                continue;
            }
            for lba in part.lbas() {
                match known.get(lba.index_in_leaf()) {
                    Block::Zero => {}
                    Block::Source => below.add(lba, index),
                    Block::At(place) => wanted.push(Wanted { place, lba, index }),
                    Block::Unknown => {
                        let asked = read.view;
                        self.reads.insert(id, read);
                        return self.load(asked, leaf, Parked::Read(id));
                    }
                }
                index += 1;
            }
        }
        read.below = below.0;
        if wanted.is_empty() && read.below.is_empty() {
            read.sheet = Some(Sheet::Zeros);
            return self.end_read(read, Ok(()));
        }
        let pool = self.log.environment().pool.clone();
        let Some(mut sheet) = Sheet::take(&pool, read.extent.blocks()) else {
            self.reads.insert(id, read);
            return self.starve(id);
        };
        // What stands in the source is written over these zeros.
        if u64::try_from(wanted.len()).expect("small") < read.extent.blocks() {
            let mut wanted = wanted.iter().map(|wanted| wanted.index).peekable();
            for index in 0..usize::try_from(read.extent.blocks()).expect("small") {
                if wanted.next_if_eq(&index).is_none() {
                    sheet.block(index).fill(0);
                }
            }
        }
        read.sheet = Some(sheet);
        read.again = false;
        self.fetch(id, read, wanted);
    }

    /// Decrypts what is in memory and starts operations for the rest.
    fn fetch(&mut self, id: u64, mut read: Read, mut wanted: Vec<Wanted>) {
        let pool = self.log.environment().pool.clone();
        // What is in memory is asked for cell by cell: of two neighbours in a file one may still be on
        // its way to disk.
        let mut copy = [0; CELL];
        wanted.retain(|wanted| match self.log.locate(wanted.place) {
            Located::Memory(cell) => {
                copy.copy_from_slice(cell);
                self.open_cell(&mut read, *wanted, &copy);
                false
            }
            Located::Disk(..) | Located::Gone | Located::Lost => true,
        });
        let mut fetches: Vec<(Fetch, Page)> = Vec::new();
        let mut groups = group(&mut wanted, read.apart).into_iter();
        while let Some(near) = groups.next() {
            let first = near[0].place;
            match self.log.locate(first) {
                Located::Memory(_) => unreachable!("sorted out above"),
                Located::Disk(cells, file) => {
                    let Some((offset_bytes, length_bytes, needed_bytes)) =
                        Fetch::window(near, file.alignment())
                    else {
                        continue;
                    };
                    let fetch = Fetch {
                        read: id,
                        cells,
                        file,
                        offset_bytes,
                        length_bytes,
                        needed_bytes,
                        wanted: near.to_vec(),
                    };
                    match pool.take(length_bytes) {
                        Some(page) => fetches.push((fetch, page)),
                        None if fetches.is_empty() => {
                            // Nothing is in flight: let go of everything and wait for memory.
                            read.sheet = None;
                            self.reads.insert(id, read);
                            return self.starve(id);
                        }
                        None => {
                            read.rest = near.to_vec();
                            read.rest.extend(groups.flatten());
                            break;
                        }
                    }
                }
                Located::Gone => {
                    self.forget(read.view, near);
                    read.again = true;
                }
                Located::Lost => {
                    self.damaged += 1;
                    read.error = Some(BlockError::Io);
                }
            }
        }
        read.pending = fetches.len();
        read.below = self.ask_source(id, &mut read);
        if read.pending == 0 && read.error.is_none() && !read.below.is_empty() {
            // The same, for what a source gives.
            read.sheet = None;
            self.reads.insert(id, read);
            return self.starve(id);
        }
        if read.pending == 0 {
            return self.settle(id, read);
        }
        self.reads.insert(id, read);
        for (fetch, page) in fetches {
            self.push_fetch(fetch, page);
        }
    }

    /// Cells have been read.
    pub(crate) fn fetched(&mut self, fetch: &Fetch, done: Done) {
        let Some(mut read) = self.reads.remove(&fetch.read) else { return };
        read.pending -= 1;
        let bytes = match done.result {
            Ok(Finished::Bytes(bytes)) => bytes,
            Ok(Finished::Socket(_)) | Err(_) => 0,
        };
        match done.page {
            Some(page) if bytes >= fetch.needed_bytes => {
                for wanted in &fetch.wanted {
                    let at = usize::try_from(wanted.place.offset_bytes() - fetch.offset_bytes);
                    let at = at.expect("inside the window");
                    let cell = &page[at..at + CELL];
                    let name = CellName::of(cell);
                    if !self.log.may_hold(&fetch.cells, name.sequence) {
                        self.forget(read.view, &[*wanted]);
                        read.again = true;
                        continue;
                    }
                    self.open_cell(&mut read, *wanted, cell);
                }
            }
            _ if fetch.wanted.len() > 1 => {
                read.apart = true;
                read.rest.extend_from_slice(&fetch.wanted);
            }
            _ => {
                self.damaged += 1;
                read.error = Some(BlockError::Io);
            }
        }
        self.goes_on(fetch.read, read);
    }

    /// One part of a read has ended: the others are waited for, or those that had no memory begun.
    pub(crate) fn goes_on(&mut self, id: u64, mut read: Read) {
        let left = !(read.rest.is_empty() && read.below.is_empty());
        if read.pending > 0 {
            self.reads.insert(id, read);
        } else if !left || read.again || read.error.is_some() {
            self.settle(id, read);
        } else {
            let rest = std::mem::take(&mut read.rest);
            self.fetch(id, read, rest);
        }
    }

    /// All operations of a read have ended.
    fn settle(&mut self, id: u64, mut read: Read) {
        if read.error.is_none() && read.again {
            read.tries += 1;
            read.sheet = None;
            read.rest.clear();
            if read.tries <= TRIES_MAX {
                self.reads.insert(id, read);
                return self.start_read(id);
            }
            read.error = Some(BlockError::Io);
            self.damaged += 1;
        }
        let result = read.error.map_or(Ok(()), Err);
        self.end_read(read, result);
    }

    /// Whether the map knows all blocks of the leaf that a read is for.
    pub(crate) fn knows(&self, id: u64, leaf: Leaf) -> bool {
        let read = self.reads.get(&id);
        let view = read.and_then(|read| self.views.get(&read.view));
        let (Some(read), Some(view)) = (read, view) else { return true };
        let known = view.map.leaf(leaf);
        read.extent
            .overlap(leaf.extent())
            .into_iter()
            .flat_map(Extent::lbas)
            .all(|lba| known.get(lba.index_in_leaf()) != Block::Unknown)
    }

    pub(crate) fn fail_read(&mut self, id: u64, error: BlockError) {
        if let Some(read) = self.reads.remove(&id) {
            self.end_read(read, Err(error));
        }
    }

    fn end_read(&mut self, mut read: Read, result: Result<(), BlockError>) {
        match read.purpose {
            Purpose::Edge { write } => {
                let lba = read.extent.start();
                let mut block = vec![0; units::BLOCK].into_boxed_slice();
                if let Sheet::Pages(_) = read.sheet() {
                    block.copy_from_slice(read.sheet().block(0));
                }
                self.edge_read(write, lba, result.map(|()| block));
            }
            Purpose::Answer { skip_bytes, length_bytes } => {
                let answer = result.map(|()| {
                    let sheet = read.sheet.take().unwrap_or(Sheet::Zeros);
                    Answer::Data(sheet.into_bytes(read.extent.blocks(), skip_bytes, length_bytes))
                });
                self.complete(read.ticket, answer);
            }
        }
    }

    /// Verifies a cell and puts its text where the read wants it.
    fn open_cell(&mut self, read: &mut Read, wanted: Wanted, cell: &[u8]) {
        let name = CellName::of(cell);
        let right = planted::is(10)
            || name.lba == wanted.lba
                && self
                    .views
                    .get(&read.view)
                    .is_some_and(|view| view.sees(name.branch, name.sequence));
        let keyring = Arc::clone(&self.log.environment().keyring);
        let opened = right
            && keyring
                .cell_key(name.branch, name.sequence)
                .is_some_and(|key| key.open(cell, read.sheet().block(wanted.index)).is_ok());
        if !opened {
            self.damaged += 1;
            read.error = Some(BlockError::Io);
        }
    }

    /// Cells are not where the map has them: the index is asked anew.
    fn forget(&mut self, view: ViewId, wanted: &[Wanted]) {
        if let Some(view) = self.views.get_mut(&view) {
            for wanted in wanted {
                view.map.forget(wanted.lba, wanted.place);
                if let Some(loading) = view.loading.get_mut(&wanted.lba.leaf()) {
                    loading.stale = true;
                }
            }
        }
    }

    /// Begins to answer which bytes are data and which are holes.
    pub(crate) fn ask_extents(&mut self, question: Extents) {
        let id = self.new_id();
        self.extents.insert(id, question);
        self.start_extents(id);
    }

    /// Goes on with a question though the index could not tell all of a leaf.
    pub(crate) fn start_extents_without(&mut self, id: u64, leaf: Leaf) {
        if let Some(question) = self.extents.get_mut(&id) {
            question.refused = Some(leaf);
        }
        self.start_extents(id);
    }

    /// Answers as far as the map knows; asks for the first leaf it does not.
    pub(crate) fn start_extents(&mut self, id: u64) {
        let Some(mut question) = self.extents.remove(&id) else { return };
        let Some(view) = self.views.get(&question.view) else {
            return self.complete(question.ticket, Err(BlockError::Stopping));
        };
        let start = question.offset_bytes;
        let end = start + question.length_bytes;
        let mut found: Vec<BlockExtent> = Vec::new();
        let mut at = start;
        while at < end {
            let Some(lba) = Lba::holding(at) else { break };
            let known = view.map.leaf(lba.leaf());
            let (hole, stop) = if known.all_zero() {
                (true, lba.leaf().extent().end() * BLOCK_BYTES)
            } else {
                match known.get(lba.index_in_leaf()) {
                    Block::Zero => (true, (lba.number() + 1) * BLOCK_BYTES),
                    // What the source's map calls zero is known as such: this may be data.
                    Block::At(_) | Block::Source => (false, (lba.number() + 1) * BLOCK_BYTES),
                    Block::Unknown if question.refused == Some(lba.leaf()) => {
                        if found.is_empty() {
                            return self.complete(question.ticket, Err(BlockError::Io));
                        }
                        break; // what is behind is another question's trouble
                    }
                    Block::Unknown if question.loads < LEAVES_MAX || found.is_empty() => {
                        question.loads += 1;
                        let asked = question.view;
                        self.extents.insert(id, question);
                        return self.load(asked, lba.leaf(), Parked::Extents(id));
                    }
                    Block::Unknown => break,
                }
            };
            let length_bytes = stop.min(end) - at;
            let full = found.len() == question.count_max;
            match found.last_mut() {
                Some(last) if last.hole == hole => last.length_bytes += length_bytes,
                _ if full => break,
                _ => found.push(BlockExtent { length_bytes, hole }),
            }
            at += length_bytes;
        }
        self.complete(question.ticket, Ok(Answer::Extents(found)));
    }
}
