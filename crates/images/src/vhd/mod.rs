//! VHD images: fixed, dynamic, differencing.
//!
//! ```text
//! fixed:   guest bytes ─ footer
//! sparse:  copy of the footer ─ header ─ names of the parent ─ block table ─ {bitmap ─ block}… ─ footer
//! ```
//!
//! - Every block has a bitmap of its sectors before it. A clear bit is "not held": zeroes, or what
//!   the parent has, whatever stands in the block.
//! - A block that two entries lead to belongs to the lower guest address; the other is damaged. One
//!   that meets the header or the table is damaged, one that the end of the file cuts is damaged from
//!   there on.
//! - The block table is held whole: its 32-bit sector numbers end at 2 TiB, so that with blocks of
//!   512 KiB it has 16 MiB. A larger one is refused.
//! - The parent's time is compared and noted, never more: copying a file breaks it.

mod check;
mod footer;
mod header;
pub(crate) mod relink;
pub mod write;

#[cfg(test)]
mod tests;

use std::ops::Range;

use self::{
    footer::{FOOTER, Footer, Kind as Variant},
    header::{HEADER, Header},
};
use crate::{
    Class, Extent, Facts, Fault, FileId, Format, Identity, Image, Input, Kind, Part, Report,
    Request, Stop,
    bytes::{be32, narrow},
    cache::Cache,
    limits::EXTENTS_MAX,
    map,
    overlap::{Claim, Seen},
    table::Table,
};

/// Entries of a block table that are held.
const ENTRIES_MAX: u64 = 4 << 20;

/// Bytes that a block table may reach over: room for entries that the disk does not need.
const REACH_MAX: u64 = 1 << 42;

/// The entry of a block that is not there.
const FREE: u32 = u32::MAX;

/// Bytes of bitmaps that are kept.
const BITMAP_BYTES: usize = 256 << 10;

/// Opens an image of this format.
pub(crate) fn open(request: &Request<'_>, input: &Input) -> Result<Box<dyn Image>, Stop> {
    let file = request.file;
    let found = footer::find(file, input)?;
    let footer = found.footer;
    let mut facts = facts(&footer, found.notes);
    if footer.kind == Variant::Fixed {
        let over = found.end.saturating_sub(footer.size);
        if over > 0 {
            let text = format!("{over} bytes stand between the disk and its footer");
            let at = footer.size;
            facts.notes.push(Fault::at(Class::SizeMismatch, Part::Footer, file, at, text));
        }
        return Ok(Box::new(Fixed { facts, file, end: found.end }));
    }
    let (header, bytes) = header::read(file, footer.header_at, footer.size, input)?;
    facts.unit = header.block.into();
    if footer.kind == Variant::Differencing {
        let (parent, notes) = header::parent(bytes, file, footer.header_at, input)?;
        facts.parent = Some(parent);
        facts.notes.extend(notes);
    }
    let needed = footer.size.div_ceil(header.block.into());
    input.inside(file, header.table_at, needed * 4, Part::Header)?;
    let structures = structures(&footer, &header, needed, (file, found.end))?;
    let table = Table::open(input, (file, header.table_at), (4, needed), Part::BatEntry)?;
    Ok(Box::new(Sparse::new(facts, &header, (file, found.end), table, structures)))
}

fn facts(footer: &Footer, notes: Vec<Fault>) -> Facts {
    let mut facts = Facts::new(Format::Vhd, footer.kind.word(), footer.size, 0);
    facts.creator = Some(footer.made_by());
    facts.identity = Identity::Vhd { id: footer.id, time: footer.time };
    facts.features = footer.feature_words();
    facts.notes = notes;
    facts.read_only = footer.saved_state.then_some(Class::SavedState);
    facts
}

