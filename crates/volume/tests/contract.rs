//! A volume behaves as every block device does, over a simulated machine.

use block_device::{BlockDevice, contract};
use segment_log::Config;
use sim::{Machine, Place};
use sim_world::{CutPolicy, Seed};
use units::{BranchId, ClientId};
use volume::{Device, ViewId};
use world::Page;

struct Volume {
    machine: Machine,
    device: Shown,
    made: u32,
    seed: Seed,
}

/// The device needs its store borrowed, the suite one that stays.
struct Shown {
    branch: BranchId,
    view: ViewId,
}

const CONFIG: fn() -> Config = || Config { segment_bytes: 1 << 20, ..Config::default() };

impl Volume {
    fn new(seed: Seed) -> Self {
        let place = Place::new(seed);
        place.make_store().expect("an empty disk");
        let mut machine = Machine::start(&place, CONFIG()).expect("a new store");
        let (_, branch) = machine.create("first", 1 << 20).expect("no crash");
        let view = machine.view(branch, None);
        Self { machine, device: Shown { branch, view }, made: 0, seed }
    }
}

/// All of a store's devices, as the suite drives them.
struct Subject {
    volume: Volume,
    answers: Vec<block_device::Completion>,
}

impl BlockDevice for Subject {
    fn info(&self) -> block_device::DeviceInfo {
        self.volume.machine.store.info(self.volume.device.view).expect("open")
    }

    fn submit(
        &mut self,
        ticket: block_device::Ticket,
        client: ClientId,
        command: block_device::Command<'_>,
    ) {
        let (store, view) = (&mut self.volume.machine.store, self.volume.device.view);
        Device::of(store, view).submit(ticket, client, command);
    }

    fn take_completions(&mut self, completions: &mut Vec<block_device::Completion>) {
        self.answers.append(&mut self.volume.machine.take_answers());
        completions.append(&mut self.answers);
    }
}

impl contract::Subject for Subject {
    fn make(&mut self, size_bytes: u64) {
        self.volume.made += 1;
        let name = format!("v{}", self.volume.made);
        let (_, branch) = self.volume.machine.create(&name, size_bytes).expect("no crash");
        let view = self.volume.machine.view(branch, None);
        self.volume.device = Shown { branch, view };
    }

    fn device(&mut self) -> &mut dyn BlockDevice {
        self
    }

    fn drive(&mut self) {
        if !self.volume.machine.turn() {
            self.volume.machine.idle();
        }
    }

    fn make_read_only(&mut self) -> bool {
        let machine = &mut self.volume.machine;
        let now = machine.now().expect("no crash");
        self.volume.device.view = machine.view(self.volume.device.branch, Some(now.sequence));
        true
    }

    fn reopen(&mut self) -> bool {
        let machine = &mut self.volume.machine;
        machine.disk().crash();
        let mut rng = self.volume.seed.rng("cut");
        let policy = *rng.pick(&CutPolicy::EVERY);
        let place = machine.place.over(machine.disk().power_cut(policy, &mut rng));
        *machine = Machine::start(&place, CONFIG()).expect("recovers");
        let shown = &mut self.volume.device;
        shown.view = machine.view(shown.branch, None);
        true
    }

    fn page(&mut self, length_bytes: usize) -> Option<Page> {
        self.volume.machine.pool.take(length_bytes)
    }
}

#[test]
fn a_volume_keeps_the_contract_of_block_devices() {
    for seed in 1..=2 {
        let volume = Volume::new(Seed(seed));
        contract::run_all(&mut Subject { volume, answers: Vec::new() });
    }
}
