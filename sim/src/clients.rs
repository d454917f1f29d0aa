//! The clients of one life: what they ask, what they make of the answers.

use crate::{
    Machine,
    bases::Going,
    menu::Menu,
    model::{Change, Content, index},
    run::Run,
};
use block_device::{Answer, BlockError, Command, Completion, Payload};
use sim_world::Rng;
use std::{collections::BTreeMap, ops::Range};
use units::{BranchId, ClientId, VolumeId};
use volume::ViewId;
use world::Clock as _;

/// Requests of all clients together.
const WINDOW: usize = 24;

/// See the module's head.
pub struct Clients {
    pub(crate) menu: Menu,
    pub(crate) asked: BTreeMap<u64, Asked>,
    /// Changes that failed with an error that leaves them in doubt, by client.
    pub(crate) failed: BTreeMap<u64, Change>,
    pub(crate) devices: Vec<Device>,
    /// Bases being taken over.
    pub(crate) going: BTreeMap<BranchId, Going>,
    /// The base of which a unit was written last.
    pub(crate) wrote: Option<BranchId>,
    /// Writes of units, by ticket.
    pub(crate) fills: BTreeMap<u64, (BranchId, u64)>,
    /// Open instants.
    past: Vec<(Device, u64)>,
}

/// A branch that clients see.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    pub view: ViewId,
    pub volume: VolumeId,
    pub branch: BranchId,
    pub size: u64,
    /// A rewind left it: it takes no writes.
    pub left: bool,
}

/// A request on its way.
pub enum Asked {
    Change { client: u64, change: Change, fua: bool, left: bool },
    Read { branch: BranchId, at: Option<u64>, base: u64, range: Range<u64> },
    Extents { branch: BranchId, at: Option<u64>, base: u64, range: Range<u64> },
    Flush { covers: u64 },
}

impl Clients {
    /// Clients of all volumes there are; makes one if there is none.
    pub fn new(run: &mut Run, machine: &mut Machine, menu: &Menu) -> Self {
        let mut clients = Self {
            menu: menu.clone(),
            asked: BTreeMap::new(),
            failed: BTreeMap::new(),
            devices: Vec::new(),
            going: BTreeMap::new(),
            wrote: None,
            fills: BTreeMap::new(),
            past: Vec::new(),
        };
        if machine.store.catalogue().volumes().next().is_none() {
            clients.create(run, machine);
        }
        clients.find_devices(machine);
        clients.find_bases(machine);
        clients
    }

    /// What was asked and is not surely history.
    pub fn unanswered(self) -> BTreeMap<u64, Change> {
        let asked = self.asked.into_values().filter_map(|asked| match asked {
            Asked::Change { client, change, .. } => Some((client, change)),
            _ => None,
        });
        asked.chain(self.failed).collect()
    }

    /// One thing that clients do, then a turn or a few.
    pub fn step(&mut self, run: &mut Run, machine: &mut Machine) {
        if !self.going.is_empty() && self.asked.len() < WINDOW {
            // Mostly recorded as soon as it is written, when nothing else has flushed it yet.
            match run.dice.below(12) {
                0 => self.fill(run, machine),
                1..7 if self.wrote.is_some() => self.record(run, machine),
                7 if run.dice.below(3) == 0 => self.record(run, machine),
                _ => {}
            }
            if machine.is_crashed() {
                return;
            }
        }
        if self.asked.len() < WINDOW {
            let device = *run.rng.pick(&self.devices);
            match run.rng.below(100) {
                0..40 => self.write(run, machine, device),
                40..45 => self.zero(run, machine, device),
                45..65 => self.read(run, machine, device, None),
                65..71 => self.flush(run, machine, device),
                71..80 => self.read_past(run, machine),
                80..84 => self.ask_extents(run, machine, device),
                84..86 => self.open_past(run, machine, device),
                86..87 => self.close_past(run, machine),
                87..88 => self.plan(run, machine),
                88..89 => self.compare_diff(run, machine),
                89..90 => self.compare_time(run, machine),
                90..91 if self.menu.clock => {
                    run.clock_struck = true;
                    machine.place.clock.strike_at_random(&mut run.rng);
                }
                91..92 if self.menu.room_bytes.is_some() => {
                    machine.disk().set_capacity_bytes(None);
                }
                _ => {}
            }
        }
        for _ in 0..run.rng.below(4) {
            if machine.is_crashed() {
                return;
            }
            if !machine.turn() && !self.asked.is_empty() {
                machine.idle();
            }
            self.hear(run, machine);
        }
    }

