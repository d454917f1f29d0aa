//! Headers of sparse extents, to one [`Sparse`]: hosted (`KDMV`), COWD and SEsparse.
//!
//! All three are a directory of tables of grains and differ in widths and in how an entry is
//! written. What is checked here: every size and power of two, that directories lie in the file,
//! and the four bytes that a transfer in text mode would have changed.
//!
//! Sources: VMware Virtual Disk Format 1.1 and 5.0 (hosted, COWD); QEMU's `block/vmdk.c` for
//! SEsparse, of which there is no public document.

use crate::{
    Class, Fault, FileId, Input, Part, Stop,
    bytes::{le16, le32, le64, round_up},
    limits,
};

/// Bytes of a sector: what every offset and size in the headers counts in.
pub(super) const SECTOR: u64 = 512;

/// Magic of a hosted sparse extent.
pub(super) const HOSTED: &[u8; 4] = b"KDMV";

/// Magic of an extent of ESX's first copy-on-write format.
pub(super) const COWD: &[u8; 4] = b"COWD";

/// Magic of a space-efficient sparse extent.
pub(super) const SE: [u8; 8] = [0xbe, 0xba, 0xfe, 0xca, 0, 0, 0, 0];

/// Bits of a hosted header's flags.
pub(super) mod flag {
    /// The four newline bytes are to be checked.
    pub const NEWLINES: u32 = 1;
    /// There is a second directory with tables of its own.
    pub const REDUNDANT: u32 = 1 << 1;
    /// Entry 1 is a grain of zeroes.
    pub const ZEROED: u32 = 1 << 2;
    /// Grains are compressed.
    pub const COMPRESSED: u32 = 1 << 16;
    /// Markers stand before grains and tables.
    pub const MARKERS: u32 = 1 << 17;
}

const FLAGS_KNOWN: u32 =
    flag::NEWLINES | flag::REDUNDANT | flag::ZEROED | flag::COMPRESSED | flag::MARKERS;

/// Place of a directory that is told by a footer.
pub(super) const AT_END: u64 = u64::MAX;

/// The bytes that a transfer in text mode changes.
pub(super) const NEWLINES: &[u8; 4] = b"\n \r\n";

/// Sectors of a grain: 1 GiB, which QEMU reads too.
const GRAIN_SECTORS_MAX: u64 = 1 << 21;

/// Sectors of a compressed grain: it is unpacked in memory.
const PACKED_SECTORS_MAX: u64 = 1 << 15;

/// Entries of a grain table; everybody writes 512.
const ENTRIES_MAX: u64 = 1 << 16;

/// Tables of an extent: keys of caches are made of their numbers.
const TABLES_MAX: u64 = 1 << 40;

/// Where the grains of a sparse extent are, as far as its header says.
#[derive(Debug)]
pub(super) struct Sparse {
    pub file: FileId,
    pub kind: SparseKind,
    /// Bytes of the disk that it says to hold.
    pub capacity: u64,
    /// Bytes of a grain, a power of two.
    pub grain: u64,
    /// Entries of a table.
    pub entries: u64,
    /// Tables that the capacity needs.
    pub tables: u64,
    /// Offset of the directory.
    pub directory: u64,
    /// Offset of the second directory.
    pub redundant: Option<u64>,
    /// Place of an embedded descriptor: offset and length.
    pub descriptor: Option<(u64, u64)>,
    /// Ranges of the file that are no grain and no table.
    pub own: Vec<(u64, u64)>,
    pub features: Vec<String>,
    pub notes: Vec<Fault>,
    pub read_only: Option<Class>,
}

/// The three formats of sparse extents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SparseKind {
    Hosted {
        /// Entry 1 is a grain of zeroes.
        zeroed: bool,
        packed: Packing,
    },
    Cowd,
    Se {
        /// Offset of the tables, and how many have room there.
        tables_at: u64,
        tables_room: u64,
        /// Offset of the first grain.
        grains_at: u64,
    },
}

