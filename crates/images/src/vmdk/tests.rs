//! The reader over images made by hand: each rule by the fault that breaks it, and laws on the whole.

use flate2::{Compress, Compression, FlushCompress};
use proptest::{collection::vec, prelude::*};

use crate::{
    Class, Fault, Identity, Kind, OpenOptions, Purpose, Severity,
    bytes::{narrow, wide},
    testing::{Folder, map, open, read, read_all, run},
};

const GRAIN: usize = 4096;

/// Sectors of the structures of [`Hosted::bytes`].
const RGD: u32 = 21;
const RGT: u32 = 22;
const GD: u32 = 26;
const GT: u32 = 27;
const FIRST: u32 = 32;

/// A small hosted sparse extent: grains of 4 KiB, one table in two copies.
#[derive(Clone)]
struct Hosted {
    sectors: u64,
    /// Number and first byte of the grains that it holds.
    held: Vec<(u32, u8)>,
    zeroed: Vec<u32>,
    content: u32,
    parent: Option<(u32, &'static str)>,
}

fn hosted(held: &[(u32, u8)]) -> Hosted {
    Hosted { sectors: 128, held: held.to_vec(), zeroed: Vec::new(), content: 5, parent: None }
}

fn descriptor(content: u32, parent: Option<(u32, &str)>, kind: &str, extents: &str) -> Vec<u8> {
    let (of, hint) = parent.map_or((u32::MAX, String::new()), |(of, name)| {
        (of, format!("parentFileNameHint=\"{name}\"\n"))
    });
    format!(
        "# Disk DescriptorFile\nversion=1\nCID={content:08x}\nparentCID={of:08x}\n\
         createType=\"{kind}\"\n{hint}\n{extents}\n"
    )
    .into_bytes()
}

/// The bytes of a grain: they tell which it is.
fn grain(first: u8) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        (0..GRAIN).map(|n| first.wrapping_add((n / 7).to_le_bytes()[0])).collect();
    bytes[0] = first;
    bytes
}

fn put(bytes: &mut Vec<u8>, at: usize, what: &[u8]) {
    if bytes.len() < at + what.len() {
        bytes.resize(at + what.len(), 0);
    }
    bytes[at..at + what.len()].copy_from_slice(what);
}

fn put_entry(bytes: &mut Vec<u8>, sector: u32, entry: u32, value: u32) {
    let at = narrow(u64::from(sector) * 512 + u64::from(entry) * 4);
    put(bytes, at, &value.to_le_bytes());
}

fn header(sectors: u64, flags: u32, (rgd, gd): (u64, u64), algorithm: u16) -> Vec<u8> {
    let mut head = b"KDMV".to_vec();
    head.extend(1_u32.to_le_bytes());
    head.extend(flags.to_le_bytes());
    for field in [sectors, 8, 1, 20] {
        head.extend(field.to_le_bytes());
    }
    head.extend(512_u32.to_le_bytes());
    for field in [rgd, gd, u64::from(FIRST)] {
        head.extend(field.to_le_bytes());
    }
    head.push(0);
    head.extend(b"\n \r\n");
    head.extend(algorithm.to_le_bytes());
    head.resize(512, 0);
    head
}

impl Hosted {
    fn bytes(&self) -> Vec<u8> {
        let flags = 3 | if self.zeroed.is_empty() { 0 } else { 4 };
        let mut bytes = header(self.sectors, flags, (u64::from(RGD), u64::from(GD)), 0);
        let line = format!("RW {} SPARSE \"x.vmdk\"", self.sectors);
        let text = descriptor(self.content, self.parent, "monolithicSparse", &line);
        put(&mut bytes, 512, &text);
        put_entry(&mut bytes, RGD, 0, RGT);
        put_entry(&mut bytes, GD, 0, GT);
        put(&mut bytes, narrow(u64::from(FIRST) * 512) - 1, &[0]);
        for (&(number, first), place) in self.held.iter().zip(0_u32..) {
            let sector = FIRST + place * 8;
            put(&mut bytes, narrow(u64::from(sector) * 512), &grain(first));
            self.set(&mut bytes, number, sector);
        }
        for &number in &self.zeroed {
            self.set(&mut bytes, number, 1);
        }
        bytes
    }

    /// Sets an entry in both tables.
    fn set(&self, bytes: &mut Vec<u8>, number: u32, value: u32) {
        assert!(u64::from(number) * 8 < self.sectors);
        put_entry(bytes, GT, number, value);
        put_entry(bytes, RGT, number, value);
    }

