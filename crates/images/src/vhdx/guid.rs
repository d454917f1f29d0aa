//! GUIDs: those that MS-VHDX gives a meaning, and how one is written as text.
//!
//! In a file the first three groups are little-endian; text has them as numbers.

use crate::bytes::{be64, le16, le32};

/// A GUID in the byte order of the file.
pub(super) type Guid = [u8; 16];

/// No GUID; as a log's, that the log is empty.
pub(super) const NONE: Guid = [0; 16];

/// Region of the block allocation table (2.2.3.2).
pub(super) const BAT: Guid =
    guid(0x2dc2_7766, 0xf623, 0x4200, *b"\x9d\x64\x11\x5e\x9b\xfd\x4a\x08");
/// Region of the metadata (2.2.3.2).
pub(super) const METADATA: Guid =
    guid(0x8b7c_a206, 0x4790, 0x4b9a, *b"\xb8\xfe\x57\x5f\x05\x0f\x88\x6e");
/// Metadata: block size and flags (2.6.2.1).
pub(super) const FILE_PARAMETERS: Guid =
    guid(0xcaa1_6737, 0xfa36, 0x4d43, *b"\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b");
/// Metadata: bytes that the guest sees (2.6.2.2).
pub(super) const VIRTUAL_SIZE: Guid =
    guid(0x2fa5_4224, 0xcd1b, 0x4876, *b"\xb2\x11\x5d\xbe\xd8\x3b\xf4\xb8");
/// Metadata: the disk's own id, SCSI's page 83 (2.6.2.3).
pub(super) const DISK_ID: Guid =
    guid(0xbeca_12ab, 0xb2e6, 0x4523, *b"\x93\xef\xc3\x09\xe0\x00\xc7\x46");
/// Metadata: bytes of a logical sector (2.6.2.4).
pub(super) const LOGICAL_SECTOR: Guid =
    guid(0x8141_bf1d, 0xa96f, 0x4709, *b"\xba\x47\xf2\x33\xa8\xfa\xab\x5f");
/// Metadata: bytes of a physical sector (2.6.2.5).
pub(super) const PHYSICAL_SECTOR: Guid =
    guid(0xcda3_48c7, 0x445d, 0x4471, *b"\x9c\xc9\xe9\x88\x52\x51\xc5\x56");
/// Metadata: where the parent is (2.6.2.6).
pub(super) const PARENT_LOCATOR: Guid =
    guid(0xa8d3_5f2d, 0xb30b, 0x454d, *b"\xab\xf7\xd3\xd8\x48\x34\xab\x0c");
/// The one type of parent locator that is defined (2.6.2.6.1).
pub(super) const LOCATOR_TYPE: Guid =
    guid(0xb04a_efb7, 0xd19e, 0x4a81, *b"\xb7\x89\x25\xb8\xe9\x44\x59\x13");

const fn guid(first: u32, second: u16, third: u16, rest: [u8; 8]) -> Guid {
    let (a, b, c) = (first.to_le_bytes(), second.to_le_bytes(), third.to_le_bytes());
    let r = rest;
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7]]
}

/// `{2dc27766-f623-4200-9d64-115e9bfd4a08}`.
pub(super) fn text(guid: &Guid) -> String {
    let (first, second, third) = (le32(guid, 0), le16(guid, 4), le16(guid, 6));
    let rest = be64(guid, 8);
    let (fourth, fifth) = (rest >> 48, rest & 0xffff_ffff_ffff);
    format!("{{{first:08x}-{second:04x}-{third:04x}-{fourth:04x}-{fifth:012x}}}")
}

/// The GUID of a text with or without braces, in either case.
pub(super) fn parse(text: &str) -> Option<Guid> {
    let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(text);
    let groups: Vec<&str> = inner.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    let is_hex = inner.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
    if lengths != [8, 4, 4, 4, 12] || !is_hex {
        return None;
    }
    let number = |group: usize| u64::from_str_radix(groups[group], 16).ok();
    let first = u32::try_from(number(0)?).ok()?;
    let (second, third) = (u16::try_from(number(1)?).ok()?, u16::try_from(number(2)?).ok()?);
    Some(guid(first, second, third, ((number(3)? << 48) | number(4)?).to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_leads_back_to_its_guid() {
        let words = "{2dc27766-f623-4200-9d64-115e9bfd4a08}";
        assert_eq!(text(&BAT), words);
        assert_eq!(parse(words), Some(BAT));
        assert_eq!(parse(&words.to_uppercase()), Some(BAT));
        assert_eq!(parse(&words[1..37]), Some(BAT));
        assert_eq!(BAT[..4], [0x66, 0x77, 0xc2, 0x2d]);
    }

    #[test]
    fn what_is_no_guid_is_not_parsed() {
        for text in [
            "",
            "{}",
            "{not-a-guid}",
            "{2dc27766-f623-4200-9d64-115e9bfd4a0}",
            "{2dc27766-f623-4200-9d64115e9bfd4a08}",
            "{2dc2776+-f623-4200-9d64-115e9bfd4a08}",
            "2dc27766-f623-4200-9d64-115e9bfd4a08-",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
