//! The region tables: where block table and metadata are (MS-VHDX 2.2.3).
//!
//! There are two equal copies, changed through the log. The first valid one counts; a damaged or
//! different second one is a note.

use crate::{
    Class, Fault, Input, Part, Stop,
    bytes::{array, le32, le64, narrow, wide},
};

use super::{
    contents::Contents,
    guid::{self, Guid},
    head::{self, Header},
};

/// Where the two tables are.
pub(super) const TABLES: [u64; 2] = [192 << 10, 256 << 10];

/// Bytes of a table that its checksum covers.
pub(super) const TABLE_BYTES: u64 = 64 << 10;

/// Regions are multiples of this, in place and length.
pub(super) const UNIT: u64 = 1 << 20;

/// Entries that a table has room for.
const ENTRIES_MAX: u32 = 2047;

const TABLE_HEADER: usize = 16;
const ENTRY: usize = 32;

/// What the region table says.
#[derive(Debug)]
pub(super) struct Regions {
    /// Place and length of the block table's region.
    pub bat: (u64, u64),
    /// Place and length of the metadata region.
    pub metadata: (u64, u64),
    /// Everything of the file that is no block.
    pub structures: Structures,
    /// What is wrong with a copy, and regions that are not known and need not be.
    pub notes: Vec<Fault>,
}

/// Places of the file that hold no guest data, in order and apart.
#[derive(Debug)]
pub(super) struct Structures(Vec<(u64, u64, &'static str)>);

impl Structures {
    /// The structure that `len` bytes from `at` on meet, if they meet one. Past 64 bits is no place.
    pub fn meets(&self, at: u64, len: u64) -> Option<&'static str> {
        let end = at.saturating_add(len);
        let after = self.0.partition_point(|(start, ..)| *start < end);
        let (_, past, name) = self.0[..after].last()?;
        (*past > at).then_some(*name)
    }

    /// Bytes that they take.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|(start, end, _)| end - start).sum()
    }
}

/// Reads the region tables.
pub(super) fn read(contents: &Contents, input: &Input, header: &Header) -> Result<Regions, Stop> {
    let len = TABLE_BYTES * 2;
    let bytes = contents.read(input, TABLES[0], len, Part::RegionTable)?;
    let (first, second) = bytes.split_at(narrow(TABLE_BYTES));
    let mut notes = Vec::new();
    let (at, table) = match (valid(contents, TABLES[0], first), valid(contents, TABLES[1], second))
    {
        (Ok(()), Ok(())) => {
            if first != second {
                let text = "the second region table is another than the first";
                notes.push(fault(contents, Class::CopiesDiffer, TABLES[1], text));
            }
            (TABLES[0], first)
        }
        (Ok(()), Err(bad)) => {
            notes.push(bad);
            (TABLES[0], first)
        }
        (Err(bad), Ok(())) => {
            notes.push(bad);
            (TABLES[1], second)
        }
        (Err(bad), Err(_)) => return Err(bad.into()),
    };
    Ok(parse(contents, header, at, table, notes)?)
}

fn valid(contents: &Contents, at: u64, table: &[u8]) -> Result<(), Fault> {
    if !table.starts_with(b"regi") {
        return Err(fault(
            contents,
            Class::BadMagic,
            at,
            "the region table does not begin with regi",
        ));
    }
    if head::checksum(table) != le32(table, 4) {
        return Err(fault(
            contents,
            Class::BadChecksum,
            at,
            "the region table's checksum is wrong",
        ));
    }
    Ok(())
}

