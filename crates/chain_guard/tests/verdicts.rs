//! What is said of a child after something happened to what it stands on.

#![expect(clippy::disallowed_methods, reason = "the test's own files")]

mod common;

use std::fs;

use chain_guard::{Depth, Error, LinkReport, SealFacts, SealLevel, Status};
use common::{CLUSTER, Place, SIZE, copy};
use images::Format;

const RAW: (&str, Format) = ("base.raw", Format::Raw);

/// A raw base and a child that holds three of its clusters.
fn place() -> Place {
    let place = Place::new();
    place.base("base.raw");
    place.child("top.qcow2", RAW, &[0, 1, 40]);
    place
}

fn sealed() -> Place {
    let place = place();
    let sealed = place.guard("top.qcow2").expect("sealed");
    assert_eq!(sealed.len(), 1);
    assert!(sealed[0].share.is_some_and(|share| share.percent() == 100));
    place
}

fn only(mut links: Vec<LinkReport>) -> LinkReport {
    assert_eq!(links.len(), 1);
    links.remove(0)
}

fn says(place: &Place, name: &str) -> (Status, &'static str) {
    let link = only(place.check(name));
    (link.status, link.verdict())
}

#[test]
fn nothing_happened() {
    let place = sealed();
    assert_eq!(says(&place, "top.qcow2"), (Status::Ok, "quiet"));
    assert_eq!(place.work("top.qcow2"), 0, "nothing need be read");
    let link = only(place.check_to("top.qcow2", Depth::Always));
    assert_eq!((link.status, link.verdict(), link.text()), (Status::Ok, "same", String::new()));
}

#[test]
fn what_nobody_sealed_is_unknown() {
    let place = place();
    let link = only(place.check("top.qcow2"));
    assert_eq!((link.status, link.verdict()), (Status::Unknown, "unknown"));
    assert!(matches!(link.seal, SealFacts::None));
    assert!(link.advice().contains("guard"), "{}", link.advice());
}

#[test]
fn a_byte_that_the_child_reads() {
    let place = sealed();
    place.change("base.raw", 5 * CLUSTER + 17);
    assert_eq!(says(&place, "top.qcow2"), (Status::Fault, "visible"));
    // Put back, it is proven the same, and the record is renewed.
    place.change("base.raw", 5 * CLUSTER + 17);
    assert_eq!(says(&place, "top.qcow2"), (Status::Ok, "same"));
    assert_eq!(place.renew("top.qcow2"), 1);
    assert_eq!(says(&place, "top.qcow2"), (Status::Ok, "quiet"));
}

#[test]
fn a_byte_that_the_child_hides_within_a_node_that_it_holds_in_part() {
    let place = sealed();
    place.change("base.raw", 40 * CLUSTER + 17);
    let link = only(place.check("top.qcow2"));
    assert_eq!((link.status, link.verdict()), (Status::Ok, "shadowed"));
    assert_eq!(link.ranges().len(), 1);
    assert_eq!(link.ranges()[0].0, 40 * CLUSTER..41 * CLUSTER);
    // The next sector is seen.
    place.change("base.raw", 41 * CLUSTER);
    assert_eq!(says(&place, "top.qcow2"), (Status::Fault, "visible"));
}

#[test]
fn the_parent_grew() {
    let place = sealed();
    let mut bytes = place.get("base.raw");
    bytes.resize(usize::try_from(SIZE + 65_536).expect("small"), 0);
    place.put("base.raw", &bytes);
    assert_eq!(says(&place, "top.qcow2"), (Status::Ok, "same"));
    *bytes.last_mut().expect("not empty") = 1;
    place.put("base.raw", &bytes);
    assert_eq!(says(&place, "top.qcow2"), (Status::Ok, "beyond"));
}

#[test]
fn the_parent_grew_where_a_larger_child_reads_it() {
    let place = Place::new();
    place.base("base.raw");
    place.child_of_size("top.qcow2", RAW, 2 * SIZE, &[3]);
    place.guard("top.qcow2").expect("sealed");
    let mut bytes = place.get("base.raw");
    bytes.resize(usize::try_from(SIZE + 65_536).expect("small"), 0);
    place.put("base.raw", &bytes);
    assert_eq!(says(&place, "top.qcow2"), (Status::Ok, "same"));
    *bytes.last_mut().expect("not empty") = 1;
    place.put("base.raw", &bytes);
    assert_eq!(says(&place, "top.qcow2"), (Status::Fault, "visible"));
}

#[test]
fn the_parent_was_cut() {
    let place = sealed();
    let bytes = place.get("base.raw");
    place.put("base.raw", &bytes[..bytes.len() / 2]);
    assert_eq!(says(&place, "top.qcow2"), (Status::Fault, "visible"));
}

