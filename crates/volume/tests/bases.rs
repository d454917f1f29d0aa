//! A volume that stands on a foreign image behaves as one that was copied at once: at every instant,
//! in every clone, before, during and after the image is taken over, through crashes in the middle.
//!
//! The model is a copy of the disk's bytes for each branch and each instant that is remembered. Once the
//! base is detached, its source may not be asked for anything any more.

use block_device::{Answer, BlockError, Command, Payload};
use catalogue::{LogicalBlock, NewBase, UNIT_BYTES};
use history_index::LeafVersions;
use segment_log::Config;
use sim::{Machine, Place, new_volume};
use sim_world::{CutPolicy, Rng, Seed};
use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};
use units::{BLOCK, BranchId, ClientId, Extent, FileId, Lba, Sequence, VolumeId};
use volume::{Block, Filler, HeadMap, Rest, Source, SourceError, ViewId};

const GUEST: ClientId = ClientId(7);
const WELL: u8 = 0;
const LOST: u8 = 1;
const DETACHED: u8 = 2;

/// An image in memory.
#[derive(Debug)]
struct Image {
    bytes: Vec<u8>,
    state: AtomicU8,
}

impl Image {
    fn look(&self) -> Result<(), SourceError> {
        match self.state.load(Ordering::SeqCst) {
            WELL => Ok(()),
            LOST => Err(SourceError::Lost("it was taken away".to_owned())),
            _ => panic!("a detached source is asked"),
        }
    }

    fn show(&self, offset: u64, into: &mut [u8]) {
        let offset = small(offset).min(self.bytes.len());
        let end = (offset + into.len()).min(self.bytes.len());
        into[..end - offset].copy_from_slice(&self.bytes[offset..end]);
        into[end - offset..].fill(0);
    }
}

impl Source for Image {
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.look()?;
        self.show(offset, into);
        Ok(())
    }

    fn zeros(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, SourceError> {
        self.look()?;
        let mut zeros: Vec<Range<u64>> = Vec::new();
        for start in range.clone().step_by(1024) {
            let mut bytes = [1; 1024];
            self.show(start, &mut bytes);
            if bytes.iter().all(|byte| *byte == 0) {
                match zeros.last_mut() {
                    Some(last) if last.end == start => last.end = start + 1024,
                    _ => zeros.push(start..start + 1024),
                }
            }
        }
        Ok(zeros)
    }
}

/// The present of a volume.
#[derive(Clone)]
struct Head {
    volume: VolumeId,
    branch: BranchId,
    bytes: Vec<u8>,
}

struct World {
    machine: Machine,
    rng: Rng,
    image: Arc<Image>,
    base: BranchId,
    filler: Filler,
    heads: Vec<Head>,
    /// Branch, sequence, what it showed.
    instants: Vec<(BranchId, Sequence, Vec<u8>)>,
    detached: bool,
    names: u32,
}

fn small(number: u64) -> usize {
    usize::try_from(number).expect("small")
}

fn config(rng: &mut Rng) -> Config {
    Config { segment_bytes: 1 << 20, pack: rng.coin(), ..Config::default() }
}

impl World {
    fn new(seed: u64) -> Self {
        let place = Place::new(Seed(seed));
        place.make_store().expect("an empty disk");
        let mut rng = Seed(seed).rng("bases");
        let mut machine = Machine::start(&place, config(&mut rng)).expect("a new store");
        let length = small(rng.below(4 * UNIT_BYTES) + 1);
        let mut bytes: Vec<u8> =
            (0..length).map(|at| u8::try_from(at / 7 % 251).expect("small") | 1).collect();
        for _ in 0..rng.below(6) {
            let start = rng.index(length);
            let end = (start + small(rng.below(900_000))).min(length);
            bytes[start..end].fill(0);
        }
        let image = Arc::new(Image { bytes: bytes.clone(), state: AtomicU8::new(WELL) });
        let new = NewBase {
            size_bytes: length as u64,
            fill: true,
            rate_bytes: 0,
            origin: b"memory".to_vec(),
            seal: Vec::new(),
        };
        let now = machine.now().expect("no crash");
        let catalogue = machine.store.catalogue();
        let plan = catalogue.plan_adopt(new_volume("first"), LogicalBlock::B512, new, now);
        let (volume, base, records) = plan.expect("a free name");
        assert!(machine.change(records).expect("no crash"));
        machine.store.set_source(base.id, image.clone());
        let branch = machine.present(volume);
        bytes.resize(length.next_multiple_of(512), 0);
        let filler = Filler::new(&base, machine.store.catalogue().taken(base.id));
        let heads = vec![Head { volume, branch, bytes }];
        let (instants, detached, names) = (Vec::new(), false, 0);
        let base = base.id;
        Self { machine, rng, image, base, filler, heads, instants, detached, names }
    }

