//! Children of every format, on real files: led to a parent that was renamed, told to take one whose
//! identifiers moved, made independent.

#![expect(clippy::disallowed_methods, reason = "the test's own files")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use chain_fix::{Case, Error, Proof, Trouble};
use chain_guard::{Book, Depth, SealLevel, SealOptions, Survey, View};
use image_files::{Algorithm, Disk, OpenDisk, Watch};
use images::{
    Format, Identity, Purpose,
    layout::{Held, ParentPlan, Plan},
    qcow2::write::Qcow2Options,
    vdi::write::{VdiKind, VdiOptions},
    vhd::write::VhdOptions,
    vhdx::write::VhdxOptions,
    vmdk::write::{VmdkKind, VmdkOptions},
};

const SIZE: u64 = 2 << 20;

const FORMATS: [Format; 5] = [Format::Qcow2, Format::Vhd, Format::Vhdx, Format::Vmdk, Format::Vdi];

/// The bytes and identity of an image whose guest sees `guest` where it holds something.
fn image(
    (format, name, seed): (Format, &str, u8),
    parent: Option<ParentPlan>,
    guest: &[u8],
) -> (Vec<u8>, Identity) {
    let held = if parent.is_some() { 64 << 10..128 << 10 } else { 0..SIZE };
    let plan = Plan {
        virtual_size: SIZE,
        held: vec![Held { start: held.start, len: held.end - held.start, zero: false }],
        parent,
        seed: [seed; 32],
        made_s: 1_700_000_000 + u64::from(seed),
    };
    let (files, identity) = match format {
        Format::Qcow2 => {
            (images::qcow2::write::layout(&plan, &Qcow2Options::default()), Identity::None)
        }
        Format::Vhd => (
            images::vhd::write::layout(&plan, &VhdOptions::default()),
            images::vhd::write::identity(&plan),
        ),
        Format::Vhdx => (
            images::vhdx::write::layout(&plan, &VhdxOptions::default()),
            images::vhdx::write::identity(&plan.seed),
        ),
        Format::Vmdk => {
            let (kind, adapter) = (VmdkKind::Sparse, images::vmdk::write::Adapter::default());
            let content = images::vmdk::write::content_id(&plan);
            let options = VmdkOptions { kind, name: name.to_owned(), adapter };
            (images::vmdk::write::layout(&plan, &options), Identity::Vmdk { content })
        }
        Format::Vdi => (
            images::vdi::write::layout(&plan, &VdiOptions { kind: VdiKind::Dynamic }),
            images::vdi::write::identity(&plan),
        ),
        Format::Raw => panic!("no child is raw"),
    };
    let files = files.expect("can be written");
    (images::testing::render(&*files[0].layout, guest, 1 << 20), identity)
}

/// A folder with a parent, its child, and a book of seals.
struct Place {
    folder: tempfile::TempDir,
    format: Format,
    /// What the child's guest sees.
    guest: Vec<u8>,
    base: Vec<u8>,
}

impl Place {
    fn new(format: Format) -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let base: Vec<u8> = (0..SIZE).map(|at| (at / 4096).to_le_bytes()[0] | 1).collect();
        let mut guest = base.clone();
        guest[64 << 10..128 << 10].fill(0xcc);
        let place = Self { folder, format, guest, base };
        let name = place.name("base");
        let (bytes, identity) = image((format, &name, 1), None, &place.base);
        fs::write(place.path("base"), bytes).expect("written");
        let parent = ParentPlan { name, format, identity, virtual_size: SIZE };
        let child = image((format, &place.name("child"), 9), Some(parent), &place.guest);
        fs::write(place.path("child"), child.0).expect("written");
        place
    }

    fn name(&self, stem: &str) -> String {
        format!("{stem}.{}", self.format)
    }

    fn path(&self, stem: &str) -> PathBuf {
        self.folder.path().join(self.name(stem))
    }

    fn book(&self) -> Book {
        Book::open_for_writing(&self.folder.path().join("book")).expect("a book")
    }

    fn seal(&self) {
        let how = OpenDisk { purpose: Purpose::Examine, ..OpenDisk::default() };
        let view = View::open(&self.path("child"), &how).expect("opens");
        let mut book = self.book();
        let mut survey = Survey::begin(view, Some(&book), Depth::AsNeeded).expect("begun");
        let options = SealOptions { level: SealLevel::All, accept: None, now_ns: 1 };
        watched(|watch| {
            let reports = survey.finish(Some(&book), watch).expect("compared");
            survey.seal(&reports, &options, &mut book, watch).expect("sealed");
        });
    }

    fn case(&self, book: Option<&Book>) -> Case {
        Case::open(&self.path("child"), &OpenDisk::default(), book).expect("opens")
    }

    /// What anybody reads through the child who opens it with all checks.
    fn reads_as_before(&self) {
        let mut disk = Disk::open(&self.path("child"), &OpenDisk::default()).expect("opens");
        let mut bytes = vec![0; self.guest.len()];
        disk.read(0, &mut bytes).expect("read");
        assert!(bytes == self.guest, "{}: other bytes", self.format);
    }
}

