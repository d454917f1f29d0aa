//! Images on real files: where parents are looked for, and that every way to the bytes agrees.

#![expect(clippy::disallowed_methods, reason = "the test's own files")]

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    thread,
};

use image_files::{Algorithm, Disk, Error, OpenDisk, SharedDisk, Target, Watch};
use images::{
    Class, Form, Format, Identity,
    layout::{Held, ParentPlan, Plan},
    qcow2::write::{Qcow2Options, layout},
};
use proptest::prelude::*;

const SIZE: u64 = 1 << 20;

/// A qcow2 image over `base.raw` that holds its first 64 KiB, all of it `fill`.
fn child(path: &Path, fill: u8) {
    let parent = ParentPlan {
        name: "base.raw".to_owned(),
        format: Format::Raw,
        identity: Identity::None,
        virtual_size: SIZE,
    };
    let held = vec![Held { start: 0, len: 65_536, zero: false }];
    let plan = Plan { virtual_size: SIZE, held, parent: Some(parent), seed: [1; 32], made_s: 1 };
    let files = layout(&plan, &Qcow2Options::default()).expect("writable");
    let guest = vec![fill; 65_536];
    let bytes = images::testing::render(&*files[0].layout, &guest, u64::MAX);
    fs::write(path, bytes).expect("written");
}

fn base(path: &Path, fill: u8) {
    fs::write(path, vec![fill; 1 << 20]).expect("written");
}

fn first_and_last(disk: &mut Disk) -> (u8, u8) {
    let (mut first, mut last) = ([0], [0]);
    disk.read(0, &mut first).expect("read");
    disk.read(SIZE - 1, &mut last).expect("read");
    (first[0], last[0])
}

fn class(opened: Result<Disk, Error>) -> Class {
    match opened.err() {
        Some(Error::Fault { fault, .. }) => fault.class,
        other => panic!("no fault: {other:?}"),
    }
}

#[test]
fn parents_are_found_beside_the_image_or_where_the_user_says() {
    let dir = tempfile::tempdir().expect("a directory");
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    fs::create_dir(&here).expect("made");
    fs::create_dir(&there).expect("made");
    let image = here.join("child.qcow2");
    child(&image, 7);
    assert_eq!(class(Disk::open(&image, &OpenDisk::default())), Class::ParentMissing);
    base(&there.join("base.raw"), 9);
    let search = OpenDisk { search: vec![there], ..OpenDisk::default() };
    let mut disk = Disk::open(&image, &search).expect("opens");
    assert_eq!(first_and_last(&mut disk), (7, 9));
    base(&here.join("base.raw"), 8);
    let mut disk = Disk::open(&image, &search).expect("opens");
    assert_eq!(first_and_last(&mut disk), (7, 8));
}

#[test]
fn a_link_that_leads_out_of_the_folder_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let here = dir.path().join("here");
    fs::create_dir(&here).expect("made");
    let image = here.join("child.qcow2");
    child(&image, 7);
    base(&dir.path().join("secret.raw"), 9);
    symlink("../secret.raw", here.join("base.raw")).expect("a link");
    assert_eq!(class(Disk::open(&image, &OpenDisk::default())), Class::ParentNameForbidden);
    fs::remove_file(here.join("base.raw")).expect("removed");
    base(&here.join("real.raw"), 9);
    symlink("real.raw", here.join("base.raw")).expect("a link");
    let mut disk = Disk::open(&image, &OpenDisk::default()).expect("opens");
    assert_eq!(first_and_last(&mut disk), (7, 9));
}

#[test]
fn an_image_that_is_its_own_parent_by_a_link_is_found_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let image = dir.path().join("child.qcow2");
    child(&image, 7);
    fs::hard_link(&image, dir.path().join("base.raw")).expect("a link");
    assert_eq!(class(Disk::open(&image, &OpenDisk::default())), Class::ChainLoop);
}

#[test]
fn an_interrupted_conversion_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    base(&dir.path().join("base.raw"), 9);
    let mut disk = Disk::open(&dir.path().join("base.raw"), &OpenDisk::default()).expect("opens");
    let out = dir.path().join("out.raw");
    let raw = Form::new(Format::Raw, None).expect("known");
    let mut watch = Watch { progress: &mut |_| (), stopped: &|| true };
    let prepared = disk.prepare(raw, "out.raw", &mut watch).expect("a layout");
    let target = Target::Path { path: &out, force: false };
    let ended = disk.write(prepared, target, &mut watch);
    assert!(matches!(ended, Err(Error::Interrupted)), "{ended:?}");
    assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
}

