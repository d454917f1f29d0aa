//! The manifest and the super blocks as somebody left them. What is damaged is an error or the
//! beginning of what was appended; what was sealed by a store's key but says nonsense is refused record by
//! record; a super block, whose checksum everybody can make, opens for its own secrets only.
//! For the fuzzer (targets `manifest` and `super_block`) and for `main.rs`.

use catalogue::{Catalogue, CatalogueRecord, MarkName, NewMark, Note, Who};
use manifest::{
    Facts, KeyFile, NewSlot, Record, RecoveryKey, SUPER_BYTES, Secret, Secrets, read_copies,
};
use seal::{Key, RecordKey, Stretch, TagKey};
use segment_log::{
    Config, Keyring,
    state::{Fact, KIND_END, LogState},
};
use sim::{Machine, Place, STORE, master};
use sim_world::{Seed, SimChance, SimDisk};
use std::sync::LazyLock;
use units::{BranchId, ClientId, Sequence, Timestamp, VolumeId};

const GENERATION: u64 = 1;
const HEADER: usize = 96;
const SALT: std::ops::Range<usize> = 40..72;
const SUPERS: [&str; 2] = ["super.a", "super.b"];

/// The manifest of a store with a life behind it.
struct Sample {
    bytes: Vec<u8>,
    records: Vec<Record>,
}

static SAMPLE: LazyLock<Sample> = LazyLock::new(|| {
    let place = Place::new(Seed(31));
    place.make_store().expect("an empty disk");
    let mut machine = Machine::start(&place, Config::default()).expect("a new store");
    machine.create("disk", 1 << 20).expect("no crash");
    let (other, branch) = machine.create("other", 1 << 20).expect("no crash");
    live(&mut machine, other, branch);
    machine.flush_all().expect("no crash");
    drop(machine);
    let path = format!("manifest/{GENERATION}.a");
    let bytes = place.disk.bytes(&path).expect("it was made");
    let records = read([&bytes, &bytes]).expect("whole");
    assert!(records.len() > 10, "{} records", records.len());
    Sample { bytes, records }
});

/// A step of a catalogue's life.
type Plan<'a> = Box<dyn Fn(&Catalogue) -> Vec<CatalogueRecord> + 'a>;

/// A mark, a client, a clone, a rewind, an opened instant, a new size, the trash.
fn live(machine: &mut Machine, volume: VolumeId, branch: BranchId) {
    let now = machine.now().expect("no crash");
    let note = Note::parse("before the upgrade");
    let (name, made_by) = (MarkName::parse("golden").expect("a name"), ClientId(0));
    let (keep_until, pinned) = (Some(Timestamp(i64::MAX)), true);
    let mark = NewMark { branch, at: now, name, keep_until, pinned, made_by, note };
    let who = Who::Process { uid: 0, pid: 7, start: 99 };
    let client = ClientId(1);
    let steps: Vec<Plan<'_>> = vec![
        Box::new(|it| it.plan_mark(mark.clone(), now.time).expect("live").1),
        Box::new(|it| it.plan_client(&who).1),
        Box::new(|it| it.plan_attach(branch, client, now.time).expect("may come")),
        Box::new(|it| it.plan_end_attachment(branch, client)),
        Box::new(|it| it.plan_clone(branch, now, sim::new_volume("copy"), now).expect("free").1),
        Box::new(|it| it.plan_open_instant(branch, now, 9, now.time).expect("live").1),
        Box::new(|it| it.plan_open_branch(volume, branch, now, Some(9), now).expect("live").1),
        Box::new(|it| it.plan_resize(volume, 2 << 20, false, now.sequence.next()).expect("grows")),
        Box::new(|it| it.plan_rewind(volume, branch, now, now).expect("nobody there").1),
        Box::new(|it| it.plan_remove(VolumeId(1), now.time).expect("nobody there")),
    ];
    for plan in steps {
        let records = plan(machine.store.catalogue());
        assert_eq!(machine.change(records), Some(true));
    }
}

fn read(copies: [&[u8]; 2]) -> Result<Vec<Record>, String> {
    read_copies(copies, &master(), STORE, GENERATION).map_err(|error| error.to_string())
}

/// The first byte chooses: damage to the copies, or the text of a sealed entry.
pub fn check_manifest(bytes: &[u8]) {
    let Some((way, bytes)) = bytes.split_first() else { return };
    if way % 2 == 0 {
        damaged(bytes);
    } else {
        sealed(bytes);
    }
}

