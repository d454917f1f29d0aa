//! Damage to a run file: an error or the answers that were there before, never others.

#[path = "hostile/driver.rs"]
mod driver;
mod memory_disk;

use driver::{RUN, answers, check, master, sample, sample_file};
use history_index::{Bound, Entry, Error, LeafVersions, MemoryRun, PageCache, Run, write_run};
use memory_disk::{Counting, MemoryDisk};
use proptest::{collection::vec, prelude::*};
use std::sync::Arc;
use units::{BranchId, FileId, Lba, Place, RunId, Sequence};

/// Each bit of the header and of each page's first and last bytes; of the rest, which one seal holds
/// together, a bit of every seventh byte.
#[test]
fn no_flipped_bit_changes_an_answer() {
    let whole = sample_file();
    let wanted = answers(whole.clone()).expect("whole");
    let mut refused = 0;
    for at in 0..whole.len() {
        let edge = at < 80 || at % 4096 < 4 || at % 4096 >= 4094;
        for bit in 0..8 {
            if !edge && (at % 7 != 0 || bit != at % 8) {
                continue;
            }
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            let Ok(found) = answers(bytes) else {
                refused += 1;
                continue;
            };
            for (found, wanted) in found.iter().zip(&wanted) {
                assert!(found == wanted || found.contains("refused"), "bit {bit} of byte {at}");
            }
        }
    }
    assert!(refused > 2000, "header, fences and footer are needed to open");
}

#[test]
fn a_damaged_page_fails_only_what_needs_it() {
    let mut bytes = sample_file();
    bytes[4096 + 100] ^= 1; // the first page of entries: all of branch 0
    let found = answers(bytes).expect("opens");
    let refused: Vec<bool> = found.iter().map(|answer| answer.contains("refused")).collect();
    assert_eq!(
        refused,
        [true, true, false, false, false, false, false, false, false, false, true],
        "leaves 0 and 2, and what changed on branch 0"
    );
}

#[test]
fn a_cut_file_is_refused() {
    let whole = sample_file();
    for length in (0..whole.len()).step_by(512).chain([whole.len() - 1]) {
        assert!(answers(whole[..length].to_vec()).is_err(), "{length} of {}", whole.len());
    }
    for more in [1, 4096] {
        let mut bytes = whole.clone();
        bytes.resize(whole.len() + more, 0);
        assert!(answers(bytes).is_err(), "{more} bytes more");
    }
}

#[test]
fn pages_of_another_place_are_refused() {
    let whole = sample_file();
    let wanted = answers(whole.clone()).expect("whole");
    for page in 1..whole.len() / 4096 - 1 {
        let mut bytes = whole.clone();
        let (front, back) = bytes.split_at_mut((page + 1) * 4096);
        front[page * 4096..].swap_with_slice(&mut back[..4096]);
        if let Ok(found) = answers(bytes) {
            assert!(found.iter().zip(&wanted).all(|(f, w)| f == w || f.contains("refused")));
        }
    }
}

#[test]
fn another_run_or_key_is_refused() {
    let disk = MemoryDisk::default();
    disk.put("5.run", sample_file());
    let cache = PageCache::new(1 << 20);
    let other = Run::open(&disk, "5.run", RunId(6), &master(), &cache);
    assert!(matches!(other, Err(Error::OtherRun { found: RUN, .. })));
    let key = seal::Key::from_bytes([4; 32]);
    assert!(matches!(Run::open(&disk, "5.run", RUN, &key, &cache), Err(Error::Damaged { .. })));
}

#[test]
fn a_run_is_never_written_over_a_file() {
    let disk = MemoryDisk::default();
    disk.put("5.run", vec![1]);
    assert!(write_run(&disk, "5.run", RUN, &master(), &Counting, &sample()).is_err());
    assert_eq!(disk.bytes("5.run"), [1]);
}