    fn range(&mut self, length: usize) -> Range<usize> {
        let unit = *self.rng.pick(&[1, 512, 4096]);
        let start = self.rng.index(length) / unit * unit;
        let most = *self.rng.pick(&[600, 5000, 40_000, 700_000]);
        let end = (start + 1 + self.rng.index(most)).div_ceil(unit) * unit;
        start..end.min(length)
    }

    fn view(&mut self, head: usize) -> ViewId {
        let branch = self.heads[head].branch;
        self.machine.view(branch, None)
    }

    fn write(&mut self, head: usize) {
        let view = self.view(head);
        let range = self.range(self.heads[head].bytes.len());
        let fill = 1 + u8::try_from(self.rng.below(255)).expect("small");
        let data: Vec<u8> = (0..range.len())
            .map(|at| fill.wrapping_add(u8::try_from(at / 5 % 256).expect("small")))
            .collect();
        let offset_bytes = range.start as u64;
        let command = match self.rng.below(4) {
            0 => Command::Trim { offset_bytes, length_bytes: range.len() as u64, fua: false },
            _ => Command::Write { offset_bytes, data: Payload::Borrowed(&data), fua: false },
        };
        let zero = matches!(command, Command::Trim { .. });
        let answer = self.machine.ask(view, GUEST, command);
        assert!(matches!(answer, Ok(Answer::Written(_))), "{range:?}: {answer:?}");
        let bytes = &mut self.heads[head].bytes[range];
        if zero { bytes.fill(0) } else { bytes.copy_from_slice(&data) }
    }

    fn bytes(&mut self, view: ViewId, range: Range<usize>) -> Result<Vec<u8>, BlockError> {
        let (offset_bytes, length_bytes) = (range.start as u64, range.len() as u64);
        let command = Command::Read { offset_bytes, length_bytes };
        match self.machine.ask(view, GUEST, command)? {
            Answer::Data(parts) => {
                Ok(parts.iter().map(|part| &part[..]).collect::<Vec<_>>().concat())
            }
            other => panic!("{other:?}"),
        }
    }

    fn same(&mut self, view: ViewId, range: Range<usize>, wanted: &[u8], what: &str) {
        let found = self.bytes(view, range.clone());
        let found = found.unwrap_or_else(|error| panic!("{what}: {range:?}: {error}"));
        if let Some(at) = (0..found.len()).find(|at| found[*at] != wanted[range.start + at]) {
            let place = range.start + at;
            panic!(
                "{what}: byte {place} is {:#x}, not {:#x} (image: {:?}, unit taken: {})",
                found[at],
                wanted[place],
                self.image.bytes.get(place),
                self.machine.store.catalogue().taken(self.base).has(place as u64 / UNIT_BYTES),
            );
        }
    }

    fn read(&mut self, head: usize) {
        let view = self.view(head);
        let bytes = self.heads[head].bytes.clone();
        let range = self.range(bytes.len());
        self.same(view, range, &bytes, "the present");
    }

    fn extents(&mut self, head: usize) {
        let view = self.view(head);
        let bytes = self.heads[head].bytes.clone();
        let range = self.range(bytes.len());
        let (offset_bytes, length_bytes) = (range.start as u64, range.len() as u64);
        let command = Command::Extents { offset_bytes, length_bytes, count_max: 9 };
        let Ok(Answer::Extents(extents)) = self.machine.ask(view, GUEST, command) else {
            panic!("no extents");
        };
        let mut at = range.start;
        for extent in extents {
            let end = at + small(extent.length_bytes);
            assert!(!extent.hole || bytes[at..end].iter().all(|byte| *byte == 0), "{at}..{end}");
            at = end;
        }
    }

    fn remember(&mut self, head: usize) {
        let sequence = self.machine.store.log().last();
        let Head { branch, mut bytes, .. } = self.heads[head].clone();
        // A new size holds from the next sequence on.
        let size = self.machine.store.catalogue().size_at(branch, sequence).expect("there");
        bytes.truncate(small(size));
        self.instants.push((branch, sequence, bytes));
    }

    fn read_past(&mut self) {
        if self.instants.is_empty() {
            return;
        }
        let (branch, at, bytes) = self.rng.pick(&self.instants).clone();
        let view = self.machine.view(branch, Some(at));
        let range = self.range(bytes.len());
        self.same(view, range, &bytes, &format!("{branch:?} at {at}"));
        self.machine.store.close_view(view);
    }

