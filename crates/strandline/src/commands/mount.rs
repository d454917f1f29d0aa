//! `mount [VOL[@I]|FILE] DIR`: disks as files in every format, made as they are read.
//!
//! Serves in the foreground until Ctrl-C, or until somebody unmounts the directory.

use super::image;
use crate::{
    cli::{GivenFormat, ImageArgs, ImageStateArgs, MountArgs},
    context::Context,
    out::{Output, Stop},
};
use api::{Failure, Kind, Zone, amounts::size_text, codes};
use serde_json::json;
use std::{path::Path, time::Duration};
use virtual_files::{DiskFolder, Ended, Entry, MountError, News, Options, Store, unmount_command};
use world::{Clock as _, real::RealClock};

/// How long a reader waits for one answer, where nothing else is said.
const LIMIT_NS: u64 = 30_000_000_000;

pub(super) fn run(args: &MountArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    context.global.timeout.get_or_insert(LIMIT_NS);
    let what = args.what.as_path();
    match &args.dir {
        None => of_store(None, what, args, context),
        Some(dir) if is_path(what) => of_file(what, dir, args, context),
        Some(dir) => {
            let text = what.to_string_lossy();
            of_store(Some(&text), dir, args, context).map_err(|stop| match stop {
                Stop::Failed(failure) if failure.kind() == Kind::NotFound && what.exists() => {
                    failure.meaning(format!("./{text}")).into()
                }
                other => other,
            })
        }
    }
}

/// Where a volume is possible too, a path says that it is one.
fn is_path(what: &Path) -> bool {
    what.is_absolute() || what.starts_with(".") || what.starts_with("..") || what == Path::new("-")
}

fn of_file(
    file: &Path,
    dir: &Path,
    args: &MountArgs,
    context: &mut Context<'_>,
) -> Result<u8, Stop> {
    image::no_pipe(file)?;
    let state = ImageStateArgs {
        of: ImageArgs {
            image: file.to_owned(),
            format: args.format,
            parent_format: args.parent_format,
            search: args.search.clone(),
            devices: args.devices,
        },
        snapshot: args.snapshot.clone(),
    };
    let place = virtual_files::look(dir).map_err(|error| failure(&error))?;
    let disk = image::open(&state)?;
    let (size, format) = (disk.virtual_size(), disk.chain().layers()[0].facts().format);
    let what = format!("{} ({format}, {})", file.display(), size_text(size));
    if context.global.dry_run {
        context.out.plan(&format!("would mount {what} on {}", place.display()))?;
        return Ok(0);
    }
    let quiet = context.out.quiet || context.out.json;
    let laid_out = image::watched(&context.global, quiet, "looking", size, |watch| {
        DiskFolder::of(disk, watch)
    });
    let laid_out = laid_out.map_err(|error| image::failure(error, file))?;
    let Some(DiskFolder { root, files, left_out }) = laid_out else {
        return Ok(image::INTERRUPTED);
    };
    let say = |out: &mut Output| {
        if out.json {
            let files = files.iter().map(|(name, length)| json!({"name": name, "length": length}));
            let absent =
                left_out.iter().map(|(format, why)| json!({"format": format.word(), "why": why}));
            return out.document(&json!({
                "schema": "mount/1",
                "mounted": place.to_string_lossy(),
                "of": file.to_string_lossy(),
                "size": size,
                "files": files.collect::<Vec<_>>(),
                "left_out": absent.collect::<Vec<_>>(),
            }));
        }
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        out.line(&format!("mounted {what} on {}: {}", place.display(), names.join(" ")))?;
        for (format, why) in &left_out {
            out.aside(&format!("  not as {format}: {why}"))?;
        }
        out.aside(&format!("  until Ctrl-C, or: {}", unmount_command(&place)))
    };
    serve(root, &place, args, context, say)
}

/// All volumes, the instants of one, or one of its instants.
fn of_store(
    what: Option<&str>,
    dir: &Path,
    args: &MountArgs,
    context: &mut Context<'_>,
) -> Result<u8, Stop> {
    let of_images = args.format != GivenFormat::Auto
        || args.parent_format.is_some()
        || !args.search.is_empty()
        || args.devices
        || args.snapshot.is_some();
    if of_images {
        let text = "--format, --parent-format, --search, --devices and --snapshot are for images";
        let failure = Failure::new(codes::USAGE, text);
        return Err(failure.doing("begin the path of an image with / or ./ or ../").into());
    }
    let reference = what.map(|text| context.reference(text)).transpose()?;
    let place = virtual_files::look(dir).map_err(|error| failure(&error))?;
    let served = context.served()?;
    let (zone, who) = (zone(context), context.who);
    let store = Store::new(context.shared_control()?, who, zone);
    let (root, what, below) = match &reference {
        None => (store.all()?, "all volumes".to_owned(), "VOL/at/INSTANT/disk.*"),
        Some(reference) if reference.instant.is_none() => {
            (store.volume(reference)?, reference.to_string(), "at/INSTANT/disk.*")
        }
        Some(reference) => {
            let (root, found) = store.state(reference, args.exact)?;
            let time = context.zone.show_precise(found.time);
            let distance = super::distance(found.resolution.as_ref());
            (root, format!("{} ({time}{distance})", found.reference), "disk.*")
        }
    };
    if context.global.dry_run {
        context.out.plan(&format!("would mount {what} on {}", place.display()))?;
        return Ok(0);
    }
    let say = |out: &mut Output| {
        if out.json {
            return out.document(&json!({
                "schema": "mount/1",
                "mounted": place.to_string_lossy(),
                "of": what,
                "below": below,
            }));
        }
        out.line(&format!("mounted {what} on {}: {below}", place.display()))?;
        if !served {
            out.aside("  this process has the store open: no server can start until it ends")?;
        }
        out.aside(&format!("  until Ctrl-C, or: {}", unmount_command(&place)))
    };
    serve(root, &place, args, context, say)
}

