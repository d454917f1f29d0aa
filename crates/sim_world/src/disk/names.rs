//! Names of files and directories, durable and not yet.
//!
//! A name operation is done whole or not at all. Operations on the same name keep their order,
//! others may become durable in any; those of a directory are durable once it was synced. A rename
//! belongs to the directory of its new name.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Which name leads to which file, and which directories there are.
#[derive(Clone, Default)]
pub(crate) struct Names {
    pub files: BTreeMap<Arc<str>, u64>,
    pub dirs: BTreeSet<Arc<str>>,
}

/// A name operation that is not durable.
#[derive(Clone)]
pub(crate) struct NameOp {
    /// Its place in the disk's order of changes.
    pub id: u64,
    pub what: NameWhat,
}

#[derive(Clone)]
pub(crate) enum NameWhat {
    Create { path: Arc<str>, inode: u64 },
    Rename { from: Arc<str>, to: Arc<str>, inode: u64 },
    Remove { path: Arc<str> },
    MakeDir { path: Arc<str> },
}

impl NameWhat {
    /// The name it is about, and the one it takes away if that is another.
    fn names(&self) -> (&str, Option<&str>) {
        match self {
            Self::Create { path, .. } | Self::Remove { path } | Self::MakeDir { path } => {
                (path, None)
            }
            Self::Rename { from, to, .. } => (to, Some(from)),
        }
    }

    fn shares_a_name(&self, other: &Self) -> bool {
        let ((a, b), (c, d)) = (self.names(), other.names());
        a == c || Some(a) == d || b == Some(c) || (b.is_some() && b == d)
    }

    pub fn directory(&self) -> &str {
        directory_of(self.names().0)
    }
}

impl Names {
    pub fn apply(&mut self, what: &NameWhat) {
        match what {
            NameWhat::Create { path, inode } => {
                self.files.insert(path.clone(), *inode);
            }
            NameWhat::Rename { from, to, inode } => {
                self.files.remove(from);
                self.files.insert(to.clone(), *inode);
            }
            NameWhat::Remove { path } => {
                self.files.remove(path);
            }
            NameWhat::MakeDir { path } => {
                self.dirs.insert(path.clone());
            }
        }
    }

    pub fn has_dir(&self, path: &str) -> bool {
        path.is_empty() || self.dirs.contains(path)
    }

    /// Takes away what lies in directories that are not there.
    pub fn drop_orphans(&mut self) {
        let mut kept = Self::default();
        for dir in &self.dirs {
            if kept.has_dir(directory_of(dir)) {
                kept.dirs.insert(dir.clone()); // sorted, so a parent comes before its children
            }
        }
        self.dirs = kept.dirs;
        let dirs = &self.dirs;
        self.files.retain(|path, _| {
            let dir = directory_of(path);
            dir.is_empty() || dirs.contains(dir)
        });
    }

    /// Names of the files in a directory, sorted.
    pub fn list(&self, dir: &str) -> Vec<String> {
        let in_dir = |path: &&Arc<str>| directory_of(path) == dir;
        let start = if dir.is_empty() { 0 } else { dir.len() + 1 };
        self.files.keys().filter(in_dir).map(|path| path[start..].to_owned()).collect()
    }
}

/// Takes the wanted operations out of `ops`, with every earlier one that shares a name with them.
pub(crate) fn take_with_causes(
    ops: &mut Vec<NameOp>,
    mut wanted: impl FnMut(&NameOp) -> bool,
) -> Vec<NameOp> {
    let mut taken: Vec<bool> = ops.iter().map(&mut wanted).collect();
    for later in (0..ops.len()).rev() {
        if taken[later] {
            for earlier in 0..later {
                taken[earlier] |= ops[earlier].what.shares_a_name(&ops[later].what);
            }
        }
    }
    let mut taken = taken.into_iter();
    ops.extract_if(.., |_| taken.next().expect("one for each")).collect()
}

/// Keeps the wanted operations unless an earlier one that shares a name was not kept.
pub(crate) fn keep_without_gaps(
    ops: &[NameOp],
    mut wanted: impl FnMut(&NameOp) -> bool,
) -> Vec<&NameOp> {
    let mut lost: Vec<&NameOp> = Vec::new();
    let mut kept = Vec::new();
    for op in ops {
        if wanted(op) && !lost.iter().any(|lost| lost.what.shares_a_name(&op.what)) {
            kept.push(op);
        } else {
            lost.push(op);
        }
    }
    kept
}

/// The part of a path before the last `/`; the store's own directory is `""`.
pub(crate) fn directory_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}