/// What no block may meet: copy of the footer, header, table. A fault if they meet each other.
fn structures(
    footer: &Footer,
    header: &Header,
    needed: u64,
    (file, end): (FileId, u64),
) -> Result<[Range<u64>; 3], Fault> {
    let head = footer.header_at..footer.header_at + HEADER;
    let table = header.table_at..header.table_at + needed * 4;
    let copy = 0..FOOTER;
    let meets =
        |one: &Range<u64>, other: &Range<u64>| one.start < other.end && other.start < one.end;
    let twice = [
        (&copy, &head, Part::Footer, "the header meets the copy of the footer"),
        (&copy, &table, Part::Header, "the block table meets the copy of the footer"),
        (&head, &table, Part::Header, "the block table meets the header"),
    ];
    for (one, other, part, text) in twice {
        if meets(one, other) {
            return Err(Fault::at(Class::Overlap, part, file, other.start, text));
        }
    }
    if table.end > end {
        let text = "the block table meets the footer";
        return Err(Fault::at(Class::Overlap, Part::Header, file, table.start, text));
    }
    Ok([copy, head, table])
}

/// A fixed disk: the guest's bytes from the first one on.
struct Fixed {
    facts: Facts,
    file: FileId,
    /// Where the footer begins.
    end: u64,
}

impl Fixed {
    /// The fault of a disk that is shorter than its footer says.
    fn cut(&self) -> Option<Fault> {
        let size = self.facts.virtual_size;
        (self.end < size).then(|| {
            let text = format!("a disk of {size} bytes of which {} are there", self.end);
            Fault::at(Class::Truncated, Part::Data, self.file, self.end, text)
        })
    }
}

impl Image for Fixed {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn map(&mut self, range: Range<u64>, _: &Input) -> Result<Vec<Extent>, Stop> {
        let (start, there) = (range.start, range.end.min(self.end));
        let mut extents = Vec::new();
        if start < there {
            let kind = Kind::Data { file: self.file, offset: start };
            extents.push(Extent { start, len: there - start, kind });
        }
        let start = start.max(there);
        if let (true, Some(fault)) = (start < range.end, self.cut()) {
            let kind = Kind::Corrupt(Box::new(fault));
            extents.push(Extent { start, len: range.end - start, kind });
        }
        Ok(extents)
    }

    fn check(&mut self, _: &Input, report: &mut Report) -> Result<bool, Stop> {
        check::notes(&self.facts, report);
        if let Some(fault) = self.cut() {
            report.add(crate::Severity::Error, fault);
        }
        Ok(true)
    }
}

/// A disk with a block table.
struct Sparse {
    facts: Facts,
    file: FileId,
    /// Data ends here.
    end: u64,
    /// Bytes of a block.
    block: u64,
    /// Bytes of the bitmap before it.
    bitmap: u64,
    /// Entries that the table is stated to have.
    entries: u64,
    table: Table,
    structures: [Range<u64>; 3],
    /// Blocks whose place meets that of a block of lower guest address.
    twice: Seen,
    bitmaps: Cache,
    checked: check::Cursor,
}

impl Sparse {
    fn new(
        facts: Facts,
        header: &Header,
        (file, end): (FileId, u64),
        table: Table,
        structures: [Range<u64>; 3],
    ) -> Self {
        let block = u64::from(header.block);
        let bitmap = bitmap_bytes(block);
        let mut sparse = Self {
            facts,
            file,
            end,
            block,
            bitmap,
            entries: header.entries.into(),
            table,
            structures,
            twice: Seen::default(),
            bitmaps: Cache::new(BITMAP_BYTES),
            checked: check::Cursor::default(),
        };
        sparse.find_twice();
        sparse
    }

    /// The entry of a block: its sector in the file.
    fn entry(&self, block: u64) -> u32 {
        let table = self.table.whole().expect("a table of 16 MiB at most is held");
        be32(table, narrow(block * 4))
    }

