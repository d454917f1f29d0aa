//! One file of a store is damaged at a time, of each kind, in many places; then the store is opened and
//! every block is read at several instants: it is what it was, or an error. What the damage cannot
//! concern is no error.
//!
//! The store holds several runs or one that was merged, segments (sealed or packed ones, and the log's
//! end), bulk files, trims and a clone. Damage at the log's very end cannot be told from a write that
//! power took, so there history may end earlier; what a batch that is still there calls flushed is never
//! lost in silence.

use block_device::{Answer, BlockError, Command, Payload};
use segment_log::Config;
use sim::{Machine, Place, new_volume};
use sim_world::{Fault, Rng, Rule, Seed, SimDisk};
use std::collections::BTreeMap;
use units::{BLOCK, BranchId, ClientId, Sequence};
use volume::ViewId;
use world::Disk as _;

const CLIENT: ClientId = ClientId(7);
const BLOCKS: usize = 640; // a leaf and a quarter
const BRANCH: BranchId = BranchId(1);

/// A store at rest, and what each instant of its branches holds.
struct Sample {
    disk: SimDisk,
    clone: BranchId,
    /// First byte of each block after each request; all blocks are of one byte.
    history: Vec<Vec<u8>>,
    /// Requests before the clone.
    forked: usize,
    /// What a flush was answered for, so that later batches say so.
    flushed: usize,
    /// Whether the log was ended cleanly.
    clean: bool,
}

/// What came of reading every block at some instants.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Tally {
    right: usize,
    refused: usize,
}

fn config(pack: bool) -> Config {
    Config { pack, segment_bytes: 512 << 10, images: 1, pool_files: 1, ..Config::default() }
}

fn write(machine: &mut Machine, view: ViewId, first: usize, count: usize, fill: u8) {
    let (offset_bytes, length) = ((first * BLOCK) as u64, count * BLOCK);
    let bytes = vec![fill; length];
    let command = match fill {
        0 => Command::Trim { offset_bytes, length_bytes: length as u64, fua: false },
        _ => Command::Write { offset_bytes, data: Payload::Borrowed(&bytes), fua: false },
    };
    let done = machine.ask(view, CLIENT, command);
    assert!(matches!(done, Ok(Answer::Written(_))), "{done:?}");
}

/// A store whose process was killed.
fn sample(requests: usize, pack: bool) -> Sample {
    filled(requests, pack, false)
}

/// A store that was ended cleanly.
fn finished_sample(requests: usize, pack: bool) -> Sample {
    filled(requests, pack, true)
}

/// Writes, trims and bulk over several segments, a flush now and then, a clone amid them.
fn filled(requests: usize, pack: bool, clean: bool) -> Sample {
    let seed = Seed(11);
    let place = Place::new(seed);
    place.make_store().expect("an empty disk");
    let mut machine = Machine::start(&place, config(pack)).expect("a new store");
    machine.create("disk", (BLOCKS * BLOCK) as u64).expect("no crash");
    let view = machine.view(BRANCH, None);
    let mut rng = seed.rng("writes");
    let mut history = vec![vec![0; BLOCKS]];
    let (mut clone, mut forked, mut flushed) = (BRANCH, 0, 0);
    for number in 1..=requests {
        let bulk = number % 30 == 7;
        let count = if bulk { 70 } else { 1 + rng.index(24) };
        let first = rng.index(BLOCKS - count);
        let fill = u8::try_from(number).expect("below 256") * u8::from(number % 11 != 0);
        write(&mut machine, view, first, count, fill);
        let mut blocks = history[history.len() - 1].clone();
        blocks[first..first + count].fill(fill);
        history.push(blocks);
        if number % 8 == 0 {
            machine.ask(view, CLIENT, Command::Flush).expect("flushes");
            flushed = number;
        }
        if number == requests / 3 * 2 {
            let now = machine.now().expect("no crash");
            let plan = machine.store.catalogue().plan_clone(BRANCH, now, new_volume("clone"), now);
            let (volume, records) = plan.expect("a free name");
            assert_eq!(machine.change(records), Some(true));
            (clone, forked) = (machine.present(volume), number);
        }
        if number % 10 == 0 {
            machine.settle();
        }
    }
    machine.flush_all().expect("no crash");
    machine.settle();
    if clean {
        assert_eq!(machine.finish(), Some(true));
    }
    drop(machine);
    Sample { disk: place.disk.copy(), clone, history, forked, flushed, clean }
}

