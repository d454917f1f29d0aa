//! The manifest when the power is cut at, amid and after every disk operation, and again while that
//! is being repaired: what was answered is there, and of what was not, all of a call or nothing.

use manifest::{Manifest, Mode, Record};
use seal::Key;
use sim_world::{
    CutPolicy, DirtyPages, Fault, Moment, Rule, Seed, SimChance, SimDisk, every_crash,
};
use units::StoreId;

const STORE: StoreId = StoreId([7; 16]);

fn master() -> Key {
    Key::from_bytes([1; 32])
}

fn record(kind: u16, length: usize) -> Record {
    Record { kind, body: vec![u8::try_from(kind % 251).expect("small"); length] }
}

/// States that the manifest may be in: the last one answered and, if a call was cut, the next one.
#[derive(Clone, Default)]
struct Model {
    exists: bool,
    answered: Vec<Record>,
    maybe: Option<Vec<Record>>,
}

impl Model {
    fn check(&self, found: &[Record], words: &str) {
        let next = self.maybe.as_deref();
        assert!(
            found == self.answered || next == Some(found),
            "{words}: {} records, answered were {}",
            found.len(),
            self.answered.len()
        );
    }
}

/// Appends of several sizes (one of them longer than a sector, one empty), a rewrite, an append.
fn script(disk: &SimDisk) -> Model {
    let chance = SimChance::new(Seed(5));
    let mut model = Model { maybe: Some(Vec::new()), ..Model::default() };
    let Ok(mut manifest) = Manifest::create(disk, &master(), STORE, &chance) else { return model };
    model = Model { exists: true, ..Model::default() };
    let append = |manifest: &mut Manifest, model: &mut Model, records: &[Record]| {
        let next = [&model.answered[..], records].concat();
        model.maybe = Some(next.clone());
        manifest.append(records).ok()?;
        model.answered = next;
        Some(())
    };
    let mut rest = || {
        append(&mut manifest, &mut model, &[record(1, 10), record(2, 2000), record(3, 0)])?;
        append(&mut manifest, &mut model, &[record(4, 300)])?;
        let snapshot = vec![record(9, 700), record(4, 300)];
        model.maybe = Some(snapshot.clone());
        manifest.rewrite(disk, &chance, &snapshot).ok()?;
        model.answered = snapshot;
        append(&mut manifest, &mut model, &[record(5, 600), record(6, 1)])?;
        model.maybe = None;
        Some(())
    };
    rest();
    model
}

fn open(disk: &SimDisk, seed: u64) -> Result<(Manifest, Vec<Record>), manifest::ManifestError> {
    let chance = SimChance::new(Seed(seed));
    Manifest::open(disk, &master(), STORE, Mode::Write(&chance))
}

#[test]
fn answered_records_survive_a_cut_anywhere() {
    let images = every_crash(Seed(1), &SimDisk::new(Seed(1)), script, |image, model, words| {
        let before = image.digest_visible();
        let read = Manifest::open(image, &master(), STORE, Mode::Read);
        assert_eq!(image.digest_visible(), before, "{words}: read-only wrote");
        let Ok((_, seen)) = read else {
            assert!(!model.exists, "{words}: {read:?}");
            return;
        };
        model.check(&seen, words);
        let (_, found) = open(image, 6).expect(words);
        assert_eq!(found, seen, "{words}: healing changed the records");
        // What was seen once stays, whatever is lost now; and it goes on from there.
        let image = image.power_cut(CutPolicy::None, &mut Seed(2).rng("again"));
        let (_, again) = open(&image, 7).expect(words);
        assert_eq!(again, found, "{words}: a second cut took what had been read");
        let (mut manifest, _) = open(&image, 8).expect(words);
        assert!(manifest.repairs().is_empty(), "{words}: {:?}", manifest.repairs());
        manifest.append(&[record(8, 5)]).expect(words);
        let files = image.files();
        assert_eq!(files.len(), 2, "{words}: leftovers among {files:?}");
        assert_eq!(image.bytes(&files[0]), image.bytes(&files[1]), "{words}");
        let (_, longer) = open(&image, 9).expect(words);
        assert_eq!(longer, [&found[..], &[record(8, 5)]].concat(), "{words}");
    });
    assert!(images > 300, "only {images} images");
}

#[test]
fn a_cut_while_healing_loses_nothing() {
    let disk = SimDisk::new(Seed(3));
    let model = script(&disk);
    let files = disk.files();
    for (damage, path) in files.iter().enumerate() {
        let disk = disk.copy();
        disk.flip_bit(path, 200, 3);
        disk.truncate(path, 900 + u64::try_from(damage).expect("small"));
        every_crash(
            Seed(4),
            &disk,
            |disk| open(disk, 6).is_ok(),
            |image, _, words| {
                let (_, found) = open(image, 7).expect(words);
                assert_eq!(found, model.answered, "{words}");
            },
        );
    }
}

#[test]
fn after_an_error_every_call_says_so() {
    for fault in [
        Fault::WriteError,
        Fault::ShortWrite,
        Fault::NoSpace,
        Fault::SyncError(DirtyPages::StayVisible),
        Fault::SyncError(DirtyPages::Vanish),
    ] {
        let disk = SimDisk::new(Seed(3));
        let model = script(&disk);
        let (mut manifest, _) = open(&disk, 1).expect("whole");
        let rule = disk.inject(Rule::once(fault));
        manifest.append(&[record(7, 7)]).expect_err("the disk failed");
        disk.take_back(rule);
        let error = manifest.append(&[record(7, 7)]).expect_err("in doubt");
        assert!(error.to_string().contains("in doubt"), "{error}");
        let chance = SimChance::new(Seed(1));
        manifest.rewrite(&disk, &chance, &[]).expect_err("in doubt");
        let (_, found) = open(&disk, 2).expect("whole");
        assert!(found.starts_with(&model.answered) && found.len() <= model.answered.len() + 1);
        // Also what a failed sync left in the cache only is durable once it has been read.
        let image = disk.power_cut(CutPolicy::None, &mut Seed(1).rng("cut"));
        assert_eq!(open(&image, 3).expect("whole").1, found, "{fault:?}");
    }
}

#[test]
fn a_rewrite_without_room_leaves_the_old_one_in_use() {
    let disk = SimDisk::new(Seed(3));
    let model = script(&disk);
    let (mut manifest, _) = open(&disk, 1).expect("whole");
    let rule = disk.inject(Rule::once(Fault::NoSpace));
    let chance = SimChance::new(Seed(1));
    manifest.rewrite(&disk, &chance, &[record(1, 1)]).expect_err("no room");
    disk.take_back(rule);
    manifest.append(&[record(7, 7)]).expect("the old one goes on");
    let (_, found) = open(&disk, 2).expect("whole");
    assert_eq!(found, [&model.answered[..], &[record(7, 7)]].concat());
}

#[test]
fn a_crash_right_after_create_leaves_a_manifest() {
    let disk = SimDisk::new(Seed(3));
    let chance = SimChance::new(Seed(1));
    Manifest::create(&disk, &master(), STORE, &chance).expect("an empty disk");
    disk.crash_at_operation(disk.operations(), Moment::Before);
    let image = disk.power_cut(CutPolicy::None, &mut Seed(1).rng("cut"));
    assert_eq!(open(&image, 1).expect("durable").1, []);
}
