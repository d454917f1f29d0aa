//! `image chain …`: whether images still stand on what they were made over.
//!
//! Files are opened for reading only. What is kept goes into the book of seals: the folder that was
//! named, that of the store that was named, or the user's own; no store is needed.

mod check;
mod explain;
mod fix;
mod guard;
mod hook;
mod run;
mod watch;

use super::{failure, format_of, no_pipe, told, watched, watched_by};
use crate::{
    cli::{ChainOpenArgs, ChainVerb, CheckLevel},
    context::Context,
    out::Stop,
    places,
};
use api::{Failure, codes};
use chain_guard::{Book, BookError, Depth, Error, LabelError, LinkReport, SealFacts, Survey, View};
use image_files::{Disk, OpenDisk, Watch};
use images::{Class, Purpose};
use lineage::{Native, Scope};
use serde_json::{Value, json};
use std::{
    io,
    path::{Path, PathBuf},
};
use world::{
    Clock as _,
    real::{Kinds, RealClock},
};

pub(super) fn run(verb: ChainVerb, context: &mut Context<'_>) -> Result<u8, Stop> {
    match verb {
        ChainVerb::Check(args) => check::run(&args, context),
        ChainVerb::Guard(args) => guard::run(&args, context),
        ChainVerb::Explain(args) => explain::run(&args, context),
        ChainVerb::Watch(args) => watch::run(&args, context),
        ChainVerb::Run(args) => run::run(&args, context),
        ChainVerb::Fix(args) => fix::run(&args, context),
        ChainVerb::Hook(args) => hook::run(&args, context),
    }
}

/// How images are opened.
fn how(args: &ChainOpenArgs) -> OpenDisk {
    OpenDisk {
        format: told(args.format),
        parent_format: args.parent_format.map(format_of),
        snapshot: None,
        purpose: Purpose::Examine,
        search: args.search.clone(),
        kinds: if args.devices { Kinds::FilesAndDevices } else { Kinds::Files },
        outside: args.outside,
    }
}

/// The folder of seals.
fn book_folder(args: &ChainOpenArgs, context: &Context<'_>) -> PathBuf {
    match (&args.book, &context.global.store) {
        (Some(folder), _) => folder.clone(),
        (None, Some(_)) => context.store.join("guard"),
        (None, None) => places::guard_book(),
    }
}

const fn depth(level: CheckLevel) -> Depth {
    match level {
        CheckLevel::Auto => Depth::AsNeeded,
        CheckLevel::Signs => Depth::Signs,
        CheckLevel::Bytes => Depth::Always,
    }
}

/// Now, in ns since 1970-01-01 UTC.
fn now_ns() -> i64 {
    RealClock.wall().0
}

/// What came of looking at one image and all it stands on.
enum Looked {
    /// Its links, that of the top first; none if it stands alone.
    Links(Vec<LinkReport>),
    /// It cannot be opened as far as to its last parent.
    Broken(Broken),
    /// The user wished to stop.
    Interrupted,
}

/// A chain that ends in a fault.
struct Broken {
    /// The image at which it ends.
    child: PathBuf,
    /// The parent that it names, where that is what is missing.
    parent: Option<String>,
    /// The word of the fault, where it is one of an image.
    class: Option<&'static str>,
    failure: Failure,
}

/// Looks at an image and all it stands on; renews seals that were proven. `stopped`: whether to stop,
/// where the caller catches signals itself.
fn look(
    image: &Path,
    open: &ChainOpenArgs,
    level: CheckLevel,
    context: &Context<'_>,
    stopped: Option<&dyn Fn() -> bool>,
) -> Result<Looked, Failure> {
    no_pipe(image)?;
    let folder = book_folder(open, context);
    let book = Book::open(&folder).map_err(|error| book_failure(&error, &folder))?;
    let view = match View::open(image, &how(open)) {
        Ok(view) => view,
        Err(error) => return Ok(Looked::Broken(broken(error, image, open, &folder))),
    };
    let found = Survey::begin(view, book.as_ref(), depth(level));
    let mut survey = found.map_err(|error| chain_failure(error, image, &folder))?;
    let quiet = context.out.quiet || context.out.json;
    let total = survey.total_bytes();
    let mut trouble = None;
    let work = |watch: &mut Watch<'_>| match survey.finish(book.as_ref(), watch) {
        Ok(reports) => Ok(Some(reports)),
        Err(Error::Image(error)) => Err(error),
        Err(error) => {
            trouble = Some(error);
            Ok(None)
        }
    };
    let (global, what) = (&context.global, "comparing");
    let done = match stopped {
        Some(stopped) => watched_by(stopped, global, quiet, what, total, work),
        None => watched(global, quiet, what, total, work),
    };
    if let Some(error) = trouble {
        return Err(chain_failure(error, image, &folder));
    }
    let Some(reports) = done.map_err(|error| failure(error, image))?.map(Option::unwrap_or_default)
    else {
        return Ok(Looked::Interrupted);
    };
    if !context.global.dry_run && level != CheckLevel::Signs {
        renew(&mut survey, &reports, &folder);
    }
    Ok(Looked::Links(reports))
}

/// Renews seals whose bytes were proven. Whoever may not write the book, or finds it being written,
/// has read more than next time was needed: no more than that.
fn renew(survey: &mut Survey, reports: &[LinkReport], folder: &Path) {
    if !reports.iter().any(LinkReport::is_to_renew) {
        return;
    }
    if let Ok(mut book) = Book::open_for_writing(folder) {
        let _ = survey.renew(reports, &mut book, now_ns());
    }
}

