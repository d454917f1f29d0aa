//! Power cuts at every operation of short scripts: many images of each, each recovered and checked.
//!
//! A script follows from its seed: segments of a few batches, groups of writes and trims, flushes,
//! packing, bulk, sometimes lives before the one that is swept, each ended by a cut. It runs once; the
//! disk keeps a copy of itself from before each operation, and each copy is cut in many ways: nothing
//! of what was not synced is left, all, what came before a moment, any part, torn sectors; or only the
//! process was killed. Of each image:
//!
//! - D1, D2: what was flushed (after a kill: answered) is there;
//! - D3: what is there is a prefix of what was asked, each request at the sequence it was answered with;
//! - T1: the present and instants of the past equal the model;
//! - D4: a recovery that is cut short at any of its operations and done again ends alike (one image of
//!   some); and a store that was written to again and cut again keeps all this, K1 besides.
//!
//! [`fail`] makes an operation of such a script fail instead, every one in turn, and looks at what is
//! answered, what can be read, and what a cut leaves of it.
//!
//! An image that was seen before is not recovered again: its end is known, and only compared.

use crate::{Content, Machine, Place, StartError, cells::SealedCells, model::paint};
use block_device::{Answer, BlockError, Command, Payload};
use segment_log::{Config, OpenError};
use sim_world::{CutPolicy, Fault, Rng, Rule, Seed, SimDisk};
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};
use units::{BLOCK, BranchId, ClientId, Sequence};
use volume::ViewId;
use world::Pool;

/// The first branch that a store makes.
const BRANCH: BranchId = BranchId(1);
/// Blocks of a long write: the least that goes to a bulk file.
const BULK_BLOCKS: usize = 64;
/// Turns in which everything asked must have been answered.
const TURNS_MAX: usize = 100_000;

/// What a sweep has done; sums of several add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Scripts that were swept.
    pub scripts: u64,
    /// Operations at which power was cut.
    pub operations: u64,
    /// Cuts that were made.
    pub cuts: u64,
    /// Images that differ, by the hash of all that a reader sees.
    pub images: u64,
    /// Of those: images of a recovery that was cut short.
    pub recoveries: u64,
    /// Of those: images of stores that were written to again after a cut, and cut again.
    pub second_lives: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scripts, operations, cuts, images, recoveries, second_lives } = self;
        write!(
            f,
            "{images} distinct crash images ({recoveries} of cut recoveries, {second_lives} of second \
             lives) from {cuts} cuts at {operations} operations of {scripts} scripts"
        )
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.scripts += other.scripts;
        self.operations += other.operations;
        self.cuts += other.cuts;
        self.images += other.images;
        self.recoveries += other.recoveries;
        self.second_lives += other.second_lives;
    }
}

/// Sweeps the script of a seed; panics with the name of the check that fails.
pub fn sweep(seed: u64) -> Counts {
    let mut sweep = Sweep::new(seed);
    let shots = sweep.prepare();
    for shot in &shots {
        sweep.cut_in_every_way(shot);
    }
    sweep.counts.scripts = 1;
    sweep.counts.operations = shots.len() as u64;
    sweep.counts
}

/// What fails in a script.
#[derive(Clone, Copy, Debug)]
pub struct Failing<'a> {
    /// How.
    pub fault: Fault,
    /// Files whose paths begin so.
    pub prefix: &'a str,
    /// Fails once more, so many fitting operations later.
    pub again: Option<u64>,
    /// Fails from then on for ever.
    pub for_ever: bool,
    /// Whether clients may be told; else they must not notice.
    pub told: bool,
}

/// Runs the script of a seed anew for every operation that can fail so; panics with the name of the
/// check that fails. Gives what was cut afterwards.
pub fn fail(seed: u64, failing: Failing<'_>) -> Counts {
    let mut counts = Counts::default();
    for nth in 0.. {
        let mut sweep = Sweep::new(seed);
        if !sweep.fail(failing, nth) {
            break;
        }
        sweep.counts.scripts = 1;
        counts += sweep.counts;
    }
    counts
}

