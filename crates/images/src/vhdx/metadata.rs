//! The metadata: what disk this is (MS-VHDX 2.6).
//!
//! A table of items, each with a GUID and a place in the region. Items that say they are required and
//! are not known refuse the file; others that are not known are left alone.

use crate::{
    Class, Fault, Input, Part, Stop,
    bytes::{array, le16, le32, le64, wide},
};

use super::{
    contents::Contents,
    guid::{self, Guid},
    locator::{self, Locator},
};

/// Bytes at the region's start that only the table uses.
pub(super) const TABLE_BYTES: u64 = 64 << 10;

/// Bytes of an item.
const ITEM_BYTES_MAX: u64 = 1 << 20;

/// Items that a table has room for.
const ITEMS_MAX: u16 = 2047;

/// The largest disk in bytes (2.6.2.2).
pub(super) const VIRTUAL_BYTES_MAX: u64 = 64 << 40;

/// Bytes of a block, from and to; a power of two (2.6.2.1).
pub(super) const BLOCK_BYTES: (u64, u64) = (1 << 20, 256 << 20);

/// An item's flags (2.6.1.2).
pub(super) const IS_USER: u32 = 1;
pub(super) const IS_DISK: u32 = 2;
pub(super) const IS_REQUIRED: u32 = 4;

/// Flags of the file parameters (2.6.2.1).
pub(super) const LEAVE_ALLOCATED: u32 = 1;
pub(super) const HAS_PARENT: u32 = 2;

const ENTRY: usize = 32;

/// What the metadata say.
#[derive(Debug)]
pub(super) struct Metadata {
    /// Bytes of a block.
    pub block: u64,
    /// Blocks stay allocated: what is called a fixed disk.
    pub fixed: bool,
    /// Bytes that the guest sees.
    pub virtual_size: u64,
    /// Bytes of a logical sector.
    pub sector: u32,
    /// Bytes of a physical sector, if it says so.
    pub physical_sector: Option<u32>,
    /// The disk's own id, if it has one.
    pub disk_id: Option<Guid>,
    /// Where the parent is, of a differencing disk.
    pub locator: Option<Locator>,
    /// What is odd.
    pub notes: Vec<Fault>,
}

/// Reads the metadata region, `len` bytes from `at` on.
pub(super) fn read(
    contents: &Contents,
    input: &Input,
    (at, len): (u64, u64),
) -> Result<Metadata, Stop> {
    if len < TABLE_BYTES {
        let text = format!("the metadata region has {len} bytes");
        return Err(fault(contents, Class::TableTooSmall, at, text).into());
    }
    // The items of all known programs are in the first MiB: one read, of which the others are parts.
    let bytes = contents.read(input, at, len.min(ITEM_BYTES_MAX), Part::Metadata)?;
    let region = Region { contents, at, len };
    let (items, notes) = region.items(&bytes)?;
    let mut metadata = Metadata::parse(&region, &items, input)?;
    metadata.notes.extend(notes);
    Ok(metadata)
}

/// Where a differencing disk's parent locator is, and where another one has room.
pub(super) struct LocatorPlace {
    /// Its entry of the table, as an offset in the file.
    pub entry: u64,
    /// Where it begins in the file.
    pub at: u64,
    /// Its length.
    pub len: u64,
    /// Whole sectors of the region that no item uses, in order: from, to.
    free: Vec<(u64, u64)>,
}

impl LocatorPlace {
    /// Where another locator of so many bytes has room.
    pub fn free(&self, wanted: u64) -> Option<u64> {
        let wanted = wanted.next_multiple_of(512);
        let fits = |(start, end): &&(u64, u64)| end.saturating_sub(*start) >= wanted;
        self.free.iter().find(fits).map(|(start, _)| *start)
    }
}

/// The place of the parent locator, if there is one, and room for another.
pub(super) fn locator_place(
    contents: &Contents,
    input: &Input,
    (at, len): (u64, u64),
) -> Result<Option<LocatorPlace>, Stop> {
    let bytes = contents.read(input, at, len.min(ITEM_BYTES_MAX), Part::Metadata)?;
    let (mut items, _) = Region { contents, at, len }.items(&bytes)?;
    let Some(found) = find(&items, &guid::PARENT_LOCATOR).copied() else { return Ok(None) };
    items.retain(|item| item.len > 0);
    items.sort_unstable_by_key(|item| item.at);
    let (mut place, mut free) = (at + TABLE_BYTES, Vec::new());
    for item in &items {
        free.push((place, item.at / 512 * 512));
        place = place.max((item.at + item.len).next_multiple_of(512));
    }
    free.push((place, at + len));
    Ok(Some(LocatorPlace { entry: found.entry, at: found.at, len: found.len, free }))
}

struct Region<'a> {
    contents: &'a Contents,
    at: u64,
    len: u64,
}