    /// Lets everything be answered, then checks that nothing is held on to.
    pub fn rest(&mut self, run: &mut Run, machine: &mut Machine) {
        machine.disk().heal();
        machine.disk().set_capacity_bytes(None);
        for _ in 0..100_000 {
            if self.asked.is_empty() || machine.is_crashed() {
                break;
            }
            if !machine.turn() {
                machine.idle();
            }
            self.hear(run, machine);
        }
        assert!(self.asked.is_empty(), "B1: {} requests are never answered", self.asked.len());
        if let Some(true) = machine.flush_all() {
            run.floor = run.floor.max(run.answered);
        }
        machine.settle();
        assert_eq!(machine.pool.used_bytes(), 0, "B1: I/O memory is never given back");
        if self.failed.is_empty() {
            self.compare_all(run, machine);
        }
    }

    // What is asked.

    fn range(rng: &mut Rng, size: u64, longest: u64) -> Range<u64> {
        let unit = *rng.pick(&[1, 512, 4096, 4096, 4096]);
        let most = longest.min(size);
        let length = match rng.below(4) {
            0 => unit,
            1 => rng.below(8 * unit) + 1,
            _ => (rng.below(most) / unit + 1) * unit,
        };
        let length = length.min(most);
        // Half of it all goes to a few blocks, so that versions pile up and requests meet.
        let room = if rng.coin() { (size - length).min(64 << 10) } else { size - length };
        let start = rng.below(room + 1) / unit * unit;
        start..start + length
    }

    fn write(&mut self, run: &mut Run, machine: &mut Machine, device: Device) {
        let longest = if run.rng.chance(self.menu.long) { 1 << 20 } else { 40 << 10 };
        let range = Self::range(&mut run.rng, device.size, longest);
        let (client, fua) = (run.next_client, run.rng.below(8) == 0);
        let content = Content::Data(client);
        let mut bytes = vec![0; index(range.end - range.start)];
        crate::model::paint(content, range.start, &mut bytes);
        let offset_bytes = range.start;
        let pages = (range.start.is_multiple_of(4096) && bytes.len() <= 2 << 20 && run.rng.coin())
            .then(|| machine.pool.take(bytes.len()))
            .flatten();
        let length_bytes = bytes.len();
        let data = match pages {
            Some(mut page) => {
                page.copy_from_slice(&bytes);
                Payload::Pages { pages: vec![page], length_bytes }
            }
            None => Payload::Borrowed(&bytes),
        };
        let command = Command::Write { offset_bytes, data, fua };
        self.ask_change(run, machine, device, range, content, fua, command);
    }

    fn zero(&mut self, run: &mut Run, machine: &mut Machine, device: Device) {
        let range = Self::range(&mut run.rng, device.size, 3 << 20);
        let (offset_bytes, length_bytes) = (range.start, range.end - range.start);
        let fua = run.rng.below(8) == 0;
        let command = if run.rng.coin() {
            Command::Trim { offset_bytes, length_bytes, fua }
        } else {
            Command::WriteZeroes { offset_bytes, length_bytes, no_hole: run.rng.coin(), fua }
        };
        self.ask_change(run, machine, device, range, Content::Zeros, fua, command);
    }

    #[expect(clippy::too_many_arguments, reason = "a request has many sides")]
    fn ask_change(
        &mut self,
        run: &mut Run,
        machine: &mut Machine,
        device: Device,
        range: Range<u64>,
        content: Content,
        fua: bool,
        command: Command<'_>,
    ) {
        let client = run.next_client;
        run.next_client += 1;
        let sent = machine.place.clock.wall();
        let Range { start, end } = range;
        let (branch, size) = (device.branch, device.size);
        let change = Change { branch, start, end, content, size, sent, answered: None };
        let ticket = machine.submit(device.view, ClientId(client), command);
        self.asked.insert(ticket, Asked::Change { client, change, fua, left: device.left });
    }

    fn read(&mut self, run: &mut Run, machine: &mut Machine, device: Device, at: Option<u64>) {
        let range = Self::range(&mut run.rng, device.size, 512 << 10);
        let (offset_bytes, length_bytes) = (range.start, range.end - range.start);
        let command = Command::Read { offset_bytes, length_bytes };
        let ticket = machine.submit(device.view, ClientId(0), command);
        let (branch, base) = (device.branch, at.unwrap_or(run.answered));
        self.asked.insert(ticket, Asked::Read { branch, at, base, range });
    }

