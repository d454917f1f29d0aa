//! `image map`: where the guest's bytes are, extent by extent; `--json` prints a line for each.

use super::{super::many, failure, fault_json, no_pipe, open};
use crate::{
    cli::ImageMapArgs,
    context::Context,
    out::{Cell, Output, Stop, Table},
};
use api::{Failure, Kind as Exit, codes};
use image_files::{Disk, Error};
use images::{Algorithm, Extent, Kind, Mapped};
use serde_json::{Value, json};

pub(super) fn run(args: &ImageMapArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    let image = &args.state.of.image;
    no_pipe(image)?;
    let mut disk = open(&args.state)?;
    let layers = disk.chain().layers().len();
    if args.layer.is_some_and(|layer| layer >= layers) {
        let count = many(layers as u64, "image", "images");
        let text = format!("the chain has {count}, and the first is number 0");
        return Err(Failure::new(codes::NO_IMAGE_PART, text).into());
    }
    let size = match args.layer {
        Some(layer) => disk.chain().layers()[layer].facts().virtual_size,
        None => disk.virtual_size(),
    };
    let end = args.length.map_or(size, |length| args.offset.saturating_add(length)).min(size);
    let (mut place, mut damaged) = (args.offset, false);
    while place < end {
        let part = answer(&mut disk, args.layer, place, end);
        let part = part.map_err(|error| failure(error, image))?;
        let Some(last) = part.last() else { break };
        place = last.extent.end();
        damaged |= part.iter().any(|mapped| matches!(mapped.extent.kind, Kind::Corrupt(_)));
        say(&part, &disk, context.out)?;
    }
    Ok(if damaged { Exit::Damaged.exit() } else { 0 })
}

fn answer(
    disk: &mut Disk,
    layer: Option<usize>,
    place: u64,
    end: u64,
) -> Result<Vec<Mapped>, Error> {
    let Some(layer) = layer else { return disk.map(place..end) };
    let own = disk.layer_map(layer, place..end)?;
    Ok(own.into_iter().map(|extent| Mapped { layer, extent }).collect())
}

fn say(part: &[Mapped], disk: &Disk, out: &mut Output) -> Result<(), Stop> {
    if out.json {
        return part.iter().try_for_each(|mapped| out.json_line(&line(mapped, disk)));
    }
    let mut table = Table::new(["OFFSET", "LENGTH", "KIND", "LAYER", "FILE", "AT"]);
    for Mapped { layer, extent } in part {
        let (file, at) = stands(extent, disk);
        table.row([
            Cell::count(extent.start),
            Cell::count(extent.len),
            Cell::text(word(&extent.kind)),
            Cell::count(*layer as u64),
            Cell::maybe(file.map(Cell::text)),
            Cell::maybe(at.map(Cell::count)),
        ]);
    }
    out.table(&table)
}

fn line(Mapped { layer, extent }: &Mapped, disk: &Disk) -> Value {
    let (file, at) = stands(extent, disk);
    let mut line = json!({
        "offset": extent.start,
        "length": extent.len,
        "kind": word(&extent.kind),
        "layer": layer,
        "file": file,
        "at": at,
    });
    match &extent.kind {
        Kind::Packed(packed) => {
            line["packed"] = json!({
                "algorithm": match packed.algorithm {
                    Algorithm::Deflate12 => "deflate",
                    Algorithm::Zlib => "zlib",
                    Algorithm::Zstd => "zstd",
                },
                "length": packed.len,
                "unit": packed.unit,
                "skip": packed.skip,
            });
        }
        Kind::Corrupt(fault) => {
            line["fault"] = fault_json(fault, disk.files().path(fault.file));
        }
        _ => {}
    }
    line
}

/// The file and the place in it, where there is one.
fn stands(extent: &Extent, disk: &Disk) -> (Option<String>, Option<u64>) {
    let (file, at) = match &extent.kind {
        Kind::Data { file, offset } => (*file, Some(*offset)),
        Kind::Packed(packed) => (packed.file, Some(packed.offset)),
        Kind::Corrupt(fault) => (fault.file, fault.at),
        Kind::Zero | Kind::Hole | Kind::Parent | Kind::Inline { .. } => return (None, None),
    };
    (Some(disk.files().path(file).to_string_lossy().into_owned()), at)
}

fn word(kind: &Kind) -> &'static str {
    match kind {
        Kind::Data { .. } => "data",
        Kind::Zero => "zero",
        Kind::Hole => "hole",
        Kind::Parent => "parent",
        Kind::Packed(_) => "packed",
        Kind::Inline { .. } => "inline",
        Kind::Corrupt(_) => "damaged",
    }
}