    /// What the guest sees over `below`.
    fn over(&self, below: &[u8]) -> Vec<u8> {
        let mut disk = below.to_vec();
        disk.resize(narrow(self.sectors * 512), 0);
        let held = self.held.iter().map(|&(number, first)| (number, grain(first)));
        let zeroed = self.zeroed.iter().map(|&number| (number, vec![0; GRAIN]));
        for (number, bytes) in held.chain(zeroed) {
            let start = narrow(u64::from(number)) * GRAIN;
            let end = disk.len().min(start + GRAIN);
            disk[start..end].copy_from_slice(&bytes[..end - start]);
        }
        disk
    }
}

fn whole(folder: &Folder, name: &str) -> Result<Vec<u8>, Fault> {
    let mut chain = open(folder, name, OpenOptions::default())?;
    read_all(folder, &mut chain)
}

/// The class of opening or of reading all.
fn class(bytes: Vec<u8>) -> Option<Class> {
    whole(&Folder::new().with("x.vmdk", bytes), "x.vmdk").err().map(|fault| fault.class)
}

/// The class after one change of a good image.
fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Option<Class> {
    let mut bytes = hosted(&[(0, 1), (3, 2)]).bytes();
    change(&mut bytes);
    class(bytes)
}

/// What a check of the top image says, worst first.
fn checked(folder: &Folder, name: &str) -> Vec<(Severity, Class)> {
    let mut chain = open(folder, name, OpenOptions::default()).unwrap();
    let report = run(chain.check(0), folder).unwrap();
    let again = run(chain.check(0), folder).unwrap();
    assert_eq!(report, again, "a second check says the same");
    let found = report.findings.iter();
    let mut found: Vec<_> = found.map(|found| (found.severity, found.fault.class)).collect();
    found.sort_unstable();
    found.reverse();
    found
}

fn checked_bytes(bytes: Vec<u8>) -> Vec<(Severity, Class)> {
    checked(&Folder::new().with("x.vmdk", bytes), "x.vmdk")
}

#[test]
fn sparse_image_reads_its_grains() {
    let mut image = hosted(&[(3, 9), (0, 1), (15, 77)]);
    image.zeroed = vec![7];
    let folder = Folder::new().with("x.vmdk", image.bytes());
    assert_eq!(whole(&folder, "x.vmdk").unwrap(), image.over(&[]));
    let mut chain = open(&folder, "x.vmdk", OpenOptions::default()).unwrap();
    let facts = chain.layers()[0].facts().clone();
    assert_eq!((facts.variant, facts.unit, facts.virtual_size), ("monolithicSparse", 4096, 65536));
    assert_eq!(facts.identity, Identity::Vmdk { content: 5 });
    let kinds = map(&folder, &mut chain, 4096..65536).unwrap();
    assert_eq!(kinds[0].extent.kind, Kind::Hole);
    assert!(kinds.iter().any(|mapped| mapped.extent.kind == Kind::Zero));
    assert_eq!(checked(&folder, "x.vmdk"), []);
    let report = run(chain.check(0), &folder).unwrap();
    assert_eq!((report.units_data, report.units_zero), (3, 1));
}

#[test]
fn last_grain_may_end_with_the_disk() {
    let image = Hosted { sectors: 128 + 3, ..hosted(&[(16, 5)]) };
    let mut bytes = image.bytes();
    assert_eq!(class(bytes.clone()), None);
    bytes.truncate(bytes.len() - 5 * 512);
    let folder = Folder::new().with("x.vmdk", bytes.clone());
    assert_eq!(whole(&folder, "x.vmdk").unwrap(), image.over(&[]));
    assert_eq!(checked(&folder, "x.vmdk"), []);
    bytes.pop();
    assert_eq!(class(bytes.clone()), Some(Class::Truncated));
    assert_eq!(checked_bytes(bytes), [(Severity::Error, Class::Truncated)]);
}

