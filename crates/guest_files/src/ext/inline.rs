//! Content that lies in the inode: 60 bytes in place of the map, the rest in the attribute
//! `system.data`.

use super::inode::Inode;
use crate::{Error, fields::Fields};

const ATTRIBUTES_MAGIC: u32 = 0xea02_0000;
const SYSTEM: u8 = 7;

/// The whole content, padded to what there is room for.
pub(super) fn content(inode: &Inode) -> Result<Vec<u8>, Error> {
    let root = inode.root()?;
    let mut bytes = root.slice(0, 60)?.to_vec();
    bytes.extend_from_slice(&rest(inode)?);
    Ok(bytes)
}

/// The entries of a directory: the first four bytes are its parent.
pub(super) fn entries(inode: &Inode) -> Result<[Vec<u8>; 2], Error> {
    let root = inode.root()?;
    Ok([root.slice(4, 56)?.to_vec(), rest(inode)?])
}

/// What stands in the attribute; empty where there is none.
fn rest(inode: &Inode) -> Result<Vec<u8>, Error> {
    let fields = inode.fields();
    if fields.length() <= 0x84 {
        return Ok(Vec::new());
    }
    let begin = 0x80 + usize::from(fields.le16(0x80)?);
    let area: Fields<'_> = fields.from(begin)?;
    if area.length() < 4 || area.le32(0)? != ATTRIBUTES_MAGIC {
        return Ok(Vec::new());
    }
    let area = area.from(4)?;
    let mut at = 0;
    while at + 16 <= area.length() && area.le32(at)? != 0 {
        let name_bytes = usize::from(area.u8(at)?);
        let named = area.slice(at + 16, name_bytes)?;
        if area.u8(at + 1)? == SYSTEM && named == b"data" {
            let (offset, length) = (usize::from(area.le16(at + 2)?), area.le32(at + 8)?);
            return Ok(area.slice(offset, length as usize)?.to_vec());
        }
        at += (16 + name_bytes).next_multiple_of(4);
    }
    Ok(Vec::new())
}
