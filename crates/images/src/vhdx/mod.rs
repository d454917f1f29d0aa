//! VHDX images: fixed, dynamic and differencing (MS-VHDX 7.0).
//!
//! ```text
//! identifier, headers ─▶ log, replayed in memory ─▶ region tables ─▶ metadata ─▶ block table
//!     (head)               (log, overlay)             (regions)      (metadata)      (bat)
//!                              └── contents: the file as the log leaves it ──┴──────▶ blocks
//! ```
//!
//! - A log with entries is replayed into an overlay, never into the file: all that follows, guest data
//!   included, is read through [`contents::Contents`]. Such an image must not be written in place.
//! - A block that was cut by the end of the file is damaged from there on; what is before can be read.
//! - A parent is known by its DataWriteGuid; its size may differ, its sector may not.
//!
//! Limits: 64 TiB, as the format has it; a log of 32 MiB, if it has entries; of block tables above
//! 32 MiB, blocks that two entries claim are found by a check and not by a read.

mod bat;
mod check;
mod contents;
mod guid;
mod head;
mod locator;
mod log;
mod metadata;
mod overlay;
mod regions;
pub(crate) mod relink;
pub mod write;

#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::{
    Class, Extent, Facts, Fault, Format, Identity, Image, Input, Kind, Parent, Part, Report,
    Request, Stop,
    bytes::narrow,
    cache::Cache,
    limits::{self, EXTENTS_MAX},
    map,
};

use bat::{BITMAP_BYTES, Bat, Entry, Geometry, State};
use contents::{Contents, Source};
use head::{Head, Header};
use metadata::Metadata;
use regions::{Regions, Structures};

/// Bytes of a piece of a sector bitmap: the bits of one block never cross it.
const BITMAP_PIECE: u64 = 64 << 10;

/// An open image.
#[derive(Debug)]
struct Vhdx {
    facts: Facts,
    contents: Contents,
    structures: Structures,
    geometry: Geometry,
    bat: Bat,
    /// Pieces of sector bitmaps by their place in the file.
    bitmaps: Cache,
    check: check::Cursor,
}

/// Opens an image of this format.
pub(crate) fn open(request: &Request<'_>, input: &Input) -> Result<Box<dyn Image>, Stop> {
    let file = request.file;
    if let Some(name) = request.snapshot {
        let text = format!("a VHDX image has no snapshot {name:?}");
        return Err(Fault::new(Class::MissingPart, Part::Snapshots, file, text).into());
    }
    if input.len(file) > bat::FILE_BYTES_MAX {
        let text = format!("a file of {} bytes", input.len(file));
        return Err(Fault::new(Class::Limit, Part::Header, file, text).into());
    }
    let head = head::read(file, input)?;
    let (contents, log_notes) = replayed(request, input, &head.header)?;
    let regions = regions::read(&contents, input, &head.header)?;
    let metadata = metadata::read(&contents, input, regions.metadata)?;
    let geometry = Geometry::of(&metadata);
    let bat = Bat::open(&contents, input, regions.bat, &geometry)?;
    let facts = facts(head, log_notes, &regions, metadata);
    Ok(Box::new(Vhdx {
        facts,
        contents,
        structures: regions.structures,
        geometry,
        bat,
        bitmaps: Cache::new(limits::CACHE_BYTES),
        check: check::Cursor::default(),
    }))
}

