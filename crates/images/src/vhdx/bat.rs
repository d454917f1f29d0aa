//! The block allocation table: geometry, entries, and blocks that two entries claim (MS-VHDX 2.5).
//!
//! ```text
//! chunk = 2²³ sectors    payload × ratio │ bitmap │ payload × ratio │ bitmap │ payload …
//! ```
//!
//! Up to [`limits::RESIDENT_BYTES`] the table is held whole, and every block that two entries claim
//! is known when the image is open: the entry further back is refused. Larger tables are read by
//! pages, and only a full check finds those.

use crate::{
    Class, Fault, Input, Part, Stop,
    bytes::{le64, narrow, wide},
    cache::Cache,
    limits,
};

use super::{contents::Contents, metadata::Metadata, regions::Structures};

/// Bytes of an entry.
pub(super) const ENTRY: u64 = 8;

/// Bytes of a sector bitmap block; a bit for each sector of a chunk.
pub(super) const BITMAP_BYTES: u64 = 1 << 20;

/// Sectors of a chunk.
const CHUNK_SECTORS: u64 = 1 << 23;

/// Bytes of a page of a table that is not held whole.
const PAGE: u64 = 64 << 10;

/// Bits of an entry's index and of its place in MiB, where both are packed in 64 bits.
const INDEX_BITS: u32 = 22;

/// Longer files are refused, their log replayed too, so that places in MiB have 42 bits.
pub(super) const FILE_BYTES_MAX: u64 = 1 << 62;

/// How a disk is cut into blocks, and their order in the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    /// Bytes that the guest sees.
    pub virtual_size: u64,
    /// Bytes of a block.
    pub block: u64,
    /// Bytes of a sector.
    pub sector: u64,
    /// Blocks of a chunk.
    pub ratio: u64,
    /// Blocks of the disk.
    pub blocks: u64,
    /// Entries of the table.
    pub entries: u64,
    /// The disk has a parent.
    pub differs: bool,
}

/// Whose an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The payload block of that number.
    Payload(u64),
    /// The sector bitmap of the chunk of that number.
    Bitmap(u64),
}

impl Geometry {
    /// Of a disk as its metadata have it; sizes were checked.
    pub fn new(virtual_size: u64, block: u64, sector: u32, differs: bool) -> Self {
        let sector = u64::from(sector);
        let ratio = CHUNK_SECTORS * sector / block;
        let blocks = virtual_size.div_ceil(block);
        let entries = if differs {
            blocks.div_ceil(ratio) * (ratio + 1)
        } else {
            blocks + (blocks - 1) / ratio
        };
        Self { virtual_size, block, sector, ratio, blocks, entries, differs }
    }

    /// Of a disk that is read.
    pub fn of(metadata: &Metadata) -> Self {
        let differs = metadata.locator.is_some();
        Self::new(metadata.virtual_size, metadata.block, metadata.sector, differs)
    }

    /// Index of the entry of a payload block.
    pub fn payload(&self, block: u64) -> u64 {
        block + block / self.ratio
    }

    /// Index of the entry of a chunk's sector bitmap.
    pub fn bitmap(&self, chunk: u64) -> u64 {
        chunk * (self.ratio + 1) + self.ratio
    }

    /// Whose entry that is. Of a differencing disk, the last chunk has entries past the last block.
    pub fn owner(&self, index: u64) -> Owner {
        let (chunk, place) = (index / (self.ratio + 1), index % (self.ratio + 1));
        if place == self.ratio {
            Owner::Bitmap(chunk)
        } else {
            Owner::Payload(chunk * self.ratio + place)
        }
    }

    /// Bytes of a block that the guest sees.
    pub fn visible(&self, block: u64) -> u64 {
        self.virtual_size.saturating_sub(block * self.block).min(self.block)
    }
}

/// What an entry says of a payload block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Not in this file: the parent's, or nothing's.
    Absent,
    /// Undefined, zero or unmapped: reads as zero, and no parent shows through.
    Zero,
    /// In the file as a whole.
    Present,
    /// In the file by sectors, as a bitmap says.
    Partial,
    /// One that the format does not know.
    Unknown(u64),
}

/// An entry of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// Its number in the table.
    pub index: u64,
    /// Where it stands in the file.
    pub at: u64,
    raw: u64,
}

impl Entry {
    /// What it says of a payload block.
    pub fn state(&self) -> State {
        match self.raw & 7 {
            0 => State::Absent,
            1..=3 => State::Zero,
            6 => State::Present,
            7 => State::Partial,
            other => State::Unknown(other),
        }
    }

    /// Where it leads to in the file.
    pub fn place(&self) -> u64 {
        self.raw >> 20 << 20
    }

    /// Bits that must be zero.
    pub fn reserved(&self) -> u64 {
        self.raw & 0xf_fff8
    }

    /// It claims bytes of the file.
    pub fn claims(&self) -> bool {
        matches!(self.state(), State::Present | State::Partial)
    }
}

