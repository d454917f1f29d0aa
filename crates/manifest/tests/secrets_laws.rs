//! Laws of the super blocks: each secret opens its store and nothing else does; a damaged copy never
//! matters, two never pass for something else; a cut leaves the old secrets or the new ones.

use manifest::{
    Facts, KeyFile, NewSlot, RecoveryKey, SUPER_BYTES, Secret, Secrets, SecretsError, SlotKind,
};
use seal::{Key, Stretch};
use sim_world::{CutPolicy, Seed, SimChance, SimDisk, every_crash};
use units::{StoreId, Timestamp};
use zeroize::Zeroizing;

const STORE: StoreId = StoreId([0x7f; 16]);
const FACTS: Facts =
    Facts { store: STORE, created: Timestamp(1_700_000_000), segment_bytes: 8 << 20 };
const CHEAP: Stretch = Stretch { memory_kib: 64, passes: 1, lanes: 4 };

struct Given {
    disk: SimDisk,
    chance: SimChance,
    secrets: Secrets,
    master: Key,
    file: KeyFile,
    recovery: RecoveryKey,
}

fn slot<'a>(secret: Secret<'a>, label: &'a str) -> NewSlot<'a> {
    NewSlot { secret, label, made: Timestamp(5), stretch: CHEAP }
}

fn words(text: &str) -> Zeroizing<String> {
    Zeroizing::new(text.to_owned())
}

fn given() -> Given {
    let (disk, chance) = (SimDisk::new(Seed(1)), SimChance::new(Seed(2)));
    let file = KeyFile::random(STORE, &chance);
    let recovery = RecoveryKey::random(&chance);
    let slots =
        [slot(Secret::KeyFile(&file), "this machine"), slot(Secret::Recovery(&recovery), "paper")];
    let (secrets, master) = Secrets::create(&disk, FACTS, &slots, &chance).expect("empty disk");
    Given { disk, chance, secrets, master, file, recovery }
}

fn opens(disk: &SimDisk, secret: Secret) -> Result<Key, SecretsError> {
    Secrets::read(disk).and_then(|secrets| secrets.unlock(secret))
}

#[test]
fn each_secret_opens_the_store() {
    let mut given = given();
    let passphrase = words("correct horse");
    let new = slot(Secret::Passphrase(&passphrase), "");
    let id = given.secrets.add(&given.disk, &given.master, new, &given.chance).expect("room");
    assert_eq!(id, 3);
    let file = KeyFile::parse(given.file.to_text().as_bytes()).expect("its own text");
    let recovery = RecoveryKey::parse(&given.recovery.to_text()).expect("its own text");
    for secret in
        [Secret::KeyFile(&file), Secret::Recovery(&recovery), Secret::Passphrase(&passphrase)]
    {
        let key = opens(&given.disk, secret).expect("one of its secrets");
        assert_eq!(key.as_bytes(), given.master.as_bytes());
    }
    let read = Secrets::read(&given.disk).expect("whole");
    assert_eq!(read.facts(), FACTS);
    let slots: Vec<_> = read.slots().into_iter().map(|slot| (slot.id, slot.kind)).collect();
    assert_eq!(slots, [(1, SlotKind::KeyFile), (2, SlotKind::Recovery), (3, SlotKind::Passphrase)]);
    assert_eq!(read.slots()[0].label, "this machine");
}

#[test]
fn wrong_secrets_are_told_apart() {
    let mut given = given();
    let wrong = words("wrong");
    let error = opens(&given.disk, Secret::Passphrase(&wrong)).expect_err("no such slot");
    assert_eq!(error.to_string(), "store 7f7f-7f7f has no passphrase");
    let right = words("right");
    let new = slot(Secret::Passphrase(&right), "");
    given.secrets.add(&given.disk, &given.master, new, &given.chance).expect("room");
    let error = opens(&given.disk, Secret::Passphrase(&wrong)).expect_err("wrong");
    assert_eq!(error.to_string(), "this passphrase opens no key of store 7f7f-7f7f");
    let empty = words("");
    assert!(opens(&given.disk, Secret::Passphrase(&empty)).is_err());
    let other = KeyFile::random(StoreId([1; 16]), &given.chance);
    let error = opens(&given.disk, Secret::KeyFile(&other)).expect_err("of another store");
    assert!(matches!(error, SecretsError::OtherStore { .. }), "{error}");
    let same = KeyFile::random(STORE, &given.chance);
    let error = opens(&given.disk, Secret::KeyFile(&same)).expect_err("another key");
    assert!(matches!(error, SecretsError::WrongSecret { .. }), "{error}");
    for bytes in [&b""[..], b"strandline-key-1 00 11", b"\xff\xff", b"strandline-key-1"] {
        assert!(matches!(KeyFile::parse(bytes), Err(SecretsError::NoKeyFile)), "{bytes:?}");
    }
}

