//! The manifest: a log of records in two copies, `manifest/N.a` and `manifest/N.b`.
//!
//! An append is one sealed entry, written to both copies and synced in both before it returns: all
//! of its records are there after a cut, or none. A rewrite puts a snapshot in place of the history:
//! generation N + 1 is written and synced under temporary names, renamed, its directory synced, and
//! only then is generation N removed. The greatest N is the one that counts; no older one is ever
//! read in its stead.
//!
//! A copy that differs from what both say together is replaced when the manifest is opened for
//! writing, before anything else. After an error that leaves the copies in doubt every later call
//! fails; opening again settles it.
//!
//! Nonces: each header has a fresh salt, thus a key; under it the nonce is 8 random bytes of this
//! opening ‖ a count. So neither a torn entry written again nor two copies of a store that go on
//! separately seal two texts under one nonce.

use std::io;

use seal::{Key, RecordKey};
use units::StoreId;
use world::{Access, Chance, Disk, File};

use crate::{
    ManifestError, Record,
    copies::{prepare, read_whole, remove_if_there, replace, temporary},
    entry::Link,
    merge::{self, Merged, merge},
};

const DIR: &str = "manifest";
const COPIES: [char; 2] = ['a', 'b'];
/// Records of a snapshot are sealed in entries of about this many bytes.
const SNAPSHOT_ENTRY_BYTES: usize = 1 << 20;

/// What an opened manifest is for.
#[derive(Clone, Copy)]
pub enum Mode<'a> {
    /// Nothing is written, nothing healed.
    Read,
    /// Copies are healed, leftovers removed; then it can be appended to.
    Write(&'a dyn Chance),
}

/// A copy that was not as it should be, and could be read from the other one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// Its path in the store.
    pub path: String,
    /// What it lacked.
    pub found: &'static str,
    /// Whether it is whole again (only when opened for writing).
    pub healed: bool,
}

/// The record log of a store.
#[derive(Debug)]
pub struct Manifest {
    store: StoreId,
    master: Key,
    generation: u64,
    key: RecordKey,
    link: Link,
    length_bytes: u64,
    state: State,
    repairs: Vec<Repair>,
}

#[derive(Debug)]
enum State {
    ReadOnly,
    Writing { files: [File; 2], nonces: Nonces },
    Poisoned,
}

/// Nonces of one opening.
#[derive(Clone, Debug)]
struct Nonces {
    opening: [u8; 8],
    used: u32,
}

impl Manifest {
    /// Makes the manifest of a new store, without records.
    pub fn create(
        disk: &dyn Disk,
        master: &Key,
        store: StoreId,
        chance: &dyn Chance,
    ) -> Result<Self, ManifestError> {
        disk.make_dir(DIR).map_err(doing("make the directory of the manifest"))?;
        disk.sync_dir("").map_err(doing("make the directory of the manifest durable"))?;
        if newest(&disk.list(DIR).map_err(doing("list the manifest"))?).is_some() {
            return Err(ManifestError::Exists);
        }
        let mut nonces = Nonces::new(chance);
        let draft = Draft::new(master, store, 1, chance, &mut nonces, &[])
            .map_err(doing("seal the manifest"))?;
        draft
            .prepare(disk)
            .and_then(|()| draft.commit(disk))
            .map_err(doing("write the manifest"))?;
        let files = open_for_writing(disk, 1)?;
        Ok(Self::from_draft(store, master.clone(), draft, State::Writing { files, nonces }))
    }

    /// Opens the newest manifest and gives its records in order.
    pub fn open(
        disk: &dyn Disk,
        master: &Key,
        store: StoreId,
        mode: Mode,
    ) -> Result<(Self, Vec<Record>), ManifestError> {
        let names = disk.list(DIR).map_err(doing("list the manifest"))?;
        let generation = newest(&names).ok_or(ManifestError::Missing)?;
        let copies = COPIES.map(|copy| read_whole(disk, &path(generation, copy)));
        if let [Err(first), Err(_)] = &copies {
            let source = io::Error::new(first.kind(), first.to_string());
            return Err(doing("read the manifest")(source));
        }
        let bytes = [0, 1].map(|copy| copies[copy].as_deref().unwrap_or(&[]));
        let Merged { stream, records, key, link } = merge(bytes, master, store, generation)?;
        let mut repairs = Vec::new();
        for (copy, read) in COPIES.into_iter().zip(&copies) {
            if let Some(found) = shortcoming(read.as_deref(), &stream) {
                repairs.push(Repair { path: path(generation, copy), found, healed: false });
            }
        }
        let state = match mode {
            Mode::Read => State::ReadOnly,
            Mode::Write(chance) => {
                for repair in &mut repairs {
                    replace(disk, DIR, &repair.path, &stream)
                        .map_err(doing("heal the manifest"))?;
                    repair.healed = true;
                }
                let files = open_for_writing(disk, generation)?;
                write_again(&files, &stream).map_err(doing("make the manifest durable"))?;
                remove_others(disk, generation).map_err(doing("remove old manifests"))?;
                State::Writing { files, nonces: Nonces::new(chance) }
            }
        };
        let length_bytes = length(&stream);
        let master = master.clone();
        let opened = Self { store, master, generation, key, link, length_bytes, state, repairs };
        Ok((opened, records))
    }