/// The table of an open image.
#[derive(Debug)]
pub(super) struct Bat {
    at: u64,
    entries: u64,
    whole: Option<Vec<u8>>,
    pages: Cache,
    /// Indices of entries whose block another one has, in order; of a table that is held whole.
    twice: Vec<u64>,
}

impl Bat {
    /// The table in the region of `len` bytes at `at`.
    pub fn open(
        contents: &Contents,
        input: &Input,
        (at, len): (u64, u64),
        geometry: &Geometry,
    ) -> Result<Self, Stop> {
        let bytes = geometry.entries * ENTRY;
        if bytes > len {
            let text = format!("the block table needs {bytes} bytes, its region has {len}");
            let (class, part) = (Class::TableTooSmall, Part::RegionTable);
            return Err(Fault::at(class, part, contents.file(), at, text).into());
        }
        let pages = Cache::new(limits::CACHE_BYTES);
        let mut bat = Self { at, entries: geometry.entries, whole: None, pages, twice: Vec::new() };
        if bytes <= limits::RESIDENT_BYTES {
            let whole = contents.read(input, at, bytes, Part::BatEntry)?;
            bat.twice = twice(contents, &whole, geometry);
            bat.whole = Some(whole);
        }
        Ok(bat)
    }

    /// Whether the table is held whole.
    pub fn is_whole(&self) -> bool {
        self.whole.is_some()
    }

    /// An entry below the number of entries.
    pub fn entry(&mut self, index: u64, contents: &Contents, input: &Input) -> Result<Entry, Stop> {
        assert!(index < self.entries, "an entry past the end of the block table");
        let at = index * ENTRY;
        let raw = match &self.whole {
            Some(whole) => le64(whole, narrow(at)),
            None => le64(self.page(at / PAGE, contents, input)?, narrow(at % PAGE)),
        };
        Ok(Entry { index, at: self.at + at, raw })
    }

    fn page(&mut self, page: u64, contents: &Contents, input: &Input) -> Result<&[u8], Stop> {
        if !self.pages.has(page) {
            let len = (self.entries * ENTRY - page * PAGE).min(PAGE);
            let bytes = contents.read(input, self.at + page * PAGE, len, Part::BatEntry)?;
            self.pages.put(page, bytes);
        }
        Ok(self.pages.get(page).expect("put here above"))
    }

    /// Where the `len` bytes of an entry that claims some begin: they meet no structure and no block
    /// of an entry before, and begin within the file. Whether they end there is not asked.
    pub fn claimed(
        &self,
        entry: &Entry,
        len: u64,
        contents: &Contents,
        structures: &Structures,
    ) -> Result<u64, Fault> {
        let place = entry.place();
        let fault =
            |class, text| Err(Fault::at(class, Part::BatEntry, contents.file(), entry.at, text));
        if let Some(structure) = structures.meets(place, len) {
            return fault(Class::Overlap, format!("a block at byte {place} meets {structure}"));
        }
        if place >= contents.len() {
            let text = format!("a block at byte {place}, the file has {} bytes", contents.len());
            return fault(Class::PointerOutsideFile, text);
        }
        if self.twice.binary_search(&entry.index).is_ok() {
            return fault(Class::Overlap, format!("another block is at byte {place} too"));
        }
        Ok(place)
    }
}

/// The entries of a whole table whose block another one has: of two, the one further back.
fn twice(contents: &Contents, table: &[u8], geometry: &Geometry) -> Vec<u64> {
    let mut claims = Vec::new();
    for (index, bytes) in table.chunks_exact(narrow(ENTRY)).enumerate() {
        let entry = Entry { index: wide(index), at: 0, raw: le64(bytes, 0) };
        let is_used = match geometry.owner(entry.index) {
            Owner::Payload(block) => block < geometry.blocks,
            Owner::Bitmap(_) => geometry.differs,
        };
        if is_used && entry.claims() && entry.place() < contents.len() {
            claims.push(((entry.place() >> 20) << INDEX_BITS) | entry.index);
        }
    }
    claims.sort_unstable();
    let unpack = |claim: u64| {
        let index = claim & ((1 << INDEX_BITS) - 1);
        let len = match geometry.owner(index) {
            Owner::Payload(_) => geometry.block,
            Owner::Bitmap(_) => BITMAP_BYTES,
        };
        (index, claim >> INDEX_BITS << 20, len)
    };
    let mut twice = Vec::new();
    let mut last: Option<(u64, u64)> = None; // index and end of the last claim that holds
    for claim in claims {
        let (index, start, len) = unpack(claim);
        match last {
            Some((holder, end)) if start < end => {
                twice.push(holder.max(index));
                if index < holder {
                    last = Some((index, start + len));
                }
            }
            _ => last = Some((index, start + len)),
        }
    }
    twice.sort_unstable();
    twice
}