#[test]
fn header_fields_are_checked_at_opening() {
    let at = |at: usize, what: &'static [u8]| changed(|bytes| put(bytes, at, what));
    assert_eq!(changed(|_| ()), None);
    assert_eq!(at(4, &[9]), Some(Class::UnknownVersion));
    assert_eq!(at(73, b"\n \n\n"), Some(Class::TextModeDamage));
    assert_eq!(at(20, &[0]), Some(Class::BadField));
    assert_eq!(at(20, &[100]), Some(Class::BadField));
    assert_eq!(at(25, &[1]), Some(Class::Limit));
    assert_eq!(at(44, &[0, 0]), Some(Class::BadField));
    assert_eq!(at(47, &[0x80]), Some(Class::Limit));
    assert_eq!(at(12, &[0xff; 8]), Some(Class::Limit));
    assert_eq!(at(12, &[64]), Some(Class::SizeMismatch));
    assert_eq!(at(77, &[9]), Some(Class::UnknownFeature));
    assert_eq!(at(10, &[1]), Some(Class::BadField), "compressed by nothing");
    assert_eq!(at(34, &[1]), Some(Class::PointerOutsideFile));
    assert_eq!(at(42, &[1]), Some(Class::Limit));
    assert_eq!(changed(|bytes| bytes.truncate(200)), Some(Class::Truncated));
    assert_eq!(changed(|bytes| bytes[512..10752].fill(0)), Some(Class::MissingPart));
    assert_eq!(at(28, &[0]), Some(Class::MissingPart));
}

#[test]
fn two_directories_stand_in_for_each_other() {
    let lost =
        |fields: &[usize]| changed(|bytes| fields.iter().for_each(|at| put(bytes, at + 4, &[1])));
    assert_eq!(lost(&[48]), None);
    assert_eq!(lost(&[56]), None);
    assert_eq!(lost(&[48, 56]), Some(Class::PointerOutsideFile));
    let lost_table = |directories: &[u32]| {
        let mut bytes = hosted(&[(0, 1)]).bytes();
        for &gd in directories {
            put_entry(&mut bytes, gd, 0, u32::MAX);
        }
        bytes
    };
    let note = (Severity::Warning, Class::CopiesDiffer);
    assert_eq!((class(lost_table(&[GD])), checked_bytes(lost_table(&[GD]))), (None, vec![note]));
    assert_eq!((class(lost_table(&[RGD])), checked_bytes(lost_table(&[RGD]))), (None, vec![note]));
    assert_eq!(class(lost_table(&[GD, RGD])), Some(Class::PointerOutsideFile));
}

