//! Everything below a directory, each directory before what is in it.

use std::collections::HashSet;

use crate::{Error, FileSystem, Kind, Node, NodeId, limits::PATH_BYTES};

/// Who is told what a walk meets. Paths are relative to the top, without a slash in front.
pub trait Visitor {
    /// Why a walk ends early.
    type Stop;

    /// A directory, before its names. The top has the empty path.
    fn directory(&mut self, path: &[u8], node: &Node) -> Result<(), Self::Stop>;

    /// Anything else; `path` is that of its directory, the one told last.
    fn other(&mut self, path: &[u8], name: &[u8], node: &Node) -> Result<(), Self::Stop>;

    /// Something that could not be read: the walk goes on beside it.
    fn trouble(&mut self, path: &[u8], error: Error) -> Result<(), Self::Stop>;
}

/// Walks a directory and all below it. A directory that was met before is trouble: no file system
/// gives one two names, and following it could have no end.
pub fn walk<V: Visitor>(
    file_system: &dyn FileSystem,
    top: &Node,
    visitor: &mut V,
) -> Result<(), V::Stop> {
    let mut met = HashSet::from([top.id]);
    let mut waiting: Vec<(NodeId, Vec<u8>)> = vec![(top.id, Vec::new())];
    while let Some((id, path)) = waiting.pop() {
        let node = match file_system.node(id) {
            Ok(node) => node,
            Err(error) => {
                visitor.trouble(&path, error)?;
                continue;
            }
        };
        visitor.directory(&path, &node)?;
        let mut stop = None;
        let listed = file_system.list(id, &mut |entry| {
            let mut meet = || match file_system.node(entry.id) {
                Ok(node) if node.kind == Kind::Directory => {
                    let below = join(&path, &entry.name);
                    if below.len() > PATH_BYTES {
                        visitor.trouble(&below, Error::Limit("the length of a path"))
                    } else if met.insert(entry.id) {
                        waiting.push((entry.id, below));
                        Ok(())
                    } else {
                        let twice = Error::damaged("a directory has two names", entry.id.0);
                        visitor.trouble(&below, twice)
                    }
                }
                Ok(node) => visitor.other(&path, &entry.name, &node),
                Err(error) => visitor.trouble(&join(&path, &entry.name), error),
            };
            meet().map_err(|why| {
                stop = Some(why);
                Error::Limit("")
            })
        });
        if let Some(why) = stop {
            return Err(why);
        }
        if let Err(error) = listed {
            visitor.trouble(&path, error)?;
        }
    }
    Ok(())
}

/// A name below a relative path.
pub fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut joined = path.to_vec();
    if !joined.is_empty() {
        joined.push(b'/');
    }
    joined.extend_from_slice(name);
    joined
}