/// Runs the script of a seed anew for every sync of the log that could lie, and cuts power: the log may
/// be refused, but history never ends before what a batch that is there calls durable.
pub fn lie(seed: u64) -> Counts {
    let mut counts = Counts::default();
    for nth in 0.. {
        let mut sweep = Sweep::new(seed);
        if !sweep.lie(nth) {
            break;
        }
        sweep.counts.scripts = 1;
        counts += sweep.counts;
    }
    counts
}

/// A request that was asked for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    first: usize,
    blocks: usize,
    zeros: bool,
    fua: bool,
    sequence: Option<u64>,
}

/// What clients know.
#[derive(Clone, Debug, Default)]
struct Story {
    /// By the number of the client that asked, from 1 on.
    asked: Vec<Asked>,
    /// Who wrote each sequence of the lives that ended.
    history: Vec<usize>,
    promised: Promised,
}

#[derive(Clone, Copy, Debug, Default)]
struct Promised {
    /// Must be there whatever happens.
    floor: u64,
    /// Must be there unless power goes.
    answered: u64,
    /// How many had been asked for.
    asked: usize,
    /// The first that was asked for in this life: what is older and not history never will be.
    from: usize,
}

/// A disk from before an operation, and what had been promised then.
struct Shot {
    disk: SimDisk,
    operation: u64,
    promised: Promised,
}

/// What ended the run of a machine whose image is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Power(CutPolicy),
    Kill,
}

/// The cuts of each copy: the more that chance decides, the more often.
const CUTS: [Cut; 14] = [
    Cut::Power(CutPolicy::None),
    Cut::Power(CutPolicy::All),
    Cut::Power(CutPolicy::Prefix),
    Cut::Power(CutPolicy::Prefix),
    Cut::Power(CutPolicy::Random),
    Cut::Power(CutPolicy::Random),
    Cut::Power(CutPolicy::Random),
    Cut::Power(CutPolicy::Torn),
    Cut::Power(CutPolicy::Torn),
    Cut::Power(CutPolicy::Torn),
    Cut::Power(CutPolicy::Torn),
    Cut::Power(CutPolicy::Torn),
    Cut::Kill,
    Cut::Kill,
];

struct Sweep {
    seed: u64,
    /// What is going on, for who reads of a failure.
    about: String,
    /// Requests may fail: a fault is in force that is to be told.
    told: bool,
    rng: Rng,
    config: Config,
    blocks: usize,
    bulk: bool,
    /// Every batch is a block or a few trims and waits for the one before: so that what is left of a
    /// former use of a slot often lies just where the like of it is torn.
    uniform: bool,
    pool: Pool,
    story: Story,
    /// Images by their hash: where their history ends.
    seen: HashMap<u64, u64>,
    counts: Counts,
}

impl Sweep {
    fn new(seed: u64) -> Self {
        let mut rng = Seed(seed).rng("crash sweep");
        let config = Config {
            pack: rng.below(4) > 0,
            segment_bytes: *rng.pick(&[64 << 10, 96 << 10, 160 << 10]),
            images: rng.index(3),
            pool_files: 1 + rng.index(3),
            backlog_segments: 1 + rng.index(4),
            ..Config::default()
        };
        let manifest_bytes = [1 << 10, 4 << 10, 256 << 10][config.pool_files - 1]; // one more draw: other scripts
        let config = Config { manifest_bytes, ..config };
        let (bulk, uniform) = match rng.below(4) {
            0 => (true, false),
            1 => (false, true),
            _ => (false, false),
        };
        Self {
            seed,
            about: String::new(),
            told: false,
            rng,
            config,
            blocks: if bulk { 2 * BULK_BLOCKS } else { 40 },
            bulk,
            uniform,
            pool: Pool::new(64 << 20),
            story: Story::default(),
            seen: HashMap::new(),
            counts: Counts::default(),
        }
    }

    fn make_store(&mut self) -> Place {
        let place = Place::new(Seed(self.seed));
        place.disk.set_alignment(*self.rng.pick(&[512, 512, 4096]));
        place.make_store().expect("an empty disk");
        let mut machine = self.start(&place, "a new store");
        let size_bytes = (self.blocks * BLOCK) as u64;
        let (_, branch) = machine.create("disk", size_bytes).expect("nothing crashes");
        assert_eq!(branch, BRANCH);
        place
    }

