//! The open segment: batches are built in its image and cut out of it.
//!
//! Owns nothing of what happens after the cut. Invariant: the image holds exactly what the file will
//! hold; a batch lies in one segment, a request in one batch.

use crate::{
    batch::{BATCH_HEADER, BatchHeader, HEADER, RECORD, Record, SegmentHeader},
    bulk::SealedExtent,
    files::CellFile,
    planted,
    scan::push_bulk,
};
use history_index::{ClientRun, ClockPoint, Entry, FlushPoint, GrowingRun, ZeroRange};
use seal::{CellKey, CellName, Tag, TagKey};
use std::sync::Arc;
use units::{BranchId, CELL, ClientId, Extent, FileId, Place, Sequence, Timestamp};
use world::{Bytes, File, Image};

/// Entries after which a segment is closed even if it has room, so that its run stays small.
const ENTRIES_MAX: usize = 1 << 16;

/// Who waits for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// As the caller gave it.
    pub ticket: u64,
    /// The request.
    pub sequence: Sequence,
    /// Only when it is durable.
    pub fua: bool,
}

/// A segment that takes batches.
pub struct OpenSegment {
    pub cells: Arc<CellFile>,
    pub file: File,
    pub slot: u64,
    pub image: Image,
    pub run: GrowingRun,
    /// Tag of the last batch that was cut.
    pub last_tag: Tag,
    /// Bulk files that its records name, with the last sequence in each.
    pub bulk: Vec<(FileId, Sequence)>,
    key: TagKey,
    sector: usize,
    entries: usize,
    client: Option<ClientId>,
    batch: Option<OpenBatch>,
    gather: Vec<u8>,
}

struct OpenBatch {
    start: usize,
    first: Sequence,
    requests: u32,
    cells: u32,
    records: Vec<Record>,
    waiting: Vec<Waiting>,
    bulk: Vec<u64>,
}

/// A batch on its way to disk.
pub struct CutBatch {
    pub offset_bytes: u64,
    pub bytes: Bytes,
    /// Where it begins in the segment, behind what else is written with it.
    pub batch_bytes: u64,
    /// The last sequence after it.
    pub last: Sequence,
    pub waiting: Vec<Waiting>,
    /// Bulk writes that must end before it counts.
    pub bulk: Vec<u64>,
}

/// Room that a request needs in its batch.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Number of cells.
    pub cells: usize,
    /// Number of records.
    pub records: usize,
}

impl OpenSegment {
    /// Begins a segment in an empty image.
    pub fn begin(
        cells: Arc<CellFile>,
        file: File,
        slot: u64,
        mut image: Image,
        header: &SegmentHeader,
        key: TagKey,
        sector: usize,
    ) -> Self {
        let last_tag = header.write(&key, image.append(HEADER));
        Self {
            cells,
            file,
            slot,
            image,
            run: GrowingRun::new(header.first),
            last_tag,
            bulk: Vec::new(),
            key,
            sector,
            entries: 0,
            client: None,
            batch: None,
            gather: Vec::with_capacity(16 << 10),
        }
    }

    /// This use of the slot.
    pub fn id(&self) -> FileId {
        self.cells.id
    }

    /// Whether a request of that shape fits, in the open batch or a new one.
    pub fn has_room(&self, shape: Shape) -> bool {
        let records = self.batch.as_ref().map_or(0, |batch| batch.records.len());
        let bytes = BATCH_HEADER + shape.cells * CELL + (records + shape.records + 2) * RECORD;
        self.image.length_bytes() + bytes + self.sector <= self.image.capacity_bytes()
            && self.entries + shape.cells <= ENTRIES_MAX
    }

    /// Bytes of the open batch; 0 without one.
    pub fn batch_bytes(&self) -> usize {
        self.batch.as_ref().map_or(0, |batch| {
            self.image.length_bytes() - batch.start + batch.records.len() * RECORD
        })
    }

    /// Whether the open batch holds anything worth a write.
    pub fn has_batch(&self) -> bool {
        self.batch.as_ref().is_some_and(|batch| batch.requests > 0)
    }

    /// Counts a request of that client in; its cells and records follow.
    pub fn begin_request(&mut self, sequence: Sequence, client: ClientId) {
        let batch = self.open_batch(sequence);
        batch.requests += 1;
        if self.client != Some(client) {
            self.client = Some(client);
            self.run.push_client(ClientRun { first: sequence, client });
            self.push_record(Record::Client { first: sequence, client });
        }
    }

    /// Seals a block of the present request into the batch.
    pub fn push_cell(&mut self, key: &CellKey, name: CellName, plain: &[u8]) -> Place {
        let at = self.image.length_bytes();
        key.seal(name, plain, self.image.append(CELL));
        self.note_cell(name, at)
    }

