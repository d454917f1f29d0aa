//! The guard book: what was sealed, kept where the images themselves must not be touched.
//!
//! ```text
//! BOOK/link/<file, 16 hex digits>-<print, 16>.link   one link: lineage::Link
//! BOOK/tree/<hash of its bytes, 64>.tree             a tree of hashes, for all links that name it
//! BOOK/lock                                          held by whoever writes
//! ```
//!
//! - A file appears whole: temporary name, fsync, rename, fsync of the folder. A tree is durable
//!   before the link that names it, and is removed after the last of those.
//! - A link that cannot be read, or is not the one that its name says, is an error for its child. It
//!   is never passed over, so that damage of the book cannot make a changed parent look unsealed.
//! - Where a crash left two records of one child, the one of the greater sequence counts.
//! - Memory: one link (at most [`LINK_BYTES_MAX`]) and the trees of one ([`TREE_BYTES_MAX`] each).

use std::{collections::HashSet, io, path::Path, sync::Arc};

use lineage::{ChildMark, Digest, FileMark, Link, Malformed, Print, Tree};
use world::{
    Access, Disk,
    real::{LockError, LockKind, RealDisk, StoreLock},
};

/// Bytes of a link's record, at most.
pub const LINK_BYTES_MAX: u64 = 16 << 20;

/// Bytes of a tree's stored form, at most: a disk of 2 TiB that is full.
pub const TREE_BYTES_MAX: u64 = 1 << 30;

const LINKS: &str = "link";
const TREES: &str = "tree";
const LOCK: &str = "lock";
const LINK_SUFFIX: &str = ".link";
const TREE_SUFFIX: &str = ".tree";
const NEW_SUFFIX: &str = ".new";

/// Hexadecimal digits of each half of a link's name.
const HALF: usize = 16;

/// Why the book did not answer.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// The system refused something.
    #[error("{what}: {cause}")]
    Io {
        /// What of the book.
        what: String,
        /// Its answer.
        cause: io::Error,
    },
    /// Another process writes it.
    #[error("another process writes the book")]
    Busy,
    /// A file of it is not what was written.
    #[error("{name} in the book is damaged: {cause}")]
    Damaged {
        /// The file.
        name: String,
        /// What is wrong with it.
        cause: Malformed,
    },
    /// A file of it is not the one that its name says, or is of somebody else.
    #[error("{name} in the book is not what its name says")]
    Foreign {
        /// The file.
        name: String,
    },
    /// A tree that a link names is gone.
    #[error("{name} is missing in the book")]
    Missing {
        /// The file.
        name: String,
    },
    /// Larger than a book holds.
    #[error("{what} takes {bytes} bytes, a book holds {most}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Its bytes.
        bytes: u64,
        /// The bound.
        most: u64,
    },
}

/// How a child's records were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// There is none.
    None,
    /// By the child's file.
    ByFile(Box<Link>),
    /// By what the child holds; of several the last written first. Not empty.
    ByPrint(Vec<Link>),
}

/// An open book.
pub struct Book {
    disk: Arc<dyn Disk>,
    /// Held while it may be written.
    lock: Option<StoreLock>,
}

impl Book {
    /// The book in a folder, for reading; `None` where there is none.
    pub fn open(folder: &Path) -> Result<Option<Self>, BookError> {
        match RealDisk::open(folder) {
            Ok(disk) => Ok(Some(Self::over(Arc::new(disk)))),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(trouble(&folder.display().to_string())(cause)),
        }
    }

