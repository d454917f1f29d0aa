//! `restore VOL@I PATH… --to DIR`: files out of an instant's disk, with what their file system says
//! of them.
//!
//! All is looked at before anything is written: which paths there are, how much they hold, whether
//! their places are free. What is damaged, or not read, is left out and told at the end, and the
//! command then exits with 7; all else is restored. Links are made as links and never followed;
//! devices, pipes and sockets are never made.

use super::{
    super::{
        distance,
        guest::{Guest, GuestPath, Place, failure, kind_word, name_text},
        many,
    },
    cannot,
};
use crate::{
    cli::RestoreArgs,
    context::Context,
    out::{Progress, Stop},
};
use api::{
    Failure,
    amounts::{count_text, size_text},
    codes,
};
use guest_files::{Error, FileSystem, Kind, Node, NodeId, Visitor, join, walk};
use serde_json::json;
use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    sync::Arc,
};
use world::{
    Waker,
    real::{Attributes, Landing, StopSignals},
};

/// Bytes that are read and written at once.
const PIECE_BYTES: usize = 1 << 20;

/// Runs of zeroes of this length and more are left as holes.
const HOLE_BYTES: usize = 4096;

/// Things left out that are told one by one.
const TOLD: usize = 20;

/// Exit code of a command that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

const SETUID_SETGID: u16 = 0o6000;

pub(super) fn run(
    args: &RestoreArgs,
    folder: &Path,
    context: &mut Context<'_>,
) -> Result<u8, Stop> {
    let mut paths = Vec::new();
    for text in &args.paths {
        paths.push(GuestPath::parse(text)?);
    }
    if paths.is_empty() {
        paths.push(GuestPath { volume: None, path: b"/".to_vec() });
    }
    let reference = context.instant_of(&args.reference)?;
    let guest = Guest::open(reference, args.exact, context)?;
    let mut tops = Vec::new();
    for path in &paths {
        tops.push(Top::find(&guest, path)?);
    }
    refuse_twins(&tops)?;
    let mut sums = Sums::default();
    for top in &tops {
        top.count(&mut sums)?;
    }
    let instant = format!(
        "{} ({}{})",
        guest.found.reference,
        context.zone.show_precise(guest.found.time),
        distance(guest.found.resolution.as_ref()),
    );
    let what = format!("{} from {instant}", sums.text());
    if context.global.dry_run {
        context.out.plan(&format!("would restore {what} to {}", folder.display()))?;
        return Ok(0);
    }
    let landing = Landing::make(folder).map_err(|error| cannot("make", folder, &error))?;
    refuse_taken(&tops, &landing, folder, args.force)?;
    let mut progress = Progress::new(
        context.global.progress,
        context.out.quiet || context.out.json,
        "restoring",
        sums.bytes,
    );
    // Where signals are caught already, or cannot be, they do what they did before.
    let signals = StopSignals::install(Waker(Arc::new(|| ()))).ok();
    let mut restore = Restore {
        file_system: tops[0].place.file_system,
        landing: &landing,
        folder,
        force: args.force,
        preserve: args.preserve,
        owners: context.who.uid == 0,
        here: None,
        top: Vec::new(),
        names: HashMap::new(),
        folders: Vec::new(),
        done: Sums::default(),
        left_out: LeftOut::default(),
        lost_bits: 0,
        progress: &mut progress,
        stopped: &|| signals.as_ref().is_some_and(|signals| signals.count() > 0),
    };
    let mut ended = Ok(());
    for top in &tops {
        ended = restore.top(top);
        if ended.is_err() {
            break;
        }
    }
    let ended = ended.and_then(|()| restore.finish());
    let Restore { done, left_out, lost_bits, .. } = restore;
    progress.finish();
    match ended {
        Ok(()) => {}
        Err(End::Interrupted) => return Ok(INTERRUPTED),
        Err(End::Failed(failure)) => return Err((*failure).into()),
    }
    let told = Told { done, left_out, lost_bits, instant, tops: &tops, guest: &guest, folder };
    told.say(context)
}

/// A path that is restored.
struct Top<'g> {
    path: &'g GuestPath,
    place: Place<'g>,
    node: Node,
}

