//! VDI files of our own making, read back whole, and damaged in one place each.

use proptest::{collection::vec, prelude::*};

use super::{
    FREE, ZERO,
    write::{VdiKind, VdiOptions, identity, layout},
};
use crate::{
    Class, Fault, FileId, Format, Identity, Kind, OpenOptions, Purpose, Report, Severity,
    layout::{Held, ParentPlan, Plan, Unwritable},
    testing::{Folder, map, open, read, read_all, render, run},
};

const M: usize = 1 << 20;
const SIZE: usize = 4 * M + 1536;
const DATA: usize = 4096;

fn guest() -> Vec<u8> {
    (0..SIZE).map(|at| u8::try_from((at / 512 * 7 + at) % 255 + 1).unwrap()).collect()
}

fn plan(held: &[(u64, u64, bool)]) -> Plan {
    let held = held.iter().map(|&(start, len, zero)| Held { start, len, zero }).collect();
    let seed = std::array::from_fn(|at| u8::try_from(at + 1).unwrap());
    Plan { virtual_size: SIZE as u64, held, parent: None, seed, made_s: 0 }
}

fn file(plan: &Plan, kind: VdiKind, guest: &[u8]) -> Vec<u8> {
    render(&*layout(plan, &VdiOptions { kind }).unwrap()[0].layout, guest, 1 << 22)
}

/// Blocks 1, 3 and 4 (which the disk ends in) are held.
fn base() -> Vec<u8> {
    let held = [(M as u64 + 512, 512, false), (3 * M as u64, M as u64 + 1536, false)];
    file(&plan(&held), VdiKind::Dynamic, &guest())
}

fn over(mut plan: Plan) -> Plan {
    plan.parent = Some(ParentPlan {
        name: "any.vdi".to_owned(),
        format: Format::Vdi,
        identity: identity(&plan),
        virtual_size: SIZE as u64,
    });
    plan.seed = [0x55; 32];
    plan
}

/// A child of [`base`]: block 0 by its bytes (0xcc), block 3 as zero.
fn child() -> Vec<u8> {
    let plan = over(plan(&[(0, M as u64, false), (3 * M as u64, M as u64, true)]));
    file(&plan, VdiKind::Dynamic, &vec![0xcc; SIZE])
}

fn put(mut bytes: Vec<u8>, at: usize, field: &[u8]) -> Vec<u8> {
    bytes[at..at + field.len()].copy_from_slice(field);
    bytes
}

fn options() -> OpenOptions {
    OpenOptions { format: Some(Format::Vdi), ..OpenOptions::default() }
}

fn open_error(bytes: Vec<u8>) -> Option<Class> {
    open(&Folder::new().with("a.vdi", bytes), "a.vdi", options()).err().map(|fault| fault.class)
}

fn whole(bytes: Vec<u8>) -> Result<Vec<u8>, Fault> {
    let folder = Folder::new().with("a.vdi", bytes);
    read_all(&folder, &mut open(&folder, "a.vdi", options())?)
}

fn check(bytes: Vec<u8>) -> Report {
    let folder = Folder::new().with("a.vdi", bytes);
    let mut chain = open(&folder, "a.vdi", options()).unwrap();
    let report = run(chain.check(0), &folder).unwrap();
    assert_eq!(run(chain.check(0), &folder).unwrap(), report, "a second check differs");
    report
}

/// What is damaged: block and class.
fn corrupt(bytes: Vec<u8>) -> Vec<(u64, Class)> {
    let folder = Folder::new().with("a.vdi", bytes);
    let mut chain = open(&folder, "a.vdi", options()).unwrap();
    let parts = map(&folder, &mut chain, 0..SIZE as u64).unwrap().into_iter();
    let damage = parts.filter_map(|part| match part.extent.kind {
        Kind::Corrupt(fault) => Some((part.extent.start / M as u64, fault.class)),
        _ => None,
    });
    damage.collect()
}

