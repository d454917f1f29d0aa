use std::path::Path;

use images::{
    Format, Identity,
    layout::{Held, ParentPlan, Plan},
    qcow2::write::{Qcow2Options, layout},
};
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::OpenDisk;

const CLUSTER: u64 = 512;
const UNIT: u64 = 4096;

#[expect(clippy::disallowed_methods, reason = "the test's own files")]
fn put(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("written");
}

/// A qcow2 image of clusters of 512 bytes over a raw one; gives the disk that both show.
fn make(dir: &Path, size: u64, own: &[(u64, u64)], base: &[(u64, u64)]) -> Vec<u8> {
    let fill = |bytes: &mut Vec<u8>, runs: &[(u64, u64)], value: u8| {
        for (start, len) in runs {
            let end = (start + len).min(size / CLUSTER);
            for byte in &mut bytes[narrow((start * CLUSTER).min(size))
                ..narrow(end.max(*start).min(size / CLUSTER) * CLUSTER)]
            {
                *byte = value;
            }
        }
    };
    let mut disk = vec![0; narrow(size)];
    fill(&mut disk, base, 3);
    put(&dir.join("base.raw"), &disk);
    fill(&mut disk, own, 9);
    let held = (0..size / CLUSTER).map(|cluster| cluster * CLUSTER);
    let held = held.filter(|start| disk[narrow(*start)] == 9);
    let plan = Plan {
        virtual_size: size,
        held: held.map(|start| Held { start, len: CLUSTER, zero: false }).collect(),
        parent: Some(ParentPlan {
            name: "base.raw".to_owned(),
            format: Format::Raw,
            identity: Identity::None,
            virtual_size: size,
        }),
        seed: [1; 32],
        made_s: 1,
    };
    let options = Qcow2Options { cluster_bits: 9, ..Qcow2Options::default() };
    let files = layout(&plan, &options).expect("writable");
    put(&dir.join("top.qcow2"), &images::testing::render(&*files[0].layout, &disk, u64::MAX));
    disk
}

fn scan(disk: &mut Disk, wanted: &[Range<u64>]) -> Vec<Scanned<Vec<u8>>> {
    let mut found = Vec::new();
    let mut silent = |_| ();
    let mut watch = Watch { progress: &mut silent, stopped: &|| false };
    let make = |_, bytes: &[u8]| bytes.to_vec();
    disk.scan(wanted, UNIT, &make, &mut |piece| found.push(piece), &mut watch).expect("scanned");
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn units_are_the_disks_bytes(
        clusters in 1..900_u64,
        own in vec((0..900_u64, 1..40_u64), 0..6),
        base in vec((0..900_u64, 1..200_u64), 0..4),
        skip in (0..120_u64, 0..120_u64),
    ) {
        let dir = tempfile::tempdir().expect("a directory");
        let size = clusters * CLUSTER;
        let bytes = make(dir.path(), size, &own, &base);
        let mut disk = Disk::open(&dir.path().join("top.qcow2"), &OpenDisk::default()).expect("opens");
        let first = (skip.0 * UNIT).min(size);
        let second = ((skip.0 + skip.1) * UNIT).min(size);
        let mut seen = vec![None; bytes.len()];
        let mut reached = 0;
        for piece in scan(&mut disk, &[0..first, second..size]) {
            let (range, held) = match piece {
                Scanned::Unit(start, held) => (start..start + held.len() as u64, held),
                Scanned::Zeroes(range) => (range.clone(), vec![0; narrow(range.end - range.start)]),
                Scanned::Damaged(..) => panic!("nothing is damaged"),
            };
            prop_assert!(range.start >= reached && range.start.is_multiple_of(UNIT));
            reached = range.end;
            for (place, byte) in (range.start..range.end).zip(held) {
                seen[narrow(place)] = Some(byte);
            }
        }
        for (place, byte) in bytes.iter().enumerate() {
            let at = place as u64;
            let wanted = (at < first || at >= second).then_some(*byte);
            prop_assert_eq!(seen[place], wanted, "byte {}", place);
        }
    }
}

#[test]
fn a_hole_is_told_and_not_read() {
    let dir = tempfile::tempdir().expect("a directory");
    make(dir.path(), 64 << 20, &[(3, 1)], &[]);
    let mut disk = Disk::open(&dir.path().join("top.qcow2"), &OpenDisk::default()).expect("opens");
    let size = disk.virtual_size();
    let found = scan(&mut disk, std::slice::from_ref(&(0..size)));
    let units = found.iter().filter(|piece| matches!(piece, Scanned::Unit(..))).count();
    let zeroes: u64 = found
        .iter()
        .map(|piece| match piece {
            Scanned::Zeroes(range) => range.end - range.start,
            _ => 0,
        })
        .sum();
    // The base is a file full of zeroes, not a hole: its data is read unless the file system tells.
    assert!(units >= 1 && zeroes + units as u64 * UNIT == size, "{units} units, {zeroes} zeroes");
    assert!(matches!(&found[0], Scanned::Unit(0, bytes) if bytes[1536] == 9 && bytes[0] == 0));
}

#[test]
fn damage_spares_the_units_around_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let bytes = make(dir.path(), 1 << 20, &[(0, 32), (100, 32)], &[]);
    let path = dir.path().join("top.qcow2");
    let length = std::fs::metadata(&path).expect("there").len();
    // The last cluster of data is cut off.
    cut(&path, length - CLUSTER);
    let mut disk = Disk::open(&path, &OpenDisk::default()).expect("opens");
    let mut damaged = Vec::new();
    for piece in scan(&mut disk, std::slice::from_ref(&(0..1 << 20))) {
        match piece {
            Scanned::Unit(start, held) => {
                assert_eq!(held, bytes[narrow(start)..][..held.len()], "unit at {start}");
            }
            Scanned::Zeroes(range) => {
                assert!(
                    bytes[narrow(range.start)..narrow(range.end)].iter().all(|byte| *byte == 0)
                );
            }
            Scanned::Damaged(range, Error::Fault { .. }) => damaged.push(range),
            Scanned::Damaged(range, error) => panic!("{range:?}: {error}"),
        }
    }
    assert_eq!(damaged, vec![16 * UNIT..17 * UNIT; 1]);
}

#[expect(clippy::disallowed_methods, reason = "the test's own files")]
fn cut(path: &Path, length: u64) {
    let file = std::fs::File::options().write(true).open(path).expect("opens");
    file.set_len(length).expect("cut");
}
