//! VHD files to be written: fixed, dynamic, and differencing where the plan has a parent.
//!
//! ```text
//! fixed:   guest ─ footer
//! sparse:  copy of the footer ─ header ─ name of the parent ─ block table ─ {bitmap ─ block}… ─ footer
//! ```
//!
//! - The creator is Hyper-V's word: by it old and new QEMU, VirtualBox and libvhdi all take the size
//!   field for the size, which is the disk's to the sector.
//! - In a dynamic disk every bit of a block that is there is set, for some programs look at none. In
//!   a differencing disk the bits are exactly the sectors that the plan holds; where a byte of bits
//!   has some of them, all its eight sectors stand in the block as the guest sees them, for libvhdi
//!   goes by bytes (measured with 20210425).
//! - A parent is named relative to the child's folder (W2ru), by its unique id and by its time.

use std::ops::Range;

use super::{
    FREE,
    footer::{FOOTER, Kind, Written},
    header::{self, HEADER, LOCATORS},
};
use crate::{
    Format, Identity,
    bytes::{narrow, wide},
    layout::{Held, ImageFile, Layout, ParentPlan, Piece, Plan, Unwritable},
    names::{self, Style},
    pieces::{Pieces, Unit, Units},
};

/// The largest disk of the specification: 2040 GiB.
pub const VIRTUAL_BYTES_MAX: u64 = 2040 << 30;

/// Bytes that a byte of a bitmap stands for.
const BIT_BYTE: u64 = 8 * 512;

/// Seconds from 1970-01-01 to 2000-01-01, from where VHD counts.
const EPOCH_S: u64 = 946_684_800;

/// How a VHD is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VhdOptions {
    /// All bytes in their place, or blocks by a table. A child always has a table.
    pub kind: VhdKind,
    /// Bytes of a block: a power of two from 64 KiB to 256 MiB. Every program reads 2 MiB.
    pub block_bytes: u32,
}

/// How a VHD without a parent keeps the guest's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VhdKind {
    /// All of them.
    Fixed,
    /// Blocks that hold something.
    Dynamic,
}

impl Default for VhdOptions {
    fn default() -> Self {
        Self { kind: VhdKind::Dynamic, block_bytes: 2 << 20 }
    }
}

/// The identity that the file of a plan has: what a child of it must name.
pub fn identity(plan: &Plan) -> Identity {
    let (id, _) = plan.seed.split_first_chunk::<16>().expect("a seed has 32 bytes");
    Identity::Vhd { id: *id, time: time_of(plan.made_s) }
}

/// A time in seconds since 1970-01-01 UTC as VHD counts it.
pub(super) fn time_of(at_s: u64) -> u32 {
    u32::try_from(at_s.saturating_sub(EPOCH_S)).unwrap_or(u32::MAX)
}

/// The file of a plan.
pub fn layout(plan: &Plan, options: &VhdOptions) -> Result<Vec<ImageFile>, Unwritable> {
    plan.check()?;
    let size = plan.virtual_size;
    if size > VIRTUAL_BYTES_MAX {
        let (format, most) = (Format::Vhd, VIRTUAL_BYTES_MAX);
        return Err(Unwritable::TooLarge { format, most, wanted: size });
    }
    if size == 0 || !size.is_multiple_of(512) {
        return Err(unwritable(format!("a disk of {size} bytes is no number of sectors")));
    }
    let Identity::Vhd { id, time } = identity(plan) else {
        unreachable!("the identity of a VHD");
    };
    let written = |kind, header_at| Written { kind, size, time, id, header_at }.bytes();
    let layout: Box<dyn Layout> = match (options.kind, &plan.parent) {
        (VhdKind::Fixed, Some(_)) => {
            return Err(unwritable("a fixed disk has no parent".to_owned()));
        }
        (VhdKind::Fixed, None) => {
            let footer = written(Kind::Fixed, None);
            Box::new(Fixed { size, held: plan.held.clone(), footer })
        }
        (VhdKind::Dynamic, parent) => {
            let kind = if parent.is_some() { Kind::Differencing } else { Kind::Dynamic };
            Box::new(Sparse::new(plan, options.block_bytes, &written(kind, Some(FOOTER)))?)
        }
    };
    Ok(vec![ImageFile { suffix: String::new(), layout }])
}

fn unwritable(text: String) -> Unwritable {
    Unwritable::Option { format: Format::Vhd, text }
}

struct Fixed {
    size: u64,
    held: Vec<Held>,
    footer: [u8; 512],
}

impl Layout for Fixed {
    fn len(&self) -> u64 {
        self.size + FOOTER
    }

