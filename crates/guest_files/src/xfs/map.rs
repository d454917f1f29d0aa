//! Where a file's blocks are: a list of extents, or a B+tree of them.

use super::{
    Xfs,
    inode::{Form, Inode},
};
use crate::{
    Error, Piece, Place,
    fields::{Fields, size},
    limits::{INLINE_BYTES, PIECES},
    pieces::Pieces,
};

/// More levels than this no tree of extents has.
const LEVELS_MAX: u16 = 9;

const EXTENT_BYTES: usize = 16;

/// The pieces of the data fork that are written, up to `length` bytes; all else reads as zero.
pub(super) fn pieces(xfs: &Xfs, inode: &Inode, length: u64) -> Result<Vec<Piece>, Error> {
    let fork = inode.fork()?;
    let mut walk = Walk { xfs, found: Pieces::new(length), tables: 0 };
    match inode.form {
        Form::None => return Ok(Vec::new()),
        Form::Local => {
            let count = size(length.min(INLINE_BYTES as u64))?;
            let bytes = fork.slice(0, count)?.to_vec();
            if bytes.is_empty() {
                return Ok(Vec::new());
            }
            let length = bytes.len() as u64;
            return Ok(vec![Piece { offset: 0, length, place: Place::Inline(bytes) }]);
        }
        Form::Extents => {
            if inode.extents > (fork.length() / EXTENT_BYTES) as u64 {
                return Err(Error::damaged("an inode has more extents than room", inode.place));
            }
            walk.list(&fork, size(inode.extents)?)?;
        }
        Form::Tree => {
            let (level, count) = (fork.be16(0)?, usize::from(fork.be16(2)?));
            let room = (fork.length().saturating_sub(4)) / 16;
            if level == 0 || level > LEVELS_MAX || count > room {
                return Err(Error::damaged("the root of a tree of extents cannot be", inode.place));
            }
            walk.children(&fork, 4 + room * 8, count, (level - 1, inode.number))?;
        }
    }
    Ok(walk.found.into_vec())
}

struct Walk<'x> {
    xfs: &'x Xfs,
    found: Pieces,
    tables: usize,
}

impl Walk<'_> {
    /// `count` extents, each of 1 + 54 + 52 + 21 bits: unwritten, first block in the file, first block
    /// of the file system, number of blocks.
    fn list(&mut self, fields: &Fields<'_>, count: usize) -> Result<(), Error> {
        let block_bytes = self.xfs.facts.block_bytes;
        for index in 0..count {
            let (high, low) =
                (fields.be64(index * EXTENT_BYTES)?, fields.be64(index * EXTENT_BYTES + 8)?);
            let (unwritten, offset) = (high >> 63 != 0, (high << 1) >> 10);
            let (start, blocks) = ((high & 0x1ff) << 43 | low >> 21, low & 0x1f_ffff);
            if blocks == 0 {
                return Err(Error::damaged("an extent is empty", fields.place()));
            }
            if unwritten {
                continue;
            }
            let place = self.xfs.fs_block(start)?;
            self.xfs.fs_block(start + blocks - 1)?;
            let offset = offset.checked_mul(block_bytes);
            let offset = offset.ok_or(Error::damaged("an extent lies nowhere", fields.place()))?;
            self.found.add(offset, blocks * block_bytes, place)?;
        }
        Ok(())
    }

    fn children(
        &mut self,
        node: &Fields<'_>,
        pointers: usize,
        count: usize,
        below: (u16, u64),
    ) -> Result<(), Error> {
        for index in 0..count {
            self.block(node.be64(pointers + index * 8)?, below)?;
        }
        Ok(())
    }

    /// A block of the tree at this level, that belongs to this inode.
    fn block(&mut self, block: u64, (level, owner): (u16, u64)) -> Result<(), Error> {
        self.tables += 1;
        if self.tables > PIECES / 64 {
            return Err(Error::Limit("a file's number of pieces"));
        }
        let place = self.xfs.fs_block(block)?;
        let bytes = self.xfs.window.bytes(place, size(self.xfs.facts.block_bytes)?)?;
        let fields = Fields::new(&bytes, place);
        let (mark, header): (&[u8], usize) = match self.xfs.facts.version {
            5 => (b"BMA3", 72),
            _ => (b"BMAP", 24),
        };
        if fields.slice(0, 4)? != mark || fields.be16(4)? != level {
            return Err(Error::damaged("a block of a tree of extents is none", place));
        }
        self.xfs.compare(&fields, 64)?;
        if header == 72 && fields.be64(56)? != owner {
            return Err(Error::damaged("a block of a tree of extents is another's", place));
        }
        let (count, room) = (usize::from(fields.be16(6)?), (bytes.len() - header) / 16);
        if count > room {
            return Err(Error::damaged("a block of a tree of extents is too full", place));
        }
        if level == 0 {
            return self.list(&fields.from(header)?, count);
        }
        self.children(&fields, header + room * 8, count, (level - 1, owner))
    }
}
