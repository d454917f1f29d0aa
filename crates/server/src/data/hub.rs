//! The way from other threads to the log thread: closures that run between two turns, and answers.

use super::turn::Core;
use block_device::{Answer, BlockError, Command};
use catalogue::CatalogueRecord;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::fmt;
use thiserror::Error;
use units::{BranchId, ClientId, Lba, Sequence};
use volume::{Snapshot, ViewId};
use world::{Bytes, Waker};

/// What a message does.
pub(super) type Visit = Box<dyn FnOnce(&mut Core) + Send>;

/// Handle to the log thread; clones are the same.
#[derive(Clone)]
pub struct Hub {
    pub(super) visits: Sender<Visit>,
    pub(super) waker: Waker,
}

/// Why a change or flush did not become durable.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ChangeError {
    /// The disk refused; the log takes nothing more.
    #[error("the store could not write it")]
    Refused,
    /// The server has stopped.
    #[error("the server is stopping")]
    Stopped,
}

impl Hub {
    /// Runs `visit` on the log thread and gives its result. It must be quick and must not block.
    pub fn visit<R: Send + 'static>(
        &self,
        visit: impl FnOnce(&mut Core) -> R + Send + 'static,
    ) -> Result<R, ChangeError> {
        let (sender, receiver) = bounded(1);
        self.send(Box::new(move |core| {
            let _ = sender.send(visit(core)); // who asked may have gone
        }))?;
        receiver.recv().map_err(|_| ChangeError::Stopped)
    }

    /// The store as it stands.
    pub fn snapshot(&self) -> Result<Snapshot, ChangeError> {
        self.visit(|core| core.store.snapshot())
    }

    /// Makes all that was accepted so far durable.
    pub fn flush(&self) -> Result<(), ChangeError> {
        self.wait_for(|core| core.store.flush_all())
    }

    /// Makes records durable and takes them into the catalogue. They must have been planned on the
    /// present one: whoever plans holds the lock of all planners.
    pub fn change(&self, records: Vec<CatalogueRecord>) -> Result<(), ChangeError> {
        if records.is_empty() {
            return Ok(());
        }
        self.wait_for(move |core| core.store.change(records))
    }

    /// Has the manifest written anew, without what was overtaken.
    pub fn rewrite_manifest(&self) -> Result<(), ChangeError> {
        self.wait_for(|core| core.store.rewrite_manifest())
    }

    /// Reads bytes of a view.
    pub fn read(
        &self,
        view: ViewId,
        offset_bytes: u64,
        length_bytes: u64,
    ) -> Result<Vec<Bytes>, BlockError> {
        self.begin_read(view, offset_bytes, length_bytes)?.wait()
    }

    /// Begins to read bytes of a view; several may be under way at a time.
    pub fn begin_read(
        &self,
        view: ViewId,
        offset_bytes: u64,
        length_bytes: u64,
    ) -> Result<Reading, BlockError> {
        let (sender, receiver) = bounded(1);
        let asked = self.send(Box::new(move |core| {
            let command = Command::Read { offset_bytes, length_bytes };
            core.submit_for(view, ClientId(0), command, sender);
        }));
        asked.map_err(|_| BlockError::Stopping)?;
        Ok(Reading(receiver))
    }

    /// What lies where in a view, from an offset on; may cover less than was asked.
    pub fn extents(
        &self,
        view: ViewId,
        offset_bytes: u64,
        length_bytes: u64,
    ) -> Result<Vec<block_device::BlockExtent>, BlockError> {
        let (sender, receiver) = bounded(1);
        let asked = self.send(Box::new(move |core| {
            let command = Command::Extents { offset_bytes, length_bytes, count_max: 4096 };
            core.submit_for(view, ClientId(0), command, sender);
        }));
        asked.map_err(|_| BlockError::Stopping)?;
        match receiver.recv().map_err(|_| BlockError::Stopping)?? {
            Answer::Extents(extents) => Ok(extents),
            _ => Err(BlockError::Io),
        }
    }

    /// Makes bytes of a view zero; the answer is the sequence of that.
    pub fn trim(
        &self,
        view: ViewId,
        offset_bytes: u64,
        length_bytes: u64,
    ) -> Result<Sequence, BlockError> {
        let (sender, receiver) = bounded(1);
        let asked = self.send(Box::new(move |core| {
            let command = Command::Trim { offset_bytes, length_bytes, fua: true };
            core.submit_for(view, ClientId(0), command, sender);
        }));
        asked.map_err(|_| BlockError::Stopping)?;
        match receiver.recv().map_err(|_| BlockError::Stopping)?? {
            Answer::Written(sequence) => Ok(sequence),
            _ => Err(BlockError::Io),
        }
    }

    /// Hands in blocks of a foreign image that are taken over; the answer comes when they are written.
    pub fn fill(
        &self,
        base: BranchId,
        start: Lba,
        bytes: Vec<u8>,
    ) -> Result<Receiver<Result<Answer, BlockError>>, ChangeError> {
        let (sender, receiver) = bounded(1);
        self.send(Box::new(move |core| core.fill_for(base, start, bytes, sender)))?;
        Ok(receiver)
    }

    /// Makes durable what was taken over, and records these units as such.
    pub fn take_over(&self, base: BranchId, runs: Vec<(u64, u64)>) -> Result<(), ChangeError> {
        self.wait_for(move |core| core.store.take_over(base, runs))
    }

    fn wait_for(
        &self,
        begin: impl FnOnce(&mut Core) -> u64 + Send + 'static,
    ) -> Result<(), ChangeError> {
        let (sender, receiver): (Sender<bool>, Receiver<bool>) = bounded(1);
        self.send(Box::new(move |core| {
            let id = begin(core);
            core.waiting.insert(id, sender);
        }))?;
        match receiver.recv() {
            Ok(true) => Ok(()),
            Ok(false) => Err(ChangeError::Refused),
            Err(_) => Err(ChangeError::Stopped),
        }
    }

    pub(super) fn send(&self, visit: Visit) -> Result<(), ChangeError> {
        self.visits.send(visit).map_err(|_| ChangeError::Stopped)?;
        self.waker.wake();
        Ok(())
    }
}

/// Bytes of a view on their way.
pub struct Reading(Receiver<Result<Answer, BlockError>>);

impl Reading {
    /// Waits for them.
    pub fn wait(self) -> Result<Vec<Bytes>, BlockError> {
        match self.0.recv().map_err(|_| BlockError::Stopping)?? {
            Answer::Data(parts) => Ok(parts),
            _ => Err(BlockError::Io),
        }
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hub")
    }
}
