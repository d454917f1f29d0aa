//! The hot path's door over simulated disk, net and clock.
//!
//! An operation starts when it is pushed, takes effect at a random moment after that and ends at a
//! later one; different operations overtake each other. Between push and effect a crash finds a
//! write partly done. A turn never blocks: while nothing is done it moves the clock to the next
//! event, and returns when there is none (the test must then do something: a client sends, a waker
//! calls). Operations on one socket keep their order in each direction.

use crate::{
    clock::SimClock,
    disk::{SimDisk, error::crash, fault::Kind, state::Landed},
    net::SimNet,
    rng::{Rng, Seed},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use world::{Done, File, Finished, Op, Page, Ring, Token, Wait, Waker};

/// How long operations take: uniformly within the range, sometimes (1 in 32) ten times as long.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Reads, in nanoseconds.
    pub read_ns: std::ops::Range<u64>,
    /// Writes.
    pub write_ns: std::ops::Range<u64>,
    /// Syncs.
    pub sync_ns: std::ops::Range<u64>,
    /// Accepting, receiving and sending.
    pub socket_ns: std::ops::Range<u64>,
    /// A turn itself.
    pub turn_ns: std::ops::Range<u64>,
}

impl Default for Pace {
    /// An NVMe disk and a local socket.
    fn default() -> Self {
        Self {
            read_ns: 20_000..150_000,
            write_ns: 15_000..400_000,
            sync_ns: 50_000..3_000_000,
            socket_ns: 2_000..40_000,
            turn_ns: 200..2_000,
        }
    }
}

/// A ring over a [`SimDisk`] and a [`SimNet`]. Dropping it is what a kill does: the disk still knows
/// what was in flight.
pub struct SimRing {
    disk: SimDisk,
    net: SimNet,
    clock: SimClock,
    pace: Pace,
    rng: Rng,
    running: BTreeMap<u64, Running>,
    /// (when, lot among equals, operation, what happens)
    events: BTreeSet<(u64, u64, u64, Step)>,
    /// Socket operations that have no event yet, in order of pushing.
    parked: BTreeSet<u64>,
    next_key: u64,
    woken: Arc<AtomicBool>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Effect,
    End,
}

struct Running {
    token: Token,
    op: Op,
    /// For writes: the disk's ticket. For syncs: the last answer that is covered.
    mark: u64,
    effect: Option<(io::Result<usize>, Option<Landed>)>,
}

impl SimRing {
    /// A ring; its order and delays follow from the seed.
    pub fn new(seed: Seed, disk: &SimDisk, net: &SimNet, clock: &SimClock) -> Self {
        Self {
            disk: disk.clone(),
            net: net.clone(),
            clock: clock.clone(),
            pace: Pace::default(),
            rng: seed.rng("ring"),
            running: BTreeMap::new(),
            events: BTreeSet::new(),
            parked: BTreeSet::new(),
            next_key: 0,
            woken: Arc::default(),
        }
    }

    /// Another pace, from the next push on.
    pub fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    fn schedule(&mut self, after_ns: u64, key: u64, step: Step) {
        let lot = self.rng.next_u64();
        self.events.insert((self.clock.elapsed_ns() + after_ns, lot, key, step));
    }

    fn disk_delay_ns(&mut self, file: &File, kind: Kind) -> u64 {
        let range = match kind {
            Kind::Read => self.pace.read_ns.clone(),
            Kind::Write => self.pace.write_ns.clone(),
            _ => self.pace.sync_ns.clone(),
        };
        delay_ns(&range, &mut self.rng) + self.disk.delay_ns(file, kind)
    }

    /// Gives an event to each parked operation that is first on its socket and can go on.
    fn stir(&mut self) {
        let mut busy: BTreeSet<(i32, u8)> = BTreeSet::new();
        for (key, running) in &self.running {
            if !self.parked.contains(key)
                && let Some((lane, _)) = socket_lane(&self.net, &running.op)
            {
                busy.insert(lane);
            }
        }
        let mut ready = Vec::new();
        for key in &self.parked {
            let Some((lane, can_go_on)) = socket_lane(&self.net, &self.running[key].op) else {
                continue;
            };
            if busy.insert(lane) && can_go_on {
                ready.push(*key);
            }
        }
        for key in ready {
            self.parked.remove(&key);
            let after_ns = delay_ns(&self.pace.socket_ns, &mut self.rng);
            self.schedule(after_ns, key, Step::End);
        }
    }

    fn run_due(&mut self, done: &mut Vec<Done>) {
        while let Some(&(at, lot, key, step)) = self.events.first()
            && at <= self.clock.elapsed_ns()
        {
            self.events.remove(&(at, lot, key, step));
            match step {
                Step::Effect => self.take_effect(key),
                Step::End => self.end(key, done),
            }
        }
    }

    fn take_effect(&mut self, key: u64) {
        let running = self.running.get_mut(&key).expect("until it ends");
        let effect = match &mut running.op {
            Op::Read { file, offset_bytes, page, length_bytes } => {
                (self.disk.read_some(file, *offset_bytes, &mut page[..*length_bytes]), None)
            }
            Op::Write { .. } => self.disk.land_write(running.mark),
            _ => return,
        };
        running.effect = Some(effect);
    }

