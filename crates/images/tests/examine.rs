//! A parent that differs from what its child was made over: refused for reading, opened for comparing.

use images::{
    Class, Format, Identity, OpenOptions, Purpose,
    layout::{Held, ParentPlan, Plan},
    testing::{self, Folder},
    vdi::write::{VdiKind, VdiOptions},
    vhd::write::VhdOptions,
    vhdx::write::VhdxOptions,
    vmdk::write::{Adapter, VmdkKind, VmdkOptions},
};

const SIZE: u64 = 2 << 20;

/// An image that is `fill` where it holds something: all, or over a parent the first 64 KiB.
fn image(format: Format, fill: u8, parent: Option<ParentPlan>) -> (Vec<u8>, Identity) {
    let len = if parent.is_some() { 65_536 } else { SIZE };
    let held = vec![Held { start: 0, len, zero: false }];
    let plan = Plan { virtual_size: SIZE, held, parent, seed: [fill; 32], made_s: 1_700_000_000 };
    let (files, identity) = match format {
        Format::Vhd => {
            let options = VhdOptions { block_bytes: 64 << 10, ..VhdOptions::default() };
            (images::vhd::write::layout(&plan, &options), images::vhd::write::identity(&plan))
        }
        Format::Vhdx => (
            images::vhdx::write::layout(&plan, &VhdxOptions::default()),
            images::vhdx::write::identity(&plan.seed),
        ),
        Format::Vmdk => {
            let (kind, adapter) = (VmdkKind::Sparse, Adapter::default());
            let content = images::vmdk::write::content_id(&plan);
            let options = VmdkOptions { kind, name: format!("{fill}.vmdk"), adapter };
            (images::vmdk::write::layout(&plan, &options), Identity::Vmdk { content })
        }
        Format::Vdi => (
            images::vdi::write::layout(&plan, &VdiOptions { kind: VdiKind::Dynamic }),
            images::vdi::write::identity(&plan),
        ),
        Format::Raw | Format::Qcow2 => panic!("these have no identifiers"),
    };
    let guest = vec![fill; usize::try_from(SIZE).expect("small")];
    (testing::render(&*files.expect("writable")[0].layout, &guest, 1 << 16), identity)
}

/// The identity after one more write by a tool of the format.
fn written(identity: Identity) -> Identity {
    match identity {
        Identity::Vhdx { file_write, .. } => Identity::Vhdx { file_write, data_write: [9; 16] },
        Identity::Vmdk { content } => Identity::Vmdk { content: content ^ 1 },
        Identity::Vdi { id, .. } => Identity::Vdi { id, modified: [9; 16] },
        Identity::Vhd { time, .. } => Identity::Vhd { id: [9; 16], time },
        Identity::None => Identity::None,
    }
}

#[test]
fn a_parent_that_differs_is_refused_for_reading_and_opened_for_comparing() {
    for format in [Format::Vhd, Format::Vhdx, Format::Vmdk, Format::Vdi] {
        let (base, identity) = image(format, 3, None);
        let (name, top) = (format!("base.{format}"), format!("top.{format}"));
        for differs in [false, true] {
            let identity = if differs { written(identity) } else { identity };
            let plan = ParentPlan { name: name.clone(), format, identity, virtual_size: SIZE };
            let (child, _) = image(format, 5, Some(plan));
            let folder = Folder::new().with(&top, child).with(&name, base.clone());
            let open = |purpose| {
                testing::open(&folder, &top, OpenOptions { purpose, ..OpenOptions::default() })
            };
            let reading = open(Purpose::Read).map(|chain| chain.layers().len());
            match (reading, differs) {
                (Ok(2), false) => {}
                (Err(fault), true) => assert_eq!(fault.class, Class::ParentMismatch, "{format}"),
                (other, _) => panic!("{format}: {other:?}"),
            }
            let mut chain = open(Purpose::Examine).expect("opens");
            assert_eq!(chain.layers().len(), 2, "{format}");
            let notes = chain.layers()[0].notes();
            let is_noted = notes.iter().any(|note| note.class == Class::ParentMismatch);
            assert_eq!(is_noted, differs, "{format}: {notes:?}");
            let disk = testing::read_all(&folder, &mut chain).expect("read");
            assert_eq!((disk[0], disk[disk.len() - 1]), (5, 3), "{format}");
        }
    }
}

/// Found by its identity alone: the one that is right comes before one that is nearly.
#[test]
fn of_two_candidates_the_right_one_is_the_parent() {
    let (right, identity) = image(Format::Vdi, 3, None);
    let plan = ParentPlan {
        name: String::from("b.vdi"),
        format: Format::Vdi,
        identity,
        virtual_size: SIZE,
    };
    let (child, _) = image(Format::Vdi, 5, Some(plan));
    let mut near = right.clone();
    // Its modification UUID, which begins at 0x198 (VDI's header 1.1).
    near[0x198] ^= 1;
    let folder = |names: &[(&str, &Vec<u8>)]| {
        let folder = Folder::new().with("top.vdi", child.clone());
        names.iter().fold(folder, |folder, (name, bytes)| folder.with(name, (*bytes).clone()))
    };
    let options = OpenOptions { purpose: Purpose::Examine, ..OpenOptions::default() };
    for names in [[("a.vdi", &near), ("b.vdi", &right)], [("a.vdi", &right), ("b.vdi", &near)]] {
        let folder = folder(&names);
        let chain = testing::open(&folder, "top.vdi", options.clone()).expect("opens");
        assert_eq!(chain.layers()[0].notes().len(), 0, "{names:?}", names = names.map(|n| n.0));
    }
    let alone = folder(&[("a.vdi", &near)]);
    let chain = testing::open(&alone, "top.vdi", options).expect("opens");
    assert_eq!(chain.layers()[0].notes()[0].class, Class::ParentMismatch);
}
