//! A header extension put into a qcow2 image, cut off anywhere: the same disk over the same parent, and
//! the extension whole or not at all.

use std::collections::BTreeSet;

use images::{
    Format, Identity, OpenOptions,
    layout::{Held, ParentPlan, Plan, Unwritable},
    qcow2::{
        extend::{Extension, extend},
        write::Qcow2Options,
    },
    relink::{Edit, EditStep},
    testing::{self, Folder},
};

const SIZE: u64 = 1 << 20;
const KIND: u32 = 0x5354_4c44;
const BIT: u64 = 1 << 62;
const SECTOR: usize = 512;

/// An image over `base.raw`, with QEMU's table of feature names before the parent's name.
fn child(cluster_bits: u32, name: &str) -> Vec<u8> {
    let parent = ParentPlan {
        name: name.to_owned(),
        format: Format::Raw,
        identity: Identity::None,
        virtual_size: SIZE,
    };
    let held = vec![Held { start: 0, len: 65_536, zero: false }];
    let plan = Plan { virtual_size: SIZE, held, parent: Some(parent), seed: [1; 32], made_s: 1 };
    let extensions = vec![(0x6803_f857, vec![1; 384])];
    let options = Qcow2Options { cluster_bits, extensions, autoclear: 0 };
    let files = images::qcow2::write::layout(&plan, &options).expect("writable");
    testing::render(&*files[0].layout, &vec![9; 1 << 20], u64::MAX)
}

fn ours(fill: u8) -> Extension {
    Extension { kind: KIND, content: vec![fill; 1280], autoclear: BIT }
}

fn edit(
    image: &[u8],
    cluster_bits: u32,
    extension: &Extension,
) -> Result<Vec<EditStep>, Unwritable> {
    match extend(&image[..1 << cluster_bits], extension)? {
        Edit::InPlace(steps) => Ok(steps),
        Edit::Whole(_) => panic!("an image is changed in place"),
    }
}

/// What such an image shows: its parent's name, the content of the extension, the bit; the disk is right.
fn seen(image: Vec<u8>, base: &str) -> (String, Option<Vec<u8>>, bool) {
    let folder = Folder::new().with("top.qcow2", image).with(base, vec![3; 1 << 20]);
    let mut chain = testing::open(&folder, "top.qcow2", OpenOptions::default()).expect("opens");
    let disk = testing::read_all(&folder, &mut chain).expect("read");
    assert!(disk[..65_536].iter().all(|byte| *byte == 9), "its own bytes");
    assert!(disk[65_536..].iter().all(|byte| *byte == 3), "its parent's bytes");
    let facts = chain.layers()[0].facts();
    let mut found = facts.extensions.iter().filter(|(kind, _)| *kind == KIND);
    let content = found.next().map(|(_, bytes)| bytes.clone());
    assert!(found.next().is_none(), "one of a type");
    let stated = facts.parent.as_ref().map(|parent| parent.stated.clone());
    (stated.unwrap_or_default(), content, facts.autoclear & BIT != 0)
}

/// Every file that a cut may leave: of the sectors written since the last sync any.
fn cuts(image: &[u8], steps: &[EditStep]) -> BTreeSet<Vec<u8>> {
    let (mut durable, mut pending) = (image.to_vec(), Vec::new());
    let mut cuts = BTreeSet::new();
    for step in steps {
        match step {
            EditStep::Write { at, bytes } => {
                let start = usize::try_from(*at).expect("small");
                let sectors = bytes.chunks(SECTOR).enumerate();
                pending.extend(sectors.map(|(n, piece)| (start + n * SECTOR, piece.to_vec())));
            }
            EditStep::Sync => put(&mut durable, &std::mem::take(&mut pending), u32::MAX),
        }
        assert!(pending.len() <= 8, "few enough to try all");
        for kept in 0..1_u32 << pending.len() {
            let mut cut = durable.clone();
            put(&mut cut, &pending, kept);
            cuts.insert(cut);
        }
    }
    assert!(pending.is_empty(), "an edit ends with a sync");
    cuts
}

