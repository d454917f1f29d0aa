//! Each rule of a change, by one small example.

use catalogue::{
    At, AtTime, Catalogue, CatalogueError, CatalogueRecord, History, Instant, InstantError,
    LogicalBlock, MarkId, MarkName, NewMark, NewVolume, Presence, Resolved, Rounding, SizeError,
    TRASH_NS, Trash, VOLUME_BYTES_MAX, VolumeKey, VolumeName, VolumeOptions, When, Who, check_size,
};
use units::{BranchId, ClientId, Sequence, Timestamp, VolumeId};

const SECOND: i64 = 1_000_000_000;

/// Sequence n was written at second n, and now is second `now`.
struct Log {
    now: u64,
    flushes: Vec<u64>,
    kept_every: u64,
}

impl Default for Log {
    fn default() -> Self {
        Self { now: 100, flushes: Vec::new(), kept_every: 1 }
    }
}

impl History for Log {
    fn now(&self) -> When {
        when(self.now)
    }

    fn sequence_at(&self, time: Timestamp) -> AtTime {
        let second = time.0.div_euclid(SECOND).max(0).unsigned_abs();
        if second == 66 {
            return AtTime::Ambiguous(vec![when(20), when(66)]);
        }
        AtTime::One(sequence(second))
    }

    fn time_of(&self, sequence: Sequence) -> Option<Timestamp> {
        Some(when(sequence.number()).time)
    }

    fn last_flush(&self, chain: &[(BranchId, Sequence)]) -> Option<Sequence> {
        let flushes = self.flushes.iter().copied().map(sequence);
        flushes.filter(|&flush| flush <= chain[0].1).max()
    }

    fn last_quiet(&self, chain: &[(BranchId, Sequence)], _: u64) -> Option<Sequence> {
        Some(sequence(chain[0].1.number() / 10 * 10))
    }

    fn last_kept(&self, chain: &[(BranchId, Sequence)]) -> Result<Sequence, When> {
        Ok(sequence(chain[0].1.number() / self.kept_every * self.kept_every))
    }
}

fn sequence(number: u64) -> Sequence {
    Sequence::new(number).expect("small")
}

fn when(number: u64) -> When {
    let second = i64::try_from(number).expect("small");
    When { sequence: sequence(number), time: Timestamp(second * SECOND) }
}

fn name(text: &str) -> VolumeName {
    VolumeName::parse(text).expect("a name")
}

fn new(text: &str) -> NewVolume {
    NewVolume { name: name(text), key: VolumeKey([9; 32]), options: VolumeOptions::default() }
}

fn apply(catalogue: &mut Catalogue, records: Vec<CatalogueRecord>) {
    assert!(records.len() <= 1, "a change is one durable step");
    for record in records {
        catalogue.apply(record).expect("planned");
    }
}

/// `db`, made at 10 with 4096 bytes.
fn with_db() -> (Catalogue, VolumeId) {
    let mut catalogue = Catalogue::new();
    let plan = catalogue.plan_create(new("db"), LogicalBlock::B512, 4096, when(10));
    let (db, records) = plan.expect("fresh");
    apply(&mut catalogue, records);
    (catalogue, db)
}

fn present(catalogue: &Catalogue, volume: VolumeId) -> BranchId {
    catalogue.present(volume).expect("live").id
}

fn client(catalogue: &mut Catalogue, pid: u32) -> ClientId {
    let (client, records) = catalogue.plan_client(&Who::Process { uid: 1000, pid, start: 5 });
    apply(catalogue, records);
    client
}

fn attach(catalogue: &mut Catalogue, volume: VolumeId, pid: u32) -> ClientId {
    let client = client(catalogue, pid);
    let records = catalogue.plan_attach(present(catalogue, volume), client, when(11).time);
    apply(catalogue, records.expect("allowed"));
    client
}

fn mark(catalogue: &mut Catalogue, branch: BranchId, text: &str, at: u64, pinned: bool) -> MarkId {
    let (name, made_by) = (MarkName::parse(text).expect("a name"), ClientId(0));
    let new = NewMark { branch, at: when(at), name, keep_until: None, pinned, made_by, note: None };
    let (id, records) = catalogue.plan_mark(new, when(at).time).expect("live");
    apply(catalogue, records);
    id
}

