//! Laws of the index, against the plainest model: a list of all that was written.
//!
//! Whatever holds the runs (memory, files, any merge of files, the open segment's portions), each
//! question has the answer that the list gives.

mod memory_disk;

use history_index::{
    Bound, ClientRun, ClockPoint, Content, Contents, Entry, FlushPoint, GrowingRun, Index,
    IndexSnapshot, LeafSet, LeafVersions, MemoryRun, MergeJob, PageCache, Progress, Run, RunWriter,
    Source, Version, ZeroRange, write_run,
};
use memory_disk::{Counting, MemoryDisk};
use proptest::{collection::vec, prelude::*, sample::Index as Pick};
use seal::Key;
use std::{collections::BTreeSet, sync::Arc};
use units::{BranchId, ClientId, Extent, FileId, Lba, Leaf, Place, RunId, Sequence, Timestamp};

const BRANCHES: u32 = 4;
const BLOCKS: u64 = 1600; // a little more than three leaves

/// One request as the log would tell of it, with what happened around it.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent coins of a generator")]
struct Request {
    branch: u32,
    start: u64,
    blocks: u64,
    zero: bool,
    file: u64,
    ends_batch: bool,
    ends_segment: bool,
    wait_ns: i64,
    leap: bool,
    client: Option<u64>,
    flush: bool,
}

fn requests() -> impl Strategy<Value = Vec<Request>> {
    let start = prop_oneof![3 => Just(7_u64), 2 => 0..40_u64, 2 => 500..530_u64, 2 => 0..BLOCKS];
    let blocks = prop_oneof![6 => Just(1_u64), 2 => 1..20_u64, 1 => 1..700_u64];
    let rare = || prop::bool::weighted(0.02);
    let client = prop::option::weighted(0.1, 0..5_u64);
    let one = (
        (0..BRANCHES, start, blocks, prop::bool::weighted(0.1), 0..3_u64),
        (any::<bool>(), rare(), prop_oneof![Just(0), 1..1_000_000_i64], rare(), client, rare()),
    );
    let one = one.prop_map(|((branch, start, blocks, zero, file), around)| {
        let (ends_batch, ends_segment, wait_ns, leap, client, flush) = around;
        let blocks = blocks.min(BLOCKS - start);
        Request {
            branch,
            start,
            blocks,
            zero,
            file,
            ends_batch,
            ends_segment,
            wait_ns,
            leap,
            client,
            flush,
        }
    });
    vec(one, 1..300)
}

/// All that was written, in order; segments end where it says.
#[derive(Default)]
struct Model {
    writes: Vec<(Extent, Option<Place>, BranchId)>, // sequence - 1 → what it did
    clock: Vec<ClockPoint>,
    clients: Vec<ClientRun>,
    flushes: Vec<FlushPoint>,
    segments: Vec<Contents>,
}

fn sequence(number: u64) -> Sequence {
    Sequence::new(number).expect("small")
}

impl Model {
    fn of(requests: &[Request]) -> Self {
        let mut model = Self::default();
        let (mut open, mut clock) = (Contents::starting_at(sequence(1)), (Timestamp(0), 0));
        let mut client = ClientId(99);
        for (index, request) in requests.iter().enumerate() {
            let now = sequence(index as u64 + 1);
            let branch = BranchId(request.branch);
            let extent = Extent::new(Lba::new(request.start).expect("small"), request.blocks);
            let extent = extent.expect("not empty");
            let next = request.client.map_or(client, ClientId);
            if next != client || open.clients.is_empty() {
                client = next;
                open.clients.push(ClientRun { first: now, client });
                model.clients.push(ClientRun { first: now, client });
            }
            let place =
                Place::new(FileId::new(request.file).expect("small"), now.number() * 4128 * 8);
            let place = (!request.zero).then(|| place.expect("aligned"));
            model.writes.push((extent, place, branch));
            match place {
                None => open.ranges.push(ZeroRange { branch, sequence: now, extent, kind: 1 }),
                Some(place) => open.entries.extend(extent.lbas().zip(0..).map(|(lba, cell)| {
                    Entry { branch, lba, sequence: now, place: place.plus_cells(cell) }
                })),
            }
            if request.flush {
                open.flushes.push(FlushPoint { branch, sequence: now });
                model.flushes.push(FlushPoint { branch, sequence: now });
            }
            clock.0 = clock.0.plus_ns(request.wait_ns);
            let last = index + 1 == requests.len();
            if request.ends_batch || request.ends_segment || last {
                if request.leap {
                    clock = (clock.0.plus_ns(-500_000), clock.1 + 1);
                }
                let point = ClockPoint { sequence: now, wall: clock.0, era: clock.1 };
                open.clock.push(point);
                model.clock.push(point);
                open.last = now;
            }
            if request.ends_segment || last {
                let next = Contents::starting_at(now.next());
                model.segments.push(std::mem::replace(&mut open, next));
            }
        }
        model
    }

