//! A store in a simulated machine, driven as the server's loop drives it.
//!
//! Owns the order of things: which job runs when and how far the ring goes in a turn follow from the
//! seed. Jobs of one lane run one after the other; a turn runs at most one.

use crate::place::{Place, StartError};
use block_device::{Answer, BlockDevice, BlockError, Command, Completion, Ticket};
use catalogue::{
    CatalogueRecord, LogicalBlock, NewVolume, VolumeKey, VolumeName, VolumeOptions, When,
};
use segment_log::Config;
use sim_world::{Rng, SimDisk, SimNet, SimRing};
use std::collections::{BTreeMap, VecDeque};
use units::{BranchId, ClientId, Lba, Sequence, VolumeId};
use volume::{Device, Job, Lane, Store, ViewId};
use world::{Clock as _, Pool, Ring as _, Wait};

/// Nanoseconds that pass in a turn in which nothing can happen.
const IDLE_NS: u64 = 300_000_000;
/// Turns after which an answer that nothing stands in the way of must have come.
const TURNS_MAX: usize = 200_000;

/// See the module's head.
pub struct Machine {
    /// Where it stands.
    pub place: Place,
    /// What is driven.
    pub store: Store,
    /// Its I/O memory.
    pub pool: Pool,
    ring: SimRing,
    rng: Rng,
    prompt: VecDeque<Job>,
    background: VecDeque<Job>,
    reads: Vec<Job>,
    answers: Vec<Completion>,
    changed: BTreeMap<u64, bool>,
    next_ticket: u64,
}

impl Machine {
    /// Starts the store that lies at the place.
    pub fn start(place: &Place, config: Config) -> Result<Self, StartError> {
        Self::start_in(place, config, &Pool::new(64 << 20))
    }

    /// The same with I/O memory that is there already.
    pub fn start_in(place: &Place, config: Config, pool: &Pool) -> Result<Self, StartError> {
        let store = place.open_store(config, segment_log::Mode::Write, pool)?;
        let mut rng = place.dice();
        let seed = sim_world::Seed(rng.next_u64());
        let ring = SimRing::new(seed, &place.disk, &SimNet::new(seed), &place.clock);
        Ok(Self {
            place: place.clone(),
            store,
            pool: pool.clone(),
            ring,
            rng,
            prompt: VecDeque::new(),
            background: VecDeque::new(),
            reads: Vec::new(),
            answers: Vec::new(),
            changed: BTreeMap::new(),
            next_ticket: 1,
        })
    }

    /// The disk under it.
    pub fn disk(&self) -> &SimDisk {
        &self.place.disk
    }

    /// Whether the disk is gone, and the machine with it.
    pub fn is_crashed(&self) -> bool {
        self.place.disk.is_crashed()
    }

    /// Asks something of a view; the answer comes under the ticket.
    pub fn submit(&mut self, view: ViewId, client: ClientId, command: Command<'_>) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        Device::of(&mut self.store, view).submit(Ticket(ticket), client, command);
        ticket
    }

