//! Laws of the simulated disk, against the plainest model: what each sector may hold after a crash.

use proptest::{collection::vec, prelude::*};
use sim_world::{
    CutPolicy, DirtyPages, Fault, Moment, Rng, Rule, SECTOR_BYTES, Seed, SimClock, SimDisk,
    is_crash,
};
use std::collections::{BTreeMap, BTreeSet};
use world::{Access, Clock, Disk};

const SECTOR: usize = 512;
const SECTORS: usize = 24;

/// What one sector may hold: the durable byte, then all written since.
#[derive(Clone)]
struct SectorModel {
    durable: u8,
    since: Vec<u8>,
}

impl SectorModel {
    fn newest(&self) -> u8 {
        self.since.last().copied().unwrap_or(self.durable)
    }
}

fn first_bytes(disk: &SimDisk, path: &str) -> Vec<u8> {
    let bytes = disk.bytes_at(path, 0, SECTORS * SECTOR).expect("the file is there");
    for sector in bytes.chunks(SECTOR) {
        assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is whole or not at all");
    }
    bytes.iter().step_by(SECTOR).copied().collect()
}

/// A disk with an empty file "f", durable.
fn disk_with_file(seed: u64) -> SimDisk {
    let disk = SimDisk::new(Seed(seed));
    disk.open("f", Access::WRITE.new_file()).expect("made");
    disk.sync_dir("").expect("synced");
    disk
}

proptest! {
    #[test]
    fn synced_writes_survive_every_cut(
        seed in any::<u64>(),
        steps in vec((0..SECTORS, 1..8_usize, 1..=255_u8, 0..4_u8), 1..40),
    ) {
        let disk = disk_with_file(seed);
        let file = disk.open("f", Access::WRITE).expect("there");
        let mut model = vec![SectorModel { durable: 0, since: Vec::new() }; SECTORS];
        for (start, length, fill, kind) in steps {
            if kind == 0 {
                file.sync_data().expect("no fault");
                for sector in &mut model {
                    sector.durable = sector.newest();
                    sector.since.clear();
                }
            } else {
                let end = SECTORS.min(start + length);
                let bytes = vec![fill; (end - start) * SECTOR];
                file.write_at(start as u64 * SECTOR_BYTES, &bytes).expect("no fault");
                model[start..end].iter_mut().for_each(|sector| sector.since.push(fill));
            }
        }
        let newest: Vec<u8> = model.iter().map(SectorModel::newest).collect();
        let durable: Vec<u8> = model.iter().map(|sector| sector.durable).collect();
        let mut rng = Seed(seed).rng("cuts");
        for policy in CutPolicy::EVERY {
            let image = first_bytes(&disk.power_cut(policy, &mut rng), "f");
            for (found, sector) in image.iter().zip(&model) {
                prop_assert!(*found == sector.durable || sector.since.contains(found));
            }
            match policy {
                CutPolicy::None => prop_assert_eq!(image, durable.clone()),
                CutPolicy::All => prop_assert_eq!(image, newest.clone()),
                _ => {}
            }
        }
        let killed = disk.kill(&mut rng);
        prop_assert_eq!(first_bytes(&killed, "f"), newest.clone(), "a kill keeps what was answered");
        let cut = killed.power_cut(CutPolicy::None, &mut rng);
        prop_assert_eq!(first_bytes(&cut, "f"), durable, "a kill makes nothing durable");
        killed.open("f", Access::WRITE).expect("there").sync_data().expect("no fault");
        let cut = killed.power_cut(CutPolicy::None, &mut rng);
        prop_assert_eq!(first_bytes(&cut, "f"), newest, "the next process syncs what it found");
    }

    #[test]
    fn a_name_changes_whole_or_not_at_all(seed in any::<u64>(), synced in any::<bool>()) {
        let disk = SimDisk::new(Seed(seed));
        for name in ["a", "b"] {
            let file = disk.open(name, Access::WRITE.new_file()).expect("made");
            file.write_at(0, name.as_bytes()).expect("no fault");
            file.sync_data().expect("no fault");
        }
        disk.sync_dir("").expect("no fault");
        disk.rename("a", "b").expect("there");
        if synced {
            disk.sync_dir("").expect("no fault");
        }
        let mut rng = Seed(seed).rng("cuts");
        for policy in CutPolicy::EVERY {
            let image = disk.power_cut(policy, &mut rng);
            let renamed = image.files() == ["b"];
            prop_assert!(renamed || image.files() == ["a", "b"], "{:?}", image.files());
            prop_assert!(renamed || !synced);
            let b: &[u8] = if renamed { b"a" } else { b"b" };
            prop_assert_eq!(image.bytes("b").expect("always one"), b);
        }
    }

    #[test]
    fn one_seed_prints_the_same_bytes(seed in any::<u64>()) {
        let run = || {
            let disk = disk_with_file(seed);
            disk.inject(Rule::chance(Fault::MisdirectedWrite, 300_000));
            disk.inject(Rule::chance(Fault::LostWrite, 300_000));
            disk.inject(Rule::chance(Fault::BitRot, 300_000));
            let file = disk.open("f", Access::WRITE).expect("there");
            let mut rng = Seed(seed).rng("workload");
            let mut read = vec![0; SECTOR];
            for _ in 0..30 {
                let at = rng.below(SECTORS as u64) * SECTOR_BYTES;
                file.write_at(at, &vec![rng.next_u64().to_le_bytes()[0]; SECTOR]).expect("silent");
                let _ = file.read_at(rng.below(SECTORS as u64) * SECTOR_BYTES, &mut read);
                if rng.chance(100_000) {
                    file.sync_data().expect("no fault");
                }
            }
            let cut = disk.power_cut(CutPolicy::Torn, &mut rng);
            (read, disk.trace().to_string(), disk.digest(), cut.digest(), cut.digest_visible())
        };
        prop_assert_eq!(run(), run());
    }
}

