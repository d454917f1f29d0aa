//! Writers: what they lay out reads back as the guest's bytes, in any pieces.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use crate::{
    Format, Identity, OpenOptions,
    bytes::{narrow, wide},
    layout::{Held, ParentPlan, Plan, Unwritable},
    testing::{Folder, map, open, read_all, render, run},
    vmdk::{
        stream::{GRAIN_BYTES, Stream, pack_grain},
        write::{Adapter, VmdkKind, VmdkOptions, content_id, layout},
    },
};

fn plan(size: u64, held: &[(u64, u64, bool)]) -> Plan {
    let held = held.iter().map(|&(start, len, zero)| Held { start, len, zero }).collect();
    Plan { virtual_size: size, held, parent: None, seed: [7; 32], made_s: 0 }
}

fn options(kind: VmdkKind) -> VmdkOptions {
    VmdkOptions { kind, name: "x.vmdk".to_owned(), adapter: Adapter::LsiLogic }
}

/// Guest bytes that tell their place.
fn guest(size: u64) -> Vec<u8> {
    (0..size).map(|n| (n / 512 * 7 + n % 251 + 1).to_le_bytes()[0] | 1).collect()
}

fn folder(plan: &Plan, kind: VmdkKind, guest: &[u8], step: u64) -> Folder {
    let files = layout(plan, &options(kind)).unwrap();
    files.iter().fold(Folder::new(), |folder, file| {
        folder.with(&format!("x{}.vmdk", file.suffix), render(&*file.layout, guest, step))
    })
}

fn whole(folder: &Folder) -> Vec<u8> {
    let mut chain = open(folder, "x.vmdk", OpenOptions::default()).unwrap();
    let report = run(chain.check(0), folder).unwrap();
    assert_eq!(report.findings, [], "a new image has no fault");
    read_all(folder, &mut chain).unwrap()
}

/// What the guest sees of what is held.
fn seen(plan: &Plan, bytes: &[u8], below: &[u8]) -> Vec<u8> {
    let mut disk = below.to_vec();
    disk.resize(narrow(plan.virtual_size.next_multiple_of(512)), 0);
    for held in &plan.held {
        let range = narrow(held.start)..narrow(held.start + held.len);
        if held.zero {
            disk[range].fill(0);
        } else {
            disk[range.clone()].copy_from_slice(&bytes[range]);
        }
    }
    disk
}

#[test]
fn flat_image_has_a_descriptor_beside_it() {
    let plan = plan(10_000, &[(0, 512, false), (600, 1000, true), (5000, 5000, false)]);
    let disk = guest(10_000);
    let expected = seen(&plan, &disk, &[]);
    let folder = folder(&plan, VmdkKind::Flat, &disk, 777);
    assert_eq!(whole(&folder), expected);
    let chain = open(&folder, "x.vmdk", OpenOptions::default()).unwrap();
    let facts = chain.layers()[0].facts();
    assert_eq!((facts.variant, facts.virtual_size), ("monolithicFlat", 10_240));
    assert_eq!(facts.identity, Identity::Vmdk { content: 0x0707_0707 });
}

#[test]
fn sparse_image_holds_only_what_it_must() {
    let size = (40 << 20) + 512;
    let plan = plan(size, &[(70_000, 100, false), (33 << 20, 65536, false), (size - 5, 5, false)]);
    let disk: Vec<u8> = seen(&plan, &guest(size), &[]);
    let folder = folder(&plan, VmdkKind::Sparse, &disk, 1 << 16);
    assert_eq!(folder.len(crate::FileId(0)), 65536 * 4);
    assert_eq!(whole(&folder), disk);
}