    /// Takes blocks of a base over; the answer comes under the ticket.
    pub fn fill(&mut self, base: BranchId, client: ClientId, start: Lba, bytes: Vec<u8>) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.store.fill(base, ticket, client, start, bytes);
        ticket
    }

    /// One turn of the loop; whether anything happened or still can.
    pub fn turn(&mut self) -> bool {
        let mut jobs = Vec::new();
        self.store.take_jobs(&mut jobs);
        self.store.advance();
        self.store.take_jobs(&mut jobs);
        for job in jobs {
            match job.lane() {
                Lane::Prompt => self.prompt.push_back(job),
                Lane::Background => self.background.push_back(job),
                Lane::Read | Lane::Source => self.reads.push(job),
            }
        }
        let mut ops = Vec::new();
        self.store.take_ops(&mut ops);
        for (token, op) in ops {
            self.ring.push(token, op);
        }
        self.collect();
        let ran = self.run_job();
        let flying = self.ring.in_flight() > 0;
        let wait = match self.rng.below(4) {
            _ if !flying => Wait::No,
            0 => Wait::No,
            1 => Wait::Ns(self.rng.below(200_000)),
            _ if self.has_jobs() => Wait::Ns(self.rng.below(2_000_000)),
            _ => Wait::Forever,
        };
        let mut done = Vec::new();
        self.ring.turn(wait, &mut done).expect("the simulated ring always turns");
        if self.is_crashed() {
            return false;
        }
        let ended = !done.is_empty();
        for done in done {
            self.store.done(done);
        }
        ran || ended || flying || self.has_jobs() || self.store.has_more()
    }

    /// Turns until nothing is under way.
    pub fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..TURNS_MAX {
            quiet = if self.turn() { 0 } else { quiet + 1 };
            if quiet > 2 || self.is_crashed() {
                return;
            }
        }
        panic!("the store never comes to rest");
    }

    /// Lets time pass in which nothing happens by itself.
    pub fn idle(&mut self) {
        self.place.clock.advance(IDLE_NS);
    }

    /// Takes the answers that came.
    pub fn take_answers(&mut self) -> Vec<Completion> {
        self.collect();
        std::mem::take(&mut self.answers)
    }

    /// Asks and waits; only while nobody else does.
    pub fn ask(
        &mut self,
        view: ViewId,
        client: ClientId,
        command: Command<'_>,
    ) -> Result<Answer, BlockError> {
        let ticket = self.submit(view, client, command);
        for _ in 0..TURNS_MAX {
            let went_on = self.turn();
            if let Some(at) = self.answers.iter().position(|done| done.ticket.0 == ticket) {
                return self.answers.swap_remove(at).result;
            }
            if self.is_crashed() {
                return Err(BlockError::Stopping);
            }
            if !went_on {
                self.idle();
            }
        }
        panic!("B1: a request is never answered");
    }

    /// Waits for a flush or change that was begun; `None` if the machine crashes.
    pub fn wait_changed(&mut self, id: u64) -> Option<bool> {
        for _ in 0..TURNS_MAX {
            let went_on = self.turn();
            if let Some(well) = self.changed.remove(&id) {
                return Some(well);
            }
            if self.is_crashed() {
                return None;
            }
            if !went_on {
                self.idle();
            }
        }
        panic!("B1: a change of the catalogue never ends");
    }

    /// Makes all durable that was begun; `None` if the machine crashes.
    pub fn flush_all(&mut self) -> Option<bool> {
        let id = self.store.flush_all();
        self.wait_changed(id)
    }

    /// Ends the log cleanly; `None` if the machine crashes.
    pub fn finish(&mut self) -> Option<bool> {
        let id = self.store.finish();
        self.wait_changed(id)
    }

    /// Makes a change of the catalogue.
    pub fn change(&mut self, records: Vec<CatalogueRecord>) -> Option<bool> {
        let id = self.store.change(records);
        self.wait_changed(id)
    }

    /// The present place in history, once it is durable.
    pub fn now(&mut self) -> Option<When> {
        let sequence = self.store.log().last();
        self.flush_all()?.then_some(When { sequence, time: self.place.clock.wall() })
    }

    /// Makes a volume of zeros.
    pub fn create(&mut self, name: &str, size_bytes: u64) -> Option<(VolumeId, BranchId)> {
        let now = self.now()?;
        let new = new_volume(name);
        let plan = self.store.catalogue().plan_create(new, LogicalBlock::B512, size_bytes, now);
        let (volume, records) = plan.expect("a free name and a fair size");
        self.change(records)?.then(|| (volume, self.present(volume)))
    }

    /// The branch that a volume's clients see.
    pub fn present(&self, volume: VolumeId) -> BranchId {
        self.store.catalogue().present(volume).expect("each volume has a present").id
    }

    /// Opens the present of a branch, or an instant of it.
    pub fn view(&mut self, branch: BranchId, at: Option<Sequence>) -> ViewId {
        self.store.open_view(branch, at).expect("the branch is there")
    }

    fn has_jobs(&self) -> bool {
        !(self.prompt.is_empty() && self.background.is_empty() && self.reads.is_empty())
    }

    fn collect(&mut self) {
        self.store.take_completions(&mut self.answers);
        self.changed.extend(self.store.take_changed());
    }

    /// Runs one job, or none: workers are as slow as they like.
    fn run_job(&mut self) -> bool {
        let flying = self.ring.in_flight() > 0;
        let job = match self.rng.below(if flying { 6 } else { 3 }) {
            0 => self.prompt.pop_front(),
            1 => self.background.pop_front(),
            2 if !self.reads.is_empty() => {
                let index = self.rng.index(self.reads.len());
                Some(self.reads.swap_remove(index))
            }
            _ => None,
        };
        let Some(job) = job else { return false };
        let done = job.run();
        if !self.is_crashed() {
            self.store.job_done(done);
        }
        true
    }
}

/// What a new volume of that name needs.
pub fn new_volume(name: &str) -> NewVolume {
    let mut key = [0x5a; 32];
    for (byte, text) in key.iter_mut().zip(name.bytes()) {
        *byte = text;
    }
    let name = VolumeName::parse(name).expect("a plain name");
    NewVolume { name, key: VolumeKey(key), options: VolumeOptions::default() }
}