#[test]
fn unsynced_files_take_many_shapes() {
    let disk = disk_with_file(1);
    let file = disk.open("f", Access::WRITE).expect("there");
    for sector in 0..4_u8 {
        file.write_at(u64::from(sector) * SECTOR_BYTES, &[sector + 1; SECTOR]).expect("no fault");
    }
    let mut rng = Seed(1).rng("cuts");
    let mut shapes = |policy: CutPolicy| -> usize {
        let images = (0..400).map(|_| first_bytes(&disk.power_cut(policy, &mut rng), "f"));
        images.collect::<BTreeSet<_>>().len()
    };
    assert_eq!(shapes(CutPolicy::None), 1);
    assert_eq!(shapes(CutPolicy::All), 1);
    assert_eq!(shapes(CutPolicy::Prefix), 5, "one for each length of the prefix");
    assert_eq!(shapes(CutPolicy::Random), 16, "every subset");
}

#[test]
fn torn_writes_lose_any_sector() {
    let disk = disk_with_file(2);
    disk.open("f", Access::WRITE).expect("there").write_at(0, &[7; 4 * SECTOR]).expect("no fault");
    let mut rng = Seed(2).rng("cuts");
    let images: BTreeSet<Vec<u8>> = (0..2_000)
        .map(|_| first_bytes(&disk.power_cut(CutPolicy::Torn, &mut rng), "f")[..4].to_vec())
        .collect();
    assert_eq!(images.len(), 16, "every subset of four sectors");
}

#[test]
fn files_and_directories_need_their_directory_synced() {
    let disk = SimDisk::new(Seed(3));
    disk.make_dir("log").expect("made");
    let file = disk.open("log/1", Access::WRITE.new_file()).expect("made");
    file.write_at(0, b"x").expect("no fault");
    file.sync_data().expect("no fault");
    let mut rng = Seed(3).rng("cuts");
    let mut survivors = |disk: &SimDisk| disk.power_cut(CutPolicy::None, &mut rng).files();
    assert!(survivors(&disk).is_empty(), "data was synced, its name was not");
    disk.sync_dir("log").expect("there");
    assert!(survivors(&disk).is_empty(), "the directory itself is not durable");
    disk.sync_dir("").expect("there");
    assert_eq!(survivors(&disk), ["log/1"]);
    assert_eq!(disk.list("log").expect("there"), ["1"]);
    assert!(disk.list("").expect("there").is_empty());
}

