//! Images made by hand: what they read as, and the class of every fault.

mod build;
mod log;
mod write;

use proptest::{collection::vec, prelude::*};

use build::{BAT, BLOCKS, Build, DATA_WRITE, Image, METADATA, MIB, low};

use super::guid;
use crate::{
    Chain, Class, Format, Identity, Kind, OpenOptions, Report,
    bytes::{narrow, wide},
    limits,
    testing::{Folder, map, open, read, read_all, run},
};

/// Name, class, and what is changed in a good image.
type Case = (&'static str, Class, fn(&mut Image));
type Damage = (Class, fn(&mut Image));
/// The same, with the place of a structure.
type DamageAt = (Class, fn(&mut Image, u64));

fn folder(image: &Image) -> Folder {
    Folder::new().with("a.vhdx", image.0.clone())
}

fn opened(folder: &Folder) -> Result<Chain, Class> {
    let options = OpenOptions { format: Some(Format::Vhdx), ..OpenOptions::default() };
    open(folder, "a.vhdx", options).map_err(|fault| fault.class)
}

/// The class at opening, else at reading all.
fn class(image: &Image) -> Option<(&'static str, Class)> {
    let folder = folder(image);
    match opened(&folder) {
        Err(class) => Some(("open", class)),
        Ok(mut chain) => read_all(&folder, &mut chain).err().map(|fault| ("read", fault.class)),
    }
}

fn checked(folder: &Folder, layer: usize) -> Report {
    let mut chain = opened(folder).unwrap();
    run(chain.check(layer), folder).unwrap()
}

/// Parent and child, the child's image changed.
fn pair(change: impl FnOnce(&mut Image)) -> Folder {
    let mut child = Build::child("base.vhdx").image();
    change(&mut child);
    folder(&child).with("base.vhdx", Build::default().image().0)
}

#[test]
fn dynamic_disk_reads_as_it_was_made() {
    let build = Build::default();
    let folder = folder(&build.image());
    let mut chain = opened(&folder).unwrap();
    assert_eq!(read_all(&folder, &mut chain).unwrap(), build.guest());
    let facts = chain.layers()[0].facts();
    assert_eq!((facts.variant, facts.unit, facts.sector), ("dynamic", MIB, 512));
    assert_eq!(facts.creator.as_deref(), Some("test"));
    let identity = Identity::Vhdx { file_write: [0xf0; 16], data_write: DATA_WRITE };
    assert_eq!(facts.identity, identity);
    assert!(facts.notes.is_empty() && facts.read_only.is_none(), "{:?}", facts.notes);
    let report = checked(&folder, 0);
    assert_eq!((report.worst(), report.units_data, report.units_leaked), (None, 2, 0));
}

#[test]
fn states_without_bytes_read_as_zero() {
    for state in 0..=3 {
        // Such states may keep the place that their block had.
        let entries = vec![(0, BLOCKS | state), (2, (BLOCKS + MIB) | 6)];
        let build = Build { entries, ..Build::default() };
        let folder = folder(&build.image());
        let mut chain = opened(&folder).unwrap();
        let mut guest = build.guest();
        guest[..narrow(MIB)].fill(0);
        assert_eq!(read_all(&folder, &mut chain).unwrap(), guest);
        let first = run(chain.layer_map(0, 0..MIB), &folder).unwrap().remove(0);
        assert_eq!(first.kind, if state == 0 { Kind::Hole } else { Kind::Zero });
    }
}

#[test]
fn faults_of_header_section_refuse_the_file() {
    let cases: [Case; 17] = [
        ("magic", Class::BadMagic, |x| x.put(7, b"f")),
        ("short file", Class::Truncated, |x| x.0.truncate(100 << 10)),
        ("empty file", Class::BadMagic, |x| x.0.clear()),
        ("both headers torn", Class::BadChecksum, |x| {
            x.put((64 << 10) + 100, b"?");
            x.put((128 << 10) + 100, b"?");
        }),
        ("no header", Class::BadMagic, |x| {
            x.put(64 << 10, &[0; 4096]);
            x.put(128 << 10, &[0; 4096]);
        }),
        ("headers of one number", Class::AmbiguousHeader, |x| {
            x.put((64 << 10) + 8, &[8]);
            x.put((64 << 10) + 16, b"other");
            x.seal();
        }),
        ("file version", Class::UnknownVersion, |x| x.put_header(66, &[2])),
        ("log version", Class::UnknownVersion, |x| x.put_header(64, &[1])),
        ("both region tables torn", Class::BadChecksum, |x| {
            x.put((192 << 10) + 100, b"?");
            x.put((256 << 10) + 100, b"?");
        }),
        ("too many regions", Class::Limit, |x| x.put_regions(8, &low(2048))),
        ("no block table", Class::MissingPart, |x| x.put_regions(16, b"other")),
        ("region twice", Class::BadField, |x| x.put_regions(48, &guid::BAT)),
        ("region outside", Class::PointerOutsideFile, |x| {
            x.put_regions(32, &(1_u64 << 50).to_le_bytes());
        }),
        ("region misaligned", Class::PointerMisaligned, |x| {
            x.put_regions(32, &(BAT + 4096).to_le_bytes());
        }),
        ("region of odd length", Class::BadField, |x| x.put_regions(40, &low(MIB - 4096))),
        ("regions meet", Class::Overlap, |x| x.put_regions(32, &METADATA.to_le_bytes())),
        ("region in the header", Class::Overlap, |x| x.put_regions(32, &[0; 8])),
    ];
    for (name, wanted, change) in cases {
        let mut image = Build::default().image();
        change(&mut image);
        assert_eq!(class(&image), Some(("open", wanted)), "{name}");
    }
}

#[test]
fn faults_of_metadata_refuse_the_file() {
    fn at(image: &Image, guid: &guid::Guid) -> u64 {
        image.item(guid).1
    }
    let cases: [Case; 21] = [
        ("magic", Class::BadMagic, |x| x.put(METADATA, b"M")),
        ("count", Class::Limit, |x| x.put(METADATA + 10, &[0, 8])),
        ("item outside", Class::PointerOutsideFile, |x| {
            x.put(x.item(&guid::VIRTUAL_SIZE).0 + 16, &low(0x7fff_ffff));
        }),
        ("item in the table", Class::Overlap, |x| {
            x.put(x.item(&guid::VIRTUAL_SIZE).0 + 16, &low(32));
        }),
        ("items meet", Class::Overlap, |x| {
            let place = low(at(x, &guid::FILE_PARAMETERS) - METADATA + 4);
            x.put(x.item(&guid::VIRTUAL_SIZE).0 + 16, &place);
        }),
        ("item of another length", Class::BadField, |x| {
            x.put(x.item(&guid::VIRTUAL_SIZE).0 + 20, &low(4));
        }),
        ("item twice", Class::BadField, |x| {
            x.put(x.item(&guid::DISK_ID).0, &guid::VIRTUAL_SIZE);
        }),
        ("no parameters", Class::MissingPart, |x| {
            x.put(x.item(&guid::FILE_PARAMETERS).0, b"other");
        }),
        ("no size", Class::MissingPart, |x| x.put(x.item(&guid::VIRTUAL_SIZE).0, b"other")),
        ("no sector", Class::MissingPart, |x| x.put(x.item(&guid::LOGICAL_SECTOR).0, b"other")),
        ("block 0", Class::BadField, |x| x.put(at(x, &guid::FILE_PARAMETERS), &low(0))),
        ("block 3 MiB", Class::BadField, |x| {
            x.put(at(x, &guid::FILE_PARAMETERS), &low(3 * MIB));
        }),
        ("block 512 MiB", Class::BadField, |x| {
            x.put(at(x, &guid::FILE_PARAMETERS), &low(512 * MIB));
        }),
        ("block 64 KiB", Class::BadField, |x| {
            x.put(at(x, &guid::FILE_PARAMETERS), &low(64 << 10));
        }),
        ("sector 1024", Class::BadField, |x| x.put(at(x, &guid::LOGICAL_SECTOR), &low(1024))),
        ("size 0", Class::BadField, |x| x.put(at(x, &guid::VIRTUAL_SIZE), &[0; 8])),
        ("size of odd sectors", Class::BadField, |x| {
            x.put(at(x, &guid::VIRTUAL_SIZE), &(3 * MIB + 100).to_le_bytes());
        }),
        ("size 65 TiB", Class::Limit, |x| {
            x.put(at(x, &guid::VIRTUAL_SIZE), &(65_u64 << 40).to_le_bytes());
        }),
        ("size past the table", Class::TableTooSmall, |x| {
            x.put(at(x, &guid::VIRTUAL_SIZE), &(1_u64 << 40).to_le_bytes());
        }),
        ("parent without locator", Class::MissingPart, |x| {
            x.put(at(x, &guid::FILE_PARAMETERS) + 4, &[2]);
        }),
        ("empty table", Class::TableTooSmall, |x| x.put_regions(40, &low(0))),
    ];
    for (name, wanted, change) in cases {
        let mut image = Build::default().image();
        change(&mut image);
        assert_eq!(class(&image), Some(("open", wanted)), "{name}");
    }
}

#[test]
fn unknown_things_refuse_only_if_required() {
    let other: guid::Guid = *b"something else!!";
    for (flags, wanted) in [(4, true), (5, true), (6, true), (0, false), (1, false)] {
        let more_items = vec![(other, vec![1; 8], flags)];
        let found = class(&Build { more_items, ..Build::default() }.image());
        let refused = Some(("open", Class::UnknownFeature)).filter(|_| wanted);
        assert_eq!(found, refused, "an item with flags {flags}");
    }
    for required in [0, 1] {
        let more_regions = vec![(other, 60 * MIB, 1 << 20, required)];
        let mut image = Build { more_regions, ..Build::default() }.image();
        image.put(61 * MIB - 1, &[0]);
        let refused = Some(("open", Class::UnknownFeature)).filter(|_| required == 1);
        assert_eq!(class(&image), refused, "a region");
    }
}

#[test]
fn damage_of_one_copy_is_a_note() {
    let cases: [Damage; 5] = [
        (Class::BadChecksum, |x| x.put((64 << 10) + 100, b"?")),
        (Class::BadChecksum, |x| x.put((128 << 10) + 100, b"?")),
        (Class::BadChecksum, |x| x.put((192 << 10) + 100, b"?")),
        (Class::BadChecksum, |x| x.put((256 << 10) + 100, b"?")),
        (Class::CopiesDiffer, |x| {
            x.put((256 << 10) + 8, &low(1));
            x.seal();
        }),
    ];
    for (wanted, change) in cases {
        let build = Build::default();
        let mut image = build.image();
        change(&mut image);
        let folder = folder(&image);
        let mut chain = opened(&folder).unwrap();
        assert_eq!(read_all(&folder, &mut chain).unwrap(), build.guest());
        let notes: Vec<Class> = chain.layers()[0].notes().iter().map(|note| note.class).collect();
        assert_eq!(notes, [wanted]);
        assert!(checked(&folder, 0).has(wanted));
    }
}

#[test]
fn bad_entry_damages_its_block_alone() {
    let end = BLOCKS + 2 * MIB;
    let second = 2 * MIB..3 * MIB;
    for (name, raw, wanted) in [
        ("outside", (1 << 50) | 6, Class::PointerOutsideFile),
        ("at the end", end | 6, Class::PointerOutsideFile),
        ("the header", 6, Class::Overlap),
        ("the log", MIB | 6, Class::Overlap),
        ("metadata", METADATA | 6, Class::Overlap),
        ("block table", BAT | 6, Class::Overlap),
        ("a block before", BLOCKS | 6, Class::Overlap),
        ("state 4", (BLOCKS + MIB) | 4, Class::BadField),
        ("state 5", (BLOCKS + MIB) | 5, Class::BadField),
        ("partial without a parent", (BLOCKS + MIB) | 7, Class::BadField),
    ] {
        let build = Build { entries: vec![(0, BLOCKS | 6), (2, raw)], ..Build::default() };
        let folder = folder(&build.image());
        let mut chain = opened(&folder).unwrap();
        let good = read(&folder, &mut chain, 0..2 * MIB).unwrap();
        assert_eq!(good, build.guest()[..narrow(2 * MIB)], "{name}");
        let bad = read(&folder, &mut chain, second.clone()).unwrap_err();
        assert_eq!(bad.class, wanted, "{name}");
        assert!(checked(&folder, 0).has(wanted), "{name}");
    }
}

#[test]
fn block_cut_by_the_end_is_read_as_far_as_it_goes() {
    let build = Build::default();
    let mut image = build.image();
    image.0.truncate(image.0.len() - 4096);
    let folder = folder(&image);
    let mut chain = opened(&folder).unwrap();
    let last = 3 * MIB - 4096;
    assert_eq!(read(&folder, &mut chain, 0..last).unwrap(), build.guest()[..narrow(last)]);
    assert_eq!(read(&folder, &mut chain, last..3 * MIB).unwrap_err().class, Class::Truncated);
    assert!(checked(&folder, 0).has(Class::Truncated));
}

#[test]
fn reserved_bits_are_found_by_a_check_alone() {
    let build =
        Build { entries: vec![(0, BLOCKS | 0x86), (2, (BLOCKS + MIB) | 6)], ..Build::default() };
    let folder = folder(&build.image());
    let mut chain = opened(&folder).unwrap();
    assert_eq!(read_all(&folder, &mut chain).unwrap(), build.guest());
    assert!(checked(&folder, 0).has(Class::ReservedBits));
}

#[test]
fn child_shows_its_parent_by_sectors() {
    let folder = pair(|_| ());
    let mut chain = opened(&folder).unwrap();
    assert_eq!(chain.layers().len(), 2);
    assert_eq!(chain.layers()[0].facts().variant, "differencing");
    let mut guest = Build::default().guest();
    guest[..narrow(MIB)].fill(0x11);
    guest[narrow(MIB) + 512..narrow(MIB) + 1536].fill(0x11);
    assert_eq!(read_all(&folder, &mut chain).unwrap(), guest);
    let kinds: Vec<(usize, u64)> = map(&folder, &mut chain, MIB..2 * MIB)
        .unwrap()
        .into_iter()
        .map(|mapped| (mapped.layer, mapped.extent.len))
        .collect();
    assert_eq!(kinds, [(1, 512), (0, 1024), (1, MIB - 1536)]);
    assert_eq!(checked(&folder, 0).worst(), None);
}

#[test]
fn sector_bitmap_that_is_not_there_damages_its_block() {
    let bitmap = BAT + 4096 * 8;
    for (name, raw, wanted) in [
        ("absent", 0, Class::MissingPart),
        ("outside", (1 << 50) | 6, Class::PointerOutsideFile),
        ("a block's place", BLOCKS | 6, Class::Overlap),
        ("in no state of one", BLOCKS | 3, Class::BadField),
    ] {
        let folder = pair(|image| image.put(bitmap, &u64::to_le_bytes(raw)));
        let mut chain = opened(&folder).unwrap();
        assert_eq!(read(&folder, &mut chain, 0..MIB).unwrap(), vec![0x11; 1 << 20], "{name}");
        let bad = read(&folder, &mut chain, MIB..MIB + 512).unwrap_err();
        assert_eq!(bad.class, wanted, "{name}");
        assert!(checked(&folder, 0).has(wanted), "{name}");
    }
    let folder = pair(|image| image.0.truncate(image.0.len() - 512));
    let mut chain = opened(&folder).unwrap();
    let bad = read(&folder, &mut chain, MIB..MIB + 512).unwrap_err();
    assert_eq!(bad.class, Class::Truncated);
}

#[test]
fn locator_faults_are_told_apart() {
    let linkage = || ("parent_linkage".to_owned(), guid::text(&DATA_WRITE));
    let path = |key: &str, path: &str| (key.to_owned(), path.to_owned());
    let relative = |name| path("relative_path", name);
    let found = |pairs: Vec<(String, String)>| {
        let child = Build { locator: Some(pairs), ..Build::child("") }.image();
        let folder = folder(&child).with("base.vhdx", Build::default().image().0);
        opened(&folder).map(|chain| chain.layers().len())
    };
    let other = guid::text(&[9; 16]);
    let pairs = |first: &str, second: Option<&str>| {
        let mut pairs = vec![path("parent_linkage", first), relative(".\\base.vhdx")];
        pairs.extend(second.map(|id| path("parent_linkage2", id)));
        pairs
    };
    let own = guid::text(&DATA_WRITE);
    for (pairs, wanted) in [
        (pairs(&own, None), Ok(2)),
        (pairs(&own.to_uppercase(), None), Ok(2)),
        (pairs(&other, None), Err(Class::ParentMismatch)),
        (pairs(&other, Some(&own)), Ok(2)),
        (pairs(&other, Some(&other)), Err(Class::ParentMismatch)),
        (pairs("{not-a-guid}", None), Err(Class::BadField)),
        (pairs(&own, Some("{}")), Err(Class::BadField)),
        (vec![linkage(), linkage()], Err(Class::BadField)),
        (vec![relative("base.vhdx")], Err(Class::MissingPart)),
        (vec![linkage()], Err(Class::ParentMissing)),
        (vec![linkage(), relative("gone.vhdx")], Err(Class::ParentMissing)),
        (vec![linkage(), relative("..\\base.vhdx")], Err(Class::ParentNameForbidden)),
        (vec![linkage(), relative("\\\\server\\base.vhdx")], Err(Class::ParentNameForbidden)),
        (vec![linkage(), relative(".\\a.vhdx")], Err(Class::ChainLoop)),
        (vec![linkage(), relative(".\\moved\\base.vhdx")], Ok(2)),
        (vec![linkage(), path("absolute_win32_path", "C:\\vm\\base.vhdx")], Ok(2)),
        (vec![linkage(), path("volume_path", "\\\\?\\Volume{1}\\base.vhdx")], Ok(2)),
        (
            vec![linkage(), relative("..\\x"), path("absolute_win32_path", "C:\\vm\\base.vhdx")],
            Ok(2),
        ),
    ] {
        assert_eq!(found(pairs.clone()), wanted, "{pairs:?}");
    }
}

#[test]
fn locator_bytes_are_bounded() {
    let at = |image: &Image| image.item(&guid::PARENT_LOCATOR).1;
    let cases: [DamageAt; 5] = [
        (Class::UnknownFeature, |x, at| x.put(at, b"another type")),
        (Class::PointerOutsideFile, |x, at| x.put(at + 20, &low(0x7fff_ffff))),
        (Class::PointerOutsideFile, |x, at| x.put(at + 24, &low(0xffff_ffff))),
        (Class::PointerOutsideFile, |x, at| x.put(at + 18, &[0xff, 0xff])),
        (Class::MissingPart, |x, at| x.put(at + 18, &[0, 0])),
    ];
    for (wanted, change) in cases {
        let folder = pair(|image| change(image, at(image)));
        assert_eq!(opened(&folder).err(), Some(wanted));
    }
    let folder = pair(|image| image.put(image.item(&guid::PARENT_LOCATOR).0 + 20, &low(12)));
    assert_eq!(opened(&folder).err(), Some(Class::BadField));
}

#[test]
fn parent_must_have_the_same_sector_and_may_be_smaller() {
    let with = |parent: Build| {
        let child = Build::child("base.vhdx").image();
        folder(&child).with("base.vhdx", parent.image().0)
    };
    let folder = with(Build { sector: 4096, ..Build::default() });
    assert_eq!(opened(&folder).err(), Some(Class::ParentMismatch));
    let folder = with(Build { size: 2 * MIB, entries: vec![(0, BLOCKS | 6)], ..Build::default() });
    let mut chain = opened(&folder).unwrap();
    assert_eq!(chain.layers()[0].notes()[0].class, Class::ParentSize);
    let past = read(&folder, &mut chain, 2 * MIB..3 * MIB).unwrap();
    assert_eq!(past, vec![0; 1 << 20]);
}

#[test]
fn chunk_has_its_bitmap_entry_between_blocks() {
    // Blocks of 256 MiB: 16 to a chunk, so that block 16 has entry 17.
    let size = 20 * 256 * MIB;
    let entries = vec![(17, BLOCKS | 6)];
    let build = Build { size, block: 256 * MIB, entries, ..Build::default() };
    let folder = folder(&build.image());
    let mut chain = opened(&folder).unwrap();
    let start = 16 * 256 * MIB;
    assert_eq!(read(&folder, &mut chain, start..start + MIB).unwrap(), build.blocks[..1 << 20]);
    let before = run(chain.layer_map(0, 0..size), &folder).unwrap();
    assert_eq!((before[0].len, &before[0].kind), (start, &Kind::Hole));
}

#[test]
fn large_table_is_read_by_pages() {
    // 5 TiB in blocks of 1 MiB: a table of 40 MiB, its last entry far behind.
    let size = 5 << 40;
    let blocks = size / MIB;
    let last = (blocks - 1) + (blocks - 1) / 4096;
    let bat_at = 8 * MIB;
    let build = Build { size, entries: vec![], ..Build::default() };
    let mut image = build.image();
    image.put_regions(32, &bat_at.to_le_bytes());
    image.put_regions(40, &low(41 * MIB));
    assert!(last * 8 > limits::RESIDENT_BYTES);
    image.put(bat_at + 41 * MIB - 1, &[0]);
    image.put(bat_at + last * 8, &(BLOCKS | 6).to_le_bytes());
    image.put(bat_at, &(BLOCKS | 6).to_le_bytes());
    let folder = folder(&image);
    let mut chain = opened(&folder).unwrap();
    let bytes = read(&folder, &mut chain, size - MIB..size).unwrap();
    assert_eq!(bytes, build.blocks[..1 << 20]);
    let mapped = map(&folder, &mut chain, 0..size).unwrap();
    let lengths: Vec<u64> = mapped.iter().map(|mapped| mapped.extent.len).collect();
    assert_eq!(lengths.iter().sum::<u64>(), size);
    assert_eq!((lengths[0], lengths[lengths.len() - 1]), (MIB, MIB));
    assert!(checked(&folder, 0).has(Class::Overlap));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn any_window_reads_as_the_whole_does(windows in vec((0..3 * MIB, 1..MIB), 1..6)) {
        let folder = pair(|_| ());
        let mut chain = opened(&folder).unwrap();
        let whole = read_all(&folder, &mut chain).unwrap();
        for (start, len) in windows {
            let end = (start + len).min(3 * MIB);
            let part = read(&folder, &mut chain, start..end).unwrap();
            prop_assert!(part == whole[narrow(start)..narrow(end)], "{}..{}", start, end);
        }
    }

    #[test]
    fn damaged_image_never_panics(
        flips in vec((0..6_usize, 0..4096_u64, any::<u8>()), 1..8),
        log in any::<bool>(),
        cut in proptest::option::weighted(0.2, 0..6 * MIB),
    ) {
        let mut child = Build::child("base.vhdx");
        if log {
            child.log_guid = build::LOG_GUID;
        }
        let mut image = child.image();
        let end = wide(image.0.len());
        let stamp = build::Stamp {
            guid: build::LOG_GUID, sequence: 3, tail: 0, flushed: BLOCKS, last: end,
        };
        let zeroes = build::Change::Zero(BLOCKS + 8192, 4096);
        image.put(build::LOG, &build::log_entry(stamp, &[zeroes]));
        for (place, at, with) in flips {
            let (start, span) = [
                (128 << 10, 96),
                (192 << 10, 96),
                (METADATA, 256),
                (METADATA + (64 << 10), 512),
                (BAT, 64),
                (build::LOG, 128),
            ][place];
            let at = narrow(start + at % span);
            image.0[at] ^= with;
        }
        image.seal();
        build::seal(&mut image.0[narrow(build::LOG)..][..4096]);
        if let Some(cut) = cut {
            image.0.truncate(narrow(cut));
        }
        let folder = folder(&image).with("base.vhdx", Build::default().image().0);
        if let Ok(mut chain) = opened(&folder) {
            let size = chain.virtual_size().min(8 * MIB);
            let _ = read(&folder, &mut chain, 0..size);
            let _ = run(chain.check(0), &folder);
        }
    }
}
