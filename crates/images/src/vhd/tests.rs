//! VHD files of our own making, read back whole, and damaged in one place each.

use proptest::{collection::vec, prelude::*};

use super::{
    header::{LOCATOR, LOCATORS},
    sum,
    write::{VhdKind, VhdOptions, identity, layout},
};
use crate::{
    Class, Fault, FileId, Format, Identity, Kind, OpenOptions, Purpose, Report, Severity,
    layout::{Held, ParentPlan, Plan, Unwritable},
    testing::{Folder, map, open, read, read_all, render, run},
};

const SIZE: usize = 1 << 20;
const BLOCK: u32 = 64 << 10;
const MADE_S: u64 = 946_684_800 + 700_000_000;

/// What the guest has: no byte is zero, no sector is like the next.
fn guest(size: usize) -> Vec<u8> {
    (0..size).map(|at| u8::try_from((at / 512 * 7 + at) % 255 + 1).unwrap()).collect()
}

fn plan(held: &[(u64, u64, bool)]) -> Plan {
    let held = held.iter().map(|&(start, len, zero)| Held { start, len, zero }).collect();
    Plan { virtual_size: SIZE as u64, held, parent: None, seed: [7; 32], made_s: MADE_S }
}

fn dynamic() -> VhdOptions {
    VhdOptions { kind: VhdKind::Dynamic, block_bytes: BLOCK }
}

fn fixed() -> VhdOptions {
    VhdOptions { kind: VhdKind::Fixed, ..dynamic() }
}

fn file(plan: &Plan, options: VhdOptions, guest: &[u8]) -> Vec<u8> {
    render(&*layout(plan, &options).unwrap()[0].layout, guest, 1 << 20)
}

/// A dynamic disk that holds blocks 0, 3 and 15.
fn sample() -> Vec<u8> {
    let plan = plan(&[(0, 65536, false), (3 << 16, 1024, false), ((1 << 20) - 512, 512, false)]);
    file(&plan, dynamic(), &guest(SIZE))
}

/// A child of [`sample`] that holds sectors 1 to 3 and, as zero, 5 and 6; the rest of its block is
/// junk.
fn sample_child() -> Vec<u8> {
    let mut plan = plan(&[(512, 1536, false), (2560, 1024, true)]);
    let own = Plan { seed: [7; 32], ..plan.clone() };
    plan.seed = [9; 32];
    plan.parent = Some(ParentPlan {
        name: "base.vhd".to_owned(),
        format: Format::Vhd,
        identity: identity(&own),
        virtual_size: SIZE as u64,
    });
    let mut seen = vec![0xcc; SIZE];
    seen[2560..3584].fill(0);
    let mut child = file(&plan, dynamic(), &seen);
    let data = child.len() - 512 - 65536;
    for (at, byte) in child[data..data + 65536].iter_mut().enumerate() {
        if !(512..2048).contains(&at) && !(2560..3584).contains(&at) {
            *byte = 0xdb;
        }
    }
    child
}

/// Where the table of [`sample`] is; three blocks follow it.
const TABLE: usize = 512 + 1024;
const DATA: usize = TABLE + 512;
const UNIT: usize = 512 + 65536;

