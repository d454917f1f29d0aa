//! Reparse points: links of Windows and of its Linux, junctions, and contents that are elsewhere.

use super::{Ntfs, attributes::kind, record::Record, units, utf8};
use crate::{Error, fields::Fields};

const JUNCTION: u32 = 0xa000_0003;
const SYMBOLIC_LINK: u32 = 0xa000_000c;
const LINUX_LINK: u32 = 0xa000_001d;
const COMPRESSED_FILE: u32 = 0x8000_0017;
const DEDUPLICATED: u32 = 0x8000_0013;
/// Placeholders of a cloud: the third hexadecimal digit counts their kinds.
const CLOUD: u32 = 0x9000_001a;
const CLOUD_MASK: u32 = 0xffff_0fff;

/// As long as Windows lets a reparse point be.
const REPARSE_BYTES: u64 = 16 << 10;

/// Where a link leads, with slashes as Unix has them; `None` for what is no link.
pub(super) fn target(ntfs: &Ntfs, record: &Record) -> Result<Option<Vec<u8>>, Error> {
    let Some(value) = ntfs.short_value(record, kind::REPARSE, REPARSE_BYTES)? else {
        return Ok(None);
    };
    let fields = Fields::new(&value, record.place);
    let names = match fields.le32(0)? {
        JUNCTION => 16,
        SYMBOLIC_LINK => 20,
        LINUX_LINK => {
            let length = usize::from(fields.le16(4)?);
            let text = fields.slice(12, length.saturating_sub(4))?;
            return Ok(Some(text.to_vec()));
        }
        _ => return Ok(None),
    };
    let name = |at: usize| -> Result<Vec<u16>, Error> {
        let (begin, length) = (usize::from(fields.le16(at)?), usize::from(fields.le16(at + 2)?));
        Ok(units(fields.slice(names + begin, length)?))
    };
    // The name that is printed, or, where there is none, the one that is followed, without `\??\`.
    let mut found = name(12)?;
    if found.is_empty() {
        found = name(8)?;
        let prefix: Vec<u16> = r"\??\".encode_utf16().collect();
        if found.starts_with(&prefix) {
            found.drain(..prefix.len());
        }
    }
    for unit in &mut found {
        if *unit == u16::from(b'\\') {
            *unit = u16::from(b'/');
        }
    }
    Ok(Some(utf8(&found)))
}

/// Refuses a file whose main stream is not its content.
pub(super) fn refuse_content_elsewhere(ntfs: &Ntfs, record: &Record) -> Result<(), Error> {
    let Some(value) = ntfs.short_value(record, kind::REPARSE, REPARSE_BYTES)? else {
        return Ok(());
    };
    let what = match Fields::new(&value, record.place).le32(0)? {
        COMPRESSED_FILE => "its content is compressed by Windows, which is not read",
        DEDUPLICATED => "its content is deduplicated by Windows, which is not read",
        tag if tag & CLOUD_MASK == CLOUD => "its content may not be on this disk but in a cloud",
        _ => return Ok(()),
    };
    Err(Error::unsupported(what))
}
