//! Attributes of a record: their values, where their streams are, and the list of those elsewhere.

use super::units;
use crate::{Error, fields::Fields, pieces::Pieces};

/// Kinds of attributes that are read.
pub(super) mod kind {
    pub(in super::super) const STANDARD: u32 = 0x10;
    pub(in super::super) const LIST: u32 = 0x20;
    pub(in super::super) const DATA: u32 = 0x80;
    pub(in super::super) const INDEX_ROOT: u32 = 0x90;
    pub(in super::super) const INDEX: u32 = 0xa0;
    pub(in super::super) const BITMAP: u32 = 0xb0;
    pub(in super::super) const REPARSE: u32 = 0xc0;
}

/// What stands after the last attribute.
pub(super) const END: u32 = u32::MAX;

/// Longer than this no list of attributes is.
pub(super) const LIST_BYTES: u64 = 256 << 10;

const COMPRESSED: u16 = 0x00ff;
const ENCRYPTED: u16 = 0x4000;

#[derive(Clone, Debug)]
pub(super) struct Attribute<'r> {
    pub(super) kind: u32,
    pub(super) name: Vec<u16>,
    pub(super) instance: u16,
    flags: u16,
    is_resident: bool,
    fields: Fields<'r>,
}

impl<'r> Attribute<'r> {
    pub(super) fn parse(fields: Fields<'r>) -> Result<Self, Error> {
        let (at, length) = (usize::from(fields.le16(10)?), usize::from(fields.u8(9)?));
        Ok(Self {
            kind: fields.le32(0)?,
            name: if length == 0 { Vec::new() } else { units(fields.slice(at, length * 2)?) },
            instance: fields.le16(14)?,
            flags: fields.le16(12)?,
            is_resident: fields.u8(8)? == 0,
            fields,
        })
    }

    /// The value, where it stands in the record.
    pub(super) fn resident(&self) -> Result<Option<&'r [u8]>, Error> {
        if !self.is_resident {
            return Ok(None);
        }
        let (length, at) = (self.fields.le32(16)? as usize, usize::from(self.fields.le16(20)?));
        self.fields.slice(at, length).map(Some)
    }

    /// Length of the value.
    pub(super) fn length(&self) -> Result<u64, Error> {
        if self.is_resident { self.fields.le32(16).map(u64::from) } else { self.fields.le64(48) }
    }

    /// How much of a stream was ever written; the rest reads as zero.
    pub(super) fn initialised(&self) -> Result<u64, Error> {
        Ok(self.fields.le64(56)?.min(self.fields.le64(48)?))
    }

    /// Refuses a stream whose bytes are not the content.
    pub(super) fn must_be_plain(&self) -> Result<(), Error> {
        if self.flags & ENCRYPTED != 0 {
            return Err(Error::unsupported("its content is encrypted"));
        }
        if self.flags & COMPRESSED != 0 {
            return Err(Error::unsupported("its content is compressed, which is not read"));
        }
        Ok(())
    }

    /// Adds the runs of this part of the stream: pairs of a length and the distance from the last
    /// place, each of as many bytes as the nibbles before them say; without a distance it is a hole.
    pub(super) fn runs(
        &self,
        cluster_bytes: u64,
        window_bytes: u64,
        pieces: &mut Pieces,
    ) -> Result<(), Error> {
        let damaged = || Error::damaged("a stream's runs cannot be", self.fields.place());
        let pairs = self.fields.from(usize::from(self.fields.le16(32)?))?;
        let (mut at, mut cluster, mut file) = (0, 0_i64, self.fields.le64(16)?);
        while at < pairs.length() {
            let header = pairs.u8(at)?;
            if header == 0 {
                return Ok(());
            }
            let (count, distance) = (usize::from(header & 15), usize::from(header >> 4));
            if count == 0 || count > 8 || distance > 8 {
                return Err(damaged());
            }
            let clusters = signed(pairs.slice(at + 1, count)?);
            let clusters = u64::try_from(clusters).ok().filter(|clusters| *clusters > 0);
            let clusters = clusters.ok_or_else(damaged)?;
            let length = clusters.checked_mul(cluster_bytes).ok_or_else(damaged)?;
            if distance > 0 {
                let distance = signed(pairs.slice(at + 1 + count, distance)?);
                cluster = cluster.checked_add(distance).ok_or_else(damaged)?;
                let place = u64::try_from(cluster).ok().and_then(|c| c.checked_mul(cluster_bytes));
                let place = place.ok_or_else(damaged)?;
                if place.checked_add(length).is_none_or(|end| end > window_bytes) {
                    return Err(damaged());
                }
                let offset = file.checked_mul(cluster_bytes).ok_or_else(damaged)?;
                pieces.add(offset, length, place)?;
            }
            file = file.checked_add(clusters).ok_or_else(damaged)?;
            at += 1 + count + distance;
        }
        Ok(())
    }
}

