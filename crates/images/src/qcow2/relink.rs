//! Another backing file for a qcow2 image.
//!
//! ```text
//! sector 0: header ─ extensions ─ end ┆ … old name … ┆ new name   (all in the first cluster)
//!           └ place and length of the name
//! ```
//!
//! The new name goes to a place of the first cluster that nothing uses, then one write of the first
//! sector leads to it. The format stands in an extension; QEMU and we write it first, so it is in that
//! sector too. Where it is not, and must change, the image is refused.

use std::ops::Range;

use super::header::{AUTOCLEAR_BITMAPS, AUTOCLEAR_RAW, Header, extension, incompatible};
use crate::{
    FileId, Format, Input, Part,
    bytes::{be32, be64, narrow, wide},
    relink::{Edit, Halt, Relink, SECTOR_BYTES, Steps, refused},
};

/// Bytes of an extension that says the format: head, and a word of at most eight bytes.
const FORMAT_BYTES: u64 = 16;

pub(crate) fn edit(file: FileId, input: &Input, relink: &Relink) -> Result<Edit, Halt> {
    let no = |text: &str| refused(Format::Qcow2, text);
    let header = Header::read(file, input)?;
    if header.needs(incompatible::DIRTY | incompatible::CORRUPT) {
        return Err(no("it is marked as not closed or corrupt: `qemu-img check -r all` first"));
    }
    let Some((old_at, old_name)) = &header.backing else {
        return Err(no("it has no parent"));
    };
    let mut head = input.read_up_to(file, 0, header.cluster(), Part::Header)?.to_vec();
    let area = Area::of(&head, &header, *old_at)
        .ok_or_else(|| no("its header extensions do not end before the parent's name"))?;
    if wide(head.len()) < SECTOR_BYTES {
        return Err(no("its header is cut"));
    }

    let word = match relink.parent.format {
        Format::Vhd => "vpc", // QEMU's word
        format => format.word(),
    };
    let format = if area.says(&head, word.as_bytes()) {
        None
    } else {
        let no_room = || no("there is no room in its first sector for the parent's format");
        Some(area.with_format(&head, word.as_bytes()).ok_or_else(no_room)?)
    };
    let end = format.as_ref().map_or(area.end, |change| area.end.max(change.end()));

    let name = relink.parent.name.as_bytes();
    let old = *old_at..*old_at + wide(old_name.len());
    let mut steps = Steps::default();
    let same_name = name == old_name.as_slice() && end <= old.start;
    if !same_name {
        let place = place(&old, end..wide(head.len()), wide(name.len()))
            .ok_or_else(|| no("there is no room in its first cluster for the parent's name"))?;
        head[narrow(place)..narrow(place) + name.len()].copy_from_slice(name);
        let written = place..place + wide(name.len());
        steps.write_sectors(&head, written).sync();
        head[8..16].copy_from_slice(&place.to_be_bytes());
        let len = u32::try_from(name.len()).expect("a name has 1023 bytes at most");
        head[16..20].copy_from_slice(&len.to_be_bytes());
    }
    let mut switches = !same_name;
    if let Some(change) = format {
        head[narrow(change.at)..narrow(change.end())].copy_from_slice(&change.bytes);
        switches = true;
    }
    if header.version == 3 {
        // What a caller keeps right speaks of the guest's bytes: it is void where those change.
        let of_caller = if relink.changes_bytes { 0 } else { relink.autoclear_known };
        let known = AUTOCLEAR_BITMAPS | AUTOCLEAR_RAW | of_caller;
        let autoclear = (header.autoclear & known).to_be_bytes();
        switches |= head[88..96] != autoclear;
        head[88..96].copy_from_slice(&autoclear);
    }
    if switches {
        steps.write_sectors(&head, 0..SECTOR_BYTES).sync();
    }
    Ok(steps.done())
}

/// Bytes of the first sector that change.
struct Change {
    at: u64,
    bytes: Vec<u8>,
}

impl Change {
    fn end(&self) -> u64 {
        self.at + wide(self.bytes.len())
    }
}

/// Where the extensions are.
struct Area {
    start: u64,
    /// Behind the mark of their end.
    end: u64,
    /// Place and length of the content of the one that says the parent's format.
    format: Option<(u64, u64)>,
}

impl Area {
    fn of(head: &[u8], header: &Header, name_at: u64) -> Option<Self> {
        let start = if header.version == 2 { 72 } else { u64::from(be32(head, 100)) };
        let (mut at, mut format) = (start, None);
        let limit = if name_at >= start { name_at } else { wide(head.len()) };
        while at + 8 <= limit {
            let word = be64(head, narrow(at));
            let (kind, len) = (be32(&word.to_be_bytes(), 0), word & 0xffff_ffff);
            if kind == extension::END {
                return Some(Self { start, end: at + 8, format });
            }
            if kind == extension::BACKING_FORMAT {
                format = Some((at, len));
            }
            at += 8 + len.next_multiple_of(8);
        }
        None
    }

    /// Whether the extension says `word`.
    fn says(&self, head: &[u8], word: &[u8]) -> bool {
        self.format.is_some_and(|(at, len)| {
            let content = narrow(at + 8);
            head.get(content..content + narrow(len)) == Some(word)
        })
    }

    /// What changes so that the extension says `word`, if that is within the first sector. Other
    /// extensions stay where they are, or move on as they are.
    fn with_format(&self, head: &[u8], word: &[u8]) -> Option<Change> {
        let mut bytes = extension::BACKING_FORMAT.to_be_bytes().to_vec();
        bytes.extend(u32::try_from(word.len()).expect("a short word").to_be_bytes());
        bytes.extend(word);
        bytes.resize(narrow(FORMAT_BYTES), 0);
        let at = if let Some((at, len)) = self.format {
            Some(at).filter(|_| (1..=8).contains(&len))?
        } else {
            bytes.extend_from_slice(&head[narrow(self.start)..narrow(self.end)]);
            self.start
        };
        Some(Change { at, bytes }).filter(|change| change.end() <= SECTOR_BYTES)
    }
}

/// Where `len` bytes have room within `free` without meeting `taken`.
fn place(taken: &Range<u64>, free: Range<u64>, len: u64) -> Option<u64> {
    let before = free.start..taken.start.min(free.end);
    let after = taken.end.max(free.start)..free.end;
    [before, after]
        .into_iter()
        .find(|room| room.end.saturating_sub(room.start) >= len)
        .map(|r| r.start)
}
