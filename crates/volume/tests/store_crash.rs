//! Power is cut before, amid and after every disk operation of a short script, with every policy on
//! what was not yet durable; then again inside the recovery. Whatever was flushed is there, and what
//! is there is a prefix of what was asked.
//!
//! The script rolls segments, packs or seals them, writes bulk, clones, trims and begins an epoch.

use block_device::{Answer, Command, Payload};
use segment_log::Config;
use sim::{Machine, Place, new_volume};
use sim_world::{CutPolicy, Seed, SimDisk, every_crash, every_kill};
use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
};
use units::{BLOCK, BranchId, ClientId, Sequence};
use volume::ViewId;

const BLOCKS: usize = 160;
/// The first branch that a store makes.
const BRANCH: BranchId = BranchId(1);

/// What was asked, in order: each request is the next sequence.
#[derive(Clone, Debug, Default)]
struct Promise {
    /// (first block, blocks, fill); fill 0 is a trim.
    asked: Vec<(usize, usize, u8)>,
    answered: usize,
    flushed: usize,
    clone_at: Option<(BranchId, usize)>,
}

impl Promise {
    /// The first byte of each block after so many requests.
    fn after(&self, requests: usize) -> [u8; BLOCKS] {
        let mut blocks = [0; BLOCKS];
        for &(first, count, fill) in &self.asked[..requests] {
            blocks[first..first + count].fill(fill);
        }
        blocks
    }
}

struct Script {
    machine: Machine,
    view: ViewId,
    promise: Promise,
}

impl Script {
    /// Asks for changes, none of which touches another, all at once and waits for their answers; `None` when the machine is gone.
    fn change(&mut self, changes: &[(usize, usize, u8)]) -> Option<()> {
        for &(first, count, fill) in changes {
            self.promise.asked.push((first, count, fill));
            let (offset, length) = (first * BLOCK, count * BLOCK);
            let (offset_bytes, length_bytes) = (offset as u64, length as u64);
            let bytes = vec![fill; length];
            let command = if fill == 0 {
                Command::Trim { offset_bytes, length_bytes, fua: false }
            } else {
                let data = Payload::Borrowed(&bytes);
                Command::Write { offset_bytes, data, fua: false }
            };
            self.machine.submit(self.view, ClientId(7), command);
        }
        while self.promise.answered < self.promise.asked.len() {
            self.machine.turn();
            if self.machine.is_crashed() {
                return None;
            }
            for done in self.machine.take_answers() {
                assert!(matches!(done.result, Ok(Answer::Written(_))), "{done:?}");
                self.promise.answered += 1;
            }
        }
        Some(())
    }

    fn flush(&mut self) -> Option<()> {
        let covers = self.promise.answered;
        self.machine.ask(self.view, ClientId(7), Command::Flush).ok()?;
        self.promise.flushed = covers;
        Some(())
    }

    fn settle(&mut self) -> Option<()> {
        self.machine.settle();
        (!self.machine.is_crashed()).then_some(())
    }

    fn clone(&mut self) -> Option<()> {
        let now = self.machine.now()?;
        self.promise.flushed = self.promise.answered;
        let catalogue = self.machine.store.catalogue();
        let plan = catalogue.plan_clone(BRANCH, now, new_volume("clone"), now);
        let (volume, records) = plan.expect("a free name");
        let forked = self.promise.answered;
        if self.machine.change(records)? {
            self.promise.clone_at = Some((self.machine.present(volume), forked));
        }
        Some(())
    }

    fn play(&mut self) -> Option<()> {
        self.change(&[(0, 4, 1), (4, 4, 2), (150, 1, 3)])?;
        self.flush()?;
        self.change(&[(10, 60, 4), (80, 60, 5)])?; // fills most of a segment
        self.change(&[(30, 60, 6), (5, 3, 0)])?; // and rolls it
        self.settle()?; // packed or sealed
        for block in 0..8 {
            self.change(&[(12 + block, 1, 13), (40, 3, 14)])?;
        }
        self.flush()?;
        self.change(&[(20, 50, 15), (90, 50, 16)])?; // rolls the next
        self.settle()?;
        self.change(&[(64, 80, 7)])?; // bulk
        self.change(&[(70, 2, 8)])?;
        self.flush()?;
        self.clone()?;
        self.change(&[(100, 60, 9), (0, 60, 10), (70, 2, 11)])?;
        self.settle()?;
        self.change(&[(1, 1, 12)])
    }
}

