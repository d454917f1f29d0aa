//! `doctor`: what this process can see of a store from outside, then what its server says.
//!
//! Exit 0 also with warnings; 1 when something fails.

use crate::{
    context::Context,
    out::{Output, Stop},
    places,
};
use anstyle::{AnsiColor, Style};
use api::{
    Kind,
    control::with_schema,
    verbs::doctor::{Check, Checks, Doctor, Health},
};
use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
};

/// Bits of a mode that let everybody write.
const WORLD_WRITABLE: u32 = 0o002;

/// Bits of a mode that let others than the owner in.
const NOT_PRIVATE: u32 = 0o077;

/// Below this share of free room the file system is called full.
const FREE_PERCENT_LOW: u64 = 10;

pub(super) fn run(context: &mut Context<'_>) -> Result<u8, Stop> {
    let answer = context.ask(Doctor {});
    let (store, key) = (&context.store, context.global.key_file.as_deref());
    // A store that can be asked knows its ground and its key better.
    let mut found = outside(store, key, answer.is_err());
    match answer {
        Ok(from_store) => found.checks.extend(from_store.checks),
        Err(failure) => found.checks.push(Check {
            health: Health::Fail,
            what: failure.message.clone(),
            remedy: failure.hint.map(|(_, text)| text),
        }),
    }
    if context.out.json {
        context.out.document(&with_schema("doctor/1", &found))?;
    } else {
        found.checks.iter().try_for_each(|check| say(context.out, check))?;
    }
    let failed = found.checks.iter().any(|check| check.health == Health::Fail);
    Ok(if failed { Kind::No.exit() } else { 0 })
}

fn say(out: &mut Output, check: &Check) -> Result<(), Stop> {
    let (word, colour) = match check.health {
        Health::Ok => ("ok", AnsiColor::Green),
        Health::Warn => ("warn", AnsiColor::Yellow),
        Health::Fail => ("fail", AnsiColor::Red),
    };
    let style = Style::new().fg_color(Some(colour.into()));
    let what = api::failure::printable(&check.what);
    let remedy = check.remedy.as_ref().map(|text| api::failure::printable(text));
    let remedy = remedy.map(|text| format!("          do: {text}")).unwrap_or_default();
    out.text(&format!("{style}{word:<5}{style:#} {what}{remedy}\n"))
}

fn ok(what: String) -> Check {
    Check { health: Health::Ok, what, remedy: None }
}

fn warn(what: String, remedy: &str) -> Check {
    Check { health: Health::Warn, what, remedy: Some(remedy.to_owned()) }
}

fn fail(what: String, remedy: &str) -> Check {
    Check { health: Health::Fail, what, remedy: Some(remedy.to_owned()) }
}

/// What can be seen without opening the store; of its ground and key only if it is `mute`.
fn outside(store: &Path, key_file: Option<&Path>, mute: bool) -> Checks {
    let mut checks = Vec::new();
    match fs::metadata(store) {
        Ok(metadata) if metadata.is_dir() => checks.push(directory(store, metadata.mode())),
        Ok(_) => {
            checks.push(fail(format!("{} is no directory", store.display()), "name the store: -s"));
        }
        Err(error) => {
            let remedy = "name the store with --store, or make one: strandline store init DIR";
            checks.push(fail(format!("store {}: {error}", store.display()), remedy));
            return Checks { checks };
        }
    }
    checks.extend(socket(&places::control_socket(store)));
    if mute {
        checks.extend(file_system(store));
        checks.extend(key_file.map(|file| key(file, store)));
    }
    Checks { checks }
}

fn directory(store: &Path, mode: u32) -> Check {
    let place = store.display();
    if mode & WORLD_WRITABLE == 0 {
        return ok(format!("store {place}: only its owner's to write"));
    }
    fail(format!("store {place} is world-writable"), &format!("chmod o-w {place}"))
}

/// Kind and room of the file system that holds the store.
fn file_system(store: &Path) -> Vec<Check> {
    let Ok(found) = rustix::fs::statfs(store) else { return Vec::new() };
    let kind = fs_kind(found.f_type.unsigned_abs());
    let place = store.display();
    let mut checks = vec![match kind {
        FsKind::Good(name) => ok(format!("file system of {place}: {name}")),
        FsKind::Slow(name) => warn(
            format!("file system of {place}: {name}, which copies what is written over"),
            "put the store on ext4 or xfs",
        ),
        FsKind::Memory => warn(
            format!("file system of {place}: memory; nothing survives a restart of this host"),
            "put the store on ext4 or xfs",
        ),
        FsKind::Network(name) => fail(
            format!("file system of {place}: {name}, over the network"),
            "put the store on a local disk",
        ),
        FsKind::Other => warn(
            format!("file system of {place}: of a kind that was not tried"),
            "put the store on ext4 or xfs",
        ),
    }];
    let used = 100 - (found.f_bavail * 100).checked_div(found.f_blocks).unwrap_or(100).min(100);
    if used > 100 - FREE_PERCENT_LOW {
        checks.push(warn(
            format!("the file system of {place} is {used} % full"),
            "make room: strandline store trash ls, strandline store gc",
        ));
    }
    checks
}

