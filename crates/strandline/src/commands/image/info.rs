//! `image info`: what an image says of itself, and the images it stands on.

use super::{failure, fault_json, how, no_pipe};
use crate::{
    cli::ImageInfoArgs,
    context::Context,
    out::{Cell, Output, Stop, Table},
};
use api::{Failure, Time, Zone};
use image_files::{Disk, Error, OpenDisk};
use images::{Facts, Fault, Identity, Purpose, Role, Snapshot};
use serde_json::{Value, json};

pub(super) fn run(args: &ImageInfoArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    let image = &args.of.image;
    no_pipe(image)?;
    let how = how(&args.of);
    let alone = OpenDisk { purpose: Purpose::Inspect, ..how.clone() };
    let disk = Disk::open(image, &alone).map_err(|error| failure(error, image))?;
    // What lies below is shown where it can be opened; that it cannot is a fact, too.
    let has_parent = disk.chain().layers()[0].facts().parent.is_some();
    let below = has_parent.then(|| Disk::open(image, &how));
    if context.out.json {
        context.out.document(&document(&disk, below.as_ref()))?;
        return Ok(0);
    }
    let zone = &context.zone;
    say(&disk, zone, context.out)?;
    match below {
        Some(Ok(whole)) => say_chain(&whole, context.out)?,
        Some(Err(error)) => {
            let Failure { message, .. } = failure(error, image);
            let mut table = Table::facts();
            table.fact("not opened", Cell::text(message));
            context.out.table(&table)?;
        }
        None => {}
    }
    Ok(0)
}

fn say(disk: &Disk, zone: &Zone, out: &mut Output) -> Result<(), Stop> {
    let layer = &disk.chain().layers()[0];
    let facts = layer.facts();
    let mut table = Table::facts();
    table.fact("file", Cell::text(disk.files().path(layer.file()).display()));
    table.fact("format", Cell::text(kind(facts)));
    table.fact("size", Cell::size(facts.virtual_size));
    table.fact("file size", Cell::size(disk.files().length_bytes(layer.file())));
    if facts.unit > 0 {
        table.fact("unit", Cell::size(facts.unit));
    }
    table.fact("sector", Cell::size(u64::from(facts.sector)));
    if let Some(creator) = &facts.creator {
        table.fact("made by", Cell::text(creator));
    }
    for (name, value) in identifiers(&facts.identity) {
        table.fact(name, Cell::text(value));
    }
    if let Some(parent) = &facts.parent {
        let format = parent.format.map(|format| format!(" ({format})")).unwrap_or_default();
        let name = if parent.stated.is_empty() { "found by its identity" } else { &parent.stated };
        table.fact("parent", Cell::text(format!("{name}{format}")));
        for (name, value) in identifiers(&parent.identity) {
            table.fact(&format!("parent's {name}"), Cell::text(value));
        }
    }
    for other in &facts.files {
        let name = format!("{}, {}", other.name, disk.files().path(other.file).display());
        table.fact(role(other.role), Cell::text(name));
    }
    if !facts.features.is_empty() {
        table.fact("features", Cell::text(facts.features.join(", ")));
    }
    for snapshot in &facts.snapshots {
        table.fact("snapshot", Cell::text(snapshot_line(snapshot, zone)));
    }
    for bitmap in &facts.bitmaps {
        let state = match (bitmap.in_use, bitmap.auto) {
            (true, _) => ", was in use: not to be relied on",
            (false, true) => ", records by itself",
            (false, false) => "",
        };
        table.fact("bitmap", Cell::text(format!("{}{state}", bitmap.name)));
    }
    if let Some(class) = facts.read_only {
        table.fact("read-only", Cell::text(class));
    }
    for note in layer.notes() {
        table.fact("note", Cell::text(note));
    }
    out.table(&table)
}

fn say_chain(disk: &Disk, out: &mut Output) -> Result<(), Stop> {
    let mut table = Table::new(["LAYER", "FORMAT", "SIZE", "FILE"]);
    for (number, layer) in disk.chain().layers().iter().enumerate() {
        table.row([
            Cell::count(number as u64),
            Cell::text(kind(layer.facts())),
            Cell::size(layer.facts().virtual_size),
            Cell::text(disk.files().path(layer.file()).display()),
        ]);
    }
    out.table(&table)?;
    for layer in disk.chain().layers().iter().skip(1) {
        for note in layer.notes() {
            out.line(&format!("note  {}: {note}", disk.files().path(note.file).display()))?;
        }
    }
    Ok(())
}

/// The format, and which kind of it.
pub(super) fn kind(facts: &Facts) -> String {
    if facts.variant == facts.format.word() {
        return facts.variant.to_owned();
    }
    format!("{}, {}", facts.format, facts.variant)
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Parent => "parent",
        Role::Extent => "extent",
        Role::DataFile => "data file",
    }
}

fn snapshot_line(snapshot: &Snapshot, zone: &Zone) -> String {
    let made = zone.show_minute(time(snapshot.made_s));
    let fault = snapshot.fault.as_ref().map(|fault| format!(", cannot be opened: {fault}"));
    let machine = if snapshot.machine_state > 0 { ", with the machine's state" } else { "" };
    format!("{} {}, {made}{machine}{}", snapshot.id, snapshot.name, fault.unwrap_or_default())
}