impl<'g> Top<'g> {
    fn find(guest: &'g Guest, path: &'g GuestPath) -> Result<Self, Failure> {
        let place = guest.look_up(path)?;
        let node = place.file_system.node(place.id);
        let node = node.map_err(|error| failure(&error, &path.to_string()))?;
        if let Kind::Special(kind) = node.kind {
            let text = format!("`{path}` is a {kind}, which is not restored");
            return Err(Failure::new(codes::GUEST_UNREAD, text));
        }
        Ok(Self { path, place, node })
    }

    /// Its name in the target; empty for the top of a file system, whose contents land there.
    fn name(&self) -> &[u8] {
        match self.path.name() {
            Some(name) if name != b".." => name,
            _ => b"",
        }
    }

    fn count(&self, sums: &mut Sums) -> Result<(), Failure> {
        if self.node.kind == Kind::Directory {
            let mut counting = Counting { sums, failed: None };
            let _ = walk(self.place.file_system, &self.node, &mut counting);
            return counting.failed.map_or(Ok(()), Err);
        }
        sums.add(&self.node);
        Ok(())
    }
}

/// Two paths that would land under one name.
fn refuse_twins(tops: &[Top<'_>]) -> Result<(), Failure> {
    for (index, top) in tops.iter().enumerate() {
        if let Some(twin) = tops[..index].iter().find(|other| other.name() == top.name()) {
            let text = format!("`{}` and `{}` would get one name", twin.path, top.path);
            let failure = Failure::new(codes::USAGE, text);
            return Err(failure.doing("restore them one by one, each to a directory of its own"));
        }
    }
    Ok(())
}

/// Nothing is begun if a place is taken.
fn refuse_taken(
    tops: &[Top<'_>],
    landing: &Landing,
    folder: &Path,
    force: bool,
) -> Result<(), Failure> {
    if force {
        return Ok(());
    }
    for top in tops.iter().filter(|top| !top.name().is_empty()) {
        let name = OsStr::from_bytes(top.name());
        let taken = landing.holds(name).map_err(|error| cannot("look at", folder, &error))?;
        if taken {
            let path = folder.join(name);
            let text = format!("{} exists", path.display());
            return Err(Failure::new(codes::TARGET_EXISTS, text)
                .doing("name another directory, or pass --force to replace files"));
        }
    }
    Ok(())
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    files: u64,
    directories: u64,
    links: u64,
    bytes: u64,
}

impl Sums {
    fn add(&mut self, node: &Node) {
        match node.kind {
            Kind::File => {
                self.files += 1;
                self.bytes = self.bytes.saturating_add(node.size);
            }
            Kind::Directory => self.directories += 1,
            Kind::Link => self.links += 1,
            Kind::Special(_) => {}
        }
    }

    fn text(&self) -> String {
        let mut text = format!("{}, {}", many(self.files, "file", "files"), size_text(self.bytes));
        if self.links > 0 {
            text.push_str(", ");
            text.push_str(&many(self.links, "link", "links"));
        }
        text
    }
}

struct Counting<'s> {
    sums: &'s mut Sums,
    failed: Option<Failure>,
}

impl Visitor for Counting<'_> {
    type Stop = ();

    fn directory(&mut self, _path: &[u8], node: &Node) -> Result<(), ()> {
        self.sums.add(node);
        Ok(())
    }

    fn other(&mut self, _path: &[u8], _name: &[u8], node: &Node) -> Result<(), ()> {
        self.sums.add(node);
        Ok(())
    }

    fn trouble(&mut self, path: &[u8], error: Error) -> Result<(), ()> {
        // Damage is met again, and told, when it is restored; a store that cannot be read ends it.
        if let Some(fatal) = fatal(&error, path) {
            self.failed = Some(fatal);
            return Err(());
        }
        Ok(())
    }
}

/// The failure of an error that is not of the place alone where it was met.
fn fatal(error: &Error, path: &[u8]) -> Option<Failure> {
    let Error::Source(cause) = error else { return None };
    let failure = match cause.downcast_ref::<Failure>() {
        Some(failure) => failure.clone(),
        None => Failure::bug(format!("{}: {cause}", name_text(path))),
    };
    (failure.code.kind() != api::Kind::Damaged).then_some(failure)
}