    fn ask_extents(&mut self, run: &mut Run, machine: &mut Machine, device: Device) {
        let range = Self::range(&mut run.rng, device.size, device.size);
        let (offset_bytes, length_bytes) = (range.start, range.end - range.start);
        let count_max = 1 + run.rng.index(40);
        let command = Command::Extents { offset_bytes, length_bytes, count_max };
        let ticket = machine.submit(device.view, ClientId(0), command);
        let (branch, base) = (device.branch, run.answered);
        self.asked.insert(ticket, Asked::Extents { branch, at: None, base, range });
    }

    fn flush(&mut self, run: &mut Run, machine: &mut Machine, device: Device) {
        let ticket = machine.submit(device.view, ClientId(0), Command::Flush);
        self.asked.insert(ticket, Asked::Flush { covers: run.answered });
    }

    fn open_past(&mut self, run: &mut Run, machine: &mut Machine, device: Device) {
        let at = run.rng.below(crate::compare::known(&run.model) + 1);
        if let Some(past) = Self::device_at(machine, device, at) {
            self.past.push((past, at));
        }
    }

    fn read_past(&mut self, run: &mut Run, machine: &mut Machine) {
        if !self.past.is_empty() {
            let (device, at) = *run.rng.pick(&self.past);
            self.read(run, machine, device, Some(at));
            run.report.instants += 1;
        }
    }

    /// A view may be closed while reads of it are on their way; they are answered all the same.
    fn close_past(&mut self, run: &mut Run, machine: &mut Machine) {
        if !self.past.is_empty() {
            let at = run.rng.index(self.past.len());
            let (device, _) = self.past.swap_remove(at);
            machine.store.close_view(device.view);
        }
    }

    // What is answered.

    pub(crate) fn hear(&mut self, run: &mut Run, machine: &mut Machine) {
        let wall = machine.place.clock.wall();
        for Completion { ticket, result } in machine.take_answers() {
            let asked = self.asked.remove(&ticket.0);
            self.filled(ticket.0, result.is_ok());
            match (asked.expect("B1: answered twice, or never asked"), result) {
                (Asked::Change { change, fua, left, .. }, Ok(Answer::Written(sequence))) => {
                    assert!(!left, "T5: a branch that was left was written to");
                    let change = Change { answered: Some(wall), ..change };
                    let before = run.model.history.insert(sequence.number(), change);
                    assert!(before.is_none(), "{sequence} was given twice");
                    run.report.changes += 1;
                    run.answered = run.answered.max(sequence.number());
                    if fua {
                        run.floor = run.floor.max(sequence.number());
                    }
                }
                (Asked::Change { client, change, left, .. }, Err(error)) => {
                    self.change_failed(run, client, change, left, error);
                }
                (Asked::Flush { covers }, Ok(Answer::Flushed)) => {
                    run.floor = run.floor.max(covers);
                }
                (Asked::Flush { .. }, Err(BlockError::Io)) if self.menu.writes_fail => {
                    run.report.failures += 1;
                }
                (Asked::Read { branch, at, base, range }, Ok(Answer::Data(parts))) => {
                    let found = parts.iter().map(|part| &part[..]).collect::<Vec<_>>().concat();
                    run.report.reads += 1;
                    self.check_read(&run.model, branch, at, base, range, &found);
                }
                (Asked::Extents { branch, at, base, range }, Ok(Answer::Extents(extents))) => {
                    self.check_extents(&run.model, branch, at, base, range, &extents);
                }
                (Asked::Read { .. } | Asked::Extents { .. }, Err(BlockError::Io))
                    if self.menu.reads_fail =>
                {
                    run.report.failures += 1;
                }
                (Asked::Read { range, branch, at, .. }, other) => {
                    panic!("R2: a read of {branch:?} at {at:?}, {range:?} gives {other:?}");
                }
                (_, other) => panic!("an answer does not fit: {other:?}"),
            }
        }
    }

    fn change_failed(
        &mut self,
        run: &mut Run,
        client: u64,
        change: Change,
        left: bool,
        error: BlockError,
    ) {
        match error {
            BlockError::Denied if left => {}
            BlockError::NoSpace if self.menu.room_bytes.is_some() || self.menu.writes_fail => {
                run.report.failures += 1;
            }
            BlockError::Io if self.menu.writes_fail || self.menu.reads_fail => {
                run.report.failures += 1;
                self.failed.insert(client, change);
            }
            other => panic!("F1: a change fails without need: {other:?}"),
        }
    }
}