    fn last(&self) -> Sequence {
        sequence(self.writes.len() as u64)
    }

    /// Visible writes of the chain, oldest first.
    fn visible(&self, chain: &[Bound]) -> Vec<(Sequence, Extent, Option<Place>, BranchId)> {
        let numbered =
            self.writes.iter().zip(1..).map(|((extent, place, branch), number)| {
                (sequence(number), *extent, *place, *branch)
            });
        let shows = |branch, now| chain.iter().any(|b| b.branch == branch && now <= b.up_to);
        numbered.filter(|(now, _, _, branch)| shows(*branch, *now)).collect()
    }

    fn leaf(&self, chain: &[Bound], leaf: Leaf) -> Vec<Option<Version>> {
        let mut versions = vec![None; 512];
        for (sequence, extent, place, branch) in self.visible(chain) {
            for lba in extent.overlap(leaf.extent()).into_iter().flat_map(Extent::lbas) {
                let content = place.map_or(Content::Zero, |place| {
                    Content::Place(place.plus_cells(lba.number() - extent.start().number()))
                });
                versions[lba.index_in_leaf()] = Some(Version { branch, sequence, content });
            }
        }
        versions
    }
}

/// Each of some branches, up to some sequence.
fn chains(model: &Model, picks: &[(Pick, Pick)]) -> Vec<Vec<Bound>> {
    let bound = |branch: u32, pick: &Pick| {
        let up_to = sequence(pick.index(model.writes.len() + 2) as u64);
        Bound { branch: BranchId(branch), up_to }
    };
    let mut chains = vec![vec![Bound { branch: BranchId(0), up_to: model.last() }]];
    for (which, up_to) in picks {
        let mask = which.index(1 << BRANCHES);
        let members = (0..BRANCHES).filter(|branch| mask >> branch & 1 == 1);
        chains.push(members.map(|branch| bound((branch + 1) % BRANCHES, up_to)).collect());
        chains.push(vec![bound(1, up_to), bound(0, which)]);
    }
    chains
}

fn master() -> Key {
    Key::from_bytes([3; 32])
}

/// A disk with a run file for each segment.
struct Files {
    disk: MemoryDisk,
    runs: Vec<Arc<Run>>,
    cache: Arc<PageCache>,
    next_run: u64,
}

impl Files {
    fn of(model: &Model) -> Self {
        let (disk, cache) = (MemoryDisk::default(), PageCache::new(3 * 4300));
        let mut files = Self { disk, runs: Vec::new(), cache, next_run: 1 };
        for segment in &model.segments {
            let (run, path) = files.name();
            let memory = MemoryRun::new(segment.clone());
            let meta = write_run(&files.disk, &path, run, &master(), &Counting, &memory);
            assert!(files.disk.is_synced(&path));
            let opened = files.open(run, &path);
            assert_eq!(meta.expect("written"), *opened.meta());
            files.runs.push(opened);
        }
        files
    }

    fn name(&mut self) -> (RunId, String) {
        self.next_run += 1;
        (RunId(self.next_run), format!("run/{}.run", self.next_run))
    }

    fn open(&self, run: RunId, path: &str) -> Arc<Run> {
        Arc::new(Run::open(&self.disk, path, run, &master(), &self.cache).expect("opens"))
    }

    fn merge(&mut self, range: std::ops::Range<usize>, step_pages: u64) {
        let (run, path) = self.name();
        let inputs = self.runs[range.clone()].to_vec();
        let interval = inputs[0].meta().first..=inputs[inputs.len() - 1].meta().last;
        let writer = RunWriter::create(&self.disk, &path, run, &master(), &Counting, interval);
        let mut job = MergeJob::new(inputs, writer.expect("created"));
        while let Progress::More(more) = job.step(step_pages).expect("merges") {
            job = *more;
        }
        let merged = self.open(run, &path);
        self.runs.splice(range, [merged]);
    }