    /// Plays a life in which the n-th fitting operation fails; `false` if there is none.
    fn fail(&mut self, failing: Failing<'_>, nth: u64) -> bool {
        let Failing { fault, prefix, again, for_ever, told } = failing;
        self.about =
            format!("{fault:?} of {prefix:?} at {nth}, again {again:?}, for ever {for_ever}");
        self.told = told;
        let place = self.make_store();
        let machine = self.start(&place, "before the fault");
        for nth in [Some(nth), again.map(|again| nth + again + 1)].into_iter().flatten() {
            place.disk.inject(Rule::nth(fault, nth).on(prefix));
        }
        if for_ever {
            place.disk.inject(Rule::from_nth(fault, nth).on(prefix));
        }
        let mut life = Life::begin(self, machine);
        for _ in 0..8 {
            life.step();
        }
        if life.machine.disk().struck() == 0 {
            return false;
        }
        if !for_ever {
            life.machine.disk().heal();
        }
        life.flush();
        life.shoot();
        let Life { mut machine, shots, .. } = life;
        let promised = self.story.promised;
        let asked = self.story.asked.len() as u64;
        assert!(told || promised.floor == asked, "{}: F1: not all was done", self.named("its end"));
        if machine.store.log().poison().is_none() {
            let order = self.order(&machine, promised, promised.answered, "its end");
            self.compare(&mut machine, &order, "its end");
        }
        drop(machine);
        let last = shots.len() - 1;
        let some: Vec<usize> = (0..6).map(|_| self.rng.index(shots.len())).collect();
        for shot in some.into_iter().chain([last]).map(|index| &shots[index]) {
            shot.disk.heal();
            self.counts.operations += 1;
            self.cut_in_every_way(shot);
        }
        true
    }

    fn lie(&mut self, nth: u64) -> bool {
        self.about = format!("the sync {nth} of the log lies");
        let place = self.make_store();
        let machine = self.start(&place, "before the lie");
        place.disk.inject(Rule::nth(Fault::LyingSync, nth).on("log/"));
        let mut life = Life::begin(self, machine);
        for _ in 0..8 {
            life.step();
        }
        if life.machine.disk().struck() == 0 {
            return false;
        }
        life.flush();
        life.shoot();
        let shots = life.shots;
        for shot in &shots {
            let policy = *self.rng.pick(&[CutPolicy::None, CutPolicy::Prefix]);
            let image = shot.disk.power_cut(policy, &mut self.rng);
            self.counts.operations += 1;
            self.counts.cuts += 1;
            if self.seen.insert(image.digest_visible(), 0).is_some() {
                continue;
            }
            self.counts.images += 1;
            let marked = marked_durable(&image);
            let place = self.place(&image);
            let words = self.named(&format!("operation {}, {policy:?}", shot.operation));
            match Machine::start_in(&place, self.config, &self.pool) {
                Err(StartError::Log(OpenError::Missing(_))) => {}
                Err(error) => panic!("{words}: R2: the store does not start: {error}"),
                Ok(machine) => {
                    let last = machine.store.log().last().number();
                    assert!(
                        last >= marked,
                        "{words}: D1: ends at {last} in silence, {marked} was durable"
                    );
                }
            }
        }
        true
    }

    /// Plays the lives before the last one, each to a cut, then the last one whole.
    fn prepare(&mut self) -> Vec<Shot> {
        let mut place = self.make_store();
        for _ in 0..self.rng.below(3) {
            let shots = self.play(&place, 3);
            let shot = &shots[self.rng.index(shots.len())];
            let policy = *self.rng.pick(&CutPolicy::EVERY);
            place = place.over(shot.disk.power_cut(policy, &mut self.rng));
            let words = format!("a life before, cut at {} {policy:?}", shot.operation);
            let machine = self.start(&place, &words);
            self.story.promised = shot.promised;
            self.story.history = self.order(&machine, shot.promised, shot.promised.floor, &words);
            let last = self.story.history.len() as u64;
            for (index, asked) in self.story.asked.iter_mut().enumerate() {
                asked.sequence = None;
                let at = self.story.history.iter().position(|client| *client == index);
                asked.sequence = at.map(|at| at as u64 + 1);
            }
            // Recovery has made durable what it accepted.
            let asked = self.story.asked.len();
            self.story.promised = Promised { floor: last, answered: last, asked, from: asked };
        }
        let steps = if self.uniform { 120 } else { 5 + self.rng.below(10) };
        self.play(&place, steps)
    }