    fn clone_or_rewind(&mut self) {
        if self.instants.is_empty() || self.heads.len() > 4 {
            return;
        }
        let (branch, at, bytes) = self.rng.pick(&self.instants).clone();
        let now = self.machine.now().expect("no crash");
        let at = catalogue::When { sequence: at, time: now.time };
        let catalogue = self.machine.store.catalogue().clone();
        if self.rng.coin() {
            self.names += 1;
            let new = new_volume(&format!("clone-{}", self.names));
            let (volume, records) = catalogue.plan_clone(branch, at, new, now).expect("there");
            assert!(self.machine.change(records).expect("no crash"));
            let branch = self.machine.present(volume);
            self.heads.push(Head { volume, branch, bytes });
        } else {
            let volume = catalogue.branch(branch).expect("there").volume;
            let plan = catalogue.plan_rewind(volume, branch, at, now);
            let (rewound, records) = plan.expect("nobody is attached");
            assert!(self.machine.change(records).expect("no crash"));
            let head = self.heads.iter_mut().find(|head| head.volume == volume);
            *head.expect("each volume has one") = Head { volume, branch: rewound.present, bytes };
        }
    }

    fn grow(&mut self, head: usize) {
        let now = self.machine.now().expect("no crash");
        let catalogue = self.machine.store.catalogue().clone();
        let size = self.heads[head].bytes.len() as u64 + 512 * (1 + self.rng.below(3000));
        let volume = self.heads[head].volume;
        let plan = catalogue.plan_resize(volume, size, false, now.sequence.next());
        if let Ok(records) = plan {
            assert!(self.machine.change(records).expect("no crash"));
            self.heads[head].bytes.resize(small(size), 0);
        }
    }

    /// Takes a unit over: the runs of blocks that hold anything.
    fn fill(&mut self) {
        if self.detached {
            return;
        }
        let wanted = self.machine.store.take_wanted(self.base);
        self.filler.want(wanted);
        let Some(unit) = self.filler.begin() else { return self.filler.try_again() };
        let mut bytes = vec![0; small(UNIT_BYTES)];
        let start = unit * UNIT_BYTES;
        self.image.show(start, &mut bytes);
        let blocks: Vec<(usize, &[u8])> = bytes.chunks(BLOCK).enumerate().collect();
        let data = |block: &[u8]| block.iter().any(|byte| *byte != 0);
        let runs = blocks.chunk_by(|one, other| data(one.1) == data(other.1));
        let (mut ticket, mut waiting) = (1 << 40, 0);
        for run in runs.filter(|run| data(run[0].1)) {
            let lba = Lba::holding(start + (run[0].0 * BLOCK) as u64).expect("small");
            let bytes = run.iter().flat_map(|(_, block)| block.iter().copied()).collect();
            self.machine.store.fill(self.base, ticket, ClientId(0), lba, bytes);
            (ticket, waiting) = (ticket + 1, waiting + 1);
        }
        while waiting > 0 {
            if !self.machine.turn() {
                self.machine.idle();
            }
            for done in self.machine.take_answers() {
                assert!(matches!(done.result, Ok(Answer::Written(_))), "{done:?}");
                waiting -= 1;
            }
        }
        self.filler.wrote(unit);
    }

    fn checkpoint(&mut self) {
        if self.detached {
            return;
        }
        let runs = self.filler.written();
        let id = self.machine.store.take_over(self.base, runs.clone());
        assert!(self.machine.wait_changed(id).expect("no crash"));
        self.filler.recorded(&runs);
        if self.filler.is_done() {
            let records = self.machine.store.catalogue().plan_detach_base(self.base);
            assert!(self.machine.change(records.expect("all is taken")).expect("no crash"));
            self.detached = true;
            self.image.state.store(DETACHED, Ordering::SeqCst);
        }
    }

    /// Without its source a volume takes no writes, and gives what it has itself.
    fn lose(&mut self, head: usize) {
        if self.detached {
            return;
        }
        self.image.state.store(LOST, Ordering::SeqCst);
        if self.rng.coin() {
            self.machine.store.lose_source(self.base, "gone".to_owned());
        }
        let view = self.view(head);
        let bytes = self.heads[head].bytes.clone();
        for _ in 0..6 {
            let range = self.range(bytes.len());
            match self.bytes(view, range.clone()) {
                Ok(found) => {
                    assert!(found == bytes[range.clone()], "without its source: {range:?}");
                }
                Err(error) => {
                    assert_eq!(error, BlockError::Io);
                    let units =
                        range.start as u64 / UNIT_BYTES..=(range.end - 1) as u64 / UNIT_BYTES;
                    let has =
                        |unit: &u64| self.machine.store.catalogue().taken(self.base).has(*unit);
                    assert!(!units.into_iter().all(|unit| has(&unit)), "{range:?} is taken over");
                }
            }
        }
        if self.machine.store.source_trouble(self.base).is_some() {
            let data = Payload::Borrowed(&[1; 512]);
            let command = Command::Write { offset_bytes: 0, data, fua: false };
            let refused = self.machine.ask(view, GUEST, command);
            assert_eq!(refused.err(), Some(BlockError::ReadOnly));
        }
        self.image.state.store(WELL, Ordering::SeqCst);
        self.machine.store.set_source(self.base, self.image.clone());
    }