/// A disk of blocks: what each holds, or nothing.
fn written(blocks: &[Option<u8>]) -> Vec<u8> {
    blocks
        .iter()
        .flat_map(|block| {
            let mut bytes = vec![block.unwrap_or(0); 8192];
            if let Some(fill) = block {
                bytes[usize::from(*fill) * 31] ^= 0x55;
            }
            bytes
        })
        .collect()
}

fn convert(from: &Path, to: &Path, format: Format, kind: &str) {
    let mut disk = Disk::open(from, &OpenDisk::default()).expect("opens");
    let mut watch = Watch { progress: &mut |_| (), stopped: &|| false };
    let form = Form::new(format, Some(kind)).expect("known");
    let name = to.file_name().expect("a name").to_string_lossy();
    let prepared = disk.prepare(form, &name, &mut watch).expect("writable");
    let target = Target::Path { path: to, force: true };
    disk.write(prepared, target, &mut watch).expect("written");
}

fn digests(path: &Path) -> Vec<String> {
    let mut disk = Disk::open(path, &OpenDisk::default()).expect("opens");
    let mut watch = Watch { progress: &mut |_| (), stopped: &|| false };
    let digests = disk.digest(&Algorithm::ALL, &mut watch).expect("readable");
    digests.into_iter().map(|digest| digest.hex).collect()
}

/// Threads that read at once get what one alone gets; what the map says is zero is, and the pieces cover
/// what was asked.
fn shared_by_threads(disk: &SharedDisk, bytes: &[u8], windows: &[(u32, usize)]) {
    thread::scope(|scope| {
        for (start, len) in windows {
            scope.spawn(move || {
                let start = usize::try_from(*start).expect("32 bits") % bytes.len();
                let mut read = vec![1; *len];
                disk.read(start as u64, &mut read).expect("readable");
                let end = (start + len).min(bytes.len());
                assert!(read[..end - start] == bytes[start..end], "{start}..{end}");
                assert!(read[end - start..].iter().all(|byte| *byte == 0), "past the end");
            });
        }
    });
    let (mut place, size) = (0, bytes.len() as u64);
    while place < size {
        let pieces = disk.pieces(place..size, 3).expect("mapped");
        assert!((1..=3).contains(&pieces.len()));
        for piece in pieces {
            assert_eq!(piece.range.start, place);
            place = piece.range.end;
            let range = usize::try_from(piece.range.start).expect("small")
                ..usize::try_from(piece.range.end).expect("small");
            assert!(!piece.is_zero || bytes[range].iter().all(|byte| *byte == 0));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn every_kind_of_image_holds_the_same_disk(
        blocks in prop::collection::vec(prop::option::of(any::<u8>()), 1..60),
        windows in prop::collection::vec((any::<u32>(), 1..40_000_usize), 4),
    ) {
        let dir = tempfile::tempdir().expect("a directory");
        let (raw, bytes) = (dir.path().join("disk.raw"), written(&blocks));
        fs::write(&raw, &bytes).expect("written");
        let wanted = digests(&raw);
        for (name, format, kind) in [
            ("a.qcow2", Format::Qcow2, "plain"),
            ("b.qcow2", Format::Qcow2, "zlib"),
            ("c.qcow2", Format::Qcow2, "zstd"),
            ("a.vhdx", Format::Vhdx, "dynamic"),
            ("a.vdi", Format::Vdi, "dynamic"),
            ("a.vmdk", Format::Vmdk, "sparse"),
            ("b.vmdk", Format::Vmdk, "flat"),
            ("c.vmdk", Format::Vmdk, "streamOptimized"),
        ] {
            let path: PathBuf = dir.path().join(name);
            convert(&raw, &path, format, kind);
            prop_assert_eq!(&digests(&path), &wanted, "{} {}", format, kind);
            let mut disk = Disk::open(&path, &OpenDisk::default()).expect("opens");
            for (start, len) in &windows {
                let start = usize::try_from(*start).expect("32 bits") % bytes.len();
                let end = (start + len).min(bytes.len());
                let mut read = vec![0; end - start];
                disk.read(start as u64, &mut read).expect("readable");
                prop_assert!(read == bytes[start..end], "{} {}: {}..{}", format, kind, start, end);
            }
            shared_by_threads(&SharedDisk::from(disk), &bytes, &windows);
        }
    }
}