/// Reads every block of a view by itself.
fn read_all(machine: &mut Machine, view: ViewId, wanted: &[u8], words: &str) -> Tally {
    let mut tally = Tally::default();
    for (block, wanted) in wanted.iter().enumerate() {
        let offset_bytes = (block * BLOCK) as u64;
        let command = Command::Read { offset_bytes, length_bytes: BLOCK as u64 };
        match machine.ask(view, CLIENT, command) {
            Ok(Answer::Data(parts)) => {
                let mut bytes = parts.iter().flat_map(|part| part.iter());
                assert!(bytes.all(|byte| byte == wanted), "{words}: R1: block {block}");
                tally.right += 1;
            }
            Err(BlockError::Io) => tally.refused += 1,
            other => panic!("{words}: block {block}: {other:?}"),
        }
    }
    tally
}

impl Sample {
    fn last(&self) -> usize {
        self.history.len() - 1
    }

    /// Opens a copy of the store after `damage`.
    fn open(&self, seed: Seed, damage: impl FnOnce(&SimDisk)) -> Result<Machine, String> {
        let disk = self.disk.copy();
        damage(&disk);
        let place = Place::with_disk(seed, disk);
        Machine::start(&place, config(true)).map_err(|error| error.to_string())
    }

    /// Reads the present, the clone and some instants.
    fn read(&self, machine: &mut Machine, words: &str) -> Tally {
        let last = machine.store.log().last().number();
        let last = usize::try_from(last).expect("small").min(self.last());
        let mut all = Tally::default();
        let instants = [5, 22, 33, 39].map(|at| (BRANCH, Some(at), at));
        let presents = [(BRANCH, None, last), (self.clone, None, self.forked)];
        for (branch, at, holds) in presents.into_iter().chain(instants) {
            let sequence = at.map(|at| Sequence::new(at as u64).expect("small"));
            let view = machine.view(branch, sequence);
            let words = format!("{words}, {branch:?} at {at:?}");
            let tally = read_all(machine, view, &self.history[holds], &words);
            machine.store.close_view(view);
            all.right += tally.right;
            all.refused += tally.refused;
        }
        all
    }

    /// After whatever damage, what is written anew can be read.
    fn goes_on(machine: &mut Machine, words: &str) {
        let view = machine.view(BRANCH, None);
        write(machine, view, 100, 3, 200);
        write(machine, view, 400, 80, 201);
        for (block, fill) in [(100, 200), (102, 200), (400, 201), (479, 201)] {
            let offset_bytes = (block * BLOCK) as u64;
            let command = Command::Read { offset_bytes, length_bytes: BLOCK as u64 };
            let read = machine.ask(view, CLIENT, command);
            let Ok(Answer::Data(parts)) = read else { panic!("{words}: {read:?}") };
            assert!(parts.iter().all(|part| part.iter().all(|byte| *byte == fill)), "{words}");
        }
        machine.ask(view, CLIENT, Command::Flush).expect("flushes");
        machine.settle();
    }

    fn files(&self, directory: &str) -> Vec<String> {
        let all = self.disk.files().into_iter();
        all.filter(|path| path.starts_with(directory) && path.contains('/')).collect()
    }
}

/// Ways to damage a file.
fn damages(length_bytes: u64, rng: &mut Rng) -> Vec<(String, Damage)> {
    let mut ways = vec![
        ("removed".to_owned(), Damage::Remove),
        ("emptied".to_owned(), Damage::Cut(0)),
        ("its head flipped".to_owned(), Damage::Flip(20)),
        ("unreadable".to_owned(), Damage::Unreadable),
    ];
    let used_bytes = length_bytes.min(560 << 10); // bulk files are far from full
    let half = Damage::Cut(used_bytes / 2);
    ways.push(("cut in half".to_owned(), half));
    for _ in 0..3 {
        let at = rng.below(used_bytes.max(1));
        ways.push((format!("byte {at} flipped"), Damage::Flip(at)));
    }
    ways
}

#[derive(Clone, Copy)]
enum Damage {
    Remove,
    Cut(u64),
    Flip(u64),
    Unreadable,
}

impl Damage {
    fn make(self, disk: &SimDisk, path: &str) {
        match self {
            Self::Remove => disk.remove(path).expect("it is there"),
            Self::Cut(length_bytes) => disk.truncate(path, length_bytes),
            Self::Flip(at) => disk.flip_bit(path, at, 3),
            Self::Unreadable => {
                disk.inject(Rule::always(Fault::ReadError).on(path));
            }
        }
    }
}