    fn pieces(&self, range: Range<u64>) -> Vec<Piece> {
        let mut pieces = Pieces::new(range.start..range.end.min(self.len()));
        while let Some(at) = pieces.next() {
            if at < self.size {
                pieces.guest(&self.held, at..self.size);
            } else {
                pieces.table(&self.footer[narrow(at - self.size)..]);
            }
        }
        pieces.into_vec()
    }
}

struct Sparse {
    /// Whole sectors that have a bit.
    held: Vec<Held>,
    /// What stands in the blocks.
    filled: Vec<Held>,
    units: Units,
    is_child: bool,
    block: u64,
    bitmap: u64,
    /// Copy of the footer, header, name of the parent: all before the table.
    head: Vec<u8>,
    entries: u64,
    footer: [u8; 512],
}

impl Sparse {
    fn new(plan: &Plan, block_bytes: u32, footer: &[u8; 512]) -> Result<Self, Unwritable> {
        let block = u64::from(block_bytes);
        if !block.is_power_of_two() || !(64 << 10..=256 << 20).contains(&block) {
            return Err(unwritable(format!(
                "blocks of {block} bytes: no power of two from 64 KiB to 256 MiB"
            )));
        }
        let entries = plan.virtual_size.div_ceil(block);
        if entries > super::ENTRIES_MAX {
            return Err(unwritable(format!("a table of {entries} blocks of {block} bytes")));
        }
        let is_child = plan.parent.is_some();
        let held = grains(&plan.held, is_child, 512);
        let filled = if is_child { grains(&plan.held, true, BIT_BYTE) } else { held.clone() };
        let mut units = Units::default();
        let mut next = 0;
        for held in &held {
            let first = (held.start / block).max(next);
            next = (held.start + held.len).div_ceil(block);
            if first < next {
                units.add(first, next - first, true);
            }
        }
        let head = head(footer, entries, block_bytes, plan)?;
        let bitmap = super::bitmap_bytes(block);
        Ok(Self { held, filled, units, is_child, block, bitmap, head, entries, footer: *footer })
    }

    fn table_end(&self) -> u64 {
        wide(self.head.len()) + (self.entries * 4).next_multiple_of(512)
    }

    fn footer_at(&self) -> u64 {
        self.table_end() + self.units.placed() * (self.bitmap + self.block)
    }

    /// Entries from one on, as many as fit into `room` bytes; past the last one, free ones.
    fn table(&self, first: u64, room: usize) -> Vec<u8> {
        let last = (self.table_end() - wide(self.head.len())) / 4;
        let last = last.min(first + wide(room.div_ceil(4)) + 1);
        let entry = |block| match self.units.unit(block) {
            Unit::Placed(index) => {
                let at = self.table_end() + index * (self.bitmap + self.block);
                u32::try_from(at / 512).expect("2040 GiB and their bitmaps end below 2 TiB")
            }
            _ => FREE,
        };
        (first..last).flat_map(|block| entry(block).to_be_bytes()).collect()
    }

    /// The bits of a block's sectors that are held.
    fn bitmap(&self, block: u64) -> Vec<u8> {
        let mut bits = vec![0_u8; narrow(self.bitmap)];
        let guest = block * self.block..(block + 1) * self.block;
        let mut set = |sectors: Range<u64>| {
            for sector in sectors {
                bits[narrow(sector / 8)] |= 0x80 >> (sector % 8);
            }
        };
        if !self.is_child {
            set(0..self.block / 512);
            return bits;
        }
        let first = self.held.partition_point(|held| held.start + held.len <= guest.start);
        for held in self.held[first..].iter().take_while(|held| held.start < guest.end) {
            let (start, end) = (held.start.max(guest.start), held.start + held.len);
            set((start - guest.start) / 512..(end.min(guest.end) - guest.start) / 512);
        }
        bits
    }
}

impl Layout for Sparse {
    fn len(&self) -> u64 {
        self.footer_at() + FOOTER
    }

    fn pieces(&self, range: Range<u64>) -> Vec<Piece> {
        let mut pieces = Pieces::new(range.start..range.end.min(self.len()));
        let (table, data, footer) = (wide(self.head.len()), self.table_end(), self.footer_at());
        while let Some(at) = pieces.next() {
            if at < table {
                pieces.table(&self.head[narrow(at)..]);
            } else if at < data {
                let bytes = self.table((at - table) / 4, pieces.table_room());
                pieces.table(&bytes[narrow((at - table) % 4)..]);
            } else if at < footer {
                let unit = self.bitmap + self.block;
                let (index, within) = ((at - data) / unit, (at - data) % unit);
                let block = self.units.at(index);
                if within < self.bitmap {
                    pieces.table(&self.bitmap(block)[narrow(within)..]);
                } else {
                    let guest = block * self.block;
                    let start = guest + (within - self.bitmap);
                    pieces.guest(&self.filled, start..guest + self.block);
                }
            } else {
                pieces.table(&self.footer[narrow(at - footer)..]);
            }
        }
        pieces.into_vec()
    }
}

