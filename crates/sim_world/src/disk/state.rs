//! The disk itself: every operation of both doors, counted, spoiled and crashed in one place.
//!
//! An operation first passes `start`, which counts it, meets the crash point and rolls the faults;
//! then it takes effect; then `end` turns a crash behind it into its error. Reads are not counted.

use super::{
    cut::Mask,
    error::{EBADF, assert_plain, check_alignment, crash, eio, no_space, outcome},
    fault::{DirtyPages, Fault, Faults, Kind},
    file::{Change, Inode, What},
    names::{NameOp, NameWhat, Names, directory_of, take_with_causes},
    trace::{Event, Trace},
};
use crate::{
    clock::SimClock,
    contents::{SECTOR_BYTES, to_usize},
    rng::{Rng, mix},
};
use std::{collections::BTreeMap, io, sync::Arc};

/// When a crash comes, seen from the operation it is tied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The operation has no effect.
    Before,
    /// Some of its sectors, of the changes it covers, or (names) perhaps all of it.
    Partly,
    /// It has its whole effect, but nobody is told.
    After,
}

impl Moment {
    /// All moments.
    pub const EVERY: [Self; 3] = [Self::Before, Self::Partly, Self::After];
}

/// Everything a disk is made of.
#[derive(Clone)]
pub(crate) struct State {
    pub alignment: usize,
    pub capacity_bytes: Option<u64>,
    pub clock: Option<SimClock>,
    pub inodes: BTreeMap<u64, Arc<Inode>>,
    next_inode: u64,
    pub durable: Arc<Names>,
    pub current: Arc<Names>,
    pub name_ops: Vec<NameOp>,
    pub handles: BTreeMap<i32, Handle>,
    next_handle: i32,
    /// Writes pushed to a ring that had no effect yet, by ticket.
    pub in_flight: BTreeMap<u64, InFlight>,
    next_ticket: u64,
    pub next_change: u64,
    pub answers: u64,
    pub operations: u64,
    pub crash_point: Option<(u64, Moment)>,
    pub crashed: bool,
    pub faults: Faults,
    pub rng: Rng,
    pub trace: Trace,
    /// Copies from before each operation, while somebody wants them.
    pub watched: Option<Vec<(u64, State)>>,
}

/// An open file.
#[derive(Clone)]
pub(crate) struct Handle {
    pub inode: u64,
    pub path: Arc<str>,
    pub alignment: usize,
    pub write: bool,
}

#[derive(Clone)]
pub(crate) struct InFlight {
    pub inode: u64,
    pub what: What,
    handle: i32,
}

/// A write that took effect: for [`State::answer`].
#[derive(Clone, Copy)]
pub(crate) struct Landed {
    inode: u64,
    change: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Door {
    Blocking,
    Ring,
}

/// What `start` found out.
struct Started {
    crash: Option<Moment>,
    fault: Option<Fault>,
}

impl State {
    pub fn new(faults: Rng, rng: Rng) -> Self {
        Self {
            alignment: 512,
            capacity_bytes: None,
            clock: None,
            inodes: BTreeMap::new(),
            next_inode: 1,
            durable: Arc::default(),
            current: Arc::default(),
            name_ops: Vec::new(),
            handles: BTreeMap::new(),
            next_handle: 3,
            in_flight: BTreeMap::new(),
            next_ticket: 0,
            next_change: 0,
            answers: 0,
            operations: 0,
            crash_point: None,
            crashed: false,
            faults: Faults::new(faults),
            rng,
            trace: Trace::default(),
            watched: None,
        }
    }

    /// A disk of its own in the same state; files that are open stay open on the first one only.
    pub fn copy(&self) -> Self {
        let mut copy = Self {
            handles: BTreeMap::new(),
            trace: Trace::default(),
            watched: None,
            inodes: self.inodes.clone(),
            durable: self.durable.clone(),
            current: self.current.clone(),
            name_ops: self.name_ops.clone(),
            in_flight: self.in_flight.clone(),
            clock: self.clock.clone(),
            faults: self.faults.clone(),
            rng: self.rng.clone(),
            ..*self
        };
        copy.next_handle += 1 << 16; // so that a file of the other disk is recognised
        copy
    }