#[test]
fn facts_hold_what_a_child_compares() {
    let folder = Folder::new().with("child.vdi", child()).with("b.VDI", base());
    let chain = open(&folder, "child.vdi", options()).unwrap();
    let (own, parent) = (chain.layers()[0].facts(), chain.layers()[1].facts());
    let ids: [u8; 32] = plan(&[]).seed;
    let wanted = Identity::Vdi {
        id: ids[..16].try_into().unwrap(),
        modified: ids[16..].try_into().unwrap(),
    };
    assert_eq!(parent.identity, wanted);
    assert_eq!(own.parent.as_ref().unwrap().identity, wanted);
    assert_eq!((own.variant, parent.variant), ("differencing", "dynamic"));
    assert_eq!((own.unit, own.virtual_size), (M as u64, SIZE as u64));
    assert_eq!(own.creator.as_deref(), Some("<<< Strandline Disk Image >>>"));
}

#[test]
fn damaged_header_is_told_by_class() {
    let good = base();
    assert_eq!(open_error(good.clone()), None);
    let word = |at: usize, value: u32| put(good.clone(), at, &value.to_le_bytes());
    let cases = [
        (word(64, 1), Class::BadMagic),
        (word(68, 0x0002_0000), Class::UnknownVersion),
        (word(68, 0x0001_0002), Class::UnknownVersion),
        (word(68, 1), Class::UnknownVersion),
        (word(72, 383), Class::BadField),
        (word(72, 441), Class::Overlap),
        (word(72, u32::MAX), Class::Overlap),
        (word(76, 0), Class::BadField),
        (word(76, 3), Class::UnsupportedFormat),
        (word(76, 9), Class::BadField),
        (word(340, 0xffff_fe00), Class::PointerOutsideFile),
        (word(340, 0), Class::Overlap),
        (word(344, 0), Class::Overlap),
        (word(344, 512 + 19), Class::Overlap),
        (word(360, 4096), Class::BadField),
        (word(368, 0), Class::BadField),
        (word(368, 513), Class::BadField),
        (word(372, 1 << 30), Class::TableTooSmall),
        (put(word(384, u32::MAX), 368, &(u64::from(u32::MAX) << 20).to_le_bytes()), Class::Limit),
        (word(376, 0), Class::BadField),
        (word(376, 3), Class::BadField),
        (word(376, 256), Class::BadField),
        (word(376, 1 << 29), Class::Limit),
        (word(384, 4), Class::TableTooSmall),
        (good[..400].to_vec(), Class::Truncated),
        (good[..70].to_vec(), Class::BadMagic),
        (Vec::new(), Class::BadMagic),
    ];
    for (place, (bytes, class)) in cases.into_iter().enumerate() {
        assert_eq!(open_error(bytes), Some(class), "case {place}");
    }
}

#[test]
fn older_header_reads_the_same() {
    let old = put(put(base(), 68, &[0, 0, 1, 0]), 72, &384_u32.to_le_bytes());
    let old = put(old, 360, &[0; 4]);
    assert!(whole(old).unwrap() == whole(base()).unwrap());
}

#[test]
fn bytes_before_each_block_are_skipped() {
    let good = base();
    let mut bytes = put(good[..DATA].to_vec(), 380, &512_u32.to_le_bytes());
    for block in good[DATA..].chunks(M) {
        bytes.extend([0xee; 512]);
        bytes.extend(block);
    }
    assert!(whole(bytes.clone()).unwrap() == whole(good).unwrap());
    assert_eq!(check(bytes).findings, []);
}

#[test]
fn damaged_entry_damages_its_block_alone() {
    let good = base();
    let bytes = whole(good.clone()).unwrap();
    for (block, entry, class) in [
        (1, 0x00ff_ffff, Class::PointerOutsideFile),
        (1, 0xffff_fffd, Class::PointerOutsideFile),
        (1, 3, Class::PointerOutsideFile),
        (4, 0, Class::Overlap),
        (4, 1, Class::Overlap),
    ] {
        let bad = put(good.clone(), 512 + block * 4, &u32::to_le_bytes(entry));
        assert_eq!(corrupt(bad.clone()), [(block as u64, class)], "entry {entry} of block {block}");
        assert_eq!(check(bad.clone()).worst(), Some(Severity::Error));
        let folder = Folder::new().with("a.vdi", bad);
        let mut chain = open(&folder, "a.vdi", options()).unwrap();
        let at = block * M;
        // Whatever is asked for first: the same block is the damaged one.
        assert_eq!(read(&folder, &mut chain, at as u64..at as u64 + 1).unwrap_err().class, class);
        assert!(read(&folder, &mut chain, 0..M as u64).unwrap() == bytes[..M]);
    }
}