fn rewind(
    catalogue: &mut Catalogue,
    volume: VolumeId,
    branch: BranchId,
    at: u64,
    now: u64,
) -> String {
    let plan = catalogue.plan_rewind(volume, branch, when(at), when(now));
    let (rewound, records) = plan.expect("nobody is attached");
    apply(catalogue, records);
    rewound.left_name.to_string()
}

fn resolve(
    catalogue: &Catalogue,
    volume: VolumeId,
    branch: Option<&str>,
    at: At,
) -> Result<Resolved, InstantError> {
    catalogue.resolve(volume, branch, &Instant { at, rounding: None }, &Log::default())
}

#[test]
fn sizes_are_whole_blocks_up_to_an_exbibyte() {
    assert_eq!(check_size(512, LogicalBlock::B512), Ok(()));
    assert_eq!(check_size(VOLUME_BYTES_MAX, LogicalBlock::B4096), Ok(()));
    let next = |size, block| match check_size(size, block) {
        Err(SizeError::NotWholeBlocks { next_bytes, .. }) => next_bytes,
        other => panic!("{other:?}"),
    };
    assert_eq!(next(0, LogicalBlock::B512), 512);
    assert_eq!(next(513, LogicalBlock::B512), 1024);
    assert_eq!(next(512, LogicalBlock::B4096), 4096);
    let above = check_size(VOLUME_BYTES_MAX + 512, LogicalBlock::B512);
    assert!(matches!(above, Err(SizeError::TooLarge { .. })));
}

#[test]
fn a_taken_name_tells_who_has_it() {
    let (catalogue, _) = with_db();
    let error = catalogue.plan_create(new("db"), LogicalBlock::B512, 512, when(20));
    let (size_bytes, created) = (4096, when(10).time);
    let name = name("db");
    assert_eq!(error, Err(CatalogueError::VolumeExists { name, size_bytes, created }));
}

#[test]
fn an_unknown_name_offers_near_ones() {
    let (catalogue, _) = with_db();
    let Err(CatalogueError::NoVolume { near, .. }) = catalogue.find_volume("dbb") else {
        panic!("found");
    };
    assert_eq!(near, ["db"]);
}

#[test]
fn keys_are_never_printed() {
    let (catalogue, _) = with_db();
    let text = format!("{catalogue:?} {:?}", catalogue.snapshot());
    assert!(text.contains("VolumeKey(secret)") && !text.contains("9, 9"), "{text}");
}

#[test]
fn old_instants_keep_their_size() {
    let (mut catalogue, db) = with_db();
    let records = catalogue.plan_resize(db, 8192, false, sequence(30)).expect("grows");
    apply(&mut catalogue, records);
    let root = present(&catalogue, db);
    assert_eq!(catalogue.size_at(root, sequence(29)), Some(4096));
    assert_eq!(catalogue.size_at(root, sequence(30)), Some(8192));
    rewind(&mut catalogue, db, root, 20, 40);
    assert_eq!(catalogue.size_at(present(&catalogue, db), Sequence::MAX), Some(4096));
}

#[test]
fn shrinking_needs_a_word_and_nobody_attached() {
    let (mut catalogue, db) = with_db();
    let silent = catalogue.plan_resize(db, 512, false, sequence(30));
    assert!(matches!(silent, Err(CatalogueError::WouldShrink { from_bytes: 4096, .. })));
    attach(&mut catalogue, db, 1);
    let busy = catalogue.plan_resize(db, 512, true, sequence(30));
    assert!(matches!(busy, Err(CatalogueError::Busy { .. })));
    assert!(catalogue.plan_resize(db, 8192, false, sequence(30)).is_ok(), "growing is allowed");
    let settled = catalogue.plan_resize(db, 8192, false, sequence(10));
    assert!(matches!(settled, Err(CatalogueError::SequenceUsed { .. })));
}

#[test]
fn a_removed_volume_frees_its_name_and_comes_back() {
    let (mut catalogue, db) = with_db();
    let records = catalogue.plan_remove(db, when(20).time).expect("free");
    apply(&mut catalogue, records);
    assert!(catalogue.find("db").is_none());
    assert_eq!(catalogue.find_in_trash("db").map(|volume| volume.id), Some(db));
    let (other, records) =
        catalogue.plan_create(new("db"), LogicalBlock::B512, 512, when(21)).expect("name is free");
    apply(&mut catalogue, records);
    let taken = catalogue.plan_undelete(db, None);
    assert!(matches!(taken, Err(CatalogueError::VolumeExists { .. })));
    let records = catalogue.plan_undelete(db, Some(name("db-old"))).expect("another name");
    apply(&mut catalogue, records);
    assert_eq!(catalogue.find("db-old").map(|volume| volume.id), Some(db));
    assert_eq!(catalogue.find("db").map(|volume| volume.id), Some(other));
}

