//! The log against the plainest model: the pages of a file after every entry.

use proptest::{collection::vec, prelude::*};

use super::build::{Build, Change, LOG, LOG_GUID, MIB, Stamp, log_entry, low, put_ring};
use crate::{
    Class, FileId, OpenOptions,
    bytes::{narrow, wide},
    testing::{Folder, open, read_all},
    vhdx::{
        head::{self, Header},
        log::{Replay, replay},
    },
};

/// Where the pages of the model stand, and the file's length.
const PAGES_AT: u64 = 4 * MIB;
const PAGES: u64 = 8;
const FILE: u64 = 5 * MIB;

fn header() -> Header {
    let build = Build { log_guid: LOG_GUID, ..Build::default() };
    let bytes = build.image().0;
    let mut input = crate::Input::new(FileId(0), wide(bytes.len()));
    loop {
        let read = head::read(FileId(0), &input);
        match input.step(read) {
            crate::Step::Need(need) => {
                let at = narrow(need.offset);
                input.supply(bytes[at..at + need.len].to_vec()).unwrap();
            }
            crate::Step::Done(head) => return head.header,
            other => panic!("{other:?}"),
        }
    }
}

fn replayed(log: &[u8]) -> Result<Replay, Class> {
    let mut header = header();
    header.log_len = wide(log.len());
    replay(FileId(0), FILE, &header, log).map_err(|fault| fault.class)
}

fn stamp(sequence: u64, tail: u64) -> Stamp {
    Stamp { guid: LOG_GUID, sequence, tail, flushed: FILE, last: FILE }
}

fn page(fill: u8) -> Vec<u8> {
    (0..4096_u32).map(|n| n.to_le_bytes()[0] ^ fill).collect()
}

/// A log of 16 sectors with one entry at its start.
fn with_one(stamp: Stamp, changes: &[Change]) -> Vec<u8> {
    let mut log = vec![0; 16 * 4096];
    put_ring(&mut log, 0, &log_entry(stamp, changes));
    log
}

#[test]
fn log_without_a_whole_sequence_is_corrupt() {
    let good = with_one(stamp(5, 0), &[Change::Page(PAGES_AT, page(1))]);
    assert_eq!(replayed(&good).unwrap().entries, 1);
    assert_eq!(replayed(&vec![0; 16 * 4096]).unwrap_err(), Class::LogCorrupt);
    for (name, at, with) in [
        ("signature", 0, 1),
        ("checksum", 5, 1),
        ("length", 9, 0x10),
        ("length that is no multiple", 8, 1),
        ("length past the ring", 10, 8),
        ("tail in another place", 13, 0x10),
        ("tail past the ring", 15, 8),
        ("sequence number zero", 16, 5),
        ("more descriptors", 24, 2),
        ("very many descriptors", 27, 0xff),
        ("GUID", 40, 1),
        ("descriptor's signature", 64, 1),
        ("descriptor's number", 88, 1),
        ("data's signature", 4096, 1),
        ("data's bytes", 5000, 1),
        ("data's number", 8191, 1),
    ] {
        let mut bad = good.clone();
        bad[at] ^= with;
        if name != "checksum" {
            super::build::seal(&mut bad[..8192]);
        }
        if name == "data's bytes" {
            bad[5000] ^= 2;
        }
        assert_eq!(replayed(&bad).unwrap_err(), Class::LogCorrupt, "{name}");
    }
}

#[test]
fn targets_outside_their_bounds_are_corrupt() {
    let class = |change| replayed(&with_one(stamp(5, 0), &[change])).map(|_| ());
    assert_eq!(class(Change::Zero(PAGES_AT, 8192)), Ok(()));
    assert_eq!(class(Change::Zero(192 << 10, 4096)), Ok(()));
    for (at, len) in [
        (0, 4096),
        (0, MIB),
        (128 << 10, 4096),
        (LOG, 4096),
        (512 << 10, MIB),
        (PAGES_AT + 512, 4096),
        (PAGES_AT, 512),
        (FILE, 4096),
        (FILE - 4096, 8192),
        (1 << 45, 4096),
        (!4095, 8192),
        (4096, !4095),
    ] {
        assert_eq!(class(Change::Zero(at, len)), Err(Class::LogCorrupt), "{len} at {at}");
    }
    assert_eq!(class(Change::Page(1 << 45, page(1))), Err(Class::LogCorrupt));
}

#[test]
fn file_shorter_than_it_was_is_truncated() {
    let with = |flushed, last| {
        replayed(&with_one(Stamp { flushed, last, ..stamp(5, 0) }, &[Change::Zero(PAGES_AT, 4096)]))
    };
    assert_eq!(with(FILE + MIB, FILE + MIB).unwrap_err(), Class::Truncated);
    assert_eq!(with(FILE, FILE + MIB).unwrap().len, FILE + MIB);
    assert_eq!(with(FILE, 0).unwrap().len, FILE);
    assert_eq!(with(FILE, u64::MAX).unwrap_err(), Class::LogCorrupt);
}