/// Each five bytes change a copy: which and how, where, what.
fn damaged(bytes: &[u8]) {
    let sample = &*SAMPLE;
    let mut copies = [sample.bytes.clone(), sample.bytes.clone()];
    for change in bytes.chunks_exact(5) {
        let copy = &mut copies[usize::from(change[0] & 1)];
        let at = usize::from(u16::from_le_bytes([change[1], change[2]])) % copy.len().max(1);
        match change[0] >> 1 & 3 {
            0 if at < copy.len() => copy[at] = change[3],
            1 => copy.truncate(at),
            2 => {
                let from = usize::from(u16::from_le_bytes([change[3], change[4]]));
                let part = copy.get(from..).unwrap_or_default().to_vec();
                copy.truncate(at);
                copy.extend(part);
            }
            _ => copy.push(change[3]),
        }
    }
    if let Ok(records) = read([&copies[0], &copies[1]]) {
        assert!(sample.records.starts_with(&records), "other records than were appended");
    }
}

/// What a later version or a fault of ours could have sealed.
fn sealed(text: &[u8]) {
    let sample = &*SAMPLE;
    let mut copy = sample.bytes.clone();
    let salt = &copy[SALT];
    let key = RecordKey::new(&master().derive("manifest", salt));
    let (mut at, mut number, mut previous) = (HEADER, 0_u64, copy[80..96].to_vec());
    while at < copy.len() {
        let length = u32::from_le_bytes(copy[at..at + 4].try_into().expect("four"));
        at += 40 + length as usize;
        number += 1;
        previous = copy[at - 16..at].to_vec();
    }
    let mut entry = Vec::new();
    let length = u32::try_from(text.len() + 16).expect("inputs are short");
    entry.extend_from_slice(&length.to_le_bytes());
    entry.extend_from_slice(&[0xee; 12]);
    entry.extend_from_slice(&number.to_le_bytes());
    entry.extend_from_slice(&previous);
    let mut body = text.to_vec();
    key.seal([0xee; 12], &entry, &mut body);
    entry.append(&mut body);
    copy.append(&mut entry);
    let Ok(records) = read([&copy, &[]]) else { return };
    assert!(records.starts_with(&sample.records), "what came before stands");
    understood(&records);
}

/// Takes records as a start does, as far as they make sense.
fn understood(records: &[Record]) {
    let (mut state, mut catalogue) = (LogState::default(), Catalogue::new());
    for record in records {
        if record.kind < KIND_END {
            let Ok(fact) = Fact::decode(record) else { return };
            assert_eq!(Fact::decode(&fact.encode()).expect("ours"), fact);
            if state.apply(&fact).is_err() {
                return;
            }
        } else {
            let Ok(decoded) = CatalogueRecord::decode(record.kind, &record.body) else { return };
            let (kind, body) = decoded.encode();
            let again = CatalogueRecord::decode(kind, &body).expect("ours");
            assert_eq!(again.encode(), (kind, body));
            if catalogue.apply(decoded).is_err() {
                return;
            }
        }
    }
    let mut again = LogState::default();
    for fact in state.snapshot() {
        again.apply(&fact).expect("a snapshot makes sense");
    }
    let mut again = Catalogue::new();
    for record in catalogue.snapshot() {
        again.apply(record).expect("a snapshot makes sense");
    }
    assert_eq!(again.snapshot().len(), catalogue.snapshot().len());
    volume::learn_keys(&catalogue, &Keyring::default());
    ask(&catalogue);
}

/// Nothing that a catalogue is asked for panics or never ends.
fn ask(catalogue: &Catalogue) {
    let volumes: Vec<VolumeId> = catalogue.volumes().map(|volume| volume.id).collect();
    for volume in volumes {
        let _ = catalogue.start(volume);
        let _ = catalogue.present(volume).map(|branch| branch.id);
        let _ = catalogue.attachments(volume).count() + catalogue.marks(volume).count();
        let branches: Vec<BranchId> = catalogue.branches(volume).map(|branch| branch.id).collect();
        for branch in branches {
            let _ = catalogue.chain(branch, Sequence::MAX).len();
            let _ = catalogue.size_at(branch, Sequence::MAX);
        }
    }
}

/// A store's super block, its key file, its recovery key, its master key.
struct Opening {
    super_block: Vec<u8>,
    file: KeyFile,
    recovery: RecoveryKey,
    master: Key,
}

