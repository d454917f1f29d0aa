//! VDI images: dynamic, static, differencing.
//!
//! ```text
//! header ─ block map: index of each guest block ─ data: {extra bytes ─ block}…, by index
//! ```
//!
//! - An entry is an index into the data area, free, or "all zero". Free is what the parent has; in an
//!   image without a parent it is zero.
//! - A block that two entries lead to belongs to the one that was loaded first, which is the lower
//!   guest address wherever the map is held whole; the other is damaged. A block that the end of the
//!   file cuts is damaged from there on.
//! - Maps above 32 MiB (disks above 8 TiB) are read by pages.
//! - A parent is known by its UUID alone: there is no name. It must also have the modification UUID
//!   that the child noted, which VirtualBox renews with the first write after opening.

mod header;
pub(crate) mod relink;
pub mod write;

#[cfg(test)]
mod tests;

use std::ops::Range;

use self::header::{Header, Kind as Variant, PREHEADER};
use crate::{
    Class, Extent, Facts, Fault, FileId, Format, Identity, Image, Input, Kind, Parent, Part,
    Report, Request, Severity, Stop,
    bytes::le32,
    limits::EXTENTS_MAX,
    map,
    overlap::{Claim, Seen},
    table::Table,
};

/// The entry of a block that is not held.
const FREE: u32 = 0xffff_ffff;

/// The entry of a block that is held and all zero.
const ZERO: u32 = 0xffff_fffe;

/// Entries whose places are claimed at once.
const PAGE: u64 = 16384;

/// Opens an image of this format.
pub(crate) fn open(request: &Request<'_>, input: &Input) -> Result<Box<dyn Image>, Stop> {
    let file = request.file;
    let header = header::read(file, input)?;
    let fault = |class, at, text: String| Fault::at(class, Part::Header, file, at, text);
    if header.map_at < PREHEADER + header.len {
        let text = format!("the block map begins at byte {}, within the header", header.map_at);
        return Err(fault(Class::Overlap, 340, text).into());
    }
    input.inside(file, header.map_at, header.map_bytes(), Part::Header)?;
    let map_end = header.map_at + header.map_bytes();
    if header.data_at < map_end {
        let text =
            format!("data begins at byte {}, the block map ends at {map_end}", header.data_at);
        return Err(fault(Class::Overlap, 344, text).into());
    }
    let entries = (4, header.map_bytes() / 4);
    let map = Table::open(input, (file, header.map_at), entries, Part::BlockMap)?;
    Ok(Box::new(Vdi {
        facts: facts(&header, file),
        file,
        end: input.len(file),
        header,
        map,
        places: Seen::default(),
        pages: Seen::default(),
        twice: Seen::default(),
        claimed: 0,
        unclaimed: false,
        checked: 0,
    }))
}

fn facts(header: &Header, file: FileId) -> Facts {
    let mut facts = Facts::new(Format::Vdi, header.kind.word(), header.size, header.block);
    facts.creator = Some(header.creator.clone()).filter(|creator| !creator.is_empty());
    facts.identity = Identity::Vdi { id: header.id, modified: header.modified };
    facts.features.push(format!("version 1.{}", header.minor));
    if header.extra > 0 {
        facts.features.push(format!("{} bytes before each block", header.extra));
    }
    if !header.comment.is_empty() {
        facts.features.push(format!("comment {:?}", header.comment));
    }
    if header.kind == Variant::Differencing {
        facts.parent = Some(Parent {
            stated: String::new(),
            names: Vec::new(),
            format: Some(Format::Vdi),
            by_identity: Some("vdi"),
            identity: Identity::Vdi { id: header.parent, modified: header.parent_modified },
        });
    } else if header.parent != [0; 16] {
        let text =
            format!("a {} image that names a parent, which is not looked for", header.kind.word());
        facts.notes.push(Fault::at(Class::BadField, Part::Header, file, 424, text));
    }
    facts
}