#[test]
fn highest_sequence_wins_and_two_are_refused() {
    let log = |first, second| {
        let mut log = with_one(stamp(first, 0), &[Change::Page(PAGES_AT, page(1))]);
        let entry = log_entry(stamp(second, 5 * 4096), &[Change::Page(PAGES_AT, page(2))]);
        put_ring(&mut log, 5 * 4096, &entry);
        log
    };
    let first = |log: &[u8]| {
        let mut bytes = vec![0; 4096];
        replayed(log).map(|replay| {
            replay.overlay.patch(PAGES_AT, &mut bytes);
            (replay.sequence, bytes == page(1))
        })
    };
    assert_eq!(first(&log(5, 9)), Ok((9, false)));
    assert_eq!(first(&log(9, 5)), Ok((9, true)));
    assert_eq!(first(&log(9, 9)), Err(Class::LogCorrupt));
}

#[test]
fn torn_newest_entry_is_told() {
    let mut log = with_one(stamp(5, 0), &[Change::Page(PAGES_AT, page(1))]);
    put_ring(&mut log, 8192, &log_entry(stamp(6, 0), &[Change::Page(PAGES_AT, page(2))]));
    assert_eq!(replayed(&log).unwrap().lost, None);
    log[3 * 4096 + 9] ^= 1;
    let replay = replayed(&log).unwrap();
    assert_eq!((replay.sequence, replay.lost), (5, Some(6)));
}

#[test]
fn guest_bytes_of_the_log_count() {
    let build = Build { log_guid: LOG_GUID, ..Build::default() };
    let mut image = build.image();
    let end = wide(image.0.len());
    let stamp = Stamp { flushed: end, last: end + MIB, ..stamp(5, 0) };
    let changes = [Change::Page(PAGES_AT + 8192, page(7)), Change::Zero(PAGES_AT + 65536, 8192)];
    image.put(LOG, &log_entry(stamp, &changes));
    let mut guest = build.guest();
    guest[8192..12288].copy_from_slice(&page(7));
    guest[65536..65536 + 8192].fill(0);
    // A third block stands where only the log extends the file to: it is zero.
    image.put(3 * MIB + 8, &(end | 6).to_le_bytes());
    let folder = Folder::new().with("a.vhdx", image.0.clone());
    let mut chain = open(&folder, "a.vhdx", OpenOptions::default()).unwrap();
    assert_eq!(read_all(&folder, &mut chain).unwrap(), guest);
    assert!(chain.layers()[0].notes().iter().any(|note| note.class == Class::Unclean));
    assert_eq!(chain.layers()[0].facts().read_only, Some(Class::Unclean));
    // The same bytes without the log's GUID: its entries are dead.
    image.put_header(48, &[0; 16]);
    image.put(3 * MIB + 8, &[0; 8]);
    let folder = Folder::new().with("a.vhdx", image.0);
    let mut chain = open(&folder, "a.vhdx", OpenOptions::default()).unwrap();
    assert_eq!(read_all(&folder, &mut chain).unwrap(), build.guest());
}

#[test]
fn region_tables_and_block_table_come_from_the_log() {
    let build = Build { log_guid: LOG_GUID, ..Build::default() };
    let mut image = build.image();
    let end = wide(image.0.len());
    let pages = [192 << 10, 256 << 10, 2 * MIB, 3 * MIB];
    let changes: Vec<Change> =
        pages.iter().map(|at| Change::Page(*at, image.0[narrow(*at)..][..4096].to_vec())).collect();
    for at in pages {
        image.put(at, &[0xee; 4096]);
    }
    let stamp = Stamp { flushed: end, last: end, ..stamp(1 << 40, 0) };
    image.put(LOG, &log_entry(stamp, &changes));
    let folder = Folder::new().with("a.vhdx", image.0);
    let mut chain = open(&folder, "a.vhdx", OpenOptions::default()).unwrap();
    assert_eq!(read_all(&folder, &mut chain).unwrap(), build.guest());
}

#[test]
fn log_in_a_wrong_place_is_told_apart() {
    let class = |at, bytes: &[u8], guid| {
        let mut image = Build { log_guid: guid, ..Build::default() }.image();
        image.put_header(at, bytes);
        let folder = Folder::new().with("a.vhdx", image.0);
        open(&folder, "a.vhdx", OpenOptions::default()).map(|_| ()).map_err(|fault| fault.class)
    };
    for (at, value, wanted) in [
        (68, low(4096).to_vec(), Class::BadField),
        (68, low(0).to_vec(), Class::BadField),
        (72, (MIB + 4096).to_le_bytes().to_vec(), Class::PointerMisaligned),
        (72, 0_u64.to_le_bytes().to_vec(), Class::Overlap),
        (72, (1_u64 << 50).to_le_bytes().to_vec(), Class::PointerOutsideFile),
    ] {
        assert_eq!(class(at, &value, LOG_GUID), Err(wanted), "{at} {value:?}");
        assert_eq!(class(at, &value, [0; 16]), Ok(()), "an empty log is not needed");
    }
}