    fn start(&self, place: &Place, words: &str) -> Machine {
        match Machine::start_in(place, self.config, &self.pool) {
            Ok(machine) => machine,
            Err(error) => panic!("{}: D1: the store does not start: {error}", self.named(words)),
        }
    }

    fn named(&self, words: &str) -> String {
        format!("crash script {} {}, {words}", self.seed, self.about)
    }

    /// A life of so many steps; the disk from before each of its operations.
    fn play(&mut self, place: &Place, steps: u64) -> Vec<Shot> {
        let machine = self.start(place, "a life begins");
        let mut life = Life::begin(self, machine);
        for _ in 0..steps {
            life.step();
        }
        life.shots
    }

    fn cut_in_every_way(&mut self, shot: &Shot) {
        for cut in CUTS {
            self.counts.cuts += 1;
            let image = self.cut(&shot.disk, cut);
            let words = format!("operation {}, {cut:?}", shot.operation);
            let floor = match cut {
                Cut::Power(_) => shot.promised.floor,
                Cut::Kill => shot.promised.answered,
            };
            let digest = image.digest_visible();
            if let Some(&last) = self.seen.get(&digest) {
                assert!(
                    last >= floor,
                    "{}: D1: {floor} were promised, {last} are there",
                    self.named(&words)
                );
                continue;
            }
            self.counts.images += 1;
            let last = self.check(&image.copy(), shot.promised, floor, &words);
            self.seen.insert(digest, last);
            match self.rng.below(24) {
                0 => self.cut_recovery(&image, shot.promised, cut, last, &words),
                1 | 2 => self.live_again(&image, shot.promised, floor, &words),
                _ => {}
            }
        }
    }

    fn cut(&mut self, disk: &SimDisk, cut: Cut) -> SimDisk {
        match cut {
            Cut::Power(policy) => disk.power_cut(policy, &mut self.rng),
            Cut::Kill => disk.kill(&mut self.rng),
        }
    }

    /// A place of its own: no two lives draw the same keys.
    fn place(&mut self, disk: &SimDisk) -> Place {
        Place::with_disk(Seed(self.rng.next_u64()), disk.clone())
    }

    /// Recovers an image and compares it with what was asked; gives the last sequence.
    fn check(&mut self, image: &SimDisk, promised: Promised, floor: u64, words: &str) -> u64 {
        let place = self.place(image);
        let mut machine = self.start(&place, words);
        let order = self.order(&machine, promised, floor, words);
        self.compare(&mut machine, &order, words);
        order.len() as u64
    }

    /// Cuts the recovery of an image at each of its operations.
    fn cut_recovery(
        &mut self,
        image: &SimDisk,
        promised: Promised,
        cut: Cut,
        last: u64,
        words: &str,
    ) {
        let disk = image.copy();
        disk.watch();
        let place = self.place(&disk);
        drop(self.start(&place, words));
        for (operation, disk) in disk.take_watched() {
            let policy = *self.rng.pick(&CutPolicy::EVERY);
            let image = disk.power_cut(policy, &mut self.rng);
            self.counts.cuts += 1;
            let words = format!("{words}, recovery cut at {operation} {policy:?}");
            let digest = image.digest_visible();
            let found = if let Some(&found) = self.seen.get(&digest) {
                found
            } else {
                self.counts.images += 1;
                self.counts.recoveries += 1;
                self.check(&image.copy(), promised, promised.floor, &words)
            };
            self.seen.insert(digest, found);
            // After a kill the cache lives on, and what lay there only may go with the power.
            let same = found == last || cut == Cut::Kill && found >= promised.floor;
            assert!(same, "{}: D4: ended at {last}, now at {found}", self.named(&words));
        }
    }