    /// Makes the records durable: all of them, or none after a cut.
    pub fn append(&mut self, records: &[Record]) -> io::Result<()> {
        let State::Writing { files, nonces } = &mut self.state else {
            return Err(self.refusal());
        };
        let nonce = nonces.next()?;
        let (bytes, link) = self.link.seal(&self.key, nonce, records).ok_or_else(too_long)?;
        let result = write_both(files, self.length_bytes, &bytes);
        if result.is_err() {
            self.state = State::Poisoned;
            return result;
        }
        self.link = link;
        self.length_bytes += length(&bytes);
        Ok(())
    }

    /// Puts the snapshot in place of all records, in a new generation. If it fails before the new
    /// one has its name (no space, say), the old one goes on; later, the manifest is poisoned.
    pub fn rewrite(
        &mut self,
        disk: &dyn Disk,
        chance: &dyn Chance,
        snapshot: &[Record],
    ) -> io::Result<()> {
        let State::Writing { nonces, .. } = &self.state else { return Err(self.refusal()) };
        let mut nonces = nonces.clone();
        let generation = self.generation + 1;
        let draft =
            Draft::new(&self.master, self.store, generation, chance, &mut nonces, snapshot)?;
        if let Err(error) = draft.prepare(disk) {
            for copy in COPIES {
                // What stays is removed at the next opening.
                let _ = remove_if_there(disk, &temporary(&path(generation, copy)));
            }
            return Err(error);
        }
        self.state = State::Poisoned; // until all is in place
        draft.commit(disk)?;
        let files = open_for_writing(disk, generation).map_err(io::Error::other)?;
        remove_others(disk, generation)?;
        let repairs = std::mem::take(&mut self.repairs);
        let state = State::Writing { files, nonces };
        *self = Self::from_draft(self.store, self.master.clone(), draft, state);
        self.repairs = repairs;
        Ok(())
    }

    /// Whether it can be written to: it was opened for that, and no error left it in doubt.
    pub fn takes_records(&self) -> bool {
        matches!(self.state, State::Writing { .. })
    }

    /// Length of one copy: the caller decides when to rewrite.
    pub fn bytes(&self) -> u64 {
        self.length_bytes
    }

    /// Count of rewrites, from 1.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Copies that were not as they should be when it was opened.
    pub fn repairs(&self) -> &[Repair] {
        &self.repairs
    }

    fn from_draft(store: StoreId, master: Key, draft: Draft, state: State) -> Self {
        let Draft { generation, stream, key, link } = draft;
        let length_bytes = length(&stream);
        Self { store, master, generation, key, link, length_bytes, state, repairs: Vec::new() }
    }

    fn refusal(&self) -> io::Error {
        match self.state {
            State::Poisoned => {
                io::Error::other("the manifest is in doubt after an error; it must be opened again")
            }
            _ => io::Error::new(io::ErrorKind::PermissionDenied, "the manifest is open read-only"),
        }
    }
}

/// A whole manifest in memory, not yet in place.
struct Draft {
    generation: u64,
    stream: Vec<u8>,
    key: RecordKey,
    link: Link,
}

impl Draft {
    fn new(
        master: &Key,
        store: StoreId,
        generation: u64,
        chance: &dyn Chance,
        nonces: &mut Nonces,
        snapshot: &[Record],
    ) -> io::Result<Self> {
        let mut salt = [0; 32];
        chance.fill(&mut salt);
        // The header's tag begins the chain, and it covers the length: so the length comes first.
        let entries: Vec<&[Record]> = entries_of(snapshot);
        let snapshot_bytes =
            merge::HEADER + entries.iter().map(|entry| sealed(entry)).sum::<usize>();
        let snapshot_bytes = u64::try_from(snapshot_bytes).unwrap_or(u64::MAX);
        let mut stream = merge::header(master, store, generation, &salt, snapshot_bytes).to_vec();
        let key = RecordKey::new(&merge::file_key(master, &salt));
        let previous = *stream.last_chunk().expect("a header ends with its tag");
        let mut link = Link { number: 0, previous };
        for records in entries {
            let (bytes, next) = link.seal(&key, nonces.next()?, records).ok_or_else(too_long)?;
            stream.extend_from_slice(&bytes);
            link = next;
        }
        assert_eq!(length(&stream), snapshot_bytes, "the header tells the snapshot's length");
        Ok(Self { generation, stream, key, link })
    }

