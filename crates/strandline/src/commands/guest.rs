//! What stands in the disk of an instant: its file systems, and the paths that a user names in them.
//!
//! Bytes come from the store as any client gets them, each opened by its seal on the way, so what is
//! counted as read is verified. What guests named is escaped wherever it is printed.

use crate::context::Context;
use api::{
    Caller, Chunk, Control, Failure, Reference, codes,
    failure::printable,
    verbs::{
        past,
        vol::{VolDetails, VolShow},
    },
};
use guest_files::{Disk, Error, FileSystem, Kind, Missing, NodeId, ReadError, Source, Volume};
use std::{
    cell::Cell, ffi::OsStr, fmt::Write as _, ops::Range, os::unix::ffi::OsStrExt as _, rc::Rc,
    sync::Arc,
};

/// Bytes of a block, the store's unit of sealing.
const BLOCK_BYTES: u64 = 4096;

/// The disk of an instant.
pub(super) struct Guest {
    /// The instant.
    pub(super) found: VolDetails,
    /// What stands on the disk.
    pub(super) volumes: Vec<Volume>,
    disk: Disk,
    verified: Rc<Cell<u64>>,
}

/// Ranges of a disk: ascending, none touching the next.
#[derive(Debug, Default)]
pub(super) struct Ranges(Vec<Range<u64>>);

impl Ranges {
    /// Ranges in any order.
    pub(super) fn new(mut ranges: Vec<Range<u64>>) -> Self {
        ranges.sort_by_key(|range| range.start);
        let mut joined: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match joined.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => joined.push(range),
            }
        }
        Self(joined)
    }

    /// Whether any of them lies in `range`, in part or whole.
    pub(super) fn meet(&self, range: &Range<u64>) -> bool {
        let after = self.0.partition_point(|one| one.end <= range.start);
        self.0.get(after).is_some_and(|one| one.start < range.end)
    }

    /// Bytes of them that lie in `range`.
    pub(super) fn bytes_in(&self, range: &Range<u64>) -> u64 {
        let cut =
            |one: &Range<u64>| one.end.min(range.end).saturating_sub(one.start.max(range.start));
        self.0.iter().map(cut).sum()
    }
}

impl Guest {
    /// Looks at the disk of an instant.
    pub(super) fn open(
        reference: Reference,
        exact: bool,
        context: &mut Context<'_>,
    ) -> Result<Self, Failure> {
        let found = context.ask(VolShow { reference, exact })?;
        let verified = Rc::new(Cell::new(0));
        let source = Instant::new(&found.reference, found.size, &verified, context)?;
        let disk = Disk::new(Box::new(source));
        let volumes = guest_files::volumes(&disk);
        let volumes = volumes.map_err(|error| failure(&error, "the disk"))?.list;
        Ok(Self { found, volumes, disk, verified })
    }

    /// Looks at the disk of another instant, which differs from this one in `ranges` only: what does
    /// not is taken from what was read already.
    pub(super) fn open_beside(
        &self,
        reference: Reference,
        ranges: Rc<Ranges>,
        context: &mut Context<'_>,
    ) -> Result<Self, Failure> {
        let found = context.ask(VolShow { reference, exact: false })?;
        let verified = Rc::clone(&self.verified);
        let own = Instant::new(&found.reference, found.size, &verified, context)?;
        let disk = Disk::new(Box::new(Beside { own, other: self.disk.clone(), ranges }));
        let volumes = guest_files::volumes(&disk);
        let volumes = volumes.map_err(|error| failure(&error, "the disk"))?.list;
        Ok(Self { found, volumes, disk, verified })
    }

    /// Blocks that were read and found to be as they were sealed; zeroes that were never written do
    /// not count.
    pub(super) fn verified_blocks(&self) -> u64 {
        self.verified.get().div_ceil(BLOCK_BYTES)
    }

