//! Laws of the catalogue against the plainest model: a copy of every disk after every write.

use std::collections::BTreeMap;

use catalogue::{
    At, AtTime, Catalogue, CatalogueRecord, History, Instant, LogicalBlock, NewBase, NewMark,
    NewVolume, Note, Presence, Trash, UNIT_BYTES, VolumeKey, VolumeName, VolumeOptions, When,
};
use proptest::{collection::vec, prelude::*};
use units::{BranchId, ClientId, Sequence, Timestamp, VolumeId};

type Blocks = [u64; 4];

/// A store without its log: writes as a list, and what clients saw as copies.
#[derive(Default)]
struct Model {
    catalogue: Catalogue,
    times: Vec<Timestamp>, // of sequence n + 1
    clock: i64,
    writes: Vec<(BranchId, usize, Sequence)>, // a block's value is the sequence that wrote it
    contents: BTreeMap<BranchId, Blocks>,     // newest of each branch, by copying
    copies: Vec<(BranchId, Sequence, Blocks)>, // of each branch after each of its writes
    seen: Vec<(VolumeId, Sequence, Blocks)>,  // what a volume's clients saw after each write
}

/// What a block is that only a base knows.
fn below(base: BranchId) -> u64 {
    u64::MAX - u64::from(base.0)
}

impl Model {
    fn apply(&mut self, records: Vec<CatalogueRecord>) {
        for record in records {
            let (kind, body) = record.encode();
            let read = CatalogueRecord::decode(kind, &body).expect("just encoded");
            assert_eq!(read, record);
            self.catalogue.apply(read).expect("planned");
        }
        let mut again = Catalogue::new();
        for record in self.catalogue.snapshot() {
            let (kind, body) = record.encode();
            again.apply(CatalogueRecord::decode(kind, &body).expect("own")).expect("own snapshot");
        }
        assert_eq!(again, self.catalogue, "a snapshot makes the same catalogue");
        assert_eq!(again.snapshot(), self.catalogue.snapshot(), "in the same order");
    }

    fn write(&mut self, branch: BranchId, block: usize) {
        self.clock += 10;
        self.times.push(Timestamp(self.clock));
        let sequence = Sequence::new(self.times.len() as u64).expect("few");
        self.writes.push((branch, block, sequence));
        let contents = self.contents.get_mut(&branch).expect("a branch of the model");
        contents[block] = sequence.number();
        self.copies.push((branch, sequence, *contents));
        for volume in self.catalogue.volumes().filter(|it| it.presence == Presence::Live) {
            let present = self.catalogue.present(volume.id).expect("live").id;
            self.seen.push((volume.id, sequence, self.contents[&present]));
        }
    }

    /// By the chain, as the volume does it.
    fn read(&self, branch: BranchId, sequence: Sequence) -> Blocks {
        let base = self.catalogue.base_of(branch);
        let mut blocks = [base.map_or(0, |base| below(base.id)); 4];
        for (block, value) in blocks.iter_mut().enumerate() {
            for (branch, last) in self.catalogue.chain(branch, sequence) {
                let own = self.writes.iter().filter(|it| it.0 == branch && it.1 == block);
                if let Some(write) = own.filter(|it| it.2 <= last).max_by_key(|it| it.2) {
                    *value = write.2.number();
                    break;
                }
            }
        }
        blocks
    }

    fn new_volume(n: usize) -> NewVolume {
        NewVolume {
            name: VolumeName::parse(&format!("v{n}")).expect("a name"),
            key: VolumeKey([7; 32]),
            options: VolumeOptions::default(),
        }
    }

