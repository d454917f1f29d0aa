//! Reading segments back: what recovery accepts of the log's end.
//!
//! A scan goes on while each batch follows the last one and is whole. What a later batch calls
//! durable was flushed, so its cells are not read here (damage to them is local and found when they
//! are read); what no batch calls durable must verify cell by cell, bulk payload included, for a torn
//! cell means that the batch never came to its end.

use crate::{
    batch::{BATCH_MAX, BatchHeader, HEADER, RECORD, Record, SECTORS, SegmentHeader, array_at},
    bulk::extent_nonce,
    files::Home,
    keyring::Keyring,
};
use history_index::{ClientRun, ClockPoint, Contents, Entry, FlushPoint, ZeroRange};
use seal::{CellName, Key, TRAILER, Tag, TagKey};
use std::io;
use units::{CELL, FileId, Place, Sequence};
use world::{Access, Disk, File};

/// What a scan needs to know.
pub struct Scanner<'a> {
    /// Where the files are.
    pub disk: &'a dyn Disk,
    /// The store's master key.
    pub master: &'a Key,
    /// Keys of the cells.
    pub keyring: &'a Keyring,
}

/// A segment's header with what it takes to go on.
pub struct Opened {
    /// Name of its file.
    pub slot: u64,
    /// As read.
    pub header: SegmentHeader,
    file: File,
    length_bytes: u64,
    key: TagKey,
    tag: Tag,
}

/// What was accepted of a segment.
#[derive(Debug)]
pub struct Scanned {
    /// Name of its file.
    pub slot: u64,
    /// This use of it.
    pub segment: FileId,
    /// Where the accepted batches end.
    pub end_bytes: u64,
    /// Tag of the last one, or of the header.
    pub last_tag: Tag,
    /// All that they hold.
    pub contents: Contents,
    /// Bulk files they name.
    pub bulk: Vec<FileId>,
    /// What no batch calls durable begins here.
    pub unflushed_bytes: u64,
    /// And these extents of bulk files: file, offset, length.
    pub unflushed_bulk: Vec<(FileId, u64, u64)>,
    /// The highest sequence that any whole batch of this segment calls durable.
    pub durable: Sequence,
    /// Whether something that looks like ours follows the end.
    pub torn: bool,
}