/// A block written 100 000 times fills many pages; a look-up reads two, at whatever instant.
#[test]
fn a_hot_block_costs_two_pages() {
    let sequence = |number| Sequence::new(number).expect("small");
    let mut contents = history_index::Contents::starting_at(sequence(1));
    let file = FileId::new(1).expect("small");
    for number in 1..=100_000_u64 {
        let lba = Lba::new(5 + number / 99_999).expect("small");
        let place = Place::new(file, number * 31 % 1009 * 4128).expect("aligned");
        contents.entries.push(Entry {
            branch: BranchId(1),
            lba,
            sequence: sequence(number),
            place,
        });
    }
    contents.last = sequence(100_000);
    let memory = MemoryRun::new(contents);
    let disk = MemoryDisk::default();
    let meta = write_run(&disk, "5.run", RUN, &master(), &Counting, &memory).expect("written");
    assert!(meta.bytes > 50 * 4096, "{} bytes are few pages", meta.bytes);
    for up_to in [1, 50_000, 99_998, 100_000] {
        let run = Run::open(&disk, "5.run", RUN, &master(), &PageCache::new(0)).expect("whole");
        let before = disk.reads("5.run");
        let leaf = Lba::new(0).expect("small").leaf();
        let chain = [Bound { branch: BranchId(1), up_to: sequence(up_to) }];
        let (mut found, mut wanted) = (LeafVersions::new(leaf), LeafVersions::new(leaf));
        run.load_leaf(&chain, leaf, &mut found).expect("whole");
        memory.load_leaf(&chain, leaf, &mut wanted);
        assert_eq!(found, wanted);
        let reads = disk.reads("5.run") - before;
        assert!(reads <= 4, "{reads} pages read for two blocks at {up_to}");
    }
}

#[test]
fn a_leaf_that_is_not_there_costs_nothing() {
    let disk = MemoryDisk::default();
    disk.put("5.run", sample_file());
    let run = Run::open(&disk, "5.run", RUN, &master(), &PageCache::new(0)).expect("whole");
    let run = Arc::new(run);
    let before = disk.reads("5.run");
    let chain = [Bound { branch: BranchId(1), up_to: Sequence::MAX }];
    for number in 100..1100_u64 {
        let leaf = Lba::new(number * 512).expect("small").leaf();
        run.load_leaf(&chain, leaf, &mut LeafVersions::new(leaf)).expect("whole");
    }
    assert!(disk.reads("5.run") - before < 50, "the filter says no");
}

/// What the index costs on disk, held to what `docs/format.md` 9 promises.
#[test]
fn an_entry_costs_few_bytes() {
    let cost = |blocks: u64, packed: bool| {
        let mut contents = history_index::Contents::starting_at(Sequence::new(1).expect("small"));
        let mut random = 1_u64;
        for number in 0..16_384 / blocks {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(number | 1);
            let sequence = Sequence::new(number + 1).expect("small");
            for block in 0..blocks {
                let lba = Lba::new((random >> 36) + block).expect("small"); // of 1 TiB
                let place = (number * blocks + block) * 4128;
                let place = Place::new(FileId::new(9).expect("small"), place).expect("aligned");
                contents.entries.push(Entry { branch: BranchId(1), lba, sequence, place });
            }
            contents.last = sequence;
        }
        if packed {
            contents.entries.sort();
            for (entry, cell) in contents.entries.iter_mut().zip(0..) {
                entry.place =
                    Place::new(FileId::new(9).expect("small"), cell * 4128).expect("aligned");
            }
        }
        let disk = MemoryDisk::default();
        let memory = MemoryRun::new(contents);
        let meta = write_run(&disk, "5.run", RUN, &master(), &Counting, &memory).expect("written");
        println!("{blocks} blocks a request, packed {packed}: {} / {}", meta.bytes, meta.entries);
        meta.bytes * 10 / meta.entries
    };
    assert!(cost(1, false) <= 150, "random, as logged");
    assert!(cost(1, true) <= 110, "random, packed");
    assert!(cost(256, false) <= 40, "sequential");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn sealed_nonsense_never_panics(changes in vec((any::<u8>(), 0..200_u16, any::<u8>()), 0..12)) {
        let bytes = changes.iter().flat_map(|(page, at, value)| {
            let [low, high] = at.to_le_bytes();
            [*page, low, high, *value]
        });
        check(&bytes.collect::<Vec<u8>>());
    }

    #[test]
    fn arbitrary_files_are_refused(bytes in vec(any::<u8>(), 0..20_000)) {
        prop_assert!(answers(bytes).is_err());
    }
}
