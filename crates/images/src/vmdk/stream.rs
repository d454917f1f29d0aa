//! A `streamOptimized` image in one pass: grains in guest order, each compressed by itself.
//!
//! ```text
//! header, descriptor │ grain │ grain │ … │ marker, table │ grain │ … │ marker, directory │ footer │ end
//! ```
//!
//! [`pack_grain`] is pure, so that callers compress on as many threads as they like; [`Stream`] puts
//! the results in order and keeps one table and the directory, nothing else. A grain of zeroes is
//! left out. The bytes depend on the data, the plan and the deflate library alone.
//!
//! Source: VMware Virtual Disk Format 5.0, "Stream-Optimized Compressed Sparse Extents".

use flate2::{Compress, Compression, FlushCompress, Status};

use crate::{
    Format,
    bytes::{narrow, wide},
    layout::{Plan, Unwritable},
    vmdk::{
        header::{AT_END, SECTOR, flag, marker},
        write::{Adapter, ENTRIES, GRAIN, Head, SECTORS_MAX, Text, disk_bytes, unwritable},
    },
};

/// Bytes of the guest in a grain.
pub const GRAIN_BYTES: u64 = GRAIN;

/// Sector of the first grain.
const OVERHEAD: u64 = 128;

/// A stream under way. [`Stream::begin`] first, then grains in rising order, then
/// [`Stream::finish`]; what they return is written out in that order.
#[derive(Debug)]
pub struct Stream {
    head: Vec<u8>,
    capacity: u64,
    /// Sectors given out.
    sectors: u64,
    /// Number of the table in the making; the directory has all before it.
    table: u64,
    entries: Vec<u32>,
    directory: Vec<u32>,
    /// The next grain must not have a lower number.
    next: u64,
}

/// A grain compressed, or nothing if it is all zero. `plain` are the [`GRAIN_BYTES`] of a grain; the
/// last one of a disk may be shorter, it is filled with zeroes. `level` is that of deflate, 1 to 9.
pub fn pack_grain(plain: &[u8], level: u32) -> Vec<u8> {
    assert!(wide(plain.len()) <= GRAIN, "a grain has {GRAIN} bytes");
    if plain.iter().all(|byte| *byte == 0) {
        return Vec::new();
    }
    let filled = wide(plain.len()) < GRAIN;
    let mut whole = Vec::new();
    if filled {
        whole.extend_from_slice(plain);
        whole.resize(narrow(GRAIN), 0);
    }
    let plain = if filled { &whole } else { plain };
    let mut state = Compress::new(Compression::new(level.clamp(1, 9)), true);
    let mut packed = Vec::with_capacity(plain.len() + 1024);
    let status = state.compress_vec(plain, &mut packed, FlushCompress::Finish);
    // Deflate adds 5 bytes to each stored block of at most 64 KiB, the envelope 6.
    assert!(matches!(status, Ok(Status::StreamEnd)), "a grain fits what it may grow to");
    packed
}

impl Stream {
    /// A stream of the plan's disk; what is held does not matter here. `name` is the file name that
    /// the descriptor shall give.
    pub fn new(plan: &Plan, name: &str, adapter: Adapter) -> Result<Self, Unwritable> {
        if plan.parent.is_some() {
            return Err(unwritable("a stream has no parent: take a sparse image".to_owned()));
        }
        let size = disk_bytes(plan.virtual_size)?;
        let tables = size.div_ceil(GRAIN).div_ceil(ENTRIES);
        // The directory stays in memory, 4 bytes a table: 32 MiB for 256 TiB.
        if tables > TABLES_MAX {
            let most = TABLES_MAX * ENTRIES * GRAIN;
            let wanted = plan.virtual_size;
            return Err(Unwritable::TooLarge { format: Format::Vmdk, most, wanted });
        }
        let text = Text::of(plan, name, adapter)?;
        let capacity = size / SECTOR;
        let mut head = header(capacity, AT_END);
        head.extend(text.sectors("streamOptimized", size));
        head.resize(narrow(OVERHEAD * SECTOR), 0);
        Ok(Self {
            head,
            capacity,
            sectors: OVERHEAD,
            table: 0,
            entries: vec![0; narrow(ENTRIES)],
            directory: Vec::new(),
            next: 0,
        })
    }

