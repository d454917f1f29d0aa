//! What differs between the files of two states of one file system.
//!
//! Names and what file systems say of files are compared everywhere; contents only where they can
//! differ: a range of a file that lies at one place in both states, where no block of the disk was
//! written between them, is not read.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Range,
};

use crate::{
    Error, FileSystem, Kind, Node, NodeId, Piece, Place,
    limits::{CHANGES, PATH_BYTES},
};

/// Bytes of a content that are compared at once, and the unit in which differences are counted.
const STEP: u64 = 1 << 20;
const UNIT: usize = 4096;

/// How a file came to differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was not there before.
    Added,
    /// It is not there any more.
    Deleted,
    /// It was there, with other content or attributes.
    Modified(Facets),
    /// It had another path, and is otherwise the same.
    Renamed {
        /// Its path before.
        from: Vec<u8>,
    },
}

/// In what a file differs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "any of them, independently")]
pub struct Facets {
    /// Its bytes, or its target.
    pub content: bool,
    /// Its permissions.
    pub mode: bool,
    /// Its user or group.
    pub owner: bool,
    /// The time of its last change.
    pub time: bool,
}

/// A file that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Its path from the top, with a slash in front.
    pub path: Vec<u8>,
    /// How.
    pub change: Change,
    /// What it is (or was, when it is gone).
    pub kind: Kind,
    /// Bytes before; `None` when it was not there.
    pub size_before: Option<u64>,
    /// Bytes after; `None` when it is gone.
    pub size_after: Option<u64>,
    /// Bytes of content that are new, in units of 4 KiB but for the end of the file.
    pub written: u64,
}

/// All that differs, sorted by path, and what could not be compared.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Files that differ.
    pub changed: Vec<Changed>,
    /// Paths that could not be read in one of the states, and why.
    pub unread: Vec<(Vec<u8>, Error)>,
}

/// Compares two states of a file system; `differs` tells whether a range of it was written between.
pub fn compare(
    before: &dyn FileSystem,
    after: &dyn FileSystem,
    differs: &dyn Fn(Range<u64>) -> bool,
) -> Result<Comparison, Error> {
    let mut work = Work {
        before,
        after,
        differs,
        met: BTreeSet::new(),
        found: Vec::new(),
        unread: Vec::new(),
    };
    let mut waiting =
        vec![Pair { path: Vec::new(), before: Some(before.root()), after: Some(after.root()) }];
    while let Some(pair) = waiting.pop() {
        work.directory(&pair, &mut waiting)?;
    }
    let mut changed = find_renames(work.found);
    changed.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(Comparison { changed, unread: work.unread })
}

/// A directory in both states, or in one.
struct Pair {
    path: Vec<u8>,
    before: Option<NodeId>,
    after: Option<NodeId>,
}

struct Work<'c> {
    before: &'c dyn FileSystem,
    after: &'c dyn FileSystem,
    differs: &'c dyn Fn(Range<u64>) -> bool,
    /// Directories that were gone through, so that none that leads to itself is followed for ever.
    met: BTreeSet<(bool, NodeId)>,
    found: Vec<(Changed, NodeId, crate::Time)>,
    unread: Vec<(Vec<u8>, Error)>,
}

type Names = BTreeMap<Vec<u8>, NodeId>;