/// Why restoring ended early.
enum End {
    Interrupted,
    Failed(Box<Failure>),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }
}

/// What was not restored.
#[derive(Debug, Default)]
struct LeftOut {
    /// The first of them: path and reason.
    damaged: Vec<(String, String)>,
    damaged_count: u64,
    /// Devices, pipes, sockets: how many of each.
    special: BTreeMap<&'static str, u64>,
}

struct Restore<'r> {
    file_system: &'r dyn FileSystem,
    landing: &'r Landing,
    folder: &'r Path,
    force: bool,
    preserve: bool,
    owners: bool,
    /// The directory that is being written, and its path in the target.
    here: Option<(Vec<u8>, Landing)>,
    /// Where the present PATH lands.
    top: Vec<u8>,
    /// Files with several names: where the first was put.
    names: HashMap<NodeId, Vec<u8>>,
    /// Directories get their attributes last: writing into them changes their times.
    folders: Vec<(Vec<u8>, Attributes)>,
    done: Sums,
    left_out: LeftOut,
    lost_bits: u64,
    progress: &'r mut Progress,
    stopped: &'r dyn Fn() -> bool,
}

impl<'r> Restore<'r> {
    fn top(&mut self, top: &Top<'r>) -> Result<(), End> {
        self.file_system = top.place.file_system;
        self.names.clear(); // numbers are of one file system
        self.here = None;
        if top.node.kind == Kind::Directory {
            self.top = top.name().to_vec();
            let file_system = self.file_system;
            return walk(file_system, &top.node, self);
        }
        self.top = Vec::new();
        self.enter(b"")?;
        self.other(b"", top.name(), &top.node)
    }

    /// Opens the directory of the target that `path` below the present PATH lands in.
    fn enter(&mut self, path: &[u8]) -> Result<(), End> {
        let full = if path.is_empty() { self.top.clone() } else { join(&self.top, path) };
        let opened = self.landing.below(OsStr::from_bytes(&full));
        let opened = opened.map_err(|error| self.refused("open", &full, &error))?;
        self.here = Some((full, opened));
        Ok(())
    }

    fn refused(&self, verb: &str, path: &[u8], error: &io::Error) -> End {
        cannot(verb, &self.folder.join(OsStr::from_bytes(path)), error).into()
    }

    fn attributes(&mut self, node: &Node) -> Attributes {
        let mode = node.mode.map(|mode| {
            if mode & SETUID_SETGID != 0 && !self.preserve && node.kind != Kind::Directory {
                self.lost_bits += 1;
            }
            if self.preserve { mode } else { mode & !SETUID_SETGID }
        });
        let usual = if node.kind == Kind::Directory { 0o755 } else { 0o644 };
        Attributes {
            mode: Some(mode.unwrap_or(usual)),
            owner: node.owner.filter(|_| self.owners),
            modified: Some((node.modified.seconds, node.modified.nanoseconds)),
        }
    }

    fn file(&mut self, path: &[u8], name: &[u8], node: &Node) -> Result<(), End> {
        let attributes = self.attributes(node);
        let Some((here, folder)) = self.here.take() else { return Ok(()) };
        let result = self.file_in((&here, &folder), path, name, (node, &attributes));
        self.here = Some((here, folder));
        result
    }