    pub fn open(&mut self, path: &str, access: world::Access) -> io::Result<(i32, Handle)> {
        if self.crashed {
            return Err(crash());
        }
        let inode = match (self.current.files.get(path), access.create_new) {
            (Some(_), true) => return Err(io::ErrorKind::AlreadyExists.into()),
            (None, false) => return Err(io::ErrorKind::NotFound.into()),
            (Some(inode), false) => *inode,
            (None, true) => self.create(path)?,
        };
        let path = self.current.files.get_key_value(path).expect("found or made").0.clone();
        let alignment = if access.direct { self.alignment } else { 1 };
        let handle = Handle { inode, path, alignment, write: access.write };
        let number = self.next_handle;
        self.next_handle += 1;
        self.handles.insert(number, handle.clone());
        Ok((number, handle))
    }

    pub fn close(&mut self, handle: i32) {
        if let Some(handle) = self.handles.remove(&handle)
            && self.current.files.get(&handle.path) != Some(&handle.inode)
        {
            self.collect_all();
        }
    }

    pub fn handle(&self, handle: i32) -> &Handle {
        self.handles.get(&handle).expect("a file that was opened through this very disk")
    }

    // Files.

    pub fn read(&mut self, handle: i32, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let file = self.handle(handle).clone();
        check_alignment(&file, "read", offset, into);
        let started = self.start(Kind::Read, &file.path, offset, into.len())?;
        if started.fault == Some(Fault::ReadError) {
            return Err(eio());
        }
        let (mut inode, mut from) = (file.inode, offset);
        if started.fault == Some(Fault::MisdirectedRead) {
            (inode, from) = self.elsewhere(file.inode, offset, into.len());
        }
        let length_bytes = self.inodes[&file.inode].current.length_bytes;
        let there = length_bytes.saturating_sub(offset).min(into.len() as u64);
        let into = &mut into[..to_usize(there)];
        if started.fault == Some(Fault::BitRot) && !into.is_empty() {
            let bit = (offset + self.rng.below(there), self.rng.next_u64().to_le_bytes()[0] % 8);
            self.inode_mut(inode).rot.insert(bit);
        }
        let inode = &self.inodes[&inode];
        inode.current.read(from, into);
        for (byte, bit) in inode.rot.range((from, 0)..(from + there, 0)) {
            into[to_usize(byte - from)] ^= 1 << bit;
        }
        Ok(into.len())
    }

    /// Keeps a copy for who watches; called before anything of an operation is done.
    fn watch(&mut self) {
        if self.watched.is_some() && !self.crashed {
            let copy = (self.operations, self.copy());
            self.watched.get_or_insert_default().push(copy);
        }
    }