    fn index(&self) -> IndexSnapshot {
        let mut index = Index::new();
        self.runs.iter().for_each(|run| index.push(Source::File(run.clone())));
        index.snapshot()
    }
}

fn in_memory(model: &Model) -> IndexSnapshot {
    let mut index = Index::new();
    for segment in &model.segments {
        index.push(Source::Memory(Arc::new(MemoryRun::new(segment.clone()))));
    }
    index.snapshot()
}

/// The same contents, logged batch by batch into one segment.
fn growing(model: &Model) -> GrowingRun {
    let mut growing = GrowingRun::new(sequence(1));
    let mut begun = Sequence::ZERO;
    for point in &model.clock {
        for segment in &model.segments {
            let new = |s: Sequence| begun < s && s <= point.sequence;
            let entries = segment.entries.iter().filter(|e| new(e.sequence));
            entries.for_each(|entry| growing.push_entry(*entry));
            let ranges = segment.ranges.iter().filter(|r| new(r.sequence));
            ranges.for_each(|range| growing.push_range(*range));
            let clients = segment.clients.iter().filter(|c| new(c.first));
            clients.for_each(|run| growing.push_client(*run));
            let flushes = segment.flushes.iter().filter(|f| new(f.sequence));
            flushes.for_each(|flush| growing.push_flush(*flush));
        }
        growing.end_batch(*point);
        begun = point.sequence;
    }
    growing
}

fn check(model: &Model, index: &IndexSnapshot, chains: &[Vec<Bound>]) -> Result<(), TestCaseError> {
    for chain in chains {
        for number in [0, 1, 3, 9] {
            let leaf = Lba::new(number * 512).expect("small").leaf();
            let found = index.load_leaf(chain, leaf).expect("whole");
            let wanted = model.leaf(chain, leaf);
            prop_assert_eq!(found.versions(), &wanted[..], "leaf {} of {:?}", number, chain);
        }
    }
    check_changes(model, index, chains)?;
    check_clock(model, index)?;
    check_lists(model, index)
}

/// Leaves that differ are all found, and none is named in which nothing was written between.
fn check_changes(
    model: &Model,
    index: &IndexSnapshot,
    chains: &[Vec<Bound>],
) -> Result<(), TestCaseError> {
    for pair in chains.windows(2) {
        let (one, other) = (model.visible(&pair[0]), model.visible(&pair[1]));
        let mut wanted = LeafSet::default();
        for write in one.iter().filter(|w| !other.contains(w)) {
            wanted.insert(write.1);
        }
        for write in other.iter().filter(|w| !one.contains(w)) {
            wanted.insert(write.1);
        }
        prop_assert_eq!(index.changed_leaves(&pair[0], &pair[1]).expect("whole"), wanted);
    }
    Ok(())
}

fn check_clock(model: &Model, index: &IndexSnapshot) -> Result<(), TestCaseError> {
    let eras: BTreeSet<u32> = model.clock.iter().map(|point| point.era).collect();
    for point in &model.clock {
        for (wall, era) in
            [-1, 0, 1].map(|ns| point.wall.plus_ns(ns)).into_iter().zip([point.era; 3])
        {
            let within = |p: &&ClockPoint| p.era == era && p.wall <= wall;
            let wanted = model.clock.iter().rev().find(within).copied();
            prop_assert_eq!(index.sequence_at(wall, era).expect("whole"), wanted);
        }
    }
    let past_all = index.sequence_at(Timestamp(0), u32::MAX).expect("whole");
    prop_assert_eq!(past_all, None);
    for number in 1..=model.writes.len() as u64 {
        let wanted = model.clock.iter().find(|point| point.sequence >= sequence(number));
        prop_assert_eq!(index.time_of(sequence(number)).expect("whole"), wanted.copied());
    }
    prop_assert_eq!(index.time_of(model.last().next()).expect("whole"), None);
    let found = index.eras().expect("whole");
    prop_assert_eq!(found.len(), eras.len());
    for (span, era) in found.iter().zip(eras) {
        let of_era = || model.clock.iter().filter(|point| point.era == era);
        prop_assert_eq!(Some(&span.first), of_era().next());
        prop_assert_eq!(Some(&span.last), of_era().next_back());
    }
    Ok(())
}

