//! A run file whose seals hold but whose contents somebody changed: it may be refused and may answer
//! nonsense, but nothing panics and every question ends. For the fuzzer and for `damage_laws.rs`.

use crate::memory_disk::{Counting, MemoryDisk};
use history_index::{
    Bound, ClientRun, ClockPoint, Contents, Entry, FlushPoint, Index, LeafSet, MemoryRun,
    PageCache, Run, Source, Span, ZeroRange, write_run,
};
use seal::{Key, RecordKey};
use std::sync::{Arc, LazyLock};
use units::{BranchId, ClientId, Extent, FileId, Lba, Place, RunId, Sequence, Timestamp};

const PAGE: usize = 4096;

pub const RUN: RunId = RunId(5);

pub fn master() -> Key {
    Key::from_bytes([3; 32])
}

/// A run with several pages of entries and some of all else.
pub fn sample() -> MemoryRun {
    let sequence = |number| Sequence::new(number).expect("small");
    let mut contents = Contents::starting_at(sequence(10));
    for number in 10..2000_u64 {
        let branch = BranchId(u32::try_from(number % 3).expect("small"));
        let lba = Lba::new(number * 7919 % 1500).expect("small");
        let place = Place::new(FileId::new(4).expect("small"), number * 4128).expect("aligned");
        contents.entries.push(Entry { branch, lba, sequence: sequence(number), place });
        if number % 50 == 0 {
            let extent = Extent::new(lba, number % 300 + 1).expect("not empty");
            let sequence = sequence(number - 1);
            contents.ranges.push(ZeroRange { branch, sequence, extent, kind: 2 });
            contents.flushes.push(FlushPoint { branch, sequence });
            let client = ClientId(number % 7);
            contents.clients.push(ClientRun { first: sequence, client });
        }
        let wall = Timestamp(i64::try_from(number * 1_000_003).expect("small"));
        let era = u32::from(number > 900);
        contents.clock.push(ClockPoint { sequence: sequence(number), wall, era });
    }
    contents.last = sequence(1999);
    MemoryRun::new(contents)
}

/// Its file.
pub fn sample_file() -> Vec<u8> {
    let disk = MemoryDisk::default();
    write_run(&disk, "5.run", RUN, &master(), &Counting, &sample()).expect("written");
    disk.bytes("5.run")
}

/// Asks everything; the answers, or where one was refused, as text.
pub fn answers(bytes: Vec<u8>) -> Result<Vec<String>, String> {
    let disk = MemoryDisk::default();
    disk.put("5.run", bytes);
    let run = Run::open(&disk, "5.run", RUN, &master(), &PageCache::new(0));
    let run = Arc::new(run.map_err(|error| error.to_string())?);
    let sequence = |number| Sequence::new(number).expect("small");
    let chain = [
        Bound { branch: BranchId(1), up_to: sequence(1500) },
        Bound { branch: BranchId(0), up_to: sequence(700) },
    ];
    let mut index = Index::new();
    index.push(Source::File(run.clone()));
    let index = index.snapshot();
    let mut all = Vec::new();
    for number in [0, 2, 7] {
        let leaf = Lba::new(number * 512).expect("small").leaf();
        all.push(format!("{:?}", index.load_leaf(&chain, leaf).map_err(|_| "refused")));
    }
    let whole = sequence(0)..=Sequence::MAX;
    let entries = run.entries_of(Some(&[BranchId(1)]), &whole).take(1 << 16);
    let entries: Result<Vec<Entry>, _> = entries.collect();
    all.push(format!("{:?}", entries.map_err(|_| "refused")));
    all.push(format!("{:?}", run.ranges_of(&whole).map_err(|_| "refused")));
    all.push(format!("{:?}", run.clients_of(&whole).map_err(|_| "refused")));
    all.push(format!("{:?}", run.flushes_of(&whole).map_err(|_| "refused")));
    all.push(format!("{:?}", run.clock_at(Timestamp(950_000_000), 1).map_err(|_| "refused")));
    all.push(format!("{:?}", index.time_of(sequence(1234)).map_err(|_| "refused")));
    all.push(format!("{:?}", index.eras().map_err(|_| "refused")));
    let span = Span { branch: BranchId(0), after: sequence(100), up_to: sequence(600) };
    let mut leaves = LeafSet::default();
    let changed = run.leaves_changed(&[span], &mut leaves).map(|()| leaves);
    all.push(format!("{:?}", changed.map_err(|_| "refused")));
    Ok(all)
}

/// The sample's key and its pages, opened.
static OPENED: LazyLock<(RecordKey, Vec<u8>, Vec<Vec<u8>>)> = LazyLock::new(|| {
    let file = sample_file();
    let key = RecordKey::new(&master().derive("run", &file[24..56]));
    let opened = file.chunks(PAGE).zip(0_u64..).skip(1).map(|(page, number)| {
        let mut page = page.to_vec();
        key.open(nonce(number), &RUN.0.to_le_bytes(), &mut page).expect("whole");
        page
    });
    let opened = opened.collect();
    (key, file[..PAGE].to_vec(), opened)
});

fn nonce(number: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&number.to_le_bytes());
    nonce
}

/// Each four bytes change one byte of one page: page, offset, new value.
pub fn check(bytes: &[u8]) {
    let (key, header, opened) = &*OPENED;
    let mut pages = opened.clone();
    for change in bytes.chunks_exact(4) {
        let page = usize::from(change[0]) % pages.len();
        let at = usize::from(u16::from_le_bytes([change[1], change[2]])) % pages[page].len();
        pages[page][at] = change[3];
    }
    let mut file = header.clone();
    for (page, number) in pages.iter_mut().zip(1..) {
        key.seal(nonce(number), &RUN.0.to_le_bytes(), page);
        file.append(page);
    }
    let _ = answers(file);
}