/// Where a chain ends that could not be opened.
fn broken(error: Error, image: &Path, open: &ChainOpenArgs, folder: &Path) -> Broken {
    let mut broken =
        Broken { child: image.to_owned(), parent: None, class: None, failure: Failure::bug("") };
    if let Error::Image(image_files::Error::Fault { fault, path }) = &error {
        broken.class = Some(fault.class.word());
        broken.child.clone_from(path);
        if fault.class == Class::ParentMissing {
            let alone = OpenDisk { purpose: Purpose::Inspect, ..how(open) };
            let format = if path == image { alone.format } else { None };
            let disk = Disk::open(path, &OpenDisk { format, ..alone });
            let stated = |disk: Disk| {
                let facts = disk.chain().layers()[0].facts();
                facts.parent.as_ref().map(|parent| parent.stated.clone())
            };
            broken.parent = disk.ok().and_then(stated).filter(|name| !name.is_empty());
        }
    }
    broken.failure = chain_failure(error, image, folder);
    broken
}

/// An error of the guard in the one form.
fn chain_failure(error: Error, image: &Path, folder: &Path) -> Failure {
    match error {
        Error::Image(error) => failure(error, image),
        Error::Book(error) => book_failure(&error, folder),
        Error::Replaced(_) | Error::Written(_) => {
            Failure::new(codes::IMAGE_BUSY, error.to_string())
                .doing("look again when nobody writes")
        }
        Error::Alone(_) => Failure::new(codes::IMAGE_ALONE, error.to_string()),
        Error::Differs { .. } => Failure::new(codes::PARENT_DIFFERS, error.to_string())
            .doing("put the parent back as it was; or --accept REASON, which seals it as it is")
            .seeing(format!("strandline image chain explain {}", image.display())),
        Error::Unlabelled { ref cause, .. } => match cause {
            LabelError::Format(_) | LabelError::Unwritable(_) => {
                Failure::new(codes::IMAGE_UNWRITABLE, error.to_string())
            }
            LabelError::Open | LabelError::File(_) => {
                Failure::new(codes::IMAGE_BUSY, error.to_string())
                    .doing("the links are sealed; label it when nobody uses it")
            }
            LabelError::Io(_) => Failure::new(codes::DISK_ERROR, error.to_string()),
        },
        Error::Unsealable { .. } => Failure::new(codes::IMAGE_BUSY, error.to_string())
            .doing("seal it when its writer has closed it"),
    }
}

fn book_failure(error: &BookError, folder: &Path) -> Failure {
    let text = format!("the seals in {}: {error}", folder.display());
    match error {
        BookError::Busy => Failure::new(codes::BOOK_BUSY, text).doing("try again in a moment"),
        BookError::Io { cause, .. } => match cause.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Failure::new(codes::FILE_DENIED, text).doing("--book DIR keeps them elsewhere")
            }
            io::ErrorKind::StorageFull => Failure::new(codes::TARGET_FULL, text),
            _ => Failure::new(codes::DISK_ERROR, text),
        },
        BookError::TooLarge { .. } => Failure::new(codes::IMAGE_LIMIT, text)
            .doing("--level needed seals less, --level header nothing but signs"),
        BookError::Damaged { .. } | BookError::Foreign { .. } | BookError::Missing { .. } => {
            Failure::new(codes::BOOK_DAMAGED, text)
                .doing("--accept REASON seals anew, after you have made sure of the parent")
        }
    }
}

/// A link as JSON.
fn link_json(report: &LinkReport) -> Value {
    let signs = report.signs().iter().map(|sign| {
        json!({
            "sign": sign.word(),
            "level": sign.level().number(),
            "weight": sign.weight().word(),
            "text": sign.words(),
        })
    });
    let ranges = report.ranges().iter().map(|(range, verdict)| {
        json!({
            "offset": range.start,
            "length": range.end - range.start,
            "verdict": verdict.word(),
        })
    });
    json!({
        "child": report.child.to_string_lossy(),
        "parent": report.parent.to_string_lossy(),
        "layer": report.layer,
        "status": report.status.word().to_lowercase(),
        "verdict": report.verdict(),
        "signs": signs.collect::<Vec<_>>(),
        "ranges": ranges.collect::<Vec<_>>(),
        "seal": seal_json(&report.seal),
        "identifiers": native_word(report.native),
        "damage": report.damage.as_ref().map(ToString::to_string),
        "unsteady": report.unsteady,
        "text": report.text(),
        "advice": report.advice(),
    })
}

fn broken_json(broken: &Broken) -> Value {
    json!({
        "child": broken.child.to_string_lossy(),
        "parent": broken.parent,
        "status": "fault",
        "verdict": Value::Null,
        "class": broken.class,
        "exit": broken.failure.exit(),
        "text": broken.failure.message,
    })
}

fn seal_json(seal: &SealFacts) -> Value {
    match seal {
        SealFacts::None => Value::Null,
        SealFacts::Alike => json!({ "found": "alike" }),
        SealFacts::Label => json!({ "found": "label" }),
        SealFacts::Unreadable(why) => json!({ "found": "unreadable", "text": why }),
        SealFacts::Found { made_ns, by_file, scope, share, reason } => json!({
            "found": if *by_file { "file" } else { "content" },
            "time": api::Time(units::Timestamp(*made_ns)).to_string(),
            "level": scope_word(*scope),
            "verified_percent": share.map(|share| share.percent()),
            "reason": (!reason.is_empty()).then_some(reason),
        }),
    }
}

const fn scope_word(scope: Option<Scope>) -> &'static str {
    match scope {
        None => "header",
        Some(Scope::Needed) => "needed",
        Some(Scope::All) => "all",
    }
}

const fn native_word(native: Native) -> &'static str {
    match native {
        Native::Untold => "none",
        Native::Agrees => "agree",
        Native::Hint(what) | Native::Differs(what) => what.word(),
    }
}

#[cfg(test)]
mod tests;