#[test]
fn free_and_zero_entries_are_kept_apart() {
    let free = put(base(), 512 + 4, &FREE.to_le_bytes());
    let zero = put(base(), 512 + 4, &ZERO.to_le_bytes());
    assert!(whole(free.clone()).unwrap() == whole(zero.clone()).unwrap());
    let kind = |bytes: Vec<u8>| {
        let folder = Folder::new().with("a.vdi", bytes);
        let mut chain = open(&folder, "a.vdi", options()).unwrap();
        let mapped = map(&folder, &mut chain, M as u64..2 * M as u64).unwrap();
        mapped.into_iter().next().unwrap().extent.kind
    };
    assert_eq!((kind(free.clone()), kind(zero.clone())), (Kind::Hole, Kind::Zero));
    let report = check(zero);
    assert_eq!((report.units_data, report.units_zero, report.units_leaked), (2, 1, 1));
    assert!(report.has(Class::BadField), "the header states three");
    assert_eq!(check(free).units_zero, 0);
}

#[test]
fn block_that_is_cut_is_good_up_to_there() {
    let good = base();
    // Past the disk's end nothing is needed of the last block.
    let wanted = whole(good.clone()).unwrap();
    let enough = good[..DATA + 2 * M + 1536].to_vec();
    assert!(whole(enough.clone()).unwrap() == wanted);
    assert_eq!(check(enough).worst(), None);
    let short = good[..DATA + 2 * M + 1000].to_vec();
    let folder = Folder::new().with("a.vdi", short.clone());
    let mut chain = open(&folder, "a.vdi", options()).unwrap();
    let at = 4 * M as u64;
    assert!(read(&folder, &mut chain, 0..at + 512).unwrap() == wanted[..4 * M + 512]);
    assert_eq!(read(&folder, &mut chain, at + 512..at + 513).unwrap_err().class, Class::Truncated);
    assert_eq!(corrupt(short.clone()), [(4, Class::Truncated)]);
    assert!(check(short).has(Class::Truncated));
}

#[test]
fn parent_is_found_by_its_identity_alone() {
    let other = put(put(base(), 392, &[1; 16]), 408, &[2; 16]);
    let folder = Folder::new()
        .with("child.vdi", child())
        .with("a.vdi", b"no image".to_vec())
        .with("b.vdi", other.clone())
        .with("c.txt", base())
        .with("d.vdi", base());
    let mut chain = open(&folder, "child.vdi", options()).unwrap();
    let mut wanted = whole(base()).unwrap();
    wanted[..M].fill(0xcc);
    wanted[3 * M..4 * M].fill(0);
    assert!(read_all(&folder, &mut chain).unwrap() == wanted);
    assert_eq!(chain.layers()[1].name(), Some("d.vdi"));
    let class = |parent: Vec<u8>| {
        let folder = Folder::new().with("child.vdi", child()).with("p.vdi", parent);
        open(&folder, "child.vdi", options()).err().map(|fault| fault.class)
    };
    assert_eq!(class(other), Some(Class::ParentMissing));
    assert_eq!(class(put(base(), 408, &[2; 16])), Some(Class::ParentMismatch));
    let nameless = put(child(), 424, &[0; 16]);
    let nobody = put(base(), 392, &[0; 16]);
    let folder = Folder::new().with("child.vdi", nameless).with("p.vdi", nobody);
    assert_eq!(open(&folder, "child.vdi", options()).err().unwrap().class, Class::ParentMissing);
    let inspect = OpenOptions { purpose: Purpose::Inspect, ..options() };
    assert!(open(&Folder::new().with("a.vdi", child()), "a.vdi", inspect).is_ok());
}