/// What a test writes: changes of pages, as many entries as the list has.
fn histories() -> impl Strategy<Value = Vec<Vec<(u64, u64, u8)>>> {
    vec(vec((0..PAGES, 0..4_u64, any::<u8>()), 0..4), 1..40)
}

proptest! {
    /// A ring that was written round several times: what is replayed, over a file that has all before
    /// the tail and anything after it, is the file after the last whole entry.
    #[test]
    fn replay_gives_the_file_after_the_last_whole_entry(
        history in histories(),
        begin in 0..32_usize,
        active in 1..9_usize,
        torn in 0..3_usize,
        junk in any::<u8>(),
    ) {
        let mut log = vec![junk; 32 * 4096];
        let mut model = vec![0; narrow(PAGES * 4096)];
        // Of each entry: its sector, its sectors, and the model before and after it.
        let mut written: Vec<(usize, usize, Vec<u8>, Vec<u8>)> = Vec::new();
        let mut at = begin * 4096;
        for (number, changes) in history.iter().enumerate() {
            let before = model.clone();
            let mut entry_changes = Vec::new();
            for (first, pages, fill) in changes {
                let start = narrow(first * 4096);
                let place = PAGES_AT + first * 4096;
                if *pages == 0 {
                    entry_changes.push(Change::Page(place, page(*fill)));
                    model[start..start + 4096].copy_from_slice(&page(*fill));
                } else {
                    let len = (*pages).min(PAGES - first) * 4096;
                    entry_changes.push(Change::Zero(place, len));
                    model[start..start + narrow(len)].fill(0);
                }
            }
            let sectors = 1 + entry_changes.iter().filter(|c| matches!(c, Change::Page(..))).count();
            // The tail: at most `active` entries, all of which the ring still has.
            let mut first = written.len();
            let mut room = 32 - sectors;
            while first > 0 && written.len() - first + 1 < active && written[first - 1].1 <= room {
                first -= 1;
                room -= written[first].1;
            }
            let tail = written.get(first).map_or(at, |entry| entry.0 * 4096);
            let stamp = stamp(100 + wide(number), wide(tail));
            let bytes = log_entry(stamp, &entry_changes);
            prop_assert_eq!(bytes.len(), sectors * 4096);
            put_ring(&mut log, at, &bytes);
            written.push((at / 4096, sectors, before, model.clone()));
            at = (at + bytes.len()) % log.len();
        }
        // The newest entries were not written whole.
        let torn = torn.min(written.len() - 1);
        for entry in &written[written.len() - torn..] {
            let last = (entry.0 + entry.1 - 1) % 32 * 4096;
            log[last + 2000] ^= 1;
        }
        let last = written.len() - torn - 1;
        let result = replayed(&log);
        // Entries that are overwritten by torn ones may be those that the tail needs: then nothing
        // is whole, or an older sequence is, and never other bytes.
        let replay = match result {
            Ok(replay) => replay,
            Err(class) => {
                prop_assert!(torn > 0 && class == Class::LogCorrupt);
                return Ok(());
            }
        };
        if torn == 0 {
            prop_assert_eq!(replay.sequence, 100 + wide(last));
            prop_assert!(replay.entries <= active);
        }
        let head = narrow(replay.sequence - 100);
        prop_assert!(head <= last);
        let first = head + 1 - replay.entries;
        let mut file = written[first].2.clone();
        // Pages that the replayed entries set may hold anything before.
        for changes in &history[first..=head] {
            for (place, pages, fill) in changes {
                let start = narrow(place * 4096);
                let len = narrow((*pages).clamp(1, PAGES - place) * 4096);
                file[start..start + len].fill(fill ^ junk);
            }
        }
        replay.overlay.patch(PAGES_AT, &mut file);
        prop_assert!(file == written[head].3, "the file after entry {}", head);
    }

    #[test]
    fn damaged_log_never_panics(
        flips in vec((0..8 * 4096_usize, any::<u8>()), 1..12),
        reseal in any::<bool>(),
    ) {
        let mut log = vec![0; 8 * 4096];
        let changes = [Change::Page(PAGES_AT, page(3)), Change::Zero(PAGES_AT, 8192)];
        put_ring(&mut log, 6 * 4096, &log_entry(stamp(1, 6 * 4096), &changes));
        put_ring(&mut log, 0, &log_entry(stamp(2, 6 * 4096), &changes));
        for (at, with) in flips {
            log[if reseal { at % 160 } else { at }] ^= with;
        }
        if reseal {
            super::build::seal(&mut log[..8192]);
        }
        if let Ok(replay) = replayed(&log) {
            prop_assert!(replay.entries <= 2);
        }
    }
}
