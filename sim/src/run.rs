//! One seed: lives of a store, each with its own faults, clients and end, checked against the model.
//!
//! Checks go by their names (D1 … T5) in what they say when they fail. A life goes: start (sometimes
//! crashed in the middle and started again), compare with the model, clients at work, an end. Every
//! request is sent under a client number of its own, so that the store itself can say afterwards which
//! of the unanswered ones became history.

use crate::{
    Machine, Place,
    bases::belows,
    cells::SealedCells,
    clients::Clients,
    menu::{End, Menu},
    model::{Change, Line, Model},
};
use catalogue::Catalogue;
use sim_world::{CutPolicy, Rng, Seed};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};
use units::{BranchId, Sequence};

/// What a run has done. Equal for two runs of one seed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Starts of the store.
    pub lives: u64,
    /// Changes that became history.
    pub changes: u64,
    /// Reads that were compared.
    pub reads: u64,
    /// Instants of the past that were compared.
    pub instants: u64,
    /// Changes of the catalogue.
    pub plans: u64,
    /// Requests that failed as the faults allow.
    pub failures: u64,
    /// Cells whose nonces were compared.
    pub cells: u64,
    /// Over every byte on disk after each life.
    pub fingerprint: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, lives, changes, reads, instants, plans, failures, cells, fingerprint } =
            self;
        write!(
            f,
            "seed {seed}: {lives} lives, {changes} changes, {reads} reads, {instants} instants, \
             {plans} plans, {failures} failures, {cells} cells, fingerprint {fingerprint:016x}"
        )
    }
}

/// Runs a seed for about so many steps of its clients. Panics with the name of the check that fails.
pub fn run(seed: u64, steps: u64) -> Report {
    run_with(seed, steps, None)
}

/// The same, where half of the lives are short and meet the fault of that number ([`Menu`]'s).
pub fn run_with(seed: u64, steps: u64, favourite: Option<u64>) -> Report {
    let mut run = Run::new(seed, steps, favourite);
    while run.left > 0 {
        run.live();
    }
    run.report.cells = run.cells.count();
    run.report.clone()
}

/// All that outlives a life.
pub struct Run {
    pub report: Report,
    pub model: Model,
    /// All up to here must be there, whatever happens.
    pub floor: u64,
    /// The last sequence that was answered.
    pub answered: u64,
    /// Unanswered changes of the last life, by client.
    pub doubtful: BTreeMap<u64, Change>,
    /// Branches that a change of the catalogue would make or end, while it is not answered.
    pub pending: Vec<(BranchId, Line)>,
    /// The clock was set about: times mean little.
    pub clock_struck: bool,
    pub next_client: u64,
    pub rng: Rng,
    /// For volumes on images: of its own, so that other seeds stay as they are.
    pub dice: Rng,
    /// Whether there are any.
    pub adopts: bool,
    /// The last life ended by a kill, not by a power cut.
    killed: bool,
    place: Place,
    cells: SealedCells,
    left: u64,
    favourite: Option<u64>,
    /// The last lives, to be printed when a check fails.
    menus: Vec<Menu>,
}

impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() && !cfg!(feature = "planted") {
            for menu in self.menus.iter().rev().take(3).rev() {
                eprintln!("{menu:?}");
            }
        }
    }
}

impl Run {
    fn new(seed: u64, steps: u64, favourite: Option<u64>) -> Self {
        let place = Place::new(Seed(seed));
        let mut rng = Seed(seed).rng("run");
        place.disk.set_alignment(*rng.pick(&[512, 4096]));
        place.make_store().expect("an empty disk without faults");
        Self {
            report: Report { seed, ..Report::default() },
            model: Model::default(),
            floor: 0,
            answered: 0,
            doubtful: BTreeMap::new(),
            pending: Vec::new(),
            clock_struck: false,
            next_client: 1,
            rng,
            dice: Seed(seed).rng("bases"),
            adopts: seed % 2 == 1,
            killed: false,
            place,
            cells: SealedCells::default(),
            left: steps,
            favourite,
            menus: Vec::new(),
        }
    }

    fn live(&mut self) {
        let menu = Menu::draw(&mut self.rng, self.favourite);
        self.menus.push(menu.clone());
        self.left = self.left.saturating_sub(menu.steps);
        self.report.lives += 1;
        let mut machine = self.start(&menu);
        self.resolve(&mut machine);
        let mut clients = Clients::new(self, &mut machine, &menu);
        clients.compare_all(self, &mut machine);
        menu.inject(machine.disk());
        if let End::PowerCutAmid(_, operations) = menu.end {
            let at = machine.disk().operations() + operations;
            machine.disk().crash_at_operation(at, sim_world::Moment::Partly);
        }
        for _ in 0..menu.steps {
            clients.step(self, &mut machine);
            if machine.is_crashed() {
                break;
            }
        }
        if menu.end == End::Rest && !machine.is_crashed() {
            clients.rest(self, &mut machine);
        }
        self.doubtful = clients.unanswered();
        self.end(machine, &menu);
    }

