//! `image …`: files in interchange formats, read and written without a store. A file for each verb.
//!
//! What an image says (names, versions, identifiers) is printed escaped, as all that others wrote.

pub(super) mod adopt;
mod chain;
mod check;
mod convert;
mod digest;
mod export;
mod info;
mod map;
mod open;
mod salvage;

use super::restore::cannot;
use crate::{
    cli::{GivenFormat, Global, ImageArgs, ImageFormat, ImageStateArgs, ImageVerb},
    context::Context,
    out::{Progress, Stop},
};
use api::{Failure, codes};
use image_files::{Disk, Error, OpenDisk, Watch};
use images::{Fault, Format, Part, Purpose, Trouble, layout::Unwritable};
use serde_json::json;
use std::{io, path::Path, sync::Arc};
use world::{
    Waker,
    real::{Kinds, StopSignals},
};

/// What a command ends with when it was interrupted.
pub(super) const INTERRUPTED: u8 = 130;

pub(super) fn run(verb: ImageVerb, context: &mut Context<'_>) -> Result<u8, Stop> {
    // An image of VMware may have thousands of parts.
    let _ = world::real::raise_descriptor_limit();
    match verb {
        ImageVerb::Info(args) => info::run(&args, context),
        ImageVerb::Check(args) => check::run(&args, context),
        ImageVerb::Map(args) => map::run(&args, context),
        ImageVerb::Digest(args) => digest::run(&args, context),
        ImageVerb::Convert(args) => convert::run(&args, context),
        ImageVerb::Export(args) => export::run(&args, context),
        ImageVerb::Salvage(args) => salvage::run(&args, context),
        ImageVerb::Open(args) if args.rw => adopt::run_open(&args, context),
        ImageVerb::Open(args) => open::run(&args, context),
        ImageVerb::Adopt(args) => adopt::run_adopt(&args, context),
        ImageVerb::Fill(args) => adopt::run_fill(&args, context),
        ImageVerb::Import(args) => adopt::run_import(&args, context),
        ImageVerb::Chain(verb) => chain::run(verb, context),
    }
}

/// Opens the state of an image for reading.
pub(super) fn open(args: &ImageStateArgs) -> Result<Disk, Failure> {
    try_open(args).map_err(|error| failure(error, &args.of.image))
}

fn try_open(args: &ImageStateArgs) -> Result<Disk, Error> {
    Disk::open(&args.of.image, &OpenDisk { snapshot: args.snapshot.clone(), ..how(&args.of) })
}

/// How the image shall be opened.
fn how(args: &ImageArgs) -> OpenDisk {
    OpenDisk {
        format: told(args.format),
        parent_format: args.parent_format.map(format_of),
        snapshot: None,
        purpose: Purpose::Read,
        search: args.search.clone(),
        kinds: if args.devices { Kinds::FilesAndDevices } else { Kinds::Files },
        outside: false,
    }
}

fn told(format: GivenFormat) -> Option<Format> {
    match format {
        GivenFormat::Auto => None,
        GivenFormat::Raw => Some(Format::Raw),
        GivenFormat::Qcow2 => Some(Format::Qcow2),
        GivenFormat::Vhd => Some(Format::Vhd),
        GivenFormat::Vhdx => Some(Format::Vhdx),
        GivenFormat::Vmdk => Some(Format::Vmdk),
        GivenFormat::Vdi => Some(Format::Vdi),
    }
}

fn format_of(format: ImageFormat) -> Format {
    match format {
        ImageFormat::Raw => Format::Raw,
        ImageFormat::Qcow2 => Format::Qcow2,
        ImageFormat::Vhd => Format::Vhd,
        ImageFormat::Vhdx => Format::Vhdx,
        ImageFormat::Vmdk => Format::Vmdk,
        ImageFormat::Vdi => Format::Vdi,
    }
}

/// What is to be written: as told, or as the name of the output says.
fn format_to(to: Option<ImageFormat>, out: &Path) -> Result<Format, Failure> {
    if let Some(format) = to {
        return Ok(format_of(format));
    }
    let suffix = out.extension().map(|suffix| suffix.to_string_lossy().to_ascii_lowercase());
    let found = match suffix.as_deref() {
        Some("img" | "dd" | "bin") => Some(Format::Raw),
        Some(word) => Format::of_word(word),
        None => None,
    };
    found.ok_or_else(|| {
        let text = format!("`{}` does not say which format is to be written", out.display());
        Failure::new(codes::USAGE, text).doing("say it: --to raw, qcow2, vhd, vhdx, vmdk, vdi")
    })
}

/// An image is read from a file: refuses `-`, which names none.
pub(super) fn no_pipe(image: &Path) -> Result<(), Failure> {
    if image.as_os_str() != "-" {
        return Ok(());
    }
    let text = "an image is not read from a pipe: its tables lead to and fro in it";
    Err(Failure::new(codes::USAGE, text)
        .doing("write it to a file first; ./- for one of that name"))
}