fn time(seconds: u64) -> Time {
    let ns = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
    Time(units::Timestamp(ns))
}

/// Identifiers under their names in the format's own words.
fn identifiers(identity: &Identity) -> Vec<(&'static str, String)> {
    match identity {
        Identity::None => Vec::new(),
        Identity::Vhd { id, time } => vec![
            ("unique id", uuid(id)),
            // Seconds since 2000-01-01 UTC, as the footer has them.
            ("time stamp", self::time(u64::from(*time) + 946_684_800).to_string()),
        ],
        Identity::Vhdx { file_write, data_write } => {
            vec![("data write id", guid(data_write)), ("file write id", guid(file_write))]
        }
        Identity::Vmdk { content } => vec![("content id", format!("{content:08x}"))],
        Identity::Vdi { id, modified } => {
            vec![("image id", guid(id)), ("modification id", guid(modified))]
        }
    }
}

/// Sixteen bytes in their order: RFC 9562.
fn uuid(bytes: &[u8; 16]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let group = |range: std::ops::Range<usize>| digits[range].concat();
    [group(0..4), group(4..6), group(6..8), group(8..10), group(10..16)].join("-")
}

/// The same as Microsoft and VirtualBox keep it: the first three groups begin with the low byte.
fn guid(bytes: &[u8; 16]) -> String {
    let mut ordered = *bytes;
    ordered[0..4].reverse();
    ordered[4..6].reverse();
    ordered[6..8].reverse();
    uuid(&ordered)
}

fn document(disk: &Disk, below: Option<&Result<Disk, Error>>) -> Value {
    let layer = &disk.chain().layers()[0];
    let facts = layer.facts();
    let path = |fault: &Fault| disk.files().path(fault.file).to_owned();
    let parent = facts.parent.as_ref().map(|parent| {
        json!({
            "name": parent.stated,
            "format": parent.format.map(images::Format::word),
            "identity": identity_json(&parent.identity),
        })
    });
    let files = facts.files.iter().map(|other| {
        json!({
            "role": role(other.role),
            "name": other.name,
            "file": disk.files().path(other.file).to_string_lossy(),
        })
    });
    let snapshots = facts.snapshots.iter().map(|snapshot| {
        json!({
            "id": snapshot.id,
            "name": snapshot.name,
            "size": snapshot.virtual_size,
            "time": time(snapshot.made_s),
            "machine_state": snapshot.machine_state,
            "fault": snapshot.fault.as_ref().map(|fault| fault_json(fault, &path(fault))),
        })
    });
    let bitmaps = facts.bitmaps.iter().map(|bitmap| {
        json!({
            "name": bitmap.name,
            "granularity": bitmap.granularity,
            "in_use": bitmap.in_use,
            "auto": bitmap.auto,
        })
    });
    let notes = layer.notes().iter().map(|note| fault_json(note, &path(note)));
    let whole = match below {
        Some(Ok(whole)) => Some(whole),
        Some(Err(_)) => None,
        None => Some(disk),
    };
    let fault = match below {
        Some(Err(Error::Fault { fault, path })) => Some(fault_json(fault, path)),
        Some(Err(error)) => Some(json!({ "text": error.to_string() })),
        _ => None,
    };
    json!({
        "schema": "image.info/1",
        "file": disk.files().path(layer.file()).to_string_lossy(),
        "format": facts.format.word(),
        "variant": facts.variant,
        "size": facts.virtual_size,
        "length": disk.files().length_bytes(layer.file()),
        "unit": facts.unit,
        "sector": facts.sector,
        "creator": facts.creator,
        "identity": identity_json(&facts.identity),
        "parent": parent,
        "files": files.collect::<Vec<_>>(),
        "features": facts.features,
        "snapshots": snapshots.collect::<Vec<_>>(),
        "bitmaps": bitmaps.collect::<Vec<_>>(),
        "notes": notes.collect::<Vec<_>>(),
        "read_only": facts.read_only.map(images::Class::word),
        "chain": whole.map(chain_json),
        "chain_fault": fault,
    })
}

fn chain_json(disk: &Disk) -> Vec<Value> {
    let layer = |layer: &images::Layer| {
        json!({
            "file": disk.files().path(layer.file()).to_string_lossy(),
            "format": layer.facts().format.word(),
            "variant": layer.facts().variant,
            "size": layer.facts().virtual_size,
        })
    };
    disk.chain().layers().iter().map(layer).collect()
}

fn identity_json(identity: &Identity) -> Option<Value> {
    let parts = identifiers(identity);
    (!parts.is_empty()).then(|| {
        let parts = parts.into_iter().map(|(name, value)| (name.replace(' ', "_"), value.into()));
        Value::Object(parts.collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_read_as_other_tools_print_them() {
        let bytes: [u8; 16] = std::array::from_fn(|n| u8::try_from(n).expect("below 16"));
        assert_eq!(uuid(&bytes), "00010203-0405-0607-0809-0a0b0c0d0e0f");
        assert_eq!(guid(&bytes), "03020100-0504-0706-0809-0a0b0c0d0e0f");
        let vhd = Identity::Vhd { id: bytes, time: 86_400 };
        assert_eq!(identifiers(&vhd)[1].1, "2000-01-02T00:00:00Z");
    }
}