    /// The one place where a path stands.
    pub(super) fn look_up(&self, path: &GuestPath) -> Result<Place<'_>, Failure> {
        let mut found: Vec<Place<'_>> = Vec::new();
        let (mut refusals, mut unread) = (Vec::new(), Vec::new());
        let mut asked = 0;
        for volume in &self.volumes {
            if path.volume.as_ref().is_some_and(|wanted| *wanted != volume.label) {
                continue;
            }
            asked += 1;
            let file_system = match &volume.file_system {
                Ok(file_system) => &**file_system,
                Err(error) => {
                    unread.push((volume, error));
                    continue;
                }
            };
            match guest_files::lookup(file_system, &path.path) {
                Ok(place) => found.push(Place { volume, file_system, id: place.id }),
                Err(missing) => refusals.push(refusal(path, volume, missing)),
            }
        }
        if asked == 0 {
            let labels: Vec<&str> = self.volumes.iter().map(|v| v.label.as_str()).collect();
            let text = format!("`{path}`: the disk has no such partition");
            let failure = Failure::new(codes::NO_GUEST_FILE, text);
            return Err(failure.meaning(format!("{}?", labels.join(", "))));
        }
        if found.len() > 1 {
            let list = found.iter().map(|place| {
                let full = GuestPath { volume: Some(place.volume.label.clone()), ..path.clone() };
                format!("{full} ({})", place.file_system.name())
            });
            let list: Vec<String> = list.collect();
            let text = format!("`{path}` stands in {} file systems", found.len());
            let failure = Failure::new(codes::GUEST_PATH_AMBIGUOUS, text);
            return Err(failure.meaning(format!("{}?", list.join(", "))));
        }
        if let Some(place) = found.pop() {
            return Ok(place);
        }
        // Damage first: what is missing may stand there. Then the refusal that has a name to offer.
        if let Some((volume, error)) =
            unread.iter().find(|(_, error)| !matches!(error, Error::Unsupported(_)))
        {
            return Err(cannot_read(volume, error));
        }
        if refusals.is_empty() {
            let list = unread.iter().map(|(volume, error)| format!("{} is {error}", volume.label));
            let list: Vec<String> = list.collect();
            let text = format!("no file system that is read stands there: {}", list.join("; "));
            return Err(Failure::new(codes::GUEST_UNREAD, text)
                .doing("restore VOL@I --to-disk FILE writes the whole disk"));
        }
        let best = refusals
            .iter()
            .position(|failure| failure.hint.is_some() || failure.code != codes::NO_GUEST_FILE);
        Err(refusals.swap_remove(best.unwrap_or(0)))
    }
}

/// Where a path stands.
#[derive(Clone, Copy)]
pub(super) struct Place<'g> {
    pub(super) volume: &'g Volume,
    pub(super) file_system: &'g dyn FileSystem,
    pub(super) id: NodeId,
}

fn refusal(path: &GuestPath, volume: &Volume, missing: Missing) -> Failure {
    let in_volume = |path: &[u8]| GuestPath { volume: path_label(volume), path: path.to_vec() };
    match missing {
        Missing::Name { directory, near } => {
            let text = format!("the disk has no `{path}`");
            let failure = Failure::new(codes::NO_GUEST_FILE, text);
            if near.is_empty() {
                let shown = if directory.is_empty() { b"/" } else { &directory[..] };
                return failure.doing(format!("look at what {} holds", in_volume(shown)));
            }
            let near = near
                .iter()
                .map(|name| in_volume(&[&directory[..], b"/", name].concat()).to_string());
            failure.meaning(format!("{}?", near.collect::<Vec<_>>().join(", ")))
        }
        Missing::NoDirectory(path) => {
            let text = format!("`{}` is no directory", in_volume(&path));
            Failure::new(codes::NO_GUEST_FILE, text)
        }
        Missing::Link(path) => {
            let text = format!("`{}` is a link that leads nowhere", in_volume(&path));
            Failure::new(codes::NO_GUEST_FILE, text)
        }
        Missing::Error(error) => cannot_read(volume, &error),
    }
}

fn path_label(volume: &Volume) -> Option<String> {
    volume.partition.map(|_| volume.label.clone())
}

fn cannot_read(volume: &Volume, error: &Error) -> Failure {
    let what = match &volume.file_system {
        Ok(file_system) => format!("{} on {}", file_system.name(), volume.label),
        Err(_) => volume.label.clone(),
    };
    failure(error, &what)
}

/// A failure of the command, from an error of the disk; what stands there is `what`.
pub(super) fn failure(error: &Error, what: &str) -> Failure {
    match error {
        Error::Source(cause) => match cause.downcast_ref::<Failure>() {
            Some(failure) => failure.clone(),
            None => Failure::bug(format!("{what}: {cause}")),
        },
        Error::Unsupported(why) => Failure::new(codes::GUEST_UNREAD, format!("{what}: {why}")),
        Error::Damaged { .. } | Error::Limit(_) => {
            Failure::new(codes::GUEST_DAMAGED, format!("{what}: {error}"))
        }
    }
}

/// A path in a disk as the user names it: `/etc/hosts`, or `p2:/etc/hosts` in one file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GuestPath {
    /// `p2`, or `disk` for a file system on all of the disk.
    pub(super) volume: Option<String>,
    /// The path from the top of the file system.
    pub(super) path: Vec<u8>,
}

impl GuestPath {
    /// Parses what stands on the command line.
    pub(super) fn parse(text: &OsStr) -> Result<Self, Failure> {
        let bytes = text.as_bytes();
        let slash = bytes.iter().position(|byte| *byte == b'/');
        let (before, path) = bytes.split_at(slash.unwrap_or(bytes.len()));
        let volume = match before.split_last() {
            None => None,
            Some((b':', label)) => Some(String::from_utf8_lossy(label).into_owned()),
            Some(_) => return Err(no_path(bytes)),
        };
        let known = |label: &String| {
            label == "disk"
                || label.strip_prefix('p').is_some_and(|number| number.parse::<u32>().is_ok())
        };
        if path.is_empty() || volume.as_ref().is_some_and(|label| !known(label)) {
            return Err(no_path(bytes));
        }
        Ok(Self { volume, path: path.to_vec() })
    }