    fn step(&mut self, n: usize, (op, a, b): (u8, usize, u64)) {
        self.clock += 1;
        let now = self.now();
        let pick = |ids: Vec<VolumeId>| (!ids.is_empty()).then(|| ids[a % ids.len()]);
        let live = self.catalogue.volumes().filter(|it| it.presence == Presence::Live);
        let volume = pick(live.map(|it| it.id).collect());
        let trashed = |it: &&catalogue::Volume| matches!(it.presence, Presence::Trash { .. });
        let in_trash = pick(self.catalogue.volumes().filter(trashed).map(|it| it.id).collect());
        if op == 0 || volume.is_none() {
            let new = Self::new_volume(n);
            let (id, records, blocks) = if b % 2 == 0 {
                let plan = self.catalogue.plan_create(new, LogicalBlock::B512, 512, now);
                let (id, records) = plan.expect("a fresh name");
                (id, records, [0; 4])
            } else {
                let (origin, seal) = (b.to_le_bytes().to_vec(), vec![]);
                let size_bytes = b % 3 * UNIT_BYTES + 500;
                let base = NewBase { size_bytes, fill: a % 2 == 0, rate_bytes: 0, origin, seal };
                let plan = self.catalogue.plan_adopt(new, LogicalBlock::B512, base, now);
                let (id, base, records) = plan.expect("a fresh name");
                (id, records, [below(base.id); 4])
            };
            self.apply(records);
            let root = self.catalogue.present(id).expect("made").id;
            self.contents.insert(root, blocks);
            return;
        }
        if n.is_multiple_of(5) {
            self.take_over(a);
        }
        let volume = volume.expect("checked");
        let branches: Vec<_> = self.catalogue.branches(volume).cloned().collect();
        let branch = &branches[a % branches.len()];
        let until = branch.ended.map_or(now.sequence, |end| end.sequence).number();
        let start = self.catalogue.start(volume).expect("live").sequence.number();
        let at = Sequence::new(until - b % (until - start + 1)).expect("small");
        let at = When { sequence: at, time: now.time };
        match op {
            1 => {
                let (id, records) =
                    self.catalogue.plan_clone(branch.id, at, Self::new_volume(n), now).expect("ok");
                let contents = self.read(branch.id, at.sequence);
                self.apply(records);
                self.contents.insert(self.catalogue.present(id).expect("made").id, contents);
            }
            2 => {
                let plan = self.catalogue.plan_rewind(volume, branch.id, at, now);
                let (rewound, records) = plan.expect("nobody is attached");
                let contents = self.read(branch.id, at.sequence);
                self.apply(records);
                self.contents.insert(rewound.present, contents);
            }
            3 => {
                let plan = self.catalogue.plan_open_branch(volume, branch.id, at, Some(9), now);
                let (opened, records) = plan.expect("live");
                let contents = self.read(branch.id, at.sequence);
                self.apply(records);
                self.contents.insert(opened.branch, contents);
            }
            4 => {
                if let Ok(records) = self.catalogue.plan_close(branch.id, now) {
                    self.apply(records);
                }
            }
            5 => {
                let records = self.catalogue.plan_remove(volume, now.time);
                self.apply(records.expect("no pins, no clients"));
            }
            6 => {
                if let Some(volume) = in_trash {
                    self.apply(
                        self.catalogue.plan_undelete(volume, None).expect("names are fresh"),
                    );
                }
            }
            7 => {
                let plan = self.catalogue.plan_empty_trash(Trash::All, now.time);
                let (emptied, records) = plan.expect("all is allowed");
                self.apply(records);
                self.contents.retain(|branch, _| !emptied.branches.contains(branch));
                self.copies.retain(|(branch, ..)| !emptied.branches.contains(branch));
                for branch in emptied.branches {
                    assert!(self.catalogue.branch(branch).is_none());
                }
            }
            8 => {
                let name = catalogue::MarkName::parse("m").expect("a name");
                let (branch, made_by) = (branch.id, ClientId(0));
                let note =
                    (op % 2 == 0).then(|| Note::parse("before the upgrade").expect("a line"));
                let pinned = false;
                let new = NewMark { branch, at, name, keep_until: None, pinned, made_by, note };
                let (_, records) = self.catalogue.plan_mark(new, now.time).expect("live");
                self.apply(records);
            }
            _ if branch.ended.is_none() => self.write(branch.id, usize::from(op) % 4),
            _ => self.write(self.catalogue.present(volume).expect("live").id, 0),
        }
    }

    /// A base goes on to be taken over, and is detached only when all of it was.
    fn take_over(&mut self, a: usize) {
        let Some(base) = self.catalogue.bases().nth(a % 2).cloned() else { return };
        let (units, before) = (base.units(), self.catalogue.taken(base.id).count());
        assert_eq!(
            self.catalogue.plan_detach_base(base.id).is_err(),
            !base.detached && before < units
        );
        let first = a as u64 % units;
        let records = self.catalogue.plan_taken(base.id, vec![(first, first + 1)]);
        self.apply(records.expect("it is there"));
        if let Ok(records) = self.catalogue.plan_detach_base(base.id) {
            self.apply(records);
            assert!(self.catalogue.base(base.id).expect("stays").detached);
        } else {
            assert!(self.catalogue.taken(base.id).has(first));
        }
    }