/// An opened image.
struct Vdi {
    facts: Facts,
    file: FileId,
    /// Length of the file.
    end: u64,
    header: Header,
    map: Table,
    /// Indices that an entry leads to.
    places: Seen,
    /// Pages of the map whose entries have claimed their places.
    pages: Seen,
    /// Blocks whose place an earlier one has.
    twice: Seen,
    /// Pages that have claimed in order, where the map is held whole.
    claimed: u64,
    /// Whether some places had no room in `places`, so that a second use may be missed.
    unclaimed: bool,
    /// The block that a check goes on with.
    checked: u64,
}

/// Where a block is.
enum Place {
    Free,
    Zero,
    /// Offset in the file of the guest's first byte.
    At(u64),
}

impl Vdi {
    /// Claims the places of all entries of a block's page, and of those before where the whole map is
    /// at hand: so the same block of two is damaged, whatever is read first.
    fn claim(&mut self, block: u64, input: &Input) -> Result<(), Stop> {
        let page = block / PAGE;
        if self.map.whole().is_none() {
            return self.claim_page(page, input);
        }
        while self.claimed <= page {
            self.claim_page(self.claimed, input)?;
            self.claimed += 1;
        }
        Ok(())
    }

    fn claim_page(&mut self, page: u64, input: &Input) -> Result<(), Stop> {
        if self.pages.has(page) {
            return Ok(());
        }
        for block in page * PAGE..((page + 1) * PAGE).min(self.map.count()) {
            let entry = le32(self.map.entry(block, input)?, 0);
            if entry >= ZERO {
                continue;
            }
            match self.places.claim(entry.into()) {
                Claim::First => {}
                // Where the set has no room for the damaged block, it is taken for a good one.
                Claim::Again => self.unclaimed |= self.twice.claim(block) == Claim::Unknown,
                Claim::Unknown => self.unclaimed = true,
            }
        }
        self.pages.claim(page);
        Ok(())
    }

    /// The place of a block, or how its entry is damaged.
    fn place(&mut self, block: u64, input: &Input) -> Result<Result<Place, Fault>, Stop> {
        self.claim(block, input)?;
        let entry = le32(self.map.entry(block, input)?, 0);
        let fault = |class, text: String| {
            Ok(Err(Fault::at(class, Part::BlockMap, self.file, self.map.at(block), text)))
        };
        let at = match entry {
            FREE => return Ok(Ok(Place::Free)),
            ZERO => return Ok(Ok(Place::Zero)),
            // 32 bits times 33 bits, and 33 bits more: within 66 bits, hence checked.
            index => u64::from(index)
                .checked_mul(self.header.block + self.header.extra)
                .and_then(|at| at.checked_add(self.header.data_at + self.header.extra)),
        };
        let end = self.end;
        let Some(at) = at.filter(|at| *at < end) else {
            let text = format!("block {block} has place {entry}, the file ends at byte {end}");
            return fault(Class::PointerOutsideFile, text);
        };
        if self.twice.has(block) {
            return fault(
                Class::Overlap,
                format!("block {block} has place {entry}, which another block has"),
            );
        }
        Ok(Ok(Place::At(at)))
    }

    /// Adds the extents of a block's guest `range`, the block being at `at`: its sectors that are
    /// whole in the file, and the damaged rest.
    fn held(&self, at: u64, block: u64, range: &Range<u64>, extents: &mut Vec<Extent>) {
        let guest = block * self.header.block;
        let there = self.end.saturating_sub(at) / 512 * 512;
        let whole = guest.saturating_add(there).clamp(range.start, range.end);
        if range.start < whole {
            let kind = Kind::Data { file: self.file, offset: at + (range.start - guest) };
            map::push(extents, Extent { start: range.start, len: whole - range.start, kind });
        }
        if whole < range.end {
            let kind = Kind::Corrupt(Box::new(self.cut(block)));
            map::push(extents, Extent { start: whole, len: range.end - whole, kind });
        }
    }

    fn cut(&self, block: u64) -> Fault {
        let text = format!("block {block} is cut at byte {}", self.end);
        Fault::at(Class::Truncated, Part::Data, self.file, self.end, text)
    }

