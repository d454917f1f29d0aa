//! `image salvage`: what can be read of a damaged image, and a list of what cannot.
//!
//! Where a parent is missing or is not the right one, what the image itself holds is saved, and the
//! list names the rest.

use super::{INTERRUPTED, failure, how, no_pipe, watched};
use crate::{
    cli::ImageSalvageArgs,
    context::Context,
    out::{Cell, Output, Stop, Table},
};
use api::{Failure, Kind, amounts::size_text, codes};
use image_files::{BadRange, Disk, Error, OpenDisk, Salvaged, write_list};
use images::{Purpose, Trouble};
use serde_json::json;

/// Bad ranges that are printed; the list of a salvage has all of them.
const SHOWN_MAX: usize = 20;

pub(super) fn run(args: &ImageSalvageArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    let (image, out) = (args.state.of.image.as_path(), args.out.as_path());
    no_pipe(image)?;
    if out.as_os_str() == "-" {
        let text = "a salvage is not written to stdout: it would hide where the bad ranges are";
        return Err(Failure::new(codes::USAGE, text).doing("name a file").into());
    }
    let told = |error| failure(error, image);
    let (mut disk, alone) = open(args).map_err(told)?;
    disk.may_write(out, args.force).map_err(told)?;
    disk.may_write(&args.map, args.force).map_err(told)?;
    if context.global.dry_run {
        let (out, map) = (out.display(), args.map.display());
        context.out.plan(&format!(
            "would write what can be read of {} to {out}, and what cannot to {map}",
            image.display()
        ))?;
        return Ok(0);
    }
    if let Some(failure) = &alone {
        context.out.aside(&format!("without what lies below: {}", failure.message))?;
    }
    let (quiet, size) = (context.out.quiet || context.out.json, disk.virtual_size());
    let ended = watched(&context.global, quiet, "salvaging", size, |watch| {
        disk.salvage(out, args.force, watch)
    });
    let Some(salvaged) = ended.map_err(told)? else { return Ok(INTERRUPTED) };
    write_list(&args.map, salvaged.map_file().as_bytes(), args.force).map_err(told)?;
    say(&salvaged, args, context)
}

/// The image with all it stands on; else alone, and why.
fn open(args: &ImageSalvageArgs) -> Result<(Disk, Option<Failure>), Error> {
    let (image, snapshot) = (&args.state.of.image, args.state.snapshot.clone());
    let how = OpenDisk { snapshot, ..how(&args.state.of) };
    let error = match Disk::open(image, &how) {
        Ok(disk) => return Ok((disk, None)),
        Err(error) => error,
    };
    let of_parent = match &error {
        Error::Fault { fault, .. } => {
            fault.layer > 0
                || matches!(
                    fault.class.trouble(),
                    Trouble::NotFound | Trouble::Differs | Trouble::Forbidden
                )
        }
        _ => false,
    };
    if !of_parent {
        return Err(error);
    }
    let disk = Disk::open(image, &OpenDisk { purpose: Purpose::Inspect, ..how })?;
    Ok((disk, Some(failure(error, image))))
}

fn say(
    salvaged: &Salvaged,
    args: &ImageSalvageArgs,
    context: &mut Context<'_>,
) -> Result<u8, Stop> {
    let (bad, size) = (salvaged.bad_bytes(), salvaged.virtual_size);
    if context.out.json {
        context.out.document(&json!({
            "schema": "image.salvage/1",
            "file": args.out.to_string_lossy(),
            "map": args.map.to_string_lossy(),
            "size": size,
            "bad": salvaged.bad.iter().map(bad_json).collect::<Vec<_>>(),
            "bad_bytes": bad,
            "written": salvaged.written_bytes,
        }))?;
        return Ok(if bad == 0 { 0 } else { Kind::Damaged.exit() });
    }
    say_bad(&salvaged.bad, context.out)?;
    let (saved, out) = (size_text(size - bad), args.out.display());
    context.out.line(&format!("saved {saved} of {} to {out}", size_text(size)))?;
    if bad == 0 {
        return Ok(0);
    }
    let text = format!("{} could not be read, and are zeroes in {out}", size_text(bad));
    let list = format!("the ranges are in {}", args.map.display());
    Err(Failure::new(codes::IMAGE_DAMAGED, text).doing(list).into())
}

/// A bad range as JSON.
pub(super) fn bad_json(range: &BadRange) -> serde_json::Value {
    json!({ "offset": range.start, "length": range.len, "why": range.why })
}

/// The first bad ranges as a table.
pub(super) fn say_bad(bad: &[BadRange], out: &mut Output) -> Result<(), Stop> {
    if bad.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(["OFFSET", "LENGTH", "WHY"]);
    for range in bad.iter().take(SHOWN_MAX) {
        table.row([Cell::count(range.start), Cell::count(range.len), Cell::text(&range.why)]);
    }
    out.table(&table)?;
    if bad.len() > SHOWN_MAX {
        out.aside(&format!("and {} more bad ranges", bad.len() - SHOWN_MAX))?;
    }
    Ok(())
}