fn put(file: &mut [u8], pieces: &[(usize, Vec<u8>)], kept: u32) {
    for (n, (at, piece)) in pieces.iter().enumerate() {
        if kept >> n & 1 == 1 {
            file[*at..*at + piece.len()].copy_from_slice(piece);
        }
    }
}

fn after(image: &[u8], steps: &[EditStep]) -> Vec<u8> {
    let mut file = image.to_vec();
    for step in steps {
        if let EditStep::Write { at, bytes } = step {
            put(&mut file, &[(usize::try_from(*at).expect("small"), bytes.clone())], 1);
        }
    }
    file
}

#[test]
fn a_cut_anywhere_leaves_the_extension_whole_or_not_at_all() {
    for (bits, base) in [(16, "base.raw"), (12, "b.raw"), (12, "a-rather-long-name-of-a-base.raw")]
    {
        let image = child(bits, base);
        let steps = edit(&image, bits, &ours(7)).expect("there is room");
        let mut met = BTreeSet::new();
        for cut in cuts(&image, &steps) {
            let (name, content, bit) = seen(cut.clone(), base);
            assert_eq!(name, base);
            assert!(content.is_some() || !bit, "the bit comes last");
            assert!(content.as_ref().is_none_or(|content| *content == [7; 1280]));
            met.insert((content.is_some(), bit));
            // Who does it again after a cut ends with the same.
            let again = edit(&cut, bits, &ours(7)).expect("there is room");
            assert_eq!(
                seen(after(&cut, &again), base),
                (base.to_owned(), Some(vec![7; 1280]), true)
            );
        }
        let all = BTreeSet::from([(false, false), (true, false), (true, true)]);
        assert_eq!(met, all, "every stage was met");
    }
}

#[test]
fn without_barriers_the_same_look_finds_halves() {
    let image = child(12, "base.raw");
    let mut steps = edit(&image, 12, &ours(7)).expect("there is room");
    steps.retain(|step| *step != EditStep::Sync);
    steps.push(EditStep::Sync);
    let halves = cuts(&image, &steps).into_iter().filter(|cut| {
        let folder =
            Folder::new().with("top.qcow2", cut.clone()).with("base.raw", vec![3; 1 << 20]);
        match testing::open(&folder, "top.qcow2", OpenOptions::default()) {
            Ok(chain) => {
                let facts = chain.layers()[0].facts();
                let content = facts.extensions.iter().find(|(kind, _)| *kind == KIND);
                content.is_some_and(|(_, content)| *content != [7; 1280])
            }
            Err(_) => true,
        }
    });
    assert!(halves.count() > 0);
}

#[test]
fn what_is_there_is_replaced_in_place() {
    let image = child(16, "base.raw");
    let first = edit(&image, 16, &ours(7)).expect("there is room");
    let labelled = after(&image, &first);
    assert_eq!(edit(&labelled, 16, &ours(7)).expect("the same"), [EditStep::Sync]);
    let mut other = ours(7);
    other.content[1100] = 8;
    let steps = edit(&labelled, 16, &other).expect("the same length");
    assert_eq!(steps.len(), 2, "one sector, and a barrier: {steps:?}");
    let (_, content, bit) = seen(after(&labelled, &steps), "base.raw");
    assert_eq!((content, bit), (Some(other.content), true));
    let longer = Extension { content: vec![1; 1281], ..ours(1) };
    assert!(edit(&labelled, 16, &longer).is_err());
}

#[test]
fn what_cannot_take_it_is_refused() {
    let image = child(10, "base.raw");
    assert!(edit(&image, 10, &ours(7)).is_err(), "a cluster of 1024 bytes");
    let mut old = child(16, "base.raw");
    old[7] = 2;
    assert!(edit(&old, 16, &ours(7)).is_err(), "version 2");
    let mut open = child(16, "base.raw");
    open[79] |= 1;
    assert!(edit(&open, 16, &ours(7)).is_err(), "not closed");
    let long = "x".repeat(1000) + ".raw";
    assert!(edit(&child(12, &long), 12, &ours(7)).is_ok());
    assert!(extend(b"QFI\xfb", &ours(7)).is_err(), "cut");
}
