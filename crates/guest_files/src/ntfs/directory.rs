//! The names of a directory: in its record, and in the blocks of its index that are in use.

use super::{
    FIRST_OF_USERS, NUMBER_BITS, Ntfs, ROOT,
    attributes::kind,
    record::{Record, mend},
    units, utf8,
};
use crate::{
    Entry, Error, NodeId, Piece,
    fields::{Fields, size},
    limits::{DIRECTORY_BYTES, ENTRIES},
    tree::is_name,
};

/// The index of names is called `$I30`.
const INDEX_NAME: [u16; 4] = [0x24, 0x49, 0x33, 0x30];

const LAST: u16 = 2;
const DOS_NAME: u8 = 2;

type Each<'e> = &'e mut dyn FnMut(Entry) -> Result<(), Error>;

/// Calls `each` for every name. All blocks are read, in the order of the disk: no tree is followed, so
/// none can lead round in circles.
pub(super) fn list(ntfs: &Ntfs, record: &Record, each: Each<'_>) -> Result<(), Error> {
    if !record.is_directory {
        return Err(Error::damaged("a directory is none", record.place));
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
    let mut block_bytes = 0;
    ntfs.each_attribute(record, kind::INDEX_ROOT, &INDEX_NAME, true, &mut |attribute| {
        let value = attribute.resident()?;
        let value = value.ok_or(Error::damaged("a directory's index has no root", record.place))?;
        let fields = Fields::new(value, record.place);
        block_bytes = fields.le32(8)?;
        names(&fields.from(16)?, &mut counted)
    })?;
    let blocks = ntfs.runs_of(record, kind::INDEX, &INDEX_NAME, true)?;
    let end = blocks.last().map_or(0, Piece::end);
    if end == 0 {
        return Ok(());
    }
    if !(512..=1 << 16).contains(&block_bytes) || !block_bytes.is_power_of_two() {
        return Err(Error::damaged("a directory's block size cannot be", record.place));
    }
    if end > DIRECTORY_BYTES {
        return Err(Error::Limit("a directory's length"));
    }
    let used = bitmap(ntfs, record, end / u64::from(block_bytes))?;
    for index in 0..end / u64::from(block_bytes) {
        let byte = size(index / 8)?;
        if used.get(byte).is_none_or(|byte| byte >> (index % 8) & 1 == 0) {
            continue;
        }
        let place = index * u64::from(block_bytes);
        let mut bytes = vec![0; block_bytes as usize];
        ntfs.read_pieces(&blocks, place, &mut bytes)?;
        mend(&mut bytes, *b"INDX", place)?;
        names(&Fields::new(&bytes, place).from(24)?, &mut counted)?;
    }
    Ok(())
}

/// Which of `count` blocks are in use: a bit each.
fn bitmap(ntfs: &Ntfs, record: &Record, count: u64) -> Result<Vec<u8>, Error> {
    let pieces = ntfs.runs_of(record, kind::BITMAP, &INDEX_NAME, true)?;
    let length = pieces.last().map_or(0, Piece::end).min(count.div_ceil(8));
    let mut bytes = vec![0; size(length)?];
    ntfs.read_pieces(&pieces, 0, &mut bytes)?;
    Ok(bytes)
}

/// The entries of one node of the index, from its header on.
fn names(node: &Fields<'_>, each: Each<'_>) -> Result<(), Error> {
    let (mut at, end) = (node.le32(0)? as usize, node.le32(4)? as usize);
    while at + 16 <= end.min(node.length()) {
        let entry = node.from(at)?;
        let length = usize::from(entry.le16(8)?);
        if entry.le16(12)? & LAST != 0 {
            return Ok(());
        }
        if length < 16 {
            return Err(Error::damaged("a directory's entry cannot be", entry.place()));
        }
        at += length;
        let reference = entry.le64(0)?;
        let number = reference & ((1 << NUMBER_BITS) - 1);
        if entry.u8(16 + 65)? == DOS_NAME || (number < FIRST_OF_USERS && number != ROOT) {
            continue;
        }
        let name = utf8(&units(entry.slice(16 + 66, usize::from(entry.u8(16 + 64)?) * 2)?));
        if number == ROOT && name == b"." {
            continue; // the top directory is in itself
        }
        if !is_name(&name) {
            return Err(Error::damaged("a name that cannot be", entry.place()));
        }
        each(Entry { name, id: NodeId(reference) })?;
    }
    Ok(())
}
