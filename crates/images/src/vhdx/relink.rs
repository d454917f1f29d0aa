//! Another parent for a differencing VHDX.
//!
//! ```text
//! header (new FileWriteGuid) │ locator, in a free place │ its entry in the table │ second header
//!                         sync                       sync                     sync           sync
//! ```
//!
//! The entry has 32 bytes and never crosses a sector, so one sector leads from the old locator to the
//! new one. Both are whole while it changes. The log is not used: it must be empty, and stays so.

use super::{
    contents::Contents,
    guid, head,
    head::{HEADER_BYTES, HEADERS},
    metadata, regions,
    write::{locator, low, sealed},
};
use crate::{
    FileId, Format, Input, Part,
    bytes::wide,
    relink::{Edit, Halt, Relink, SECTOR_BYTES, Steps, fresh_id, refused},
};

pub(crate) fn edit(file: FileId, input: &Input, relink: &Relink) -> Result<Edit, Halt> {
    let no = |text: &str| refused(Format::Vhdx, text);
    let header = head::read(file, input)?.header;
    if header.has_log() {
        return Err(no(
            "its log has entries: the program that wrote it must open and close it first",
        ));
    }
    let contents = Contents::plain(file, input.len(file));
    let regions = regions::read(&contents, input, &header)?;
    let locator = locator(&relink.parent)?;
    let found = metadata::locator_place(&contents, input, regions.metadata, wide(locator.len()))?;
    let Some(found) = found else { return Err(no("it has no parent")) };
    let Some(place) = found.free else {
        return Err(no("there is no room in its metadata for another parent locator"));
    };

    let old = contents.read(input, found.at, found.len, Part::Metadata)?;
    if old == locator && !relink.changes_bytes {
        return Ok(Edit::InPlace(Vec::new()));
    }
    let mut raw = contents.read(input, header.at, HEADER_BYTES, Part::Header)?;
    raw[16..32].copy_from_slice(&fresh_id(&relink.fresh[..16]));
    if relink.changes_bytes {
        raw[32..48].copy_from_slice(&fresh_id(&relink.fresh[16..]));
    }
    let other = if header.at == HEADERS[0] { HEADERS[1] } else { HEADERS[0] };
    let numbered = |step: u64| {
        let mut raw = raw.clone();
        let sequence = header.sequence.checked_add(step);
        let sequence = sequence.ok_or_else(|| no("its headers cannot be counted up once more"))?;
        raw[8..16].copy_from_slice(&sequence.to_le_bytes());
        Ok::<_, Halt>(sealed(raw))
    };

    let mut written = locator.clone();
    written.resize(written.len().next_multiple_of(512), 0);
    let sector_at = found.entry / SECTOR_BYTES * SECTOR_BYTES;
    let mut sector = contents.read(input, sector_at, SECTOR_BYTES, Part::Metadata)?;
    let within = crate::bytes::narrow(found.entry - sector_at);
    let offset = low(place - regions.metadata.0);
    sector[within + 16..within + 20].copy_from_slice(&offset.to_le_bytes());
    sector[within + 20..within + 24].copy_from_slice(&low(wide(locator.len())).to_le_bytes());
    debug_assert_eq!(sector[within..within + 16], guid::PARENT_LOCATOR);

    let mut steps = Steps::default();
    steps.write(other, numbered(1)?).sync();
    steps.write(place, written).sync();
    steps.write(sector_at, sector).sync();
    steps.write(header.at, numbered(2)?).sync();
    Ok(steps.done())
}
