//! Persistent bitmaps: "Bitmaps extension" of the format's document. They are listed, and their
//! clusters counted by the check; what they say is not read.

use super::header::{AUTOCLEAR_BITMAPS, Header, extension};
use crate::{
    Bitmap, Class, Fault, Input, Part, Stop,
    bytes::{be16, be32, be64, narrow},
    limits,
};

/// Bytes of the extension, and of a directory entry before its extra data.
const EXTENSION: usize = 24;
const ENTRY: u64 = 24;
const FLAG_IN_USE: u32 = 1;
const FLAG_AUTO: u32 = 1 << 1;

/// A bitmap and where its table is.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub bitmap: Bitmap,
    pub table: u64,
    pub table_count: u64,
}

/// Offset and length of the directory, if there is one that is to be believed.
pub(super) fn directory(header: &Header) -> Option<(u64, u64)> {
    let bytes = header.extension(extension::BITMAPS)?;
    let is_sound = header.autoclear & AUTOCLEAR_BITMAPS != 0 && bytes.len() >= EXTENSION;
    is_sound.then(|| (be64(bytes, 16), be64(bytes, 8)))
}

/// All bitmaps; a fault if their directory cannot be read.
pub(super) fn list(header: &Header, input: &Input) -> Result<Vec<Found>, Stop> {
    let (file, part) = (header.file, Part::HeaderExtension);
    let Some(bytes) = header.extension(extension::BITMAPS) else { return Ok(Vec::new()) };
    let fault = |class, at, text: String| Stop::from(Fault::at(class, part, file, at, text));
    if bytes.len() < EXTENSION {
        let text = format!("a bitmaps extension of {} bytes", bytes.len());
        return Err(fault(Class::BadField, 0, text));
    }
    // Without the bit somebody wrote who does not know bitmaps: they are old and must be ignored.
    let Some((at, len)) = directory(header) else { return Ok(Vec::new()) };
    let count = u64::from(be32(bytes, 0));
    if count > limits::SNAPSHOTS_MAX || len > limits::RESIDENT_BYTES {
        let text = format!("{count} bitmaps in a directory of {len} bytes");
        return Err(fault(Class::Limit, at, text));
    }
    input.inside(file, at, len, part)?;
    let bytes = input.read(file, at, len, part)?;
    let mut found = Vec::new();
    let mut place = 0;
    for _ in 0..count {
        let cut = || fault(Class::TableTooSmall, at, format!("{count} bitmaps in {len} bytes"));
        if place + ENTRY > len {
            return Err(cut());
        }
        let entry = &bytes[narrow(place)..];
        let (name, extra) = (u64::from(be16(entry, 18)), u64::from(be32(entry, 20)));
        let whole = ENTRY + extra + name;
        if place + whole > len {
            return Err(cut());
        }
        let bits = entry[17];
        if bits > 62 {
            let text = format!("a bitmap whose bits stand for 2^{bits} bytes");
            return Err(fault(Class::BadField, at + place, text));
        }
        let flags = be32(entry, 12);
        let name = &entry[narrow(ENTRY + extra)..narrow(whole)];
        let bitmap = Bitmap {
            name: String::from_utf8_lossy(name).into_owned(),
            granularity: 1 << bits,
            in_use: flags & FLAG_IN_USE != 0,
            auto: flags & FLAG_AUTO != 0,
        };
        let table_count = u64::from(be32(entry, 8));
        found.push(Found { bitmap, table: be64(entry, 0), table_count });
        place = (place + whole).next_multiple_of(8);
    }
    Ok(found)
}