#[derive(Debug, PartialEq, Eq)]
enum FsKind {
    Good(&'static str),
    Slow(&'static str),
    Memory,
    Network(&'static str),
    Other,
}

/// By the magic number of statfs(2).
const fn fs_kind(magic: u64) -> FsKind {
    match magic {
        0xEF53 => FsKind::Good("ext4"),
        0x5846_5342 => FsKind::Good("xfs"),
        0x9123_683E => FsKind::Slow("btrfs"),
        0x2FC1_2FC1 => FsKind::Slow("ZFS"),
        0x794C_7630 => FsKind::Slow("overlay"),
        0x0102_1994 | 0x8584_58F6 => FsKind::Memory,
        0x6969 => FsKind::Network("NFS"),
        0xFF53_4D42 | 0xFE53_4D42 | 0x517B => FsKind::Network("CIFS"),
        0x0102_1997 => FsKind::Network("9p"),
        _ => FsKind::Other,
    }
}

fn socket(path: &Path) -> Option<Check> {
    let metadata = fs::symlink_metadata(path).ok()?;
    let name = path.display();
    if !metadata.file_type().is_socket() {
        return Some(fail(format!("{name} is no socket"), "remove it, then: strandline serve"));
    }
    Some(if metadata.mode() & WORLD_WRITABLE == 0 {
        ok(format!("{name}: mode {:04o}", metadata.mode() & 0o7777))
    } else {
        fail(format!("{name} is world-writable"), "restart the server: strandline serve --stop")
    })
}

fn key(file: &Path, store: &Path) -> Check {
    let name = file.display();
    let metadata = match fs::metadata(file) {
        Ok(metadata) => metadata,
        Err(error) => return fail(format!("key file {name}: {error}"), "name it: --key-file FILE"),
    };
    if metadata.mode() & NOT_PRIVATE != 0 {
        return fail(
            format!("key file {name} is not its owner's alone"),
            &format!("chmod 600 {name}"),
        );
    }
    let inside = match (fs::canonicalize(file), fs::canonicalize(store)) {
        (Ok(file), Ok(store)) => file.starts_with(store),
        _ => false,
    };
    if inside {
        let remedy = "move it away and name it with --key-file; who has the disk has the key";
        return warn(format!("key file {name} lies inside the store"), remedy);
    }
    ok(format!("key file {name}: outside the store, mode 0600"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn healths(checks: &Checks, what: &str) -> Vec<Health> {
        checks
            .checks
            .iter()
            .filter(|check| check.what.contains(what))
            .map(|check| check.health)
            .collect()
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own file");
    }

    #[test]
    fn open_doors_are_found() {
        let store = tempfile::tempdir().expect("a directory");
        let socket = places::control_socket(store.path());
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a free name");
        set_mode(&socket, 0o666);
        let key = store.path().join("store.key");
        std::fs::File::create_new(&key).expect("a free name");
        set_mode(&key, 0o600);
        let found = outside(store.path(), Some(&key), true);
        assert_eq!(healths(&found, "control.sock is world-writable"), [Health::Fail]);
        assert_eq!(healths(&found, "lies inside the store"), [Health::Warn]);
        set_mode(&socket, 0o600);
        set_mode(&key, 0o644);
        let found = outside(store.path(), Some(&key), true);
        assert_eq!(healths(&found, "mode 0600"), [Health::Ok]);
        assert_eq!(healths(&found, "not its owner's alone"), [Health::Fail]);
    }

    #[test]
    fn no_store_is_one_failure() {
        let found = outside(Path::new("/nonexistent/store"), None, true);
        assert_eq!(found.checks.len(), 1);
        assert_eq!(found.checks[0].health, Health::Fail);
    }

    #[test]
    fn network_file_systems_are_refused_and_local_ones_are_not() {
        assert_eq!(fs_kind(0xEF53), FsKind::Good("ext4"));
        assert_eq!(fs_kind(0x6969), FsKind::Network("NFS"));
        assert_eq!(fs_kind(1), FsKind::Other);
    }
}