fn config(pack: bool) -> Config {
    Config { pack, segment_bytes: 512 << 10, images: 1, pool_files: 2, ..Config::default() }
}

/// A disk with a store that holds one volume, all of it durable.
fn prepared(seed: Seed, alignment: usize) -> SimDisk {
    let place = Place::new(seed);
    place.disk.set_alignment(alignment);
    place.make_store().expect("an empty disk");
    let mut machine = Machine::start(&place, config(true)).expect("a new store");
    let (_, branch) = machine.create("disk", (BLOCKS * BLOCK) as u64).expect("no crash");
    assert_eq!(branch, BRANCH);
    place.disk.copy()
}

fn script(seed: Seed, disk: &SimDisk, pack: bool) -> Promise {
    let place = Place::with_disk(seed, disk.clone());
    let Ok(mut machine) = Machine::start(&place, config(pack)) else {
        assert!(disk.is_crashed(), "starts unless it crashes");
        return Promise::default();
    };
    let view = machine.view(BRANCH, None);
    let mut script = Script { machine, view, promise: Promise::default() };
    let _ = script.play();
    script.promise
}

fn first_bytes(machine: &mut Machine, branch: BranchId, at: Option<Sequence>) -> [u8; BLOCKS] {
    let view = machine.view(branch, at);
    let length_bytes = (BLOCKS * BLOCK) as u64;
    let command = Command::Read { offset_bytes: 0, length_bytes };
    let Ok(Answer::Data(parts)) = machine.ask(view, ClientId(7), command) else {
        panic!("{branch:?} at {at:?} cannot be read");
    };
    let bytes = parts.iter().map(|part| &part[..]).collect::<Vec<_>>().concat();
    for block in bytes.chunks(BLOCK) {
        assert!(block.iter().all(|byte| *byte == block[0]), "a torn block");
    }
    std::array::from_fn(|block| bytes[block * BLOCK])
}

/// Recovers an image and compares; gives the last sequence.
fn check(image: &SimDisk, promise: &Promise, floor: usize, words: &str) -> usize {
    let place = Place::with_disk(Seed(99), image.clone());
    let machine = Machine::start(&place, config(true));
    let mut machine = machine.unwrap_or_else(|error| panic!("{words}: {error}"));
    let last = usize::try_from(machine.store.log().last().number()).expect("small");
    assert!(last >= floor, "{words}: D1: {floor} were promised, {last} are there");
    assert!(last <= promise.asked.len(), "{words}: D3: {last} were never asked for");
    assert_eq!(first_bytes(&mut machine, BRANCH, None), promise.after(last), "{words}: D3");
    for at in [floor / 2, floor, last] {
        let sequence = Sequence::new(at as u64).expect("small");
        let found = first_bytes(&mut machine, BRANCH, Some(sequence));
        assert_eq!(found, promise.after(at), "{words}: T1 at {at}");
    }
    if let Some((branch, at)) = promise.clone_at {
        assert_eq!(first_bytes(&mut machine, branch, None), promise.after(at), "{words}: L1");
    }
    last
}

fn sweep(seed: Seed, alignment: usize, pack: bool) -> usize {
    let disk = prepared(seed, alignment);
    let images = RefCell::new(HashMap::new());
    let look = |image: &SimDisk, promise: &Promise, floor: usize, words: &str| {
        // An image that was seen before ends where it ended, but more may have been promised by now.
        let mut images = images.borrow_mut();
        let end = images.entry(image.digest_visible());
        let end = *end.or_insert_with(|| check(&image.copy(), promise, floor, words));
        assert!(end >= floor, "{words}: D1: {floor} were promised, {end} are there");
    };
    every_crash(
        seed,
        &disk,
        |disk| script(seed, disk, pack),
        |image, promise, words| look(image, promise, promise.flushed, words),
    );
    every_kill(
        seed,
        &disk,
        |disk| script(seed, disk, pack),
        |image, promise, words| look(image, promise, promise.answered, words),
    );
    let count = images.borrow().len();
    println!("{count} distinct crash images (alignment {alignment}, pack {pack})");
    count
}

#[test]
fn flushed_writes_survive_a_cut_anywhere_with_packing() {
    assert!(sweep(Seed(1), 4096, true) > 300);
}