    /// Where the blocks stand that are there, by place, each with its number.
    fn places(&self) -> Vec<(u32, u32)> {
        let blocks = 0..u32::try_from(self.table.count()).expect("at most ENTRIES_MAX");
        let mut places: Vec<(u32, u32)> = blocks
            .map(|block| (self.entry(block.into()), block))
            .filter(|(entry, _)| *entry != FREE)
            .collect();
        if !places.is_sorted() {
            places.sort_unstable();
        }
        places
    }

    /// Of two blocks that meet, the one of higher guest address is damaged.
    fn find_twice(&mut self) {
        let mut twice = Seen::default();
        let mut last: Option<(u32, u32)> = None;
        for next in self.places() {
            let Some(held) = last else {
                last = Some(next);
                continue;
            };
            if u64::from(next.0 - held.0) * 512 >= self.bitmap + self.block {
                last = Some(next);
                continue;
            }
            let (first, second) = if held.1 < next.1 { (held, next) } else { (next, held) };
            let claim = twice.claim(second.1.into());
            assert_ne!(claim, Claim::Unknown, "ENTRIES_MAX blocks are fewer than a set holds");
            last = Some(first);
        }
        self.twice = twice;
    }

    /// Where the bitmap of a block begins; `None` for a block that is not there.
    fn place(&self, block: u64) -> Result<Option<u64>, Fault> {
        let entry = self.entry(block);
        if entry == FREE {
            return Ok(None);
        }
        let place = u64::from(entry) * 512;
        let fault = |class, text: String| {
            Err(Fault::at(class, Part::BatEntry, self.file, self.table.at(block), text))
        };
        if place >= self.end {
            let text = format!("block {block} at byte {place}, data ends at {}", self.end);
            return fault(Class::PointerOutsideFile, text);
        }
        let past = place + self.bitmap + self.block;
        if self.structures.iter().any(|taken| place < taken.end && taken.start < past) {
            let text = format!("block {block} at byte {place} meets the header or the table");
            return fault(Class::Overlap, text);
        }
        if self.twice.has(block) {
            let text = format!("block {block} at byte {place} meets another block");
            return fault(Class::Overlap, text);
        }
        if place + self.bitmap > self.end {
            let text = format!("the bitmap of block {block} is cut at byte {}", self.end);
            return fault(Class::Truncated, text);
        }
        Ok(Some(place))
    }

    /// What is not held.
    fn free(&self) -> Kind {
        if self.facts.parent.is_some() { Kind::Parent } else { Kind::Hole }
    }

    /// Adds the extents of a block's guest `range`, as its bitmap has them.
    fn held(&mut self, place: u64, block: u64, range: Range<u64>, extents: &mut Vec<Extent>) {
        let free = self.free();
        let bitmap = self.bitmaps.get(block).expect("put here before");
        let guest = block * self.block;
        let mut start = range.start;
        while start < range.end && extents.len() < EXTENTS_MAX {
            let sector = (start - guest) / 512;
            let (set, past) = run(bitmap, sector, self.block / 512);
            let mut end = (guest + past * 512).min(range.end);
            let offset = place + self.bitmap + (start - guest);
            // Where the file ends within a sector, the whole sector is damaged.
            let skip = start % 512;
            let whole = (self.end + skip).saturating_sub(offset) / 512 * 512;
            let kind = if !set {
                free.clone()
            } else if whole > skip {
                end = end.min(start - skip + whole);
                Kind::Data { file: self.file, offset }
            } else {
                let (at, text) = (self.end, format!("block {block} is cut at byte {}", self.end));
                Kind::Corrupt(Box::new(Fault::at(
                    Class::Truncated,
                    Part::Data,
                    self.file,
                    at,
                    text,
                )))
            };
            map::push(extents, Extent { start, len: end - start, kind });
            start = end;
        }
    }
}