static OPENING: LazyLock<Opening> = LazyLock::new(|| {
    let (disk, chance) = (SimDisk::new(Seed(2)), SimChance::new(Seed(2)));
    let (file, recovery) = (KeyFile::random(STORE, &chance), RecoveryKey::random(&chance));
    let (label, made, stretch) = ("laptop", Timestamp(5), Stretch::DEFAULT);
    let slots = [
        NewSlot { secret: Secret::KeyFile(&file), label, made, stretch },
        NewSlot { secret: Secret::Recovery(&recovery), label: "", made, stretch },
    ];
    let facts = Facts { store: STORE, created: Timestamp(4), segment_bytes: 8 << 20 };
    let (_, master) = Secrets::create(&disk, facts, &slots, &chance).expect("an empty disk");
    let super_block = disk.bytes(SUPERS[0]).expect("it was made");
    Opening { super_block, file, recovery, master }
});

/// Each four bytes change a byte of a copy; the first byte of all says whose checksum is made right.
pub fn check_super_block(bytes: &[u8]) {
    let Some((right, bytes)) = bytes.split_first() else { return };
    let opening = &*OPENING;
    let mut copies = [opening.super_block.clone(), opening.super_block.clone()];
    for change in bytes.chunks_exact(4) {
        let copy = &mut copies[usize::from(change[0] & 1)];
        let at = usize::from(u16::from_le_bytes([change[1], change[2]])) % SUPER_BYTES;
        match copy.get_mut(at) {
            Some(byte) if change[0] & 0x80 == 0 => *byte = change[3],
            _ => copy.truncate(at),
        }
    }
    let disk = SimDisk::new(Seed(3));
    for (number, (path, copy)) in SUPERS.into_iter().zip(&mut copies).enumerate() {
        if right >> number & 1 == 1 && copy.len() == SUPER_BYTES {
            let key = TagKey::new(&Key::from_bytes([0; 32]));
            let checksum = key.tag([0xff; 12], &[&copy[..SUPER_BYTES - 16]]);
            copy[SUPER_BYTES - 16..].copy_from_slice(&checksum);
        }
        put(&disk, path, copy);
    }
    let Ok(mut secrets) = Secrets::read(&disk) else { return };
    let _ = (secrets.slots(), secrets.stale(), secrets.generation());
    let unharmed = copies.contains(&opening.super_block);
    for secret in [Secret::KeyFile(&opening.file), Secret::Recovery(&opening.recovery)] {
        if let Ok(master) = secrets.unlock(secret) {
            assert_eq!(master.as_bytes(), opening.master.as_bytes());
            assert_eq!(secrets.facts().store, STORE, "only what its key has tagged opens");
            assert_eq!(secrets.facts().segment_bytes, 8 << 20);
            assert!(unharmed || right & 3 != 0, "a damaged block has no checksum");
        }
    }
    let chance = SimChance::new(Seed(4));
    let (label, made, stretch) = ("new", Timestamp(9), Stretch::DEFAULT);
    let slot = NewSlot { secret: Secret::KeyFile(&opening.file), label, made, stretch };
    if secrets.heal(&disk, &opening.master).is_ok() {
        let _ = secrets.add(&disk, &opening.master, slot, &chance);
        assert!(Secrets::read(&disk).expect("written now").unlock(slot.secret).is_ok());
    }
}

fn put(disk: &SimDisk, path: &str, bytes: &[u8]) {
    use world::Disk as _;
    let file = disk.open(path, world::Access::WRITE.new_file()).expect("an empty disk");
    file.write_at(0, bytes).expect("no fault");
}

/// Beginnings for the fuzzer: records as they are, so that it need not guess kinds and lengths.
pub fn seeds() -> Vec<Vec<u8>> {
    let of = |record: &Record| {
        let length = u32::try_from(record.body.len()).expect("short");
        let mut text = vec![1];
        text.extend_from_slice(&record.kind.to_le_bytes());
        text.extend_from_slice(&[0; 2]);
        text.extend_from_slice(&length.to_le_bytes());
        text.extend_from_slice(&record.body);
        text
    };
    let mut seeds: Vec<Vec<u8>> = SAMPLE.records.iter().map(of).collect();
    let all = SAMPLE.records.iter().flat_map(|record| of(record).split_off(1));
    seeds.push([1].into_iter().chain(all).collect());
    seeds.push(vec![0, 0, 9, 0, 1, 0]);
    seeds
}