    /// What was counted against what the header states, and what nothing leads to.
    fn check_counts(&self, report: &mut Report) {
        let (found, stated) = (report.units_data, u64::from(self.header.allocated));
        if found != stated {
            let text = format!("{stated} blocks are stated to have a place, {found} have one");
            let fault = Fault::at(Class::BadField, Part::Header, self.file, 388, text);
            report.add(Severity::Note, fault);
        }
        let unit = self.header.block + self.header.extra;
        let room = self.end.saturating_sub(self.header.data_at) / unit;
        report.units_leaked += room.saturating_sub(found);
        if self.unclaimed {
            report.unchecked.push("whether some of the places are used twice: too many".to_owned());
        }
    }
}

impl Image for Vdi {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn map(&mut self, range: Range<u64>, input: &Input) -> Result<Vec<Extent>, Stop> {
        let mut extents: Vec<Extent> = Vec::new();
        let mut start = range.start;
        // A block that the end of the file cuts makes two extents.
        while start < range.end && extents.len() + 1 < EXTENTS_MAX {
            let block = start / self.header.block;
            let end = ((block + 1) * self.header.block).min(range.end);
            let place = match self.place(block, input) {
                Ok(place) => place,
                // The next page is the next answer's.
                Err(Stop::Need(_)) if !extents.is_empty() => break,
                Err(stop) => return Err(stop),
            };
            let kind = match place {
                Ok(Place::Free) if self.facts.parent.is_some() => Kind::Parent,
                Ok(Place::Free) => Kind::Hole,
                Ok(Place::Zero) => Kind::Zero,
                Ok(Place::At(at)) => {
                    self.held(at, block, &(start..end), &mut extents);
                    start = end;
                    continue;
                }
                Err(fault) => Kind::Corrupt(Box::new(fault)),
            };
            map::push(&mut extents, Extent { start, len: end - start, kind });
            start = end;
        }
        Ok(extents)
    }

    fn admit(&self, parent: &Facts) -> Result<Vec<Fault>, Fault> {
        let fault = |class, text: String| Fault::new(class, Part::Chain, self.file, text);
        let (wanted, noted) = (self.header.parent, self.header.parent_modified);
        let Identity::Vdi { id, modified } = parent.identity else {
            return Err(fault(Class::ParentFormat, "the parent is no VDI".to_owned()));
        };
        if id != wanted || wanted == [0; 16] {
            let text = format!("made over the parent {}, not over {}", hex(&wanted), hex(&id));
            return Err(fault(Class::ParentMissing, text));
        }
        let mut notes = Vec::new();
        if noted == [0; 16] {
            let text = "it does not say at which modification of the parent it was made";
            notes.push(fault(Class::ParentMismatch, text.to_owned()));
        } else if noted != modified {
            let text = format!(
                "made over the parent's modification {}, it is at {}: it was written since",
                hex(&noted),
                hex(&modified)
            );
            return Err(fault(Class::ParentMismatch, text));
        }
        if parent.virtual_size != self.header.size {
            let (own, size) = (self.header.size, parent.virtual_size);
            let text = format!("a disk of {own} bytes over a parent of {size}");
            notes.push(fault(Class::ParentSize, text));
        }
        Ok(notes)
    }

    fn check(&mut self, input: &Input, report: &mut Report) -> Result<bool, Stop> {
        let begin = self.checked;
        if begin == 0 {
            self.claim(0, input)?;
            for note in &self.facts.notes {
                report.add(Severity::Warning, note.clone());
            }
        }
        while self.checked < self.map.count() {
            let block = self.checked;
            if block > begin && block.is_multiple_of(PAGE) {
                return Ok(false);
            }
            match self.place(block, input)? {
                Ok(Place::Free) => {}
                Ok(Place::Zero) => report.units_zero += 1,
                Ok(Place::At(at)) => {
                    report.units_data += 1;
                    let guest = self.header.size - block * self.header.block;
                    if at.saturating_add(guest.min(self.header.block)) > self.end {
                        report.add(Severity::Error, self.cut(block));
                    }
                }
                Err(fault) => report.add(Severity::Error, fault),
            }
            self.checked += 1;
        }
        self.check_counts(report);
        self.checked = 0;
        Ok(true)
    }
}

/// An identifier for messages.
fn hex(id: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*id))
}
