//! From the cut of a batch to the answers: what is in flight, what has landed, what is durable.
//!
//! Invariant: flights end in any order and are answered from the front on, each with all the bulk
//! payload that it names.

use crate::{
    bulk::BulkWrite,
    log::Log,
    planted,
    terms::Event,
    writer::{CutBatch, Waiting},
};
use std::io;
use units::FileId;
use world::Op;

/// What an operation in the ring is for.
#[derive(Clone, Debug)]
pub enum Io {
    Batch { flight: u64 },
    Bulk { write: u64 },
    Sync { file: FileId },
}

pub struct Flight {
    pub number: u64,
    pub segment: FileId,
    pub cut: CutBatch,
    pub outcome: Outcome,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Pending,
    Landed,
    Failed,
}

impl Log {
    /// Sends the open batch off.
    pub(crate) fn cut(&mut self) {
        let Some(segment) = &mut self.segment else { return };
        let (wall, era) = self.clock.now(&*self.env.clock);
        let Some(cut) = segment.cut(wall, era, self.flushing.durable()) else { return };
        let (file, segment) = (segment.file.clone(), segment.id());
        let number = self.next_flight;
        self.next_flight += 1;
        let op = Op::Write { file, offset_bytes: cut.offset_bytes, parts: vec![cut.bytes.clone()] };
        self.push_op(Io::Batch { flight: number }, op);
        self.flights.push_back(Flight { number, segment, cut, outcome: Outcome::Pending });
        self.flushing.calm();
    }

    pub(crate) fn batch_done(&mut self, number: u64, moved: &io::Result<usize>) {
        let Some(flight) = self.flights.iter_mut().find(|flight| flight.number == number) else {
            return; // poisoned meanwhile
        };
        let length = flight.cut.bytes.len();
        match moved {
            Ok(bytes) if *bytes >= length || planted::is(16) => flight.outcome = Outcome::Landed,
            &Ok(bytes) if bytes > 0 && bytes.is_multiple_of(self.config.sector) => {
                // A short write: the rest goes on from there.
                flight.cut.bytes = flight.cut.bytes.slice(bytes..length);
                flight.cut.offset_bytes += bytes as u64;
                let (offset_bytes, parts) =
                    (flight.cut.offset_bytes, vec![flight.cut.bytes.clone()]);
                let segment = flight.segment;
                if let Some(file) = self.file_of(segment) {
                    self.push_op(
                        Io::Batch { flight: number },
                        Op::Write { file, offset_bytes, parts },
                    );
                }
                return;
            }
            Err(error) if planted::is(17) && error.kind() == io::ErrorKind::StorageFull => {
                flight.outcome = Outcome::Landed;
            }
            Ok(_) | Err(_) => {
                flight.outcome = Outcome::Failed;
                self.relog = true;
            }
        }
        self.land();
    }

    pub(crate) fn bulk_done(&mut self, write: u64, moved: &io::Result<usize>) {
        match self.bulk.ended(write, moved) {
            BulkWrite::Done(file) => self.flushing.wrote(file.0, file.1),
            BulkWrite::Again { file, offset_bytes, parts } => {
                self.ios.insert(write, Io::Bulk { write });
                self.ops.push((write, Op::Write { file, offset_bytes, parts }));
                return;
            }
            // Its place is named by a batch that may be on disk already: both are logged again.
            BulkWrite::Failed => self.relog = true,
        }
        self.land();
    }

    /// Writes bulk payload to the place it was given last.
    pub(crate) fn start_bulk(&mut self, write: u64) {
        if let Some((file, offset_bytes, parts)) = self.bulk.to_write(write) {
            self.ios.insert(write, Io::Bulk { write });
            self.ops.push((write, Op::Write { file, offset_bytes, parts }));
        }
    }

    /// Answers flights from the front on, as far as they have landed.
    pub(crate) fn land(&mut self) {
        if planted::is(5) {
            self.flights.make_contiguous().sort_by_key(|flight| flight.outcome != Outcome::Landed);
        }
        while let Some(front) = self.flights.front() {
            let bulk = front.cut.bulk.iter().any(|write| self.bulk.is_pending(*write));
            if front.outcome != Outcome::Landed || bulk {
                break;
            }
            let Some(flight) = self.flights.pop_front() else { break };
            self.relogs = 0;
            if let Some(file) = self.file_of(flight.segment) {
                self.flushing.wrote(flight.segment, file);
            }
            self.landed = self.landed.max(flight.cut.last);
            for waiting in &flight.cut.waiting {
                let Waiting { ticket, sequence, fua } = *waiting;
                let event = Event::Written { ticket, sequence };
                if fua && !planted::is(4) {
                    self.flushing.wait_for(sequence, event);
                } else {
                    self.events.push_back(event);
                }
            }
        }
        self.log_again();
    }

    /// Batches whose own write is under way; what only waits for bulk payload does not hold up others.
    pub(crate) fn writing(&self) -> usize {
        self.flights.iter().filter(|flight| flight.outcome == Outcome::Pending).count()
    }

    /// Takes back the write that was pushed last.
    pub(crate) fn withdraw_last(&mut self) {
        let pushed = self.ops.last().map(|(io, _)| *io);
        if let Some(io) = pushed
            && let Some(Io::Batch { flight }) = self.ios.get(&io)
            && self
                .flights
                .back()
                .is_some_and(|back| back.number == *flight && back.outcome == Outcome::Pending)
        {
            self.ops.pop();
            self.ios.remove(&io);
        }
    }

    pub(crate) fn start_sync(&mut self) {
        for (id, file) in self.flushing.start(self.landed) {
            self.push_op(Io::Sync { file: id }, Op::Sync { file });
        }
        self.tell_flushed();
    }

    pub(crate) fn sync_done(&mut self, file: FileId, error: Option<io::Error>) {
        if let Some(error) = error.filter(|_| !planted::is(15)) {
            self.take_no_more("syncing the log", &error);
            return;
        }
        self.flushing.synced(file);
        self.tell_flushed();
    }

    pub(crate) fn tell_flushed(&mut self) {
        while let Some(event) = self.flushing.next_due() {
            self.events.push_back(event);
        }
    }

    pub(crate) fn fail(&mut self, waiting: &[Waiting], full: bool) {
        for waiting in waiting {
            self.events.push_back(Event::Failed { ticket: waiting.ticket, full });
        }
    }
}
