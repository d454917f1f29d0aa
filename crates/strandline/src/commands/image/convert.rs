//! `image convert`: an image in another format, to files that appear whole, a device, or stdout.

use super::{INTERRUPTED, failure, format_to, is_closed_pipe, no_pipe, open, watched};
use crate::{
    cli::ImageConvertArgs,
    context::Context,
    out::{Progress, Stop},
};
use api::{Failure, amounts::size_text, codes};
use image_files::{Converted, Disk, Error, Target, Watch};
use images::Form;
use serde_json::json;
use std::{io, path::Path};

pub(super) fn run(args: &ImageConvertArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    let (image, out) = (args.state.of.image.as_path(), args.out.as_path());
    no_pipe(image)?;
    let form = Form::new(format_to(args.to, out)?, args.subformat.as_deref());
    let form = form.map_err(|error| failure(error.into(), image))?;
    let mut disk = open(&args.state)?;
    let from = disk.chain().layers()[0].facts().format;
    let what = format!("{} ({from}, {})", image.display(), size_text(disk.virtual_size()));
    let to = format!("{} ({})", out.display(), form.format());
    let to_stdout = out.as_os_str() == "-";
    if !to_stdout {
        disk.may_write(out, args.force).map_err(|error| failure(error, image))?;
    }
    if context.global.dry_run {
        context.out.plan(&format!("would write {what} to {to}"))?;
        return Ok(0);
    }
    if to_stdout {
        return to_stream(&mut disk, form, image, context);
    }
    let ended = with_progress(&mut disk, form, out, args.force, context);
    let Some(converted) = ended.map_err(|error| unwritten(error, image))? else {
        return Ok(INTERRUPTED);
    };
    say(&disk, &converted, (&what, &to), context)
}

fn with_progress(
    disk: &mut Disk,
    form: Form,
    out: &Path,
    force: bool,
    context: &mut Context<'_>,
) -> Result<Option<Converted>, Error> {
    let quiet = context.out.quiet || context.out.json;
    let (name, size) = (name_of(out), disk.virtual_size());
    let global = &context.global;
    let prepared =
        watched(global, quiet, "looking", size, |watch| disk.prepare(form, &name, watch))?;
    let Some(prepared) = prepared else { return Ok(None) };
    watched(global, quiet, "converting", prepared.total_bytes(), |watch| {
        disk.write(prepared, Target::Path { path: out, force }, watch)
    })
}

/// The name that an image may carry in itself.
fn name_of(out: &Path) -> String {
    out.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// Signals end this process as they end others: a write to a full pipe can be left no other way.
fn to_stream(
    disk: &mut Disk,
    form: Form,
    image: &Path,
    context: &mut Context<'_>,
) -> Result<u8, Stop> {
    let mut out = io::stdout().lock();
    let mut silent = |_| ();
    let mut watch = Watch { progress: &mut silent, stopped: &|| false };
    let name = format!("disk.{}", form.format());
    let prepared = disk.prepare(form, &name, &mut watch);
    let prepared = prepared.map_err(|error| failure(error, image))?;
    let (form, quiet) = (context.global.progress, context.out.quiet);
    let mut progress = Progress::new(form, quiet, "converting", prepared.total_bytes());
    let mut advance = |bytes| progress.advance(bytes);
    let mut watch = Watch { progress: &mut advance, stopped: &|| false };
    let ended = disk.write(prepared, Target::Stream(&mut out), &mut watch);
    progress.finish();
    match ended {
        Ok(_) => Ok(0),
        Err(error) if is_closed_pipe(&error) => Err(Stop::PipeClosed),
        Err(error) => Err(unwritten(error, image).into()),
    }
}

fn say(
    disk: &Disk,
    converted: &Converted,
    (what, to): (&str, &str),
    context: &mut Context<'_>,
) -> Result<u8, Stop> {
    if context.out.json {
        let paths: Vec<_> = converted.paths.iter().map(|path| path.to_string_lossy()).collect();
        context.out.document(&json!({
            "schema": "image.convert/1",
            "files": paths,
            "size": disk.virtual_size(),
            "length": converted.length_bytes,
            "written": converted.written_bytes,
        }))?;
        return Ok(0);
    }
    context.out.line(&format!("converted {what} to {to}"))?;
    let (written, length) = (size_text(converted.written_bytes), size_text(converted.length_bytes));
    context.out.aside(&format!("  {written} of {length} written, the rest is zeroes"))?;
    Ok(0)
}

/// Damage ends a conversion; what helps then is a salvage.
fn unwritten(error: Error, image: &Path) -> Failure {
    let met = matches!(error, Error::Fault { .. });
    let failure = failure(error, image);
    if met && failure.code == codes::IMAGE_DAMAGED {
        let text = format!("strandline image salvage {} OUT --map BAD", image.display());
        return Failure { see: None, ..failure }
            .doing("what can be read is saved by the command below")
            .seeing(text);
    }
    failure
}
