//! One damaged image for each fault, and the class it must have.

use flate2::{Compress, Compression, FlushCompress};
use images::{
    Class, FileId, OpenOptions, Purpose,
    qcow2::write::Qcow2Options,
    testing::{Folder, open, read, read_all},
};

use super::{check, image, opened, plan};

const CLUSTER: u64 = 65536;
const SIZE: u64 = 1 << 20;
const L1: usize = 1 << 16;
const REFCOUNT_BLOCK: usize = 3 << 16;
const L2: usize = 4 << 16;
const DATA: u64 = 5 << 16;
const COPIED: u64 = 1 << 63;

/// Header, L1, refcount table, refcount block, L2, and four clusters of data at the disk's start.
fn good() -> Vec<u8> {
    image(&plan(SIZE, &[(0, 4 * CLUSTER, false)]), &Qcow2Options::default(), &disk(), CLUSTER)
}

fn disk() -> Vec<u8> {
    let mut disk: Vec<u8> =
        (0..4 * CLUSTER).map(|at| 1 + (at / 512).to_le_bytes()[0] % 9).collect();
    disk.resize(usize::try_from(SIZE).unwrap(), 0);
    disk
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn put_64(bytes: &mut [u8], at: usize, value: u64) {
    put(bytes, at, &value.to_be_bytes());
}

fn put_32(bytes: &mut [u8], at: usize, value: u32) {
    put(bytes, at, &value.to_be_bytes());
}

/// When an image told its fault.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Open(Class),
    Read(Class),
    /// Noted at opening, all bytes right.
    Note(Class),
    /// Found by the check, all bytes right.
    Check(Class),
    Nothing,
}

fn told(bytes: Vec<u8>) -> Told {
    let folder = Folder::new().with("a.qcow2", bytes);
    let mut chain = match opened(&folder, "a.qcow2") {
        Ok(chain) => chain,
        Err(fault) => return Told::Open(fault.class),
    };
    match read_all(&folder, &mut chain) {
        Err(fault) => return Told::Read(fault.class),
        Ok(bytes) => assert!(bytes == disk(), "other bytes than were written"),
    }
    if let Some(note) = chain.layers()[0].notes().first() {
        return Told::Note(note.class);
    }
    let report = check(&folder, &mut chain).unwrap();
    report.findings.first().map_or(Told::Nothing, |finding| Told::Check(finding.fault.class))
}

fn damaged(damage: impl FnOnce(&mut Vec<u8>)) -> Told {
    let mut bytes = good();
    damage(&mut bytes);
    told(bytes)
}

#[test]
fn good_image_tells_nothing() {
    assert_eq!(told(good()), Told::Nothing);
}

#[test]
fn header_fields_are_judged_at_opening() {
    let header = |at: usize, value: u32, class: Class| {
        let found = damaged(|bytes| put_32(bytes, at, value));
        assert_eq!(found, Told::Open(class), "{value:#x} at {at}");
    };
    header(4, 4, Class::UnknownVersion);
    header(4, 0, Class::UnknownVersion);
    for bits in [0, 8, 22, 63, u32::MAX] {
        header(20, bits, Class::BadField);
    }
    header(24, 0x8000_0000, Class::Limit);
    header(24, 1 << 10, Class::TableTooSmall);
    header(32, 1, Class::UnsupportedEncryption);
    header(32, 2, Class::BadField);
    header(32, 9, Class::UnsupportedEncryption);
    header(36, 0, Class::TableTooSmall);
    header(36, u32::MAX, Class::Limit);
    header(40, 1 << 8, Class::PointerOutsideFile);
    header(44, 65536 + 512, Class::PointerMisaligned);
    header(44, 0, Class::Overlap);
    header(72, 1 << 8, Class::UnknownFeature);
    header(76, 4, Class::DataFileMissing);
    header(76, 8, Class::BadField);
    header(96, 7, Class::BadField);
    header(100, 80, Class::BadField);
    header(100, 0xffff_fff8, Class::BadField);
    header(104, 1 << 24, Class::BadField);
}