    fn check(&self) {
        for &(branch, sequence, blocks) in &self.copies {
            assert_eq!(self.read(branch, sequence), blocks, "{branch} at {sequence}");
            assert!(self.catalogue.size_at(branch, sequence).is_some());
            assert!(self.catalogue.key_of(branch).is_some());
        }
        for (&branch, &blocks) in &self.contents {
            assert_eq!(self.read(branch, Sequence::MAX), blocks, "the end of {branch}");
        }
        let is_live =
            |id| self.catalogue.volume(id).is_some_and(|it| it.presence == Presence::Live);
        for &(volume, sequence, blocks) in self.seen.iter().filter(|it| is_live(it.0)) {
            let resolve = |branch: Option<&str>, at| {
                let instant = Instant { at, rounding: None };
                self.catalogue.resolve(volume, branch, &instant, self)
            };
            let time = self.times[usize::try_from(sequence.number()).expect("small") - 1];
            for at in [At::Sequence(sequence.number()), At::Time(time)] {
                let Ok(found) = resolve(None, at.clone()) else {
                    // Only a branch that went with the trash takes instants with it.
                    let gone = |it: &catalogue::Served| self.catalogue.branch(it.branch).is_none();
                    assert!(self.catalogue.served(volume).iter().any(gone));
                    continue;
                };
                assert_eq!(self.read(found.branch, found.sequence), blocks, "{volume} {at:?}");
                let name = found.needs_branch.as_ref().map(catalogue::BranchName::as_str);
                let again = resolve(name, At::Sequence(found.sequence.number())).expect("named");
                assert_eq!((again.branch, again.sequence), (found.branch, found.sequence));
            }
        }
        for volume in self.catalogue.volumes().filter(|it| is_live(it.id)) {
            for at in [At::Now, At::Start] {
                let instant = Instant { at, rounding: None };
                let found = self.catalogue.resolve(volume.id, None, &instant, self).expect("live");
                let name = found.needs_branch.as_ref().map(catalogue::BranchName::as_str);
                let at = At::Sequence(found.sequence.number());
                let fixed = Instant { at, rounding: None };
                let again = self.catalogue.resolve(volume.id, name, &fixed, self).expect("named");
                assert_eq!((again.branch, again.sequence), (found.branch, found.sequence));
                if instant.at == At::Now {
                    let present = self.catalogue.present(volume.id).expect("live").id;
                    let blocks = self.read(found.branch, found.sequence);
                    assert_eq!(blocks, self.contents[&present]);
                }
            }
        }
    }
}

impl History for Model {
    fn now(&self) -> When {
        let sequence = Sequence::new(self.times.len() as u64).expect("few");
        When { sequence, time: Timestamp(self.clock) }
    }

    fn sequence_at(&self, time: Timestamp) -> AtTime {
        let count = self.times.iter().filter(|&&it| it <= time).count();
        AtTime::One(Sequence::new(count as u64).expect("few"))
    }

    fn time_of(&self, sequence: Sequence) -> Option<Timestamp> {
        let index = usize::try_from(sequence.number()).ok()?.checked_sub(1)?;
        self.times.get(index).copied()
    }

    fn last_flush(&self, _: &[(BranchId, Sequence)]) -> Option<Sequence> {
        None
    }

    fn last_quiet(&self, _: &[(BranchId, Sequence)], _: u64) -> Option<Sequence> {
        None
    }

    fn last_kept(&self, chain: &[(BranchId, Sequence)]) -> Result<Sequence, When> {
        Ok(chain[0].1)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_instant_reads_as_it_was(steps in vec((0..20_u8, 0..100_usize, 0..1_000_u64), 1..50)) {
        let mut model = Model::default();
        for (n, step) in steps.into_iter().enumerate() {
            model.step(n, step);
        }
        model.check();
    }

    #[test]
    fn any_bytes_decode_to_one_form_or_an_error(
        kind in prop_oneof![0x0ff..0x112_u16, Just(0x1ff), any::<u16>()],
        mut body in vec(prop_oneof![Just(0_u8), 0..4_u8, any::<u8>()], 0..140),
        version in prop_oneof![9 => Just(1_u8), 1 => any::<u8>()],
    ) {
        body.insert(0, version);
        if let Ok(record) = CatalogueRecord::decode(kind, &body) {
            prop_assert_eq!(record.encode(), (kind, body));
            let _ = Catalogue::new().apply(record); // refused or taken, never a panic
        }
    }

    #[test]
    fn bent_records_never_panic(
        steps in vec((0..20_u8, 0..100_usize, 0..1_000_u64), 1..12),
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        to in any::<u8>(),
    ) {
        let mut model = Model::default();
        for (n, step) in steps.into_iter().enumerate() {
            model.step(n, step);
        }
        let mut records: Vec<_> = model.catalogue.snapshot().iter().map(CatalogueRecord::encode).collect();
        let (kind, body) = which.get(&records).clone();
        let mut bent = body.clone();
        bent[at.index(body.len())] = to;
        let index = records.iter().position(|it| *it == (kind, body.clone())).expect("picked");
        records[index] = (kind, bent);
        let mut catalogue = Catalogue::new();
        let read = records.iter().try_for_each(|(kind, body)| {
            catalogue.apply(CatalogueRecord::decode(*kind, body)?)
        });
        if read.is_ok() {
            for branch in catalogue.snapshot() {
                if let CatalogueRecord::Branch(branch) = branch {
                    let _ = catalogue.chain(branch.id, Sequence::MAX);
                    let _ = catalogue.size_at(branch.id, Sequence::MAX);
                }
            }
            let _ = catalogue.plan_empty_trash(Trash::All, Timestamp(0));
        }
    }
}
