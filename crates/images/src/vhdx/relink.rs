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
    locator::{self, Locator},
    metadata, regions,
    write::{low, sealed},
};
use crate::{
    FileId, Format, Identity, Input, Part,
    bytes::{narrow, wide},
    names::{self, Style},
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
    let found = metadata::locator_place(&contents, input, regions.metadata)?;
    let Some(found) = found else { return Err(no("it has no parent")) };
    let old = contents.read(input, found.at, found.len, Part::Metadata)?;
    let locator = match same_names(&old, (file, found.at), relink)? {
        Some(locator) => locator,
        None if names::check(&relink.parent.name, Style::Windows).is_err() => {
            return Err(no("its parent's name would lead out of its folder"));
        }
        None => super::write::locator(&relink.parent)?,
    };
    let Some(place) = found.free(wide(locator.len())) else {
        return Err(no("there is no room in its metadata for another parent locator"));
    };

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
    let within = narrow(found.entry - sector_at);
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

/// The locator as it is, with another linkage, where it leads to the new name already: other programs'
/// paths in it stay. `None` where it does not, or its linkage is not written as ours is.
fn same_names(old: &[u8], at: (FileId, u64), relink: &Relink) -> Result<Option<Vec<u8>>, Halt> {
    let Locator { linkage_at, names, .. } = locator::parse(old, at)?;
    let Identity::Vhdx { data_write, .. } = relink.parent.identity else { return Ok(None) };
    let text: Vec<u8> = guid::text(&data_write).encode_utf16().flat_map(u16::to_le_bytes).collect();
    let led = names.first().and_then(|name| name.as_ref().ok());
    let is_led = led.is_some_and(|name| name.as_str() == relink.parent.name);
    let start = narrow(linkage_at.0 - at.1);
    let is_outside = led.is_none() && relink.outside;
    Ok(((is_led || is_outside) && linkage_at.1 == wide(text.len())).then(|| {
        let mut locator = old.to_vec();
        locator[start..start + text.len()].copy_from_slice(&text);
        locator
    }))
}
