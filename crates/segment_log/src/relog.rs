//! Batches whose write failed are logged again: same cells, same sequences, in a new segment.
//!
//! Nothing of them was answered, and nothing behind them. The segment they were in ends before the
//! first that failed; what lies behind it there, whole or not, is not reached by the chain any more,
//! and places in it are found to be gone by who still holds them. Three failures in a row without a
//! success poison the log.

use crate::{
    batch::{BatchHeader, array_at},
    log::{Flight, FullSegment, Log, Outcome},
    writer::Waiting,
};
use history_index::{Contents, Index, MemoryRun, Source};
use seal::Tag;
use std::{collections::VecDeque, io, sync::Arc};
use units::{FileId, Sequence};

/// Failures in a row that are taken for the end.
const RELOGS_MAX: u32 = 3;

/// A batch on its way to another segment.
struct Carried {
    header: BatchHeader,
    bytes: Vec<u8>,
    waiting: Vec<Waiting>,
    bulk: Vec<u64>,
}

impl Log {
    /// Logs again what failed, once everything that is in flight has ended and a segment is ready.
    pub(crate) fn log_again(&mut self) {
        let ended = self.flights.iter().all(|flight| flight.outcome != Outcome::Pending);
        if !self.relog || !ended || self.poison().is_some() {
            return;
        }
        if self.relogs >= RELOGS_MAX {
            let cause = io::Error::other("batches fail wherever they are written");
            return self.take_no_more("writing the log", &cause);
        }
        let Some(next) = self.background.prepared_segment() else {
            self.background.prepare_segment(&self.config);
            return;
        };
        let Some(first) = self.flights.iter().position(|it| it.outcome == Outcome::Failed) else {
            self.relog = false;
            return;
        };
        self.cut_only();
        let flights: Vec<Flight> = self.flights.drain(first..).collect();
        let (sequence, previous) = self.place_of(&flights[0]);
        let carried: Vec<Carried> = flights.into_iter().map(|flight| self.carry(flight)).collect();
        self.close_before(sequence, previous);
        self.begin_segment(next, sequence, previous);
        self.relog = false;
        self.relogs += 1;
        for Carried { header, bytes, waiting, bulk } in carried {
            let segment = self.segment.as_mut().expect("just begun");
            segment.adopt(&header, &bytes, waiting, bulk);
            self.cut();
        }
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

    /// The batch of a flight as it stands in its segment's image.
    fn batch_of(&self, flight: &Flight) -> &[u8] {
        let open = self.segment.as_ref().filter(|segment| segment.id() == flight.segment);
        let full = self.full.iter().find(|full| full.cells.id == flight.segment);
        let image = open
            .map(|segment| &segment.image)
            .or_else(|| full.and_then(|full| full.image.as_ref()))
            .expect("an image is kept until all of it has landed");
        let start = usize::try_from(flight.cut.batch_bytes).expect("inside a segment");
        let front = image.get(start..start + crate::batch::BATCH_HEADER);
        let header = BatchHeader::read(front).expect("we wrote it");
        image.get(start..start + header.length_bytes)
    }

    /// The first sequence of a flight and the tag it follows.
    fn place_of(&self, flight: &Flight) -> (Sequence, Tag) {
        let batch = self.batch_of(flight);
        let header = BatchHeader::read(batch).expect("we wrote it");
        if flight.cut.batch_bytes == crate::batch::HEADER as u64 {
            // The first of its segment follows the segment's header, and that the batch before it.
            let open = self.segment.as_ref().filter(|segment| segment.id() == flight.segment);
            let full = self.full.iter().find(|full| full.cells.id == flight.segment);
            let image = open
                .map(|segment| &segment.image)
                .or_else(|| full.and_then(|full| full.image.as_ref()))
                .expect("an image is kept until all of it has landed");
            return (header.first, array_at(image.get(0..crate::batch::HEADER), 80));
        }
        (header.first, header.previous)
    }

    fn carry(&self, flight: Flight) -> Carried {
        let bytes = self.batch_of(&flight).to_vec();
        let header = BatchHeader::read(&bytes).expect("we wrote it");
        Carried { header, bytes, waiting: flight.cut.waiting, bulk: flight.cut.bulk }
    }

    /// Ends every segment before `sequence`: what they hold from there on lies elsewhere.
    fn close_before(&mut self, sequence: Sequence, last_tag: Tag) {
        if self.segment.is_some() {
            self.close_segment();
        }
        let mut kept = VecDeque::new();
        for mut full in std::mem::take(&mut self.full) {
            if full.run.last() < sequence {
                kept.push_back(full);
                continue;
            }
            let contents = cut_contents(full.run.contents(), sequence);
            if contents.is_empty() {
                self.files.remove(full.cells.id);
                self.flushing.forget(full.cells.id);
                continue;
            }
            full.end_bytes = end_of(&full, sequence);
            full.last_tag = last_tag;
            full.bulk = bulk_of(&contents, full.cells.id);
            full.run = Arc::new(MemoryRun::new(contents));
            kept.push_back(full);
        }
        self.full = kept;
        let mut index = Index::new();
        for source in self.index().sources() {
            if source.last() < sequence {
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

/// Where the batch that begins with `sequence` lies in the segment's image.
fn end_of(full: &FullSegment, sequence: Sequence) -> u64 {
    let mut at = crate::batch::HEADER;
    let image = full.image.as_ref().expect("an image is kept until all of it has landed");
    while at < image.length_bytes() {
        let front = image.get(at..at + crate::batch::BATCH_HEADER);
        let header = BatchHeader::read(front).expect("we wrote it");
        if header.requests > 0 && header.first >= sequence {
            break;
        }
        at += header.length_bytes;
    }
    at as u64
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
