//! Laws of the manifest: what was appended is read back; one damaged copy heals; damage in both is
//! told; no bytes make it panic or give other records.

use manifest::{Manifest, ManifestError, Mode, Record, read_copies};
use proptest::{collection::vec, prelude::*};
use seal::Key;
use sim_world::{Seed, SimChance, SimDisk};
use units::StoreId;

const STORE: StoreId = StoreId([7; 16]);

fn master() -> Key {
    Key::from_bytes([1; 32])
}

fn chance() -> SimChance {
    SimChance::new(Seed(11))
}

fn read(disk: &SimDisk) -> Result<Vec<Record>, ManifestError> {
    Manifest::open(disk, &master(), STORE, Mode::Read).map(|opened| opened.1)
}

/// A manifest of three entries, the first of them a snapshot's, and its records.
fn sample() -> (SimDisk, Vec<Record>) {
    let disk = SimDisk::new(Seed(1));
    let mut manifest = Manifest::create(&disk, &master(), STORE, &chance()).expect("empty disk");
    let record = |kind: u16| Record { kind, body: vec![3; 9 + usize::from(kind)] };
    let records: Vec<Record> = (1..=4).map(record).collect();
    manifest.rewrite(&disk, &chance(), &records[..1]).expect("no faults");
    manifest.append(&records[1..3]).expect("no faults");
    manifest.append(&records[3..]).expect("no faults");
    assert_eq!((Some(manifest.bytes()), manifest.generation()), (disk.length_bytes(A), 2));
    (disk, records)
}

const A: &str = "manifest/2.a";
const B: &str = "manifest/2.b";

#[test]
fn one_damaged_copy_heals_from_the_other() {
    let (disk, records) = sample();
    let whole = disk.bytes(A).expect("there");
    for (path, other) in [(A, B), (B, A)] {
        for byte in 0..whole.len() {
            let disk = disk.copy();
            let at = u64::try_from(byte).expect("small");
            if byte % 2 == 0 {
                disk.flip_bit(path, at, 5);
            } else {
                disk.truncate(path, at);
            }
            assert_eq!(read(&disk).expect("the other serves"), records, "{path} byte {byte}");
            assert_ne!(disk.bytes(path).as_ref(), Some(&whole), "read-only mode wrote");
            let chance = chance();
            let (manifest, found) =
                Manifest::open(&disk, &master(), STORE, Mode::Write(&chance)).expect("heals");
            assert_eq!(found, records);
            let repairs = manifest.repairs();
            assert!(repairs.len() == 1 && repairs[0].healed && repairs[0].path == path);
            assert_eq!(disk.bytes(path).as_ref(), Some(&whole), "{path} byte {byte}");
            assert_eq!(disk.bytes(other).as_ref(), Some(&whole));
        }
    }
}

#[test]
fn the_same_damage_in_both_copies_is_told_or_an_end() {
    let (disk, records) = sample();
    let whole = disk.bytes(A).expect("there");
    let last_entry = whole.len() - 40 - (8 + 13) - 16;
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        let found = read_copies([&changed, &changed], &master(), STORE, 2);
        if at < last_entry {
            assert!(found.is_err(), "byte {at} gave {found:?}");
        } else {
            // Nobody can tell a damaged last entry from one that was never finished.
            assert_eq!(found.expect("an end"), records[..3], "byte {at}");
        }
    }
}

#[test]
fn a_snapshot_is_never_shortened() {
    let (disk, _) = sample();
    let whole = disk.bytes(A).expect("there");
    for length in 0..96 + 40 + 8 + 10 + 16 {
        let cut = &whole[..length];
        assert!(read_copies([cut, cut], &master(), STORE, 2).is_err(), "cut to {length}");
    }
}

#[test]
fn holes_in_different_places_heal_from_each_other() {
    let (disk, records) = sample();
    disk.flip_bit(A, 100, 0);
    disk.flip_bit(B, disk.length_bytes(B).expect("there") - 1, 0);
    assert_eq!(read(&disk).expect("each serves where the other fails"), records);
}