    /// Both copies durable under temporary names.
    fn prepare(&self, disk: &dyn Disk) -> io::Result<()> {
        COPIES
            .iter()
            .try_for_each(|&copy| prepare(disk, &path(self.generation, copy), &self.stream))
    }

    /// Both copies durable under their own.
    fn commit(&self, disk: &dyn Disk) -> io::Result<()> {
        for copy in COPIES {
            let path = path(self.generation, copy);
            disk.rename(&temporary(&path), &path)?;
        }
        disk.sync_dir(DIR)
    }
}

/// Cuts a snapshot where an entry becomes long enough.
fn entries_of(mut records: &[Record]) -> Vec<&[Record]> {
    let mut entries = Vec::new();
    while !records.is_empty() {
        let mut bytes = 0;
        let count = records.iter().take_while(|record| {
            let fits = bytes < SNAPSHOT_ENTRY_BYTES;
            bytes += record.body.len();
            fits
        });
        let (entry, rest) = records.split_at(count.count());
        entries.push(entry);
        records = rest;
    }
    entries
}

/// Bytes of an entry with these records: header 40, each record 8 and its body, tag 16.
fn sealed(records: &[Record]) -> usize {
    40 + records.iter().map(|record| 8 + record.body.len()).sum::<usize>() + seal::TAG
}

impl Nonces {
    fn new(chance: &dyn Chance) -> Self {
        let mut opening = [0; 8];
        chance.fill(&mut opening);
        Self { opening, used: 0 }
    }

    fn next(&mut self) -> io::Result<[u8; 12]> {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&self.opening);
        nonce[8..].copy_from_slice(&self.used.to_le_bytes());
        self.used = self.used.checked_add(1).ok_or_else(|| {
            io::Error::other("the manifest must be opened again after 4294967295 entries")
        })?;
        Ok(nonce)
    }
}

fn write_both(files: &[File; 2], at_bytes: u64, bytes: &[u8]) -> io::Result<()> {
    for file in files {
        file.write_at(at_bytes, bytes)?;
    }
    files.iter().try_for_each(|file| file.sync_data())
}

/// Opens both copies, and makes their names durable.
fn open_for_writing(disk: &dyn Disk, generation: u64) -> Result<[File; 2], ManifestError> {
    let [one, other] = COPIES.map(|copy| disk.open(&path(generation, copy), Access::WRITE));
    let files = one.and_then(|one| Ok([one, other?]));
    let files = files.map_err(doing("open the manifest for writing"))?;
    disk.sync_dir(DIR).map_err(doing("make the manifest durable"))?;
    Ok(files)
}

/// Makes durable what was read, before anybody acts upon it. A former process may have left it in
/// the page cache only, and after a failed sync the kernel takes such pages for clean: so they are
/// written again, with the bytes they have, which a cut cannot tear into anything else.
fn write_again(files: &[File; 2], stream: &[u8]) -> io::Result<()> {
    files.iter().try_for_each(|file| {
        file.write_at(0, stream)?;
        file.sync_data()
    })
}

/// Removes older generations and what a cut left unfinished.
fn remove_others(disk: &dyn Disk, generation: u64) -> io::Result<()> {
    for name in disk.list(DIR)? {
        let unfinished = name.strip_suffix(".tmp");
        let older = unfinished.is_none() && generation_of(&name) != Some(generation);
        if older && generation_of(&name).is_some() || unfinished.and_then(generation_of).is_some() {
            disk.remove(&format!("{DIR}/{name}"))?;
        }
    }
    Ok(())
}

/// The greatest generation that has a name.
fn newest(names: &[String]) -> Option<u64> {
    names.iter().filter_map(|name| generation_of(name)).max()
}

fn generation_of(name: &str) -> Option<u64> {
    let (number, copy) = name.split_once('.')?;
    let number: u64 = number.parse().ok()?;
    let canonical = COPIES.iter().any(|each| format!("{number}.{each}") == name);
    (canonical && copy.len() == 1).then_some(number)
}

fn path(generation: u64, copy: char) -> String {
    format!("{DIR}/{generation}.{copy}")
}

/// What a copy lacks of the stream; `None` if it is the stream.
fn shortcoming(copy: Result<&[u8], &io::Error>, stream: &[u8]) -> Option<&'static str> {
    match copy {
        Ok(bytes) if bytes == stream => None,
        Ok(bytes) if stream.starts_with(bytes) => Some("shorter than the other copy"),
        Ok(bytes) if bytes.starts_with(stream) => Some("ends with an unfinished entry"),
        Ok(_) => Some("damaged"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some("absent"),
        Err(_) => Some("unreadable"),
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "records of 4 GiB and more in one append")
}

fn doing(what: &str) -> impl FnOnce(io::Error) -> ManifestError {
    let doing = what.to_owned();
    move |source| ManifestError::Io { doing, source }
}