/// The zone of bare times, with the present of each moment.
fn zone(context: &Context<'_>) -> Box<dyn Fn() -> Zone + Send + Sync> {
    let name = context.global.tz.clone();
    Box::new(move || {
        let now = RealClock.wall();
        // The name was understood when the command began.
        let named = name.as_deref().and_then(|name| Zone::named(name, now).ok());
        named.unwrap_or_else(|| Zone::local(now))
    })
}

/// Serves until it is unmounted; `say` prints what is there, once it is.
fn serve(
    root: Entry,
    place: &Path,
    args: &MountArgs,
    context: &mut Context<'_>,
    say: impl FnOnce(&mut Output) -> Result<(), Stop>,
) -> Result<u8, Stop> {
    let limit = Duration::from_nanos(context.global.timeout.unwrap_or(LIMIT_NS));
    let options = Options { allow_other: args.allow_other, limit };
    let out = &mut *context.out;
    let (mut say, mut said) = (Some(say), Ok(()));
    let ended = virtual_files::serve(root, place, options, &mut |news| {
        let told = match news {
            News::Mounted => say.take().map_or(Ok(()), |say| say(out)),
            News::StillOpen(opened) => {
                let files = super::many(opened, "file is", "files are");
                out.aside(&format!(
                    "  unmounted; {files} still open and can be read until closed; Ctrl-C again ends that"
                ))
            }
        };
        // A reader of our output who is gone is no reason to unmount.
        match told.and_then(|()| out.flush()) {
            Err(Stop::Failed(failure)) => said = Err(Stop::Failed(failure)),
            Ok(()) | Err(Stop::PipeClosed) => {}
        }
    });
    let ended = ended.map_err(|error| failure(&error))?;
    said?;
    Ok(match ended {
        Ended::Whole => 0,
        Ended::Impatient => image::INTERRUPTED,
    })
}

/// Why it was not mounted, with what helps.
fn failure(error: &MountError) -> Failure {
    let text = error.to_string();
    match error {
        MountError::Missing(path) => {
            Failure::new(codes::NO_FILE, text).doing(format!("mkdir {}", path.display()))
        }
        MountError::NoFolder(_) => Failure::new(codes::NO_FOLDER, text),
        MountError::NotEmpty(_) => Failure::new(codes::NOT_EMPTY, text)
            .doing("name an empty directory: what is in it would be hidden"),
        MountError::InUse(_) => {
            Failure::new(codes::MOUNTED, text).doing("name another directory, or unmount that one")
        }
        MountError::Dead { command, .. } => {
            Failure::new(codes::MOUNTED, text).doing(format!("free it: {command}"))
        }
        MountError::NoFuse(_) => {
            let help = "install and load FUSE: apt-get install fuse3, modprobe fuse; a container needs \
                        --device /dev/fuse --cap-add SYS_ADMIN";
            Failure::new(codes::MOUNT_DENIED, text).doing(help)
        }
        MountError::Refused(_) if text.contains("user_allow_other") => {
            Failure::new(codes::MOUNT_DENIED, text).doing(
                "add the line user_allow_other to /etc/fuse.conf, or leave --allow-other out",
            )
        }
        MountError::Refused(_) => Failure::new(codes::MOUNT_DENIED, text),
        MountError::Io { doing, path, cause } => super::restore::cannot(doing, path, cause),
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Script, run};
    use std::fs;

    #[test]
    fn a_dry_run_mounts_nothing() {
        let scratch = tempfile::tempdir().expect("a directory");
        let (image, dir) = (scratch.path().join("disk.raw"), scratch.path().join("mounted"));
        let file = tempfile::NamedTempFile::new_in(scratch.path()).expect("a file");
        file.as_file().set_len(1 << 20).expect("sized");
        file.persist(&image).expect("named");
        fs::create_dir(&dir).expect("made");
        let (image, dir) = (image.to_string_lossy(), dir.to_string_lossy());
        let ran = run(&["mount", &image, &dir, "--dry-run"], &Script::default(), false);
        assert_eq!(ran.stdout, format!("would mount {image} (raw, 1.0 MiB) on {dir}\n"), "{ran:?}");
        assert_eq!(fs::read_dir(&*dir).expect("listed").count(), 0);
    }

    #[test]
    fn each_refusal_has_its_exit() {
        let scratch = tempfile::tempdir().expect("a directory");
        let dir = scratch.path().to_string_lossy();
        let refused = |line: &[&str], exit, part: &str| {
            let ran = run(line, &Script::default(), false);
            assert!(ran.exit == exit && ran.stderr.contains(part), "{line:?}: {ran:?}");
        };
        refused(&["mount", "db", &dir, "--format", "raw"], 2, "are for images");
        refused(&["mount", "DB", &dir], 2, "is no name of a volume");
        refused(&["mount", "-", &dir], 2, "not read from a pipe");
        refused(&["mount", "./absent.raw", &dir], 3, "is not there");
        refused(&["mount", "db", &format!("{dir}/absent")], 3, "mkdir");
    }
}
