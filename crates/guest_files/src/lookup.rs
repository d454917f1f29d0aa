//! A path to a node: links on the way are followed, inside the guest; the last one is not.

use crate::{
    Error, FileSystem, Kind, NodeId,
    limits::{LINK_BYTES, LINKS_FOLLOWED},
};

/// A path that leads somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where.
    pub id: NodeId,
}

/// Why a path leads nowhere.
#[derive(Debug)]
pub enum Missing {
    /// There is no such name; names of that directory that are like it, the nearest first.
    Name {
        /// The path up to the directory that has no such name, without a slash at its end.
        directory: Vec<u8>,
        /// Its names that are near.
        near: Vec<Vec<u8>>,
    },
    /// Something on the way is no directory; the path up to it.
    NoDirectory(Vec<u8>),
    /// Too many links, or a link to nowhere; the path of the link.
    Link(Vec<u8>),
    /// The file system could not be read.
    Error(Error),
}

impl From<Error> for Missing {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// Near names that are told at most.
const NEAR: usize = 3;

/// Looks a path up from the top; empty components and `.` count for nothing, `..` goes up, not above
/// the top.
pub fn lookup(file_system: &dyn FileSystem, path: &[u8]) -> Result<Found, Missing> {
    // Components still to go, the next one last; the directories passed, with their names.
    let mut rest: Vec<Vec<u8>> = components(path).rev().map(<[u8]>::to_vec).collect();
    let mut passed: Vec<(Vec<u8>, NodeId)> = Vec::new();
    let mut here = file_system.root();
    let mut links = 0;
    while let Some(name) = rest.pop() {
        if name == b".." {
            passed.pop();
            here = passed.last().map_or(file_system.root(), |(_, id)| *id);
            continue;
        }
        if file_system.node(here)?.kind != Kind::Directory {
            return Err(Missing::NoDirectory(joined(&passed)));
        }
        let Some(id) = child(file_system, here, &name)? else {
            let near = near(file_system, here, &name)?;
            return Err(Missing::Name { directory: joined(&passed), near });
        };
        let node = file_system.node(id)?;
        if node.kind == Kind::Link && !rest.is_empty() {
            links += 1;
            let target = file_system.target(id)?;
            if links > LINKS_FOLLOWED || target.len() as u64 > LINK_BYTES {
                passed.push((name, id));
                return Err(Missing::Link(joined(&passed)));
            }
            if target.first() == Some(&b'/') {
                passed.clear();
                here = file_system.root();
            }
            rest.extend(components(&target).rev().map(<[u8]>::to_vec));
            continue;
        }
        passed.push((name, id));
        here = id;
    }
    Ok(Found { id: here })
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".")
}

fn joined(passed: &[(Vec<u8>, NodeId)]) -> Vec<u8> {
    passed.iter().flat_map(|(name, _)| [b"/", &name[..]].concat()).collect()
}

fn child(
    file_system: &dyn FileSystem,
    directory: NodeId,
    wanted: &[u8],
) -> Result<Option<NodeId>, Error> {
    let (mut exact, mut alike) = (None, None);
    file_system.list(directory, &mut |entry| {
        if entry.name == wanted {
            exact = Some(entry.id);
        } else if alike.is_none() && file_system.same_name(&entry.name, wanted) {
            alike = Some(entry.id);
        }
        Ok(())
    })?;
    Ok(exact.or(alike))
}

/// The names of a directory that a person may have meant: few edits away.
fn near(
    file_system: &dyn FileSystem,
    directory: NodeId,
    wanted: &[u8],
) -> Result<Vec<Vec<u8>>, Error> {
    let mut found: Vec<(usize, Vec<u8>)> = Vec::new();
    let most = 1 + wanted.len() / 4;
    file_system.list(directory, &mut |entry| {
        let edits = edits(&entry.name, wanted, most);
        if let Some(edits) = edits {
            found.push((edits, entry.name));
            found.sort();
            found.truncate(NEAR);
        }
        Ok(())
    })?;
    Ok(found.into_iter().map(|(_, name)| name).collect())
}

/// How many bytes have to be changed, added or taken away to make one name the other, regardless of
/// case; `None` if more than `most`.
fn edits(one: &[u8], other: &[u8], most: usize) -> Option<usize> {
    if one.len().abs_diff(other.len()) > most {
        return None;
    }
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (above, left) in one.iter().enumerate() {
        let mut corner = row[0];
        row[0] = above + 1;
        for (index, right) in other.iter().enumerate() {
            let change = usize::from(!left.eq_ignore_ascii_case(right));
            let cost = (corner + change).min(row[index] + 1).min(row[index + 1] + 1);
            corner = row[index + 1];
            row[index + 1] = cost;
        }
    }
    row.last().copied().filter(|edits| *edits <= most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted_up_to_the_bound() {
        assert_eq!(edits(b"hosts", b"host", 2), Some(1));
        assert_eq!(edits(b"Hosts", b"hosts", 2), Some(0));
        assert_eq!(edits(b"passwd", b"shadow", 2), None);
        assert_eq!(edits(b"a", b"abcdef", 2), None);
    }
}