/// A number of at most 8 bytes, little endian, with its sign.
fn signed(bytes: &[u8]) -> i64 {
    let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
    let mut all = [if negative { 0xff } else { 0 }; 8];
    all[..bytes.len()].copy_from_slice(bytes);
    i64::from_le_bytes(all)
}

/// Where a part of an attribute is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) record: u64,
    pub(super) instance: u16,
    lowest: u64,
}

/// The parts of an attribute that a list names, in the order of the stream.
pub(super) fn parts(list: &[u8], wanted: u32, name: &[u16]) -> Result<Vec<Part>, Error> {
    let fields = Fields::new(list, 0);
    let (mut at, mut found) = (0, Vec::new());
    while at + 26 <= list.len() {
        let entry = fields.from(at)?;
        let length = usize::from(entry.le16(4)?);
        if length < 26 {
            return Err(Error::damaged("a list of attributes cannot be", 0));
        }
        let (name_at, name_units) = (usize::from(entry.u8(7)?), usize::from(entry.u8(6)?));
        let named = units(entry.slice(name_at, name_units * 2)?);
        if entry.le32(0)? == wanted && named == name {
            let (record, instance) = (entry.le64(16)?, entry.le16(24)?);
            found.push(Part { record, instance, lowest: entry.le64(8)? });
        }
        at += length;
    }
    found.sort_by_key(|part| part.lowest);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Piece, Place};

    /// A stream of 8 clusters of 4 KiB with these pairs.
    fn pieces(pairs: &[u8]) -> Result<Vec<Piece>, Error> {
        let mut bytes = vec![0; 64];
        bytes[0] = 0x80;
        bytes[8] = 1;
        bytes[32] = 64;
        for at in [48, 56] {
            bytes[at..at + 8].copy_from_slice(&(8 * 4096_u64 - 1).to_le_bytes());
        }
        bytes.extend_from_slice(pairs);
        let attribute = Attribute::parse(Fields::new(&bytes, 0))?;
        let mut pieces = Pieces::new(attribute.initialised()?);
        attribute.runs(4096, 1 << 30, &mut pieces)?;
        Ok(pieces.into_vec())
    }

    #[test]
    fn runs_go_forth_and_back_and_leave_holes() {
        let found = pieces(&[0x11, 2, 100, 0x01, 3, 0x11, 3, 0xf6, 0]).expect("well formed");
        let at = |offset, length, cluster: u64| Piece {
            offset,
            length,
            place: Place::At(cluster * 4096),
        };
        assert_eq!(found, [at(0, 8192, 100), at(5 * 4096, 3 * 4096 - 1, 90)]);
    }

    #[test]
    fn runs_that_cannot_be_are_damage() {
        for wrong in [
            &[0x11, 0, 5][..],
            &[0x11, 1, 0x80],
            &[0x19, 1],
            &[0x01, 0xff],
            &[0x41, 1, 0, 0, 0, 0x10],
        ] {
            assert!(matches!(pieces(wrong), Err(Error::Damaged { .. })), "{wrong:?}");
        }
    }
}