/// How the grains of a hosted extent are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// As they are.
    Plain,
    /// Each compressed behind its place and length.
    Marked,
    /// Each compressed, without either.
    Bare,
}

impl Sparse {
    /// Bytes of an entry of directory and table.
    pub fn entry(&self) -> u64 {
        if matches!(self.kind, SparseKind::Se { .. }) { 8 } else { 4 }
    }

    /// Bytes of the disk that one table stands for.
    pub fn span(&self) -> u64 {
        self.grain * self.entries
    }

    /// The extent of `file`, by its magic.
    pub fn open(input: &Input, file: FileId, is_se: bool) -> Result<Self, Stop> {
        let head = input.read(file, 0, SECTOR, Part::Header)?;
        match (is_se, head) {
            (true, head) if head.starts_with(&SE) => se(input, file),
            (false, head) if head.starts_with(HOSTED) => hosted(input, file),
            (false, head) if head.starts_with(COWD) => cowd(input, file),
            _ => {
                let text = "the file of a sparse extent has another magic";
                Err(Fault::at(Class::BadMagic, Part::Header, file, 0, text).into())
            }
        }
    }
}

/// Numbers of a hosted header or footer.
struct Hosted {
    version: u32,
    flags: u32,
    capacity: u64,
    grain: u64,
    descriptor: (u64, u64),
    entries: u64,
    redundant: u64,
    directory: u64,
    unclean: bool,
    newlines: [u8; 4],
    algorithm: u16,
}

impl Hosted {
    fn of(bytes: &[u8]) -> Self {
        Self {
            version: le32(bytes, 4),
            flags: le32(bytes, 8),
            capacity: le64(bytes, 12),
            grain: le64(bytes, 20),
            descriptor: (le64(bytes, 28), le64(bytes, 36)),
            entries: u64::from(le32(bytes, 44)),
            redundant: le64(bytes, 48),
            directory: le64(bytes, 56),
            unclean: bytes[72] != 0,
            newlines: [bytes[73], bytes[74], bytes[75], bytes[76]],
            algorithm: le16(bytes, 77),
        }
    }
}

/// A hosted sparse extent: header, and footer where the directory is told there.
pub(super) fn hosted(input: &Input, file: FileId) -> Result<Sparse, Stop> {
    let head = Hosted::of(input.read(file, 0, SECTOR, Part::Header)?);
    let fault = |class, at, text: String| Fault::at(class, Part::Header, file, at, text);
    if head.flags & flag::NEWLINES != 0 && head.newlines != *NEWLINES {
        let text = format!("newline bytes are {:02x?}: a transfer in text mode", head.newlines);
        return Err(fault(Class::TextModeDamage, 73, text).into());
    }
    if !(1..=3).contains(&head.version) {
        let text = format!("a sparse extent of version {}", head.version);
        return Err(fault(Class::UnknownVersion, 4, text).into());
    }
    grain_size(file, head.grain, 20)?;
    if head.entries == 0 || head.entries > ENTRIES_MAX {
        let class = if head.entries == 0 { Class::BadField } else { Class::Limit };
        return Err(fault(class, 44, format!("tables of {} entries", head.entries)).into());
    }
    let capacity = capacity(file, head.capacity, 12)?;
    let packed = packing(file, &head)?;
    let (grain, entries) = (head.grain * SECTOR, head.entries);
    let tables = tables(file, capacity, (grain, entries))?;
    let mut own = vec![(0, SECTOR)];
    let descriptor = embedded(input, file, head.descriptor)?;
    own.extend(descriptor);
    let end = if head.directory == AT_END { Some(footer(input, file, &head)?) } else { None };
    let len = tables * 4;
    let mut notes = Vec::new();
    let stated = end.unwrap_or(head.directory);
    let first = directory(input, file, stated, len);
    let second =
        (head.flags & flag::REDUNDANT != 0).then(|| directory(input, file, head.redundant, len));
    let (at, redundant) = match (first, second) {
        (Ok(first), Some(Ok(second))) if first == second => (first, None),
        (Ok(first), Some(Ok(second))) => (first, Some(second)),
        (Ok(first), None) => (first, None),
        (Ok(one), Some(Err(other))) | (Err(other), Some(Ok(one))) => {
            let text = format!("one of two grain directories is lost: {}", other.text);
            notes.push(fault(Class::CopiesDiffer, other.at.unwrap_or_default(), text));
            (one, None)
        }
        (Err(first), _) => return Err(first.into()),
    };
    for at in [Some(at), redundant].into_iter().flatten() {
        own.push((at, len.next_multiple_of(SECTOR)));
    }
    let unknown = head.flags & !FLAGS_KNOWN;
    if unknown != 0 {
        notes.push(fault(Class::UnknownFeature, 8, format!("unknown flags {unknown:#x}")));
    }
    if head.unclean {
        notes.push(fault(Class::Unclean, 72, "the extent was not closed".to_owned()));
    }
    let zeroed = head.flags & flag::ZEROED != 0;
    let features = [
        (packed != Packing::Plain, "compressed"),
        (zeroed, "zeroed grains"),
        (redundant.is_some(), "redundant directory"),
        (end.is_some(), "footer"),
    ];
    let features = features.iter().filter(|(used, _)| *used).map(|(_, word)| (*word).to_owned());
    let read_only = notes.last().map(|note| note.class);
    Ok(Sparse {
        file,
        kind: SparseKind::Hosted { zeroed, packed },
        capacity,
        grain,
        entries,
        tables,
        directory: at,
        redundant,
        descriptor,
        own,
        features: features.collect(),
        notes,
        read_only,
    })
}

