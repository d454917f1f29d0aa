//! Small chains on real files, and the guard over them.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![expect(clippy::disallowed_methods, reason = "the test's own files")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use chain_guard::{Book, Depth, Error, LinkReport, SealLevel, SealOptions, Sealed, Survey, View};
use image_files::{OpenDisk, Watch};
use images::{
    Format, Identity,
    layout::{Held, ParentPlan, Plan},
    qcow2::write::{Qcow2Options, layout},
};

/// Bytes of the disks.
pub const SIZE: u64 = 1 << 20;

/// Bytes of a cluster of children: less than a node of the digests.
pub const CLUSTER: u64 = 4096;

/// A folder with images and a book of seals.
pub struct Place(pub tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).expect("written");
    }

    pub fn get(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).expect("read")
    }

    /// A raw disk with bytes that differ from place to place.
    pub fn base(&self, name: &str) {
        self.put(name, &pattern(SIZE, 7));
    }

    /// A qcow2 image over another, which holds these clusters.
    pub fn child(&self, name: &str, parent: (&str, Format), held: &[u64]) {
        self.child_of_size(name, parent, SIZE, held);
    }

    pub fn child_of_size(&self, name: &str, parent: (&str, Format), size: u64, held: &[u64]) {
        let held = held.iter().map(|cluster| cluster * CLUSTER);
        let plan = Plan {
            virtual_size: size,
            held: held.map(|start| Held { start, len: CLUSTER, zero: false }).collect(),
            parent: Some(ParentPlan {
                name: parent.0.to_owned(),
                format: parent.1,
                identity: Identity::None,
                virtual_size: SIZE,
            }),
            seed: [1; 32],
            made_s: 1,
        };
        let options = Qcow2Options { cluster_bits: 12, ..Qcow2Options::default() };
        let files = layout(&plan, &options).expect("writable");
        let guest = pattern(size, 99);
        self.put(name, &images::testing::render(&*files[0].layout, &guest, u64::MAX));
    }

    /// Changes a byte of a file.
    pub fn change(&self, name: &str, at: u64) {
        let mut bytes = self.get(name);
        bytes[usize::try_from(at).expect("small")] ^= 0x55;
        self.put(name, &bytes);
    }

    pub fn book(&self) -> Book {
        Book::open_for_writing(&self.path("book")).expect("a book")
    }

    pub fn guard(&self, name: &str) -> Result<Vec<Sealed>, Error> {
        self.guard_as(name, SealLevel::All, None)
    }

    pub fn guard_as(
        &self,
        name: &str,
        level: SealLevel,
        accept: Option<&str>,
    ) -> Result<Vec<Sealed>, Error> {
        let mut book = self.book();
        let mut survey = self.survey(name, Some(&book), Depth::AsNeeded)?;
        let options =
            SealOptions { level, accept: accept.map(ToOwned::to_owned), now_ns: 1_000_000_007 };
        watched(|watch| {
            let reports = survey.finish(Some(&book), watch)?;
            survey.seal(&reports, &options, &mut book, watch)
        })
    }

    pub fn survey(&self, name: &str, book: Option<&Book>, depth: Depth) -> Result<Survey, Error> {
        let view = View::open(&self.path(name), &OpenDisk::default())?;
        Survey::begin(view, book, depth)
    }

    pub fn check(&self, name: &str) -> Vec<LinkReport> {
        self.check_to(name, Depth::AsNeeded)
    }

    pub fn check_to(&self, name: &str, depth: Depth) -> Vec<LinkReport> {
        let book = Book::open(&self.path("book")).expect("opens");
        let mut survey = self.survey(name, book.as_ref(), depth).expect("opens");
        watched(|watch| survey.finish(book.as_ref(), watch)).expect("compared")
    }

    /// Checks, and renews what was proven; says how many records were renewed.
    pub fn renew(&self, name: &str) -> usize {
        let mut book = self.book();
        let mut survey = self.survey(name, Some(&book), Depth::AsNeeded).expect("opens");
        let reports = watched(|watch| survey.finish(Some(&book), watch)).expect("compared");
        survey.renew(&reports, &mut book, 2_000_000_000).expect("renewed")
    }

    /// Bytes that a check goes through.
    pub fn work(&self, name: &str) -> u64 {
        let book = Book::open(&self.path("book")).expect("opens");
        self.survey(name, book.as_ref(), Depth::AsNeeded).expect("opens").total_bytes()
    }
}

pub fn watched<T>(work: impl FnOnce(&mut Watch<'_>) -> T) -> T {
    let mut silent = |_| ();
    work(&mut Watch { progress: &mut silent, stopped: &|| false })
}

pub fn pattern(size: u64, salt: u64) -> Vec<u8> {
    (0..size).map(|at| (at / 509 + at * salt + 1).to_le_bytes()[0] | 1).collect()
}

/// Gives a file other times than it has, as a restored backup does.
pub fn copy(from: &Path, to: &Path) {
    fs::copy(from, to).expect("copied");
}
