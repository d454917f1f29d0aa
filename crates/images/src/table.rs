//! A table of equal entries in a file (L1, BAT, grain directory): whole in memory, or by pages.

use crate::{
    FileId, Input, Part, Stop,
    bytes::narrow,
    cache::Cache,
    limits::{CACHE_BYTES, RESIDENT_BYTES},
};

/// Bytes of a page of a table that is not held whole.
const PAGE: u64 = 64 << 10;

/// A table whose place in the file has been checked.
#[derive(Debug)]
pub(crate) struct Table {
    file: FileId,
    offset: u64,
    entry: u64,
    count: u64,
    part: Part,
    whole: Option<Vec<u8>>,
    pages: Cache,
}

impl Table {
    /// The table of `count` entries of `entry` bytes (a power of two) at `offset`. Read now if it is
    /// no larger than [`RESIDENT_BYTES`]. Fails with [`crate::Class::PointerOutsideFile`] where it
    /// is not within the file; the caller makes sure that its length does not overflow.
    pub fn open(
        input: &Input,
        (file, offset): (FileId, u64),
        (entry, count): (u64, u64),
        part: Part,
    ) -> Result<Self, Stop> {
        let len = entry.saturating_mul(count);
        input.inside(file, offset, len, part)?;
        let whole = if len <= RESIDENT_BYTES {
            Some(input.read(file, offset, len, part)?.to_vec())
        } else {
            None
        };
        Ok(Self { file, offset, entry, count, part, whole, pages: Cache::new(CACHE_BYTES) })
    }

    /// Number of entries.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Offset of an entry in the file.
    pub fn at(&self, index: u64) -> u64 {
        self.offset + index * self.entry
    }

    /// The bytes of the whole table, if it is held.
    pub fn whole(&self) -> Option<&[u8]> {
        self.whole.as_deref()
    }

    /// The bytes of an entry below `count`.
    pub fn entry(&mut self, index: u64, input: &Input) -> Result<&[u8], Stop> {
        assert!(index < self.count, "an entry past the end of its table");
        let at = index * self.entry;
        if self.whole.is_none() {
            let page = at / PAGE;
            if !self.pages.has(page) {
                let len = (self.count * self.entry - page * PAGE).min(PAGE);
                let bytes = input.read(self.file, self.offset + page * PAGE, len, self.part)?;
                self.pages.put(page, bytes.to_vec());
            }
            let skip = narrow(at % PAGE);
            let bytes = self.pages.get(page).expect("put here above");
            return Ok(&bytes[skip..skip + narrow(self.entry)]);
        }
        let bytes = self.whole.as_deref().unwrap_or_default();
        Ok(&bytes[narrow(at)..narrow(at + self.entry)])
    }
}