/// Damages each file of a directory in each way; gives, for each way, how many blocks were refused, and
/// how often the store did not open, with the reasons.
fn sweep(sample: &Sample, directory: &str) -> (BTreeMap<String, Tally>, Vec<String>) {
    let mut rng = Seed(77).rng(directory);
    let (mut tallies, mut closed) = (BTreeMap::new(), Vec::new());
    let files = sample.files(directory);
    assert!(!files.is_empty(), "the sample has {directory} files");
    for path in files {
        let length_bytes = sample.disk.length_bytes(&path).expect("listed");
        for (way, damage) in damages(length_bytes, &mut rng) {
            let words = format!("{path} {way}");
            match sample.open(Seed(5), |disk| damage.make(disk, &path)) {
                Ok(mut machine) => {
                    let last = machine.store.log().last().number();
                    let left = matches!(damage, Damage::Flip(_) | Damage::Unreadable);
                    let all = last >= sample.last() as u64;
                    assert!(all || !sample.clean, "{words}: D1: ends at {last}");
                    assert!(!left || last >= sample.flushed as u64, "{words}: D1: ends at {last}");
                    let tally = sample.read(&mut machine, &words);
                    Sample::goes_on(&mut machine, &words);
                    println!("{words}: {tally:?}, {:?}", machine.store.log().damage());
                    tallies.insert(words, tally);
                }
                Err(why) => {
                    println!("{words}: {why}");
                    closed.push(format!("{words}: {why}"));
                }
            }
        }
    }
    (tallies, closed)
}

fn refused(tallies: &BTreeMap<String, Tally>) -> usize {
    tallies.values().map(|tally| tally.refused).sum()
}

#[test]
fn an_unharmed_store_refuses_nothing() {
    for pack in [true, false] {
        let sample = sample(90, pack);
        let mut machine = sample.open(Seed(5), |_| {}).expect("whole");
        let tally = sample.read(&mut machine, "whole");
        assert_eq!(tally, Tally { right: 6 * BLOCKS, refused: 0 });
        assert!(machine.store.log().damage().is_empty());
        Sample::goes_on(&mut machine, "whole");
    }
}

#[test]
fn a_damaged_pack_is_local() {
    let (tallies, closed) = sweep(&sample(90, true), "pack");
    assert_eq!(closed, [""; 0]);
    assert!(refused(&tallies) > 500, "{}", refused(&tallies));
    assert!(tallies.values().all(|tally| tally.right > 2 * BLOCKS), "{tallies:?}");
}

#[test]
fn a_damaged_run_is_local() {
    for (requests, pack) in [(90, true), (45, true), (45, false)] {
        let sample = sample(requests, pack);
        assert_eq!(sample.files("run").len() > 1, requests < 90, "{:?}", sample.files("run"));
        let (tallies, closed) = sweep(&sample, "run");
        assert_eq!(closed, [""; 0]);
        assert!(refused(&tallies) > 500, "{}", refused(&tallies));
        assert!(tallies.values().all(|tally| tally.right > 0), "{tallies:?}");
    }
}

#[test]
fn a_damaged_bulk_file_is_local() {
    let (tallies, closed) = sweep(&sample(90, true), "bulk");
    assert_eq!(closed, [""; 0]);
    assert!(refused(&tallies) > 50, "{}", refused(&tallies));
    assert!(tallies.values().all(|tally| tally.right > 4 * BLOCKS), "{tallies:?}");
}

/// Of the log's end more is needed than its cells: a store that would lose flushed data in silence
/// refuses to open until the loss is accepted.
#[test]
fn a_damaged_segment_is_local_or_refused() {
    for pack in [true, false] {
        let (tallies, closed) = sweep(&sample(90, pack), "log");
        println!("{} open, {} closed", tallies.len(), closed.len());
        assert!(tallies.len() >= closed.len(), "{closed:?}");
        let missed = closed.iter().any(|why| why.contains("its head flipped"));
        assert!(
            missed,
            "without its header the last segment's flushed data would be lost: {closed:?}"
        );
    }
}