#[test]
fn extension_without_room_is_a_bad_field() {
    let found = damaged(|bytes| {
        put_32(bytes, 112, 0x6803_f857);
        put_32(bytes, 116, 0x7fff_fff0);
    });
    assert_eq!(found, Told::Open(Class::BadField));
}

#[test]
fn file_that_ends_early_is_truncated() {
    assert_eq!(damaged(|bytes| bytes.truncate(60)), Told::Open(Class::Truncated));
    assert_eq!(damaged(|bytes| bytes.truncate(100)), Told::Open(Class::Truncated));
    assert_eq!(damaged(|bytes| bytes.truncate(L1)), Told::Open(Class::Truncated));
    let last = usize::try_from(DATA + 3 * CLUSTER + 4096).unwrap();
    assert_eq!(damaged(|bytes| bytes.truncate(last)), Told::Read(Class::Truncated));
}

#[test]
fn other_magic_is_not_this_format() {
    let mut bytes = good();
    bytes[3] = 0xfa;
    let folder = Folder::new().with("a.qcow2", bytes);
    let options = OpenOptions { format: Some(images::Format::Qcow2), ..OpenOptions::default() };
    assert_eq!(open(&folder, "a.qcow2", options).err().unwrap().class, Class::BadMagic);
}

#[test]
fn parent_names_are_judged() {
    let with_name = |name: &[u8], len: usize| {
        damaged(|bytes| {
            put_64(bytes, 8, 0x200);
            put_32(bytes, 16, u32::try_from(len).unwrap());
            put(bytes, 0x200, name);
        })
    };
    assert_eq!(with_name(b"/etc/passwd", 11), Told::Open(Class::ParentNameForbidden));
    assert_eq!(with_name(b"nbd:x", 5), Told::Open(Class::ParentNameForbidden));
    assert_eq!(with_name(b"gone.raw", 8), Told::Open(Class::ParentMissing));
    assert_eq!(with_name(b"a.qcow2", 7), Told::Open(Class::ChainLoop));
    assert_eq!(with_name(b"", 0), Told::Note(Class::ParentMissing));
    assert_eq!(with_name(b"x", 1024), Told::Open(Class::BadField));
    let outside = damaged(|bytes| {
        put_64(bytes, 8, 1 << 40);
        put_32(bytes, 16, 40);
    });
    assert_eq!(outside, Told::Open(Class::PointerOutsideFile));
}

#[test]
fn parent_of_no_stated_format_is_asked_for() {
    let mut bytes = good();
    put_64(&mut bytes, 8, 0x200);
    put_32(&mut bytes, 16, 8);
    put(&mut bytes, 0x200, b"base.raw");
    let folder = Folder::new().with("a.qcow2", bytes).with("base.raw", vec![0; 4096]);
    assert_eq!(opened(&folder, "a.qcow2").err().unwrap().class, Class::FormatAmbiguous);
    let options =
        OpenOptions { parent_format: Some(images::Format::Raw), ..OpenOptions::default() };
    let mut chain = open(&folder, "a.qcow2", options).unwrap();
    assert_eq!(read_all(&folder, &mut chain).unwrap(), disk());
}

#[test]
fn level_1_entries_damage_their_range() {
    let entry = |word: u64| damaged(|bytes| put_64(bytes, L1, word));
    assert_eq!(entry(COPIED | 1 << 40), Told::Read(Class::PointerOutsideFile));
    assert_eq!(entry(COPIED | (L2 as u64 + 512)), Told::Read(Class::PointerMisaligned));
    assert_eq!(entry(COPIED | L1 as u64), Told::Read(Class::Overlap));
    assert_eq!(entry(COPIED | L2 as u64 | 1), Told::Check(Class::ReservedBits));
}