    /// The last name of the path; `None` for the top.
    pub(super) fn name(&self) -> Option<&[u8]> {
        self.path.split(|byte| *byte == b'/').rfind(|name| !name.is_empty() && *name != b".")
    }
}

impl std::fmt::Display for GuestPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(volume) = &self.volume {
            write!(f, "{volume}:")?;
        }
        f.write_str(&name_text(&self.path))
    }
}

fn no_path(bytes: &[u8]) -> Failure {
    let text = format!("`{}` is no path in a disk", name_text(bytes));
    Failure::new(codes::GUEST_PATH, text)
        .doing("a path begins at the top: /etc/hosts, or p2:/etc/hosts in partition 2")
}

/// A name or path that a guest gave, as text: what is no text as `\x1b`, control characters escaped.
pub(super) fn name_text(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(&printable(chunk.valid()));
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").expect("a string takes all");
        }
    }
    text
}

/// A word for what a node is.
pub(super) const fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Link => "link",
        Kind::Special(word) => word,
    }
}

/// The bytes of an instant, from the store.
struct Instant {
    control: Arc<dyn Control>,
    who: Caller,
    reference: Reference,
    size: u64,
    verified: Rc<Cell<u64>>,
}

impl Instant {
    fn new(
        reference: &Reference,
        size: u64,
        verified: &Rc<Cell<u64>>,
        context: &mut Context<'_>,
    ) -> Result<Self, Failure> {
        Ok(Self {
            control: context.shared_control()?,
            who: context.who,
            reference: reference.clone(),
            size,
            verified: Rc::clone(verified),
        })
    }

    fn fill(&self, offset: u64, into: &mut [u8]) -> Result<(), Failure> {
        let length = into.len() as u64;
        let request = past::Read {
            reference: self.reference.clone(),
            offset,
            length: Some(length),
            exact: false,
        };
        let mut chunks = self.control.read(&self.who, request)?;
        let mut rest = into;
        while let Some(chunk) = chunks.next()? {
            let count = usize::try_from(chunk.length()).unwrap_or(usize::MAX);
            let Some((now, later)) = rest.split_at_mut_checked(count) else {
                let text = "the store sent more than it was asked for";
                return Err(Failure::new(codes::UNEXPECTED_ANSWER, text));
            };
            match chunk {
                Chunk::Data(bytes) => {
                    now.copy_from_slice(&bytes);
                    self.verified.set(self.verified.get() + bytes.len() as u64);
                }
                Chunk::Zeroes(_) => now.fill(0),
            }
            rest = later;
        }
        if rest.is_empty() {
            return Ok(());
        }
        Err(Failure::new(codes::SERVER_GONE, "the store sent less than it was asked for"))
    }
}

impl Source for Instant {
    fn length_bytes(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), ReadError> {
        Ok(self.fill(offset, into)?)
    }
}

/// The bytes of an instant that differs from another in some ranges only.
struct Beside {
    own: Instant,
    other: Disk,
    ranges: Rc<Ranges>,
}

impl Source for Beside {
    fn length_bytes(&self) -> u64 {
        self.own.size
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let range = offset..offset + into.len() as u64;
        if range.end > self.other.length_bytes() || self.ranges.meet(&range) {
            return self.own.read_at(offset, into);
        }
        match self.other.whole().read(offset, into) {
            Err(Error::Source(error)) => Err(error),
            other => Ok(other?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_joined_and_met() {
        let ranges = Ranges::new(vec![20..30, 0..10, 10..12, 25..28]);
        assert_eq!(ranges.0, [0..12, 20..30]);
        assert!(ranges.meet(&(11..20)) && ranges.meet(&(29..40)) && ranges.meet(&(15..50)));
        assert!(!ranges.meet(&(12..20)) && !ranges.meet(&(30..40)));
        assert_eq!(ranges.bytes_in(&(5..25)), 12);
    }

    #[test]
    fn a_path_names_its_partition_or_none() {
        let parse = |text: &str| GuestPath::parse(OsStr::new(text));
        let path = |volume: Option<&str>, path: &str| GuestPath {
            volume: volume.map(str::to_owned),
            path: path.as_bytes().to_vec(),
        };
        assert_eq!(parse("/etc/hosts"), Ok(path(None, "/etc/hosts")));
        assert_eq!(parse("p2:/x:y"), Ok(path(Some("p2"), "/x:y")));
        assert_eq!(parse("disk:/"), Ok(path(Some("disk"), "/")));
        for wrong in ["", "etc/hosts", "p2:", "p:/x", "px:/x", ":/x", "C:/x"] {
            let refused = parse(wrong).expect_err(wrong);
            assert_eq!(refused.code, codes::GUEST_PATH, "{wrong}");
        }
        assert_eq!(path(None, "/a/b/.//").name(), Some(&b"b"[..]));
        assert_eq!(path(None, "//").name(), None);
    }

    #[test]
    fn names_of_guests_are_escaped() {
        assert_eq!(name_text(b"a\xffb\x1b[31m"), "a\\xffb\\u{1b}[31m");
        assert_eq!(name_text("grün".as_bytes()), "grün");
    }
}