#[test]
fn the_parent_was_copied_touched_or_moved_back() {
    let place = sealed();
    copy(&place.path("base.raw"), &place.path("other"));
    fs::rename(place.path("other"), place.path("base.raw")).expect("moved");
    let link = only(place.check("top.qcow2"));
    assert_eq!((link.status, link.verdict()), (Status::Ok, "same"));
    assert!(!link.signs().is_empty(), "another inode");
}

#[test]
fn both_were_copied_to_another_folder() {
    let place = sealed();
    fs::create_dir(place.path("copy")).expect("made");
    for name in ["base.raw", "top.qcow2"] {
        copy(&place.path(name), &place.path("copy").join(name));
    }
    let link = only(place.check("copy/top.qcow2"));
    assert_eq!((link.status, link.verdict()), (Status::Ok, "same"));
    assert!(matches!(link.seal, SealFacts::Found { by_file: false, .. }));
    place.change("copy/base.raw", 9 * CLUSTER);
    assert_eq!(says(&place, "copy/top.qcow2"), (Status::Fault, "visible"));
    assert_eq!(says(&place, "top.qcow2"), (Status::Ok, "quiet"), "the first is as it was");
}

#[test]
fn a_copy_gets_a_record_of_its_own_and_may_then_be_written() {
    let place = sealed();
    copy(&place.path("top.qcow2"), &place.path("two.qcow2"));
    assert_eq!(place.renew("two.qcow2"), 1);
    // Both go on by themselves from here: what they hold is not alike any more.
    let held: Vec<u64> = [0, 1].into_iter().chain(16..32).chain([40]).collect();
    place.child("two.qcow2", RAW, &held);
    assert_eq!(says(&place, "two.qcow2").0, Status::Ok);
    assert_eq!(says(&place, "top.qcow2").0, Status::Ok);
    place.change("base.raw", 20 * CLUSTER);
    assert_eq!(says(&place, "two.qcow2"), (Status::Ok, "shadowed"), "it holds that now");
    assert_eq!(says(&place, "top.qcow2"), (Status::Fault, "visible"));
}

/// Of a node that the child came to hold in part after it was sealed, no hash tells which part changed.
#[test]
fn what_the_child_came_to_hold_in_part_is_unknown() {
    let place = sealed();
    place.child("top.qcow2", RAW, &[0, 1, 20, 40]);
    place.change("base.raw", 20 * CLUSTER);
    assert_eq!(says(&place, "top.qcow2"), (Status::Unknown, "unknown"));
    // Sealed since, it is told.
    place.change("base.raw", 20 * CLUSTER);
    place.guard("top.qcow2").expect("sealed");
    place.change("base.raw", 20 * CLUSTER);
    assert_eq!(says(&place, "top.qcow2"), (Status::Ok, "shadowed"));
}

#[test]
fn an_empty_child_that_looks_like_a_sealed_one_is_no_fault() {
    let place = Place::new();
    place.base("base.raw");
    place.child("top.qcow2", RAW, &[]);
    place.guard("top.qcow2").expect("sealed");
    fs::create_dir(place.path("other")).expect("made");
    place.put("other/base.raw", &common::pattern(SIZE, 31));
    copy(&place.path("top.qcow2"), &place.path("other/top.qcow2"));
    let link = only(place.check("other/top.qcow2"));
    assert_eq!((link.status, link.verdict()), (Status::Unknown, "unknown"));
    assert!(matches!(link.seal, SealFacts::Alike));
    let path = place.path("other/top.qcow2");
    place.guard("other/top.qcow2").expect("it can be sealed");
    assert!(path.exists());
    assert_eq!(says(&place, "other/top.qcow2").0, Status::Ok);
    assert_eq!(says(&place, "top.qcow2").0, Status::Ok);
}

#[test]
fn a_parent_replaced_by_another_disk() {
    let place = sealed();
    fs::remove_file(place.path("base.raw")).expect("removed");
    place.put("base.raw", &common::pattern(SIZE, 31));
    assert_eq!(says(&place, "top.qcow2"), (Status::Fault, "visible"));
}

#[test]
fn a_base_two_images_down_concerns_both() {
    let place = Place::new();
    place.base("base.raw");
    place.child("mid.qcow2", RAW, &[3]);
    place.child("top.qcow2", ("mid.qcow2", Format::Qcow2), &[7]);
    assert_eq!(place.guard("top.qcow2").expect("sealed").len(), 2);
    let all = |place: &Place| {
        let links = place.check("top.qcow2");
        links.iter().map(|link| (link.status, link.verdict())).collect::<Vec<_>>()
    };
    assert_eq!(all(&place), [(Status::Ok, "quiet"); 2]);
    // The middle one hides it: the top's parent shows what it showed.
    place.change("base.raw", 3 * CLUSTER);
    assert_eq!(all(&place), [(Status::Ok, "same"), (Status::Ok, "shadowed")]);
    // The top hides it, the middle one does not.
    place.change("base.raw", 7 * CLUSTER);
    assert_eq!(all(&place), [(Status::Ok, "shadowed"), (Status::Fault, "visible")]);
    place.change("base.raw", 9 * CLUSTER);
    assert_eq!(all(&place), [(Status::Fault, "visible"); 2]);
}