    /// Header and descriptor.
    pub fn begin(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.head)
    }

    /// The bytes that grain `number` adds, `packed` being what [`pack_grain`] made of it; the tables
    /// of all grains before it are among them where they are due.
    pub fn grain(&mut self, number: u64, packed: &[u8]) -> Result<Vec<u8>, Unwritable> {
        assert!(number >= self.next, "grains come in rising order");
        assert!(number < self.capacity.div_ceil(GRAIN / SECTOR), "a grain past the disk's end");
        self.next = number + 1;
        let mut out = Vec::new();
        while self.table < number / ENTRIES {
            self.end_table(&mut out);
        }
        if !packed.is_empty() {
            self.room()?;
            let sector = u32::try_from(self.sectors + wide(out.len()) / SECTOR);
            self.entries[narrow(number % ENTRIES)] = sector.expect("room was made sure of");
            out.extend((number * (GRAIN / SECTOR)).to_le_bytes());
            out.extend(u32::try_from(packed.len()).expect("grains are small").to_le_bytes());
            out.extend_from_slice(packed);
            out.resize(out.len().next_multiple_of(narrow(SECTOR)), 0);
        }
        self.sectors += wide(out.len()) / SECTOR;
        Ok(out)
    }

    /// The last table, directory, footer and end.
    pub fn finish(mut self) -> Result<Vec<u8>, Unwritable> {
        self.room()?;
        let mut out = Vec::new();
        let tables = self.capacity.div_ceil(GRAIN / SECTOR).div_ceil(ENTRIES);
        while self.table < tables {
            self.end_table(&mut out);
        }
        let len = (tables * 4).next_multiple_of(SECTOR);
        out.extend(mark(len / SECTOR, marker::DIRECTORY));
        let directory = self.sectors + wide(out.len()) / SECTOR;
        let end = out.len() + narrow(len);
        out.extend(self.directory.iter().flat_map(|entry| entry.to_le_bytes()));
        out.resize(end, 0);
        out.extend(mark(1, marker::FOOTER));
        out.extend(header(self.capacity, directory));
        out.extend(mark(0, marker::END));
        Ok(out)
    }

    /// Whether all that can come before the next grain still has sectors with 32-bit numbers: the
    /// table under way, empty ones cost nothing.
    fn room(&self) -> Result<(), Unwritable> {
        if self.sectors < SECTORS_MAX - SPARE {
            return Ok(());
        }
        let most = (SECTORS_MAX - SPARE) * SECTOR;
        let wanted = self.capacity * SECTOR;
        Err(Unwritable::TooLarge { format: Format::Vmdk, most, wanted })
    }

    /// Ends the table in the making; one without grains is left out.
    fn end_table(&mut self, out: &mut Vec<u8>) {
        let mut at = 0;
        if self.entries.iter().any(|entry| *entry != 0) {
            out.extend(mark(ENTRIES * 4 / SECTOR, marker::TABLE));
            at = self.sectors + wide(out.len()) / SECTOR;
            out.extend(self.entries.iter().flat_map(|entry| entry.to_le_bytes()));
            self.entries.fill(0);
        }
        self.directory.push(u32::try_from(at).expect("room was made sure of"));
        self.table += 1;
    }
}

/// Tables of a directory that is kept in memory.
const TABLES_MAX: u64 = 8 << 20;

/// Sectors that must be left for a table, so that its number has 32 bits.
const SPARE: u64 = 1 << 10;

fn header(capacity: u64, directory: u64) -> Vec<u8> {
    let flags = flag::NEWLINES | flag::COMPRESSED | flag::MARKERS;
    let directories = [0, directory];
    Head { version: 3, flags, capacity, directories, overhead: OVERHEAD, algorithm: 1 }.bytes()
}

/// A marker that is no grain's: how many sectors follow, and what they are.
fn mark(sectors: u64, kind: u32) -> Vec<u8> {
    let mut bytes = sectors.to_le_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes.extend(kind.to_le_bytes());
    bytes.resize(narrow(SECTOR), 0);
    bytes
}