fn grain_size(file: FileId, sectors: u64, at: u64) -> Result<(), Fault> {
    let class = if sectors > GRAIN_SECTORS_MAX {
        Class::Limit
    } else if sectors.is_power_of_two() {
        return Ok(());
    } else {
        Class::BadField
    };
    Err(Fault::at(class, Part::Header, file, at, format!("grains of {sectors} sectors")))
}

/// Sectors of an extent in bytes.
fn capacity(file: FileId, sectors: u64, at: u64) -> Result<u64, Fault> {
    let bytes = sectors.checked_mul(SECTOR).filter(|bytes| *bytes <= limits::VIRTUAL_BYTES_MAX);
    bytes.ok_or_else(|| {
        let text = format!("an extent of {sectors} sectors");
        Fault::at(Class::Limit, Part::Header, file, at, text)
    })
}

/// How many tables a capacity needs.
fn tables(file: FileId, capacity: u64, (grain, entries): (u64, u64)) -> Result<u64, Fault> {
    let tables = capacity.div_ceil(grain).div_ceil(entries);
    if tables <= TABLES_MAX {
        return Ok(tables);
    }
    let text = format!("a directory of {tables} tables");
    Err(Fault::at(Class::Limit, Part::Header, file, 12, text))
}

fn packing(file: FileId, head: &Hosted) -> Result<Packing, Fault> {
    let fault = |class, text: String| Err(Fault::at(class, Part::Header, file, 77, text));
    let compressed = head.flags & flag::COMPRESSED != 0;
    match (compressed, head.algorithm) {
        (false, 0 | 1) => return Ok(Packing::Plain),
        (true, 1) => {}
        (true, 0) => {
            let text = "grains are compressed, and no algorithm is named".to_owned();
            return fault(Class::BadField, text);
        }
        (_, other) => return fault(Class::UnknownFeature, format!("compression {other}")),
    }
    if head.grain > PACKED_SECTORS_MAX {
        return fault(Class::Limit, format!("compressed grains of {} sectors", head.grain));
    }
    let marked = head.flags & flag::MARKERS != 0;
    Ok(if marked { Packing::Marked } else { Packing::Bare })
}

