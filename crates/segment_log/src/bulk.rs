//! Long writes: sealed into pages and written straight into a bulk file, where they stay.
//!
//! The log only gets one record for each. Pages of 384 cells, so that each part of a write is a
//! multiple of 4096 bytes. Payload in flight is read from its pages. What could not be written waits
//! there too until it is given another place, in another file.

use crate::{
    background::PreparedBulk,
    batch::{HEADER, Record},
    terms::Environment,
};
use seal::{CellKey, CellName, TRAILER, Tag, TagKey};
use std::{collections::BTreeMap, io, ops::Range, sync::Arc};
use units::{CELL, Extent, FileId, Place};
use world::{Bytes, File, Image, Page};

/// Cells of one page: 384 × 4128 = 387 × 4096.
const PAGE_CELLS: usize = 384;
/// Alignment of extents in a bulk file.
const ALIGN: usize = 4096;

/// The bulk file that is being filled and the writes under way.
pub struct BulkWriter {
    env: Arc<Environment>,
    current: Option<Current>,
    flights: BTreeMap<u64, BulkFlight>,
    /// Places that were given to payload which lies elsewhere now.
    left: Vec<(FileId, Range<u64>)>,
}

struct Current {
    id: FileId,
    file: File,
    key: TagKey,
    next_bytes: u64,
    end_bytes: u64,
}

/// A bulk file that is filled no further.
pub struct UnusedEnd {
    pub file: File,
    pub used_bytes: u64,
}

struct BulkFlight {
    id: FileId,
    file: File,
    offset_bytes: u64,
    parts: Vec<Bytes>,
    blocks: usize,
    /// How much of it has been written.
    written_bytes: usize,
    /// A write failed: it needs another place.
    failed: bool,
}

/// Extents that were given another place, by the old one.
#[derive(Debug, Default)]
pub struct MovedExtents(BTreeMap<(FileId, u64), MovedExtent>);

#[derive(Debug)]
struct MovedExtent {
    write: u64,
    place: Place,
    tag: Tag,
}

impl MovedExtents {
    /// The writes that have to be started.
    pub fn writes(&self) -> Vec<u64> {
        self.0.values().map(|moved| moved.write).collect()
    }

    /// The record with the place that its payload has now, if it is another one.
    pub fn follow(&self, record: &Record) -> Option<Record> {
        let Record::Bulk { branch, sequence, extent, file, offset_bytes, .. } = *record else {
            return None;
        };
        let &MovedExtent { place, tag, .. } = self.0.get(&(file, offset_bytes))?;
        let (file, offset_bytes) = (place.file(), place.offset_bytes());
        Some(Record::Bulk { branch, sequence, extent, file, offset_bytes, tag })
    }
}

/// An extent that was sealed and is on its way.
pub struct SealedExtent {
    /// Its blocks.
    pub extent: Extent,
    /// Of its first cell.
    pub place: Place,
    /// Over the trailers of its cells, under the bulk file's key.
    pub tag: Tag,
}

/// Nonce of the tag of an extent that lies at that offset of its bulk file.
pub fn extent_nonce(offset_bytes: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&offset_bytes.to_le_bytes());
    nonce
}

/// Length of a bulk file that takes so many blocks.
pub fn file_bytes(blocks: u64) -> u64 {
    HEADER as u64 + (blocks * CELL as u64).next_multiple_of(ALIGN as u64)
}

/// What came of a bulk write.
pub enum BulkWrite {
    /// It has landed in this file.
    Done((FileId, File)),
    /// It ended short: this is left.
    Again { file: File, offset_bytes: u64, parts: Vec<Bytes> },
    /// It failed, and waits for another place.
    Failed,
}

impl BulkWriter {
    /// With no file yet.
    pub fn new(env: Arc<Environment>) -> Self {
        Self { env, current: None, flights: BTreeMap::new(), left: Vec::new() }
    }

    /// Whether the current file can take so many blocks.
    pub fn has_room(&self, blocks: u64) -> bool {
        let bytes = (blocks * CELL as u64).next_multiple_of(ALIGN as u64);
        self.current.as_ref().is_some_and(|current| current.next_bytes + bytes <= current.end_bytes)
    }