#[test]
fn slots_are_removed_and_rotated_but_never_the_last() {
    let Given { disk, chance, mut secrets, master, file, recovery } = given();
    secrets.remove(&disk, &master, 1, &chance).expect("one is left");
    assert!(matches!(
        opens(&disk, Secret::KeyFile(&file)),
        Err(SecretsError::NoSlot { kind: SlotKind::KeyFile, .. })
    ));
    let error = secrets.remove(&disk, &master, 2, &chance).expect_err("the last");
    assert!(matches!(error, SecretsError::LastSlot { id: 2 }), "{error}");
    let error = secrets.remove(&disk, &master, 1, &chance).expect_err("gone");
    assert!(matches!(error, SecretsError::UnknownSlot { id: 1, .. }), "{error}");
    let fresh = RecoveryKey::random(&chance);
    let new = slot(Secret::Recovery(&fresh), "new paper");
    let id = secrets.rotate(&disk, &master, 2, new, &chance).expect("in one step");
    assert_eq!(id, 3);
    assert!(opens(&disk, Secret::Recovery(&recovery)).is_err());
    assert!(opens(&disk, Secret::Recovery(&fresh)).is_ok());
    // In neither copy, alone or not, does the old one open anything.
    for path in ["super.a", "super.b"] {
        let disk = disk.copy();
        disk.truncate(path, 10);
        assert!(opens(&disk, Secret::Recovery(&recovery)).is_err());
        assert!(opens(&disk, Secret::Recovery(&fresh)).is_ok());
    }
    let label = "x".repeat(65);
    let error = secrets.add(&disk, &master, slot(Secret::Recovery(&fresh), &label), &chance);
    assert!(matches!(error, Err(SecretsError::BadLabel)));
    while secrets.slots().len() < manifest::SLOTS_MAX {
        secrets.add(&disk, &master, slot(Secret::Recovery(&fresh), "x"), &chance).expect("room");
    }
    let error = secrets.add(&disk, &master, slot(Secret::Recovery(&fresh), ""), &chance);
    assert!(matches!(error, Err(SecretsError::Full)));
    assert!(opens(&disk, Secret::Recovery(&fresh)).is_ok(), "a full super block reads back");
}

#[test]
fn a_damaged_copy_never_matters() {
    let Given { disk, master, file, .. } = given();
    let whole = disk.bytes("super.a").expect("there");
    for path in ["super.a", "super.b"] {
        for byte in (0..SUPER_BYTES).step_by(7) {
            let disk = disk.copy();
            let at = u64::try_from(byte).expect("small");
            if byte % 2 == 0 {
                disk.flip_bit(path, at, 2);
            } else {
                disk.truncate(path, at);
            }
            let mut secrets = Secrets::read(&disk).expect("the other serves");
            assert_eq!(secrets.stale(), [path]);
            let key = secrets.unlock(Secret::KeyFile(&file)).expect("the other serves");
            assert_eq!(key.as_bytes(), master.as_bytes());
            assert_eq!(secrets.heal(&disk, &key).expect("no faults"), [path]);
            assert_eq!(disk.bytes(path).as_ref(), Some(&whole));
            // Both damaged: an error, whatever the place.
            disk.flip_bit("super.a", at, 2);
            disk.flip_bit("super.b", at, 2);
            assert!(Secrets::read(&disk).is_err(), "byte {byte}");
        }
    }
}

#[test]
fn a_copy_put_back_is_noticed_and_healed() {
    let Given { disk, chance, mut secrets, master, file, recovery } = given();
    let old = disk.bytes("super.b").expect("there");
    secrets.remove(&disk, &master, 2, &chance).expect("one is left");
    disk.overwrite("super.b", 0, &old);
    assert!(opens(&disk, Secret::Recovery(&recovery)).is_err(), "an old copy opened the store");
    let mut secrets = Secrets::read(&disk).expect("whole");
    assert_eq!(secrets.stale(), ["super.b"]);
    let master = secrets.unlock(Secret::KeyFile(&file)).expect("its key");
    secrets.heal(&disk, &master).expect("no faults");
    assert_eq!(disk.bytes("super.a"), disk.bytes("super.b"));

    let other = SimDisk::new(Seed(8));
    let facts = Facts { store: StoreId([1; 16]), ..FACTS };
    let slots = [slot(Secret::Recovery(&recovery), "")];
    Secrets::create(&other, facts, &slots, &chance).expect("empty disk");
    disk.overwrite("super.b", 0, &other.bytes("super.b").expect("there"));
    assert!(matches!(Secrets::read(&disk), Err(SecretsError::TwoStores { .. })));
    assert!(matches!(Secrets::read(&SimDisk::new(Seed(9))), Err(SecretsError::Missing)));
    let again = Secrets::create(&disk, FACTS, &slots, &chance);
    assert!(matches!(again, Err(SecretsError::Exists)));
}

#[test]
fn a_cut_leaves_the_old_secrets_or_the_new_ones() {
    let Given { disk, file, recovery, .. } = given();
    let chance = SimChance::new(Seed(3));
    let fresh = RecoveryKey::random(&chance);
    let script = |disk: &SimDisk| {
        let mut secrets = Secrets::read(disk).ok()?;
        let master = secrets.unlock(Secret::KeyFile(&file)).ok()?;
        let new = slot(Secret::Recovery(&fresh), "");
        secrets.rotate(disk, &master, 2, new, &chance).ok()
    };
    let images = every_crash(Seed(4), &disk, script, |image, answered, words| {
        let old = opens(image, Secret::Recovery(&recovery)).is_ok();
        let new = opens(image, Secret::Recovery(&fresh)).is_ok();
        assert!(old != new, "{words}: old {old}, new {new}");
        assert!(new || answered.is_none(), "{words}: the answered change is lost");
        let mut secrets = Secrets::read(image).expect(words);
        let master = secrets.unlock(Secret::KeyFile(&file)).expect(words);
        secrets.heal(image, &master).expect(words);
        let image = image.power_cut(CutPolicy::None, &mut Seed(5).rng("again"));
        assert_eq!(image.bytes("super.a"), image.bytes("super.b"), "{words}");
        assert_eq!(opens(&image, Secret::Recovery(&fresh)).is_ok(), new, "{words}: changed again");
    });
    assert!(images > 50, "only {images} images");
}