#[test]
fn level_2_entries_damage_their_cluster() {
    let entry = |word: u64| damaged(|bytes| put_64(bytes, L2, word));
    assert_eq!(entry(COPIED | 1 << 45), Told::Read(Class::PointerOutsideFile));
    assert_eq!(entry(COPIED | (DATA + 512)), Told::Read(Class::PointerMisaligned));
    assert_eq!(entry(COPIED | L1 as u64), Told::Read(Class::Overlap));
    assert_eq!(entry(COPIED | REFCOUNT_BLOCK as u64), Told::Read(Class::Overlap));
    assert_eq!(entry(COPIED | DATA | 0x100), Told::Check(Class::ReservedBits));
    assert_eq!(entry(1 << 62 | 1 << 40), Told::Read(Class::PointerOutsideFile));
    let mut bytes = good();
    put_64(&mut bytes, L2 + 8, COPIED | DATA);
    assert_eq!(told(bytes.clone()), Told::Read(Class::Overlap));
    // Other places can still be read.
    let folder = Folder::new().with("a.qcow2", bytes);
    let mut chain = opened(&folder, "a.qcow2").unwrap();
    let rest = read(&folder, &mut chain, 2 * CLUSTER..SIZE).unwrap();
    assert!(rest == disk()[usize::try_from(2 * CLUSTER).unwrap()..]);
}

#[test]
fn entry_on_the_header_is_taken_as_none() {
    let mut bytes = good();
    put_64(&mut bytes, L2, COPIED);
    let folder = Folder::new().with("a.qcow2", bytes);
    let mut chain = opened(&folder, "a.qcow2").unwrap();
    let first = read(&folder, &mut chain, 0..CLUSTER).unwrap();
    assert!(first.iter().all(|byte| *byte == 0));
    assert!(check(&folder, &mut chain).unwrap().has(Class::Overlap));
}

#[test]
fn shared_cluster_is_no_fault_where_nobody_owns_it() {
    let mut bytes = good();
    put_64(&mut bytes, L2, DATA);
    put_64(&mut bytes, L2 + 8, DATA);
    put(&mut bytes, REFCOUNT_BLOCK + 10, &[0, 2]);
    put(&mut bytes, REFCOUNT_BLOCK + 12, &[0, 0]);
    let folder = Folder::new().with("a.qcow2", bytes);
    let mut chain = opened(&folder, "a.qcow2").unwrap();
    let both = read(&folder, &mut chain, 0..2 * CLUSTER).unwrap();
    let half = usize::try_from(CLUSTER).unwrap();
    assert!(both[..half] == both[half..]);
    assert_eq!(check(&folder, &mut chain).unwrap().findings, []);
}

#[test]
fn refcounts_are_compared() {
    let count = |value: u8| {
        damaged(|bytes| put(bytes, REFCOUNT_BLOCK + 10, &[0, value])) // the first data cluster
    };
    assert_eq!(count(0), Told::Check(Class::RefcountMismatch));
    assert_eq!(count(9), Told::Check(Class::RefcountMismatch));
    let leaked = damaged(|bytes| put(bytes, REFCOUNT_BLOCK + 18, &[0, 1]));
    assert_eq!(leaked, Told::Nothing, "past the end of the file there is nothing to leak");
    let block = damaged(|bytes| put_64(bytes, 2 << 16, REFCOUNT_BLOCK as u64 + 1));
    assert_eq!(block, Told::Check(Class::PointerMisaligned));
}

#[test]
fn refcount_table_gone_leaves_the_disk_readable() {
    let table = |value: u64| damaged(|bytes| put_64(bytes, 48, value));
    assert_eq!(table(1 << 44), Told::Note(Class::PointerOutsideFile));
    assert_eq!(table((2 << 16) + 8), Told::Note(Class::PointerMisaligned));
    assert_eq!(damaged(|bytes| put_32(bytes, 56, 0xff_ffff)), Told::Note(Class::Limit));
}

#[test]
fn marks_of_other_programs_forbid_writing() {
    for (bits, class) in [(1, Class::Unclean), (2, Class::MarkedCorrupt)] {
        let mut bytes = good();
        put_64(&mut bytes, 72, bits);
        assert_eq!(told(bytes.clone()), Told::Note(class));
        let folder = Folder::new().with("a.qcow2", bytes);
        let options = OpenOptions { purpose: Purpose::Write, ..OpenOptions::default() };
        assert_eq!(open(&folder, "a.qcow2", options).err().unwrap().class, class);
    }
}