    /// Goes on with the image as a client would, until power goes again.
    fn live_again(&mut self, image: &SimDisk, promised: Promised, floor: u64, words: &str) {
        let mut cells = SealedCells::default();
        cells.look(image);
        let place = self.place(&image.copy());
        let machine = self.start(&place, words);
        let story = self.story.clone();
        let history = self.order(&machine, promised, floor, words);
        self.story.asked.truncate(promised.asked);
        for asked in &mut self.story.asked {
            asked.sequence = None;
        }
        for (sequence, client) in (1..).zip(&history) {
            self.story.asked[*client].sequence = Some(sequence);
        }
        let last = history.len() as u64;
        self.story.history = history;
        let asked = self.story.asked.len();
        self.story.promised = Promised { floor: last, answered: last, asked, from: asked };
        let mut life = Life::begin(self, machine);
        for _ in 0..2 {
            life.step();
        }
        let shots = life.shots;
        for _ in 0..2 {
            let shot = &shots[self.rng.index(shots.len())];
            let policy = *self.rng.pick(&CutPolicy::EVERY);
            let image = shot.disk.power_cut(policy, &mut self.rng);
            self.counts.cuts += 1;
            if self.seen.contains_key(&image.digest_visible()) {
                continue;
            }
            self.counts.images += 1;
            self.counts.second_lives += 1;
            let words = format!("{words}, gone on, operation {} {policy:?}", shot.operation);
            cells.look(&image);
            let last = self.check(&image.copy(), shot.promised, shot.promised.floor, &words);
            self.seen.insert(image.digest_visible(), last);
        }
        self.story = story;
    }

    /// Who wrote each sequence that is there, by the store's own word.
    fn order(&self, machine: &Machine, promised: Promised, floor: u64, words: &str) -> Vec<usize> {
        let words = self.named(words);
        let last = machine.store.log().last().number();
        assert!(last >= floor, "{words}: D1: {floor} were promised, {last} are there");
        let clients = clients_of(machine);
        let mut order = Vec::new();
        let mut used = vec![false; self.story.asked.len()];
        for number in 1..=last {
            let client = clients.get(&number);
            let client = *client.unwrap_or_else(|| panic!("{words}: D3: nobody wrote {number}"));
            assert!((1..=promised.asked).contains(&client), "{words}: D3: {client} had not asked");
            let before = self.story.history.get(order.len());
            let right = before.map_or(client > promised.from, |before| *before == client - 1);
            assert!(right, "{words}: D3: {number} is of {client}, which a cut had ended");
            let known = self.story.asked[client - 1].sequence;
            assert!(
                known.is_none_or(|known| known == number),
                "{words}: D3: {client} was answered {known:?}, is {number}"
            );
            assert!(!used[client - 1], "{words}: D3: {client} is there twice");
            used[client - 1] = true;
            order.push(client - 1);
        }
        order
    }

    /// T1: the present, the floor and an instant between equal what the requests make.
    fn compare(&mut self, machine: &mut Machine, order: &[usize], words: &str) {
        let last = order.len() as u64;
        let some = self.rng.below(last + 1);
        for at in [None, Some(some)] {
            let sequence = at.map(|at| Sequence::new(at).expect("small"));
            let view = machine.view(BRANCH, sequence);
            let length_bytes = (self.blocks * BLOCK) as u64;
            let command = Command::Read { offset_bytes: 0, length_bytes };
            let found = match machine.ask(view, ClientId(0), command) {
                Ok(Answer::Data(parts)) => parts,
                other => panic!("{}: R2: {at:?} reads as {other:?}", self.named(words)),
            };
            let wanted = self.blocks_at(&order[..to_usize(at.unwrap_or(last))]);
            let mut blocks = found.iter().flat_map(|part| part.chunks(BLOCK));
            for (block, writer) in wanted.into_iter().enumerate() {
                let found = blocks.next().expect("as long as asked for");
                let right =
                    found.chunks_exact(8).eq(text(writer).chunks_exact(8).cycle().take(BLOCK / 8));
                assert!(
                    right,
                    "{}: T1: block {block} at {at:?} of {last} is not of {writer:?}",
                    self.named(words)
                );
            }
            machine.store.close_view(view);
        }
    }