/// Ranges as whole grains of `grain` bytes. A grain that is held in part is the guest's; zeroes are
/// kept for a child only, whose parent would show through.
fn grains(held: &[Held], is_child: bool, grain: u64) -> Vec<Held> {
    let mut whole: Vec<Held> = Vec::new();
    let mut add = |start: u64, end: u64, zero: bool| {
        let start = whole.last().map_or(start, |last| start.max(last.start + last.len));
        match whole.last_mut() {
            _ if start >= end => {}
            Some(last) if last.start + last.len == start && last.zero == zero => {
                last.len = end - last.start;
            }
            _ => whole.push(Held { start, len: end - start, zero }),
        }
    };
    for held in held.iter().filter(|held| is_child || !held.zero) {
        let end = held.start + held.len;
        let (outer, inner) = (held.start / grain * grain, held.start.next_multiple_of(grain));
        let (outer_end, inner_end) = (end.next_multiple_of(grain), end / grain * grain);
        if !held.zero || inner >= inner_end {
            add(outer, outer_end, false);
        } else {
            add(outer, inner, false);
            add(inner, inner_end, true);
            add(inner_end, outer_end, false);
        }
    }
    whole
}

/// All that stands before the table.
fn head(footer: &[u8; 512], entries: u64, block: u32, plan: &Plan) -> Result<Vec<u8>, Unwritable> {
    let mut head = footer.to_vec();
    let mut header = vec![0; narrow(HEADER)];
    let mut locator = Vec::new();
    if let Some(parent) = &plan.parent {
        locator = name_parent(&mut header, parent, plan.virtual_size, FOOTER + HEADER)?;
    }
    let table_at = FOOTER + HEADER + wide(locator.len());
    let mut put = |at: usize, field: &[u8]| header[at..at + field.len()].copy_from_slice(field);
    put(0, header::COOKIE);
    put(8, &u64::MAX.to_be_bytes());
    put(16, &table_at.to_be_bytes());
    put(24, &0x0001_0000_u32.to_be_bytes());
    put(28, &u32::try_from(entries).expect("at most ENTRIES_MAX").to_be_bytes());
    put(32, &block.to_be_bytes());
    let sum = super::sum(&header, 36);
    header[36..40].copy_from_slice(&sum.to_be_bytes());
    head.extend(header);
    head.extend(locator);
    Ok(head)
}

/// Writes the parent into a header; the bytes of its name, which shall stand at `name_at`, are the
/// answer.
pub(super) fn name_parent(
    header: &mut [u8],
    parent: &ParentPlan,
    size: u64,
    name_at: u64,
) -> Result<Vec<u8>, Unwritable> {
    let Identity::Vhd { id, time } = parent.identity else {
        let text = format!("a parent of the format {}, it must be a VHD", parent.format);
        return Err(unwritable(text));
    };
    if parent.virtual_size != size {
        let own = parent.virtual_size;
        return Err(unwritable(format!("a disk of {size} bytes over a parent of {own}")));
    }
    let name = names::check(&parent.name, Style::Unix)
        .map_err(|flaw| unwritable(format!("the parent's name {:?}: {flaw}", parent.name)))?;
    let alone = name.as_str().rsplit('/').next().unwrap_or_default();
    let field: Vec<u8> = alone.encode_utf16().flat_map(u16::to_be_bytes).collect();
    if field.len() > 510 {
        return Err(unwritable(format!("the parent's name {alone:?} has more than 255 letters")));
    }
    let relative = format!(".\\{}", name.as_str().replace('/', "\\"));
    let mut bytes: Vec<u8> = relative.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let len = u32::try_from(bytes.len()).expect("a name has 1023 bytes at most");
    let space = len.next_multiple_of(512);
    bytes.resize(narrow(space.into()), 0);
    let mut put = |at: usize, field: &[u8]| header[at..at + field.len()].copy_from_slice(field);
    put(40, &id);
    put(56, &time.to_be_bytes());
    put(64, &field);
    put(LOCATORS, b"W2ru");
    put(LOCATORS + 4, &space.to_be_bytes());
    put(LOCATORS + 8, &len.to_be_bytes());
    put(LOCATORS + 16, &name_at.to_be_bytes());
    Ok(bytes)
}
