//! Numbers out of bytes: what lies past their end is damage, never a panic.

use crate::Error;

/// A structure's bytes, and where on the file system they lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'b> {
    bytes: &'b [u8],
    place: u64,
}

impl<'b> Fields<'b> {
    /// The bytes that lie at `place`.
    pub(crate) const fn new(bytes: &'b [u8], place: u64) -> Self {
        Self { bytes, place }
    }

    pub(crate) const fn length(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) const fn place(&self) -> u64 {
        self.place
    }

    /// A part of them.
    pub(crate) fn slice(&self, at: usize, length: usize) -> Result<&'b [u8], Error> {
        let found = self.bytes.get(at..).and_then(|rest| rest.get(..length));
        found.ok_or(Error::damaged("a structure is cut short", self.place))
    }

    /// The rest of them, from `at` on.
    pub(crate) fn from(&self, at: usize) -> Result<Fields<'b>, Error> {
        let rest = self.bytes.get(at..);
        let bytes = rest.ok_or(Error::damaged("a structure is cut short", self.place))?;
        Ok(Self { bytes, place: self.place.saturating_add(at as u64) })
    }

    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], Error> {
        let found = self.bytes.get(at..).and_then(|rest| rest.first_chunk());
        found.copied().ok_or(Error::damaged("a structure is cut short", self.place))
    }

    pub(crate) fn u8(&self, at: usize) -> Result<u8, Error> {
        self.array::<1>(at).map(|bytes| bytes[0])
    }

    pub(crate) fn le16(&self, at: usize) -> Result<u16, Error> {
        self.array(at).map(u16::from_le_bytes)
    }

    pub(crate) fn le32(&self, at: usize) -> Result<u32, Error> {
        self.array(at).map(u32::from_le_bytes)
    }

    pub(crate) fn le64(&self, at: usize) -> Result<u64, Error> {
        self.array(at).map(u64::from_le_bytes)
    }

    pub(crate) fn be16(&self, at: usize) -> Result<u16, Error> {
        self.array(at).map(u16::from_be_bytes)
    }

    pub(crate) fn be32(&self, at: usize) -> Result<u32, Error> {
        self.array(at).map(u32::from_be_bytes)
    }

    pub(crate) fn be64(&self, at: usize) -> Result<u64, Error> {
        self.array(at).map(u64::from_be_bytes)
    }
}

/// `high` and `low` half of a number.
pub(crate) const fn wide(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

/// A number that fits memory, or damage: what it counts was bounded by the disk's length.
pub(crate) fn size(value: u64) -> Result<usize, Error> {
    usize::try_from(value).map_err(|_| Error::Limit("a length"))
}