/// Offset and length of the embedded descriptor, if there is one.
fn embedded(
    input: &Input,
    file: FileId,
    (at, sectors): (u64, u64),
) -> Result<Option<(u64, u64)>, Fault> {
    if at == 0 || sectors == 0 {
        return Ok(None);
    }
    let len = sectors.checked_mul(SECTOR).filter(|len| *len <= limits::DESCRIPTOR_BYTES_MAX);
    let Some(len) = len else {
        let text = format!("a descriptor of {sectors} sectors");
        return Err(Fault::at(Class::Limit, Part::Descriptor, file, 36, text));
    };
    let offset = at.saturating_mul(SECTOR);
    input.inside(file, offset, len, Part::Header)?;
    Ok(Some((offset, len)))
}

/// Where a directory is, if it lies in the file.
fn directory(input: &Input, file: FileId, sector: u64, len: u64) -> Result<u64, Fault> {
    if sector == 0 && len > 0 {
        let text = "no grain directory is named";
        return Err(Fault::at(Class::BadField, Part::Header, file, 56, text));
    }
    let at = sector.saturating_mul(SECTOR);
    input.inside(file, at, len, Part::Header)?;
    Ok(at)
}

/// The last three sectors of a stream: footer marker, footer, end-of-stream marker. The sector in
/// which the directory begins.
fn footer(input: &Input, file: FileId, head: &Hosted) -> Result<u64, Stop> {
    let at = input.len(file).saturating_sub(3 * SECTOR);
    let fault = |class, text: &str| Fault::at(class, Part::Footer, file, at, text);
    let tail = input.read(file, at, 3 * SECTOR, Part::Footer)?;
    let is_marker = |at: usize, value, kind| {
        (le64(tail, at), le32(tail, at + 8), le32(tail, at + 12)) == (value, 0, kind)
    };
    if !is_marker(0, 1, marker::FOOTER) || !is_marker(1024, 0, marker::END) {
        let text = "the stream has no footer at its end: it was cut";
        return Err(fault(Class::Truncated, text).into());
    }
    let bytes = &tail[512..1024];
    if !bytes.starts_with(HOSTED) {
        return Err(fault(Class::BadMagic, "the footer has another magic").into());
    }
    let foot = Hosted::of(bytes);
    let sizes =
        |of: &Hosted| (of.version, of.flags, of.capacity, of.grain, of.entries, of.algorithm);
    if sizes(&foot) != sizes(head) {
        return Err(fault(Class::CopiesDiffer, "header and footer differ in sizes or flags").into());
    }
    if foot.directory == AT_END {
        return Err(fault(Class::BadField, "the footer names no grain directory").into());
    }
    Ok(foot.directory)
}

/// Kinds of markers in a stream.
pub(super) mod marker {
    /// The stream ends.
    pub const END: u32 = 0;
    /// A grain table follows.
    pub const TABLE: u32 = 1;
    /// The grain directory follows.
    pub const DIRECTORY: u32 = 2;
    /// The footer follows.
    pub const FOOTER: u32 = 3;
}

/// Bytes of a COWD header.
const COWD_BYTES: u64 = 2048;

/// Entries of a COWD table.
const COWD_ENTRIES: u64 = 4096;

/// COWD: the extent was in use when it was last seen.
const COWD_INCONSISTENT: u32 = 4;