impl Scanner<'_> {
    /// Opens the segment in that slot; `None` if it holds none that is whole.
    pub fn open(&self, slot: u64) -> io::Result<Option<Opened>> {
        let file = self.disk.open(&Home::Slot(slot).path(), Access::READ)?;
        let length_bytes = file.length_bytes()?;
        let mut bytes = vec![0; HEADER];
        if length_bytes < HEADER as u64 {
            return Ok(None);
        }
        file.read_at(0, &mut bytes)?;
        let Some(header) = SegmentHeader::read(&bytes) else { return Ok(None) };
        let key = TagKey::new(&self.master.derive("segment", &header.salt));
        let Some(tag) = SegmentHeader::verify(&bytes, &key) else { return Ok(None) };
        Ok(Some(Opened { slot, header, file, length_bytes, key, tag }))
    }

    /// What the batches in that slot call durable, by words that cannot be verified for want of a header;
    /// `None` if it begins with none that is newer than `after`.
    pub fn claim(&self, slot: u64, after: Sequence) -> io::Result<Option<Sequence>> {
        let file = self.disk.open(&Home::Slot(slot).path(), Access::READ)?;
        let length_bytes = file.length_bytes()?;
        let (mut offset_bytes, mut claim) = (HEADER as u64, None);
        let mut front = [0; crate::batch::BATCH_HEADER];
        while offset_bytes + front.len() as u64 <= length_bytes {
            file.read_at(offset_bytes, &mut front)?;
            let Some(header) = BatchHeader::read(&front) else { break };
            if header.first <= after {
                break;
            }
            claim = claim.max(Some(header.durable));
            offset_bytes += header.length_bytes as u64;
        }
        Ok(claim)
    }

    /// Accepts what follows the header, up to where another segment goes on: `goes_on` tells whether
    /// one follows the batch of that tag, which ends with that sequence.
    pub fn scan(
        &self,
        opened: &Opened,
        goes_on: impl Fn(&Tag, Sequence) -> bool,
    ) -> io::Result<Scanned> {
        let chain = Self::chain(opened)?;
        let known = chain.iter().map(|batch| batch.header.durable).max().unwrap_or(Sequence::ZERO);
        let mut scanned = Scanned {
            slot: opened.slot,
            segment: opened.header.file,
            end_bytes: HEADER as u64,
            last_tag: opened.tag,
            contents: Contents::starting_at(opened.header.first),
            bulk: Vec::new(),
            unflushed_bytes: HEADER as u64,
            unflushed_bulk: Vec::new(),
            durable: known,
            torn: false,
        };
        let mut bytes = Vec::new();
        for batch in &chain {
            bytes.resize(batch.header.length_bytes, 0);
            opened.file.read_at(batch.offset_bytes, &mut bytes)?;
            let flushed = batch.header.requests == 0 || batch.header.last() <= known;
            if !self.take(opened, batch, &bytes, flushed, &mut scanned)? {
                scanned.torn = true;
                return Ok(scanned);
            }
            if goes_on(&batch.tag, scanned.contents.last) {
                return Ok(scanned);
            }
        }
        let beyond = Self::durable_beyond(opened, scanned.end_bytes)?;
        scanned.torn = beyond.is_some();
        scanned.durable = scanned.durable.max(beyond.unwrap_or(Sequence::ZERO));
        Ok(scanned)
    }

    /// Batches whose headers, tags and order are right.
    fn chain(opened: &Opened) -> io::Result<Vec<Batch>> {
        let mut chain: Vec<Batch> = Vec::new();
        let mut offset_bytes = HEADER as u64;
        let mut previous = opened.tag;
        let mut next = opened.header.first.number();
        let (mut bytes, mut gather) = (Vec::new(), Vec::new());
        while let Some(header) = Self::header_at(opened, offset_bytes)? {
            if header.previous != previous || header.first.number() != next {
                break;
            }
            bytes.resize(header.length_bytes, 0);
            opened.file.read_at(offset_bytes, &mut bytes)?;
            let Some(tag) = header.verify(&opened.key, offset_bytes, &bytes, &mut gather) else {
                break;
            };
            chain.push(Batch { offset_bytes, header, tag });
            offset_bytes += header.length_bytes as u64;
            next += u64::from(header.requests);
            previous = tag;
        }
        Ok(chain)
    }

    /// The batch header at that offset, if one could be there.
    fn header_at(opened: &Opened, offset_bytes: u64) -> io::Result<Option<BatchHeader>> {
        let mut front = [0; crate::batch::BATCH_HEADER];
        if offset_bytes + front.len() as u64 > opened.length_bytes {
            return Ok(None);
        }
        opened.file.read_at(offset_bytes, &mut front)?;
        let header = BatchHeader::read(&front);
        Ok(header.filter(|header| offset_bytes + header.length_bytes as u64 <= opened.length_bytes))
    }

    /// Adds a batch to what was accepted; `false` if one of its cells is torn.
    fn take(
        &self,
        opened: &Opened,
        batch: &Batch,
        bytes: &[u8],
        flushed: bool,
        scanned: &mut Scanned,
    ) -> io::Result<bool> {
        let header = &batch.header;
        let mut part = Contents::starting_at(header.first);
        for index in 0..header.cells as usize {
            let at = BatchHeader::cell_at(index);
            let cell = &bytes[at..at + CELL];
            if !flushed && !self.keyring.verify(cell) {
                return Ok(false);
            }
            let name = CellName::of(cell);
            let place = Place::new(opened.header.file, batch.offset_bytes + at as u64);
            let Some(place) = place else { return Ok(false) };
            let (branch, lba, sequence) = (name.branch, name.lba, name.sequence);
            part.entries.push(Entry { branch, lba, sequence, place });
        }
        let records = &bytes[BatchHeader::cell_at(header.cells as usize)..];
        for index in 0..header.records as usize {
            let at = index * RECORD;
            let Some(record) = Record::read(&records[at..]) else { return Ok(false) };
            match record {
                Record::Range { branch, sequence, extent, flags } => {
                    part.ranges.push(ZeroRange { branch, sequence, extent, kind: flags });
                }
                Record::Client { first, client } => part.clients.push(ClientRun { first, client }),
                Record::Flush { branch, sequence } => {
                    part.flushes.push(FlushPoint { branch, sequence });
                }
                Record::Bulk { file, extent, offset_bytes, .. } => {
                    if !flushed && !self.bulk_is_whole(&record)? {
                        return Ok(false);
                    }
                    if !flushed {
                        let bytes = extent.blocks() * CELL as u64;
                        scanned.unflushed_bulk.push((file, offset_bytes, bytes));
                    }
                    push_bulk(&record, &mut part.entries);
                    if !scanned.bulk.contains(&file) {
                        scanned.bulk.push(file);
                    }
                }
            }
        }
        let all = &mut scanned.contents;
        all.entries.append(&mut part.entries);
        all.ranges.append(&mut part.ranges);
        all.clients.append(&mut part.clients);
        all.flushes.append(&mut part.flushes);
        if header.requests > 0 {
            let (sequence, wall, era) = (header.last(), header.wall, header.era);
            all.clock.push(ClockPoint { sequence, wall, era });
            all.last = sequence;
        }
        scanned.end_bytes = batch.offset_bytes + header.length_bytes as u64;
        if flushed && scanned.unflushed_bytes == batch.offset_bytes {
            scanned.unflushed_bytes = scanned.end_bytes;
        }
        scanned.last_tag = batch.tag;
        Ok(true)
    }

    /// Whether the payload of a bulk record is all there.
    fn bulk_is_whole(&self, record: &Record) -> io::Result<bool> {
        let Record::Bulk { branch, sequence, extent, file, offset_bytes, tag } = *record else {
            return Ok(false);
        };
        let handle = match self.disk.open(&Home::Bulk(file).path(), Access::READ) {
            Ok(handle) => handle,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let mut header = vec![0; HEADER];
        if handle.length_bytes()? < HEADER as u64 {
            return Ok(false);
        }
        handle.read_at(0, &mut header)?;
        let salt: [u8; 32] = array_at(&header, 40);
        let key = TagKey::new(&self.master.derive("bulk", &salt));
        let (mut cell, mut trailers) = (vec![0; CELL], Vec::new());
        for (index, lba) in (0_u64..).zip(extent.lbas()) {
            let at = offset_bytes + index * CELL as u64;
            match handle.read_at(at, &mut cell) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                Err(error) => return Err(error),
            }
            let name = CellName::of(&cell);
            if name != (CellName { branch, lba, sequence }) || !self.keyring.verify(&cell) {
                return Ok(false);
            }
            trailers.extend_from_slice(&cell[CELL - TRAILER..]);
        }
        Ok(key.verify(extent_nonce(offset_bytes), &[&trailers], &tag))
    }

    /// The highest durable mark of whole batches that lie behind the end: evidence that flushed data
    /// is missing between.
    fn durable_beyond(opened: &Opened, end_bytes: u64) -> io::Result<Option<Sequence>> {
        const WINDOW: usize = 1 << 20;
        let mut window = vec![0; WINDOW];
        let (mut bytes, mut gather) = (Vec::new(), Vec::new());
        let mut found = None;
        let mut start = end_bytes;
        while start < opened.length_bytes {
            let length = usize::try_from(opened.length_bytes - start).unwrap_or(WINDOW).min(WINDOW);
            opened.file.read_at(start, &mut window[..length])?;
            for at in (0..length).step_by(SECTORS[0]) {
                if !window[at..length].starts_with(b"SLB1") {
                    continue;
                }
                let offset_bytes = start + at as u64;
                let Some(header) = Self::header_at(opened, offset_bytes)? else { continue };
                bytes.resize(header.length_bytes.min(BATCH_MAX), 0);
                opened.file.read_at(offset_bytes, &mut bytes)?;
                if header.verify(&opened.key, offset_bytes, &bytes, &mut gather).is_some() {
                    found = found.max(Some(header.durable));
                }
            }
            start += length as u64;
        }
        Ok(found)
    }
}

/// Adds the entries of a bulk record.
pub fn push_bulk(record: &Record, entries: &mut Vec<Entry>) {
    let Record::Bulk { branch, sequence, extent, file, offset_bytes, .. } = *record else { return };
    let Some(first) = Place::new(file, offset_bytes) else { return };
    let places = (0..).map(|cells| first.plus_cells(cells));
    entries.extend(extent.lbas().zip(places).map(|(lba, place)| Entry {
        branch,
        lba,
        sequence,
        place,
    }));
}

struct Batch {
    offset_bytes: u64,
    header: BatchHeader,
    tag: Tag,
}