    /// Who wrote each block last, after these requests.
    fn blocks_at(&self, order: &[usize]) -> Vec<Option<usize>> {
        let mut blocks = vec![None; self.blocks];
        for &client in order {
            let Asked { first, blocks: count, zeros, .. } = self.story.asked[client];
            blocks[first..first + count].fill((!zeros).then_some(client));
        }
        blocks
    }
}

/// Eight bytes that fill each block of a request.
fn text(writer: Option<usize>) -> [u8; 8] {
    let mut text = [0; 8];
    if let Some(writer) = writer {
        paint(Content::Data(writer as u64 + 1), 0, &mut text);
    }
    text
}

/// Which client wrote each sequence.
fn clients_of(machine: &Machine) -> BTreeMap<u64, usize> {
    let mut clients = BTreeMap::new();
    for source in machine.store.snapshot().index.sources() {
        let (first, last) = (source.first(), source.last());
        let mut runs =
            source.clients_of(&(first..=last)).expect("no fault now").into_iter().peekable();
        let mut client = None;
        for number in first.number()..=last.number() {
            while let Some(run) = runs.next_if(|run| run.first.number() <= number) {
                client = Some(to_usize(run.client.0));
            }
            clients.extend(client.map(|client| (number, client)));
        }
    }
    clients
}

/// The highest sequence that any batch which lies in a segment calls durable; by a few facts of
/// `docs/format.md` 6. Only where no cut tears.
fn marked_durable(disk: &SimDisk) -> u64 {
    let mut marked = 0;
    for path in disk.files().iter().filter(|path| path.starts_with("log/")) {
        let bytes = disk.bytes(path).expect("listed");
        for sector in bytes.chunks_exact(512).skip(8).filter(|it| it.starts_with(b"SLB1")) {
            marked = marked.max(u64::from_le_bytes(sector[24..32].try_into().expect("8 bytes")));
        }
    }
    marked
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).expect("small")
}

/// A machine whose every operation is watched, and its clients.
struct Life<'a> {
    sweep: &'a mut Sweep,
    machine: Machine,
    view: ViewId,
    tickets: BTreeMap<u64, usize>,
    /// Flushes that are not answered, and what each covers.
    flushes: BTreeMap<u64, u64>,
    shots: Vec<Shot>,
}

impl<'a> Life<'a> {
    fn begin(sweep: &'a mut Sweep, mut machine: Machine) -> Self {
        machine.disk().watch();
        let view = machine.view(BRANCH, None);
        let mut life = Self {
            sweep,
            machine,
            view,
            tickets: BTreeMap::new(),
            flushes: BTreeMap::new(),
            shots: Vec::new(),
        };
        life.shoot(); // there is one, whatever comes
        life
    }

    fn step(&mut self) {
        if self.sweep.uniform {
            let zeros = self.sweep.rng.coin();
            for _ in 0..if zeros { 4 } else { 1 } {
                let first = self.sweep.rng.index(self.sweep.blocks);
                self.ask(first, 1, zeros);
            }
            return match self.sweep.rng.below(12) {
                0 => self.flush(),
                1 => while self.turn() {},
                _ => self.wait(),
            };
        }
        match self.sweep.rng.below(10) {
            0..6 => self.write(),
            6..8 => self.flush(),
            8 => {
                for _ in 0..self.sweep.rng.below(60) {
                    self.turn();
                }
            }
            _ => {
                self.write();
                self.flush();
                while self.turn() {}
            }
        }
    }