#[test]
fn strangers_are_told_apart() {
    let (disk, _) = sample();
    let other = StoreId([8; 16]);
    let foreign = Manifest::open(&disk, &master(), other, Mode::Read).expect_err("foreign");
    assert!(matches!(foreign, ManifestError::Foreign { found: STORE, .. }), "{foreign}");
    let key = Key::from_bytes([2; 32]);
    let wrong = Manifest::open(&disk, &key, STORE, Mode::Read).expect_err("wrong key");
    assert!(matches!(wrong, ManifestError::Damaged { .. }), "{wrong}");
    for path in [A, B] {
        disk.overwrite(path, 8, &[2]);
    }
    assert!(matches!(read(&disk), Err(ManifestError::Format { found: 2 })));
    let empty = SimDisk::new(Seed(1));
    assert!(matches!(read(&empty), Err(ManifestError::Missing)));
    let (disk, _) = sample();
    let again = Manifest::create(&disk, &master(), STORE, &chance());
    assert!(matches!(again, Err(ManifestError::Exists)));
}

#[test]
fn an_older_generation_never_serves_in_place_of_the_newest() {
    let (disk, _) = sample();
    let whole = disk.bytes(A).expect("there");
    for path in [A, B] {
        disk.truncate(path, 40);
    }
    // The same bytes under an older name: genuine, but not what counts.
    let file = world::Disk::open(&disk, "manifest/1.a", world::Access::WRITE.new_file());
    file.and_then(|file| file.write_at(0, &whole)).expect("no faults");
    assert!(matches!(read(&disk), Err(ManifestError::Damaged { generation: 2, .. })));
}

#[test]
fn a_reader_cannot_append() {
    let (disk, _) = sample();
    let (mut manifest, _) = Manifest::open(&disk, &master(), STORE, Mode::Read).expect("whole");
    let error = manifest.append(&[]).expect_err("read-only");
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    manifest.rewrite(&disk, &chance(), &[]).expect_err("read-only");
}

#[test]
fn a_long_snapshot_comes_back_whole() {
    let disk = SimDisk::new(Seed(1));
    let mut manifest = Manifest::create(&disk, &master(), STORE, &chance()).expect("empty disk");
    let records: Vec<Record> =
        (0..40).map(|kind| Record { kind, body: vec![1; 100_000] }).collect();
    manifest.rewrite(&disk, &chance(), &records).expect("no faults");
    assert_eq!(read(&disk).expect("whole"), records);
}

fn any_records() -> impl Strategy<Value = Vec<Record>> {
    vec((any::<u16>(), vec(any::<u8>(), 0..60)), 0..4)
        .prop_map(|all| all.into_iter().map(|(kind, body)| Record { kind, body }).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_appended_is_read_back(calls in vec((any_records(), any::<bool>(), any::<bool>()), 0..8)) {
        let disk = SimDisk::new(Seed(1));
        let chance = chance();
        let mut manifest = Manifest::create(&disk, &master(), STORE, &chance).expect("empty disk");
        let mut model: Vec<Record> = Vec::new();
        for (records, rewrite, reopen) in calls {
            if rewrite {
                manifest.rewrite(&disk, &chance, &records).expect("no faults");
                model = records;
            } else {
                manifest.append(&records).expect("no faults");
                model.extend(records);
            }
            if reopen {
                let opened = Manifest::open(&disk, &master(), STORE, Mode::Write(&chance)).expect("whole");
                prop_assert_eq!(&opened.1, &model);
                prop_assert_eq!(opened.0.bytes(), manifest.bytes());
                manifest = opened.0;
            }
        }
        prop_assert_eq!(read(&disk).expect("whole"), model);
    }

    #[test]
    fn two_changed_copies_give_a_prefix_or_an_error(
        one in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        other in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cuts in prop::option::of((any::<prop::sample::Index>(), any::<prop::sample::Index>())),
    ) {
        let (disk, records) = sample();
        let mut copies = [disk.bytes(A).expect("there"), disk.bytes(B).expect("there")];
        for (copy, changes) in copies.iter_mut().zip([one, other]) {
            for (at, byte) in changes {
                let at = at.index(copy.len());
                copy[at] = byte;
            }
        }
        if let Some((one, other)) = cuts {
            let length = copies[0].len();
            copies[0].truncate(one.index(length + 1));
            copies[1].truncate(other.index(length + 1));
        }
        if let Ok(found) = read_copies([&copies[0], &copies[1]], &master(), STORE, 2) {
            prop_assert!(!found.is_empty() && records.starts_with(&found), "{:?}", found);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(mut one in vec(any::<u8>(), 0..400), other in vec(any::<u8>(), 0..400), genuine: bool) {
        if genuine {
            let (disk, _) = sample();
            let whole = disk.bytes(A).expect("there");
            one.splice(..0, whole[..96].iter().copied());
        }
        prop_assert!(read_copies([&one, &other], &master(), STORE, 2).is_err());
    }
}
