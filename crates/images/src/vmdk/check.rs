//! A full check of a VMDK image: every table, every marker, every packed grain is looked at.

use crate::{
    Class, Fault, Input, Kind, Part, Report, Severity, Stop,
    bytes::narrow,
    packed::Unpacker,
    vmdk::{
        Piece, Store, Vmdk,
        grains::{Grains, Shared, Slot, Table},
        header::Packing,
    },
};

/// How far a check is.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    begun: bool,
    piece: usize,
    table: u64,
    entry: u64,
}

/// Absent tables that one step passes over.
const ABSENT_PER_STEP: u32 = 1 << 16;

/// The next piece of a check.
pub(super) fn step(image: &mut Vmdk, input: &Input, report: &mut Report) -> Result<bool, Stop> {
    let cursor = &mut image.cursor;
    if !cursor.begun {
        cursor.begun = true;
        for note in &image.facts.notes {
            report.add(Severity::Warning, note.clone());
        }
    }
    let index = cursor.piece;
    if index >= image.pieces.len() {
        if image.shared.claims.is_incomplete() {
            report.unchecked.push("grains used twice: there are too many to compare".to_owned());
        }
        image.cursor = Cursor::default();
        return Ok(true);
    }
    let (late, notes) = Vmdk::ready(&mut image.pieces, &mut image.shared, index, input)?;
    if late {
        for note in notes {
            report.add(Severity::Warning, note);
        }
        return Ok(false);
    }
    let piece = &mut image.pieces[index];
    let end = match &mut piece.store {
        Store::Zero => true,
        Store::Flat { .. } => {
            flat(piece, input, report);
            true
        }
        Store::Closed { .. } => unreachable!("made ready here above"),
        Store::Damaged(fault) => {
            report.add(Severity::Error, fault.clone());
            true
        }
        Store::Sparse(grains) => sparse(grains, &mut image.shared, cursor, input, report)?,
    };
    if end {
        image.cursor = Cursor { begun: true, piece: index + 1, ..Cursor::default() };
    }
    Ok(false)
}

fn flat(piece: &Piece, input: &Input, report: &mut Report) {
    for extent in piece.map_flat(piece.start..piece.end(), input) {
        if let Kind::Corrupt(fault) = extent.kind {
            report.add(Severity::Error, *fault);
        }
    }
}

/// One table, or some absent ones; whether it was the last.
fn sparse(
    grains: &mut Grains,
    shared: &mut Shared,
    cursor: &mut Cursor,
    input: &Input,
    report: &mut Report,
) -> Result<bool, Stop> {
    for _ in 0..ABSENT_PER_STEP {
        if cursor.table >= grains.sparse.tables {
            if let Some(fault) = grains.lost_copy.take() {
                let text = format!("one of two copies of a table is lost: {}", fault.text);
                report.add(Severity::Warning, Fault { class: Class::CopiesDiffer, text, ..fault });
            }
            return Ok(true);
        }
        match grains.table(shared, cursor.table, input)? {
            Table::Absent => {}
            Table::Bad(fault) => report.add(Severity::Error, fault),
            Table::Loaded(key, at) => {
                let slots = shared.pieces.get(key).expect("loaded here above");
                if entries(grains, (slots, at), cursor, input, report)? {
                    (cursor.table, cursor.entry) = (cursor.table + 1, 0);
                }
                return Ok(false);
            }
        }
        cursor.table += 1;
    }
    Ok(false)
}

/// The entries of a table from the cursor on; whether all are done.
fn entries(
    grains: &Grains,
    (slots, at): (&[u8], u64),
    cursor: &mut Cursor,
    input: &Input,
    report: &mut Report,
) -> Result<bool, Stop> {
    let sparse = &grains.sparse;
    while cursor.entry < sparse.entries {
        let grain = cursor.table * sparse.entries + cursor.entry;
        let entry_at = at + cursor.entry * sparse.entry();
        let is_past = grain >= sparse.capacity.div_ceil(sparse.grain);
        match Slot::get(slots, cursor.entry) {
            Slot::Unheld => {}
            _ if is_past => {
                let text = format!("grain {grain} is held, and the extent ends before it");
                let fault =
                    Fault::at(Class::BadField, Part::GrainTableEntry, sparse.file, entry_at, text);
                report.add(Severity::Note, fault);
            }
            Slot::Zero => report.units_zero += 1,
            Slot::At(offset) if grains.packing() == Packing::Plain => {
                report.units_data += 1;
                if let Err(fault) = grains.whole(grain, offset, input) {
                    report.add(Severity::Error, fault);
                }
            }
            Slot::At(offset) => {
                let found = unpack(grains, grain, offset, input)?;
                report.units_packed += 1;
                if let Err(fault) = found {
                    report.add(Severity::Error, fault);
                }
                cursor.entry += 1;
                return Ok(cursor.entry == sparse.entries);
            }
            slot => report.add(Severity::Error, grains.fault(slot, grain, entry_at)),
        }
        cursor.entry += 1;
    }
    Ok(true)
}

/// Whether a packed grain unpacks to what it must.
fn unpack(
    grains: &Grains,
    grain: u64,
    offset: u64,
    input: &Input,
) -> Result<Result<(), Fault>, Stop> {
    let packed = match grains.packed(grains.packing(), grain, offset, input)? {
        Ok(packed) => packed,
        Err(fault) => return Ok(Err(fault)),
    };
    let bytes = input.read(packed.file, packed.offset, packed.len, Part::Data)?;
    debug_assert_eq!(bytes.len(), narrow(packed.len));
    Ok(Unpacker::default().unpack(&packed, bytes).map(|_| ()))
}