    /// A group of requests, none of which touches another, and their answers.
    fn write(&mut self) {
        let mut left = self.sweep.rng.below(5) + 1;
        let mut first = self.sweep.rng.index(8);
        let single = self.sweep.rng.coin();
        while left > 0 && first < self.sweep.blocks {
            let room = self.sweep.blocks - first;
            let bulk = self.sweep.bulk && room >= BULK_BLOCKS && self.sweep.rng.below(4) == 0;
            let blocks = match bulk {
                true => room.min(BULK_BLOCKS + self.sweep.rng.index(12)),
                false if single => 1,
                false => room.min(1 + self.sweep.rng.index(5)),
            };
            let zeros = self.sweep.rng.below(6) == 0;
            self.ask(first, blocks, zeros);
            first += blocks + self.sweep.rng.index(4);
            left -= 1;
            if self.sweep.rng.below(4) == 0 {
                self.ask_flush();
            }
            for _ in 0..self.sweep.rng.below(4) {
                self.turn();
            }
        }
        self.wait();
    }

    fn wait(&mut self) {
        for _ in 0..TURNS_MAX {
            if self.tickets.is_empty() {
                return;
            }
            if !self.turn() {
                self.machine.idle();
            }
        }
        panic!("{}: B1: a write is never answered", self.sweep.named("script"));
    }

    fn ask(&mut self, first: usize, blocks: usize, zeros: bool) {
        let fua = self.sweep.rng.below(8) == 0;
        let client = self.sweep.story.asked.len();
        self.sweep.story.asked.push(Asked { first, blocks, zeros, fua, sequence: None });
        self.sweep.story.promised.asked = client + 1;
        let (offset_bytes, length_bytes) = ((first * BLOCK) as u64, (blocks * BLOCK) as u64);
        let bytes = text(Some(client)).repeat(blocks * BLOCK / 8);
        let command = if zeros {
            Command::Trim { offset_bytes, length_bytes, fua }
        } else {
            Command::Write { offset_bytes, data: Payload::Borrowed(&bytes), fua }
        };
        let ticket = self.machine.submit(self.view, ClientId(client as u64 + 1), command);
        self.tickets.insert(ticket, client);
    }

    /// Asks for a flush; whoever writes meanwhile has several batches in flight.
    fn ask_flush(&mut self) -> u64 {
        let covers = self.sweep.story.promised.answered;
        let ticket = self.machine.submit(self.view, ClientId(0), Command::Flush);
        self.flushes.insert(ticket, covers);
        ticket
    }

    fn flush(&mut self) {
        self.wait();
        let ticket = self.ask_flush();
        for _ in 0..TURNS_MAX {
            if !self.turn() {
                self.machine.idle();
            }
            if !self.flushes.contains_key(&ticket) {
                return;
            }
        }
        panic!("{}: B1: a flush is never answered", self.sweep.named("script"));
    }

    /// One turn: what was promised before it holds for every operation in it.
    fn turn(&mut self) -> bool {
        let went_on = self.machine.turn();
        let promised = self.sweep.story.promised;
        let watched = self.machine.disk().take_watched().into_iter();
        self.shots.extend(watched.map(|(operation, disk)| Shot { disk, operation, promised }));
        for done in self.machine.take_answers() {
            let flushed = self.flushes.remove(&done.ticket.0);
            let written = self.tickets.remove(&done.ticket.0);
            let promised = &mut self.sweep.story.promised;
            match (done.result, written, flushed) {
                (Ok(Answer::Written(sequence)), Some(client), _) => {
                    let asked = &mut self.sweep.story.asked[client];
                    asked.sequence = Some(sequence.number());
                    promised.answered = promised.answered.max(sequence.number());
                    if asked.fua {
                        promised.floor = promised.floor.max(sequence.number());
                    }
                }
                (Ok(Answer::Flushed), _, Some(covers)) => {
                    promised.floor = promised.floor.max(covers);
                }
                (Err(BlockError::Io | BlockError::NoSpace), ..) if self.sweep.told => {}
                (other, ..) => panic!("{}: F1: {other:?}", self.sweep.named("script")),
            }
        }
        went_on
    }

    fn shoot(&mut self) {
        let promised = self.sweep.story.promised;
        let disk = self.machine.disk().copy();
        let operation = disk.operations();
        self.shots.push(Shot { disk, operation, promised });
    }
}