    /// Goes on in a new file; gives the one that was being filled.
    pub fn use_file(&mut self, next: PreparedBulk) -> Option<FileId> {
        let next = Current {
            id: next.id,
            file: next.file,
            key: next.key,
            next_bytes: next.start_bytes,
            end_bytes: next.end_bytes,
        };
        self.current.replace(next).map(|full| full.id)
    }

    /// Takes the file that is being filled, and how much of it is in use. Writes under way lie before that.
    pub fn take_unused(&mut self) -> Option<UnusedEnd> {
        let Current { file, next_bytes, .. } = self.current.take()?;
        Some(UnusedEnd { file, used_bytes: next_bytes })
    }

    /// The file that is being filled.
    pub fn file(&self) -> File {
        self.current.as_ref().expect("there is room").file.clone()
    }

    /// Seals an extent and gives what is to be written at its place.
    /// `None` when no memory for it can be had.
    pub fn seal<'a>(
        &mut self,
        write: u64,
        key: &CellKey,
        name: CellName,
        extent: Extent,
        mut block: impl FnMut(usize) -> &'a [u8],
    ) -> Option<(SealedExtent, Vec<Bytes>)> {
        let blocks = usize::try_from(extent.blocks()).ok()?;
        let mut trailers = Vec::with_capacity(blocks * TRAILER);
        let mut parts = Vec::with_capacity(blocks.div_ceil(PAGE_CELLS));
        let mut lbas = extent.lbas();
        for start in (0..blocks).step_by(PAGE_CELLS) {
            let cells = PAGE_CELLS.min(blocks - start);
            let bytes = cells * CELL;
            let mut page = Sheet::take(&self.env, bytes.next_multiple_of(ALIGN));
            let out = page.bytes();
            for index in 0..cells {
                let cell = &mut out[index * CELL..(index + 1) * CELL];
                let lba = lbas.next()?;
                key.seal(CellName { lba, ..name }, block(start + index), cell);
                trailers.extend_from_slice(&cell[CELL - TRAILER..]);
            }
            out[bytes..].fill(0);
            parts.push(page.freeze());
        }
        let current = self.current.as_mut()?;
        let place = Place::new(current.id, current.next_bytes)?;
        current.next_bytes += parts.iter().map(|part| part.len() as u64).sum::<u64>();
        let (id, file) = (current.id, current.file.clone());
        let offset_bytes = place.offset_bytes();
        let flight = BulkFlight {
            id,
            file,
            offset_bytes,
            parts: parts.clone(),
            blocks,
            written_bytes: 0,
            failed: false,
        };
        self.flights.insert(write, flight);
        let tag = current.key.tag(extent_nonce(offset_bytes), &[&trailers]);
        Some((SealedExtent { extent, place, tag }, parts))
    }

    /// Whether the write is still under way.
    pub fn is_pending(&self, write: u64) -> bool {
        self.flights.contains_key(&write)
    }

    /// A cell whose write is under way.
    pub fn in_flight(&self, place: Place) -> Option<&[u8]> {
        self.flights.values().find_map(|flight| {
            if flight.id != place.file() {
                return None;
            }
            let mut at =
                usize::try_from(place.offset_bytes().checked_sub(flight.offset_bytes)?).ok()?;
            for part in &flight.parts {
                if at < part.len() {
                    return part.get(at..at + CELL);
                }
                at -= part.len();
            }
            None
        })
    }

    /// A write has ended, perhaps short.
    pub fn ended(&mut self, write: u64, moved: &io::Result<usize>) -> BulkWrite {
        let flight = self.flights.get_mut(&write).expect("it is under way");
        let length: usize = flight.parts.iter().map(|part| part.len()).sum();
        match moved {
            &Ok(bytes) if bytes > 0 && (bytes.is_multiple_of(ALIGN) || bytes >= length) => {
                flight.written_bytes += bytes;
            }
            Ok(_) | Err(_) => {
                flight.failed = true;
                return BulkWrite::Failed;
            }
        }
        if flight.written_bytes >= length {
            let flight = self.flights.remove(&write).expect("just seen");
            return BulkWrite::Done((flight.id, flight.file));
        }
        let mut skip = flight.written_bytes;
        let mut parts = Vec::new();
        for part in &flight.parts {
            if skip < part.len() {
                parts.push(part.slice(skip..part.len()));
            }
            skip = skip.saturating_sub(part.len());
        }
        let offset_bytes = flight.offset_bytes + flight.written_bytes as u64;
        BulkWrite::Again { file: flight.file.clone(), offset_bytes, parts }
    }

    /// Whether the write failed and waits for another place.
    pub fn has_failed(&self, write: u64) -> bool {
        self.flights.get(&write).is_some_and(|flight| flight.failed)
    }

    /// How many blocks wait for another place.
    pub fn failed_blocks(&self) -> u64 {
        let failed = self.flights.values().filter(|flight| flight.failed);
        failed
            .map(|flight| (flight.blocks * CELL).next_multiple_of(ALIGN).div_ceil(CELL))
            .sum::<usize>() as u64
    }

    /// Gives everything that failed a place in the current file, in which there is room.
    pub fn move_failed(&mut self) -> MovedExtents {
        let mut moved = MovedExtents::default();
        let current = self.current.as_mut().expect("there is room");
        for (&write, flight) in self.flights.iter_mut().filter(|(_, flight)| flight.failed) {
            let length_bytes = flight.parts.iter().map(|part| part.len() as u64).sum::<u64>();
            let old = (flight.id, flight.offset_bytes);
            self.left.push((old.0, old.1..old.1 + length_bytes));
            let place = Place::new(current.id, current.next_bytes).expect("inside a bulk file");
            let tag = current.key.tag(extent_nonce(current.next_bytes), &[&flight.trailers()]);
            flight.id = current.id;
            flight.file = current.file.clone();
            flight.offset_bytes = current.next_bytes;
            (flight.written_bytes, flight.failed) = (0, false);
            current.next_bytes += length_bytes;
            moved.0.insert(old, MovedExtent { write, place, tag });
        }
        moved
    }

    /// What a write that was given another place writes there.
    pub fn to_write(&self, write: u64) -> Option<(File, u64, Vec<Bytes>)> {
        let flight = self.flights.get(&write)?;
        Some((flight.file.clone(), flight.offset_bytes, flight.parts.clone()))
    }

    /// Whether what was to lie at that place lies elsewhere now.
    pub fn has_left(&self, place: Place) -> bool {
        let (file, at) = (place.file(), place.offset_bytes());
        self.left.iter().any(|(left, range)| *left == file && range.contains(&at))
    }
}

