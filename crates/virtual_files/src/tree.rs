//! What a mounted folder holds, as the kernel asks for it: entries by name, lists of names.
//!
//! An entry has a *key*: what it is, whatever its path. Two look-ups that find one thing give one
//! key, and what has another content has another key; so an inode's bytes never change under a
//! reader, and what moves is a link.

use std::sync::Arc;

use units::Timestamp;

use crate::{Trouble, VirtualFile};

/// Something in a folder.
#[derive(Clone)]
pub struct Entry {
    /// What it is; see the module's head.
    pub key: String,
    /// What stands there.
    pub node: Node,
    /// Its time, for lists.
    pub modified: Timestamp,
    /// The name means the same for as long as it is mounted.
    pub fixed: bool,
}

/// A kind of entry, with what is in it.
#[derive(Clone)]
pub enum Node {
    /// A folder.
    Folder(Arc<dyn Folder>),
    /// A file.
    File(Arc<dyn VirtualFile>),
    /// A link to another entry, by a path from its own folder.
    Link(String),
}

/// A folder that is asked each time.
pub trait Folder: Send + Sync {
    /// The entry of that name.
    fn find(&self, name: &str) -> Result<Entry, Trouble>;

    /// What is listed. Names may be found that are not.
    fn list(&self) -> Result<Vec<Listed>, Trouble>;
}

/// A line of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The name.
    pub name: String,
    /// Its key, where it is known without asking.
    pub key: Option<String>,
    /// Its kind.
    pub kind: Kind,
}

/// A kind of entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A file.
    File,
    /// A link.
    Link,
}

impl Node {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Folder(_) => Kind::Folder,
            Self::File(_) => Kind::File,
            Self::Link(_) => Kind::Link,
        }
    }
}

/// A folder whose entries are known and stay.
pub(crate) struct Shelf(pub(crate) Vec<(String, Entry)>);

impl Folder for Shelf {
    fn find(&self, name: &str) -> Result<Entry, Trouble> {
        let found = self.0.iter().find(|(its, _)| its == name);
        found.map(|(_, entry)| entry.clone()).ok_or_else(|| absent(name))
    }

    fn list(&self) -> Result<Vec<Listed>, Trouble> {
        let listed = |(name, entry): &(String, Entry)| Listed {
            name: name.clone(),
            key: Some(entry.key.clone()),
            kind: entry.node.kind(),
        };
        Ok(self.0.iter().map(listed).collect())
    }
}

/// There is no entry of that name.
pub(crate) fn absent(name: &str) -> Trouble {
    Trouble::Absent(format!("there is no {name:?}"))
}
