//! Segments and packs of a store that somebody changed: bytes set, cut off, zeroed, or put in place of
//! others of the same file, as a misdirected write or an old tail does. Whatever comes of it, the store
//! opens or says why not, and every block of every instant is what it was, or an error.
//! For the fuzzer (targets `segment` and `pack`) and for `main.rs`.

use block_device::{Answer, BlockError, Command, Payload};
use segment_log::Config;
use sim::{Machine, Place};
use sim_world::{Seed, SimDisk};
use std::sync::LazyLock;
use units::{BLOCK, BranchId, ClientId, Sequence};
use volume::ViewId;

const CLIENT: ClientId = ClientId(7);
const BRANCH: BranchId = BranchId(1);
const BLOCKS: usize = 48;
const REQUESTS: usize = 60;
const SEGMENT_BYTES: u32 = 256 << 10;
/// What moves and is zeroed: the smallest batch begins at any of these.
const SECTOR: usize = 512;
/// Changes of one input: more tell nothing new.
const CHANGES_MAX: usize = 16;
/// Bytes of a change: what, which file, where (24 bits), from where (24 bits).
pub const CHANGE: usize = 8;

/// A store whose process was killed, and what each instant held.
struct Sample {
    disk: SimDisk,
    /// First byte of each block after each request; all blocks are of one byte.
    history: Vec<[u8; BLOCKS]>,
}

static SAMPLE: LazyLock<Sample> = LazyLock::new(sample);

fn config() -> Config {
    Config {
        pack: true,
        segment_bytes: SEGMENT_BYTES.into(),
        images: 1,
        pool_files: 1,
        ..Config::default()
    }
}

fn sample() -> Sample {
    let place = Place::new(Seed(23));
    place.make_store().expect("an empty disk");
    let mut machine = Machine::start(&place, config()).expect("a new store");
    machine.create("disk", (BLOCKS * BLOCK) as u64).expect("no crash");
    let view = machine.view(BRANCH, None);
    let mut rng = Seed(23).rng("writes");
    let mut history = vec![[0; BLOCKS]];
    for number in 1..=REQUESTS {
        let count = 1 + rng.index(8);
        let first = rng.index(BLOCKS - count);
        let fill = u8::try_from(number).expect("below 256") * u8::from(number % 9 != 0);
        let (offset_bytes, length) = ((first * BLOCK) as u64, count * BLOCK);
        let bytes = vec![fill; length];
        let command = match fill {
            0 => Command::Trim { offset_bytes, length_bytes: length as u64, fua: false },
            _ => Command::Write { offset_bytes, data: Payload::Borrowed(&bytes), fua: false },
        };
        machine.ask(view, CLIENT, command).expect("no fault");
        let mut blocks = history[history.len() - 1];
        blocks[first..first + count].fill(fill);
        history.push(blocks);
        if number % 7 == 0 {
            machine.ask(view, CLIENT, Command::Flush).expect("no fault");
        }
        if number % 10 == 0 {
            machine.settle();
        }
    }
    machine.flush_all().expect("no crash");
    machine.settle();
    drop(machine);
    Sample { disk: place.disk.copy(), history }
}

/// Changes files of the log.
pub fn check_segment(bytes: &[u8]) {
    check("log/", bytes);
}

/// Changes packs.
pub fn check_pack(bytes: &[u8]) {
    check("pack/", bytes);
}

fn check(directory: &str, bytes: &[u8]) {
    let sample = &*SAMPLE;
    let disk = sample.disk.copy();
    let files: Vec<String> =
        disk.files().into_iter().filter(|path| path.starts_with(directory)).collect();
    assert!(files.len() > 1, "the sample has {directory} files: {files:?}");
    for change in bytes.chunks_exact(CHANGE).take(CHANGES_MAX) {
        make(&disk, &files[usize::from(change[1]) % files.len()], change);
    }
    // A store that would lose flushed data in silence does not open: that is an answer.
    let Ok(mut machine) = Machine::start(&Place::with_disk(Seed(5), disk), config()) else {
        return;
    };
    let last = usize::try_from(machine.store.log().last().number()).expect("small");
    let last = last.min(REQUESTS);
    let present = machine.view(BRANCH, None);
    read(&mut machine, present, &sample.history[last]);
    for at in [17, 40].into_iter().filter(|at| *at <= last) {
        let view = machine.view(BRANCH, Sequence::new(at as u64));
        read(&mut machine, view, &sample.history[at]);
        machine.store.close_view(view);
    }
    goes_on(&mut machine, present);
}

fn make(disk: &SimDisk, path: &str, change: &[u8]) {
    let length = disk.length_bytes(path).expect("listed");
    let number =
        |at: usize| u64::from_le_bytes([change[at], change[at + 1], change[at + 2], 0, 0, 0, 0, 0]);
    let within = |number: u64| if length == 0 { 0 } else { number % length };
    let sector = |number: u64| within(number * SECTOR as u64) / SECTOR as u64 * SECTOR as u64;
    let (at, from) = (number(2), number(5));
    match change[0] % 5 {
        0 => disk.overwrite(path, within(at), &[change[5]]),
        1 => disk.flip_bit(path, within(at), change[5] % 8),
        2 => disk.truncate(path, within(at)),
        3 => disk.overwrite(path, sector(at), &vec![0; SECTOR]),
        _ => {
            let bytes = disk.bytes_at(path, sector(from), SECTOR * usize::from(1 + change[0] / 5));
            disk.overwrite(path, sector(at), &bytes.unwrap_or_default());
        }
    }
}

/// Reads every block by itself.
fn read(machine: &mut Machine, view: ViewId, wanted: &[u8; BLOCKS]) {
    for (block, wanted) in wanted.iter().enumerate() {
        let offset_bytes = (block * BLOCK) as u64;
        let command = Command::Read { offset_bytes, length_bytes: BLOCK as u64 };
        match machine.ask(view, CLIENT, command) {
            Ok(Answer::Data(parts)) => {
                let mut bytes = parts.iter().flat_map(|part| part.iter());
                assert!(bytes.all(|byte| byte == wanted), "R1: block {block} is of no instant");
            }
            Err(BlockError::Io) => {}
            other => panic!("block {block}: {other:?}"),
        }
    }
}

/// What is written anew can be read.
fn goes_on(machine: &mut Machine, view: ViewId) {
    let bytes = vec![200; 2 * BLOCK];
    let data = Payload::Borrowed(&bytes);
    let write = Command::Write { offset_bytes: BLOCK as u64, data, fua: true };
    assert!(matches!(machine.ask(view, CLIENT, write), Ok(Answer::Written(_))));
    let again = Command::Read { offset_bytes: BLOCK as u64, length_bytes: 2 * BLOCK as u64 };
    let Ok(Answer::Data(parts)) = machine.ask(view, CLIENT, again) else {
        panic!("what was written now cannot be read");
    };
    assert!(parts.iter().all(|part| part.iter().all(|byte| *byte == 200)));
}
