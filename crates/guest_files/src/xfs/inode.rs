//! An inode: what a file is, and its data fork.

use super::{Super, checksum};
use crate::{Error, Kind, Time, fields::Fields};

/// How the data fork says where the content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The fork is the content.
    Local,
    /// The fork is a list of extents.
    Extents,
    /// The fork is the root of a tree of extents.
    Tree,
    /// There is none: a device, a pipe, a socket.
    None,
}

mod flags2 {
    pub(super) const BIG_TIME: u64 = 1 << 3;
    pub(super) const MANY_EXTENTS: u64 = 1 << 4;
}

const REALTIME: u16 = 1;

#[derive(Clone, Debug)]
pub(super) struct Inode {
    pub(super) number: u64,
    /// Where it lies, for messages.
    pub(super) place: u64,
    pub(super) mode: u16,
    pub(super) user: u32,
    pub(super) group: u32,
    pub(super) links: u32,
    pub(super) size: u64,
    pub(super) modified: Time,
    pub(super) form: Form,
    /// Extents of the data fork.
    pub(super) extents: u64,
    flags: u16,
    fork: (usize, usize),
    bytes: Vec<u8>,
}

impl Inode {
    pub(super) fn parse(
        number: u64,
        bytes: Vec<u8>,
        place: u64,
        facts: &Super,
    ) -> Result<Self, Error> {
        let fields = Fields::new(&bytes, place);
        let damaged = |what| Error::damaged(what, place);
        if fields.slice(0, 2)? != b"IN" {
            return Err(damaged("an inode has no mark"));
        }
        let version = fields.u8(4)?;
        let is_new = version == 3;
        if is_new != (facts.version == 5) || !(1..=3).contains(&version) {
            return Err(damaged("an inode's version cannot be"));
        }
        let (mut more_flags, mut begin) = (0, 100);
        if is_new {
            if checksum(&fields, 100)? != fields.le32(100)? {
                return Err(damaged("an inode's checksum differs"));
            }
            if fields.be64(152)? != number {
                return Err(damaged("an inode stands where another belongs"));
            }
            (more_flags, begin) = (fields.be64(120)?, 176);
        }
        let mode = fields.be16(2)?;
        if mode == 0 {
            return Err(damaged("a name leads to an inode that is not in use"));
        }
        let form = match fields.u8(5)? {
            0 | 5 => Form::None,
            1 => Form::Local,
            2 => Form::Extents,
            3 => Form::Tree,
            _ => return Err(damaged("an inode's form cannot be")),
        };
        let fork_bytes = match fields.u8(82)? {
            0 => bytes.len() - begin,
            eighths => (usize::from(eighths) * 8).min(bytes.len() - begin),
        };
        let extents = if more_flags & flags2::MANY_EXTENTS != 0 {
            fields.be64(24)?
        } else {
            u64::from(fields.be32(76)?)
        };
        let modified = if more_flags & flags2::BIG_TIME != 0 {
            // Nanoseconds since the least time that 32 bits of seconds could hold.
            let since = fields.be64(40)?;
            Time {
                seconds: i64::try_from(since / 1_000_000_000).unwrap_or(0) + i64::from(i32::MIN),
                nanoseconds: u32::try_from(since % 1_000_000_000).unwrap_or(0),
            }
        } else {
            Time {
                seconds: i64::from(fields.be32(40)?.cast_signed()),
                nanoseconds: fields.be32(44)?.min(999_999_999),
            }
        };
        let links = if version == 1 { u32::from(fields.be16(6)?) } else { fields.be32(16)? };
        Ok(Self {
            number,
            place,
            mode,
            user: fields.be32(8)?,
            group: fields.be32(12)?,
            links,
            size: fields.be64(56)?,
            modified,
            form,
            extents,
            flags: fields.be16(90)?,
            fork: (begin, fork_bytes),
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

    pub(super) const fn is_realtime(&self) -> bool {
        self.flags & REALTIME != 0
    }

    /// The data fork.
    pub(super) fn fork(&self) -> Result<Fields<'_>, Error> {
        let (begin, length) = self.fork;
        let place = self.place + begin as u64;
        Ok(Fields::new(Fields::new(&self.bytes, self.place).slice(begin, length)?, place))
    }
}