#[test]
fn pinned_marks_and_clients_protect_a_volume() {
    let (mut catalogue, db) = with_db();
    let root = present(&catalogue, db);
    let pinned = mark(&mut catalogue, root, "keep", 15, true);
    let refused = catalogue.plan_remove(db, when(20).time);
    assert!(matches!(refused, Err(CatalogueError::PinnedMarks { .. })));
    assert!(matches!(catalogue.plan_unmark(pinned), Err(CatalogueError::PinnedMarks { .. })));
    let records = catalogue.plan_pin(pinned, false).expect("there");
    apply(&mut catalogue, records);
    assert!(catalogue.plan_unmark(pinned).is_ok());
    attach(&mut catalogue, db, 1);
    assert!(matches!(catalogue.plan_remove(db, when(20).time), Err(CatalogueError::Busy { .. })));
}

#[test]
fn the_trash_keeps_what_clones_need() {
    let (mut catalogue, db) = with_db();
    let root = present(&catalogue, db);
    let (copy, records) =
        catalogue.plan_clone(root, when(40), new("copy"), when(50)).expect("fresh");
    apply(&mut catalogue, records);
    let records = catalogue.plan_remove(db, when(60).time).expect("free");
    apply(&mut catalogue, records);
    let early = catalogue.plan_empty_trash(Trash::Expired, when(61).time).expect("allowed");
    assert_eq!(early.1, [], "seven days have not passed");
    let due = when(60).time.plus_ns(TRASH_NS);
    let (emptied, records) = catalogue.plan_empty_trash(Trash::Expired, due).expect("allowed");
    assert_eq!((emptied.volumes.len(), emptied.kept), (0, vec![(root, sequence(40))]));
    apply(&mut catalogue, records);
    assert_eq!(catalogue.volume(db).map(|it| it.presence), Some(Presence::Emptied));
    assert!(catalogue.key_of(root).is_some(), "the clone reads with it");
    assert!(matches!(catalogue.plan_undelete(db, None), Err(CatalogueError::VolumeGone(_))));

    let records = catalogue.plan_remove(copy, due).expect("free");
    apply(&mut catalogue, records);
    let (emptied, records) = catalogue.plan_empty_trash(Trash::All, due).expect("allowed");
    apply(&mut catalogue, records);
    assert_eq!(emptied.volumes, [db, copy]);
    assert_eq!(catalogue.volumes().count(), 0);
    let (next, _) =
        catalogue.plan_create(new("db"), LogicalBlock::B512, 512, when(99)).expect("ok");
    assert!(next > copy, "numbers are never used again");
}

#[test]
fn a_rewind_names_what_it_leaves_and_can_be_undone() {
    let (mut catalogue, db) = with_db();
    let root = present(&catalogue, db);
    let left = rewind(&mut catalogue, db, root, 50, 80);
    assert_eq!(left, "19700101T000120Z");
    let branch = catalogue.branch(root).expect("kept");
    assert!(branch.read_only && branch.ended == Some(when(80)));
    let second = present(&catalogue, db);
    assert_eq!(
        catalogue.chain(second, Sequence::MAX),
        [(second, Sequence::MAX), (root, sequence(50))]
    );

    let end = resolve(&catalogue, db, Some(&left), At::Now).expect("its end");
    assert_eq!((end.branch, end.sequence), (root, sequence(80)));
    let again = rewind(&mut catalogue, db, end.branch, 80, 80);
    assert_eq!(again, "19700101T000120Z-2", "the name was taken");
    let third = present(&catalogue, db);
    assert_eq!(catalogue.chain(third, sequence(80)), [(root, sequence(80))]);
}