#[test]
fn independent_names_lose_their_order() {
    let disk = SimDisk::new(Seed(4));
    for name in ["a", "b", "c"] {
        disk.open(name, Access::WRITE.new_file()).expect("made");
    }
    let mut rng = Seed(4).rng("cuts");
    let images: BTreeSet<Vec<String>> =
        (0..300).map(|_| disk.power_cut(CutPolicy::Random, &mut rng).files()).collect();
    assert_eq!(images.len(), 8);
}

#[test]
fn a_failed_sync_drops_what_it_covered() {
    for pages in [DirtyPages::StayVisible, DirtyPages::Vanish] {
        let disk = disk_with_file(5);
        let file = disk.open("f", Access::WRITE).expect("there");
        file.write_at(0, b"lost").expect("no fault");
        disk.inject(Rule::once(Fault::SyncError(pages)));
        let error = file.sync_data().expect_err("the rule strikes");
        assert_eq!(error.raw_os_error(), Some(5));
        assert!(!is_crash(&error));
        file.sync_data().expect("the trap: it succeeds without the data");
        let seen = disk.bytes_at("f", 0, 4).expect("there");
        assert_eq!(&seen == b"lost", pages == DirtyPages::StayVisible);
        let after = disk.power_cut(CutPolicy::All, &mut Seed(5).rng("cut"));
        assert_eq!(after.bytes_at("f", 0, 4).expect("there"), [0; 4]);
        file.write_at(0, b"back").expect("no fault");
        file.sync_data().expect("no fault");
        let after = disk.power_cut(CutPolicy::None, &mut Seed(5).rng("cut"));
        assert_eq!(after.bytes("f").expect("there"), b"back");
    }
}

#[test]
fn a_lying_sync_loses_acknowledged_data() {
    let disk = disk_with_file(6);
    let file = disk.open("f", Access::WRITE).expect("there");
    let lie = disk.inject(Rule::always(Fault::LyingSync));
    file.write_at(0, b"x").expect("no fault");
    file.sync_data().expect("it lies");
    let image =
        |disk: &SimDisk| disk.power_cut(CutPolicy::None, &mut Seed(6).rng("cut")).bytes("f");
    assert_eq!(image(&disk).expect("there"), b"");
    disk.take_back(lie);
    file.sync_data().expect("no fault");
    assert_eq!(image(&disk).expect("there"), b"x");
}

