//! The book under power cuts and kills at every step: never half a record, never an older one than
//! was promised, never a record whose tree is missing.

use std::sync::Arc;

use chain_guard::{Book, BookError};
use images::Format;
use lineage::{
    ChildMark, Digest, FileMark, Id, Link, Print, Ranges, Tree, Witness, digest::NODE_BYTES,
};
use sim_world::{Seed, SimDisk, every_crash, every_kill};

const SIZE: u64 = 4 * NODE_BYTES;

fn tree(fill: u8) -> Tree {
    let mut tree = Tree::new(SIZE);
    let bytes = vec![fill; usize::try_from(NODE_BYTES).expect("small")];
    for node in 0..tree.nodes() {
        tree.put(node, &bytes);
    }
    tree
}

fn mark(inode: u64) -> FileMark {
    FileMark { device: 1, inode, born_ns: Some(77) }
}

/// A record of a child; `version` tells it from the others of the same child.
fn link(inode: u64, version: u8, tree: &Tree, hash: Digest) -> Link {
    let held: Ranges = std::iter::once(0..u64::from(version) * 512).collect();
    let witness =
        Witness { format: Format::Raw, virtual_size: SIZE, id: Id::None, files: Vec::new() };
    let seals = Link::seals(i64::from(version), [witness], Some(tree.summary()));
    Link {
        sequence: 0,
        child: ChildMark {
            path: "top.qcow2".to_owned(),
            format: Format::Qcow2,
            size: SIZE,
            file: mark(inode),
            // Each version of the child holds other bytes: its records have other names.
            print: Print::new(Format::Qcow2, SIZE, &held, &inode.to_le_bytes()),
        },
        parent_path: "base.raw".to_owned(),
        seals: seals.expect("nobody writes it"),
        tree: Some(hash),
        edges: None,
        reason: String::new(),
    }
}

/// What was begun and what was promised of each child, by version; 0 is none.
#[derive(Clone, Copy, Debug, Default)]
struct Promised {
    begun: [u8; 2],
    done: [u8; 2],
}

/// Seals two children a few times over; the trees are shared by some. Ends at the crash.
fn seal(disk: &SimDisk) -> Promised {
    let mut promised = Promised::default();
    let mut book = Book::over(Arc::new(disk.clone()));
    let mut step = |child: usize, version: u8, fill: u8| -> Result<(), BookError> {
        promised.begun[child] = version;
        let tree = tree(fill);
        let hash = book.put_tree(&tree)?;
        book.put_link(&mut link(child as u64 + 10, version, &tree, hash))?;
        promised.done[child] = version;
        book.sweep()
    };
    let _ = step(0, 1, 1)
        .and_then(|()| step(1, 1, 1))
        .and_then(|()| step(0, 2, 2))
        .and_then(|()| step(1, 2, 3))
        .and_then(|()| step(0, 3, 2));
    promised
}

/// What a reader finds of each child: a version, with the tree that belongs to it.
fn found(disk: &SimDisk, words: &str) -> [u8; 2] {
    let book = Book::over(Arc::new(disk.clone()));
    [10, 11].map(|inode| {
        let link = book.by_file(&mark(inode)).unwrap_or_else(|error| panic!("{words}: {error}"));
        let Some(link) = link else { return 0 };
        let tree = book.tree_of(&link).unwrap_or_else(|error| panic!("{words}: {error}"));
        assert!(tree.is_some(), "{words}");
        let print = book.by_print(&link.child.print).expect("read").len();
        assert_eq!(print, 1, "{words}: one record of these bytes");
        u8::try_from(link.seal().made_ns).expect("a version")
    })
}

fn judge(image: &SimDisk, promised: Promised, words: &str) {
    let found = found(image, words);
    for (child, version) in found.into_iter().enumerate() {
        let (done, begun) = (promised.done[child], promised.begun[child]);
        assert!(
            (done..=begun).contains(&version),
            "{words}: child {child} has version {version}, promised {promised:?}"
        );
    }
    // Who goes on after the crash ends with the same book as if nothing had been.
    let mut book = Book::over(Arc::new(image.clone()));
    for (inode, version, fill) in [(10, 9, 9), (11, 9, 9)] {
        let tree = tree(fill);
        let hash = book.put_tree(&tree).expect("kept");
        book.put_link(&mut link(inode, version, &tree, hash)).expect("kept");
    }
    book.sweep().expect("swept");
    let files = image.files();
    assert_eq!(files.len(), 3, "{words}: two records and their tree, and not {files:?}");
    assert_eq!(self::found(image, words), [9, 9]);
}

#[test]
fn a_power_cut_anywhere_leaves_whole_records() {
    let seed = Seed(20_261_122);
    let images = every_crash(seed, &SimDisk::new(seed), seal, |image, promised, words| {
        judge(image, *promised, words);
    });
    assert!(images > 500, "{images} images");
}

#[test]
fn a_kill_anywhere_leaves_whole_records() {
    let seed = Seed(20_261_123);
    let images = every_kill(seed, &SimDisk::new(seed), seal, |image, promised, words| {
        judge(image, *promised, words);
    });
    assert!(images > 100, "{images} images");
}

/// The same look finds the fault of a book that names a tree before it is durable.
#[test]
fn a_record_before_its_tree_would_be_found_out() {
    let seed = Seed(3);
    let wrong = |disk: &SimDisk| {
        let mut book = Book::over(Arc::new(disk.clone()));
        let tree = tree(1);
        let hash = Digest(*blake3::hash(&tree.encode()).as_bytes());
        let _ = book
            .put_link(&mut link(10, 1, &tree, hash))
            .and_then(|()| book.put_tree(&tree).map(drop));
    };
    let mut misses = 0;
    every_crash(seed, &SimDisk::new(seed), wrong, |image, (), _| {
        let book = Book::over(Arc::new(image.clone()));
        let link = book.by_file(&mark(10)).expect("whole");
        misses += u32::from(link.is_some_and(|link| book.tree_of(&link).is_err()));
    });
    assert!(misses > 0);
}