fn cowd(input: &Input, file: FileId) -> Result<Sparse, Stop> {
    let head = input.read(file, 0, COWD_BYTES, Part::Header)?;
    let fault = |class, at, text: String| Fault::at(class, Part::Header, file, at, text);
    let (version, flags) = (le32(head, 4), le32(head, 8));
    if version != 1 {
        let text = format!("a COWD extent of version {version}");
        return Err(fault(Class::UnknownVersion, 4, text).into());
    }
    let capacity = capacity(file, u64::from(le32(head, 12)), 12)?;
    grain_size(file, u64::from(le32(head, 16)), 16)?;
    let grain = u64::from(le32(head, 16)) * SECTOR;
    let tables = tables(file, capacity, (grain, COWD_ENTRIES))?;
    let room = u64::from(le32(head, 24));
    if room < tables {
        let text = format!("a directory of {room} tables, and {tables} are needed");
        return Err(fault(Class::TableTooSmall, 24, text).into());
    }
    let at = directory(input, file, u64::from(le32(head, 20)), tables * 4)?;
    let mut notes = Vec::new();
    let unknown = flags & !(3 | COWD_INCONSISTENT);
    if unknown != 0 {
        notes.push(fault(Class::UnknownFeature, 8, format!("unknown flags {unknown:#x}")));
    }
    if flags & COWD_INCONSISTENT != 0 || le32(head, 1648) != 0 {
        notes.push(fault(Class::Unclean, 1648, "the extent was not closed".to_owned()));
    }
    let read_only = notes.last().map(|note| note.class);
    Ok(Sparse {
        file,
        kind: SparseKind::Cowd,
        capacity,
        grain,
        entries: COWD_ENTRIES,
        tables,
        directory: at,
        redundant: None,
        descriptor: None,
        own: vec![(0, COWD_BYTES), (at, (tables * 4).next_multiple_of(SECTOR))],
        features: vec!["COWD".to_owned()],
        notes,
        read_only,
    })
}

/// Version 2.1, the only one.
const SE_VERSION: u64 = 0x2_0000_0001;

/// Sectors of an SEsparse grain and table, the only ones in use.
const SE_GRAIN: u64 = 8;
const SE_TABLE: u64 = 64;

/// Magic of the header that changes while the extent is in use.
const SE_VOLATILE: u64 = 0xcafe_cafe;

fn se(input: &Input, file: FileId) -> Result<Sparse, Stop> {
    let head = input.read(file, 0, SECTOR, Part::Header)?;
    let fault = |class, at, text: String| Fault::at(class, Part::Header, file, at, text);
    let field = |number: usize| le64(head, number * 8);
    if field(1) != SE_VERSION {
        let text = format!("an SEsparse extent of version {:#x}", field(1));
        return Err(fault(Class::UnknownVersion, 8, text).into());
    }
    if (field(3), field(4)) != (SE_GRAIN, SE_TABLE) || field(5) != 0 {
        let text = format!(
            "grains of {} sectors, tables of {} and flags {:#x}",
            field(3),
            field(4),
            field(5)
        );
        return Err(fault(Class::UnknownFeature, 24, text).into());
    }
    let capacity = capacity(file, field(2), 16)?;
    let (grain, entries) = (SE_GRAIN * SECTOR, SE_TABLE * SECTOR / 8);
    let tables = tables(file, capacity, (grain, entries))?;
    let room = field(17).saturating_mul(SECTOR / 8);
    if room < tables {
        let text = format!("a directory of {room} tables, and {tables} are needed");
        return Err(fault(Class::TableTooSmall, 136, text).into());
    }
    let at = directory(input, file, field(16), tables * 8)?;
    let volatile_at = field(10).saturating_mul(SECTOR);
    input.inside(file, volatile_at, SECTOR, Part::Header)?;
    let tables_at = directory(input, file, field(18), 0)?;
    let grains_at = directory(input, file, field(24), 0)?;
    let tables_room = field(19) / SE_TABLE;
    let volatile = input.read(file, volatile_at, SECTOR, Part::Header)?;
    if le64(volatile, 0) != SE_VOLATILE {
        let text = "the volatile header has another magic".to_owned();
        return Err(fault(Class::BadMagic, volatile_at, text).into());
    }
    if le64(volatile, 24) != 0 {
        let text = "the extent has a journal that was not replayed".to_owned();
        return Err(fault(Class::Unclean, volatile_at + 24, text).into());
    }
    Ok(Sparse {
        file,
        kind: SparseKind::Se { tables_at, tables_room, grains_at },
        capacity,
        grain,
        entries,
        tables,
        directory: at,
        redundant: None,
        descriptor: None,
        own: vec![
            (0, SECTOR),
            (volatile_at, SECTOR),
            (at, round_up(tables * 8, SECTOR).unwrap_or(SECTOR)),
        ],
        features: vec!["SEsparse".to_owned()],
        notes: Vec::new(),
        read_only: None,
    })
}