#[test]
fn a_rewind_refuses_while_attached() {
    let (mut catalogue, db) = with_db();
    let root = present(&catalogue, db);
    let qemu = attach(&mut catalogue, db, 4121);
    let Err(CatalogueError::Busy { clients, .. }) =
        catalogue.plan_rewind(db, root, when(50), when(80))
    else {
        panic!("allowed");
    };
    assert_eq!((clients[0].client, clients[0].since), (qemu, when(11).time));

    let (cut, records) = catalogue.plan_detach(db, None, when(81).time).expect("live");
    apply(&mut catalogue, records);
    assert_eq!(cut, clients);
    rewind(&mut catalogue, db, root, 50, 82);
    let back = catalogue.plan_attach(present(&catalogue, db), qemu, when(83).time);
    assert!(matches!(back, Err(CatalogueError::Refused { .. })));
    attach(&mut catalogue, db, 4200); // a guest started anew
    let records = catalogue.plan_release(db).expect("live");
    apply(&mut catalogue, records);
    assert_eq!(catalogue.may_come(db, qemu), Ok(()));
    let old = catalogue.plan_attach(root, qemu, when(84).time);
    assert!(matches!(old, Err(CatalogueError::ReadOnly { .. })), "a left branch takes no write");
}

#[test]
fn a_client_attaches_once_and_keeps_its_number() {
    let (mut catalogue, db) = with_db();
    let first = attach(&mut catalogue, db, 7);
    let root = present(&catalogue, db);
    assert_eq!(catalogue.plan_attach(root, first, when(12).time), Ok(Vec::new()));
    assert_eq!(client(&mut catalogue, 7), first);
    let second = client(&mut catalogue, 8);
    assert!(catalogue.plan_attach(root, second, when(12).time).is_ok(), "several are allowed");
    let options = VolumeOptions { exclusive: true, ..VolumeOptions::default() };
    let records = catalogue.plan_set_options(db, options).expect("live");
    apply(&mut catalogue, records);
    let refused = catalogue.plan_attach(root, second, when(12).time);
    assert!(matches!(refused, Err(CatalogueError::Busy { .. })));
    let records = catalogue.plan_end_attachment(root, first);
    apply(&mut catalogue, records);
    assert!(catalogue.plan_attach(root, second, when(13).time).is_ok());
}

#[test]
fn only_opened_branches_are_closed() {
    let (mut catalogue, db) = with_db();
    let root = present(&catalogue, db);
    let (opened, records) =
        catalogue.plan_open_branch(db, root, when(30), Some(1), when(60)).expect("live");
    apply(&mut catalogue, records);
    assert_eq!(opened.name.as_str(), "open-19700101T000100Z");
    assert!(matches!(catalogue.plan_close(root, when(70)), Err(CatalogueError::NotOpened { .. })));
    let records = catalogue.plan_close(opened.branch, when(70)).expect("nobody holds it");
    apply(&mut catalogue, records);
    let again = catalogue.plan_close(opened.branch, when(71));
    assert!(matches!(again, Err(CatalogueError::NotOpened { .. })));
    let (emptied, _) = catalogue.plan_empty_trash(Trash::All, when(80).time).expect("allowed");
    assert_eq!(emptied.branches, [opened.branch]);
}

#[test]
fn marks_of_one_name_are_counted_back() {
    let (mut catalogue, db) = with_db();
    let root = present(&catalogue, db);
    for at in [20, 30, 40] {
        mark(&mut catalogue, root, "nightly", at, false);
    }
    let at = |earlier| At::Mark { name: "nightly".to_owned(), earlier };
    let found = resolve(&catalogue, db, None, at(2)).expect("three");
    assert_eq!(found.sequence, sequence(20));
    let error = resolve(&catalogue, db, None, at(3));
    assert!(matches!(error, Err(InstantError::TooFewMarks { count: 3, .. })));
    let near = At::Mark { name: "nightl".to_owned(), earlier: 0 };
    let Err(InstantError::NoMark { near, .. }) = resolve(&catalogue, db, None, near) else {
        panic!("found");
    };
    assert_eq!(near, [("nightly".to_owned(), when(40))]);
}

#[test]
fn a_time_in_a_left_stretch_is_in_the_left_branch() {
    let (mut catalogue, db) = with_db();
    let root = present(&catalogue, db);
    mark(&mut catalogue, root, "left", 75, false);
    let left = rewind(&mut catalogue, db, root, 50, 80);
    let second = present(&catalogue, db);
    let at = |branch: Option<&str>, second| {
        let time = Timestamp(when(second).time.0 + 1);
        resolve(&catalogue, db, branch, At::Time(time)).map(|found| (found.branch, found.sequence))
    };
    assert_eq!(at(None, 70), Ok((root, sequence(70))));
    assert_eq!(at(None, 90), Ok((second, sequence(90))));
    assert_eq!(at(Some(&left), 70), Ok((root, sequence(70))));
    assert!(
        matches!(at(Some(&left), 90), Err(InstantError::AfterEnd { end, .. }) if end == when(80))
    );
    let marked = At::Mark { name: "left".to_owned(), earlier: 0 };
    let found = resolve(&catalogue, db, None, marked).expect("marks stay");
    assert_eq!((found.branch, found.left.map(|it| it.to_string())), (root, Some(left)));
    assert_eq!(found.needs_branch, None, "its sequence alone finds it");
}