    /// The book in a folder, for writing; made if it is not there.
    pub fn open_for_writing(folder: &Path) -> Result<Self, BookError> {
        use std::os::unix::fs::DirBuilderExt as _;
        let of_folder = || folder.display().to_string();
        let mut make = std::fs::DirBuilder::new();
        make.recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|cause| trouble(&of_folder())(cause))?;
        let disk = RealDisk::open(folder).map_err(|cause| trouble(&of_folder())(cause))?;
        let lock = disk.lock(LOCK, LockKind::Write).map_err(|error| match error {
            LockError::Busy => BookError::Busy,
            LockError::Io(cause) => trouble(LOCK)(cause),
        })?;
        Ok(Self { lock: Some(lock), ..Self::over(Arc::new(disk)) })
    }

    /// The book on any disk. Who writes it is the caller's care.
    pub fn over(disk: Arc<dyn Disk>) -> Self {
        Self { disk, lock: None }
    }

    /// Whether this process is the one that writes it.
    pub fn is_locked(&self) -> bool {
        self.lock.is_some()
    }

    /// The record of a child by its file. A record of another format is of another child, whose file
    /// was written over.
    pub fn by_file(&self, file: &FileMark) -> Result<Option<Link>, BookError> {
        let half = half(&file.digest());
        let mut newest: Option<Link> = None;
        for name in self.links()? {
            if !name.starts_with(&half) {
                continue;
            }
            let Some(link) = self.link(&name)? else { continue };
            let counts = newest.as_ref().is_none_or(|known| known.sequence < link.sequence);
            if link.child.file.is(file) && counts {
                newest = Some(link);
            }
        }
        Ok(newest)
    }

    /// The records of children that held the same, the last written first.
    pub fn by_print(&self, print: &Print) -> Result<Vec<Link>, BookError> {
        let half = half(&print.digest);
        let mut found = Vec::new();
        for name in self.links()? {
            if name.get(HALF + 1..).is_none_or(|rest| !rest.starts_with(&half)) {
                continue;
            }
            found.extend(self.link(&name)?.filter(|link| link.child.print == *print));
        }
        found.sort_by_key(|link| std::cmp::Reverse((link.seal().made_ns, link.sequence)));
        Ok(found)
    }

    /// Names of all records, to be read by [`Book::link`].
    pub fn links(&self) -> Result<Vec<String>, BookError> {
        let mut names = self.disk.list(LINKS).map_err(trouble(LINKS))?;
        names.retain(|name| name.ends_with(LINK_SUFFIX));
        Ok(names)
    }

    /// The record of that name; `None` if it was removed meanwhile.
    pub fn link(&self, name: &str) -> Result<Option<Link>, BookError> {
        let path = format!("{LINKS}/{name}");
        let bytes = match self.read(&path, "a record", LINK_BYTES_MAX) {
            Err(BookError::Missing { .. }) => return Ok(None),
            other => other?,
        };
        let damaged = |cause| BookError::Damaged { name: path.clone(), cause };
        let link = Link::parse(&bytes).map_err(damaged)?;
        if name_of(&link.child) != name {
            return Err(BookError::Foreign { name: path });
        }
        Ok(Some(link))
    }

    /// A tree by the hash that a link names.
    pub fn tree(&self, hash: &Digest) -> Result<Tree, BookError> {
        let path = tree_path(hash);
        let bytes = self.read(&path, "a tree", TREE_BYTES_MAX)?;
        if hash_of(&bytes) != *hash {
            return Err(BookError::Foreign { name: path });
        }
        Tree::parse(&bytes).map_err(|cause| BookError::Damaged { name: path, cause })
    }

    /// The tree that a link's seal speaks of.
    pub fn tree_of(&self, link: &Link) -> Result<Option<Tree>, BookError> {
        let Some(hash) = &link.tree else { return Ok(None) };
        let tree = self.tree(hash)?;
        if link.seal().content.is_none_or(|content| !tree.is_of(&content)) {
            return Err(BookError::Foreign { name: tree_path(hash) });
        }
        Ok(Some(tree))
    }

    /// Keeps a tree, durably; gives what a link calls it.
    pub fn put_tree(&mut self, tree: &Tree) -> Result<Digest, BookError> {
        let bytes = tree.encode();
        within("the tree of a disk", bytes.len() as u64, TREE_BYTES_MAX)?;
        let hash = hash_of(&bytes);
        // One that is there and whole is as good; one that is damaged is written anew.
        if self.tree(&hash).is_err() {
            self.make_folder(TREES)?;
            self.put(TREES, &format!("{hash}{TREE_SUFFIX}"), &bytes)?;
        }
        Ok(hash)
    }

    /// Keeps a link, durably, in place of all earlier ones of the same file. Its trees are there.
    pub fn put_link(&mut self, link: &mut Link) -> Result<(), BookError> {
        let before = self.of_file(&link.child.file)?;
        let last = before.iter().filter_map(|(_, sequence)| *sequence).max().unwrap_or(0);
        link.sequence = last.saturating_add(1);
        let bytes = link.encode();
        within("a record", bytes.len() as u64, LINK_BYTES_MAX)?;
        self.make_folder(LINKS)?;
        let name = name_of(&link.child);
        self.put(LINKS, &name, &bytes)?;
        self.remove_links(before.iter().map(|(name, _)| name).filter(|before| **before != name))
    }

    /// Forgets a link, durably.
    pub fn remove(&mut self, link: &Link) -> Result<(), BookError> {
        let before = self.of_file(&link.child.file)?;
        self.remove_links(before.iter().map(|(name, _)| name))
    }

    /// Removes trees that no link names, and what a crash left half made. Does nothing while a link
    /// cannot be read: its trees may be among them.
    pub fn sweep(&mut self) -> Result<(), BookError> {
        let mut named = HashSet::new();
        for name in self.links()? {
            match self.link(&name) {
                Ok(link) => named.extend(link.iter().flat_map(|link| [link.tree, link.edges])),
                Err(_) => return Ok(()),
            }
        }
        let named: HashSet<String> =
            named.into_iter().flatten().map(|hash| format!("{hash}{TREE_SUFFIX}")).collect();
        for (folder, suffix) in [(LINKS, LINK_SUFFIX), (TREES, TREE_SUFFIX)] {
            let mut removed = false;
            for name in self.disk.list(folder).map_err(trouble(folder))? {
                let is_half_made = name.ends_with(NEW_SUFFIX);
                let is_unnamed =
                    folder == TREES && name.ends_with(suffix) && !named.contains(&name);
                if is_half_made || is_unnamed {
                    let path = format!("{folder}/{name}");
                    self.disk.remove(&path).map_err(trouble(&path))?;
                    removed = true;
                }
            }
            if removed {
                self.disk.sync_dir(folder).map_err(trouble(folder))?;
            }
        }
        Ok(())
    }

    /// Names of the records of a file, with their sequences where they can be read.
    fn of_file(&self, file: &FileMark) -> Result<Vec<(String, Option<u64>)>, BookError> {
        let half = half(&file.digest());
        let mut found = Vec::new();
        for name in self.links()? {
            if name.starts_with(&half) {
                let sequence = self.link(&name).ok().flatten().map(|link| link.sequence);
                found.push((name, sequence));
            }
        }
        Ok(found)
    }

    fn remove_links<'n>(
        &mut self,
        names: impl Iterator<Item = &'n String>,
    ) -> Result<(), BookError> {
        let mut removed = false;
        for name in names {
            let path = format!("{LINKS}/{name}");
            self.disk.remove(&path).map_err(trouble(&path))?;
            removed = true;
        }
        if removed { self.disk.sync_dir(LINKS).map_err(trouble(LINKS)) } else { Ok(()) }
    }

    fn make_folder(&self, folder: &str) -> Result<(), BookError> {
        self.disk.make_dir(folder).map_err(trouble(folder))?;
        self.disk.sync_dir("").map_err(trouble("the book's folder"))
    }

    /// Makes a file that appears whole, and durably.
    fn put(&self, folder: &str, name: &str, bytes: &[u8]) -> Result<(), BookError> {
        let path = format!("{folder}/{name}");
        let new = format!("{path}{NEW_SUFFIX}");
        let written = || -> io::Result<()> {
            match self.disk.remove(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => (),
            }
            let file = self.disk.open(&new, Access::WRITE.new_file())?;
            file.write_at(0, bytes)?;
            file.sync_data()?;
            self.disk.rename(&new, &path)?;
            self.disk.sync_dir(folder)
        };
        written().map_err(trouble(&path))
    }

    fn read(&self, path: &str, what: &'static str, most: u64) -> Result<Vec<u8>, BookError> {
        let file = self.disk.open(path, Access::READ).map_err(|cause| match cause.kind() {
            io::ErrorKind::NotFound => BookError::Missing { name: path.to_owned() },
            _ => trouble(path)(cause),
        })?;
        let length = file.length_bytes().map_err(trouble(path))?;
        within(what, length, most)?;
        let mut bytes = vec![0; usize::try_from(length).expect("bounded just now")];
        file.read_at(0, &mut bytes).map_err(trouble(path))?;
        Ok(bytes)
    }
}

fn within(what: &'static str, bytes: u64, most: u64) -> Result<(), BookError> {
    if bytes > most { Err(BookError::TooLarge { what, bytes, most }) } else { Ok(()) }
}

fn trouble(what: &str) -> impl FnOnce(io::Error) -> BookError {
    let what = what.to_owned();
    move |cause| BookError::Io { what, cause }
}

fn name_of(child: &ChildMark) -> String {
    format!("{}-{}{LINK_SUFFIX}", half(&child.file.digest()), half(&child.print.digest))
}

fn half(digest: &Digest) -> String {
    let mut text = digest.to_string();
    text.truncate(HALF);
    text
}

fn tree_path(hash: &Digest) -> String {
    format!("{TREES}/{hash}{TREE_SUFFIX}")
}

fn hash_of(bytes: &[u8]) -> Digest {
    Digest(*blake3::hash(bytes).as_bytes())
}
