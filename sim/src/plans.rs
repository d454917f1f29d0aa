//! Changes of the catalogue while clients are at work: volumes made, cloned, rewound, grown.

use crate::{
    Machine,
    bases::belows,
    clients::{Clients, Device},
    new_volume,
    run::{Run, lines},
};
use catalogue::{Catalogue, CatalogueRecord, NewBase, When};
use units::Sequence;

/// Volumes and left branches at most.
const BRANCHES_MAX: usize = 10;

impl Clients {
    pub(crate) fn create(&mut self, run: &mut Run, machine: &mut Machine) {
        let scale = *run.rng.pick(&[6, 11, 13]);
        let size = 512 * (1 + run.rng.below(1 << scale));
        let Some(now) = machine.now() else { return };
        let name = format!("v{}", run.next_client);
        run.next_client += 1;
        let (block, catalogue) = (catalogue::LogicalBlock::B512, machine.store.catalogue());
        let records = if run.adopts && run.dice.below(3) > 0 {
            let base = NewBase {
                size_bytes: size - run.dice.below(512),
                fill: true,
                rate_bytes: 0,
                origin: b"painted".to_vec(),
                seal: Vec::new(),
            };
            catalogue.plan_adopt(new_volume(&name), block, base, now).expect("a free name").2
        } else {
            catalogue.plan_create(new_volume(&name), block, size, now).expect("a free name").1
        };
        self.take(run, machine, records);
        self.find_bases(machine);
    }

    pub(crate) fn plan(&mut self, run: &mut Run, machine: &mut Machine) {
        if machine.store.log().poison().is_some() {
            return;
        }
        let device = *run.rng.pick(&self.devices);
        let grown = self.devices.len() < BRANCHES_MAX;
        match run.rng.below(6) {
            0 if grown => self.create(run, machine),
            1 | 2 if grown => {
                let Some(now) = machine.now() else { return };
                let at = instant_below(run, now);
                let name = format!("c{}", run.next_client);
                run.next_client += 1;
                let catalogue = machine.store.catalogue();
                let plan = catalogue.plan_clone(device.branch, at, new_volume(&name), now);
                let (_, records) = plan.expect("a free name, a source that is there");
                self.take(run, machine, records);
            }
            3 | 4 if grown => {
                if !self.quiet(run, machine) {
                    return;
                }
                let Some(now) = machine.now() else { return };
                let at = instant_below(run, now);
                let catalogue = machine.store.catalogue();
                let plan = catalogue.plan_rewind(device.volume, device.branch, at, now);
                let (_, records) = plan.expect("nobody is attached");
                self.take(run, machine, records);
            }
            5 => {
                if !self.quiet(run, machine) {
                    return;
                }
                let Some(now) = machine.now() else { return };
                let catalogue = machine.store.catalogue();
                let size = device.size + 512 * (1 + run.rng.below(2000));
                let first = now.sequence.next();
                if let Ok(records) = catalogue.plan_resize(device.volume, size, false, first) {
                    self.take(run, machine, records);
                }
            }
            _ => {}
        }
    }

    /// Waits until nothing is asked any more.
    pub(crate) fn quiet(&mut self, run: &mut Run, machine: &mut Machine) -> bool {
        for _ in 0..100_000 {
            self.hear(run, machine);
            if machine.is_crashed() {
                return false;
            }
            if self.asked.is_empty() {
                return true;
            }
            if !machine.turn() {
                machine.idle();
            }
        }
        panic!("B1: {} requests are never answered", self.asked.len());
    }

    pub(crate) fn take(
        &mut self,
        run: &mut Run,
        machine: &mut Machine,
        records: Vec<CatalogueRecord>,
    ) {
        let mut after = Catalogue::clone(machine.store.catalogue());
        for record in records.clone() {
            after.apply(record).expect("planned on it");
        }
        let (after, belows) = (lines(&after), belows(&after));
        let changed = after.iter().filter(|(id, line)| run.model.lines.get(id) != Some(line));
        run.pending = changed.map(|(id, line)| (*id, line.clone())).collect();
        match machine.change(records) {
            Some(true) => {
                run.report.plans += 1;
                run.pending.clear();
                run.model.lines = after;
                run.model.belows = belows;
                self.find_devices(machine);
            }
            Some(false) => assert!(self.menu.writes_fail, "F1: a change of the catalogue fails"),
            None => {}
        }
    }

    pub(crate) fn find_devices(&mut self, machine: &mut Machine) {
        let catalogue = machine.store.catalogue().clone();
        self.devices.clear();
        for volume in catalogue.volumes() {
            let present = catalogue.present(volume.id).expect("each volume has a present").id;
            for branch in catalogue.branches(volume.id) {
                let view = machine.view(branch.id, None);
                let size = machine.store.info(view).expect("just opened").size_bytes;
                let left = branch.id != present;
                self.devices.push(Device {
                    view,
                    volume: volume.id,
                    branch: branch.id,
                    size,
                    left,
                });
            }
        }
    }

    pub(crate) fn device_at(machine: &mut Machine, device: Device, at: u64) -> Option<Device> {
        let sequence = Sequence::new(at).expect("small");
        let view = machine.store.open_view(device.branch, Some(sequence))?;
        let size = machine.store.info(view).expect("just opened").size_bytes;
        Some(Device { view, size, ..device })
    }
}

fn instant_below(run: &mut Run, now: When) -> When {
    let last = now.sequence.number();
    let at = if run.rng.coin() { last } else { run.rng.below(last + 1) };
    When { sequence: Sequence::new(at).expect("small"), time: now.time }
}