#[test]
fn damage_is_where_the_entry_is() {
    type Change<'a> = &'a dyn Fn(&mut Vec<u8>);
    let image = hosted(&[(0, 1), (3, 2)]);
    let changes: [(&str, Class, Change<'_>); 5] = [
        ("outside", Class::PointerOutsideFile, &|bytes| image.set(bytes, 3, 0xffff_ff00)),
        ("on the directory", Class::Overlap, &|bytes| image.set(bytes, 3, GD)),
        ("on a table", Class::Overlap, &|bytes| image.set(bytes, 3, GT - 7)),
        ("twice", Class::Overlap, &|bytes| image.set(bytes, 3, FIRST)),
        ("copies", Class::CopiesDiffer, &|bytes| put_entry(bytes, GT, 3, 0)),
    ];
    for (what, class, change) in changes {
        let mut bytes = image.bytes();
        change(&mut bytes);
        let folder = Folder::new().with("x.vmdk", bytes);
        let mut chain = open(&folder, "x.vmdk", OpenOptions::default()).unwrap();
        for _ in 0..2 {
            let fault = read(&folder, &mut chain, 3 * 4096..3 * 4096 + 1).unwrap_err();
            assert_eq!(fault.class, class, "{what}");
            assert_eq!(read(&folder, &mut chain, 0..4096).unwrap(), grain(1), "{what}");
            assert_eq!(read(&folder, &mut chain, 16384..65536).unwrap(), vec![0; 49152]);
        }
        assert_eq!(checked(&folder, "x.vmdk"), [(Severity::Error, class)], "{what}");
    }
}

#[test]
fn odd_but_harmless_is_noted() {
    for (at, value, class) in [(72, 1, Class::Unclean), (11, 0x40, Class::UnknownFeature)] {
        let image = hosted(&[(2, 8)]);
        let mut bytes = image.bytes();
        bytes[at] = value;
        let folder = Folder::new().with("x.vmdk", bytes);
        assert_eq!(whole(&folder, "x.vmdk").unwrap(), image.over(&[]));
        let chain = open(&folder, "x.vmdk", OpenOptions::default()).unwrap();
        assert_eq!(chain.layers()[0].notes()[0].class, class);
        assert_eq!(checked(&folder, "x.vmdk"), [(Severity::Warning, class)]);
        let options = OpenOptions { purpose: Purpose::Write, ..OpenOptions::default() };
        assert_eq!(open(&folder, "x.vmdk", options).err().map(|fault| fault.class), Some(class));
    }
}

#[test]
fn child_reads_through_to_its_parent() {
    let base = hosted(&[(0, 1), (1, 2), (2, 3)]);
    let mut child = Hosted { content: 6, parent: Some((5, "base.vmdk")), ..hosted(&[(1, 50)]) };
    child.zeroed = vec![2];
    let folder = Folder::new().with("x.vmdk", child.bytes()).with("base.vmdk", base.bytes());
    assert_eq!(whole(&folder, "x.vmdk").unwrap(), child.over(&base.over(&[])));

    let class = |base: &Hosted, parent| {
        let child = Hosted { parent: Some(parent), ..child.clone() };
        let folder = Folder::new().with("x.vmdk", child.bytes()).with("base.vmdk", base.bytes());
        open(&folder, "x.vmdk", OpenOptions::default()).err().map(|fault| fault.class)
    };
    assert_eq!(class(&base, (5, "base.vmdk")), None);
    assert_eq!(class(&base, (5, "/vmfs/volumes/1/base.vmdk")), None);
    assert_eq!(class(&base, (5, "C:\\vm\\base.vmdk")), None);
    assert_eq!(class(&base, (9, "base.vmdk")), Some(Class::ParentMismatch));
    assert_eq!(class(&base, (5, "other.vmdk")), Some(Class::ParentMissing));
    assert_eq!(class(&base, (5, "/etc/passwd")), Some(Class::ParentNameForbidden));
    assert_eq!(class(&base, (5, "../base.vmdk")), None, "one of that name is beside it");
    assert_eq!(class(&base, (6, "x.vmdk")), Some(Class::ChainLoop));
    let small = Hosted { sectors: 64, ..base };
    assert_eq!(class(&small, (5, "base.vmdk")), Some(Class::ParentSize));
}

#[test]
fn delta_without_a_parents_name_can_only_be_looked_at() {
    let text = b"# Disk DescriptorFile\nCID=1\nparentCID=2\ncreateType=\"custom\"\nRW 8 ZERO\n";
    let folder = Folder::new().with("x.vmdk", text);
    let fault = open(&folder, "x.vmdk", OpenOptions::default()).err().unwrap();
    assert_eq!(fault.class, Class::ParentMissing);
    let options = OpenOptions { purpose: Purpose::Inspect, ..OpenOptions::default() };
    assert!(open(&folder, "x.vmdk", options).is_ok());
}

/// A folder with a descriptor of these lines, a flat file of 8 KiB and a sparse extent of 64 KiB.
fn folder_of(lines: &str) -> Folder {
    Folder::new()
        .with("d.vmdk", descriptor(5, None, "custom", lines))
        .with("f.vmdk", [grain(1), grain(2)].concat())
        .with("s.vmdk", hosted(&[(0, 3)]).bytes())
        .with_refused("pipe")
}

fn class_of(lines: &str) -> Option<Class> {
    whole(&folder_of(lines), "d.vmdk").err().map(|fault| fault.class)
}

#[test]
fn extents_follow_each_other() {
    let lines = "RW 8 FLAT \"f.vmdk\" 8\nRW 8 ZERO\nRW 0 ZERO\nRW 128 SPARSE \"./s.vmdk\"\n\
        RW 2 FLAT \"f.vmdk\" 3";
    let folder = folder_of(lines);
    let expected =
        [grain(2), vec![0; 4096], hosted(&[(0, 3)]).over(&[]), grain(1)[1536..2560].to_vec()];
    assert_eq!(whole(&folder, "d.vmdk").unwrap(), expected.concat());
    assert_eq!(checked(&folder, "d.vmdk"), []);
    let chain = open(&folder, "d.vmdk", OpenOptions::default()).unwrap();
    assert_eq!(chain.files().len(), 3);
}

#[test]
fn extents_are_checked_by_name_place_and_size() {
    for (lines, class) in [
        ("RW 8 FLAT \"/etc/passwd\" 0", Some(Class::ExtentNameForbidden)),
        ("RW 8 FLAT \"nbd://host/x\" 0", Some(Class::ExtentNameForbidden)),
        ("RW 8 FLAT \"json:{\\\"driver\\\":1}\" 0", Some(Class::ExtentNameForbidden)),
        ("RW 8 FLAT \"..\\f.vmdk\" 0", Some(Class::ExtentNameForbidden)),
        ("RW 8 FLAT \"pipe\" 0", Some(Class::ExtentNameForbidden)),
        ("RW 8 FLAT \"gone\" 0", Some(Class::ExtentMissing)),
        ("RW 17 FLAT \"f.vmdk\" 0", Some(Class::Truncated)),
        ("RW 8 FLAT \"f.vmdk\" 9", Some(Class::Truncated)),
        ("RW 8 FLAT \"f.vmdk\" 99999", Some(Class::PointerOutsideFile)),
        ("RW 8 FLAT \"d.vmdk\" 0", Some(Class::Overlap)),
        ("RW 8 FLAT \"f.vmdk\" 0\nRW 8 FLAT \"f.vmdk\" 7", Some(Class::Overlap)),
        ("RW 128 SPARSE \"s.vmdk\"\nRW 128 SPARSE \"s.vmdk\"", Some(Class::Overlap)),
        ("RW 64 SPARSE \"s.vmdk\"", Some(Class::SizeMismatch)),
        ("RW 8 SPARSE \"f.vmdk\"", Some(Class::BadMagic)),
        ("RW 8 SESPARSE \"s.vmdk\"", Some(Class::BadMagic)),
        ("RW 121 SPARSE \"s.vmdk\"", None),
    ] {
        assert_eq!(class_of(lines), class, "{lines}");
    }
}

#[test]
fn late_extent_with_a_bad_header_damages_its_own_range() {
    let lines: Vec<String> = (0..70).map(|n| format!("RW 128 SPARSE \"{n}.vmdk\"")).collect();
    let lines = lines.join("\n");
    let mut folder = Folder::new().with("d.vmdk", descriptor(5, None, "custom", &lines));
    for number in 0..70_u8 {
        let mut bytes = hosted(&[(0, number)]).bytes();
        if number == 68 {
            bytes[4] = 9;
        }
        folder = folder.with(&format!("{number}.vmdk"), bytes);
    }
    let mut chain = open(&folder, "d.vmdk", OpenOptions::default()).unwrap();
    let first = |chain: &mut _, number: u64| {
        read(&folder, chain, number * 65536..number * 65536 + 1).map_err(|fault| fault.class)
    };
    assert_eq!(first(&mut chain, 69), Ok(vec![69]));
    assert_eq!(first(&mut chain, 68), Err(Class::UnknownVersion));
    assert_eq!(first(&mut chain, 67), Ok(vec![67]));
    assert_eq!(checked(&folder, "d.vmdk"), [(Severity::Error, Class::UnknownVersion)]);
}

#[test]
fn long_lists_of_extents_are_asked_for_to_the_end() {
    for (missing, class) in [(None, None), (Some(66), Some(Class::ExtentMissing))] {
        let lines: Vec<String> = (0..200)
            .map(|n| format!("RW 1 FLAT \"{n}\"\nRW 1 ZERO\nRW 1 FLAT \"0\" {}", n + 1))
            .collect();
        let text = descriptor(5, None, "custom", &lines.join("\n"));
        let mut folder = Folder::new().with("d.vmdk", text);
        for number in (0..200_u8).filter(|number| Some(*number) != missing) {
            folder = folder.with(&number.to_string(), vec![number; 512 * 201]);
        }
        let disk = whole(&folder, "d.vmdk");
        let fault = disk.as_ref().err().map(|fault| fault.class);
        assert_eq!(fault, class);
        if let Ok(disk) = disk {
            let firsts = disk.chunks(512).step_by(3).map(|sector| sector[0]);
            assert!(firsts.eq(0..200), "each file is where its line is");
        }
    }
}

#[test]
fn extent_alone_is_no_image() {
    for magic in [&b"COWD"[..], &super::header::SE] {
        let mut bytes = magic.to_vec();
        bytes.resize(4096, 0);
        assert_eq!(class(bytes), Some(Class::MissingPart));
    }
}

fn zlib(plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(plain.len() * 2 + 100);
    let mut state = Compress::new(Compression::fast(), true);
    state.compress_vec(plain, &mut out, FlushCompress::Finish).unwrap();
    out
}

/// A stream of these grains, with a footer: bytes, and where each grain's marker is.
fn stream(sectors: u64, held: &[(u32, Vec<u8>)]) -> (Vec<u8>, Vec<usize>) {
    let mut bytes = header(sectors, 0x3_0001, (0, u64::MAX), 1);
    let line = format!("RW {sectors} SPARSE \"x.vmdk\"");
    put(&mut bytes, 512, &descriptor(5, None, "streamOptimized", &line));
    bytes.resize(32 * 512, 0);
    let (mut table, mut places) = (vec![0; 2048], Vec::new());
    for (number, packed) in held {
        let at = narrow(u64::from(*number) * 4);
        let sector = u32::try_from(bytes.len() / 512).unwrap();
        table[at..at + 4].copy_from_slice(&sector.to_le_bytes());
        places.push(bytes.len());
        bytes.extend((u64::from(*number) * 8).to_le_bytes());
        bytes.extend(u32::try_from(packed.len()).unwrap().to_le_bytes());
        bytes.extend(packed);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    let marker = |value: u64, kind: u32| {
        let mut bytes =
            [value.to_le_bytes().to_vec(), vec![0; 4], kind.to_le_bytes().to_vec()].concat();
        bytes.resize(512, 0);
        bytes
    };
    bytes.extend(marker(4, 1));
    let table_at = u32::try_from(bytes.len() / 512).unwrap();
    bytes.extend(table);
    bytes.extend(marker(1, 2));
    let directory = wide(bytes.len() / 512);
    bytes.extend(table_at.to_le_bytes());
    bytes.resize(bytes.len() + 508, 0);
    bytes.extend(marker(1, 3));
    bytes.extend(header(sectors, 0x3_0001, (0, directory), 1));
    bytes.extend(marker(0, 0));
    (bytes, places)
}

#[test]
fn stream_reads_by_its_markers() {
    let held = [(0, zlib(&grain(1))), (9, zlib(&grain(2)))];
    let (bytes, places) = stream(128, &held);
    let folder = Folder::new().with("x.vmdk", bytes.clone());
    assert_eq!(whole(&folder, "x.vmdk").unwrap(), hosted(&[(0, 1), (9, 2)]).over(&[]));
    assert_eq!(checked(&folder, "x.vmdk"), []);

    let end = bytes.len();
    let changed = |at: usize, what: &[u8]| {
        let mut bytes = bytes.clone();
        put(&mut bytes, at, what);
        bytes
    };
    for (what, bytes, class_of) in [
        ("cut", bytes[..end / 1024 * 512].to_vec(), Class::Truncated),
        ("no end", changed(end - 500, &[7]), Class::Truncated),
        ("footer magic", changed(end - 1024, b"kdmv"), Class::BadMagic),
        ("footer sizes", changed(end - 1024 + 12, &[1]), Class::CopiesDiffer),
        ("footer leads on", changed(end - 1024 + 56, &[0xff; 8]), Class::BadField),
    ] {
        assert_eq!(class(bytes), Some(class_of), "{what}");
    }
    for (what, bytes, class_of) in [
        ("place", changed(places[0], &[8]), Class::BadField),
        ("no length", changed(places[0] + 8, &[0; 4]), Class::BadField),
        ("length", changed(places[0] + 8, &[0xff; 4]), Class::Limit),
        ("garbage", changed(places[0] + 12, &[0xff; 30]), Class::DecompressError),
    ] {
        assert_eq!(class(bytes.clone()), Some(class_of), "{what}");
        assert_eq!(checked_bytes(bytes), [(Severity::Error, class_of)], "{what}");
    }
    let sized = |len: usize| stream(128, &[(0, zlib(&vec![1; len]))]).0;
    assert_eq!(class(sized(GRAIN)), None);
    assert_eq!(class(sized(GRAIN - 1)), Some(Class::DecompressShort));
    assert_eq!(class(sized(4 << 20)), Some(Class::DecompressLong));
}

#[test]
fn last_packed_grain_is_whole_or_as_the_disk_is() {
    for len in [GRAIN, 1536] {
        let (bytes, _) = stream(131, &[(16, zlib(&grain(4)[..len]))]);
        let folder = Folder::new().with("x.vmdk", bytes);
        let image = Hosted { sectors: 131, ..hosted(&[(16, 4)]) };
        assert_eq!(whole(&folder, "x.vmdk").unwrap(), image.over(&[]), "{len}");
        assert_eq!(checked(&folder, "x.vmdk"), []);
    }
    let (bytes, _) = stream(131, &[(16, zlib(&grain(4)[..1024]))]);
    assert_eq!(class(bytes), Some(Class::DecompressShort));
}

/// A COWD extent of 64 KiB with one grain of a sector.
fn cowd() -> Vec<u8> {
    let mut bytes = b"COWD".to_vec();
    for field in [1_u32, 3, 128, 1, 4, 1, 38] {
        bytes.extend(field.to_le_bytes());
    }
    bytes.resize(37 * 512, 0);
    put_entry(&mut bytes, 4, 0, 5);
    put_entry(&mut bytes, 5, 2, 37);
    bytes.extend([7; 512]);
    bytes
}

#[test]
fn cowd_extent_reads_and_is_checked() {
    let class = |at: usize, what: &[u8]| {
        let mut bytes = cowd();
        put(&mut bytes, at, what);
        let text = descriptor(1, None, "vmfsSparse", "RW 128 VMFSSPARSE \"e\"");
        let folder = Folder::new().with("d.vmdk", text).with("e", bytes);
        let disk = whole(&folder, "d.vmdk").map_err(|fault| fault.class)?;
        assert!(disk[1024..1536] == [7; 512] && disk[1536..].iter().all(|byte| *byte == 0));
        Ok(checked(&folder, "d.vmdk").first().map(|found| found.1))
    };
    assert_eq!(class(32, &[0]), Ok(None));
    assert_eq!(class(1648, &[1]), Ok(Some(Class::Unclean)));
    assert_eq!(class(8, &[7]), Ok(Some(Class::Unclean)));
    assert_eq!(class(9, &[7]), Ok(Some(Class::UnknownFeature)));
    assert_eq!(class(4, &[2]), Err(Class::UnknownVersion));
    assert_eq!(class(24, &[0]), Err(Class::TableTooSmall));
    assert_eq!(class(16, &[3]), Err(Class::BadField));
    assert_eq!(class(22, &[3]), Err(Class::PointerOutsideFile));
    assert_eq!(class(5 * 512 + 12, &[37]), Err(Class::Overlap));
}

/// An SEsparse extent of 64 KiB: grain 1 held, 2 unmapped, 3 zero.
fn se() -> Vec<u8> {
    let mut fields = [0_u64; 26];
    fields[0] = 0xcafe_babe;
    fields[1] = 0x2_0000_0001;
    (fields[2], fields[3], fields[4]) = (128, 8, 64);
    (fields[10], fields[11]) = (1, 1);
    (fields[16], fields[17], fields[18], fields[19]) = (2, 1, 3, 64);
    (fields[24], fields[25]) = (72, 8);
    let mut bytes: Vec<u8> = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
    put(&mut bytes, 512, &0xcafe_cafe_u64.to_le_bytes());
    put(&mut bytes, 1024, &0x1000_0000_0000_0000_u64.to_le_bytes());
    for (entry, value) in [(1, 3_u64 << 60), (2, 1 << 60), (3, 2 << 60)] {
        put(&mut bytes, 1536 + entry * 8, &value.to_le_bytes());
    }
    put(&mut bytes, 72 * 512, &grain(9));
    bytes
}

#[test]
fn se_sparse_extent_reads_and_is_checked() {
    let class = |at: usize, what: &[u8]| {
        let mut bytes = se();
        put(&mut bytes, at, what);
        let text = descriptor(1, None, "seSparse", "RW 128 SESPARSE \"e\"");
        let folder = Folder::new().with("d.vmdk", text).with("e", bytes);
        let disk = whole(&folder, "d.vmdk").map_err(|fault| fault.class)?;
        assert!(disk[4096..8192] == grain(9) && disk[8192..].iter().all(|byte| *byte == 0));
        let mut chain = open(&folder, "d.vmdk", OpenOptions::default()).unwrap();
        let kinds = map(&folder, &mut chain, 8192..20000).unwrap();
        assert_eq!((kinds[0].extent.len, &kinds[0].extent.kind), (8192, &Kind::Zero));
        assert_eq!(kinds[1].extent.kind, Kind::Hole);
        Ok(checked(&folder, "d.vmdk"))
    };
    assert_eq!(class(400, &[0]), Ok(vec![]));
    assert_eq!(class(8, &[2]), Err(Class::UnknownVersion));
    assert_eq!(class(24, &[16]), Err(Class::UnknownFeature));
    assert_eq!(class(40, &[1]), Err(Class::UnknownFeature));
    assert_eq!(class(136, &[0]), Err(Class::TableTooSmall));
    assert_eq!(class(134, &[1]), Err(Class::PointerOutsideFile));
    assert_eq!(class(512, &[0]), Err(Class::BadMagic));
    assert_eq!(class(512 + 24, &[1]), Err(Class::Unclean));
    assert_eq!(class(1024 + 7, &[0x20]), Err(Class::BadField));
    assert_eq!(class(1024, &[1]), Err(Class::PointerOutsideFile));
    assert_eq!(class(1536 + 8 + 7, &[0x70]), Err(Class::BadField));
    assert_eq!(class(1536 + 8, &[9]), Err(Class::PointerOutsideFile));
    assert_eq!(class(1536 + 32, &(3_u64 << 60).to_le_bytes()), Err(Class::Overlap));
}

fn images() -> Vec<(Folder, &'static str)> {
    let child = Hosted { parent: Some((5, "b.vmdk")), content: 6, ..hosted(&[(1, 4), (15, 3)]) };
    let base = hosted(&[(0, 1), (7, 2)]);
    let packed = [(0, zlib(&grain(1))), (15, zlib(&grain(2)))];
    let lines = "RW 8 FLAT \"f.vmdk\" 8\nRW 8 ZERO\nRW 128 SPARSE \"s.vmdk\"";
    let with = |kind: &str, line: &str, bytes: Vec<u8>| {
        let text = descriptor(1, None, kind, line);
        (Folder::new().with("d.vmdk", text).with("e", bytes), "d.vmdk")
    };
    vec![
        (Folder::new().with("x.vmdk", child.bytes()).with("b.vmdk", base.bytes()), "x.vmdk"),
        (Folder::new().with("x.vmdk", stream(128, &packed).0), "x.vmdk"),
        (folder_of(lines), "d.vmdk"),
        with("vmfsSparse", "RW 128 VMFSSPARSE \"e\"", cowd()),
        with("seSparse", "RW 128 SESPARSE \"e\"", se()),
    ]
}

proptest! {
    #[test]
    fn windows_agree_with_the_whole(which in 0..5_usize, start in 0..70_000_u64, len in 1..9000_u64) {
        let (folder, name) = images().swap_remove(which);
        let all = whole(&folder, name).unwrap();
        let mut chain = open(&folder, name, OpenOptions::default()).unwrap();
        let end = wide(all.len());
        let (start, end) = (start.min(end), (start + len).min(end));
        let window = read(&folder, &mut chain, start..end).unwrap();
        prop_assert_eq!(&window, &all[narrow(start)..narrow(end)]);
    }

    #[test]
    fn held_grains_read_as_they_were(
        held in proptest::collection::btree_map(0..16_u32, any::<u8>(), 0..16),
        zeroed in proptest::collection::btree_set(0..16_u32, 0..4),
    ) {
        let held: Vec<(u32, u8)> =
            held.into_iter().filter(|(number, _)| !zeroed.contains(number)).collect();
        let image = Hosted { zeroed: zeroed.into_iter().collect(), ..hosted(&held) };
        let folder = Folder::new().with("x.vmdk", image.bytes());
        prop_assert_eq!(whole(&folder, "x.vmdk").unwrap(), image.over(&[]));
        prop_assert_eq!(checked(&folder, "x.vmdk"), vec![]);
    }

    /// Whatever bytes say, every operation ends, and without a panic.
    #[test]
    fn any_damage_ends_in_an_answer(
        which in 0..5_usize,
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in proptest::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let child = Hosted { parent: Some((5, "b.vmdk")), ..hosted(&[(1, 4), (15, 3)]) };
        let packed = [(0, zlib(&grain(1))), (15, zlib(&grain(2)))];
        let mut bytes = match which {
            0 => child.bytes(),
            1 => stream(128, &packed).0,
            2 => descriptor(1, None, "custom", "RW 8 FLAT \"b.vmdk\" 8\nRW 8 ZERO"),
            3 => cowd(),
            _ => se(),
        };
        // Of large images it is the first sectors and the last that matter.
        for (at, byte) in changes {
            let head = bytes.len().min(4096);
            let at = at.index(head * 2);
            let at = if at < head { at } else { bytes.len() - 1 - (at - head) };
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let (kind, line) = match which {
            3 => ("vmfsSparse", "RW 128 VMFSSPARSE \"x.vmdk\""),
            _ => ("seSparse", "RW 128 SESPARSE \"x.vmdk\""),
        };
        let folder = Folder::new()
            .with("x.vmdk", bytes)
            .with("b.vmdk", hosted(&[(0, 1)]).bytes())
            .with("d.vmdk", descriptor(1, None, kind, line));
        let name = if which > 2 { "d.vmdk" } else { "x.vmdk" };
        if let Ok(mut chain) = open(&folder, name, OpenOptions::default()) {
            let end = chain.virtual_size().min(1 << 20);
            let _ = read(&folder, &mut chain, 0..end);
            let _ = run(chain.check(0), &folder);
        }
    }
}