    /// The end of a machine; what is on disk afterwards.
    fn end(&mut self, machine: Machine, menu: &Menu) {
        self.killed = menu.end == End::Kill;
        let disk = machine.disk().clone();
        disk.crash();
        drop(machine);
        let left = match menu.end {
            End::PowerCut(policy) | End::PowerCutAmid(policy, _) => {
                disk.power_cut(policy, &mut self.rng)
            }
            End::Rest => disk.power_cut(CutPolicy::None, &mut self.rng),
            End::Kill => {
                if !menu.syncs_fail {
                    self.floor = self.floor.max(self.answered); // D2
                }
                disk.kill(&mut self.rng)
            }
        };
        left.heal();
        left.set_capacity_bytes(None);
        self.place = self.place.over(left);
        self.cells.look(&self.place.disk);
        let digest = self.place.disk.digest_visible();
        self.report.fingerprint = self.report.fingerprint.rotate_left(7) ^ digest;
        if menu.end != End::Kill {
            self.place.clock.reboot(self.rng.below(5_000_000_000));
        }
        if menu.clock {
            let wall = self.place.clock.clone();
            wall.synchronise(
                units::Timestamp(1_795_000_000_000_000_000)
                    .plus_ns(i64::try_from(wall.elapsed_ns()).expect("a short run")),
            );
        }
    }

    /// Starts the store; first sees that a crash amid recovery changes nothing.
    fn start(&mut self, menu: &Menu) -> Machine {
        if let Some(operation) = menu.crash_in_start {
            let copy = self.place.over(self.place.disk.copy());
            let wanted = start(&copy, menu, "D4: first recovery").store.log().last();
            let disk = self.place.disk.copy();
            disk.crash_at_operation(disk.operations() + operation, sim_world::Moment::Partly);
            let crashed = Machine::start(&self.place.over(disk.clone()), menu.config);
            if disk.is_crashed() {
                drop(crashed);
                // After a kill the disk's cache lives on: a power cut would take what it may take.
                let policy = *self.rng.pick(&CutPolicy::EVERY);
                let left = if self.killed {
                    disk.kill(&mut self.rng)
                } else {
                    disk.power_cut(policy, &mut self.rng)
                };
                self.place = self.place.over(left);
                let machine = start(&self.place, menu, "D4: recovery after a crash in recovery");
                let found = machine.store.log().last();
                assert_eq!(found, wanted, "D4: recovered twice, to another end");
                return machine;
            }
        }
        start(&self.place, menu, "D1: recovery")
    }

    /// Learns what became of the unanswered, and checks that nothing is missing.
    fn resolve(&mut self, machine: &mut Machine) {
        let last = machine.store.log().last().number();
        let floor = self.floor;
        assert!(last >= floor, "D1: history ends at {last}, but {floor} was promised");
        let index = machine.store.snapshot().index;
        self.model.history.split_off(&(last + 1));
        let mut used = BTreeSet::new();
        for number in 1..=last {
            if self.model.history.contains_key(&number) {
                continue;
            }
            let sequence = Sequence::new(number).expect("small");
            let client = index.client_of(sequence).expect("no fault now");
            let client = client.unwrap_or_else(|| panic!("D3: nobody wrote {number}")).0;
            let change = self.doubtful.get(&client);
            let change = *change.unwrap_or_else(|| panic!("D3: {number} was never asked for"));
            assert!(used.insert(client), "D3: {number} is there twice");
            self.model.history.insert(number, change);
            self.report.changes += 1;
        }
        self.answered = last;
        self.floor = last;
        self.doubtful.clear();
        let pending = std::mem::take(&mut self.pending);
        let lines = lines(machine.store.catalogue());
        let mut wanted = self.model.lines.clone();
        if lines != wanted {
            wanted.extend(pending);
            assert_eq!(lines, wanted, "D1: the catalogue is neither as before nor as after");
        }
        self.model.lines = lines;
        self.model.belows = belows(machine.store.catalogue());
    }
}

fn start(place: &Place, menu: &Menu, what: &str) -> Machine {
    match Machine::start(place, menu.config) {
        Ok(machine) => machine,
        Err(error) => panic!("{what}: the store does not start: {error}\n{}", place.disk.trace()),
    }
}

/// The branches of a catalogue as the model has them.
pub fn lines(catalogue: &Catalogue) -> BTreeMap<BranchId, Line> {
    let volumes = catalogue.volumes().flat_map(|volume| catalogue.branches(volume.id));
    volumes
        .map(|branch| {
            let parent = branch.parent.map(|fork| (fork.branch, fork.at.sequence.number()));
            let ended = branch.ended.map(|ended| ended.sequence.number());
            (branch.id, Line { parent, ended })
        })
        .collect()
}