#[test]
fn what_is_odd_about_a_parent_is_noted() {
    let notes = |child: Vec<u8>, parent: Vec<u8>| {
        let folder = Folder::new().with("child.vdi", child).with("p.vdi", parent);
        let chain = open(&folder, "child.vdi", options()).unwrap();
        chain.layers()[0].notes().iter().map(|note| note.class).collect::<Vec<_>>()
    };
    assert_eq!(notes(child(), base()), []);
    assert_eq!(notes(put(child(), 440, &[0; 16]), base()), [Class::ParentMismatch]);
    let short = put(base(), 368, &(4 * M as u64).to_le_bytes());
    assert_eq!(notes(child(), short), [Class::ParentSize]);
    let odd = put(base(), 424, &[1; 16]);
    assert!(check(odd).has(Class::BadField));
}

#[test]
fn large_map_is_read_by_pages_and_places_are_claimed_once() {
    // 9 Mi blocks of 64 KiB: a map of 36 MiB.
    let (blocks, block) = (9_u32 << 20, 64_u32 << 10);
    let mut bytes = put(base()[..512].to_vec(), 376, &block.to_le_bytes());
    bytes = put(bytes, 368, &(u64::from(blocks) * u64::from(block)).to_le_bytes());
    bytes = put(bytes, 384, &blocks.to_le_bytes());
    let data = 512 + blocks * 4;
    bytes = put(bytes, 344, &data.to_le_bytes());
    let entry = |block: u32| usize::try_from(512 + block * 4).unwrap();
    let data = usize::try_from(data).unwrap();
    bytes.resize(data, 0xff);
    bytes.resize(data + 2 * (64 << 10), 0x77);
    let last = blocks - 1;
    let bytes = put(put(bytes, entry(5), &[0; 4]), entry(last), &[1, 0, 0, 0]);
    let bytes = put(bytes, entry(9), &[0; 4]);
    let folder = Folder::new().with("a.vdi", bytes);
    let mut chain = open(&folder, "a.vdi", options()).unwrap();
    let byte = |block: u32| u64::from(block) << 16..(u64::from(block) << 16) + 1;
    for _ in 0..2 {
        assert_eq!(read(&folder, &mut chain, byte(last)).unwrap(), [0x77]);
        assert_eq!(read(&folder, &mut chain, byte(9)).unwrap_err().class, Class::Overlap);
        assert_eq!(read(&folder, &mut chain, byte(5)).unwrap(), [0x77]);
        assert_eq!(read(&folder, &mut chain, byte(1 << 20)).unwrap(), [0]);
    }
    let report = run(chain.check(0), &folder).unwrap();
    assert_eq!((report.units_data, report.findings.len()), (2, 2), "{report:?}");
}

#[test]
fn plans_that_no_vdi_can_hold_are_refused() {
    let refused = |plan: &Plan, kind| layout(plan, &VdiOptions { kind }).err();
    let option = |plan: &Plan, kind| {
        matches!(refused(plan, kind), Some(Unwritable::Option { format: Format::Vdi, .. }))
    };
    let good = plan(&[]);
    assert!(refused(&good, VdiKind::Static).is_none());
    let large = Plan { virtual_size: 1 << 50, ..good.clone() };
    assert!(matches!(refused(&large, VdiKind::Dynamic), Some(Unwritable::TooLarge { .. })));
    assert!(option(&Plan { virtual_size: 1000, ..good.clone() }, VdiKind::Dynamic));
    let child = over(good);
    assert!(refused(&child, VdiKind::Dynamic).is_none());
    assert!(option(&child, VdiKind::Static));
    let parent = child.parent.clone().unwrap();
    let other = |parent| Plan { parent: Some(parent), ..child.clone() };
    let shorter = ParentPlan { virtual_size: 512, ..parent.clone() };
    assert!(option(&other(shorter), VdiKind::Dynamic));
    assert!(option(&other(ParentPlan { identity: Identity::None, ..parent }), VdiKind::Dynamic));
}

#[test]
fn zeroes_take_no_room() {
    // Most of 100 TiB is held as zero by a child, and one block by its bytes.
    let size = 100 << 40;
    let zero = |start, len| Held { start, len, zero: true };
    let held = vec![
        zero(0, 50 << 40),
        Held { start: 50 << 40, len: 4096, zero: false },
        zero((50 << 40) + 4096, 49 << 40),
    ];
    let mut plan = over(Plan { virtual_size: size, held, ..plan(&[]) });
    plan.parent.as_mut().unwrap().virtual_size = size;
    let layout = &layout(&plan, &VdiOptions::default()).unwrap()[0].layout;
    let map = (100_u64 << 20) * 4;
    // The block in which the long run of zeroes ends is held by its bytes as well.
    assert_eq!(layout.len(), (512 + map).next_multiple_of(4096) + 2 * M as u64);
}