#[test]
fn what_is_too_late_or_too_early_names_the_nearest() {
    let (catalogue, db) = with_db();
    let late = resolve(&catalogue, db, None, At::Time(when(101).time));
    assert!(matches!(late, Err(InstantError::AfterNow { now, .. }) if now == when(100)));
    let late = resolve(&catalogue, db, None, At::Sequence(u64::MAX));
    assert!(matches!(late, Err(InstantError::AfterNow { .. })));
    for early in [At::Time(when(9).time), At::Sequence(9), At::Ago(u64::MAX)] {
        let early = resolve(&catalogue, db, None, early);
        assert!(
            matches!(early, Err(InstantError::BeforeOldest { oldest, .. }) if oldest == when(10))
        );
    }
    let twice = resolve(&catalogue, db, None, At::Time(when(66).time));
    assert!(matches!(twice, Err(InstantError::Ambiguous { readings, .. }) if readings.len() == 2));
    let alarm = resolve(&catalogue, db, None, At::Alarm(7));
    assert!(matches!(alarm, Err(InstantError::NoAlarm { alarm: 7, .. })));
}

#[test]
fn relative_times_count_from_the_servers_clock() {
    let (catalogue, db) = with_db();
    let found = resolve(&catalogue, db, None, At::Ago(4_500_000_000)).expect("kept");
    assert_eq!((found.sequence, found.before_ns), (sequence(95), 500_000_000));
}

#[test]
fn a_clone_starts_where_it_forked() {
    let (mut catalogue, db) = with_db();
    let root = present(&catalogue, db);
    let (copy, records) =
        catalogue.plan_clone(root, when(40), new("copy"), when(60)).expect("fresh");
    apply(&mut catalogue, records);
    assert_eq!(catalogue.start(copy), Ok(when(40)));
    let own = present(&catalogue, copy);
    assert_eq!(catalogue.chain(own, sequence(55)), [(root, sequence(40))]);
    assert_eq!(catalogue.size_at(own, Sequence::MAX), Some(4096));
    for at in [At::Start, At::Sequence(55), At::Time(when(50).time)] {
        let found = resolve(&catalogue, copy, None, at).expect("kept");
        assert_eq!((found.branch, found.when()), (own, when(40)));
    }
    let early = resolve(&catalogue, copy, None, At::Sequence(39));
    assert!(matches!(early, Err(InstantError::BeforeOldest { .. })));
}

#[test]
fn suffixes_round_down() {
    let (mut catalogue, db) = with_db();
    let root = present(&catalogue, db);
    mark(&mut catalogue, root, "m", 42, false);
    let log = Log { flushes: vec![30, 47, 60], ..Log::default() };
    let round = |rounding, at| {
        let instant = Instant { at: At::Sequence(at), rounding: Some(rounding) };
        catalogue.resolve(db, None, &instant, &log).map(|found| found.sequence.number())
    };
    assert_eq!(round(Rounding::Flush, 55), Ok(47));
    assert_eq!(round(Rounding::Mark, 55), Ok(42));
    assert_eq!(round(Rounding::Quiet(2), 55), Ok(50));
    for (rounding, at) in [(Rounding::Flush, 29), (Rounding::Mark, 41)] {
        assert!(matches!(round(rounding, at), Err(InstantError::NothingBefore { .. })));
    }
}

#[test]
fn a_thinned_instant_says_how_far_it_is() {
    let (catalogue, db) = with_db();
    let log = Log { kept_every: 20, ..Log::default() };
    let instant = Instant { at: At::Time(when(59).time), rounding: None };
    let found = catalogue.resolve(db, None, &instant, &log).expect("kept before");
    assert_eq!((found.sequence, found.thinned), (sequence(40), true));
    assert_eq!(found.before_ns, 19 * 1_000_000_000);
}