    fn crash(&mut self) {
        let kill = self.rng.coin();
        if !kill {
            self.machine.flush_all();
        }
        let disk = self.machine.disk().clone();
        disk.crash();
        let left = if kill {
            disk.kill(&mut self.rng)
        } else {
            disk.power_cut(*self.rng.pick(&CutPolicy::EVERY), &mut self.rng)
        };
        let place = self.machine.place.over(left);
        let config = config(&mut self.rng);
        self.machine = Machine::start(&place, config).expect("recovers");
        let catalogue = self.machine.store.catalogue().clone();
        let base = catalogue.base(self.base).expect("stays");
        assert_eq!(base.detached, self.detached);
        if !base.detached {
            self.machine.store.set_source(self.base, self.image.clone());
            self.filler = Filler::new(base, catalogue.taken(self.base));
        }
    }

    fn step(&mut self) {
        let head = self.rng.index(self.heads.len());
        match self.rng.below(100) {
            0..35 => self.write(head),
            35..55 => self.read(head),
            55..60 => self.extents(head),
            60..66 => self.remember(head),
            66..78 => self.read_past(),
            78..81 => self.clone_or_rewind(),
            81..90 => self.fill(),
            90..93 => self.checkpoint(),
            93..95 => self.lose(head),
            95..97 => self.grow(head),
            97..99 => self.crash(),
            _ => self.machine.settle(),
        }
    }

    fn check_all(&mut self) {
        for head in 0..self.heads.len() {
            let view = self.view(head);
            let bytes = self.heads[head].bytes.clone();
            self.same(view, 0..bytes.len(), &bytes, "a present at the end");
        }
        for (branch, at, bytes) in self.instants.clone() {
            let view = self.machine.view(branch, Some(at));
            self.same(view, 0..bytes.len(), &bytes, &format!("{branch:?} at {at} at the end"));
            self.machine.store.close_view(view);
        }
    }
}

#[test]
fn a_volume_on_an_image_is_as_one_that_was_copied() {
    for seed in 1..=8 {
        println!("seed {seed}");
        let mut world = World::new(seed);
        for _ in 0..120 {
            world.step();
        }
        world.check_all();
        // Taken over to the end it needs the image no more.
        while !world.detached {
            world.fill();
            world.checkpoint();
        }
        world.check_all();
        world.crash();
        world.check_all();
    }
}

#[test]
fn what_is_taken_over_counts_only_when_it_is_durable() {
    for (seed, policy) in (100..).zip([CutPolicy::None; 8]) {
        let mut world = World::new(seed);
        world.fill();
        world.fill();
        world.checkpoint();
        let wanted = world.machine.store.catalogue().taken(world.base).count();
        world.fill(); // written, not recorded
        let disk = world.machine.disk().clone();
        disk.crash();
        let left = disk.power_cut(policy, &mut world.rng);
        let place = world.machine.place.over(left);
        world.machine = Machine::start(&place, Config::default()).expect("recovers");
        let catalogue = world.machine.store.catalogue().clone();
        assert_eq!(catalogue.taken(world.base).count(), wanted);
        // What counts as taken is read without the source.
        let view = world.view(0);
        let bytes = world.heads[0].bytes.clone();
        for unit in 0..bytes.len() as u64 / UNIT_BYTES {
            if !catalogue.taken(world.base).has(unit) {
                continue;
            }
            let start = small(unit * UNIT_BYTES);
            world.same(view, start..start + small(UNIT_BYTES), &bytes, "taken");
        }
    }
}

#[test]
fn what_stands_in_a_source_is_forgotten_and_what_was_written_is_not() {
    let lba = |number: u64| Lba::new(number).expect("small");
    let place = units::Place::new(FileId::new(7).expect("small"), 64).expect("aligned");
    let mut map = HeadMap::unknown();
    map.set(lba(3), place);
    let mut stands = vec![true; 512];
    stands[9] = false;
    map.fill_over(&LeafVersions::new(lba(0).leaf()), &Rest::Source(stands.into()));
    let all = Rest::Source(vec![true; 512].into());
    map.fill_over(&LeafVersions::new(lba(512).leaf()), &all);
    map.set_zero(Extent::new(lba(600), 2).expect("not empty"));
    let blocks = |map: &HeadMap| [3, 4, 9, 512, 600].map(|number| map.get(lba(number)));
    let known = [Block::At(place), Block::Source, Block::Zero, Block::Source, Block::Zero];
    assert_eq!(blocks(&map), known);
    map.forget_sources();
    let unknown = [Block::At(place), Block::Unknown, Block::Zero, Block::Unknown, Block::Zero];
    assert_eq!(blocks(&map), unknown);
}