impl Work<'_> {
    fn directory(&mut self, pair: &Pair, waiting: &mut Vec<Pair>) -> Result<(), Error> {
        let first = pair.before.map(|id| self.met.insert((false, id)));
        let second = pair.after.map(|id| self.met.insert((true, id)));
        if pair.path.len() > PATH_BYTES || first == Some(false) || second == Some(false) {
            return self.trouble(&pair.path, Error::damaged("a directory has two names", 0));
        }
        let before = self.names(pair, pair.before.map(|id| (self.before, id)))?;
        let after = self.names(pair, pair.after.map(|id| (self.after, id)))?;
        let (Some(before), Some(after)) = (before, after) else { return Ok(()) };
        let names: BTreeSet<&Vec<u8>> = before.keys().chain(after.keys()).collect();
        for name in names {
            let path = [&pair.path[..], b"/", name].concat();
            let one = self.node(&path, self.before, before.get(name))?;
            let other = self.node(&path, self.after, after.get(name))?;
            match (one, other) {
                (Some(one), Some(other)) if one.kind == other.kind => {
                    self.both(path, &one, &other, waiting)?;
                }
                (one, other) => {
                    if let Some(node) = one.filter(|_| other.is_some() || !after.contains_key(name))
                    {
                        self.only(path.clone(), &node, false, waiting)?;
                    }
                    if let Some(node) =
                        other.filter(|_| one.is_some() || !before.contains_key(name))
                    {
                        self.only(path, &node, true, waiting)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The names of a directory; `None` where they cannot be read, so that nothing is called gone.
    fn names(
        &mut self,
        pair: &Pair,
        place: Option<(&dyn FileSystem, NodeId)>,
    ) -> Result<Option<Names>, Error> {
        let mut names = Names::new();
        let Some((file_system, id)) = place else { return Ok(Some(names)) };
        let listed = file_system.list(id, &mut |entry| {
            names.insert(entry.name, entry.id);
            Ok(())
        });
        match listed {
            Ok(()) => Ok(Some(names)),
            Err(error) => self.trouble(&pair.path, error).map(|()| None),
        }
    }

    fn node(
        &mut self,
        path: &[u8],
        file_system: &dyn FileSystem,
        id: Option<&NodeId>,
    ) -> Result<Option<Node>, Error> {
        match id.map(|id| file_system.node(*id)).transpose() {
            Ok(node) => Ok(node),
            Err(error) => self.trouble(path, error).map(|()| None),
        }
    }

    fn both(
        &mut self,
        path: Vec<u8>,
        one: &Node,
        other: &Node,
        waiting: &mut Vec<Pair>,
    ) -> Result<(), Error> {
        let mut facets = Facets {
            content: false,
            mode: one.mode != other.mode,
            owner: one.owner != other.owner,
            time: one.modified != other.modified && one.kind != Kind::Directory,
        };
        let mut written = 0;
        match one.kind {
            Kind::Directory => {
                let pair = Pair { path: path.clone(), before: Some(one.id), after: Some(other.id) };
                waiting.push(pair);
            }
            Kind::File => match self.written(one, other) {
                Ok(bytes) => {
                    written = bytes;
                    facets.content = bytes > 0 || one.size != other.size;
                }
                Err(error) => return self.trouble(&path, error),
            },
            Kind::Link => match (self.before.target(one.id), self.after.target(other.id)) {
                (Ok(before), Ok(after)) => facets.content = before != after,
                (Err(error), _) | (_, Err(error)) => return self.trouble(&path, error),
            },
            Kind::Special(_) => {}
        }
        if facets == Facets::default() {
            return Ok(());
        }
        let changed = Changed {
            path,
            change: Change::Modified(facets),
            kind: one.kind,
            size_before: Some(one.size),
            size_after: Some(other.size),
            written,
        };
        self.push(changed, other)
    }

    /// A file that is in one state only; of a directory, all that is in it follows.
    fn only(
        &mut self,
        path: Vec<u8>,
        node: &Node,
        added: bool,
        waiting: &mut Vec<Pair>,
    ) -> Result<(), Error> {
        if node.kind == Kind::Directory {
            let id = Some(node.id);
            let (before, after) = if added { (None, id) } else { (id, None) };
            waiting.push(Pair { path: path.clone(), before, after });
        }
        let changed = Changed {
            path,
            change: if added { Change::Added } else { Change::Deleted },
            kind: node.kind,
            size_before: (!added).then_some(node.size),
            size_after: added.then_some(node.size),
            written: if added { node.size } else { 0 },
        };
        self.push(changed, node)
    }

    fn push(&mut self, changed: Changed, node: &Node) -> Result<(), Error> {
        if self.found.len() == CHANGES {
            return Err(Error::Limit("the number of files that differ"));
        }
        self.found.push((changed, node.id, node.modified));
        Ok(())
    }

    /// Damage of one path is told with the rest; a disk that cannot be read ends all.
    fn trouble(&mut self, path: &[u8], error: Error) -> Result<(), Error> {
        if matches!(error, Error::Source(_)) {
            return Err(error);
        }
        self.unread.push((path.to_vec(), error));
        Ok(())
    }

    /// How many bytes of a file's content are new.
    fn written(&self, one: &Node, other: &Node) -> Result<u64, Error> {
        let before = self.before.pieces(one.id)?;
        let after = self.after.pieces(other.id)?;
        let end = other.size;
        let common = one.size.min(end);
        let (mut at, mut written) = (0, 0);
        let (mut first, mut second) = (Cursor::new(&before), Cursor::new(&after));
        let (mut left, mut right) = (Vec::new(), Vec::new());
        while at < common {
            let (one, other) = (first.at(at), second.at(at));
            // Segments end at whole units, so that what is counted does not depend on the pieces.
            let length = one.length.min(other.length).min(common - at);
            if self.is_same(&one, &other, length) {
                at += length;
                continue;
            }
            let length = length.min(STEP);
            fill(self.before, &one, length, &mut left)?;
            fill(self.after, &other, length, &mut right)?;
            for (old, new) in left.chunks(UNIT).zip(right.chunks(UNIT)) {
                if old != new {
                    written += new.len() as u64;
                }
            }
            at += length;
        }
        Ok(written + (end - common))
    }

    /// Whether a range is surely the same in both states, without reading it.
    fn is_same(&self, one: &Segment<'_>, other: &Segment<'_>, length: u64) -> bool {
        match (one.place, other.place) {
            (None, None) => true,
            (Some((first, skip)), Some((second, same_skip))) => {
                let (Place::At(first), Place::At(second)) = (&first.place, &second.place) else {
                    return false;
                };
                let (first, second) = (first + skip, second + same_skip);
                first == second
                    && !(self.differs)(first..first.saturating_add(length))
                    && !self.before.replayed(first, length)
                    && !self.after.replayed(first, length)
            }
            _ => false,
        }
    }
}

/// Makes one entry of a name that is gone and a name that is new, where both were the same file of the
/// same length and time.
fn find_renames(found: Vec<(Changed, NodeId, crate::Time)>) -> Vec<Changed> {
    let key = |changed: &Changed, id: NodeId, time: crate::Time| {
        let size = changed.size_before.or(changed.size_after);
        (id, size.unwrap_or(0), time)
    };
    let mut gone: HashMap<_, Vec<u8>> = HashMap::new();
    for (changed, id, time) in &found {
        if changed.change == Change::Deleted && can_be_renamed(changed.kind) {
            gone.insert(key(changed, *id, *time), changed.path.clone());
        }
    }
    let mut renamed = BTreeSet::new();
    let mut list = Vec::with_capacity(found.len());
    for (mut changed, id, time) in found {
        if changed.change == Change::Added
            && can_be_renamed(changed.kind)
            && let Some(from) = gone.remove(&key(&changed, id, time))
        {
            renamed.insert(from.clone());
            changed.size_before = changed.size_after;
            changed.written = 0;
            changed.change = Change::Renamed { from };
        }
        list.push(changed);
    }
    list.retain(|changed| changed.change != Change::Deleted || !renamed.contains(&changed.path));
    list
}

/// Directories are told by what is in them.
const fn can_be_renamed(kind: Kind) -> bool {
    matches!(kind, Kind::File | Kind::Link)
}

/// A range of a file that lies in one piece, or in none.
struct Segment<'p> {
    /// The piece, and how far into it the range begins; `None` reads as zero.
    place: Option<(&'p Piece, u64)>,
    length: u64,
}

/// Goes along the pieces of a file.
struct Cursor<'p> {
    pieces: &'p [Piece],
}

impl<'p> Cursor<'p> {
    const fn new(pieces: &'p [Piece]) -> Self {
        Self { pieces }
    }

    /// What lies at `at`, which never goes back.
    fn at(&mut self, at: u64) -> Segment<'p> {
        while let Some((first, rest)) = self.pieces.split_first()
            && first.end() <= at
        {
            self.pieces = rest;
        }
        match self.pieces.first() {
            Some(piece) if piece.offset <= at => {
                let skip = at - piece.offset;
                Segment { place: Some((piece, skip)), length: piece.length - skip }
            }
            Some(piece) => Segment { place: None, length: piece.offset - at },
            None => Segment { place: None, length: u64::MAX },
        }
    }
}

fn fill(
    file_system: &dyn FileSystem,
    segment: &Segment<'_>,
    length: u64,
    into: &mut Vec<u8>,
) -> Result<(), Error> {
    into.clear();
    into.resize(usize::try_from(length).unwrap_or(0), 0);
    match segment.place {
        Some((piece, skip)) => piece.read(file_system, skip, into),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Time;

    fn changed(path: &str, change: Change, size: u64) -> Changed {
        let added = change == Change::Added;
        Changed {
            path: path.as_bytes().to_vec(),
            change,
            kind: Kind::File,
            size_before: (!added).then_some(size),
            size_after: added.then_some(size),
            written: if added { size } else { 0 },
        }
    }

    #[test]
    fn a_file_that_moved_is_one_change() {
        let time = Time { seconds: 5, nanoseconds: 0 };
        let found = find_renames(vec![
            (changed("/a", Change::Deleted, 7), NodeId(12), time),
            (changed("/b", Change::Added, 7), NodeId(12), time),
            (changed("/c", Change::Added, 8), NodeId(13), time),
            (changed("/d", Change::Deleted, 9), NodeId(13), time),
        ]);
        let renamed = Change::Renamed { from: b"/a".to_vec() };
        let told: Vec<_> =
            found.iter().map(|c| (&c.path[..], c.change.clone(), c.written)).collect();
        let expected: [(&[u8], _, _); 3] =
            [(b"/b", renamed, 0), (b"/c", Change::Added, 8), (b"/d", Change::Deleted, 0)];
        assert_eq!(told, expected);
    }

    #[test]
    fn segments_are_pieces_and_the_holes_between() {
        let piece = |offset, length| Piece { offset, length, place: Place::At(0) };
        let pieces = [piece(10, 5), piece(20, 5)];
        let mut cursor = Cursor::new(&pieces);
        let mut told = |at| {
            let segment = cursor.at(at);
            (segment.place.map(|(piece, skip)| (piece.offset, skip)), segment.length)
        };
        assert_eq!(told(0), (None, 10));
        assert_eq!(told(12), (Some((10, 2)), 3));
        assert_eq!(told(15), (None, 5));
        assert_eq!(told(20), (Some((20, 0)), 5));
        assert_eq!(told(25), (None, u64::MAX));
    }
}