    fn end(&mut self, key: u64, done: &mut Vec<Done>) {
        if let Some((_, false)) = socket_lane(&self.net, &self.running[&key].op) {
            self.parked.insert(key); // partitioned meanwhile
            return;
        }
        let Running { token, op, mark, effect } = self.running.remove(&key).expect("ends once");
        let bytes = |result: io::Result<usize>| result.map(Finished::Bytes);
        let (result, page): (io::Result<Finished>, Option<Page>) = match op {
            Op::Read { page, .. } => {
                let (read, _) = effect.expect("takes effect before it ends");
                (bytes(self.unless_crashed(read)), Some(page))
            }
            Op::Write { .. } => {
                let (written, landed) = effect.expect("takes effect before it ends");
                let written = self.unless_crashed(written);
                if let (Ok(_), Some(landed)) = (&written, landed) {
                    self.disk.answer(landed);
                }
                (bytes(written), None)
            }
            Op::Sync { file } => (bytes(self.disk.sync_up_to(&file, mark).map(|()| 0)), None),
            Op::Accept { listener } => {
                let socket = self.net.accept(listener.0.handle());
                (Ok(Finished::Socket(socket.expect("asked above"))), None)
            }
            Op::Receive { socket, mut page, from, length_bytes, whole: _ } => {
                let end = page.len().min(from.saturating_add(length_bytes));
                let received = self.net.receive(socket.0.handle(), &mut page[from..end]);
                (bytes(received), Some(page))
            }
            Op::Send { socket, parts } => {
                let parts: Vec<&[u8]> = parts.iter().map(|part| &**part).collect();
                (bytes(self.net.send(socket.0.handle(), &parts)), None)
            }
        };
        done.push(Done { token, result, page });
    }

    /// After the crash nobody learns of anything any more.
    fn unless_crashed(&self, result: io::Result<usize>) -> io::Result<usize> {
        if self.disk.is_crashed() { Err(crash()) } else { result }
    }
}

impl Ring for SimRing {
    fn push(&mut self, token: Token, op: Op) {
        let key = self.next_key;
        self.next_key += 1;
        let (mut mark, mut timing) = (0, None);
        match &op {
            Op::Read { file, page, length_bytes, .. } => {
                assert!(*length_bytes <= page.len(), "a read longer than its page");
                timing = Some((Step::Effect, self.disk_delay_ns(file, Kind::Read)));
            }
            Op::Write { file, offset_bytes, parts } => {
                assert!(parts.len() <= world::ring::MAX_PARTS, "more parts than a write may have");
                mark = self.disk.begin_write(file, *offset_bytes, parts);
                timing = Some((Step::Effect, self.disk_delay_ns(file, Kind::Write)));
            }
            Op::Sync { file } => {
                mark = self.disk.answers();
                timing = Some((Step::End, self.disk_delay_ns(file, Kind::Sync)));
            }
            Op::Receive { page, from, length_bytes, .. } => {
                assert!(*from < page.len() && *length_bytes > 0, "no room to receive into");
            }
            Op::Send { parts, .. } => {
                assert!(parts.len() <= world::ring::MAX_PARTS, "more parts than a send may have");
                assert!(parts.iter().any(|part| !part.is_empty()), "nothing to send");
            }
            Op::Accept { .. } => {}
        }
        self.running.insert(key, Running { token, op, mark, effect: None });
        match timing {
            None => {
                self.parked.insert(key);
            }
            Some((Step::End, after_ns)) => self.schedule(after_ns, key, Step::End),
            Some((Step::Effect, after_ns)) => {
                let effect_ns = self.rng.below(after_ns);
                self.schedule(effect_ns, key, Step::Effect);
                self.schedule(after_ns, key, Step::End);
            }
        }
    }

    fn turn(&mut self, wait: Wait, done: &mut Vec<Done>) -> io::Result<()> {
        let before = done.len();
        let turn_ns = delay_ns(&self.pace.turn_ns, &mut self.rng);
        self.clock.advance(turn_ns);
        let now_ns = self.clock.elapsed_ns();
        let limit_ns = match wait {
            Wait::No => Some(now_ns),
            Wait::Ns(ns) => Some(now_ns.saturating_add(ns)),
            Wait::Forever => None,
        };
        loop {
            self.stir();
            self.run_due(done);
            if self.woken.swap(false, Ordering::SeqCst) || done.len() > before {
                return Ok(());
            }
            let next_ns = self.events.first().map(|(at, ..)| *at);
            match (next_ns, limit_ns) {
                (Some(next_ns), limit_ns) if limit_ns.is_none_or(|limit| next_ns <= limit) => {
                    let late_ns = if self.rng.below(4) == 0 { self.rng.below(100_000) } else { 0 };
                    let late_ns = next_ns + late_ns; // so that several end in one turn
                    self.clock.advance_to(limit_ns.map_or(late_ns, |limit| late_ns.min(limit)));
                }
                (_, Some(limit_ns)) => {
                    self.clock.advance_to(limit_ns);
                    return Ok(());
                }
                (_, None) => return Ok(()),
            }
        }
    }

    fn waker(&self) -> Waker {
        let woken = self.woken.clone();
        Waker(Arc::new(move || woken.store(true, Ordering::SeqCst)))
    }

    fn in_flight(&self) -> usize {
        self.running.len()
    }
}

/// Which queue a socket operation stands in, and whether the first there can go on.
fn socket_lane(net: &SimNet, op: &Op) -> Option<((i32, u8), bool)> {
    match op {
        Op::Accept { listener } => {
            let handle = listener.0.handle();
            Some(((handle, 0), net.can_accept(handle)))
        }
        Op::Receive { socket, .. } => {
            let handle = socket.0.handle();
            Some(((handle, 1), net.can_receive(handle)))
        }
        Op::Send { socket, .. } => {
            let handle = socket.0.handle();
            Some(((handle, 2), net.can_send(handle)))
        }
        _ => None,
    }
}

fn delay_ns(range: &std::ops::Range<u64>, rng: &mut Rng) -> u64 {
    let ns = rng.between(range.start, range.end);
    let ns = if rng.below(32) == 0 { ns * 10 } else { ns };
    ns.max(1)
}