impl BulkFlight {
    /// The trailers of its cells, in order.
    fn trailers(&self) -> Vec<u8> {
        let mut trailers = Vec::with_capacity(self.blocks * TRAILER);
        for index in 0..self.blocks {
            let part = &self.parts[index / PAGE_CELLS];
            let end = (index % PAGE_CELLS + 1) * CELL;
            trailers.extend_from_slice(&part[end - TRAILER..end]);
        }
        trailers
    }
}

/// Memory for sealed cells: a page of the pool, or a mapping of its own when the pool is used up.
enum Sheet {
    Page(Page),
    Own(Image),
}

impl Sheet {
    fn take(env: &Environment, bytes: usize) -> Self {
        env.pool.take(bytes).map_or_else(
            || {
                let mut image = Image::new(bytes);
                image.append(bytes);
                Self::Own(image)
            },
            Self::Page,
        )
    }

    fn bytes(&mut self) -> &mut [u8] {
        match self {
            Self::Page(page) => page,
            Self::Own(image) => {
                let length = image.length_bytes();
                image.unfrozen(0..length)
            }
        }
    }

    fn freeze(self) -> Bytes {
        match self {
            Self::Page(page) => page.freeze(),
            Self::Own(mut image) => image.freeze_from(0),
        }
    }
}