/// An item of the table.
#[derive(Clone, Copy)]
struct Item {
    /// Where its entry stands in the file.
    entry: u64,
    guid: Guid,
    /// Where it begins in the file.
    at: u64,
    len: u64,
    flags: u32,
}

impl Region<'_> {
    /// The items of the table, all within the region and apart.
    fn items(&self, bytes: &[u8]) -> Result<(Vec<Item>, Vec<Fault>), Fault> {
        let fault = |class, at, text: String| Err(fault(self.contents, class, at, text));
        if !bytes.starts_with(b"metadata") {
            let text = "the metadata table does not begin with metadata".to_owned();
            return fault(Class::BadMagic, self.at, text);
        }
        let count = le16(bytes, 10);
        if count > ITEMS_MAX {
            let text = format!("{count} metadata items, the table has room for {ITEMS_MAX}");
            return fault(Class::Limit, self.at + 10, text);
        }
        let (mut items, mut notes) = (Vec::new(), Vec::new());
        for number in 1..=usize::from(count) {
            let at = number * ENTRY;
            let item = self.item(&bytes[at..at + ENTRY], self.at + wide(at))?;
            let twice = items.iter().any(|other: &Item| {
                other.guid == item.guid && (other.flags ^ item.flags) & IS_USER == 0
            });
            if twice {
                let text = format!("two metadata items are called {}", guid::text(&item.guid));
                return fault(Class::BadField, item.entry, text);
            }
            if item.flags & !(IS_USER | IS_DISK | IS_REQUIRED) != 0 {
                let text = format!("the item's flags are {:#x}", item.flags);
                let (class, part) = (Class::ReservedBits, Part::Metadata);
                notes.push(Fault::at(class, part, self.contents.file(), item.entry, text));
            }
            items.push(item);
        }
        let mut places: Vec<&Item> = items.iter().filter(|item| item.len > 0).collect();
        places.sort_unstable_by_key(|item| item.at);
        for pair in places.windows(2) {
            if pair[1].at < pair[0].at + pair[0].len {
                let text = format!("two metadata items share byte {}", pair[1].at);
                return fault(Class::Overlap, pair[1].entry, text);
            }
        }
        Ok((items, notes))
    }

    fn item(&self, bytes: &[u8], entry: u64) -> Result<Item, Fault> {
        let (offset, len) = (u64::from(le32(bytes, 16)), u64::from(le32(bytes, 20)));
        let fault = |class, text| Err(fault(self.contents, class, entry, text));
        if len > 0 && offset < TABLE_BYTES {
            let text =
                format!("a metadata item begins at byte {offset} of the region, in its table");
            return fault(Class::Overlap, text);
        }
        if offset + len > self.len {
            let text = format!(
                "a metadata item of {len} bytes at byte {offset} lies outside its region of {} bytes",
                self.len
            );
            return fault(Class::PointerOutsideFile, text);
        }
        if len > ITEM_BYTES_MAX {
            return fault(Class::Limit, format!("a metadata item of {len} bytes"));
        }
        Ok(Item { entry, guid: array(bytes, 0), at: self.at + offset, len, flags: le32(bytes, 24) })
    }

    /// An item of exactly `N` bytes, if it is there.
    fn fixed<const N: usize>(
        &self,
        items: &[Item],
        guid: &Guid,
        input: &Input,
    ) -> Result<Option<(u64, [u8; N])>, Stop> {
        let Some(item) = find(items, guid) else { return Ok(None) };
        if item.len != wide(N) {
            let text = format!("a metadata item of {} bytes, it must have {N}", item.len);
            return Err(fault(self.contents, Class::BadField, item.entry, text).into());
        }
        let bytes = self.contents.read(input, item.at, item.len, Part::Metadata)?;
        Ok(Some((item.at, array(&bytes, 0))))
    }

    fn needed<const N: usize>(
        &self,
        items: &[Item],
        guid: &Guid,
        input: &Input,
        name: &str,
    ) -> Result<(u64, [u8; N]), Stop> {
        let missing = || fault(self.contents, Class::MissingPart, self.at, format!("no {name}"));
        Ok(self.fixed(items, guid, input)?.ok_or_else(missing)?)
    }
}

