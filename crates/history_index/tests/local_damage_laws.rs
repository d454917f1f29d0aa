//! Damage to one run of many: what newer runs decide, and instants before it, are answered as ever; all
//! else is right or refused.

mod memory_disk;

use history_index::{
    Bound, ClientRun, ClockPoint, Contents, Entry, Error, Index, IndexSnapshot, LeafVersions,
    MemoryRun, MergeJob, PageCache, Run, RunWriter, Source, Version, ZeroRange, write_run,
};
use memory_disk::{Counting, MemoryDisk};
use proptest::{prelude::*, sample::Index as Pick};
use std::sync::Arc;
use units::{BranchId, ClientId, Extent, FileId, Lba, Leaf, Place, RunId, Sequence, Timestamp};

const RUNS: u64 = 6;
/// Sequences of each run.
const LENGTH: u64 = 900;
const BLOCKS: u64 = 1024;

fn sequence(number: u64) -> Sequence {
    Sequence::new(number).expect("small")
}

fn master() -> seal::Key {
    seal::Key::from_bytes([3; 32])
}

fn interval(run: u64) -> (Sequence, Sequence) {
    (sequence(run * LENGTH + 1), sequence((run + 1) * LENGTH))
}

/// Writes and trims on a branch and its child. Each run writes a part of the blocks only, some of them
/// often, so that newer runs decide some blocks and its own pages hold old versions.
fn contents(run: u64) -> Contents {
    let (first, last) = interval(run);
    let mut contents = Contents::starting_at(first);
    for number in first.number()..=last.number() {
        let branch = BranchId(u32::from(number % 3 == 0));
        let lba = Lba::new((number * 7919 % 97 * (run + 1) * 5) % BLOCKS).expect("small");
        let now = sequence(number);
        if number % 41 == 0 {
            let extent = Extent::new(lba, (number % 60 + 1).min(BLOCKS - lba.number()));
            let extent = extent.expect("not empty");
            contents.ranges.push(ZeroRange { branch, sequence: now, extent, kind: 1 });
        } else {
            let place = Place::new(FileId::new(run + 1).expect("small"), number * 4128);
            let place = place.expect("aligned");
            contents.entries.push(Entry { branch, lba, sequence: now, place });
        }
        if number % LENGTH == 1 || number % 300 == 0 {
            contents.clients.push(ClientRun { first: now, client: ClientId(number % 5) });
        }
        if number % 4 == 0 || number == last.number() {
            let wall = Timestamp(i64::try_from(number * 1000).expect("small"));
            contents.clock.push(ClockPoint { sequence: now, wall, era: u32::from(run > 3) });
        }
    }
    contents.last = last;
    contents
}

struct Files {
    disk: MemoryDisk,
    whole: IndexSnapshot,
}

fn path(run: u64) -> String {
    format!("run/{run}.run")
}

fn files() -> Files {
    let disk = MemoryDisk::default();
    let mut whole = Index::new();
    for run in 0..RUNS {
        let memory = MemoryRun::new(contents(run));
        write_run(&disk, &path(run), RunId(run), &master(), &Counting, &memory).expect("written");
        whole.push(Source::Memory(Arc::new(memory)));
    }
    Files { disk, whole: whole.snapshot() }
}

impl Files {
    /// All runs as they can be opened now; the one that cannot is lost.
    fn open(&self) -> IndexSnapshot {
        let cache = PageCache::new(1 << 20);
        let mut index = Index::new();
        for run in 0..RUNS {
            let opened = Run::open(&self.disk, &path(run), RunId(run), &master(), &cache);
            let (first, last) = interval(run);
            let lost =
                |why: Error| Run::lost(&path(run), RunId(run), first..=last, why.to_string());
            index.push(Source::File(Arc::new(opened.unwrap_or_else(lost))));
        }
        index.snapshot()
    }
}

fn chains() -> Vec<Vec<Bound>> {
    let bound = |branch, up_to| Bound { branch: BranchId(branch), up_to: sequence(up_to) };
    let mut chains = vec![vec![bound(0, 1)]];
    for up_to in (1..=RUNS * LENGTH).step_by(499).chain([RUNS * LENGTH]) {
        chains.push(vec![bound(0, up_to)]);
        chains.push(vec![bound(1, up_to), bound(0, up_to / 2)]);
    }
    chains
}

/// What came of a look-up: how many blocks were refused.
fn check_leaf(
    (whole, found): (&IndexSnapshot, &IndexSnapshot),
    chain: &[Bound],
    leaf: Leaf,
    damaged: u64,
) -> usize {
    let wanted = whole.load_leaf(chain, leaf).expect("in memory");
    let mut versions = LeafVersions::new(leaf);
    let answered = found.complete_leaf(chain, &mut versions);
    let (first, last) = interval(damaged);
    if answered.is_ok() {
        assert_eq!(versions, wanted, "{chain:?}");
        return 0;
    }
    let begun = chain.iter().any(|bound| bound.up_to >= first);
    assert!(begun, "an instant before the damaged run does not need it: {chain:?}");
    let newer = |version: &Version| version.sequence > last;
    for (version, wanted) in versions.versions().iter().zip(wanted.versions()) {
        let expected = wanted.filter(newer);
        assert_eq!(*version, expected, "decided by newer runs, or refused: {chain:?}");
    }
    assert_eq!(
        versions.missing(),
        versions.versions().iter().filter(|version| version.is_none()).count()
    );
    versions.missing()
}

