//! The header of dynamic and differencing disks, and the parent that it names.
//!
//! VHD specification 1.0, "Dynamic Disk Header Format". A parent is named up to nine times: in a field
//! of 256 UTF-16 units, and by eight locators, each in the manner of one platform. Relative names are
//! tried first, then the field, then absolute ones: those are refused unless another name leads to a
//! file.

use crate::{
    Class, Fault, FileId, Format, Identity, Input, Parent, Part, Role, Stop,
    bytes::{array, be16, be32, be64},
    names::{self, FileName, NameFlaw, Style},
};

/// Bytes of a header.
pub(super) const HEADER: u64 = 1024;

pub(super) const COOKIE: &[u8; 8] = b"cxsparse";

/// Blocks larger than this are nobody's.
const BLOCK_BYTES_MAX: u32 = 256 << 20;

/// Bytes of a locator's name that are looked at; a name has 1023 at most.
const LOCATOR_BYTES_MAX: u32 = 4096;

/// Offset of the eight locators in a header.
pub(super) const LOCATORS: usize = 576;

/// Bytes of one locator.
pub(super) const LOCATOR: usize = 24;

/// A header whose sum and fields are right.
#[derive(Debug)]
pub(super) struct Header {
    /// Where the block table is.
    pub(super) table_at: u64,
    /// Entries that the table is stated to have.
    pub(super) entries: u32,
    /// Bytes of a block: a power of two, at least 512.
    pub(super) block: u32,
}

/// Reads the header at `at`, for a disk of `size` bytes.
pub(super) fn read(
    file: FileId,
    at: u64,
    size: u64,
    input: &Input,
) -> Result<(Header, &[u8]), Stop> {
    input.inside(file, at, HEADER, Part::Footer)?;
    let bytes = input.read(file, at, HEADER, Part::Header)?;
    Ok((Header::parse(bytes, size, file, at)?, bytes))
}

impl Header {
    fn parse(bytes: &[u8], size: u64, file: FileId, at: u64) -> Result<Self, Fault> {
        let fault = |class, field: u64, text: String| {
            Err(Fault::at(class, Part::Header, file, at + field, text))
        };
        if !bytes.starts_with(COOKIE) {
            let text = "no header where the footer says: the word cxsparse is missing".to_owned();
            return fault(Class::BadMagic, 0, text);
        }
        if let Err(text) = super::check_sum(bytes, 36) {
            return fault(Class::BadChecksum, 0, text);
        }
        let version = be32(bytes, 24);
        if version >> 16 != 1 {
            let text = format!("version {}.{}, known is 1.0", version >> 16, version & 0xffff);
            return fault(Class::UnknownVersion, 24, text);
        }
        let block = be32(bytes, 32);
        if block > BLOCK_BYTES_MAX {
            let text = format!("blocks of {block} bytes, more than {BLOCK_BYTES_MAX}");
            return fault(Class::Limit, 32, text);
        }
        if !block.is_power_of_two() || block < 512 {
            let text = format!("blocks of {block} bytes: no power of two from 512 on");
            return fault(Class::BadField, 32, text);
        }
        let entries = be32(bytes, 28);
        let reach = u64::from(entries) * u64::from(block);
        let needed = size.div_ceil(u64::from(block));
        if reach < size {
            let text = format!("a table of {entries} entries, the disk has {needed} blocks");
            return fault(Class::TableTooSmall, 28, text);
        }
        if reach > super::REACH_MAX || needed > super::ENTRIES_MAX {
            let text = format!("a table of {entries} entries for blocks of {block} bytes");
            return fault(Class::Limit, 28, text);
        }
        Ok(Self { table_at: be64(bytes, 16), entries, block })
    }
}