/// The file as its log leaves it, and what is to be said of that.
fn replayed(
    request: &Request<'_>,
    input: &Input,
    header: &Header,
) -> Result<(Contents, Vec<Fault>), Stop> {
    let (file, len) = (request.file, input.len(request.file));
    let misplaced = log_region(file, input, header);
    if !header.has_log() {
        return Ok((Contents::plain(file, len), misplaced.err().into_iter().collect()));
    }
    misplaced?;
    if header.log_len > log::LOG_BYTES_MAX {
        let text = format!("a log of {} bytes that is not empty", header.log_len);
        return Err(Fault::at(Class::Limit, Part::Log, file, header.at + 68, text).into());
    }
    let bytes = input.read(file, header.log_at, header.log_len, Part::Log)?;
    let replay = log::replay(file, len, header, bytes)?;
    let text = format!(
        "the image was not closed: {} log entries up to number {} were replayed in memory",
        replay.entries, replay.sequence
    );
    let mut notes = vec![Fault::at(Class::Unclean, Part::Log, file, header.log_at, text)];
    if let Some(lost) = replay.lost {
        let text = format!("log entries up to number {lost} are torn, and not replayed");
        notes.push(Fault::at(Class::LogCorrupt, Part::Log, file, header.log_at, text));
    }
    Ok((Contents::replayed(file, len, replay.len, replay.overlay), notes))
}

/// Whether the log is where a log may be.
fn log_region(file: crate::FileId, input: &Input, header: &Header) -> Result<(), Fault> {
    let fault = |class, at, text| Err(Fault::at(class, Part::Log, file, header.at + at, text));
    let (at, len) = (header.log_at, header.log_len);
    if len == 0 || !len.is_multiple_of(regions::UNIT) {
        return fault(Class::BadField, 68, format!("a log of {len} bytes, no multiple of 1 MiB"));
    }
    if !at.is_multiple_of(regions::UNIT) {
        let text = format!("the log begins at byte {at}, no multiple of 1 MiB");
        return fault(Class::PointerMisaligned, 72, text);
    }
    if at < head::SECTION {
        let text = format!("the log begins at byte {at}, in the header section");
        return fault(Class::Overlap, 72, text);
    }
    input.inside(file, at, len, Part::Log)
}

fn facts(head: Head, log_notes: Vec<Fault>, regions: &Regions, metadata: Metadata) -> Facts {
    let variant = match (&metadata.locator, metadata.fixed) {
        (Some(_), _) => "differencing",
        (None, true) => "fixed",
        (None, false) => "dynamic",
    };
    let mut facts = Facts::new(Format::Vhdx, variant, metadata.virtual_size, metadata.block);
    facts.sector = metadata.sector;
    facts.creator = head.creator;
    facts.identity =
        Identity::Vhdx { file_write: head.header.file_write, data_write: head.header.data_write };
    if let Some(size) = metadata.physical_sector {
        facts.features.push(format!("physical sectors of {size} bytes"));
    }
    if let Some(id) = metadata.disk_id {
        facts.features.push(format!("disk id {}", guid::text(&id)));
    }
    if head.header.has_log() {
        facts.features.push("log with entries".to_owned());
        facts.read_only = Some(Class::Unclean);
    }
    facts.parent = metadata.locator.map(|locator| Parent {
        stated: locator.stated,
        names: locator.names,
        format: Some(Format::Vhdx),
        by_identity: None,
        identity: Identity::Vhdx { file_write: locator.linkage2, data_write: locator.linkage },
    });
    facts.notes = head.notes;
    facts.notes.extend(log_notes);
    facts.notes.extend(regions.notes.iter().cloned());
    facts.notes.extend(metadata.notes);
    facts
}

