//! A record of the master file table: a file, or a part of one with many attributes.

use super::attributes::{Attribute, END};
use crate::{Error, fields::Fields};

const IN_USE: u16 = 1;
const DIRECTORY: u16 = 2;

/// The last two bytes of each stretch of this length are kept elsewhere, to find torn writes.
const STRIDE: usize = 512;

#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) number: u64,
    /// Where it lies in the table, for messages.
    pub(super) place: u64,
    pub(super) links: u16,
    pub(super) is_directory: bool,
    /// Reference of the record that this one is a part of; 0 for a file's first.
    pub(super) base: u64,
    uses: u16,
    begin: usize,
    bytes: Vec<u8>,
}

impl Record {
    pub(super) fn parse(number: u64, mut bytes: Vec<u8>, place: u64) -> Result<Self, Error> {
        mend(&mut bytes, *b"FILE", place)?;
        let fields = Fields::new(&bytes, place);
        let flags = fields.le16(22)?;
        if flags & IN_USE == 0 {
            return Err(Error::damaged("a name leads to a record that is not in use", place));
        }
        let used = fields.le32(24)? as usize;
        let begin = usize::from(fields.le16(20)?);
        let (links, base, uses) = (fields.le16(18)?, fields.le64(32)?, fields.le16(16)?);
        if used > bytes.len() {
            return Err(Error::damaged("a record says that it is longer than it is", place));
        }
        bytes.truncate(used);
        let is_directory = flags & DIRECTORY != 0;
        Ok(Self { number, place, links, is_directory, base, uses, begin, bytes })
    }

    /// The record, if it is the use that a name means; 0 means any.
    pub(super) fn used(self, uses: u64) -> Result<Self, Error> {
        if uses != 0 && uses != u64::from(self.uses) {
            return Err(Error::damaged("a name leads to a record that was used anew", self.place));
        }
        Ok(self)
    }

    /// Its attributes, in their order.
    pub(super) fn attributes(&self) -> Result<Vec<Attribute<'_>>, Error> {
        let fields = Fields::new(&self.bytes, self.place);
        let (mut at, mut found) = (self.begin, Vec::new());
        while at + 4 <= self.bytes.len() && fields.le32(at)? != END {
            let length = fields.le32(at + 4)? as usize;
            if length < 24 || !length.is_multiple_of(8) {
                return Err(Error::damaged("an attribute's length cannot be", self.place));
            }
            let bytes = fields.slice(at, length)?;
            found.push(Attribute::parse(Fields::new(bytes, self.place + at as u64))?);
            at += length;
        }
        Ok(found)
    }
}

/// Checks a structure's mark and puts the bytes back that stand at its front; a torn write shows here.
pub(super) fn mend(bytes: &mut [u8], mark: [u8; 4], place: u64) -> Result<(), Error> {
    let fields = Fields::new(bytes, place);
    if fields.slice(0, 4)? != mark {
        return Err(Error::damaged("a record has no mark", place));
    }
    let (at, count) = (usize::from(fields.le16(4)?), usize::from(fields.le16(6)?));
    if count != bytes.len() / STRIDE + 1 {
        return Err(Error::damaged("a record's update sequence cannot be", place));
    }
    let kept = fields.slice(at, count * 2)?.to_vec();
    let (expected, kept) = kept.split_at(2);
    for (stretch, put_back) in bytes.chunks_exact_mut(STRIDE).zip(kept.chunks_exact(2)) {
        let end = &mut stretch[STRIDE - 2..];
        if end != expected {
            return Err(Error::damaged("a record is torn", place));
        }
        end.copy_from_slice(put_back);
    }
    Ok(())
}