    fn file_in(
        &mut self,
        (here, folder): (&[u8], &Landing),
        path: &[u8],
        name: &[u8],
        (node, attributes): (&Node, &Attributes),
    ) -> Result<(), End> {
        let full = join(here, name);
        let name_os = OsStr::from_bytes(name);
        if let Some(first) = self.names.get(&node.id).filter(|_| node.names > 1) {
            let (above, first) = split(first);
            let above = self.landing.below(OsStr::from_bytes(above));
            let named = above.and_then(|above| {
                folder.make_name(name_os, (&above, OsStr::from_bytes(first)), self.force)
            });
            named.map_err(|error| self.refused("name", &full, &error))?;
            self.done.files += 1;
            self.progress.advance(node.size);
            return Ok(());
        }
        let pieces = match self.file_system.pieces(node.id) {
            Ok(pieces) => pieces,
            Err(error) => return self.trouble(&join(path, name), error),
        };
        let file =
            folder.make_file(name_os).map_err(|error| self.refused("make", &full, &error))?;
        // A length that cannot be is the guest's fault, not the target's.
        if let Err(error) = file.set_length(node.size) {
            if matches!(error.kind(), io::ErrorKind::FileTooLarge | io::ErrorKind::InvalidInput) {
                return self.trouble(&join(path, name), Error::Limit("a file's length"));
            }
            return Err(self.refused("size", &full, &error));
        }
        let (mut buffer, mut told) = (vec![0; PIECE_BYTES], 0);
        for piece in pieces {
            let mut skip = 0;
            while skip < piece.length {
                if (self.stopped)() {
                    return Err(End::Interrupted);
                }
                let now =
                    usize::try_from(piece.length - skip).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
                let bytes = &mut buffer[..now];
                if let Err(error) = piece.read(self.file_system, skip, bytes) {
                    return self.trouble(&join(path, name), error);
                }
                let at = piece.offset + skip;
                for (index, block) in (0_u64..).zip(bytes.chunks(HOLE_BYTES)) {
                    if block.iter().any(|byte| *byte != 0) {
                        let written = file.write_at(at + index * HOLE_BYTES as u64, block);
                        written.map_err(|error| self.refused("write", &full, &error))?;
                    }
                }
                skip += now as u64;
                told += now as u64;
                self.progress.advance(now as u64);
            }
        }
        let placed = file.place(name_os, attributes, self.force);
        placed.map_err(|error| self.refused("name", &full, &error))?;
        self.progress.advance(node.size.saturating_sub(told));
        if node.names > 1 {
            self.names.insert(node.id, full);
        }
        self.done.add(node);
        Ok(())
    }

    fn link(&mut self, path: &[u8], name: &[u8], node: &Node) -> Result<(), End> {
        let target = match self.file_system.target(node.id) {
            Ok(target) if !target.is_empty() && !target.contains(&0) => target,
            Ok(_) => {
                let error = Error::Damaged { what: "a link has no target that can be", at: 0 };
                return self.trouble(&join(path, name), error);
            }
            Err(error) => return self.trouble(&join(path, name), error),
        };
        let attributes = self.attributes(node);
        let Some((here, folder)) = &self.here else { return Ok(()) };
        let name_os = OsStr::from_bytes(name);
        let made = folder
            .make_link(name_os, &target, self.force)
            .and_then(|()| folder.set_link(name_os, &attributes));
        made.map_err(|error| self.refused("make", &join(here, name), &error))?;
        self.done.add(node);
        Ok(())
    }

    /// Gives directories their attributes, the deepest first, and makes all durable.
    fn finish(&mut self) -> Result<(), End> {
        for (path, attributes) in std::mem::take(&mut self.folders).into_iter().rev() {
            let set = self
                .landing
                .below(OsStr::from_bytes(&path))
                .and_then(|folder| folder.set(&attributes));
            set.map_err(|error| self.refused("set", &path, &error))?;
        }
        self.landing.sync().map_err(|error| self.refused("flush", b"", &error))
    }
}

/// A relative path as its directory and its last name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

impl Visitor for Restore<'_> {
    type Stop = End;

    fn directory(&mut self, path: &[u8], node: &Node) -> Result<(), End> {
        let full = if path.is_empty() { self.top.clone() } else { join(&self.top, path) };
        if !full.is_empty() {
            let (above, name) = split(&full);
            let made = self
                .landing
                .below(OsStr::from_bytes(above))
                .and_then(|above| above.make_folder(OsStr::from_bytes(name), self.force));
            made.map_err(|error| self.refused("make", &full, &error))?;
            let attributes = self.attributes(node);
            self.folders.push((full, attributes));
        }
        self.done.add(node);
        self.enter(path)
    }

    fn other(&mut self, path: &[u8], name: &[u8], node: &Node) -> Result<(), End> {
        if (self.stopped)() {
            return Err(End::Interrupted);
        }
        match node.kind {
            Kind::File => self.file(path, name, node),
            Kind::Link => self.link(path, name, node),
            Kind::Special(_) => {
                *self.left_out.special.entry(kind_word(node.kind)).or_default() += 1;
                Ok(())
            }
            Kind::Directory => Ok(()),
        }
    }

    fn trouble(&mut self, path: &[u8], error: Error) -> Result<(), End> {
        let shown = join(&self.top, path);
        if let Some(fatal) = fatal(&error, &shown) {
            return Err(fatal.into());
        }
        self.left_out.damaged_count += 1;
        if self.left_out.damaged.len() < TOLD {
            self.left_out.damaged.push((name_text(&shown), error.to_string()));
        }
        Ok(())
    }
}

