//! The names of a directory: in its inode, in one block, or in many.
//!
//! Blocks that only help to look a name up lie past 32 GiB of the directory and are not read.

use super::{
    Xfs,
    inode::{Form, Inode},
    map,
};
use crate::{
    Entry, Error, Kind, NodeId, Place,
    fields::{Fields, size},
    limits::{DIRECTORY_BYTES, ENTRIES},
    tree::is_name,
};

/// Where the blocks that hold names end.
const NAMES_END: u64 = 32 << 30;

/// Mark of a stretch without a name.
const FREE: u16 = 0xffff;

type Each<'e> = &'e mut dyn FnMut(Entry) -> Result<(), Error>;

/// Calls `each` for every name but `.` and `..`.
pub(super) fn list(xfs: &Xfs, inode: &Inode, each: Each<'_>) -> Result<(), Error> {
    if inode.kind()? != Kind::Directory {
        return Err(Error::damaged("a directory is none", inode.place));
    }
    let mut count = 0;
    let mut counted = |entry: Entry, place: u64| {
        count += 1;
        if count > ENTRIES {
            return Err(Error::Limit("a directory's number of names"));
        }
        if !is_name(&entry.name) {
            return Err(Error::damaged("a name that cannot be", place));
        }
        each(entry)
    };
    if inode.form == Form::Local {
        return short(xfs, &inode.fork()?, &mut counted);
    }
    let unit = xfs.facts.directory_bytes;
    let mut block = Vec::new();
    let mut length = 0;
    for piece in map::pieces(xfs, inode, NAMES_END)? {
        let Place::At(start) = piece.place else { continue };
        length += piece.length;
        if length > DIRECTORY_BYTES {
            return Err(Error::Limit("a directory's length"));
        }
        // A block of a directory can be of several blocks of the file system, which lie apart.
        let step = unit.min(piece.length);
        let mut done = 0;
        while done < piece.length {
            let room = unit - block.len() as u64;
            let now = step.min(room).min(piece.length - done);
            block.extend_from_slice(&xfs.window.bytes(start + done, size(now)?)?);
            done += now;
            if block.len() as u64 == unit {
                names(xfs, &Fields::new(&block, start + done - now), &mut counted)?;
                block.clear();
            }
        }
    }
    Ok(())
}

type Counted<'e> = &'e mut dyn FnMut(Entry, u64) -> Result<(), Error>;

/// A directory in its inode: numbers of 4 bytes, or of 8 if one needs them.
fn short(xfs: &Xfs, fork: &Fields<'_>, each: Counted<'_>) -> Result<(), Error> {
    let (four, eight) = (usize::from(fork.u8(0)?), usize::from(fork.u8(1)?));
    // One of the two counts is 0; which says how wide the numbers are.
    let (count, width) = if eight > 0 { (four.max(eight), 8) } else { (four, 4) };
    let mut at = 2 + width;
    for _ in 0..count {
        let length = usize::from(fork.u8(at)?);
        let name = fork.slice(at + 3, length)?.to_vec();
        at += 3 + length + usize::from(xfs.facts.has_kinds);
        let number = if width == 8 { fork.be64(at)? } else { u64::from(fork.be32(at)?) };
        at += width;
        each(Entry { name, id: NodeId(number) }, fork.place())?;
    }
    Ok(())
}

/// The names of one block.
fn names(xfs: &Xfs, block: &Fields<'_>, each: Counted<'_>) -> Result<(), Error> {
    let (header, has_tail) = match block.slice(0, 4)? {
        b"XD2D" => (16, false),
        b"XD2B" => (16, true),
        b"XDD3" => (64, false),
        b"XDB3" => (64, true),
        _ => return Err(Error::damaged("a directory's block has no mark", block.place())),
    };
    if (header == 64) != (xfs.facts.version == 5) {
        return Err(Error::damaged("a directory's block is of another version", block.place()));
    }
    xfs.compare(block, 4)?;
    let mut end = block.length();
    if has_tail {
        // A directory of one block ends in the table of its hashes.
        let count = block.be32(end - 8)? as usize;
        let table = count.checked_mul(8).and_then(|table| table.checked_add(8));
        end = table
            .and_then(|table| end.checked_sub(table))
            .ok_or(Error::damaged("a directory's table is too long", block.place()))?;
    }
    let mut at = header;
    while at < end {
        if block.be16(at)? == FREE {
            let length = usize::from(block.be16(at + 2)?);
            if length < 8 {
                return Err(Error::damaged("a directory's entry cannot be", block.place()));
            }
            at += length;
            continue;
        }
        let (number, length) = (block.be64(at)?, usize::from(block.u8(at + 8)?));
        let name = block.slice(at + 9, length)?;
        let whole = (9 + length + usize::from(xfs.facts.has_kinds) + 2).next_multiple_of(8);
        if length == 0 || at + whole > end {
            return Err(Error::damaged("a directory's entry cannot be", block.place() + at as u64));
        }
        if name != b"." && name != b".." {
            let entry = Entry { name: name.to_vec(), id: NodeId(number) };
            each(entry, block.place() + at as u64)?;
        }
        at += whole;
    }
    Ok(())
}
