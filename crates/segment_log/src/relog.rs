//! Batches whose write failed are logged again: same cells, same sequences, in a new segment.
//!
//! Nothing of them was answered, and nothing behind them. The segment they were in ends before the
//! first that failed; what lies behind it there, whole or not, is not reached by the chain any more,
//! and places in it are found to be gone by who still holds them. A batch whose bulk payload could not
//! be written counts as one that failed: the payload gets a new place in a new bulk file, which its
//! record then names. Three failures in a row without a success poison the log.

use crate::{
    batch::{BATCH_HEADER, BatchHeader, HEADER, RECORD, Record, array_at},
    bulk::{self, MovedExtents},
    landing::{Flight, Outcome},
    log::Log,
    rolling::FullSegment,
    terms::Room,
    writer::Waiting,
};
use history_index::{Contents, Index, MemoryRun, Source};
use seal::Tag;
use std::{io, sync::Arc};
use units::{FileId, Sequence};
use world::Image;

/// Failures in a row that are taken for the end.
const RELOGS_MAX: u32 = 3;

/// A batch on its way to another segment.
struct Carried {
    header: BatchHeader,
    bytes: Vec<u8>,
    waiting: Vec<Waiting>,
    bulk: Vec<u64>,
}

/// Where history goes on elsewhere: before this batch of that segment.
struct Break {
    segment: FileId,
    batch_bytes: u64,
    /// Of the first request that is logged again.
    sequence: Sequence,
    /// What it follows.
    previous: Tag,
}

impl Log {
    /// Logs again what failed, once everything that is in flight has ended and there is where to.
    pub(crate) fn log_again(&mut self) {
        let ended = self.flights.iter().all(|flight| flight.outcome != Outcome::Pending);
        if !self.relog || !ended || self.poison().is_some() {
            return;
        }
        if self.relogs >= RELOGS_MAX {
            let cause = io::Error::other("batches fail wherever they are written");
            return self.take_no_more("writing the log", &cause);
        }
        let bulk_blocks = self.bulk.failed_blocks();
        let bulk_bytes = (bulk_blocks > 0).then(|| bulk::file_bytes(bulk_blocks));
        let missing = bulk_bytes.filter(|bytes| !self.background.has_bulk(*bytes));
        let next = if missing.is_none() { self.background.prepared_segment() } else { None };
        let Some(next) = next else { return self.wait_for_files(missing) };
        self.cut_only();
        let failed = |flight: &Flight| {
            flight.outcome == Outcome::Failed
                || flight.cut.bulk.iter().any(|write| self.bulk.has_failed(*write))
        };
        let first = self.flights.iter().position(failed).expect("something failed");
        let flights: Vec<Flight> = self.flights.drain(first..).collect();
        let at = self.break_before(&flights[0]);
        let Some(moved) = self.move_payload(bulk_blocks, at.sequence) else {
            self.flights.extend(flights); // whom poison tells
            let cause = io::Error::other("more payload failed than a bulk file holds");
            return self.take_no_more("writing a bulk file", &cause);
        };
        let carried: Vec<Carried> =
            flights.into_iter().map(|flight| self.carry(flight, &moved)).collect();
        self.end_history_at(&at);
        self.begin_segment(next, at.sequence, at.previous);
        self.relog = false;
        self.relogs += 1;
        for Carried { header, bytes, waiting, bulk } in carried {
            let segment = self.segment.as_mut().expect("just begun");
            segment.adopt(&header, &bytes, waiting, bulk);
            self.cut();
        }
    }

    /// Has files made for what is to be logged again. If that fails too, other than for want of room,
    /// it is the end.
    fn wait_for_files(&mut self, bulk_bytes: Option<u64>) {
        let segments = self.background.room_for_segments();
        let bulk_files = bulk_bytes.map(|bytes| self.background.room_for_bulk(bytes));
        if segments == Room::Failing || bulk_files == Some(Room::Failing) {
            let cause = io::Error::other("no file can be made for the batches that failed");
            return self.take_no_more("writing the log", &cause);
        }
        if let Some(bytes) = bulk_bytes {
            self.prepare_bulk(bytes);
        }
        self.background.prepare_segment(&self.config);
    }

    /// Cuts the open batch without writing it: it goes with the others.
    fn cut_only(&mut self) {
        self.cut();
        self.withdraw_last();
        if let Some(flight) = self.flights.back_mut()
            && flight.outcome == Outcome::Pending
        {
            flight.outcome = Outcome::Failed;
        }
    }

    /// Puts payload that could not be written at new places; `None` if one file does not hold it all.
    fn move_payload(&mut self, blocks: u64, first: Sequence) -> Option<MovedExtents> {
        if blocks == 0 {
            return Some(MovedExtents::default());
        }
        if self.next_bulk_file(first, blocks) != Room::Yes {
            return None;
        }
        let moved = self.bulk.move_failed();
        for write in moved.writes() {
            self.start_bulk(write);
        }
        Some(moved)
    }