/// A store that was ended cleanly has all of it indexed: no file of the log's takes flushed data along in
/// silence, none keeps the store from opening, and what was not packed yet is packed later.
#[test]
fn after_a_clean_end_a_damaged_segment_is_local() {
    for pack in [true, false] {
        let sample = finished_sample(90, pack);
        let mut machine = sample.open(Seed(5), |_| {}).expect("whole");
        assert_eq!(sample.read(&mut machine, "whole").refused, 0);
        let packs = |machine: &Machine| {
            machine.disk().files().iter().filter(|path| path.starts_with("pack/")).count()
        };
        machine.settle();
        assert!(packs(&machine) > sample.files("pack").len(), "what waited is packed");
        assert_eq!(machine.store.log().backlog(), 0);
        let (tallies, closed) = sweep(&sample, "log");
        // A file that nobody can read may hold anything, the log's end too: that loss must be accepted.
        assert!(closed.iter().all(|why| why.contains("unreadable")), "{closed:?}");
        assert!(refused(&tallies) > 100, "{}", refused(&tallies));
        for (words, tally) in &tallies {
            assert_eq!(tally.right + tally.refused, 6 * BLOCKS, "{words}");
        }
    }
}

#[test]
fn one_copy_of_manifest_or_super_block_is_enough() {
    let sample = sample(90, true);
    let mut files = sample.files("manifest");
    files.extend(sample.disk.files().into_iter().filter(|path| !path.contains('/')));
    println!("{files:?}");
    for path in files {
        let length_bytes = sample.disk.length_bytes(&path).expect("listed");
        for (way, damage) in damages(length_bytes, &mut Seed(3).rng(&path)) {
            let words = format!("{path} {way}");
            let opened = sample.open(Seed(5), |disk| damage.make(disk, &path));
            let mut machine = opened.unwrap_or_else(|why| panic!("{words}: {why}"));
            assert_eq!(sample.read(&mut machine, &words).refused, 0, "{words}");
        }
    }
}

/// A look-up that failed once is made again by who comes later.
#[test]
fn an_unreadable_run_that_heals_is_whole_again() {
    let sample = sample(90, true);
    let mut machine = sample.open(Seed(5), |_| {}).expect("whole");
    let wanted = &sample.history[sample.last()];
    let view = machine.view(BRANCH, None);
    let rule = machine.disk().inject(Rule::always(Fault::ReadError).on("run/"));
    let tally = read_all(&mut machine, view, wanted, "unreadable");
    assert!(tally.refused > 0, "{tally:?}");
    assert!(machine.store.trouble().is_some());
    let command = Command::Extents { offset_bytes: 0, length_bytes: BLOCK as u64, count_max: 1 };
    assert!(matches!(machine.ask(view, CLIENT, command), Err(BlockError::Io)));
    machine.disk().take_back(rule);
    let tally = read_all(&mut machine, view, wanted, "healed");
    assert_eq!(tally.refused, 0, "the disk is better now");
}

/// Cells are read together with what lies between them; that alone must not fail them.
#[test]
fn cells_that_cannot_be_read_together_are_read_apart() {
    let sample = sample(90, true);
    let mut machine = sample.open(Seed(5), |_| {}).expect("whole");
    let wanted = &sample.history[sample.last()];
    let view = machine.view(BRANCH, None);
    assert_eq!(read_all(&mut machine, view, wanted, "whole").refused, 0); // the map knows all
    let all = || Command::Read { offset_bytes: 0, length_bytes: (BLOCKS * BLOCK) as u64 };
    machine.disk().inject(Rule::once(Fault::ReadError).on("pack/"));
    let Ok(Answer::Data(parts)) = machine.ask(view, CLIENT, all()) else {
        panic!("one failure of many cells is none of each");
    };
    let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
    assert!(bytes.chunks(BLOCK).zip(wanted).all(|(b, w)| b.iter().all(|byte| byte == w)));
    assert_eq!(machine.store.damaged(), 0);
    machine.disk().inject(Rule::always(Fault::ReadError).on("pack/"));
    assert!(matches!(machine.ask(view, CLIENT, all()), Err(BlockError::Io)));
    assert!(machine.store.damaged() > 0);
}

#[test]
fn without_any_whole_manifest_there_is_no_store() {
    let sample = sample(45, true);
    for damage in [Damage::Remove, Damage::Cut(0), Damage::Flip(20), Damage::Unreadable] {
        let opened = sample.open(Seed(5), |disk| {
            for path in sample.files("manifest") {
                damage.make(disk, &path);
            }
        });
        assert!(opened.is_err(), "it is refused, and nothing panics");
    }
}