/// An error of the library in the one form, with what helps; `image` is what the user named.
pub(super) fn failure(error: Error, image: &Path) -> Failure {
    match error {
        Error::Fault { fault, path } => faulty(&fault, &path, image),
        Error::Missing(path) => {
            Failure::new(codes::NO_FILE, format!("{} is not there", path.display()))
        }
        Error::Unfit { path, why } => {
            let failure = Failure::new(codes::IMAGE_UNFIT, format!("{}: {why}", path.display()));
            match why {
                "it is a block device" => failure.doing("--devices allows block devices"),
                _ => failure,
            }
        }
        Error::Io { doing, path, cause } => cannot(doing, &path, &cause),
        Error::Exists(path) => {
            Failure::new(codes::TARGET_EXISTS, format!("{} exists", path.display()))
                .doing("name another file; or --force, which writes over it")
        }
        Error::DeviceInUse(path) => {
            Failure::new(codes::DEVICE_NOT_EMPTY, format!("{} holds data", path.display()))
                .doing("--force writes over it")
        }
        Error::Itself(path) => {
            let text = format!("{} is part of what is read", path.display());
            Failure::new(codes::TARGET_IS_SOURCE, text).doing("name another file")
        }
        Error::InUse { .. } => Failure::new(codes::IMAGE_IN_USE, error.to_string())
            .doing("end the program that uses it, then try again"),
        Error::TooSmall { .. } => Failure::new(codes::TARGET_FULL, error.to_string()),
        Error::Unwritable(why) => {
            let code = match why {
                Unwritable::Plan { .. } => codes::BUG,
                _ => codes::IMAGE_UNWRITABLE,
            };
            Failure::new(code, why.to_string())
        }
        Error::Unsuitable(why) => Failure::new(codes::IMAGE_UNWRITABLE, why),
        // Callers end with its exit code before they ask for a failure.
        Error::Interrupted => Failure::bug("an interruption was taken for a failure"),
    }
}

/// A fault of an image, by what can be done about it.
fn faulty(fault: &Fault, path: &Path, image: &Path) -> Failure {
    let message = format!("{}: {fault}", path.display());
    let shown = image.display();
    match fault.class.trouble() {
        Trouble::NotThisFormat if fault.part == Part::Chain => {
            Failure::new(codes::FORMAT_AMBIGUOUS, message)
                .doing("say what the parent is: --parent-format raw, qcow2, vhd, vhdx, vmdk, vdi")
        }
        Trouble::NotThisFormat if fault.class == images::Class::FormatAmbiguous => {
            Failure::new(codes::FORMAT_AMBIGUOUS, message)
                .doing("say what it is: --format raw, qcow2, vhd, vhdx, vmdk, vdi")
        }
        Trouble::NotThisFormat => Failure::new(codes::IMAGE_FORMAT, message)
            .doing("say what it is: --format raw, qcow2, vhd, vhdx, vmdk, vdi, auto"),
        Trouble::Unsupported => Failure::new(codes::IMAGE_UNSUPPORTED, message),
        Trouble::NotFound => Failure::new(codes::NO_IMAGE_PART, message)
            .doing("put the file where the image says, or name its folder: --search DIR"),
        Trouble::Forbidden => Failure::new(codes::IMAGE_NAME, message)
            .doing("an image may name files beside and below itself only"),
        Trouble::Differs => Failure::new(codes::PARENT_DIFFERS, message)
            .seeing(format!("strandline image check {shown}")),
        Trouble::ReadOnly => Failure::new(codes::IMAGE_READ_ONLY, message),
        Trouble::OverLimit => Failure::new(codes::IMAGE_LIMIT, message),
        Trouble::Damaged => Failure::new(codes::IMAGE_DAMAGED, message)
            .seeing(format!("strandline image check {shown}")),
    }
}

/// A fault as JSON.
fn fault_json(fault: &Fault, path: &Path) -> serde_json::Value {
    json!({
        "class": fault.class.word(),
        "part": fault.part.word(),
        "layer": fault.layer,
        "file": path.to_string_lossy(),
        "at": fault.at,
        "text": fault.text,
    })
}

/// Runs work that takes its time: with progress, and an end at Ctrl-C that leaves nothing behind.
/// `None` if it was interrupted.
pub(super) fn watched<T>(
    global: &Global,
    quiet: bool,
    what: &'static str,
    total: u64,
    work: impl FnOnce(&mut Watch<'_>) -> Result<T, Error>,
) -> Result<Option<T>, Error> {
    // Where signals are caught already, or cannot be, they do what they did before.
    let signals = StopSignals::install(Waker(Arc::new(|| ()))).ok();
    let stopped = || signals.as_ref().is_some_and(|signals| signals.count() > 0);
    watched_by(&stopped, global, quiet, what, total, work)
}

/// The same for who catches signals itself.
fn watched_by<T>(
    stopped: &dyn Fn() -> bool,
    global: &Global,
    quiet: bool,
    what: &'static str,
    total: u64,
    work: impl FnOnce(&mut Watch<'_>) -> Result<T, Error>,
) -> Result<Option<T>, Error> {
    let mut progress = Progress::new(global.progress, quiet, what, total);
    let ended = work(&mut Watch { progress: &mut |bytes| progress.advance(bytes), stopped });
    progress.finish();
    match ended {
        Ok(done) => Ok(Some(done)),
        Err(Error::Interrupted) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether nobody reads the other end of stdout any more.
fn is_closed_pipe(error: &Error) -> bool {
    matches!(error, Error::Io { cause, .. } if cause.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests;
