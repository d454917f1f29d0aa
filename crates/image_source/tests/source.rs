//! A source gives bytes while its files are as they were sealed, and is found again only then.

#![expect(clippy::disallowed_methods, reason = "the test's own files")]

use image_source::{Origin, Source, SourceFault};
use std::{fs, os::unix::fs::FileExt as _, path::Path};
use tempfile::TempDir;

fn origin(path: &Path) -> Origin {
    Origin {
        path: path.to_str().expect("utf-8").to_owned(),
        format: Some("raw".to_owned()),
        parent_format: None,
        snapshot: None,
        search: Vec::new(),
        devices: false,
    }
}

/// A folder with an image of 3 MiB and a part: data, a hole in the middle.
fn folder() -> (TempDir, std::path::PathBuf, Vec<u8>) {
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir(dir.path().join("images")).expect("made");
    let path = dir.path().join("images/disk.raw");
    let file = fs::File::create(&path).expect("made");
    file.set_len((3 << 20) + 700).expect("sized");
    drop(file);
    let mut bytes = vec![0; (3 << 20) + 700];
    bytes[..4096].fill(7);
    bytes[3 << 20..].fill(9);
    let file = fs::File::options().write(true).open(&path).expect("opens");
    file.write_all_at(&[7; 4096], 0).expect("written");
    file.write_all_at(&[9; 700], 3 << 20).expect("written");
    file.sync_all().expect("synced");
    (dir, path, bytes)
}

#[test]
fn bytes_and_holes_are_those_of_the_image() {
    let (_dir, path, bytes) = folder();
    let source = Source::adopt(origin(&path), 1).expect("an image");
    assert_eq!(source.virtual_size(), bytes.len() as u64);
    let mut read = vec![1; 8192];
    source.read((3 << 20) - 4096, &mut read).expect("readable");
    assert!(read[..4096].iter().all(|byte| *byte == 0));
    assert!(read[4096..4796].iter().all(|byte| *byte == 9));
    assert!(read[4796..].iter().all(|byte| *byte == 0), "past the end");
    for zero in source.zeros(0..8 << 20).expect("mapped") {
        let range =
            usize::try_from(zero.start).expect("small")..usize::try_from(zero.end).expect("small");
        assert!(bytes[range].iter().all(|byte| *byte == 0), "{zero:?}");
    }
    let again = Source::find(source.origin().clone(), &source.seal()).expect("unchanged");
    assert_eq!(again.seal(), source.seal());
    let kept = Origin::decode(&source.origin().encode());
    assert_eq!(kept.as_ref(), Some(source.origin()));
}

#[test]
fn a_changed_file_gives_nothing_any_more() {
    let (_dir, path, mut bytes) = folder();
    let source = Source::adopt(origin(&path), 1).expect("an image");
    bytes[5] = 8;
    fs::write(&path, &bytes).expect("written");
    let mut read = [0; 512];
    let fault = source.read(0, &mut read).expect_err("changed");
    assert!(matches!(&fault, SourceFault::Changed { .. }), "{fault}");
    assert!(matches!(source.zeros(0..4096), Err(SourceFault::Changed { .. })));
    let seal = source.seal();
    let found = Source::find(origin(&path), &seal);
    assert!(matches!(found, Err(SourceFault::Changed { .. })), "{found:?}");
    // Adopted anew it is another one.
    let source = Source::adopt(origin(&path), 2).expect("an image");
    source.read(0, &mut read).expect("readable");
    assert_eq!(read[5], 8);
}

#[test]
fn a_missing_file_comes_back_with_its_folder() {
    let (dir, path, _) = folder();
    let source = Source::adopt(origin(&path), 1).expect("an image");
    let away = dir.path().join("away");
    fs::rename(path.parent().expect("a folder"), &away).expect("moved");
    assert!(matches!(source.look(), Err(SourceFault::Gone(_))));
    assert!(matches!(Source::find(origin(&path), &source.seal()), Err(SourceFault::Gone(_))));
    fs::rename(&away, path.parent().expect("a folder")).expect("moved back");
    source.look().expect("as it was");
    Source::find(origin(&path), &source.seal()).expect("as it was");
    // Another file of the same bytes is not the one that was sealed.
    let bytes = fs::read(&path).expect("read");
    fs::remove_file(&path).expect("removed");
    fs::write(&path, bytes).expect("written");
    assert!(matches!(source.look(), Err(SourceFault::Changed { .. })));
}

#[test]
fn what_was_kept_is_not_trusted() {
    let (_dir, path, _) = folder();
    let source = Source::adopt(origin(&path), 1).expect("an image");
    let mut seal = source.seal();
    seal[20] ^= 1;
    assert!(matches!(Source::find(origin(&path), &seal), Err(SourceFault::Malformed(_))));
    assert_eq!(Origin::decode(b"{\"path\":1}"), None);
    assert_eq!(Origin::decode(b"{\"path\":\"/x\",\"colour\":1}"), None);
    let odd = Origin { format: Some("tape".to_owned()), ..origin(&path) };
    assert!(matches!(Source::adopt(odd, 1), Err(SourceFault::Malformed(_))));
}