fn check_all(files: &Files, damaged: u64) -> usize {
    let found = files.open();
    let mut refused = 0;
    for chain in chains() {
        for number in 0..2 {
            let leaf = Lba::new(number * 512).expect("small").leaf();
            refused += check_leaf((&files.whole, &found), &chain, leaf, damaged);
        }
    }
    let (first, last) = interval(damaged);
    for number in (1..=RUNS * LENGTH).step_by(37) {
        let now = sequence(number);
        let outside = now < first || now > last;
        let client = found.client_of(now);
        let time = found.time_of(now);
        assert!(!outside || client.is_ok() && time.is_ok(), "{now}");
        let wanted = files.whole.client_of(now).expect("in memory");
        assert!(client.is_err() || client.is_ok_and(|client| client == wanted), "{now}");
        let wanted = files.whole.time_of(now).expect("in memory");
        assert!(time.is_err() || time.is_ok_and(|time| time == wanted), "{now}");
        let wall = Timestamp(i64::try_from(number * 1000).expect("small"));
        for era in 0..2 {
            let at = found.sequence_at(wall, era);
            let wanted = files.whole.sequence_at(wall, era).expect("in memory");
            // The last instant before the damaged run might as well lie in it.
            let apart = wanted.is_some_and(|point| {
                point.sequence > last || point.sequence.number() + 4 < first.number()
            });
            assert!(!apart || at.is_ok(), "{wall:?} lies elsewhere");
            assert!(at.is_err() || at.is_ok_and(|at| at == wanted), "{wall:?} of era {era}");
        }
    }
    refused
}

#[test]
fn whole_runs_refuse_nothing() {
    for damaged in 0..RUNS {
        assert_eq!(check_all(&files(), damaged), 0);
    }
}

#[test]
fn a_lost_run_refuses_what_only_it_can_tell() {
    for damaged in 0..RUNS {
        let files = files();
        files.disk.put(&path(damaged), Vec::new());
        let found = files.open();
        let refused = check_all(&files, damaged);
        assert!(refused > 500, "run {damaged} is needed: {refused}");
        let Source::File(lost) = &found.sources()[usize::try_from(damaged).expect("small")] else {
            panic!("all are files");
        };
        assert!(lost.is_lost());
        let all = Sequence::ZERO..=Sequence::MAX;
        let refused = |error: Option<Error>| {
            assert!(matches!(error, Some(Error::Lost { .. })), "{error:?}");
            assert_eq!(error.expect("just seen").path(), path(damaged));
        };
        let entries: Vec<_> = lost.entries_of(None, &all).collect();
        assert_eq!(entries.len(), 1, "one error and no entry");
        refused(entries.into_iter().next().expect("one").err());
        refused(lost.entries_of(Some(&[BranchId(1)]), &all).next().expect("one").err());
        refused(lost.ranges_of(&all).err());
        refused(lost.clients_of(&all).err());
        refused(lost.flushes_of(&all).err());
        refused(lost.clock_at(Timestamp(0), 0).err());
        refused(lost.clock_of(lost.meta().first).err());
        let (one, other) = (lost.meta().first, lost.meta().last);
        let bound = |up_to| [Bound { branch: BranchId(0), up_to }];
        refused(found.changed_leaves(&bound(one), &bound(other)).err());
        if damaged > 0 {
            let before = sequence(one.number() - 1);
            let changed = found.changed_leaves(&bound(Sequence::ZERO), &bound(before));
            let wanted = files.whole.changed_leaves(&bound(Sequence::ZERO), &bound(before));
            assert_eq!(changed.expect("older runs"), wanted.expect("in memory"));
        }
    }
}

#[test]
fn a_lost_run_is_not_merged_into_nothing() {
    let files = files();
    files.disk.put(&path(1), Vec::new());
    let inputs: Vec<_> = files.open().sources()[..3]
        .iter()
        .map(|source| match source {
            Source::File(run) => run.clone(),
            Source::Memory(_) => panic!("all are files"),
        })
        .collect();
    let interval = interval(0).0..=interval(2).1;
    let writer =
        RunWriter::create(&files.disk, "run/9.run", RunId(9), &master(), &Counting, interval);
    let step = MergeJob::new(inputs, writer.expect("created")).step(1);
    assert!(matches!(step, Err(Error::Lost { .. })), "{step:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_damaged_run_is_right_or_refuses(
        damaged in 0..RUNS,
        flips in prop::collection::vec((any::<Pick>(), 0..8_u8), 1..4),
        cut in prop::option::weighted(0.1, any::<Pick>()),
    ) {
        let files = files();
        let mut bytes = files.disk.bytes(&path(damaged));
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        files.disk.put(&path(damaged), bytes);
        check_all(&files, damaged);
    }
}
