//! The snapshot table: "Snapshot table" of the format's document.

use super::header::Header;
use crate::{
    Class, Fault, Input, Part, Snapshot, Stop,
    bytes::{be16, be32, be64, narrow, wide},
    limits,
};

/// Bytes of an entry before its extra data.
const ENTRY: u64 = 40;
/// Bytes of the table that are read at once; no entry is longer.
const WINDOW: u64 = 1 << 20;
/// Extra data that is believed.
const EXTRA_MAX: u64 = 64 << 10;

/// A snapshot and where its disk is.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub snapshot: Snapshot,
    pub l1: u64,
    pub l1_count: u64,
    /// Where its entry ends in the file.
    pub end: u64,
}

/// All snapshots. A fault if the table cannot be read; a snapshot that cannot be opened says so.
pub(super) fn list(header: &Header, input: &Input) -> Result<Vec<Found>, Stop> {
    let (file, count) = (header.file, header.snapshot_count);
    let fault =
        |class, at, text: String| Stop::from(Fault::at(class, Part::Snapshots, file, at, text));
    if count > limits::SNAPSHOTS_MAX {
        return Err(fault(Class::Limit, header.snapshots, format!("{count} snapshots")));
    }
    let mut found: Vec<Found> = Vec::new();
    let (mut at, mut base, mut window) = (header.snapshots, 0, &[][..]);
    for _ in 0..count {
        input.inside(file, at, ENTRY, Part::Snapshots)?;
        if window.is_empty() || at + WINDOW / 2 > base + wide(window.len()) {
            (base, window) = (at, input.read_up_to(file, at, WINDOW, Part::Snapshots)?);
        }
        let entry = &window[narrow(at - base)..];
        let (extra, id, name) = (be32(entry, 36), be16(entry, 12), be16(entry, 14));
        let (extra, id, name) = (u64::from(extra), u64::from(id), u64::from(name));
        if extra > EXTRA_MAX {
            return Err(fault(Class::BadField, at, format!("a snapshot with {extra} extra bytes")));
        }
        let len = ENTRY + extra + id + name;
        input.inside(file, at, len, Part::Snapshots)?;
        let text = |start: u64, len: u64| {
            let bytes = &entry[narrow(start)..narrow(start + len)];
            String::from_utf8_lossy(bytes).into_owned()
        };
        let machine_state =
            if extra >= 8 { be64(entry, narrow(ENTRY)) } else { u64::from(be32(entry, 32)) };
        let virtual_size = if extra >= 16 { be64(entry, narrow(ENTRY) + 8) } else { header.size };
        let (l1, l1_count) = (be64(entry, 0), u64::from(be32(entry, 8)));
        let snapshot = Snapshot {
            id: text(ENTRY + extra, id),
            name: text(ENTRY + extra + id, name),
            virtual_size,
            made_s: u64::from(be32(entry, 16)),
            machine_state,
            fault: flaw(header, (l1, l1_count), virtual_size, input),
        };
        // The last entry may lack its padding.
        let end = (at + len).next_multiple_of(8);
        found.push(Found { snapshot, l1, l1_count, end: end.min(input.len(file)) });
        at = end;
    }
    Ok(found)
}

/// The snapshot of that id, else of that name.
pub(super) fn choose<'a>(
    found: &'a [Found],
    wanted: &str,
    header: &Header,
) -> Result<&'a Found, Fault> {
    let by_id = found.iter().find(|found| found.snapshot.id == wanted);
    let chosen = by_id.or_else(|| found.iter().find(|found| found.snapshot.name == wanted));
    let Some(chosen) = chosen else {
        let text = format!("there is no snapshot {wanted:?}");
        return Err(Fault::new(Class::MissingPart, Part::Snapshots, header.file, text));
    };
    chosen.snapshot.fault.clone().map_or(Ok(chosen), Err)
}

/// Why a snapshot's disk cannot be opened.
fn flaw(header: &Header, (l1, count): (u64, u64), size: u64, input: &Input) -> Option<Fault> {
    let fault =
        |class, text: String| Some(Fault::at(class, Part::Snapshots, header.file, l1, text));
    let len = count * 8;
    if size > limits::VIRTUAL_BYTES_MAX {
        return fault(Class::Limit, format!("a snapshot of {size} bytes"));
    }
    if len > limits::RESIDENT_BYTES && !input.holds(header.file, l1, len) {
        return fault(Class::Limit, format!("an L1 table of {len} bytes"));
    }
    if count < size.div_ceil(header.l2_reach()) {
        return fault(Class::TableTooSmall, format!("an L1 table of {count} entries"));
    }
    if count > 0 && (!l1.is_multiple_of(header.cluster()) || l1 == 0) {
        return fault(Class::PointerMisaligned, "its L1 table is no cluster's".to_owned());
    }
    input.inside(header.file, l1, len, Part::Snapshots).err()
}