#[test]
fn flushed_writes_survive_a_cut_anywhere_without_packing() {
    assert!(sweep(Seed(2), 512, false) > 300);
}

#[test]
fn recovery_that_is_cut_off_is_done_again_alike() {
    let seed = Seed(3);
    let disk = prepared(seed, 512);
    let run = disk.copy();
    run.crash_at_operation(run.operations() + 70, sim_world::Moment::Partly);
    let promise = script(seed, &run, true);
    let mut rng = seed.rng("cut");
    let images = RefCell::new(HashSet::new());
    for policy in CutPolicy::EVERY {
        let cut = run.power_cut(policy, &mut rng);
        let wanted = check(&cut.copy(), &promise, promise.flushed, "uncut");
        let recover = |disk: &SimDisk| {
            let place = Place::with_disk(Seed(5), disk.clone());
            drop(Machine::start(&place, config(true)));
        };
        every_crash(seed, &cut, recover, |image, (), words| {
            if images.borrow_mut().insert(image.digest_visible()) {
                let found = check(&image.copy(), &promise, promise.flushed, words);
                assert_eq!(found, wanted, "{words}: D4");
            }
        });
    }
    println!("{} distinct images of cut recoveries", images.borrow().len());
}

#[test]
fn a_clone_that_is_rewound_before_it_was_written_to_shows_what_it_came_from() {
    let place = Place::new(Seed(4));
    place.make_store().expect("an empty disk");
    let mut machine = Machine::start(&place, config(true)).expect("a new store");
    let (_, branch) = machine.create("disk", (BLOCKS * BLOCK) as u64).expect("no crash");
    let view = machine.view(branch, None);
    let mut script = Script { machine, view, promise: Promise::default() };
    script.change(&[(3, 5, 9)]).expect("no crash");
    let Script { mut machine, promise, .. } = script;
    drop(machine);
    machine = Machine::start(&place, config(true)).expect("what it was");
    let now = machine.now().expect("no crash");
    let plan = machine.store.catalogue().plan_clone(branch, now, new_volume("clone"), now);
    let (clone, records) = plan.expect("a free name");
    assert_eq!(machine.change(records), Some(true));
    let left = machine.present(clone);
    let plan = machine.store.catalogue().plan_rewind(clone, left, now, now);
    let (_, records) = plan.expect("nobody is attached");
    assert_eq!(machine.change(records), Some(true));
    assert_ne!(machine.present(clone), left);
    assert_eq!(first_bytes(&mut machine, left, None), promise.after(1));
}

/// Leaves nothing of what was not durable, after a life that only asked for one write and a flush.
fn live_on_what_a_kill_left(image: &SimDisk, words: &str) {
    let place = Place::with_disk(Seed(6), image.clone());
    let machine = Machine::start(&place, config(true));
    let mut machine = machine.unwrap_or_else(|error| panic!("{words}: {error}"));
    let view = machine.view(BRANCH, None);
    let mut script = Script { machine, view, promise: Promise::default() };
    script.change(&[(9, 1, 99)]).expect("no crash");
    script.flush().expect("no crash");
    let cut = place.disk.power_cut(CutPolicy::None, &mut Seed(6).rng("cut"));
    drop(script);
    let place = Place::with_disk(Seed(7), cut);
    let machine = Machine::start(&place, config(true));
    let mut machine = machine.unwrap_or_else(|error| panic!("{words}: {error}"));
    assert_eq!(first_bytes(&mut machine, BRANCH, None)[9], 99, "{words}: D1");
}

#[test]
fn what_a_kill_left_undurable_is_made_durable_before_it_is_relied_on() {
    let seed = Seed(8);
    let disk = prepared(seed, 512);
    let begin = |disk: &SimDisk| {
        let place = Place::with_disk(seed, disk.clone());
        let Ok(machine) = Machine::start(&place, config(true)) else { return };
        let mut script = Script { machine, view: ViewId(0), promise: Promise::default() };
        script.view = script.machine.view(BRANCH, None);
        let _ =
            script.change(&[(0, 60, 1)]).and_then(|()| script.change(&[(60, 60, 2), (0, 9, 3)]));
    };
    every_kill(seed, &disk, begin, |image, (), words| live_on_what_a_kill_left(image, words));
}