/// What a header says of the parent, and the notes on what it says in vain.
pub(super) fn parent(
    header: &[u8],
    file: FileId,
    at: u64,
    input: &Input,
) -> Result<(Parent, Vec<Fault>), Stop> {
    let mut notes = Vec::new();
    let (mut relative, mut absolute) = (Vec::new(), Vec::new());
    for slot in 0..8 {
        let place = LOCATORS + slot * LOCATOR;
        let locator = Locator::parse(&header[place..place + LOCATOR]);
        let located = at + crate::bytes::wide(place);
        match &locator.code {
            b"W2ru" | b"Wi2r" => relative.push(locator.text(file, located, input)?),
            b"W2ku" | b"Wi2k" => absolute.push(locator.text(file, located, input)?),
            [0, 0, 0, 0] => {}
            other => {
                let text = format!(
                    "the parent's name for the platform {:?} is not looked at",
                    String::from_utf8_lossy(other)
                );
                notes.push(Fault::at(Class::UnknownFeature, Part::Header, file, located, text));
            }
        }
    }
    let units: Vec<u16> = (0..256).map(|unit| be16(header, 64 + unit * 2)).collect();
    let units = units.split(|unit| *unit == 0).next().unwrap_or_default();
    let field = String::from_utf16(units).ok();
    if field.is_none() {
        let text = "the parent's name in the header is no UTF-16";
        notes.push(Fault::at(Class::BadField, Part::Header, file, at + 64, text));
    }
    let field = field.filter(|field| !field.is_empty()).map(|field| (field, at + 64));
    let mut names = Vec::new();
    let mut stated = String::new();
    for (text, place) in relative.into_iter().chain(field).chain(absolute) {
        if stated.is_empty() {
            stated.clone_from(&text);
        }
        names.extend(alone(&text).filter(|_| place == at + 64).map(Ok));
        names.push(names::check_bytes(
            text.as_bytes(),
            Style::Windows,
            Role::Parent,
            (file, place),
        ));
    }
    let identity = Identity::Vhd { id: array(header, 40), time: be32(header, 56) };
    let format = Some(Format::Vhd);
    Ok((Parent { stated, names, format, by_identity: None, identity }, notes))
}

/// The file name at the end of an absolute one: Virtual PC wrote whole paths into the field that is
/// meant for a name, and chains are moved as a folder.
fn alone(text: &str) -> Option<FileName> {
    if names::check(text, Style::Windows) != Err(NameFlaw::Absolute) {
        return None;
    }
    text.rsplit(['\\', '/']).next().and_then(|name| names::check(name, Style::Windows).ok())
}

/// One of the eight places of a name.
struct Locator {
    code: [u8; 4],
    space: u32,
    len: u32,
    at: u64,
}

impl Locator {
    fn parse(bytes: &[u8]) -> Self {
        Self {
            code: array(bytes, 0),
            space: be32(bytes, 4),
            len: be32(bytes, 8),
            at: be64(bytes, 16),
        }
    }

    /// Its name, and where that stands; `located` is where the locator itself does.
    fn text(&self, file: FileId, located: u64, input: &Input) -> Result<(String, u64), Stop> {
        let fault = |text: String| {
            Stop::from(Fault::at(Class::BadField, Part::Header, file, located, text))
        };
        // The space is in sectors by the specification, and in bytes by most writers.
        let room = u64::from(self.space) * 512;
        if self.len > LOCATOR_BYTES_MAX || (self.space > 0 && u64::from(self.len) > room) {
            let text = format!("a parent's name of {} bytes in {} of room", self.len, self.space);
            return Err(fault(text));
        }
        input.inside(file, self.at, self.len.into(), Part::Header)?;
        let bytes = input.read(file, self.at, self.len.into(), Part::Header)?;
        if self.code.ends_with(b"u") {
            let (units, rest) = bytes.as_chunks::<2>();
            let units: Vec<u16> = units.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
            let text = String::from_utf16(&units).ok().filter(|_| rest.is_empty());
            let text = text.ok_or_else(|| fault("a parent's name that is no UTF-16".to_owned()))?;
            return Ok((text.trim_end_matches('\0').to_owned(), self.at));
        }
        // The older locators have bytes of an unknown code page: those of ASCII mean the same in all.
        let text = std::str::from_utf8(bytes).ok().filter(|text| text.is_ascii());
        let text = text.ok_or_else(|| fault("a parent's name that is no ASCII".to_owned()))?;
        Ok((text.trim_end_matches('\0').to_owned(), self.at))
    }
}