fn parse(
    contents: &Contents,
    header: &Header,
    at: u64,
    table: &[u8],
    mut notes: Vec<Fault>,
) -> Result<Regions, Fault> {
    let count = le32(table, 8);
    if count > ENTRIES_MAX {
        let text = format!("{count} regions, a table has room for {ENTRIES_MAX}");
        return Err(fault(contents, Class::Limit, at + 8, text));
    }
    let mut places = vec![(0, head::SECTION, "the header section")];
    // An empty log need not be in its place; `log::region` has said so.
    let has_place = header.log_at >= head::SECTION && header.log_at.is_multiple_of(UNIT);
    if has_place && contents.holds(header.log_at, header.log_len) {
        places.push((header.log_at, header.log_at + header.log_len, "the log"));
    }
    let (mut bat, mut metadata, mut unknown) = (None, None, None);
    let mut seen: Vec<Guid> = Vec::new();
    for (number, entry) in table[TABLE_HEADER..].chunks_exact(ENTRY).enumerate() {
        if wide(number) >= u64::from(count) {
            break;
        }
        let entry_at = at + wide(TABLE_HEADER + number * ENTRY);
        let region = Region::parse(entry, entry_at);
        let known = match region.guid {
            guid::BAT => Some((&mut bat, "the block table")),
            guid::METADATA => Some((&mut metadata, "the metadata")),
            _ => None,
        };
        if seen.contains(&region.guid) {
            let text = format!("two regions are called {}", guid::text(&region.guid));
            return Err(fault(contents, Class::BadField, entry_at, text));
        }
        seen.push(region.guid);
        let checked = region.check(contents);
        if let Some((place, name)) = known {
            checked?;
            places.push((region.start, region.start + region.len, name));
            *place = Some((region.start, region.len));
        } else if region.required {
            unknown = unknown.or(Some(region));
        } else {
            let text = format!("the region {} is not known", guid::text(&region.guid));
            let unknown = fault(contents, Class::UnknownFeature, entry_at, text);
            notes.push(checked.err().unwrap_or(unknown));
            if contents.holds(region.start, region.len) {
                places.push((region.start, region.start + region.len, "a region not known here"));
            }
        }
    }
    let (Some(bat), Some(metadata)) = (bat, metadata) else {
        let name = if bat.is_none() { "block table" } else { "metadata" };
        let text = format!("no region holds the {name}");
        return Err(fault(contents, Class::MissingPart, at, text));
    };
    if let Some(region) = unknown {
        let text = format!("the region {} is required and not known", guid::text(&region.guid));
        return Err(fault(contents, Class::UnknownFeature, region.at, text));
    }
    let structures = apart(contents, at, places)?;
    Ok(Regions { bat, metadata, structures, notes })
}

/// An entry of the table.
struct Region {
    at: u64,
    guid: Guid,
    start: u64,
    len: u64,
    required: bool,
}

impl Region {
    fn parse(entry: &[u8], at: u64) -> Self {
        Self {
            at,
            guid: array(entry, 0),
            start: le64(entry, 16),
            len: u64::from(le32(entry, 24)),
            required: le32(entry, 28) & 1 != 0,
        }
    }

    fn check(&self, contents: &Contents) -> Result<(), Fault> {
        let (start, len) = (self.start, self.len);
        if !start.is_multiple_of(UNIT) {
            let text = format!("a region begins at byte {start}, no multiple of 1 MiB");
            return Err(fault(contents, Class::PointerMisaligned, self.at, text));
        }
        if start < head::SECTION {
            let text = format!("a region begins at byte {start}, in the header section");
            return Err(fault(contents, Class::Overlap, self.at, text));
        }
        if !len.is_multiple_of(UNIT) {
            let text = format!("a region of {len} bytes, no multiple of 1 MiB");
            return Err(fault(contents, Class::BadField, self.at, text));
        }
        contents.inside(start, len, Part::RegionTable)
    }
}

/// The places in order, if no two of them meet.
fn apart(
    contents: &Contents,
    at: u64,
    mut places: Vec<(u64, u64, &'static str)>,
) -> Result<Structures, Fault> {
    places.retain(|(start, end, _)| start < end);
    places.sort_unstable();
    for pair in places.windows(2) {
        let ((.., end, first), (start, _, second)) = (pair[0], pair[1]);
        if start < end {
            let text = format!("{second} begins at byte {start}, before {first} ends at {end}");
            return Err(fault(contents, Class::Overlap, at, text));
        }
    }
    Ok(Structures(places))
}

fn fault(contents: &Contents, class: Class, at: u64, text: impl Into<String>) -> Fault {
    Fault::at(class, Part::RegionTable, contents.file(), at, text)
}
