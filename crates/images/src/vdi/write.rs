//! VDI files to be written: dynamic, static, and differencing where the plan has a parent.
//!
//! ```text
//! header (512) ─ block map ─ zeroes up to 4 KiB ─ blocks of 1 MiB
//! ```
//!
//! - A block is held whole or not at all. A block that the plan holds in part is filled up with what
//!   the guest sees there: with zeroes without a parent, with the parent's bytes in a child.
//! - A block that a child holds as zero throughout takes one entry and no room.
//! - A child names its parent by UUID and modification UUID, and only so.

use std::ops::Range;

use super::{
    FREE, ZERO,
    header::{BLOCKS_MAX, Kind, PREHEADER, SIGNATURE},
};
use crate::{
    Format, Identity,
    bytes::{narrow, wide},
    layout::{Held, ImageFile, Layout, Piece, Plan, Unwritable},
    pieces::{Pieces, Unit, Units},
};

/// Bytes of a block: the only size that QEMU reads, and VirtualBox's own.
const BLOCK: u64 = 1 << 20;

/// Bytes of the part of a header whose length it states, with the geometry of version 1.1.
const HEADER: u32 = 400;

/// Where the block map begins.
const MAP_AT: u64 = 512;

/// How a VDI without a parent keeps the guest's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VdiKind {
    /// Blocks that hold something.
    #[default]
    Dynamic,
    /// All blocks, in the guest's order.
    Static,
}

/// How a VDI is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VdiOptions {
    /// Which blocks have a place. A child always is as a dynamic image is.
    pub kind: VdiKind,
}

/// The identity that the file of a plan has: what a child of it must name.
pub fn identity(plan: &Plan) -> Identity {
    let (id, rest) = plan.seed.split_first_chunk::<16>().expect("a seed has 32 bytes");
    let modified = rest.first_chunk::<16>().expect("a seed has 32 bytes");
    Identity::Vdi { id: *id, modified: *modified }
}

/// The file of a plan.
pub fn layout(plan: &Plan, options: &VdiOptions) -> Result<Vec<ImageFile>, Unwritable> {
    plan.check()?;
    let (format, size) = (Format::Vdi, plan.virtual_size);
    let unwritable = |text: String| Err(Unwritable::Option { format, text });
    let most = u64::from(BLOCKS_MAX) * BLOCK;
    if size > most {
        return Err(Unwritable::TooLarge { format, most, wanted: size });
    }
    if size == 0 || !size.is_multiple_of(512) {
        return unwritable(format!("a disk of {size} bytes is no number of sectors"));
    }
    let parent = match &plan.parent {
        None => None,
        Some(_) if options.kind == VdiKind::Static => {
            return unwritable("a static image has no parent".to_owned());
        }
        Some(parent) => match parent.identity {
            Identity::Vdi { id, modified } if parent.virtual_size == size => Some((id, modified)),
            Identity::Vdi { .. } => {
                let own = parent.virtual_size;
                return unwritable(format!("a disk of {size} bytes over a parent of {own}"));
            }
            _ => {
                let text = format!("a parent of the format {}, it must be a VDI", parent.format);
                return unwritable(text);
            }
        },
    };
    let count = size.div_ceil(BLOCK);
    let units = match options.kind {
        VdiKind::Static => Units::all(count),
        VdiKind::Dynamic => units(plan),
    };
    let kind = match (options.kind, parent) {
        (VdiKind::Static, _) => Kind::Static,
        (VdiKind::Dynamic, None) => Kind::Dynamic,
        (VdiKind::Dynamic, Some(_)) => Kind::Differencing,
    };
    let data_at = (MAP_AT + count * 4).next_multiple_of(4096);
    let header = header(plan, kind, data_at, units.placed(), parent.unwrap_or_default());
    let is_child = parent.is_some();
    let layout = Vdi { held: plan.held.clone(), units, is_child, count, data_at, header };
    Ok(vec![ImageFile { suffix: String::new(), layout: Box::new(layout) }])
}

/// What each block is held as.
fn units(plan: &Plan) -> Units {
    let is_child = plan.parent.is_some();
    let mut units = Units::default();
    let mut tally = Tally::default();
    for held in plan.held.iter().filter(|held| is_child || !held.zero) {
        let (mut start, end) = (held.start, held.start + held.len);
        while start < end {
            let block = start / BLOCK;
            if block != tally.block {
                tally.close(&mut units, plan.virtual_size);
                tally = Tally { block, ..Tally::default() };
                // Whole blocks at once: a range may have millions.
                let whole = (end - start) / BLOCK;
                if start.is_multiple_of(BLOCK) && whole > 1 {
                    units.add(block, whole - 1, !held.zero);
                    start += (whole - 1) * BLOCK;
                    tally.block = block + whole - 1;
                    continue;
                }
            }
            let past = ((block + 1) * BLOCK).min(end);
            tally.zero += if held.zero { past - start } else { 0 };
            tally.held += past - start;
            start = past;
        }
    }
    tally.close(&mut units, plan.virtual_size);
    units
}