#[test]
fn a_digest_of_what_is_needed_decides_what_matters() {
    let place = place();
    place.guard_as("top.qcow2", SealLevel::Needed, None).expect("sealed");
    place.change("base.raw", 40 * CLUSTER);
    assert_eq!(says(&place, "top.qcow2"), (Status::Ok, "same"), "it does not look there");
    place.change("base.raw", 41 * CLUSTER);
    assert_eq!(says(&place, "top.qcow2"), (Status::Fault, "visible"));
}

#[test]
fn signs_alone_never_say_ok_after_a_change() {
    let place = place();
    place.guard_as("top.qcow2", SealLevel::Header, None).expect("sealed");
    assert_eq!(says(&place, "top.qcow2"), (Status::Ok, "quiet"));
    place.change("base.raw", 0);
    assert_eq!(says(&place, "top.qcow2"), (Status::Unknown, "unknown"));
}

#[test]
fn a_change_is_sealed_only_with_a_reason_and_the_reason_is_kept() {
    let place = sealed();
    place.change("base.raw", 5 * CLUSTER);
    let refused = place.guard("top.qcow2");
    assert!(matches!(refused, Err(Error::Differs { .. })), "{:?}", refused.map(|_| ()));
    assert_eq!(says(&place, "top.qcow2"), (Status::Fault, "visible"), "nothing was sealed");
    place.guard_as("top.qcow2", SealLevel::All, Some("new golden image")).expect("sealed");
    let link = only(place.check("top.qcow2"));
    assert_eq!((link.status, link.verdict()), (Status::Ok, "quiet"));
    let SealFacts::Found { reason, .. } = link.seal else { panic!("it is sealed") };
    assert_eq!(reason, "new golden image");
}

#[test]
fn a_damaged_book_is_never_silence() {
    for folder in ["link", "tree"] {
        let place = sealed();
        let files: Vec<_> = fs::read_dir(place.path("book").join(folder))
            .expect("listed")
            .map(|entry| entry.expect("listed").path())
            .collect();
        assert!(!files.is_empty());
        for file in files {
            let mut bytes = fs::read(&file).expect("read");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
            fs::write(&file, bytes).expect("written");
        }
        let link = only(place.check_to("top.qcow2", Depth::Always));
        assert_eq!(link.status, Status::Unknown, "{folder}");
        assert!(matches!(link.seal, SealFacts::Unreadable(_)), "{folder}: {:?}", link.seal);
        let refused = place.guard("top.qcow2");
        if folder == "link" {
            assert!(matches!(refused, Err(Error::Differs { .. })));
        }
        place.guard_as("top.qcow2", SealLevel::All, Some("the book was damaged")).expect("sealed");
        let link = only(place.check_to("top.qcow2", Depth::Always));
        assert_eq!((link.status, link.verdict()), (Status::Ok, "same"), "{folder}");
    }
}

#[test]
fn a_record_under_another_name_is_foreign() {
    let place = sealed();
    place.child("two.qcow2", RAW, &[9]);
    place.guard("two.qcow2").expect("sealed");
    let mut files: Vec<_> = fs::read_dir(place.path("book/link"))
        .expect("listed")
        .map(|entry| entry.expect("listed").path())
        .collect();
    files.sort();
    assert_eq!(files.len(), 2);
    let (one, two) = (fs::read(&files[0]).expect("read"), fs::read(&files[1]).expect("read"));
    fs::write(&files[0], two).expect("written");
    fs::write(&files[1], one).expect("written");
    for name in ["top.qcow2", "two.qcow2"] {
        let link = only(place.check(name));
        assert_eq!(link.status, Status::Unknown);
        assert!(matches!(link.seal, SealFacts::Unreadable(_)), "{:?}", link.seal);
    }
}

#[test]
fn trees_that_nobody_names_are_removed() {
    let place = sealed();
    let count =
        |folder: &str| fs::read_dir(place.path("book").join(folder)).expect("listed").count();
    let before = count("tree");
    place.change("base.raw", 5 * CLUSTER);
    place.guard_as("top.qcow2", SealLevel::All, Some("meant")).expect("sealed");
    assert_eq!((count("tree"), count("link")), (before, 1));
}