    /// Takes over a batch that did not come to disk elsewhere: the same requests, cells and records.
    pub fn adopt(
        &mut self,
        header: &BatchHeader,
        batch: &[u8],
        waiting: Vec<Waiting>,
        bulk: Vec<u64>,
    ) {
        let open = self.open_batch(header.first);
        open.requests = header.requests;
        open.waiting = waiting;
        open.bulk = bulk;
        for index in 0..header.cells as usize {
            let cell = &batch[BatchHeader::cell_at(index)..][..CELL];
            let at = self.image.length_bytes();
            self.image.append(CELL).copy_from_slice(cell);
            self.note_cell(CellName::of(cell), at);
        }
        let records = &batch[BatchHeader::cell_at(header.cells as usize)..];
        for bytes in records.chunks_exact(RECORD).take(header.records as usize) {
            let record = Record::read(bytes).expect("we wrote it");
            match record {
                Record::Range { branch, sequence, extent, flags } => {
                    self.run.push_range(ZeroRange { branch, sequence, extent, kind: flags });
                }
                Record::Client { first, client } => {
                    self.run.push_client(ClientRun { first, client });
                    self.client = Some(client);
                }
                Record::Flush { branch, sequence } => {
                    self.run.push_flush(FlushPoint { branch, sequence });
                }
                Record::Bulk { sequence, extent, file, .. } => {
                    self.note_bulk(extent, file, sequence);
                    let mut entries = Vec::new();
                    push_bulk(&record, &mut entries);
                    for entry in entries {
                        self.run.push_entry(entry);
                    }
                }
            }
            self.push_record(record);
        }
    }

    /// Adds a range of the present request.
    pub fn push_range(&mut self, range: ZeroRange) {
        if !planted::is(19) {
            self.run.push_range(range);
        }
        let (branch, sequence, extent) = (range.branch, range.sequence, range.extent);
        self.push_record(Record::Range { branch, sequence, extent, flags: range.kind });
    }

    /// Adds the bulk extent of the present request; `write` must end before the batch counts.
    pub fn push_bulk(
        &mut self,
        branch: BranchId,
        sequence: Sequence,
        sealed: &SealedExtent,
        write: u64,
    ) {
        let (extent, place, tag) = (sealed.extent, sealed.place, sealed.tag);
        let (file, offset_bytes) = (place.file(), place.offset_bytes());
        self.batch.as_mut().expect("a request was begun").bulk.push(write);
        for (cells, lba) in (0..).zip(extent.lbas()) {
            self.run.push_entry(Entry { branch, lba, sequence, place: place.plus_cells(cells) });
        }
        self.note_bulk(extent, file, sequence);
        self.push_record(Record::Bulk { branch, sequence, extent, file, offset_bytes, tag });
    }

    fn note_bulk(&mut self, extent: Extent, file: FileId, sequence: Sequence) {
        self.entries += usize::try_from(extent.blocks()).unwrap_or(ENTRIES_MAX);
        match self.bulk.iter_mut().find(|(known, _)| *known == file) {
            Some((_, last)) => *last = sequence,
            None => self.bulk.push((file, sequence)),
        }
    }

    /// Notes a client's flush; it reaches the disk with the next batch.
    pub fn push_flush(&mut self, flush: FlushPoint, next: Sequence) {
        self.open_batch(next);
        self.run.push_flush(flush);
        self.push_record(Record::Flush { branch: flush.branch, sequence: flush.sequence });
    }

    /// Who waits for the present request.
    pub fn end_request(&mut self, waiting: Waiting) {
        self.batch.as_mut().expect("a request was begun").waiting.push(waiting);
    }

    /// Closes the open batch and gives what is to be written, the segment's header with the first.
    pub fn cut(&mut self, wall: Timestamp, era: u32, durable: Sequence) -> Option<CutBatch> {
        let batch = self.batch.take()?;
        for record in &batch.records {
            record.write(self.image.append(RECORD));
        }
        let content = self.image.length_bytes() - batch.start;
        self.image.append(content.next_multiple_of(self.sector) - content).fill(0);
        let end = self.image.length_bytes();
        let header = BatchHeader {
            length_bytes: end - batch.start,
            first: batch.first,
            wall,
            durable,
            requests: batch.requests,
            cells: batch.cells,
            records: u32::try_from(batch.records.len()).expect("few records"),
            era,
            previous: self.last_tag,
        };
        let offset_bytes = batch.start as u64;
        let bytes = self.image.unfrozen(batch.start..end);
        self.last_tag = header.write(&self.key, offset_bytes, bytes, &mut self.gather);
        let last = header.last();
        if batch.requests > 0 {
            self.run.end_batch(ClockPoint { sequence: last, wall, era });
        }
        let start = if batch.start == HEADER { 0 } else { batch.start };
        Some(CutBatch {
            offset_bytes: start as u64,
            bytes: self.image.freeze_from(start),
            batch_bytes: batch.start as u64,
            last,
            waiting: batch.waiting,
            bulk: batch.bulk,
        })
    }

    /// Gives up the open batch: who waits for it.
    pub fn abandon_batch(&mut self) -> Vec<Waiting> {
        self.batch.take().map(|batch| batch.waiting).unwrap_or_default()
    }

    fn note_cell(&mut self, name: CellName, at: usize) -> Place {
        let place = Place::new(self.cells.id, at as u64).expect("cells lie at multiples of 32");
        let (branch, lba, sequence) = (name.branch, name.lba, name.sequence);
        self.run.push_entry(Entry { branch, lba, sequence, place });
        self.entries += 1;
        self.batch.as_mut().expect("a request was begun").cells += 1;
        place
    }

    fn push_record(&mut self, record: Record) {
        self.batch.as_mut().expect("a batch was begun").records.push(record);
    }

    fn open_batch(&mut self, first: Sequence) -> &mut OpenBatch {
        let image = &mut self.image;
        self.batch.get_or_insert_with(|| {
            let start = image.length_bytes();
            image.append(BATCH_HEADER);
            OpenBatch {
                start,
                first,
                requests: 0,
                cells: 0,
                records: Vec::new(),
                waiting: Vec::new(),
                bulk: Vec::new(),
            }
        })
    }
}