#[test]
fn delta_holds_zeroes_over_its_parent() {
    let size = 20 * 65536 + 1024;
    let base_plan = plan(size, &[(0, size, false)]);
    let base = folder(&base_plan, VmdkKind::Sparse, &guest(size), 1 << 20);
    let held = [
        (1000, 70, false),
        (65536 * 2, 65536, true),
        (65536 * 3, 65536 * 2 + 9, true),
        (65536 * 7 + 1, 5, true),
        (65536 * 9, 65536, false),
        (65536 * 19 + 7, 65536 + 1024 - 7, true),
    ];
    let mut child = plan(size, &held);
    child.seed = [9; 32];
    child.parent = Some(ParentPlan {
        name: "base.vmdk".to_owned(),
        format: Format::Vmdk,
        identity: Identity::Vmdk { content: content_id(&base_plan) },
        virtual_size: size,
    });
    let new: Vec<u8> = guest(size).iter().map(|byte| byte ^ 0x5a).collect();
    let disk = seen(&child, &new, &guest(size));
    let child_bytes =
        render(&*layout(&child, &options(VmdkKind::Sparse)).unwrap()[0].layout, &disk, 4000);
    let folder = Folder::new().with("x.vmdk", child_bytes).with(
        "base.vmdk",
        base.bytes(crate::Need { file: crate::FileId(0), offset: 0, len: 1 << 30 }),
    );
    assert_eq!(whole(&folder), disk);
    let mut chain = open(&folder, "x.vmdk", OpenOptions::default()).unwrap();
    let zeroed = map(&folder, &mut chain, 0..size).unwrap();
    let zeroed = zeroed.iter().filter(|mapped| mapped.extent.kind == crate::Kind::Zero);
    let zeroed: u64 = zeroed.map(|mapped| mapped.extent.len).sum();
    assert_eq!(zeroed, 65536 * 3 + 1024, "grains that are zero throughout hold no bytes");
}

#[test]
fn content_id_follows_the_seed_and_is_none_that_means_something() {
    let id = |seed: [u8; 4], parent: Option<u32>| {
        let mut plan = plan(512, &[]);
        plan.seed[..4].copy_from_slice(&seed);
        plan.parent = parent.map(|content| ParentPlan {
            name: "b".to_owned(),
            format: Format::Vmdk,
            identity: Identity::Vmdk { content },
            virtual_size: 512,
        });
        content_id(&plan)
    };
    assert_eq!(id([1, 2, 3, 4], None), 0x0403_0201);
    assert_eq!(id([1, 2, 3, 4], Some(0x0403_0201)), 0x0403_0202);
    assert_eq!(id([0xff; 4], None), 0);
    assert_eq!(id([0xfe, 0xff, 0xff, 0xff], Some(0)), 1);
}

#[test]
fn plans_without_an_image_are_refused() {
    let refused = |plan: &Plan, options: &VmdkOptions| layout(plan, options).err().unwrap();
    let good = plan(65536, &[]);
    for name in ["", "a\"b", "a\nb", "dir/x.vmdk", "..", "nbd:x"] {
        let options = VmdkOptions { name: name.to_owned(), ..options(VmdkKind::Sparse) };
        assert!(matches!(refused(&good, &options), Unwritable::Option { .. }), "{name:?}");
        assert!(Stream::new(&good, name, Adapter::Ide).is_err());
    }
    let sparse = options(VmdkKind::Sparse);
    let bad = plan(512, &[(0, 1024, false)]);
    assert!(matches!(refused(&bad, &sparse), Unwritable::Plan { .. }));
    let huge = plan(4 << 40, &[(0, 3 << 40, false)]);
    assert!(matches!(refused(&huge, &sparse), Unwritable::TooLarge { .. }));
    assert!(layout(&plan(4 << 40, &[(3 << 40, 1 << 30, false)]), &sparse).is_ok());
    let parent = |identity, virtual_size| ParentPlan {
        name: "b.vmdk".to_owned(),
        format: Format::Vmdk,
        identity,
        virtual_size,
    };
    let child = |parent| Plan { parent: Some(parent), ..good.clone() };
    let one = Identity::Vmdk { content: 1 };
    assert!(layout(&child(parent(one, 65536)), &sparse).is_ok());
    for (parent, kind) in [
        (parent(Identity::None, 65536), VmdkKind::Sparse),
        (parent(one, 65537), VmdkKind::Sparse),
        (parent(one, 65536), VmdkKind::Flat),
    ] {
        assert!(matches!(refused(&child(parent), &options(kind)), Unwritable::Option { .. }));
    }
    assert!(Stream::new(&child(parent(one, 65536)), "x.vmdk", Adapter::Ide).is_err());
}

