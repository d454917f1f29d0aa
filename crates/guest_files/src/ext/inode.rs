//! An inode: what a file is, and the 60 bytes that lead to its content.

use super::{Super, raw_crc};
use crate::{
    Error, Kind, Time,
    fields::{Fields, wide},
};

const ENCRYPTED: u32 = 0x800;
const EXTENTS: u32 = 0x8_0000;
const INLINE: u32 = 0x1000_0000;
const HASHED: u32 = 0x1000;

/// Bytes before the part that only large inodes have.
const OLD_BYTES: usize = 128;

#[derive(Clone, Debug)]
pub(super) struct Inode {
    pub(super) number: u32,
    /// Where it lies, for messages.
    pub(super) place: u64,
    pub(super) mode: u16,
    pub(super) user: u32,
    pub(super) group: u32,
    pub(super) size: u64,
    pub(super) links: u16,
    pub(super) modified: Time,
    pub(super) flags: u32,
    /// Seed of the checksums of its own blocks.
    pub(super) seed: Option<u32>,
    bytes: Vec<u8>,
}

impl Inode {
    pub(super) fn parse(
        number: u32,
        bytes: Vec<u8>,
        place: u64,
        facts: &Super,
    ) -> Result<Self, Error> {
        let fields = Fields::new(&bytes, place);
        let generation = fields.le32(0x64)?;
        let seed = facts
            .seed
            .map(|seed| raw_crc(raw_crc(seed, &number.to_le_bytes()), &generation.to_le_bytes()));
        let mode = fields.le16(0)?;
        if mode == 0 {
            return Err(Error::damaged("a name leads to an inode that is not in use", place));
        }
        if let Some(seed) = seed {
            compare(&fields, seed)?;
        }
        let extra = if bytes.len() > OLD_BYTES { fields.le16(0x80)? } else { 0 };
        let fine = if extra >= 12 { fields.le32(0x88)? } else { 0 };
        let seconds = i64::from(fields.le32(0x10)?.cast_signed());
        // Two bits more of seconds, then nanoseconds; a file system can hold more than 10^9 of them.
        let modified = Time {
            seconds: seconds + (i64::from(fine & 3) << 32),
            nanoseconds: (fine >> 2).min(999_999_999),
        };
        let directory = mode & 0xf000 == 0x4000;
        let high = match fields.le32(0x6c)? {
            // Of a directory this was something else once; only large directories use it.
            _ if directory && facts.incompat & 0x4000 == 0 => 0,
            high => high,
        };
        Ok(Self {
            number,
            place,
            mode,
            user: u32::from(fields.le16(0x2)?) | u32::from(fields.le16(0x78)?) << 16,
            group: u32::from(fields.le16(0x18)?) | u32::from(fields.le16(0x7a)?) << 16,
            size: wide(high, fields.le32(0x4)?),
            links: fields.le16(0x1a)?,
            modified,
            flags: fields.le32(0x20)?,
            seed,
            bytes,
        })
    }

    pub(super) fn kind(&self) -> Result<Kind, Error> {
        Ok(match self.mode >> 12 {
            0x8 => Kind::File,
            0x4 => Kind::Directory,
            0xa => Kind::Link,
            0x1 => Kind::Special("pipe"),
            0x2 => Kind::Special("character device"),
            0x6 => Kind::Special("block device"),
            0xc => Kind::Special("socket"),
            _ => return Err(Error::damaged("an inode is of no known kind", self.place)),
        })
    }

    pub(super) const fn is_encrypted(&self) -> bool {
        self.flags & ENCRYPTED != 0
    }

    pub(super) const fn is_inline(&self) -> bool {
        self.flags & INLINE != 0
    }

    pub(super) const fn has_extents(&self) -> bool {
        self.flags & EXTENTS != 0
    }

    pub(super) const fn is_hashed(&self) -> bool {
        self.flags & HASHED != 0
    }

    /// The 60 bytes that hold a root of extents, a block map, a short target or inline data.
    pub(super) fn root(&self) -> Result<Fields<'_>, Error> {
        let bytes = self.fields().slice(0x28, 60)?;
        Ok(Fields::new(bytes, self.place + 0x28))
    }

    pub(super) const fn fields(&self) -> Fields<'_> {
        Fields::new(self.bytes.as_slice(), self.place)
    }

    /// The target of a link that is short enough to stand in the inode.
    pub(super) fn short_target(&self, length: usize) -> Option<&[u8]> {
        if self.has_extents() || self.is_inline() || length >= 60 {
            return None;
        }
        self.bytes.get(0x28..0x28 + length)
    }
}

/// Compares the inode with its checksum: 16 bits of it stand in the old part, 16 in the new.
fn compare(fields: &Fields<'_>, seed: u32) -> Result<(), Error> {
    let mut sum = raw_crc(seed, fields.slice(0, 0x7c)?);
    sum = raw_crc(sum, &[0; 2]);
    sum = raw_crc(sum, fields.slice(0x7e, 2)?);
    let mut expected = u32::from(fields.le16(0x7c)?);
    let mut mask = 0xffff;
    if fields.length() > OLD_BYTES {
        let extra = usize::from(fields.le16(0x80)?);
        sum = raw_crc(sum, fields.slice(0x80, 2)?);
        if extra >= 4 {
            expected |= u32::from(fields.le16(0x82)?) << 16;
            mask = u32::MAX;
            sum = raw_crc(sum, &[0; 2]);
        } else {
            sum = raw_crc(sum, fields.slice(0x82, 2)?);
        }
        sum = raw_crc(sum, fields.slice(0x84, fields.length() - 0x84)?);
    }
    if sum & mask == expected {
        Ok(())
    } else {
        Err(Error::damaged("an inode's checksum differs", fields.place()))
    }
}