/// What is said at the end.
struct Told<'t> {
    done: Sums,
    left_out: LeftOut,
    lost_bits: u64,
    instant: String,
    tops: &'t [Top<'t>],
    guest: &'t Guest,
    folder: &'t Path,
}

impl Told<'_> {
    fn say(&self, context: &mut Context<'_>) -> Result<u8, Stop> {
        if context.out.json {
            context.out.document(&self.document())?;
        } else {
            context.out.line(&format!(
                "restored {} from {} to {}, verified {}",
                self.done.text(),
                self.instant,
                self.folder.display(),
                many(self.guest.verified_blocks(), "block", "blocks"),
            ))?;
            for note in self.notes() {
                context.out.aside(&note)?;
            }
        }
        let count = self.left_out.damaged_count;
        if count == 0 {
            return Ok(0);
        }
        let mut text = format!("{} could not be read", many(count, "file", "files"));
        for (path, why) in &self.left_out.damaged {
            text.extend(["; ", path, ": ", why]);
        }
        if count > self.left_out.damaged.len() as u64 {
            text.push_str("; …");
        }
        let stale = self.notes().iter().any(|note| note.contains("not replayed"));
        let help = if stale {
            "its journal was not replayed: try an instant some seconds later, or before"
        } else {
            "look at an instant before, or restore --to-disk and repair there"
        };
        Err(Failure::new(codes::GUEST_DAMAGED, text).doing(help).into())
    }

    /// What a person should know beside.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let mut seen: Vec<&str> = Vec::new();
        for top in self.tops {
            let label = top.place.volume.label.as_str();
            if seen.contains(&label) {
                continue;
            }
            seen.push(label);
            let name = top.place.file_system.name();
            let on = match top.place.volume.partition {
                Some(partition) => format!("{name} on partition {}", partition.number),
                None => format!("{name} on the whole disk"),
            };
            let told = top.place.file_system.notes();
            notes.extend(told.iter().map(|note| format!("{on}: {note}")));
        }
        for (kind, count) in &self.left_out.special {
            let plural = format!("{kind}s");
            let form = if *count == 1 { kind } else { plural.as_str() };
            notes.push(format!("left out: {} {form}", count_text(*count)));
        }
        if self.lost_bits > 0 {
            let files = many(self.lost_bits, "file", "files");
            notes.push(format!("{files} without their setuid or setgid bit (--preserve keeps it)"));
        }
        notes
    }

    fn document(&self) -> serde_json::Value {
        let found = &self.guest.found;
        let sources = self.tops.iter().map(|top| {
            json!({
                "path": top.path.to_string(),
                "file_system": top.place.file_system.name(),
                "partition": top.place.volume.partition.map(|partition| partition.number),
            })
        });
        let damaged = &self.left_out.damaged;
        json!({
            "schema": "restore.files/1",
            "reference": found.reference,
            "seq": found.seq,
            "time": found.time,
            "target": name_text(self.folder.as_os_str().as_bytes()),
            "sources": sources.collect::<Vec<_>>(),
            "files": self.done.files,
            "directories": self.done.directories,
            "links": self.done.links,
            "bytes": self.done.bytes,
            "verified_blocks": self.guest.verified_blocks(),
            "special": self.left_out.special,
            "unread": self.left_out.damaged_count,
            "unread_first": damaged.iter().map(|(path, why)| json!({"path": path, "why": why})).collect::<Vec<_>>(),
            "notes": self.notes(),
        })
    }
}