#[test]
fn bit_rot_stays_until_healed_or_overwritten() {
    let disk = disk_with_file(7);
    let file = disk.open("f", Access::WRITE).expect("there");
    file.write_at(0, &[0; 4096]).expect("no fault");
    disk.inject(Rule::once(Fault::BitRot));
    let mut first = [0; 4096];
    file.read_at(0, &mut first).expect("silent");
    assert_eq!(first.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
    let mut second = [0; 4096];
    file.read_at(0, &mut second).expect("silent");
    assert_eq!(first, second, "the same bit again");
    let copy = disk.copy();
    copy.heal();
    copy.open("f", Access::READ).expect("there").read_at(0, &mut second).expect("no fault");
    assert_eq!(second, [0; 4096], "the pristine copy shows through");
    file.write_at(0, &[0; 4096]).expect("no fault");
    file.read_at(0, &mut second).expect("no fault");
    assert_eq!(second, [0; 4096], "a new write replaces the rotten sector");
    disk.flip_bit("f", 9, 3);
    file.read_at(0, &mut second).expect("no fault");
    assert_eq!(second[9], 8);
}

#[test]
fn rules_strike_where_and_when_told() {
    let disk = disk_with_file(8);
    let other = disk.open("g", Access::WRITE.new_file()).expect("made");
    let file = disk.open("f", Access::WRITE).expect("there");
    disk.inject(Rule::nth(Fault::WriteError, 1).on("f"));
    file.write_at(0, b"a").expect("the first is spared");
    other.write_at(0, b"a").expect("another file is not counted");
    assert_eq!(file.write_at(0, b"b").expect_err("the second").raw_os_error(), Some(5));
    file.write_at(1, b"c").expect("only once");
    assert_eq!(disk.bytes("f").expect("there"), b"ac");
    disk.inject(Rule::always(Fault::ReadError).on("g"));
    for _ in 0..3 {
        other.read_at(0, &mut [0]).expect_err("for ever");
    }
    disk.set_faults(false);
    other.read_at(0, &mut [0]).expect("rules rest");
}

#[test]
fn silent_write_faults_leave_other_bytes() {
    let run = |fault| {
        let disk = disk_with_file(9);
        let file = disk.open("f", Access::WRITE).expect("there");
        file.write_at(0, &[1; 8 * SECTOR]).expect("no fault");
        disk.inject(Rule::once(fault));
        file.write_at(SECTOR_BYTES, &[2; SECTOR]).expect("silent");
        first_bytes(&disk, "f")[..8].to_vec()
    };
    assert_eq!(run(Fault::LostWrite), [1; 8]);
    let misdirected = run(Fault::MisdirectedWrite);
    assert_eq!(misdirected[1], 1, "not where it should be");
    assert!(misdirected.contains(&2), "but somewhere");
}

#[test]
fn misdirected_reads_give_other_sectors() {
    let disk = disk_with_file(10);
    let file = disk.open("f", Access::WRITE).expect("there");
    for sector in 0..8_u8 {
        file.write_at(u64::from(sector) * SECTOR_BYTES, &[sector; SECTOR]).expect("no fault");
    }
    disk.inject(Rule::once(Fault::MisdirectedRead));
    let mut bytes = [0; SECTOR];
    file.read_at(3 * SECTOR_BYTES, &mut bytes).expect("silent");
    assert_ne!(bytes, [3; SECTOR]);
    file.read_at(3 * SECTOR_BYTES, &mut bytes).expect("no fault");
    assert_eq!(bytes, [3; SECTOR]);
}

#[test]
fn a_full_disk_goes_on_when_room_appears() {
    let disk = disk_with_file(11);
    disk.set_capacity_bytes(Some(16_384));
    let file = disk.open("f", Access::WRITE).expect("there");
    file.allocate(8_192).expect("fits");
    assert_eq!(disk.space().expect("known").free_bytes, 8_192);
    file.write_at(0, &[1; 16_384]).expect("fits exactly");
    let error = file.write_at(16_384, b"x").expect_err("full");
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    file.write_at(0, &[2; 16_384]).expect("overwriting takes no room");
    file.allocate(20_000).expect_err("full");
    disk.set_capacity_bytes(Some(1 << 20));
    file.write_at(16_384, b"x").expect("room again");
    drop(file);
    disk.remove("f").expect("there");
    disk.sync_dir("").expect("there");
    assert_eq!(disk.space().expect("known").free_bytes, 1 << 20);
}

#[test]
fn slow_operations_move_the_clock() {
    let (disk, clock) = (disk_with_file(12), SimClock::default());
    disk.set_clock(&clock);
    disk.inject(Rule::always(Fault::Slow(1_000)).on("f"));
    let before_ns = clock.boot_ns();
    disk.open("f", Access::WRITE).expect("there").write_at(0, b"x").expect("slow, not wrong");
    assert_eq!(clock.boot_ns(), before_ns + 1_000);
}

#[test]
fn a_crash_ends_everything_at_its_moment() {
    for (moment, expected) in [(Moment::Before, 0_u8), (Moment::After, 2)] {
        let disk = disk_with_file(13);
        let file = disk.open("f", Access::WRITE).expect("there");
        file.write_at(0, &[0]).expect("no fault");
        disk.crash_at_operation(disk.operations() + 1, moment);
        file.write_at(0, &[0]).expect("one before");
        assert!(is_crash(&file.write_at(0, &[2]).expect_err("the crash")));
        assert!(is_crash(&file.sync_data().expect_err("after it")));
        assert!(is_crash(&file.read_at(0, &mut [0]).expect_err("after it")));
        assert!(is_crash(&disk.open("f", Access::READ).expect_err("after it")));
        assert!(is_crash(&disk.list("").expect_err("after it")));
        assert!(is_crash(&file.length_bytes().expect_err("after it")));
        let image = disk.power_cut(CutPolicy::All, &mut Seed(13).rng("cut"));
        assert_eq!(image.bytes("f").expect("there"), [expected]);
        assert!(!image.is_crashed());
    }
}

#[test]
fn removed_files_live_while_open() {
    let disk = disk_with_file(14);
    let file = disk.open("f", Access::WRITE).expect("there");
    file.write_at(0, b"x").expect("no fault");
    disk.remove("f").expect("there");
    disk.sync_dir("").expect("there");
    let mut byte = [0];
    file.read_at(0, &mut byte).expect("still open");
    assert_eq!(&byte, b"x");
    assert!(disk.open("f", Access::READ).is_err());
    assert!(disk.rename("f", "g").is_err());
    disk.open("f", Access::WRITE.new_file()).expect("the name is free");
    assert_eq!(disk.length_bytes("f"), Some(0));
}

#[test]
#[should_panic(expected = "not aligned to 4096 bytes")]
fn misaligned_direct_writes_are_our_bug() {
    let disk = disk_with_file(15);
    disk.set_alignment(4096);
    let file = disk.open("f", Access::WRITE_DIRECT).expect("there");
    let _ = file.write_at(512, &[0; 4096]);
}

#[test]
fn images_share_the_pages_of_their_disk() {
    let disk = disk_with_file(16);
    let file = disk.open("f", Access::WRITE).expect("there");
    file.write_at(0, &vec![1; 8 << 20]).expect("no fault");
    file.sync_data().expect("no fault");
    file.write_at(4 << 20, &vec![2; 64 << 10]).expect("no fault");
    let mut rng = Rng::new(Seed(16));
    let mut shapes: BTreeMap<u8, u32> = BTreeMap::new();
    for _ in 0..5_000 {
        let image = disk.power_cut(CutPolicy::Torn, &mut rng);
        *shapes.entry(image.bytes_at("f", 4 << 20, 1).expect("there")[0]).or_default() += 1;
    }
    assert_eq!(shapes.keys().copied().collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_watched_disk_keeps_itself_from_before_each_operation() {
    let disk = disk_with_file(17);
    let file = disk.open("f", Access::WRITE).expect("there");
    let first = disk.operations();
    disk.watch();
    file.write_at(0, &[1; SECTOR]).expect("no fault");
    file.sync_data().expect("no fault");
    file.write_at(0, &[2; SECTOR]).expect("no fault");
    let watched = disk.take_watched();
    let mut rng = Rng::new(Seed(17));
    let mut seen = Vec::new();
    for (operation, disk) in &watched {
        let all = first_bytes(&disk.power_cut(CutPolicy::All, &mut rng), "f")[0];
        let none = first_bytes(&disk.power_cut(CutPolicy::None, &mut rng), "f")[0];
        seen.push((*operation - first, all, none));
    }
    assert_eq!(seen, [(0, 0, 0), (1, 1, 0), (2, 1, 1)]);
    assert!(disk.take_watched().is_empty(), "taken once");
}

#[test]
fn a_rule_may_strike_from_some_operation_on() {
    let disk = disk_with_file(18);
    let file = disk.open("f", Access::WRITE).expect("there");
    disk.inject(Rule::from_nth(Fault::WriteError, 2));
    let well: Vec<bool> = (0..5).map(|_| file.write_at(0, b"x").is_ok()).collect();
    assert_eq!(well, [true, true, false, false, false]);
    assert_eq!(disk.struck(), 3);
}