/// A stream of a disk, its grains packed in any order.
fn stream(size: u64, disk: &[u8]) -> Vec<u8> {
    let packed: BTreeMap<u64, Vec<u8>> = (0..size.div_ceil(GRAIN_BYTES))
        .rev()
        .map(|number| {
            let start = narrow(number * GRAIN_BYTES);
            let end = disk.len().min(start + narrow(GRAIN_BYTES));
            (number, pack_grain(&disk[start..end], 6))
        })
        .collect();
    let mut stream = Stream::new(&plan(size, &[]), "x.vmdk", Adapter::LsiLogic).unwrap();
    let mut bytes = stream.begin();
    for (number, packed) in packed {
        bytes.extend(stream.grain(number, &packed).unwrap());
    }
    bytes.extend(stream.finish().unwrap());
    bytes
}

#[test]
fn stream_reads_back_as_the_disk() {
    for size in [512, 65536, 70_000 / 512 * 512, (65 << 20) + 1024] {
        let mut disk = guest(size);
        if size > 1 << 20 {
            disk[1 << 20..64 << 20].fill(0);
        }
        let bytes = stream(size, &disk);
        assert!(wide(bytes.len()).is_multiple_of(512));
        let folder = Folder::new().with("x.vmdk", bytes);
        assert_eq!(whole(&folder), disk, "{size}");
        let chain = open(&folder, "x.vmdk", OpenOptions::default()).unwrap();
        assert_eq!(chain.layers()[0].facts().variant, "streamOptimized");
    }
}

#[test]
fn stream_of_nothing_is_an_image() {
    let folder = Folder::new().with("x.vmdk", stream(1 << 20, &vec![0; 1 << 20]));
    assert_eq!(whole(&folder), vec![0; 1 << 20]);
}

#[test]
fn disk_without_a_sector_is_an_image() {
    let folder = folder(&plan(0, &[]), VmdkKind::Sparse, &[], 4096);
    assert_eq!(whole(&folder), []);
    assert_eq!(whole(&Folder::new().with("x.vmdk", stream(0, &[]))), []);
}

#[test]
#[should_panic(expected = "rising order")]
fn stream_takes_no_grain_twice() {
    let mut stream = Stream::new(&plan(1 << 20, &[]), "x.vmdk", Adapter::Ide).unwrap();
    let packed = pack_grain(&[1; 512], 1);
    stream.grain(3, &packed).unwrap();
    let _ = stream.grain(3, &packed);
}

#[test]
fn grain_that_does_not_shrink_is_packed_all_the_same() {
    let mut state = 1_u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    };
    let plain: Vec<u8> = (0..GRAIN_BYTES).map(|_| noise()).collect();
    let folder = Folder::new().with("x.vmdk", stream(GRAIN_BYTES, &plain));
    assert_eq!(whole(&folder), plain);
    assert!(pack_grain(&vec![0; 65536], 9).is_empty());
}

proptest! {
    #[test]
    fn any_plan_reads_back(
        sectors in 1..2000_u64,
        cuts in vec((0..1_000_000_u64, 0..3_u8), 0..12),
        step in 1..300_000_u64,
        kind in prop::sample::select(vec![VmdkKind::Flat, VmdkKind::Sparse]),
    ) {
        let size = sectors * 512;
        let mut cuts: Vec<(u64, u8)> = cuts.into_iter().map(|(at, how)| (at % size, how)).collect();
        cuts.sort_unstable();
        cuts.dedup_by_key(|cut| cut.0);
        let ends = cuts.iter().skip(1).map(|cut| cut.0).chain([size]);
        let held: Vec<(u64, u64, bool)> = cuts
            .iter()
            .zip(ends)
            .filter(|((_, how), _)| *how < 2)
            .map(|((start, how), end)| (*start, end - start, *how == 0))
            .collect();
        let plan = plan(size, &held);
        let disk = seen(&plan, &guest(size), &[]);
        // Small steps through the head of large files take long and show nothing new.
        let folder = folder(&plan, kind, &disk, step.max(size / 50));
        prop_assert_eq!(whole(&folder), disk);
    }
}