/// Ranges of a plan, in order; lengths often end where blocks do.
fn ranges() -> impl Strategy<Value = Vec<(u64, u64, bool)>> {
    let grain = prop_oneof![Just(512_u64), Just(1000), Just(1 << 18)];
    vec((0..6_u64, 1..9_u64, any::<bool>(), grain), 0..10).prop_map(|parts| {
        let mut end = 0;
        let mut ranges = Vec::new();
        for (gap, len, zero, grain) in parts {
            let (start, len) = (end + gap * grain, len * grain);
            if start + len > SIZE as u64 {
                break;
            }
            ranges.push((start, len, zero));
            end = start + len;
        }
        ranges
    })
}

/// What the guest sees of a plan over bytes of `under`.
fn seen(plan: &Plan, under: u8) -> Vec<u8> {
    let (mut bytes, guest) = (vec![under; SIZE], guest());
    for held in &plan.held {
        let range =
            usize::try_from(held.start).unwrap()..usize::try_from(held.start + held.len).unwrap();
        if held.zero {
            bytes[range].fill(0);
        } else {
            bytes[range.clone()].copy_from_slice(&guest[range]);
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn written_images_read_back(
        ranges in ranges(),
        windows in vec((0..SIZE as u64, 1..3_000_000_u64), 1..8),
        window in 1000..500_000_u64,
    ) {
        let plan = plan(&ranges);
        let seen = seen(&plan, 0);
        for kind in [VdiKind::Dynamic, VdiKind::Static] {
            let layout = &layout(&plan, &VdiOptions { kind }).unwrap()[0].layout;
            let bytes = render(&**layout, &seen, 1 << 22);
            prop_assert!(bytes == render(&**layout, &seen, window), "windows of the file differ");
            let folder = Folder::new().with("a.vdi", bytes);
            let mut chain = open(&folder, "a.vdi", OpenOptions::default()).unwrap();
            prop_assert!(read_all(&folder, &mut chain).unwrap() == seen);
            for &(start, len) in &windows {
                let end = (start + len).min(SIZE as u64);
                let part = read(&folder, &mut chain, start..end).unwrap();
                let range = usize::try_from(start).unwrap()..usize::try_from(end).unwrap();
                prop_assert!(part == seen[range]);
            }
            let report = run(chain.check(0), &folder).unwrap();
            prop_assert_eq!(report.findings, vec![]);
        }
    }

    #[test]
    fn written_children_show_what_the_plan_says(ranges in ranges()) {
        let all = plan(&[(0, SIZE as u64, false)]);
        let parent = file(&all, VdiKind::Dynamic, &vec![0xee; SIZE]);
        let child = over(plan(&ranges));
        let seen = seen(&child, 0xee);
        let bytes = file(&child, VdiKind::Dynamic, &seen);
        let folder = Folder::new().with("child.vdi", bytes).with("base.vdi", parent);
        let mut chain = open(&folder, "child.vdi", options()).unwrap();
        prop_assert!(read_all(&folder, &mut chain).unwrap() == seen);
        let report = run(chain.check(0), &folder).unwrap();
        prop_assert_eq!(report.findings, vec![]);
    }

    #[test]
    fn changed_bytes_never_panic_or_go_on_for_ever(
        changes in vec((64..600_usize, any::<u8>()), 1..6),
        is_child in any::<bool>(),
    ) {
        let mut bytes = if is_child { child() } else { base() };
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        let folder = Folder::new().with("child.vdi", bytes).with("base.vdi", base());
        if let Ok(mut chain) = open(&folder, "child.vdi", options()) {
            let size = chain.virtual_size().min(SIZE as u64 * 4);
            let _ = read(&folder, &mut chain, 0..size);
            let _ = map(&folder, &mut chain, 0..size);
            let _ = run(chain.check(0), &folder);
            prop_assert!(chain.files().contains(&FileId(0)));
        }
    }
}
