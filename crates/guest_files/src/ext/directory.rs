//! The names of a directory, block by block.
//!
//! A hashed directory is read as a plain one: its tables of hashes look like deleted names.

use super::{Ext, inline, inode::Inode, raw_crc};
use crate::{
    Entry, Error, Kind, NodeId,
    fields::{Fields, size},
    limits::{DIRECTORY_BYTES, ENTRIES},
    tree::is_name,
};

/// Bytes of a checksum that looks like a deleted name at the end of a block.
const TAIL_BYTES: usize = 12;

type Each<'e> = &'e mut dyn FnMut(Entry) -> Result<(), Error>;

/// Calls `each` for every name but `.` and `..`.
pub(super) fn list(ext: &Ext, inode: &Inode, each: Each<'_>) -> Result<(), Error> {
    if inode.kind()? != Kind::Directory {
        return Err(Error::damaged("a directory is none", inode.place));
    }
    if inode.is_encrypted() {
        return Err(Error::unsupported("its names are encrypted"));
    }
    if inode.size > DIRECTORY_BYTES {
        return Err(Error::Limit("a directory's length"));
    }
    let mut count = 0;
    let mut counted = |entry: Entry| {
        count += 1;
        if count > ENTRIES {
            Err(Error::Limit("a directory's number of names"))
        } else {
            each(entry)
        }
    };
    if inode.is_inline() {
        for bytes in inline::entries(inode)? {
            block(&Fields::new(&bytes, inode.place), &mut counted)?;
        }
        return Ok(());
    }
    let block_bytes = ext.facts.block_bytes;
    for piece in super::map::pieces(ext, inode)? {
        let crate::Place::At(start) = piece.place else { continue };
        for offset in (0..piece.length).step_by(size(block_bytes)?) {
            let bytes = ext.block((start + offset) / block_bytes)?;
            let fields = Fields::new(&bytes, start + offset);
            compare(inode, &fields, piece.offset + offset == 0)?;
            block(&fields, &mut counted)?;
        }
    }
    Ok(())
}

fn block(fields: &Fields<'_>, each: Each<'_>) -> Result<(), Error> {
    let mut at = 0;
    while at + 8 <= fields.length() {
        let (inode, length) =
            (fields.le32(at)?, entry_bytes(fields.le16(at + 4)?, fields.length()));
        let name_bytes = usize::from(fields.u8(at + 6)?);
        let cut = at + length > fields.length();
        if cut || length < 8 || !length.is_multiple_of(4) || name_bytes + 8 > length {
            return Err(Error::damaged(
                "a directory's entry cannot be",
                fields.place() + at as u64,
            ));
        }
        let name = fields.slice(at + 8, name_bytes)?;
        let self_or_parent = name == b"." || name == b"..";
        if inode != 0 && !self_or_parent {
            if !is_name(name) {
                let place = fields.place() + at as u64;
                return Err(Error::damaged("a name that cannot be", place));
            }
            each(Entry { name: name.to_vec(), id: NodeId(u64::from(inode)) })?;
        }
        at += length;
    }
    Ok(())
}

/// An entry's length: in blocks of 64 KiB the whole block does not fit its 16 bits.
fn entry_bytes(stored: u16, block_bytes: usize) -> usize {
    match stored {
        0 | u16::MAX if block_bytes >= 1 << 16 => 1 << 16,
        other => usize::from(other),
    }
}

/// Compares a block with the checksum at its end; tables of hashes have theirs elsewhere.
fn compare(inode: &Inode, fields: &Fields<'_>, first: bool) -> Result<(), Error> {
    let Some(seed) = inode.seed else { return Ok(()) };
    // The first block of a hashed directory is its top table; the others look like one deleted name
    // that takes the whole block, where a block of names leaves room for its checksum.
    let deleted = fields.le32(0)? == 0;
    let whole = entry_bytes(fields.le16(4)?, fields.length()) == fields.length();
    if inode.is_hashed() && (first || (deleted && whole)) {
        return Ok(());
    }
    let tail = fields.length() - TAIL_BYTES;
    let is_tail =
        fields.le32(tail)? == 0 && fields.le16(tail + 4)? == 12 && fields.le16(tail + 6)? == 0xde00;
    if is_tail && raw_crc(seed, fields.slice(0, tail)?) == fields.le32(tail + 8)? {
        return Ok(());
    }
    Err(Error::damaged("the checksum of a directory's block differs", fields.place()))
}