fn watched<T>(work: impl FnOnce(&mut Watch<'_>) -> T) -> T {
    work(&mut Watch { progress: &mut |_| (), stopped: &|| false })
}

#[test]
fn a_renamed_parent_is_found_and_named() {
    for format in FORMATS {
        for sealed in [false, true] {
            let place = Place::new(format);
            if sealed {
                place.seal();
            }
            fs::rename(place.path("base"), place.path("a base of another name")).expect("moved");
            let mut book = sealed.then(|| place.book());
            let case = place.case(book.as_ref());
            let trouble = watched(|watch| case.look(book.as_ref(), watch)).expect("looked at");
            if format == Format::Vdi {
                assert!(matches!(trouble, Trouble::Nothing(_)), "it has no name: {trouble:?}");
                continue;
            }
            assert!(matches!(trouble, Trouble::Lost { .. }), "{format}: {trouble:?}");
            let found = watched(|watch| case.candidates(&[], book.as_ref(), watch)).expect("found");
            let wanted = match (sealed, format) {
                (true, _) => Some(Proof::Bytes),
                (false, Format::Qcow2) => None, // it says nothing of its parent, and the name is gone
                (false, _) => Some(Proof::Identity),
            };
            assert_eq!(found.first().map(|found| found.proof), wanted, "{format}");
            let Some(best) = found.first() else { continue };
            let mended = watched(|watch| case.relink(best, None, false, book.as_mut(), watch));
            assert_eq!(mended.expect("mended").sealed, sealed, "{format}");
            place.reads_as_before();
            let case = place.case(book.as_ref());
            let trouble = watched(|watch| case.look(book.as_ref(), watch)).expect("looked at");
            let is_known = sealed || format != Format::Qcow2;
            assert_eq!(matches!(trouble, Trouble::Nothing(_)), is_known, "{format}: {trouble:?}");
        }
    }
}

#[test]
fn other_bytes_under_the_same_identifiers_are_no_parent() {
    for format in FORMATS {
        let place = Place::new(format);
        place.seal();
        fs::remove_file(place.path("base")).expect("removed");
        let mut other = place.base.clone();
        other[1 << 20] ^= 0xff;
        let (bytes, _) = image((format, &place.name("base"), 1), None, &other);
        fs::write(place.path("twin"), bytes).expect("written");
        let book = place.book();
        let case = place.case(Some(&book));
        let found = watched(|watch| case.candidates(&[], Some(&book), watch)).expect("looked for");
        assert!(found.is_empty(), "{format}: {found:?}");
    }
}

/// The same bytes with other identifiers, as after a write that changed nothing, or a conversion.
#[test]
fn a_parent_of_the_same_bytes_is_accepted() {
    for format in FORMATS {
        let place = Place::new(format);
        place.seal();
        let (bytes, _) = image((format, &place.name("base"), 2), None, &place.base);
        fs::write(place.path("base"), bytes).expect("written");
        let mut book = place.book();
        let case = place.case(Some(&book));
        let trouble = match watched(|watch| case.look(Some(&book), watch)) {
            Ok(trouble) => trouble,
            Err(error) => panic!("{format}: {error}"),
        };
        let report = match trouble {
            Trouble::Marked(report) => report,
            Trouble::Nothing(_) if format == Format::Qcow2 => continue,
            // Of a VDI the UUID is the only way to its parent.
            Trouble::Lost { .. } if format == Format::Vdi => continue,
            other => panic!("{format}: {other:?}"),
        };
        watched(|watch| case.accept(&report, None, &mut book, watch)).expect("accepted");
        place.reads_as_before();
        let case = place.case(Some(&book));
        let trouble = watched(|watch| case.look(Some(&book), watch)).expect("looked at");
        assert!(matches!(trouble, Trouble::Nothing(_)), "{format}: {trouble:?}");
    }
}

#[test]
fn changed_bytes_are_accepted_with_a_reason_only() {
    let place = Place::new(Format::Vhdx);
    place.seal();
    let mut other = place.base.clone();
    other[1 << 20] ^= 0xff;
    let (bytes, _) = image((Format::Vhdx, "", 2), None, &other);
    fs::write(place.path("base"), bytes).expect("written");
    let mut book = place.book();
    let case = place.case(Some(&book));
    let before = fs::read(place.path("child")).expect("read");
    let Trouble::Differs(report) =
        watched(|watch| case.look(Some(&book), watch)).expect("looked at")
    else {
        panic!("a change was not seen")
    };
    let refused = watched(|watch| case.accept(&report, None, &mut book, watch));
    assert!(matches!(refused, Err(Error::Unproven { .. })), "{refused:?}");
    assert!(fs::read(place.path("child")).expect("read") == before, "it was changed");
    watched(|watch| case.accept(&report, Some("meant so"), &mut book, watch)).expect("accepted");
    let case = place.case(Some(&book));
    assert_eq!(case.link.as_ref().map(|link| link.reason.as_str()), Some("meant so"));
    let trouble = watched(|watch| case.look(Some(&book), watch)).expect("looked at");
    assert!(matches!(trouble, Trouble::Nothing(_)), "{trouble:?}");
}

#[test]
fn a_child_of_each_format_stands_alone_after_all_is_taken_in() {
    for format in FORMATS {
        let place = Place::new(format);
        let digest = |path: &Path| {
            let mut disk = Disk::open(path, &OpenDisk::default()).expect("opens");
            watched(|watch| disk.digest(&[Algorithm::Blake3], watch)).expect("read")
        };
        let before = digest(&place.path("child"));
        let done = watched(|watch| place.case(None).absorb(watch)).expect("taken in");
        fs::remove_file(place.path("base")).expect("removed");
        assert_eq!(digest(&place.path("child")), before, "{format}");
        assert_eq!(before[0].hex, done.digest);
        place.reads_as_before();
        assert_eq!(fs::read_dir(place.folder.path()).expect("listed").count(), 1, "{format}");
        let again = Case::open(&place.path("child"), &OpenDisk::default(), None).err();
        assert!(matches!(again, Some(Error::Alone(_))), "{format}");
    }
}

#[test]
fn a_parent_outside_the_folder_is_named_only_if_allowed() {
    let place = Place::new(Format::Qcow2);
    place.seal();
    let other = tempfile::tempdir().expect("a directory");
    let moved = other.path().join("base.qcow2");
    fs::rename(place.path("base"), &moved).expect("moved");
    let mut book = place.book();
    let case = place.case(Some(&book));
    let folders = [other.path().to_owned()];
    let found = watched(|watch| case.candidates(&folders, Some(&book), watch)).expect("found");
    let best = found.first().expect("found");
    let refused = watched(|watch| case.relink(best, None, false, Some(&mut book), watch));
    assert!(matches!(refused, Err(Error::Unsuitable { .. })), "{refused:?}");
    watched(|watch| case.relink(best, None, true, Some(&mut book), watch)).expect("mended");
    assert!(Disk::open(&place.path("child"), &OpenDisk::default()).is_err(), "strangers' names");
    let how = OpenDisk { outside: true, ..OpenDisk::default() };
    let disk = Disk::open(&place.path("child"), &how).expect("opens");
    let parent = disk.chain().layers()[1].file();
    assert_eq!(disk.files().path(parent), moved.canonicalize().expect("there"));
    let how = OpenDisk { search: folders.to_vec(), ..OpenDisk::default() };
    Disk::open(&place.path("child"), &how).expect("found by the last step of its name");
}