    /// The blocking door's write: answered when it returns.
    pub fn write(&mut self, handle: i32, offset: u64, from: &[u8]) -> io::Result<()> {
        check_alignment(self.handle(handle), "write", offset, from);
        self.watch();
        let (written, landed) = self.land(handle, offset, &from.into(), Door::Blocking);
        if let Some(landed) = landed {
            self.answer(landed);
        }
        if written? == from.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// The ring's write begins: nothing has happened, but a crash may do some of it.
    pub fn begin_write(&mut self, handle: i32, offset: u64, parts: &[world::Bytes]) -> u64 {
        let file = self.handle(handle).clone();
        let mut at = offset;
        for part in parts {
            check_alignment(&file, "write", at, part);
            at += part.len() as u64;
        }
        let parts: Vec<&[u8]> = parts.iter().map(|part| &**part).collect();
        let (inode, what) = (file.inode, What::Write { offset, data: parts.concat().into() });
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        if file.write && !self.crashed {
            self.in_flight.insert(ticket, InFlight { inode, what, handle });
        }
        ticket
    }

    /// The ring's write takes effect; nobody is told yet.
    pub fn land_write(&mut self, ticket: u64) -> (io::Result<usize>, Option<Landed>) {
        if self.crashed {
            return (Err(crash()), None);
        }
        self.watch();
        let Some(InFlight { what: What::Write { offset, data }, handle, .. }) =
            self.in_flight.remove(&ticket)
        else {
            return (Err(io::Error::from_raw_os_error(EBADF)), None);
        };
        self.land(handle, offset, &data, Door::Ring)
    }

    /// The writer learns that its write is done: from now on a sync covers it.
    pub fn answer(&mut self, landed: Landed) {
        self.answers += 1;
        let answers = self.answers;
        let pending = &mut self.inode_mut(landed.inode).pending;
        if let Some(change) = pending.iter_mut().rev().find(|change| change.id == landed.change) {
            change.answered = Some(answers);
        }
    }

    fn land(
        &mut self,
        handle: i32,
        offset: u64,
        data: &Arc<[u8]>,
        door: Door,
    ) -> (io::Result<usize>, Option<Landed>) {
        let file = self.handle(handle).clone();
        if !file.write {
            return (Err(io::Error::from_raw_os_error(EBADF)), None);
        }
        let started = match self.start(Kind::Write, &file.path, offset, data.len()) {
            Ok(started) => started,
            Err(error) => return (Err(error), None),
        };
        let mut data = data.clone();
        let (mut inode, mut at) = (file.inode, offset);
        match started.fault {
            Some(Fault::WriteError) => return (Err(eio()), None),
            Some(Fault::NoSpace) => return (Err(no_space()), None),
            Some(Fault::LostWrite) => return (Ok(data.len()), None),
            Some(Fault::MisdirectedWrite) => {
                (inode, at) = self.elsewhere(file.inode, offset, data.len());
            }
            Some(Fault::ShortWrite) => {
                let units = (data.len() as u64).div_ceil(file.alignment as u64);
                let kept = self.rng.below(units.max(1)) * file.alignment as u64;
                data = data[..to_usize(kept)].into();
            }
            _ => {}
        }
        if let Some(fitting) = self.fitting(inode, at, data.len()) {
            let fitting = fitting - fitting % file.alignment;
            if fitting == 0 || door == Door::Blocking {
                return (Err(no_space()), None);
            }
            data = data[..fitting].into();
        }
        let what = What::Write { offset: at, data: data.clone() };
        if started.crash == Some(Moment::Partly) {
            let mask = Mask::draw(&what, &mut self.rng);
            self.change_sectors(inode, &what, &mask);
            return (Err(crash()), None);
        }
        let change = self.change(inode, what, None);
        match self.end(&started) {
            Ok(()) => (Ok(data.len()), Some(Landed { inode, change })),
            Err(error) => (Err(error), None),
        }
    }

    pub fn set_length(&mut self, handle: i32, what: What) -> io::Result<()> {
        let file = self.handle(handle).clone();
        if !file.write {
            return Err(io::Error::from_raw_os_error(EBADF));
        }
        let (kind, length_bytes) = match &what {
            What::Length(length_bytes) => (Kind::SetLength, *length_bytes),
            What::Allocate(length_bytes) => (Kind::Allocate, *length_bytes),
            What::Write { .. } => unreachable!("a write has its own way"),
        };
        let started = self.start(kind, &file.path, length_bytes, 0)?;
        if started.fault == Some(Fault::NoSpace) {
            return Err(no_space());
        }
        if kind == Kind::Allocate
            && let Some(free_bytes) = self.free_bytes()
        {
            let current = &self.inodes[&file.inode].current;
            let mut after = current.clone();
            after.allocate(length_bytes);
            if after.room_bytes() - current.room_bytes() > free_bytes {
                return Err(no_space());
            }
        }
        if started.crash != Some(Moment::Partly) || self.rng.coin() {
            self.answers += 1;
            self.change(file.inode, what, Some(self.answers));
        }
        self.end(&started)
    }

    /// Makes durable what was answered up to `answers`; the door says when that was.
    pub fn sync(&mut self, handle: i32, answers: u64) -> io::Result<()> {
        let file = self.handle(handle).clone();
        let started = self.start(Kind::Sync, &file.path, 0, 0)?;
        let covered = |change: &Change| change.answered.is_some_and(|answered| answered <= answers);
        match (started.fault, started.crash) {
            (Some(Fault::SyncError(pages)), _) => {
                let stay_visible = pages == DirtyPages::StayVisible;
                self.inode_mut(file.inode).drop_pending(covered, stay_visible);
                return Err(eio());
            }
            (Some(Fault::LyingSync), _) => {}
            (_, Some(Moment::Partly)) => {
                let salt = self.rng.next_u64();
                let some = |change: &Change| mix(salt ^ change.id) & 1 == 1;
                self.inode_mut(file.inode).make_durable(|change| covered(change) && some(change));
            }
            _ => {
                if !self.inodes[&file.inode].pending.is_empty() {
                    self.inode_mut(file.inode).make_durable(covered);
                }
            }
        }
        self.end(&started)
    }

    // Names.

    fn create(&mut self, path: &str) -> io::Result<u64> {
        assert_plain(path);
        if !self.current.has_dir(directory_of(path)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inode = self.next_inode;
        let what = NameWhat::Create { path: path.into(), inode };
        self.next_inode += 1;
        self.inodes.insert(inode, Arc::default());
        match self.name(Kind::Create, path, what) {
            Ok(()) => Ok(inode),
            Err(error) => {
                self.collect_all();
                Err(error)
            }
        }
    }

    pub fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        assert_plain(to);
        if self.crashed {
            return Err(crash());
        }
        let Some(inode) = self.current.files.get(from).copied() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if !self.current.has_dir(directory_of(to)) || self.current.has_dir(to) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if from == to {
            return Ok(());
        }
        self.name(
            Kind::Rename,
            from,
            NameWhat::Rename { from: from.into(), to: to.into(), inode },
        )?;
        self.collect_all();
        Ok(())
    }

    pub fn remove(&mut self, path: &str) -> io::Result<()> {
        if self.crashed {
            return Err(crash());
        }
        if !self.current.files.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.name(Kind::Remove, path, NameWhat::Remove { path: path.into() })?;
        self.collect_all();
        Ok(())
    }

    pub fn make_dir(&mut self, path: &str) -> io::Result<()> {
        if self.crashed {
            return Err(crash());
        }
        if self.current.has_dir(path) {
            return Ok(());
        }
        assert_plain(path);
        if self.current.files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !self.current.has_dir(directory_of(path)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.name(Kind::MakeDir, path, NameWhat::MakeDir { path: path.into() })
    }

    fn name(&mut self, kind: Kind, path: &str, what: NameWhat) -> io::Result<()> {
        let started = self.start(kind, path, 0, 0)?;
        match started.fault {
            Some(Fault::NameError) => return Err(eio()),
            Some(Fault::NoSpace) => return Err(no_space()),
            _ => {}
        }
        if started.crash != Some(Moment::Partly) || self.rng.coin() {
            Arc::make_mut(&mut self.current).apply(&what);
            self.name_ops.push(NameOp { id: self.next_change, what });
            self.next_change += 1;
        }
        self.end(&started)
    }

    pub fn sync_dir(&mut self, dir: &str) -> io::Result<()> {
        if self.crashed {
            return Err(crash());
        }
        if !self.current.has_dir(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let started = self.start(Kind::SyncDir, dir, 0, 0)?;
        if matches!(started.fault, Some(Fault::SyncError(_))) {
            return Err(eio());
        }
        let (partly, salt) = (started.crash == Some(Moment::Partly), self.rng.next_u64());
        let taken = take_with_causes(&mut self.name_ops, |op| {
            op.what.directory() == dir && !(partly && mix(salt ^ op.id) & 1 == 1)
        });
        if !taken.is_empty() {
            let durable = Arc::make_mut(&mut self.durable);
            for op in &taken {
                durable.apply(&op.what);
            }
            self.collect_all();
        }
        self.end(&started)
    }

    // Room.

    pub fn free_bytes(&self) -> Option<u64> {
        Some(self.capacity_bytes?.saturating_sub(self.used_bytes()))
    }

    pub fn used_bytes(&self) -> u64 {
        self.inodes.values().map(|inode| inode.current.room_bytes()).sum()
    }

    /// How many bytes of a write fit; `None` if all do.
    fn fitting(&self, inode: u64, offset: u64, length: usize) -> Option<usize> {
        self.capacity_bytes?;
        let current = &self.inodes[&inode].current;
        let mut free_bytes = self.free_bytes()?;
        if current.room_needed_bytes(offset, length) <= free_bytes {
            return None;
        }
        let mut fitting = 0;
        while fitting < length {
            let in_page = 4096 - to_usize((offset + fitting as u64) % 4096);
            let piece = in_page.min(length - fitting);
            let needed = current.room_needed_bytes(offset + fitting as u64, piece);
            if needed > free_bytes {
                break;
            }
            free_bytes -= needed;
            fitting += piece;
        }
        Some(fitting)
    }

    // What all operations share.

    fn start(&mut self, kind: Kind, path: &str, offset: u64, length: usize) -> io::Result<Started> {
        if self.crashed {
            return Err(crash());
        }
        if !matches!(kind, Kind::Read | Kind::Write) {
            self.watch();
        }
        let operation = self.operations;
        let mut crash_now = None;
        if kind != Kind::Read {
            self.operations += 1;
            crash_now =
                self.crash_point.and_then(|(at, moment)| (at == operation).then_some(moment));
        }
        let fault = self.faults.strike(kind, path).filter(|_| crash_now.is_none());
        self.trace.push(Event {
            operation,
            kind,
            path: path.into(),
            offset_bytes: offset,
            length_bytes: length as u64,
            outcome: outcome(crash_now, fault),
        });
        if crash_now.is_some() {
            self.crashed = true;
        }
        if crash_now == Some(Moment::Before) {
            return Err(crash());
        }
        Ok(Started { crash: crash_now, fault })
    }

    #[expect(clippy::unused_self, reason = "reads as the other half of start")]
    fn end(&self, started: &Started) -> io::Result<()> {
        if started.crash.is_some() { Err(crash()) } else { Ok(()) }
    }

    pub fn inode_mut(&mut self, inode: u64) -> &mut Inode {
        Arc::make_mut(self.inodes.get_mut(&inode).expect("named or open, so it is there"))
    }

    fn change(&mut self, inode: u64, what: What, answered: Option<u64>) -> u64 {
        let id = self.next_change;
        self.next_change += 1;
        self.inode_mut(inode).change(Change { id, answered, what });
        id
    }

    /// Does those sectors of a write that the mask holds.
    pub fn change_sectors(&mut self, inode: u64, what: &What, mask: &Mask) {
        let What::Write { offset, data } = what else { return };
        for sector in what.sectors().filter(|sector| mask.holds(*sector)) {
            let start = (sector * SECTOR_BYTES).max(*offset);
            let end = ((sector + 1) * SECTOR_BYTES).min(offset + data.len() as u64);
            let part = to_usize(start - offset)..to_usize(end - offset);
            self.change(inode, What::Write { offset: start, data: data[part].into() }, None);
        }
    }

    /// Another place for a misdirected read or write: in the same file, or in another; often one where
    /// the like of it may lie, at the same offset of another file or whole kilobytes away.
    fn elsewhere(&mut self, inode: u64, offset: u64, length: usize) -> (u64, u64) {
        let mut others: Vec<(u64, u64)> = Vec::new();
        for (other, contents) in &self.inodes {
            let room = contents.current.length_bytes.saturating_sub(length as u64) / SECTOR_BYTES;
            for kind in 0..4 {
                let at = match kind {
                    0 => offset.min(room * SECTOR_BYTES),
                    // As far as 16 records of 4128 bytes are: what is packed so looks alike there.
                    1 => (offset + 16 * 4128).min(room * SECTOR_BYTES),
                    _ => self.rng.below(room + 1) * SECTOR_BYTES,
                };
                if (*other, at) != (inode, offset) {
                    others.push((*other, at));
                }
            }
        }
        if others.is_empty() {
            return (inode, offset + SECTOR_BYTES);
        }
        *self.rng.pick(&others)
    }

    /// Forgets files that no name, durable or not, and no handle leads to.
    pub fn collect_all(&mut self) {
        let mut used: Vec<u64> = self.handles.values().map(|handle| handle.inode).collect();
        used.extend(self.current.files.values());
        used.extend(self.durable.files.values());
        used.extend(self.in_flight.values().map(|write| write.inode));
        used.extend(self.name_ops.iter().filter_map(|op| match &op.what {
            NameWhat::Create { inode, .. } | NameWhat::Rename { inode, .. } => Some(*inode),
            _ => None,
        }));
        used.sort_unstable();
        self.inodes.retain(|inode, _| used.binary_search(inode).is_ok());
    }
}