impl Image for Sparse {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn map(&mut self, range: Range<u64>, input: &Input) -> Result<Vec<Extent>, Stop> {
        let mut extents: Vec<Extent> = Vec::new();
        let mut start = range.start;
        while start < range.end && extents.len() < EXTENTS_MAX {
            let block = start / self.block;
            let end = ((block + 1) * self.block).min(range.end);
            let kind = match self.place(block) {
                Err(fault) => Kind::Corrupt(Box::new(fault)),
                Ok(None) => self.free(),
                Ok(Some(place)) => {
                    if !self.bitmaps.has(block) {
                        // One bitmap an answer: those before are not asked for again.
                        if !extents.is_empty() {
                            break;
                        }
                        let bitmap = input.read(self.file, place, self.bitmap, Part::Data)?;
                        self.bitmaps.put(block, bitmap.to_vec());
                    }
                    self.held(place, block, start..end, &mut extents);
                    start = extents.last().map_or(end, Extent::end);
                    continue;
                }
            };
            map::push(&mut extents, Extent { start, len: end - start, kind });
            start = end;
        }
        Ok(extents)
    }

    fn admit(&self, parent: &Facts) -> Result<Vec<Fault>, Fault> {
        let stated = self.facts.parent.as_ref().map(|parent| parent.identity);
        let (Some(Identity::Vhd { id, time }), Identity::Vhd { id: found, time: changed }) =
            (stated, parent.identity)
        else {
            let text = "the parent is no VHD";
            return Err(Fault::new(Class::ParentFormat, Part::Chain, self.file, text));
        };
        if id != found {
            let text = format!("made over the parent {}, found is {}", hex(&id), hex(&found));
            return Err(Fault::new(Class::ParentMismatch, Part::Chain, self.file, text));
        }
        let (own, size) = (self.facts.virtual_size, parent.virtual_size);
        if own != size {
            let text = format!("a disk of {own} bytes over a parent of {size}");
            return Err(Fault::new(Class::ParentSize, Part::Chain, self.file, text));
        }
        if time != changed {
            let text = format!(
                "made over a parent of the time {time}, its footer says {changed} (seconds since \
                 2000): no proof of a change"
            );
            return Ok(vec![Fault::new(Class::ParentTime, Part::Chain, self.file, text)]);
        }
        Ok(Vec::new())
    }

    fn check(&mut self, input: &Input, report: &mut Report) -> Result<bool, Stop> {
        self.check_next(input, report)
    }
}

/// Bytes of the bitmap of a block: whole sectors.
fn bitmap_bytes(block: u64) -> u64 {
    (block / 512).div_ceil(8).next_multiple_of(512)
}

/// Whether the bit of a sector is set, and up to which sector (below `sectors`) all are like it.
fn run(bitmap: &[u8], sector: u64, sectors: u64) -> (bool, u64) {
    let bit = |at: u64| bitmap[narrow(at / 8)] & (0x80 >> (at % 8)) != 0;
    let set = bit(sector);
    let all = if set { 0xff } else { 0 };
    let mut past = sector + 1;
    while past < sectors {
        if past.is_multiple_of(8) && bitmap[narrow(past / 8)] == all {
            past += 8;
        } else if bit(past) == set {
            past += 1;
        } else {
            break;
        }
    }
    (set, past.min(sectors))
}

/// The sum of a structure: of its bytes but those of the field itself at `field`, inverted.
fn sum(bytes: &[u8], field: usize) -> u32 {
    let counts = |place: usize| place < field || place >= field + 4;
    let bytes = bytes.iter().enumerate().filter(|(place, _)| counts(*place));
    !bytes.map(|(_, byte)| u32::from(*byte)).sum::<u32>()
}

/// Whether the sum that a structure states at `field` is right, or a text that says not.
fn check_sum(bytes: &[u8], field: usize) -> Result<(), String> {
    let (stated, summed) = (be32(bytes, field), sum(bytes, field));
    if stated == summed {
        return Ok(());
    }
    Err(format!("a checksum of {stated:#010x} over bytes that make {summed:#010x}"))
}

/// An identifier for messages.
fn hex(id: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*id))
}