/// Changes the footer at the end, and its copy where there is one; their sums are made right again.
fn foot(mut bytes: Vec<u8>, at: usize, field: &[u8]) -> Vec<u8> {
    let end = bytes.len() - 512;
    let places = if bytes.starts_with(b"conectix") { vec![0, end] } else { vec![end] };
    for place in places {
        bytes[place + at..place + at + field.len()].copy_from_slice(field);
        let sum = sum(&bytes[place..place + 512], 64);
        bytes[place + 64..place + 68].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

/// Changes the header and makes its sum right again.
fn head(mut bytes: Vec<u8>, at: usize, field: &[u8]) -> Vec<u8> {
    bytes[512 + at..512 + at + field.len()].copy_from_slice(field);
    let sum = sum(&bytes[512..1536], 36);
    bytes[548..552].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn put(mut bytes: Vec<u8>, at: usize, field: &[u8]) -> Vec<u8> {
    bytes[at..at + field.len()].copy_from_slice(field);
    bytes
}

fn options() -> OpenOptions {
    OpenOptions { format: Some(Format::Vhd), ..OpenOptions::default() }
}

fn open_error(bytes: Vec<u8>) -> Option<Class> {
    open(&Folder::new().with("a.vhd", bytes), "a.vhd", options()).err().map(|fault| fault.class)
}

fn chain_error(child: Vec<u8>, base: Vec<u8>) -> Option<Class> {
    let folder = Folder::new().with("child.vhd", child).with("base.vhd", base);
    open(&folder, "child.vhd", options()).err().map(|fault| fault.class)
}

/// The bytes of an image, and what was noted at opening.
fn whole(bytes: Vec<u8>) -> Result<(Vec<u8>, Vec<Class>), Fault> {
    let folder = Folder::new().with("a.vhd", bytes);
    let mut chain = open(&folder, "a.vhd", options())?;
    let notes = chain.layers()[0].notes().iter().map(|note| note.class).collect();
    Ok((read_all(&folder, &mut chain)?, notes))
}

fn check(bytes: Vec<u8>) -> Report {
    let folder = Folder::new().with("a.vhd", bytes);
    let mut chain = open(&folder, "a.vhd", options()).unwrap();
    let report = run(chain.check(0), &folder).unwrap();
    assert_eq!(run(chain.check(0), &folder).unwrap(), report, "a second check differs");
    report
}

/// What the guest sees of a plan over zeroes.
fn seen(plan: &Plan, guest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; guest.len()];
    for held in plan.held.iter().filter(|held| !held.zero) {
        let range =
            usize::try_from(held.start).unwrap()..usize::try_from(held.start + held.len).unwrap();
        bytes[range.clone()].copy_from_slice(&guest[range]);
    }
    bytes
}

#[test]
fn footer_says_what_the_specification_wants() {
    let bytes = file(&plan(&[]), fixed(), &guest(SIZE));
    let footer = &bytes[SIZE..];
    assert_eq!(footer.len(), 512);
    assert_eq!(&footer[..8], b"conectix");
    assert_eq!(&footer[16..24], &[0xff; 8]);
    assert_eq!(&footer[24..32], [&700_000_000_u32.to_be_bytes()[..], b"win "].concat());
    // 1 MiB: 2048 sectors, 17 a track, 4 heads, 30 cylinders (appendix of the specification).
    assert_eq!(
        &footer[40..60],
        [&[0, 0, 0, 0, 0, 0x10, 0, 0].repeat(2)[..], &[0, 30, 4, 17]].concat()
    );
    let all: u32 = footer.iter().map(|byte| u32::from(*byte)).sum();
    let field = &footer[64..68];
    let own: u32 = field.iter().map(|byte| u32::from(*byte)).sum();
    assert_eq!(u32::from_be_bytes(field.try_into().unwrap()), !(all - own));
}

#[test]
fn geometry_follows_the_appendix() {
    for (sectors, found) in [
        (68, (1, 4, 17)),
        (17 * 4 * 1024 - 1, (1023, 4, 17)),
        (17 * 4 * 1024, (140, 16, 31)),
        (17 * (4 * 1024 + 1), (819, 5, 17)),
        (17 * 16 * 1024 - 1, (1023, 16, 17)),
        (17 * 16 * 1024, (561, 16, 31)),
        (31 * 16 * 1024, (503, 16, 63)),
        (63 * 16 * 65535 - 1, (65534, 16, 63)),
        (63 * 16 * 65535, (16191, 16, 255)),
        (u64::MAX / 512, (65535, 16, 255)),
    ] {
        assert_eq!(super::footer::geometry(sectors), found, "{sectors}");
    }
}

#[test]
fn creator_decides_the_size() {
    let (plan, guest) = (plan(&[]), guest(SIZE));
    for bytes in [file(&plan, dynamic(), &guest), file(&plan, fixed(), &guest)] {
        let size = |creator: &[u8; 4], geometry: [u8; 4]| {
            let bytes = foot(foot(bytes.clone(), 28, creator), 56, &geometry);
            let folder = Folder::new().with("a.vhd", bytes);
            let chain = open(&folder, "a.vhd", options()).unwrap();
            let notes = chain.layers()[0].notes().iter().map(|note| note.class);
            let mut notes: Vec<Class> = notes.collect();
            notes.dedup(); // a fixed disk has bytes between what the guest saw and the footer
            (chain.virtual_size(), notes)
        };
        let noted = vec![Class::SizeMismatch];
        let by_geometry = 30 * 4 * 17 * 512;
        for creator in [b"win ", b"qem2", b"d2v ", b"tap\0", b"CTXS", b"wa\0\0", b"vbox", b"what"] {
            assert_eq!(size(creator, [0, 30, 4, 17]), (1 << 20, vec![]), "{creator:?}");
        }
        for creator in [b"vpc ", b"vs  "] {
            assert_eq!(size(creator, [0, 30, 4, 17]), (1 << 20, noted.clone()), "{creator:?}");
        }
        assert_eq!(size(b"qemu", [0, 30, 4, 17]), (by_geometry, noted));
        // 2048 sectors, none, and more than a geometry can say.
        for geometry in [[0, 32, 4, 16], [0, 0, 4, 17], [0xff, 0xff, 16, 255]] {
            assert_eq!(size(b"qemu", geometry), (1 << 20, vec![]), "{geometry:?}");
        }
    }
}

#[test]
fn damaged_footer_or_header_is_told_by_class() {
    let good = sample();
    assert_eq!(open_error(good.clone()), None);
    let end = good.len() - 512;
    let be = |value: u64| value.to_be_bytes();
    let xor = |at: usize| put(good.clone(), at, &[!good[at]]);
    let cases = [
        (put(xor(100), end + 100, &[1]), Class::BadChecksum),
        (put(put(good.clone(), 0, &[0; 512]), end, &[0; 512]), Class::BadMagic),
        (foot(good.clone(), 12, &[0, 2, 0, 0]), Class::UnknownVersion),
        (foot(good.clone(), 60, &[0, 0, 0, 9]), Class::BadField),
        (foot(good.clone(), 48, &be(0)), Class::BadField),
        (foot(good.clone(), 48, &be((1 << 20) + 7)), Class::BadField),
        (foot(good.clone(), 48, &be(1 << 62)), Class::Limit),
        (foot(good.clone(), 48, &be(1 << 33)), Class::TableTooSmall),
        (foot(good.clone(), 16, &be(1 << 40)), Class::PointerOutsideFile),
        (foot(good.clone(), 16, &be(100)), Class::BadMagic),
        (xor(512), Class::BadMagic),
        (xor(1200), Class::BadChecksum),
        (head(good.clone(), 24, &[0, 3, 0, 0]), Class::UnknownVersion),
        (head(good.clone(), 16, &be(1 << 40)), Class::PointerOutsideFile),
        (head(good.clone(), 16, &be(600)), Class::Overlap),
        (head(good.clone(), 16, &be(0)), Class::Overlap),
        (head(good.clone(), 16, &be(u64::try_from(end).unwrap())), Class::Overlap),
        (head(good.clone(), 28, &u32::MAX.to_be_bytes()), Class::Limit),
        (head(good.clone(), 28, &15_u32.to_be_bytes()), Class::TableTooSmall),
        (head(good.clone(), 32, &0_u32.to_be_bytes()), Class::BadField),
        (head(good.clone(), 32, &(3_u32 << 15).to_be_bytes()), Class::BadField),
        (head(good.clone(), 32, &256_u32.to_be_bytes()), Class::BadField),
        (head(good.clone(), 32, &(1_u32 << 31).to_be_bytes()), Class::Limit),
        (good[..100].to_vec(), Class::BadMagic),
        (Vec::new(), Class::BadMagic),
        ([b"QFI\xfb".to_vec(), vec![0; 4096]].concat(), Class::BadMagic),
        (guest(SIZE / 2), Class::Truncated),
    ];
    for (place, (bytes, class)) in cases.into_iter().enumerate() {
        assert_eq!(open_error(bytes), Some(class), "case {place}");
    }
}

#[test]
fn one_good_footer_of_two_is_enough() {
    let good = sample();
    let (bytes, notes) = whole(good.clone()).unwrap();
    assert_eq!(notes, []);
    let end = good.len() - 512;
    let noted = |damaged: Vec<u8>| {
        let (read, notes) = whole(damaged).unwrap();
        assert!(read == bytes);
        notes
    };
    assert_eq!(noted(good[..end].to_vec()), [Class::Truncated]);
    assert_eq!(noted(put(good.clone(), end + 200, &[1])), [Class::BadChecksum]);
    assert_eq!(noted(put(good.clone(), 200, &[1])), [Class::BadChecksum]);
    assert_eq!(noted(put(good.clone(), 0, &[0; 512])), [Class::CopiesDiffer]);
    // Another time: no byte of the guest's depends on it. Another size: which one?
    let time = foot(good.clone(), 24, &[1, 2, 3, 4]);
    assert_eq!(noted(put(good.clone(), 0, &time[..512])), [Class::CopiesDiffer]);
    let size = foot(good.clone(), 48, &(1_u64 << 19).to_be_bytes());
    assert_eq!(open_error(put(good, 0, &size[..512])), Some(Class::CopiesDiffer));
}

#[test]
fn what_the_guest_wrote_at_the_head_is_no_footer() {
    let dynamic = sample();
    let mut guest = guest(SIZE);
    guest[..2048].copy_from_slice(&dynamic[..2048]);
    let good = file(&plan(&[(0, SIZE as u64, false)]), fixed(), &guest);
    assert!(whole(good.clone()).unwrap().0 == guest);
    assert_eq!(open_error(put(good, SIZE + 200, &[1])), Some(Class::BadChecksum));
}

#[test]
fn footer_of_511_bytes_is_read() {
    let guest = guest(SIZE);
    let mut bytes = file(&plan(&[(0, SIZE as u64, false)]), fixed(), &guest);
    bytes.pop();
    assert!(whole(bytes).unwrap() == (guest, vec![]));
}

#[test]
fn fixed_disk_that_is_cut_fails_where_it_is_cut() {
    let guest = guest(SIZE);
    let good = file(&plan(&[(0, SIZE as u64, false)]), fixed(), &guest);
    let short = [&good[..4096], &good[SIZE..]].concat();
    let folder = Folder::new().with("a.vhd", short.clone());
    let mut chain = open(&folder, "a.vhd", options()).unwrap();
    assert_eq!(read(&folder, &mut chain, 0..4096).unwrap(), guest[..4096]);
    assert_eq!(read(&folder, &mut chain, 4095..4097).unwrap_err().class, Class::Truncated);
    assert_eq!(read(&folder, &mut chain, 8192..8193).unwrap_err().class, Class::Truncated);
    assert!(check(short).has(Class::Truncated));
    let long = [&good[..SIZE], &[0; 512][..], &good[SIZE..]].concat();
    assert!(whole(long).unwrap() == (guest, vec![Class::SizeMismatch]));
}

#[test]
fn damaged_entry_damages_its_block_alone() {
    let good = sample();
    let (bytes, _) = whole(good.clone()).unwrap();
    let end = u32::try_from((good.len() - 512) / 512).unwrap();
    let first = u32::from_be_bytes(good[TABLE..TABLE + 4].try_into().unwrap());
    for (block, entry, class) in [
        (3, 0x7fff_fff0, Class::PointerOutsideFile),
        (3, end, Class::PointerOutsideFile),
        (3, 1, Class::Overlap),
        (3, 3, Class::Overlap),
        (15, first, Class::Overlap),
        (15, first + 1, Class::Overlap),
        (9, first + 130, Class::Overlap), // within block 3
    ] {
        let bad = put(good.clone(), TABLE + block * 4, &entry.to_be_bytes());
        assert!(check(bad.clone()).worst() == Some(Severity::Error));
        let folder = Folder::new().with("a.vhd", bad);
        let mut chain = open(&folder, "a.vhd", options()).unwrap();
        let found = map(&folder, &mut chain, 0..SIZE as u64).unwrap();
        let corrupt: Vec<_> = found
            .iter()
            .filter_map(|part| match &part.extent.kind {
                Kind::Corrupt(fault) => Some((part.extent.start >> 16, fault.class)),
                _ => None,
            })
            .collect();
        assert_eq!(corrupt, [(block as u64, class)], "entry {entry} of block {block}");
        assert!(read(&folder, &mut chain, 0..65536).unwrap() == bytes[..65536]);
    }
}

#[test]
fn block_that_is_cut_is_good_up_to_there() {
    let mut good = sample();
    good.truncate(good.len() - 512 - 100);
    let folder = Folder::new().with("a.vhd", good.clone());
    let mut chain = open(&folder, "a.vhd", options()).unwrap();
    assert!(chain.layers()[0].notes()[0].class == Class::Truncated);
    let size = SIZE as u64;
    assert_eq!(read(&folder, &mut chain, size - 4096..size - 512).unwrap(), [0; 3584]);
    assert_eq!(read(&folder, &mut chain, size - 512..size).unwrap_err().class, Class::Truncated);
    assert_eq!(read(&folder, &mut chain, size - 1..size).unwrap_err().class, Class::Truncated);
    assert!(check(good.clone()).has(Class::Truncated));
    // Within the bitmap: nothing is known of the block.
    good.truncate(DATA + 2 * UNIT + 100);
    let folder = Folder::new().with("a.vhd", good);
    let mut chain = open(&folder, "a.vhd", options()).unwrap();
    assert_eq!(read(&folder, &mut chain, size - 65536..size).unwrap_err().class, Class::Truncated);
    assert!(read(&folder, &mut chain, 0..size - 65536).is_ok());
}

#[test]
fn bytes_behind_clear_bits_are_zero_and_told() {
    let good = sample();
    let report = check(good.clone());
    assert_eq!((report.findings.len(), report.units_data, report.units_leaked), (0, 3, 0));
    // Sectors 0 to 7 of block 0 are cleared, and those of block 3 that are zero in any case.
    let clear = put(good.clone(), DATA, &[0]);
    let clear = put(clear, DATA + UNIT + 8, &[0; 8]);
    let report = check(clear.clone());
    assert_eq!(report.findings.len(), 1);
    assert!(report.has(Class::AmbiguousBitmap));
    let (bytes, _) = whole(clear).unwrap();
    assert_eq!(bytes[..4096], [0; 4096]);
    assert!(bytes[4096..] == whole(good).unwrap().0[4096..]);
}

#[test]
fn blocks_that_nothing_leads_to_are_counted() {
    let free = put(sample(), TABLE + 12, &[0xff; 4]);
    let report = check(free);
    assert_eq!((report.units_data, report.units_leaked), (2, 1));
}

#[test]
fn saved_state_forbids_writing() {
    let bytes = foot(sample(), 84, &[1]);
    let folder = Folder::new().with("a.vhd", bytes.clone());
    assert!(whole(bytes).is_ok());
    let write = OpenOptions { purpose: Purpose::Write, ..options() };
    assert_eq!(open(&folder, "a.vhd", write).err().unwrap().class, Class::SavedState);
    // One of two footers is enough to be careful.
    let end = foot(sample(), 84, &[1]);
    let mixed = put(sample(), 0, &end[..512]);
    let chain = open(&Folder::new().with("a.vhd", mixed), "a.vhd", options()).unwrap();
    assert_eq!(chain.layers()[0].facts().read_only, Some(Class::SavedState));
}

#[test]
fn child_holds_its_sectors_and_shows_its_parent() {
    let folder = Folder::new().with("child.vhd", sample_child()).with("base.vhd", sample());
    let mut chain = open(&folder, "child.vhd", options()).unwrap();
    let mut wanted = whole(sample()).unwrap().0;
    wanted[512..2048].fill(0xcc);
    wanted[2560..3584].fill(0);
    assert!(read_all(&folder, &mut chain).unwrap() == wanted);
    let layers = chain.layers();
    assert_eq!(layers.len(), 2);
    assert!(layers.iter().all(|layer| layer.notes().is_empty()));
    assert_eq!(layers[0].facts().variant, "differencing");
    assert_eq!(layers[0].facts().parent.as_ref().unwrap().identity, layers[1].facts().identity,);
    let report = run(chain.check(0), &folder).unwrap();
    assert_eq!((report.findings.len(), report.units_data), (0, 1));
}

#[test]
fn sectors_that_share_a_byte_of_bits_are_filled_in() {
    let mut child = plan(&[(512, 512, false), (8192, 512, true)]);
    child.parent = Some(ParentPlan {
        name: "base.vhd".to_owned(),
        format: Format::Vhd,
        identity: identity(&child),
        virtual_size: SIZE as u64,
    });
    let guest = guest(SIZE);
    let bytes = file(&child, dynamic(), &guest);
    let block = bytes.len() - 512 - 65536;
    assert_eq!(bytes[block - 512..block - 509], [0x40, 0, 0x80]);
    assert_eq!(bytes[block..block + 4096], guest[..4096]);
    assert_eq!(bytes[block + 4096..block + 8192], [0; 4096]);
    assert_eq!(bytes[block + 8192..block + 12288], guest[8192..12288]);
    assert!(bytes[block + 12288..bytes.len() - 512].iter().all(|byte| *byte == 0));
}

#[test]
fn parent_must_be_the_one_it_was_made_over() {
    let (child, base) = (sample_child(), sample());
    assert_eq!(chain_error(child.clone(), base.clone()), None);
    let other = foot(base.clone(), 68, &[1; 16]);
    assert_eq!(chain_error(child.clone(), other), Some(Class::ParentMismatch));
    let small = foot(base.clone(), 48, &(1_u64 << 19).to_be_bytes());
    assert_eq!(chain_error(child.clone(), small), Some(Class::ParentSize));
    let itself = head(child.clone(), LOCATORS, &[0; 4]);
    let itself = head(itself, 64, b"\0c\0h\0i\0l\0d\0.\0v\0h\0d\0\0");
    assert_eq!(chain_error(itself, base.clone()), Some(Class::ChainLoop));
    // The time is a hint.
    let later = foot(base, 24, &[1, 2, 3, 4]);
    let folder = Folder::new().with("child.vhd", child.clone()).with("base.vhd", later);
    let chain = open(&folder, "child.vhd", options()).unwrap();
    assert_eq!(chain.layers()[0].notes()[0].class, Class::ParentTime);
    let alone = Folder::new().with("child.vhd", child);
    let fault = open(&alone, "child.vhd", options()).err().unwrap();
    assert_eq!(fault.class, Class::ParentMissing);
    let inspect = OpenOptions { purpose: Purpose::Inspect, ..options() };
    assert!(open(&alone, "child.vhd", inspect).is_ok());
}

/// A child whose first locator has this code and these bytes, and whose field has that name.
fn named(code: [u8; 4], name: &[u8], field: &str) -> Vec<u8> {
    let child = put(sample_child(), TABLE, name);
    let len = u32::try_from(name.len()).unwrap();
    let child = head(child, LOCATORS, &code);
    let child = head(child, LOCATORS + 8, &len.to_be_bytes());
    let mut bytes: Vec<u8> = field.encode_utf16().flat_map(u16::to_be_bytes).collect();
    bytes.resize(512, 0);
    head(child, 64, &bytes)
}

fn wide_name(name: &str) -> Vec<u8> {
    name.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

#[test]
fn parent_is_found_by_each_kind_of_name() {
    let found = |child: Vec<u8>| chain_error(child, sample());
    assert_eq!(found(named(*b"W2ru", &wide_name(".\\x\\..\\base.vhd\0"), "")), None);
    assert_eq!(found(named(*b"W2ku", &wide_name("base.vhd"), "")), None);
    assert_eq!(found(named(*b"Wi2r", b".\\base.vhd", "")), None);
    assert_eq!(found(named(*b"Wi2k", b"base.vhd", "")), None);
    assert_eq!(found(named(*b"W2ru", &wide_name("gone.vhd"), "base.vhd")), None);
    assert_eq!(found(named(*b"W2ku", &wide_name("C:\\vm\\gone.vhd"), "D:\\vm\\base.vhd")), None);
    assert_eq!(found(named(*b"MacX", b"file:///base.vhd", "base.vhd")), None);
    let forbidden = Some(Class::ParentNameForbidden);
    assert_eq!(found(named(*b"W2ku", &wide_name("C:\\base.vhd"), "")), forbidden);
    assert_eq!(found(named(*b"W2ku", &wide_name("\\\\server\\base.vhd"), "x.vhd")), forbidden);
    assert_eq!(found(named(*b"W2ru", &wide_name("..\\base.vhd"), "x.vhd")), forbidden);
    assert_eq!(found(named(*b"MacX", b"file:///base.vhd", "")), Some(Class::ParentMissing));
}

#[test]
fn damaged_name_of_a_parent_is_told_by_class() {
    let found = |child: Vec<u8>| chain_error(child, sample());
    let child = sample_child();
    assert_eq!(found(named(*b"W2ru", b"\0\xd8\x2e", "")), Some(Class::BadField));
    assert_eq!(found(named(*b"W2ru", b"\0\xd8", "base.vhd")), Some(Class::BadField));
    assert_eq!(found(named(*b"Wi2r", b"b\xe4se", "")), Some(Class::BadField));
    let long = head(child.clone(), LOCATORS + 8, &0x7fff_ffff_u32.to_be_bytes());
    assert_eq!(found(long), Some(Class::BadField));
    let outside = head(child.clone(), LOCATORS + 16, &(1_u64 << 40).to_be_bytes());
    assert_eq!(found(outside), Some(Class::PointerOutsideFile));
    let none = head(head(child, LOCATORS, &[0; LOCATOR]), 64, &[0; 512]);
    assert_eq!(found(none), Some(Class::ParentMissing));
}

#[test]
fn plans_that_no_vhd_can_hold_are_refused() {
    let refused = |plan: &Plan, options: &VhdOptions| layout(plan, options).err();
    let option = |plan: &Plan, options: &VhdOptions| {
        matches!(refused(plan, options), Some(Unwritable::Option { format: Format::Vhd, .. }))
    };
    let good = plan(&[]);
    assert!(refused(&good, &dynamic()).is_none());
    let large = Plan { virtual_size: (2040 << 30) + 512, ..good.clone() };
    assert!(matches!(refused(&large, &fixed()), Some(Unwritable::TooLarge { .. })));
    assert!(option(&Plan { virtual_size: 1000, ..good.clone() }, &dynamic()));
    assert!(option(&Plan { virtual_size: 0, ..good.clone() }, &dynamic()));
    assert!(option(&good, &VhdOptions { block_bytes: 3 << 20, ..dynamic() }));
    let parent = ParentPlan {
        name: "base.vhd".to_owned(),
        format: Format::Vhd,
        identity: Identity::Vhd { id: [1; 16], time: 5 },
        virtual_size: SIZE as u64,
    };
    let over = |parent: ParentPlan| Plan { parent: Some(parent), ..good.clone() };
    assert!(refused(&over(parent.clone()), &dynamic()).is_none());
    assert!(option(&over(parent.clone()), &fixed()));
    assert!(option(&over(ParentPlan { identity: Identity::None, ..parent.clone() }), &dynamic()));
    assert!(option(&over(ParentPlan { virtual_size: 512, ..parent.clone() }), &dynamic()));
    assert!(option(
        &over(ParentPlan { name: "../base.vhd".to_owned(), ..parent.clone() }),
        &dynamic()
    ));
    assert!(option(&over(ParentPlan { name: "n".repeat(256), ..parent }), &dynamic()));
}

#[test]
fn largest_disk_has_a_table_that_reaches_its_end() {
    let size = 2040 << 30;
    let held = vec![Held { start: 0, len: size, zero: false }];
    let plan = Plan { virtual_size: size, held, ..plan(&[]) };
    let layout = &layout(&plan, &VhdOptions::default()).unwrap()[0].layout;
    let blocks = 2040 * 512;
    let data = 1536 + blocks * 4;
    assert_eq!(layout.len(), data + blocks * (512 + (2 << 20)) + 512);
    let last = layout.pieces(data - 4..data);
    let crate::layout::Content::Table(entry) = &last[0].content else { panic!("{last:?}") };
    let at = u64::from(u32::from_be_bytes(entry[..].try_into().unwrap())) * 512;
    assert_eq!(at, data + (blocks - 1) * (512 + (2 << 20)));
}

/// Ranges of a plan: gaps and lengths in bytes, mostly in sectors.
fn ranges() -> impl Strategy<Value = Vec<(u64, u64, bool)>> {
    let part = (0..300_u64, 1..200_u64, any::<bool>(), prop_oneof![Just(512_u64), Just(500)]);
    vec(part, 0..12).prop_map(|parts| {
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn written_disks_read_back(
        ranges in ranges(),
        windows in vec((0..SIZE as u64, 1..200_000_u64), 1..8),
        window in 1..50_000_u64,
    ) {
        let (plan, guest) = (plan(&ranges), guest(SIZE));
        let seen = seen(&plan, &guest);
        for options in [fixed(), dynamic(), VhdOptions { block_bytes: 1 << 17, ..dynamic() }] {
            let layout = &layout(&plan, &options).unwrap()[0].layout;
            let bytes = render(&**layout, &seen, 1 << 21);
            prop_assert!(bytes == render(&**layout, &seen, window), "windows of the file differ");
            let folder = Folder::new().with("a.vhd", bytes);
            let mut chain = open(&folder, "a.vhd", options_none()).unwrap();
            prop_assert!(read_all(&folder, &mut chain).unwrap() == seen);
            for &(start, len) in &windows {
                let end = (start + len).min(SIZE as u64);
                let part = read(&folder, &mut chain, start..end).unwrap();
                prop_assert!(part == seen[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()]);
            }
            let report = run(chain.check(0), &folder).unwrap();
            prop_assert_eq!(report.findings, vec![]);
        }
    }

    #[test]
    fn written_children_show_what_the_plan_says(ranges in ranges()) {
        let base = file(&plan(&[(0, SIZE as u64, false)]), dynamic(), &vec![0xee; SIZE]);
        let mut child = plan(&ranges);
        child.parent = Some(ParentPlan {
            name: "base.vhd".to_owned(),
            format: Format::Vhd,
            identity: identity(&child),
            virtual_size: SIZE as u64,
        });
        child.seed = [1; 32];
        // What the guest sees of the child: the parent's bytes where it holds nothing.
        let mut seen = vec![0xee; SIZE];
        let data = guest(SIZE);
        for held in &child.held {
            for at in usize::try_from(held.start).unwrap()..usize::try_from(held.start + held.len).unwrap() {
                seen[at] = if held.zero { 0 } else { data[at] };
            }
        }
        let bytes = file(&child, dynamic(), &seen);
        let folder = Folder::new().with("child.vhd", bytes).with("base.vhd", base);
        let mut chain = open(&folder, "child.vhd", options()).unwrap();
        prop_assert!(read_all(&folder, &mut chain).unwrap() == seen);
    }

    #[test]
    fn changed_bytes_never_panic_or_go_on_for_ever(
        changes in vec((0..4096_usize, any::<u8>(), any::<bool>()), 1..6),
        is_child in any::<bool>(),
    ) {
        let mut bytes = if is_child { sample_child() } else { sample() };
        let end = bytes.len() - 512;
        for (at, byte, from_end) in changes {
            // The structures are at the head and at the end; sums are made right below.
            let place = if from_end { end + at % 512 } else { at };
            bytes[place] = byte;
        }
        for (place, len, field) in [(0, 512, 64), (512, 1024, 36), (end, 512, 64)] {
            let sum = sum(&bytes[place..place + len], field);
            bytes[place + field..place + field + 4].copy_from_slice(&sum.to_be_bytes());
        }
        let folder = Folder::new().with("child.vhd", bytes).with("base.vhd", sample());
        if let Ok(mut chain) = open(&folder, "child.vhd", options()) {
            let size = chain.virtual_size().min(SIZE as u64 * 4);
            let _ = read(&folder, &mut chain, 0..size);
            let _ = map(&folder, &mut chain, 0..size);
            let _ = run(chain.check(0), &folder);
            prop_assert!(chain.files().contains(&FileId(0)));
        }
    }
}

/// Nothing told: the format is detected.
fn options_none() -> OpenOptions {
    OpenOptions::default()
}
