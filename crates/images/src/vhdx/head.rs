//! File identifier and the two headers (MS-VHDX 2.2.1, 2.2.2).
//!
//! A writer changes the older header and counts up, so one of the two is whole after any crash. The
//! valid one of the higher sequence number is current. A damaged one is a note.

use crate::{
    Class, Fault, FileId, Input, Part, Stop,
    bytes::{array, le16, le32, le64, narrow},
};

use super::guid::{self, Guid};

/// Bytes of the header section: identifier, headers, region tables and what is reserved.
pub(super) const SECTION: u64 = 1 << 20;

/// Where the two headers are.
pub(super) const HEADERS: [u64; 2] = [64 << 10, 128 << 10];

/// Bytes of a header that its checksum covers.
pub(super) const HEADER_BYTES: u64 = 4096;

/// End of what only the headers' own rule changes: no log entry may reach here.
pub(super) const HEADERS_END: u64 = 192 << 10;

/// Where the section's parts that have a meaning end: behind the second region table.
const USED: u64 = 320 << 10;

/// What the header section says, region tables left out.
#[derive(Clone, Debug)]
pub(super) struct Head {
    /// The current header.
    pub header: Header,
    /// Which program made the file.
    pub creator: Option<String>,
    /// A header that is damaged.
    pub notes: Vec<Fault>,
}

/// The fields of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Where it stands in the file.
    pub at: u64,
    /// Rises with each change.
    pub sequence: u64,
    /// Changes before the first write of any kind after an opening.
    pub file_write: Guid,
    /// Changes before the first write that changes what the guest sees.
    pub data_write: Guid,
    /// Of the log's entries that count; [`guid::NONE`] if none does.
    pub log_guid: Guid,
    /// Bytes of the log.
    pub log_len: u64,
    /// Where the log begins.
    pub log_at: u64,
    log_version: u16,
    version: u16,
}

/// Reads identifier and headers; `region tables` are in hand afterwards.
pub(super) fn read(file: FileId, input: &Input) -> Result<Head, Stop> {
    let bytes = input.read_up_to(file, 0, USED, Part::Header)?;
    if !bytes.starts_with(b"vhdxfile") {
        let text = "the file does not begin with vhdxfile";
        return Err(Fault::at(Class::BadMagic, Part::Header, file, 0, text).into());
    }
    input.read(file, 0, USED, Part::Header)?;
    let (header, notes) = current(bytes, file)?;
    header.check(file)?;
    let creator: Vec<u16> =
        bytes[8..520].chunks_exact(2).map(|unit| le16(unit, 0)).take_while(|u| *u != 0).collect();
    let creator = String::from_utf16_lossy(&creator);
    Ok(Head { header, creator: Some(creator).filter(|text| !text.is_empty()), notes })
}

/// The current one of the two headers, and what is wrong with the other.
fn current(bytes: &[u8], file: FileId) -> Result<(Header, Vec<Fault>), Fault> {
    let [first, second] = HEADERS.map(|at| parse(bytes, at, file));
    match (first, second) {
        (Ok(first), Ok(second)) if first.sequence == second.sequence => {
            let [one, other] = HEADERS.map(|at| &bytes[narrow(at)..narrow(at + HEADER_BYTES)]);
            if one != other {
                let text = format!("both headers have the number {}, and differ", first.sequence);
                let (class, part) = (Class::AmbiguousHeader, Part::Header);
                return Err(Fault::at(class, part, file, second.at, text));
            }
            Ok((first, Vec::new()))
        }
        (Ok(first), Ok(second)) => {
            let current = if first.sequence > second.sequence { first } else { second };
            Ok((current, Vec::new()))
        }
        (Ok(header), Err(fault)) | (Err(fault), Ok(header)) => Ok((header, vec![fault])),
        (Err(fault), Err(_)) => Err(fault),
    }
}

fn parse(bytes: &[u8], at: u64, file: FileId) -> Result<Header, Fault> {
    let bytes = &bytes[narrow(at)..narrow(at + HEADER_BYTES)];
    let fault = |class, text: &str| Err(Fault::at(class, Part::Header, file, at, text));
    if !bytes.starts_with(b"head") {
        return fault(Class::BadMagic, "the header does not begin with head");
    }
    if checksum(bytes) != le32(bytes, 4) {
        return fault(Class::BadChecksum, "the header's checksum is wrong");
    }
    Ok(Header {
        at,
        sequence: le64(bytes, 8),
        file_write: array(bytes, 16),
        data_write: array(bytes, 32),
        log_guid: array(bytes, 48),
        log_version: le16(bytes, 64),
        version: le16(bytes, 66),
        log_len: u64::from(le32(bytes, 68)),
        log_at: le64(bytes, 72),
    })
}

impl Header {
    /// Whether the log has entries to replay.
    pub(super) fn has_log(&self) -> bool {
        self.log_guid != guid::NONE
    }

    fn check(&self, file: FileId) -> Result<(), Fault> {
        let unknown = |what: &str, found: u16, known: u16| {
            let text = format!("{what} version {found}, known is {known}");
            Err(Fault::at(Class::UnknownVersion, Part::Header, file, self.at, text))
        };
        if self.version != 1 {
            return unknown("file", self.version, 1);
        }
        if self.log_version != 0 {
            return unknown("log", self.log_version, 0);
        }
        Ok(())
    }
}

/// CRC-32C of a structure whose own field at byte 4 counts as zero.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    let head = crc32c::crc32c_append(crc32c::crc32c(&bytes[..4]), &[0; 4]);
    crc32c::crc32c_append(head, &bytes[8..])
}
