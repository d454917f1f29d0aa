//! A disk with a volatile cache, from one seed.
//!
//! Each file has durable contents and an ordered list of changes that are not durable; each
//! directory has durable names and name operations that are not. A sync makes durable exactly the
//! changes that were answered before it; [`SimDisk::power_cut`] decides about the rest. Sectors of
//! 512 bytes are whole. Copies share pages, so thousands of crash images cost little.
//!
//! Not modelled: stale bytes of former files behind a lost length (they read as zero), inode limits.

pub(crate) mod cut;
pub(crate) mod error;
pub(crate) mod fault;
mod file;
pub(crate) mod names;
pub(crate) mod state;
pub(crate) mod sweep;
pub(crate) mod trace;

use crate::{
    clock::SimClock,
    contents::{Contents, to_usize},
    rng::{Seed, mix},
};
use fault::{Kind, Rule, RuleId};
use file::What;
use names::Names;
use state::{Landed, Moment, State};
use std::{
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use trace::Trace;
use world::{Access, Bytes, Disk, DiskFile, File, Space};

/// What [`Disk::space`] says while no capacity is set.
const BOUNDLESS_BYTES: u64 = 1 << 40;

/// A simulated disk; clones are the same disk, [`SimDisk::copy`] is another one.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

impl SimDisk {
    /// An empty disk. The seed decides what faults hit and how crashes tear.
    pub fn new(seed: Seed) -> Self {
        Self::from_state(State::new(seed.rng("disk faults"), seed.rng("disk")))
    }

    /// A disk of its own in the same state, for the price of a few counts.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self::from_state(self.lock().copy())
    }

    /// What files opened direct demand: 512 (as at first) or 4096. A breach of it panics.
    pub fn set_alignment(&self, alignment: usize) {
        assert!(alignment == 512 || alignment == 4096, "no disk is aligned to {alignment}");
        self.lock().alignment = alignment;
    }

    /// Room of the file system; `None` (as at first) is boundless. May change at any time.
    pub fn set_capacity_bytes(&self, capacity_bytes: Option<u64>) {
        self.lock().capacity_bytes = capacity_bytes;
    }

    /// The clock that slow operations of the blocking door move.
    pub fn set_clock(&self, clock: &SimClock) {
        self.lock().clock = Some(clock.clone());
    }

    // Crashes and faults.

    /// Operations so far: all but reads and opening what is there, by both doors.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// The `n`-th operation (from 0, counted as [`SimDisk::operations`]) fails at this moment, and
    /// everything after it fails: [`is_crash`](crate::is_crash) tells it from faults.
    pub fn crash_at_operation(&self, n: u64, moment: Moment) {
        self.lock().crash_point = Some((n, moment));
    }

    /// Crashes now.
    pub fn crash(&self) {
        self.lock().crashed = true;
    }

    /// From now on keeps a copy of itself from before each operation, to be taken with
    /// [`SimDisk::take_watched`] and cut: all crash points of a script from one run of it.
    pub fn watch(&self) {
        self.lock().watched = Some(Vec::new());
    }

    /// The copies since the last time, each with its [`SimDisk::operations`]. A write of the ring that
    /// is about to take effect is in flight in its copy, so a cut may keep any part of it.
    pub fn take_watched(&self) -> Vec<(u64, Self)> {
        let mut state = self.lock();
        let watched = state.watched.as_mut().map(std::mem::take).unwrap_or_default();
        watched.into_iter().map(|(at, state)| (at, Self::from_state(state))).collect()
    }

    /// Whether the crash came.
    pub fn is_crashed(&self) -> bool {
        self.lock().crashed
    }

    /// Adds a rule to the menu.
    pub fn inject(&self, rule: Rule) -> RuleId {
        self.lock().faults.inject(rule)
    }

    /// Takes a rule back.
    pub fn take_back(&self, rule: RuleId) {
        self.lock().faults.take_back(rule);
    }

    /// How many operations rules have spoiled so far; slowness is not counted.
    pub fn struck(&self) -> u64 {
        self.lock().faults.struck
    }

    /// Lets rules rest, or puts them in force again.
    pub fn set_faults(&self, on: bool) {
        self.lock().faults.on = on;
    }

    /// Takes back all rules and all bit rot that reads brought about.
    pub fn heal(&self) {
        let mut state = self.lock();
        state.faults.clear();
        for inode in state.inodes.values_mut() {
            if !inode.rot.is_empty() {
                Arc::make_mut(inode).rot.clear();
            }
        }
    }

    // For tests: looking and meddling, unseen by faults and counts.

    /// Paths of all files, sorted.
    pub fn files(&self) -> Vec<String> {
        self.lock().current.files.keys().map(|path| (**path).to_owned()).collect()
    }

    /// All bytes of a file as readers see them; `None` if it is not there.
    pub fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        let length_bytes = self.length_bytes(path)?;
        self.bytes_at(path, 0, to_usize(length_bytes))
    }

    /// Some bytes of a file; zero past its end.
    pub fn bytes_at(&self, path: &str, offset_bytes: u64, length: usize) -> Option<Vec<u8>> {
        let state = self.lock();
        let inode = state.current.files.get(path)?;
        let mut bytes = vec![0; length];
        state.inodes[inode].current.read(offset_bytes, &mut bytes);
        Some(bytes)
    }

    /// Length of a file.
    pub fn length_bytes(&self, path: &str) -> Option<u64> {
        let state = self.lock();
        Some(state.inodes[state.current.files.get(path)?].current.length_bytes)
    }

    /// Flips a bit (0 is the lowest) on the device for good.
    pub fn flip_bit(&self, path: &str, byte: u64, bit: u8) {
        self.meddle(path, |contents| {
            let mut bytes = [0];
            contents.read(byte, &mut bytes);
            contents.write(byte, &[bytes[0] ^ (1 << bit)]);
        });
    }

    /// Puts bytes on the device behind the writer's back.
    pub fn overwrite(&self, path: &str, offset_bytes: u64, bytes: &[u8]) {
        self.meddle(path, |contents| contents.write(offset_bytes, bytes));
    }

    /// Cuts or grows a file on the device behind the writer's back.
    pub fn truncate(&self, path: &str, length_bytes: u64) {
        self.meddle(path, |contents| contents.set_length(length_bytes));
    }

    /// Changes of contents and names that a power cut could take.
    pub fn unsynced(&self) -> usize {
        let state = self.lock();
        state.name_ops.len() + state.inodes.values().map(|inode| inode.pending.len()).sum::<usize>()
    }

    /// Hash of all that is durable: two runs of a seed give the same.
    pub fn digest(&self) -> u64 {
        let state = self.lock();
        digest(&state.durable, |inode| &state.inodes[&inode].durable)
    }

    /// Hash of all that readers see.
    pub fn digest_visible(&self) -> u64 {
        let state = self.lock();
        digest(&state.current, |inode| &state.inodes[&inode].current)
    }

    /// The last operations.
    pub fn trace(&self) -> Trace {
        self.lock().trace.clone()
    }

    fn meddle(&self, path: &str, with: impl Fn(&mut Contents)) {
        let mut state = self.lock();
        let inode = *state.current.files.get(path).expect("a file to meddle with");
        let inode = state.inode_mut(inode);
        with(&mut inode.durable);
        with(&mut inode.current);
    }

    // For the ring.

    pub(crate) fn begin_write(&self, file: &File, offset_bytes: u64, parts: &[Bytes]) -> u64 {
        self.lock().begin_write(file.handle(), offset_bytes, parts)
    }

    pub(crate) fn land_write(&self, ticket: u64) -> (io::Result<usize>, Option<Landed>) {
        self.lock().land_write(ticket)
    }

    pub(crate) fn answer(&self, landed: Landed) {
        self.lock().answer(landed);
    }

    pub(crate) fn answers(&self) -> u64 {
        self.lock().answers
    }

    pub(crate) fn sync_up_to(&self, file: &File, answers: u64) -> io::Result<()> {
        self.lock().sync(file.handle(), answers)
    }

    pub(crate) fn read_some(
        &self,
        file: &File,
        offset_bytes: u64,
        into: &mut [u8],
    ) -> io::Result<usize> {
        self.lock().read(file.handle(), offset_bytes, into)
    }

    pub(crate) fn delay_ns(&self, file: &File, kind: Kind) -> u64 {
        let mut state = self.lock();
        let path = state.handle(file.handle()).path.clone();
        state.faults.delay_ns(kind, &path)
    }

    /// Lets a slow operation of the blocking door take its time.
    fn dawdle(&self, kind: Kind, path: &str) {
        let mut state = self.lock();
        let delay_ns = state.faults.delay_ns(kind, path);
        if let (1.., Some(clock)) = (delay_ns, &state.clock) {
            clock.advance(delay_ns);
        }
    }

    fn from_state(state: State) -> Self {
        Self(Arc::new(Mutex::new(state)))
    }

    /// For questions that count as no operation.
    fn lock_running(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.lock();
        if state.crashed { Err(error::crash()) } else { Ok(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        write!(f, "SimDisk({} files, {} operations)", state.current.files.len(), state.operations)
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &str, access: Access) -> io::Result<File> {
        if access.create_new {
            self.dawdle(Kind::Create, path);
        }
        let (number, handle) = self.lock().open(path, access)?;
        let path = handle.path;
        Ok(Arc::new(SimFile { disk: self.clone(), number, path, alignment: handle.alignment }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.dawdle(Kind::Rename, from);
        self.lock().rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.dawdle(Kind::Remove, path);
        self.lock().remove(path)
    }

    fn make_dir(&self, path: &str) -> io::Result<()> {
        self.dawdle(Kind::MakeDir, path);
        self.lock().make_dir(path)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.dawdle(Kind::SyncDir, path);
        self.lock().sync_dir(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        Ok(self.lock_running()?.current.list(path))
    }

    fn space(&self) -> io::Result<Space> {
        let state = self.lock_running()?;
        let total_bytes = state.capacity_bytes.unwrap_or(BOUNDLESS_BYTES);
        Ok(Space { total_bytes, free_bytes: total_bytes.saturating_sub(state.used_bytes()) })
    }
}

/// An open file of a [`SimDisk`].
struct SimFile {
    disk: SimDisk,
    number: i32,
    path: Arc<str>,
    alignment: usize,
}

impl DiskFile for SimFile {
    fn read_at(&self, offset_bytes: u64, into: &mut [u8]) -> io::Result<()> {
        self.disk.dawdle(Kind::Read, &self.path);
        let read = self.disk.lock().read(self.number, offset_bytes, into)?;
        if read == into.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn write_at(&self, offset_bytes: u64, from: &[u8]) -> io::Result<()> {
        self.disk.dawdle(Kind::Write, &self.path);
        self.disk.lock().write(self.number, offset_bytes, from)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.dawdle(Kind::Sync, &self.path);
        let mut state = self.disk.lock();
        let answers = state.answers;
        state.sync(self.number, answers)
    }

    fn length_bytes(&self) -> io::Result<u64> {
        let state = self.disk.lock_running()?;
        let inode = state.handle(self.number).inode;
        Ok(state.inodes[&inode].current.length_bytes)
    }

    fn set_length(&self, length_bytes: u64) -> io::Result<()> {
        self.disk.dawdle(Kind::SetLength, &self.path);
        self.disk.lock().set_length(self.number, What::Length(length_bytes))
    }

    fn allocate(&self, length_bytes: u64) -> io::Result<()> {
        self.disk.dawdle(Kind::Allocate, &self.path);
        self.disk.lock().set_length(self.number, What::Allocate(length_bytes))
    }

    fn alignment(&self) -> usize {
        self.alignment
    }

    fn handle(&self) -> i32 {
        self.number
    }
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFile({})", self.path)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.disk.lock().close(self.number);
    }
}

/// Names, lengths and bytes in order; pages of zeros count as absent.
fn digest<'a>(names: &Names, contents: impl Fn(u64) -> &'a Contents) -> u64 {
    let mut hash = 0;
    let mut add = |word: u64| hash = mix(hash ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let add_bytes = |add: &mut dyn FnMut(u64), bytes: &[u8]| {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            add(u64::from_le_bytes(word));
        }
    };
    for dir in &names.dirs {
        add_bytes(&mut add, dir.as_bytes());
    }
    for (path, inode) in &names.files {
        add_bytes(&mut add, path.as_bytes());
        let contents = contents(*inode);
        add(contents.length_bytes);
        for (page, bytes) in contents.pages().filter(|(_, bytes)| **bytes != [0; 4096]) {
            add(page);
            add_bytes(&mut add, bytes);
        }
    }
    hash
}