impl Vhdx {
    /// Adds extents for the beginning of `range`, which is within one block.
    fn map_block(
        &mut self,
        range: Range<u64>,
        input: &Input,
        extents: &mut Vec<Extent>,
    ) -> Result<(), Stop> {
        let block = range.start / self.geometry.block;
        let index = self.geometry.payload(block);
        let entry = self.bat.entry(index, &self.contents, input)?;
        let absent = if self.geometry.differs { Kind::Parent } else { Kind::Hole };
        let whole = |kind| Extent { start: range.start, len: range.end - range.start, kind };
        let damaged =
            |class, text| Fault::at(class, Part::BatEntry, self.contents.file(), entry.at, text);
        let claimed = |vhdx: &Self| {
            vhdx.bat.claimed(&entry, vhdx.geometry.block, &vhdx.contents, &vhdx.structures)
        };
        let place = match entry.state() {
            State::Absent => {
                map::push(extents, whole(absent));
                return Ok(());
            }
            State::Zero => {
                map::push(extents, whole(Kind::Zero));
                return Ok(());
            }
            State::Present => claimed(self),
            State::Partial if self.geometry.differs => claimed(self),
            State::Partial => {
                let text = "a block is partly present, and the disk has no parent".to_owned();
                Err(damaged(Class::BadField, text))
            }
            State::Unknown(state) => {
                Err(damaged(Class::BadField, format!("a block is in state {state}")))
            }
        };
        let place = match place {
            Ok(place) => place,
            Err(fault) => {
                map::push(extents, whole(Kind::Corrupt(Box::new(fault))));
                return Ok(());
            }
        };
        if entry.state() == State::Partial {
            return self.map_sectors(range, place, input, extents);
        }
        let at = place + range.start % self.geometry.block;
        self.map_file(range, at, extents);
        Ok(())
    }

    /// Adds extents for the beginning of `range` within a block that is partly here, at `place`.
    fn map_sectors(
        &mut self,
        range: Range<u64>,
        place: u64,
        input: &Input,
        extents: &mut Vec<Extent>,
    ) -> Result<(), Stop> {
        let geometry = self.geometry;
        let chunk_bytes = geometry.ratio * geometry.block;
        let entry =
            self.bat.entry(geometry.bitmap(range.start / chunk_bytes), &self.contents, input)?;
        let piece_at = match self.bitmap_at(&entry) {
            Ok(bitmap) => {
                let bit = range.start % chunk_bytes / geometry.sector;
                bitmap + bit / 8 / BITMAP_PIECE * BITMAP_PIECE
            }
            Err(fault) => {
                let (start, len) = (range.start, range.end - range.start);
                map::push(extents, Extent { start, len, kind: Kind::Corrupt(Box::new(fault)) });
                return Ok(());
            }
        };
        if !self.bitmaps.has(piece_at) {
            let piece = self.contents.read(input, piece_at, BITMAP_PIECE, Part::Bitmaps)?;
            self.bitmaps.put(piece_at, piece);
        }
        let piece = self.bitmaps.get(piece_at).expect("put here above");
        let first = range.start % chunk_bytes / geometry.sector % (BITMAP_PIECE * 8);
        let count = (range.end.div_ceil(geometry.sector)) - range.start / geometry.sector;
        let bits: Vec<(bool, u64)> = runs(piece, first, count);
        let mut start = range.start;
        let mut sector = range.start / geometry.sector;
        for (is_here, sectors) in bits {
            sector += sectors;
            let end = range.end.min(sector * geometry.sector);
            if is_here {
                self.map_file(start..end, place + start % geometry.block, extents);
            } else {
                map::push(extents, Extent { start, len: end - start, kind: Kind::Parent });
            }
            if extents.len() >= EXTENTS_MAX {
                break;
            }
            start = end;
        }
        Ok(())
    }

    /// Where a chunk's sector bitmap begins; all of it is in the file.
    fn bitmap_at(&self, entry: &Entry) -> Result<u64, Fault> {
        let fault = |class, text: String| {
            Err(Fault::at(class, Part::BatEntry, self.contents.file(), entry.at, text))
        };
        match entry.state() {
            State::Present => {}
            State::Absent => {
                let text = "a block is partly present, and its sector bitmap is not".to_owned();
                return fault(Class::MissingPart, text);
            }
            _ => return fault(Class::BadField, "a sector bitmap is in no state of one".to_owned()),
        }
        let at = self.bat.claimed(entry, BITMAP_BYTES, &self.contents, &self.structures)?;
        if !self.contents.holds(at, BITMAP_BYTES) {
            let text = format!("a sector bitmap at byte {at} is cut by the end of the file");
            return fault(Class::Truncated, text);
        }
        Ok(at)
    }