    /// The image that a flight's batch was cut from.
    fn image_of(&self, flight: &Flight) -> &Image {
        let open = self.segment.as_ref().filter(|segment| segment.id() == flight.segment);
        let full = self.full.iter().find(|full| full.cells.id == flight.segment);
        open.map(|segment| &segment.image)
            .or_else(|| full.and_then(|full| full.image.as_ref()))
            .expect("an image is kept until all of it has landed")
    }

    fn break_before(&self, flight: &Flight) -> Break {
        let (segment, batch_bytes) = (flight.segment, flight.cut.batch_bytes);
        let image = self.image_of(flight);
        let header = header_at(image, batch_bytes);
        let begun = image.get(0..HEADER);
        // A segment of which no request stays is left out: history goes on from what it followed.
        let none_stays =
            Sequence::new(u64::from_le_bytes(array_at(begun, 72))) == Some(header.first);
        let (batch_bytes, previous) = if none_stays {
            (HEADER as u64, array_at(begun, 80))
        } else {
            (batch_bytes, header.previous)
        };
        Break { segment, batch_bytes, sequence: header.first, previous }
    }

    fn carry(&self, flight: Flight, moved: &MovedExtents) -> Carried {
        let image = self.image_of(&flight);
        let header = header_at(image, flight.cut.batch_bytes);
        let start = usize::try_from(flight.cut.batch_bytes).expect("inside a segment");
        let mut bytes = image.get(start..start + header.length_bytes).to_vec();
        let records = &mut bytes[BatchHeader::cell_at(header.cells as usize)..];
        for bytes in records.chunks_exact_mut(RECORD).take(header.records as usize) {
            let record = Record::read(bytes).expect("we wrote it");
            if let Some(record) = moved.follow(&record) {
                record.write(bytes);
            }
        }
        Carried { header, bytes, waiting: flight.cut.waiting, bulk: flight.cut.bulk }
    }

    /// Ends history at the break: what segments hold from there on lies elsewhere.
    fn end_history_at(&mut self, at: &Break) {
        self.close_segment();
        let here = self.full.iter().position(|full| full.cells.id == at.segment);
        let here = here.expect("its image was just looked into");
        let mut gone = self.full.split_off(here + 1);
        if at.batch_bytes == HEADER as u64 {
            gone.extend(self.full.pop_back());
        } else if let Some(full) = self.full.back_mut() {
            end_before(full, at);
        }
        for full in gone {
            self.files.remove(full.cells.id);
            self.flushing.forget(full.cells.id);
        }
        let mut index = Index::new();
        for source in self.index().sources() {
            if source.last() < at.sequence {
                index.push(source.clone());
            }
        }
        let indexed = index.snapshot().sources().last().map(Source::last);
        let cut = self.full.back().filter(|full| indexed < Some(full.run.last()));
        if let Some(full) = cut {
            index.push(Source::Memory(full.run.clone()));
        }
        self.background.index = index;
    }
}

fn header_at(image: &Image, batch_bytes: u64) -> BatchHeader {
    let start = usize::try_from(batch_bytes).expect("inside a segment");
    BatchHeader::read(image.get(start..start + BATCH_HEADER)).expect("we wrote it")
}

/// A segment that keeps the batches before the break.
fn end_before(full: &mut FullSegment, at: &Break) {
    full.end_bytes = at.batch_bytes;
    full.last_tag = at.previous;
    if full.run.last() >= at.sequence {
        let contents = cut_contents(full.run.contents(), at.sequence);
        full.bulk = bulk_of(&contents, full.cells.id);
        full.run = Arc::new(MemoryRun::new(contents));
    }
}

/// What of a segment's contents was written before `sequence`.
fn cut_contents(contents: &Contents, sequence: Sequence) -> Contents {
    let mut cut = contents.clone();
    cut.entries.retain(|entry| entry.sequence < sequence);
    cut.ranges.retain(|range| range.sequence < sequence);
    cut.clock.retain(|point| point.sequence < sequence);
    cut.clients.retain(|run| run.first < sequence);
    cut.flushes.retain(|flush| flush.sequence < sequence);
    cut.last = sequence.previous();
    cut
}

/// Bulk files that contents name, with the last sequence in each.
fn bulk_of(contents: &Contents, segment: FileId) -> Vec<(FileId, Sequence)> {
    let mut bulk: Vec<(FileId, Sequence)> = Vec::new();
    for entry in contents.entries.iter().filter(|entry| entry.place.file() != segment) {
        let file = entry.place.file();
        match bulk.iter_mut().find(|(known, _)| *known == file) {
            Some((_, last)) => *last = entry.sequence.max(*last),
            None => bulk.push((file, entry.sequence)),
        }
    }
    bulk
}