/// Bytes of one block that are held.
#[derive(Default)]
struct Tally {
    block: u64,
    held: u64,
    zero: u64,
}

impl Tally {
    fn close(&self, units: &mut Units, size: u64) {
        let len = (size - (self.block * BLOCK).min(size)).min(BLOCK);
        if self.held > 0 {
            units.add(self.block, 1, self.zero < len);
        }
    }
}

fn header(
    plan: &Plan,
    kind: Kind,
    data_at: u64,
    placed: u64,
    parent: ([u8; 16], [u8; 16]),
) -> [u8; 512] {
    let mut bytes = [0; 512];
    let mut put = |at: u64, field: &[u8]| {
        bytes[narrow(at)..narrow(at) + field.len()].copy_from_slice(field);
    };
    let word = |value: u64| u32::try_from(value).expect("blocks are at most BLOCKS_MAX");
    let size = plan.virtual_size;
    put(0, b"<<< Strandline Disk Image >>>\n");
    put(64, &SIGNATURE.to_le_bytes());
    put(68, &0x0001_0001_u32.to_le_bytes());
    put(PREHEADER, &HEADER.to_le_bytes());
    let kind: u32 = match kind {
        Kind::Dynamic => 1,
        Kind::Static => 2,
        Kind::Differencing => 4,
    };
    put(76, &kind.to_le_bytes());
    put(340, &word(MAP_AT).to_le_bytes());
    put(344, &word(data_at).to_le_bytes());
    let cylinders = (size / 512 / (16 * 63)).clamp(1, 1024);
    for (at, value) in [(348, cylinders), (352, 16), (356, 63), (360, 512)] {
        put(at, &word(value).to_le_bytes());
    }
    put(368, &size.to_le_bytes());
    put(376, &word(BLOCK).to_le_bytes());
    put(384, &word(size.div_ceil(BLOCK)).to_le_bytes());
    put(388, &word(placed).to_le_bytes());
    let Identity::Vdi { id, modified } = identity(plan) else {
        unreachable!("the identity of a VDI");
    };
    for (at, id) in [(392, id), (408, modified), (424, parent.0), (440, parent.1)] {
        put(at, &id);
    }
    bytes
}

struct Vdi {
    held: Vec<Held>,
    units: Units,
    is_child: bool,
    count: u64,
    data_at: u64,
    header: [u8; 512],
}

impl Vdi {
    /// Entries from one on, as many as fit into `room` bytes.
    fn map(&self, first: u64, room: usize) -> Vec<u8> {
        let last = self.count.min(first + wide(room.div_ceil(4)) + 1);
        let entry = |block| match self.units.unit(block) {
            Unit::Placed(index) => u32::try_from(index).expect("blocks are at most BLOCKS_MAX"),
            Unit::Zero => ZERO,
            Unit::Free => FREE,
        };
        (first..last).flat_map(|block| entry(block).to_le_bytes()).collect()
    }
}

impl Layout for Vdi {
    fn len(&self) -> u64 {
        self.data_at + self.units.placed() * BLOCK
    }

    fn pieces(&self, range: Range<u64>) -> Vec<Piece> {
        let mut pieces = Pieces::new(range.start..range.end.min(self.len()));
        let map_end = MAP_AT + self.count * 4;
        while let Some(at) = pieces.next() {
            if at < MAP_AT {
                pieces.table(&self.header[narrow(at)..]);
            } else if at < map_end {
                let bytes = self.map((at - MAP_AT) / 4, pieces.table_room());
                pieces.table(&bytes[narrow((at - MAP_AT) % 4)..]);
            } else if at < self.data_at {
                pieces.zero(self.data_at - at);
            } else {
                let (index, within) = ((at - self.data_at) / BLOCK, (at - self.data_at) % BLOCK);
                let guest = self.units.at(index) * BLOCK;
                let block = guest + within..guest + BLOCK;
                if self.is_child {
                    pieces.all_guest(block);
                } else {
                    pieces.guest(&self.held, block);
                }
            }
        }
        pieces.into_vec()
    }
}