/// The good image with its first cluster replaced by a stream, with which the file ends.
fn packed(stream: &[u8], sectors: u64) -> Vec<u8> {
    let mut bytes = good();
    let at = bytes.len() as u64;
    bytes.extend_from_slice(stream);
    put_64(&mut bytes, L2, 1 << 62 | (sectors - 1) << 54 | at);
    bytes
}

fn deflate(plain: &[u8]) -> Vec<u8> {
    let mut stream = Vec::with_capacity(plain.len() + 1000);
    let mut state = Compress::new_with_window_bits(Compression::best(), false, 12);
    state.compress_vec(plain, &mut stream, FlushCompress::Finish).unwrap();
    stream
}

#[test]
fn compressed_clusters_are_just_full_or_damaged() {
    let read = |plain: &[u8]| {
        let stream = deflate(plain);
        let sectors = (stream.len() as u64).div_ceil(512);
        let folder = Folder::new().with("a.qcow2", packed(&stream, sectors));
        let mut chain = opened(&folder, "a.qcow2").unwrap();
        read(&folder, &mut chain, 100..CLUSTER).map_err(|fault| fault.class)
    };
    let cluster = usize::try_from(CLUSTER).unwrap();
    assert!(read(&disk()[..cluster]).unwrap() == disk()[100..cluster]);
    assert_eq!(read(&disk()[..1000]), Err(Class::DecompressShort));
    assert_eq!(read(&vec![0; 8 << 20]), Err(Class::DecompressLong));
    let garbage = told(packed(&[0xff; 512], 1));
    assert_eq!(garbage, Told::Read(Class::DecompressError));
    let stream = deflate(&disk()[..cluster]);
    let cut = told(packed(&stream[..stream.len() / 2], 256));
    assert_eq!(cut, Told::Read(Class::Truncated));
}

#[test]
fn stream_at_the_very_end_is_truncated() {
    let mut bytes = good();
    let at = bytes.len() as u64 - 3;
    let end = bytes.len();
    bytes[end - 3..].fill(0); // the beginning of a stored block
    put_64(&mut bytes, L2, 1 << 62 | at);
    put_64(&mut bytes, L2 + 24, 0);
    let folder = Folder::new().with("a.qcow2", bytes);
    let mut chain = opened(&folder, "a.qcow2").unwrap();
    let fault = read(&folder, &mut chain, 0..CLUSTER).unwrap_err();
    assert_eq!(fault.class, Class::Truncated);
}

#[test]
fn stream_may_promise_more_than_the_file_has() {
    let stream = deflate(&disk()[..usize::try_from(CLUSTER).unwrap()]);
    let folder = Folder::new().with("a.qcow2", packed(&stream, 200));
    let mut chain = opened(&folder, "a.qcow2").unwrap();
    assert!(read_all(&folder, &mut chain).unwrap() == disk());
    assert!(check(&folder, &mut chain).unwrap().has(Class::PointerOutsideFile));
}

#[test]
fn fault_says_in_which_image_of_the_chain() {
    let mut child = good();
    put_64(&mut child, 8, 0x200);
    put_32(&mut child, 16, 6);
    put(&mut child, 0x200, b"b.dist");
    put_64(&mut child, L2, 0);
    let mut parent = good();
    put_64(&mut parent, L2, COPIED | 1 << 45);
    let folder = Folder::new().with("a.qcow2", child).with("b.dist", parent);
    let options =
        OpenOptions { parent_format: Some(images::Format::Qcow2), ..OpenOptions::default() };
    let mut chain = open(&folder, "a.qcow2", options).unwrap();
    let fault = read_all(&folder, &mut chain).unwrap_err();
    assert_eq!((fault.layer, fault.file), (1, FileId(1)));
    assert_eq!(fault.at, Some(L2 as u64));
}