    /// Adds extents for `range`, whose bytes begin at `at` in the file: at least one.
    fn map_file(&self, range: Range<u64>, mut at: u64, extents: &mut Vec<Extent>) {
        let mut start = range.start;
        while start < range.end && extents.len() <= EXTENTS_MAX {
            let (source, len) = self.contents.source(at, range.end - start);
            let file = self.contents.file();
            let kind = match source {
                Source::File => Kind::Data { file, offset: at },
                Source::Zero => Kind::Zero,
                Source::Bytes { bytes, skip } => Kind::Inline { bytes, skip },
                Source::Outside => {
                    let text = format!("a block goes on to byte {at}, where the file has ended");
                    let fault = Fault::at(Class::Truncated, Part::Data, file, at, text);
                    Kind::Corrupt(Box::new(fault))
                }
            };
            map::push(extents, Extent { start, len, kind });
            (start, at) = (start + len, at + len);
        }
    }
}

/// Runs of equal bits, `count` of them from the `first` on.
fn runs(bits: &[u8], first: u64, count: u64) -> Vec<(bool, u64)> {
    let mut runs: Vec<(bool, u64)> = Vec::new();
    for bit in first..first + count {
        let is_set = bits[narrow(bit / 8)] & (1 << (bit % 8)) != 0;
        let full = runs.len() >= EXTENTS_MAX;
        match runs.last_mut() {
            Some((last, len)) if *last == is_set => *len += 1,
            _ if full => break,
            _ => runs.push((is_set, 1)),
        }
    }
    runs
}

impl Image for Vhdx {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn map(&mut self, range: Range<u64>, input: &Input) -> Result<Vec<Extent>, Stop> {
        let mut extents: Vec<Extent> = Vec::new();
        let mut place = range.start;
        while place < range.end && extents.len() < EXTENTS_MAX {
            let block_end = (place / self.geometry.block + 1) * self.geometry.block;
            let end = range.end.min(block_end);
            match self.map_block(place..end, input, &mut extents) {
                Ok(()) => {}
                // What is known is an answer; the next question begins with what is not.
                Err(Stop::Need(_)) if !extents.is_empty() => break,
                Err(stop) => return Err(stop),
            }
            place = extents.last().map_or(end, Extent::end);
        }
        extents.truncate(EXTENTS_MAX);
        Ok(extents)
    }

    fn admit(&self, parent: &Facts) -> Result<Vec<Fault>, Fault> {
        let file = self.contents.file();
        let fault = |class, text: String| Fault::new(class, Part::Chain, file, text);
        let stated = self.facts.parent.as_ref().map(|parent| parent.identity);
        let Some(Identity::Vhdx { file_write: linkage2, data_write: linkage }) = stated else {
            return Ok(Vec::new());
        };
        let Identity::Vhdx { data_write: found, .. } = parent.identity else {
            let text = format!("the parent is {}, not vhdx", parent.format);
            return Err(fault(Class::ParentFormat, text));
        };
        if found != linkage && (linkage2 == guid::NONE || found != linkage2) {
            let text = format!(
                "the parent's data is of {}, the child was made over {}",
                guid::text(&found),
                guid::text(&linkage)
            );
            return Err(fault(Class::ParentMismatch, text));
        }
        if parent.sector != self.facts.sector {
            let text = format!(
                "the parent has sectors of {} bytes, the child of {}",
                parent.sector, self.facts.sector
            );
            return Err(fault(Class::ParentMismatch, text));
        }
        if parent.virtual_size < self.facts.virtual_size {
            let text = format!(
                "the parent has {} bytes, the child {}: what is past the parent's end reads as zero",
                parent.virtual_size, self.facts.virtual_size
            );
            return Ok(vec![fault(Class::ParentSize, text)]);
        }
        Ok(Vec::new())
    }

    fn check(&mut self, input: &Input, report: &mut Report) -> Result<bool, Stop> {
        self.check_piece(input, report)
    }
}

const _: () = assert!(BITMAP_BYTES.is_multiple_of(BITMAP_PIECE));
