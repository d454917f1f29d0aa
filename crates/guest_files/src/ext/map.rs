//! Where a file's blocks are: a tree of extents, or the older map of single blocks.

use super::{Ext, inode::Inode, raw_crc};
use crate::{
    Error, Piece,
    fields::{Fields, size},
    limits::PIECES,
    pieces::Pieces,
};

const EXTENT_MAGIC: u16 = 0xf30a;

/// More levels than this no tree of extents has.
const DEPTH_MAX: u16 = 5;

/// An extent that was allocated and never written has this much added to its length.
const UNWRITTEN: u16 = 0x8000;

/// The pieces of a file that are written; all else reads as zero.
pub(super) fn pieces(ext: &Ext, inode: &Inode) -> Result<Vec<Piece>, Error> {
    let mut walk = Walk { ext, inode, found: Pieces::new(inode.size), tables: 0 };
    if inode.has_extents() {
        let root = inode.root()?;
        let depth = root.le16(6)?;
        if depth > DEPTH_MAX {
            return Err(Error::damaged("a tree of extents is too deep", inode.place));
        }
        walk.extents(&root, depth)?;
    } else {
        walk.block_map()?;
    }
    Ok(walk.found.into_vec())
}

struct Walk<'e> {
    ext: &'e Ext,
    inode: &'e Inode,
    found: Pieces,
    tables: usize,
}

impl Walk<'_> {
    fn extents(&mut self, node: &Fields<'_>, depth: u16) -> Result<(), Error> {
        let damaged = || Error::damaged("a node of extents cannot be", node.place());
        if node.le16(0)? != EXTENT_MAGIC || node.le16(6)? != depth {
            return Err(damaged());
        }
        let entries = node.le16(2)?;
        if entries > node.le16(4)? {
            return Err(damaged());
        }
        let block_bytes = self.ext.facts.block_bytes;
        for index in 0..usize::from(entries) {
            let entry = node.from(12 + index * 12)?;
            if depth > 0 {
                let block = u64::from(entry.le32(4)?) | u64::from(entry.le16(8)?) << 32;
                let bytes = self.table(block)?;
                let child = Fields::new(&bytes, block * block_bytes);
                self.compare(&child)?;
                self.extents(&child, depth - 1)?;
                continue;
            }
            let (first, length) = (u64::from(entry.le32(0)?), entry.le16(4)?);
            let block = u64::from(entry.le32(8)?) | u64::from(entry.le16(6)?) << 32;
            if length > UNWRITTEN {
                continue;
            }
            self.ext.place(block.saturating_add(u64::from(length)).saturating_sub(1))?;
            let length = u64::from(length) * block_bytes;
            self.found.add(first * block_bytes, length, block * block_bytes)?;
        }
        Ok(())
    }

    /// The checksum of a block of extents stands behind its last possible entry.
    fn compare(&self, node: &Fields<'_>) -> Result<(), Error> {
        let Some(seed) = self.inode.seed else { return Ok(()) };
        let end = 12 + usize::from(node.le16(4)?) * 12;
        if raw_crc(seed, node.slice(0, end)?) == node.le32(end)? {
            return Ok(());
        }
        Err(Error::damaged("the checksum of a block of extents differs", node.place()))
    }

    fn block_map(&mut self) -> Result<(), Error> {
        let root = self.inode.root()?;
        let in_block = self.ext.facts.block_bytes / 4;
        for index in 0..12_u32 {
            self.leaf(u64::from(index), root.le32(index as usize * 4)?)?;
        }
        let (mut first, mut span) = (12, 1);
        for level in 1..=3_u32 {
            span *= in_block;
            self.indirect(first, root.le32(44 + level as usize * 4)?, level, span / in_block)?;
            first += span;
        }
        Ok(())
    }

    /// A table whose entries each stand for `span` blocks.
    fn indirect(&mut self, first: u64, table: u32, level: u32, span: u64) -> Result<(), Error> {
        let blocks = self.inode.size.div_ceil(self.ext.facts.block_bytes);
        if table == 0 || first >= blocks {
            return Ok(());
        }
        let bytes = self.table(u64::from(table))?;
        let entries = bytes.chunks_exact(4).filter_map(|bytes| bytes.first_chunk());
        for (index, entry) in (0_u64..).zip(entries) {
            let (entry, first) = (u32::from_le_bytes(*entry), first + index * span);
            if first >= blocks {
                break;
            }
            if level == 1 {
                self.leaf(first, entry)?;
            } else {
                let in_block = self.ext.facts.block_bytes / 4;
                self.indirect(first, entry, level - 1, span / in_block)?;
            }
        }
        Ok(())
    }

    fn leaf(&mut self, index: u64, block: u32) -> Result<(), Error> {
        if block == 0 {
            return Ok(());
        }
        let block_bytes = self.ext.facts.block_bytes;
        let place = self.ext.place(u64::from(block))?;
        self.found.add(index * block_bytes, block_bytes, place)
    }

    /// A block that leads to others: each is counted, for hostile ones lead to each other.
    fn table(&mut self, block: u64) -> Result<Vec<u8>, Error> {
        self.tables += 1;
        if self.tables > PIECES / size(self.ext.facts.block_bytes / 1024)? {
            return Err(Error::Limit("a file's number of pieces"));
        }
        self.ext.block(block)
    }
}