impl Metadata {
    fn parse(region: &Region<'_>, items: &[Item], input: &Input) -> Result<Self, Stop> {
        let bad = |class, at, text| fault(region.contents, class, at, text);
        let (at, parameters) =
            region.needed::<8>(items, &guid::FILE_PARAMETERS, input, "file parameters")?;
        let (block, flags) = (u64::from(le32(&parameters, 0)), le32(&parameters, 4));
        let (size_at, size) = region.needed::<8>(items, &guid::VIRTUAL_SIZE, input, "disk size")?;
        let (sector_at, sector) =
            region.needed::<4>(items, &guid::LOGICAL_SECTOR, input, "logical sector size")?;
        let physical = region.fixed::<4>(items, &guid::PHYSICAL_SECTOR, input)?;
        let disk_id = region.fixed::<16>(items, &guid::DISK_ID, input)?;
        let (size, sector) = (le64(&size, 0), le32(&sector, 0));
        if !block.is_power_of_two() || !(BLOCK_BYTES.0..=BLOCK_BYTES.1).contains(&block) {
            let text = format!("blocks of {block} bytes");
            return Err(bad(Class::BadField, at, text).into());
        }
        if !matches!(sector, 512 | 4096) {
            let text = format!("logical sectors of {sector} bytes");
            return Err(bad(Class::BadField, sector_at, text).into());
        }
        if size > VIRTUAL_BYTES_MAX {
            let text = format!("a disk of {size} bytes, the format allows {VIRTUAL_BYTES_MAX}");
            return Err(bad(Class::Limit, size_at, text).into());
        }
        if size == 0 || !size.is_multiple_of(u64::from(sector)) {
            let text = format!("a disk of {size} bytes, in sectors of {sector}");
            return Err(bad(Class::BadField, size_at, text).into());
        }
        let mut notes = Vec::new();
        if flags & !(LEAVE_ALLOCATED | HAS_PARENT) != 0 {
            let text = format!("the file parameters' flags are {flags:#x}");
            notes.push(bad(Class::ReservedBits, at + 4, text));
        }
        for (name, there) in
            [("physical sector size", physical.is_some()), ("disk id", disk_id.is_some())]
        {
            if !there {
                notes.push(bad(Class::MissingPart, region.at, format!("no {name}")));
            }
        }
        let physical_sector = physical.map(|(at, bytes)| (at, le32(&bytes, 0)));
        if let Some((at, other)) = physical_sector.filter(|(_, bytes)| !matches!(bytes, 512 | 4096))
        {
            notes.push(bad(Class::BadField, at, format!("physical sectors of {other} bytes")));
        }
        let locator = parent(region, items, flags & HAS_PARENT != 0, input, &mut notes)?;
        unknown(region, items, &mut notes)?;
        Ok(Self {
            block,
            fixed: flags & LEAVE_ALLOCATED != 0,
            virtual_size: size,
            sector,
            physical_sector: physical_sector.map(|(_, bytes)| bytes),
            disk_id: disk_id.map(|(_, id)| id),
            locator,
            notes,
        })
    }
}

/// The parent locator, which differencing disks have and no others.
fn parent(
    region: &Region<'_>,
    items: &[Item],
    differs: bool,
    input: &Input,
    notes: &mut Vec<Fault>,
) -> Result<Option<Locator>, Stop> {
    let item = find(items, &guid::PARENT_LOCATOR);
    match (differs, item) {
        (true, Some(item)) => {
            let bytes = region.contents.read(input, item.at, item.len, Part::Metadata)?;
            let parsed = locator::parse(&bytes, (region.contents.file(), item.at))?;
            Ok(Some(parsed))
        }
        (true, None) => {
            let text = "the disk has a parent, and no parent locator";
            Err(fault(region.contents, Class::MissingPart, region.at, text).into())
        }
        (false, Some(item)) => {
            let text = "a parent locator in a disk without a parent";
            notes.push(fault(region.contents, Class::BadField, item.entry, text));
            Ok(None)
        }
        (false, None) => Ok(None),
    }
}

/// Refuses items that are required and not known; notes others.
fn unknown(region: &Region<'_>, items: &[Item], notes: &mut Vec<Fault>) -> Result<(), Fault> {
    const KNOWN: [Guid; 6] = [
        guid::FILE_PARAMETERS,
        guid::VIRTUAL_SIZE,
        guid::DISK_ID,
        guid::LOGICAL_SECTOR,
        guid::PHYSICAL_SECTOR,
        guid::PARENT_LOCATOR,
    ];
    for item in items {
        let is_user = item.flags & IS_USER != 0;
        if !is_user && KNOWN.contains(&item.guid) {
            continue;
        }
        let name = guid::text(&item.guid);
        if item.flags & IS_REQUIRED != 0 {
            let text = format!("the metadata item {name} is required and not known");
            return Err(fault(region.contents, Class::UnknownFeature, item.entry, text));
        }
        if !is_user {
            let text = format!("the metadata item {name} is not known");
            notes.push(fault(region.contents, Class::UnknownFeature, item.entry, text));
        }
    }
    Ok(())
}

fn find<'a>(items: &'a [Item], guid: &Guid) -> Option<&'a Item> {
    items.iter().find(|item| item.flags & IS_USER == 0 && item.guid == *guid)
}

fn fault(contents: &Contents, class: Class, at: u64, text: impl Into<String>) -> Fault {
    Fault::at(class, Part::Metadata, contents.file(), at, text)
}