fn check_lists(model: &Model, index: &IndexSnapshot) -> Result<(), TestCaseError> {
    for number in 1..=model.writes.len() as u64 {
        let wanted = model.clients.iter().rev().find(|run| run.first <= sequence(number));
        let found = index.client_of(sequence(number)).expect("whole");
        prop_assert_eq!(found, wanted.map(|run| run.client));
    }
    let middle = sequence(model.writes.len() as u64 / 2);
    let intervals = [Sequence::ZERO..=model.last(), middle..=model.last(), middle..=middle];
    for source in index.sources() {
        let all: Vec<&Contents> = model.segments.iter().collect();
        let mine = |s: Sequence| source.first() <= s && s <= source.last();
        for interval in &intervals {
            for branches in [None, Some([BranchId(2), BranchId(0)])] {
                let branches = branches.as_ref().map(|branches| &branches[..]);
                let mut wanted: Vec<Entry> = all.iter().flat_map(|s| s.entries.clone()).collect();
                wanted.retain(|e| mine(e.sequence) && interval.contains(&e.sequence));
                wanted.retain(|e| branches.is_none_or(|all| all.contains(&e.branch)));
                wanted.sort();
                let found: Vec<Entry> = match source {
                    Source::Memory(run) => run.entries_of(branches, interval).collect(),
                    Source::File(run) => {
                        run.entries_of(branches, interval).map(|e| e.expect("whole")).collect()
                    }
                };
                prop_assert_eq!(found, wanted);
            }
            let mut wanted: Vec<ZeroRange> = all.iter().flat_map(|s| s.ranges.clone()).collect();
            wanted.retain(|r| mine(r.sequence) && interval.contains(&r.sequence));
            wanted.sort_by_key(|r| (r.branch, r.extent.start(), r.sequence));
            let mut flushes = model.flushes.clone();
            flushes.retain(|f| mine(f.sequence) && interval.contains(&f.sequence));
            let found = match source {
                Source::Memory(run) => (run.ranges_of(interval), run.flushes_of(interval)),
                Source::File(run) => (
                    run.ranges_of(interval).expect("whole"),
                    run.flushes_of(interval).expect("whole"),
                ),
            };
            prop_assert_eq!(found, (wanted, flushes));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn runs_in_memory_answer_as_the_model(requests in requests(), picks: [(Pick, Pick); 4]) {
        let model = Model::of(&requests);
        check(&model, &in_memory(&model), &chains(&model, &picks))?;
    }

    #[test]
    fn the_open_segment_answers_as_the_model(requests in requests(), picks: [(Pick, Pick); 4]) {
        let model = Model::of(&requests);
        let growing = growing(&model);
        let chains = chains(&model, &picks);
        for chain in &chains {
            let leaf = Lba::new(512).expect("small").leaf();
            let mut found = LeafVersions::new(leaf);
            growing.load_leaf(chain, leaf, &mut found);
            let wanted = model.leaf(chain, leaf);
            prop_assert_eq!(found.versions(), &wanted[..]);
        }
        let portions = growing.snapshot().into_iter().map(Source::Memory);
        check(&model, &IndexSnapshot::default().with(portions), &chains)?;
        let whole = Source::Memory(Arc::new(MemoryRun::new(growing.finish())));
        check(&model, &IndexSnapshot::default().with([whole]), &chains)?;
    }

    #[test]
    fn files_answer_as_the_model(requests in requests(), picks: [(Pick, Pick); 4]) {
        let model = Model::of(&requests);
        check(&model, &Files::of(&model).index(), &chains(&model, &picks))?;
    }

    #[test]
    fn merges_change_no_answer(
        requests in requests(),
        picks: [(Pick, Pick); 4],
        merges in vec((any::<Pick>(), any::<Pick>(), 1..6_u64), 1..5),
    ) {
        let model = Model::of(&requests);
        let mut files = Files::of(&model);
        for (one, other, step_pages) in merges {
            let (one, other) = (one.index(files.runs.len()), other.index(files.runs.len()));
            files.merge(one.min(other)..one.max(other) + 1, step_pages);
            check(&model, &files.index(), &chains(&model, &picks))?;
        }
    }
}
