//! `image chain run`: a program on images whose parents nobody can write meanwhile.
//!
//! First the locks, then the look: what was compared cannot change any more before the program starts.
//! A chain that is not what it was keeps it from starting (exit 6). Once it runs, its exit code is ours.

use super::{Looked, how, look};
use crate::{
    cli::{ChainOpenArgs, ChainRunArgs, CheckLevel},
    commands::{
        image::{INTERRUPTED, failure},
        restore::cannot,
    },
    context::Context,
    out::Stop,
};
use api::{Failure, codes};
use chain_guard::{LinkReport, SealFacts, Status};
use image_files::{Disk, OpenDisk};
use images::Purpose;
use std::{
    io,
    path::{Path, PathBuf},
    process::Command,
};
use world::real::{exit_code, run_to_end};

pub(super) fn run(args: &ChainRunArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    let mut held = Vec::new();
    for image in &args.images {
        held.push(bar(image, &args.open)?);
    }
    for image in &args.images {
        match sound(image, &args.open, (args.level, args.unsealed), context)? {
            Some(()) => {}
            None => return Ok(INTERRUPTED),
        }
    }
    let (program, arguments) = args.command.split_first().expect("the grammar wants one");
    if context.global.dry_run {
        let files: Vec<String> = held.iter().flat_map(parents).collect();
        let program = program.to_string_lossy();
        context.out.plan(&format!(
            "would run {program} while writers of {} are kept out",
            files.join(", ")
        ))?;
        return Ok(0);
    }
    context.out.flush()?;
    let status = run_to_end(Command::new(program).args(arguments));
    drop(held);
    status.map(exit_code).map_err(|cause| not_run(Path::new(program), &cause).into())
}

/// Opens an image, and keeps writers out of all that it stands on.
fn bar(image: &Path, open: &ChainOpenArgs) -> Result<Disk, Failure> {
    let how = OpenDisk { purpose: Purpose::Examine, ..how(open) };
    let told = |error| failure(error, image);
    let disk = Disk::open(image, &how).map_err(told)?;
    disk.bar_parents().map_err(told)?;
    Ok(disk)
}

/// Refuses an image that does not stand on what it was made over. `None`: the user wished to stop.
pub(super) fn sound(
    image: &Path,
    open: &ChainOpenArgs,
    (level, unsealed): (CheckLevel, bool),
    context: &Context<'_>,
) -> Result<Option<()>, Failure> {
    let links = match look(image, open, level, context, None)? {
        Looked::Links(links) => links,
        Looked::Broken(broken) => return Err(broken.failure),
        Looked::Interrupted => return Ok(None),
    };
    match links.iter().find(|link| stands(link, unsealed).is_err()) {
        None => Ok(Some(())),
        Some(link) => Err(refusal(link, image)),
    }
}

/// Whether a link may be relied on. What nobody sealed and no identifier tells is no fault, only
/// unknown: `unsealed` lets it through.
fn stands(link: &LinkReport, unsealed: bool) -> Result<(), ()> {
    let is_unsealed = matches!(link.seal, SealFacts::None | SealFacts::Alike);
    let is_untold = is_unsealed && link.conclusion.is_none();
    match link.status {
        Status::Ok => Ok(()),
        Status::Unknown if is_untold && unsealed => Ok(()),
        Status::Unknown | Status::Fault => Err(()),
    }
}

fn refusal(link: &LinkReport, image: &Path) -> Failure {
    let (child, parent) = (link.child.display(), link.parent.display());
    let text = format!("{child} does not stand on {parent} as it was: {}", link.text());
    let shown = image.display();
    if stands(link, true).is_ok() {
        let text = format!(
            "nobody can tell whether {child} stands on what it was made over: {}",
            link.text()
        );
        return Failure::new(codes::PARENT_UNSEALED, text).doing(format!(
            "seal it while all is well: strandline image chain guard {shown}; or --unsealed"
        ));
    }
    Failure::new(codes::PARENT_DIFFERS, text)
        .doing(link.advice())
        .seeing(format!("strandline image chain fix {child}"))
}

/// Files that are held.
fn parents(disk: &Disk) -> Vec<String> {
    let files = disk.files();
    let layers = disk.chain().layers()[1..].iter();
    layers.map(|layer| files.path(layer.file()).display().to_string()).collect()
}

fn not_run(program: &Path, cause: &io::Error) -> Failure {
    match cause.kind() {
        io::ErrorKind::NotFound => {
            let text = format!("there is no program {}", program.display());
            Failure::new(codes::NO_FILE, text)
        }
        _ => cannot("run", &PathBuf::from(program), cause),
    }
}
