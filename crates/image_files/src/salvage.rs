//! What can still be read of a damaged image, and a list of what cannot.
//!
//! A bad range reads as zero in the output and stands in the list; everything else is as it was. A
//! file that gives errors is read again sector by sector, so that a bad one costs no more than
//! itself.

use std::{fmt::Write as _, ops::Range, path::Path};

use images::{Extent, Kind};
use world::real::Place;

use crate::{
    Disk, Error, Files, Watch,
    fetch::Fetcher,
    order,
    sink::{DeviceSink, FileSink, Sink},
    source::{Source, is_zero},
};

/// What a failing disk is asked for one at a time.
const SECTOR_BYTES: u64 = 512;

/// What is given up at once where the map itself cannot be read and the format has no unit.
const BLIND_BYTES: u64 = 64 << 10;

/// A range that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRange {
    /// Guest offset in bytes.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// Why, for the first byte of it.
    pub why: String,
}

/// What a salvage gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Salvaged {
    /// Bytes that the guest saw.
    pub virtual_size: u64,
    /// Ranges that could not be read, in order.
    pub bad: Vec<BadRange>,
    /// Bytes that were written; the rest is holes.
    pub written_bytes: u64,
}

impl Salvaged {
    /// Bytes in bad ranges.
    pub fn bad_bytes(&self) -> u64 {
        self.bad.iter().map(|bad| bad.len).sum()
    }

    /// The list in the form of GNU ddrescue's map files: `+` was read, `-` is bad.
    pub fn map_file(&self) -> String {
        let mut text = "# Mapfile. Created by strandline image salvage\n\
                        # current_pos  current_status  current_pass\n\
                        0x00000000     +               1\n\
                        #      pos        size  status\n"
            .to_owned();
        let mut line = |start: u64, end: u64, status: char| {
            if start < end {
                let len = end - start;
                writeln!(text, "0x{start:08X}  0x{len:08X}  {status}").expect("a string takes all");
            }
        };
        let mut place = 0;
        for bad in &self.bad {
            line(place, bad.start, '+');
            place = bad.start + bad.len;
            line(bad.start, place, '-');
        }
        line(place, self.virtual_size, '+');
        text
    }
}

impl Disk {
    /// Writes what can be read to `path` as a raw disk.
    pub fn salvage(
        &mut self,
        path: &Path,
        force: bool,
        watch: &mut Watch<'_>,
    ) -> Result<Salvaged, Error> {
        self.salvage_but(&[], "", path, force, watch)
    }

    /// The same, but ranges that can be read and must not be believed count as bad, with that reason.
    /// They are in order and apart.
    pub fn salvage_but(
        &mut self,
        distrust: &[Range<u64>],
        why: &str,
        path: &Path,
        force: bool,
        watch: &mut Watch<'_>,
    ) -> Result<Salvaged, Error> {
        let distrust = (distrust, why);
        let size = self.virtual_size();
        if self.look(path, force)? == Place::Device {
            let mut sink = DeviceSink::open(path, size, force)?;
            let bad = self.salvage_to(distrust, &mut sink, watch)?;
            sink.finish()?;
            return Ok(Salvaged { virtual_size: size, bad, written_bytes: sink.written });
        }
        let mut sink = FileSink::make(path)?;
        sink.set_length(size)?;
        let bad = self.salvage_to(distrust, &mut sink, watch)?;
        let written_bytes = sink.written;
        sink.place(force)?;
        Ok(Salvaged { virtual_size: size, bad, written_bytes })
    }

    /// Reads all that the guest can see; gives what cannot be read.
    pub fn unreadable(&mut self, watch: &mut Watch<'_>) -> Result<Vec<BadRange>, Error> {
        self.salvage_to((&[], ""), &mut Nowhere, watch)
    }

    fn salvage_to(
        &mut self,
        (mut distrust, why): (&[Range<u64>], &str),
        sink: &mut dyn Sink,
        watch: &mut Watch<'_>,
    ) -> Result<Vec<BadRange>, Error> {
        let size = self.virtual_size();
        let blind = self.chain.layers()[0].facts().unit.max(BLIND_BYTES);
        let files = &self.files;
        let mut source = Source::new(&mut self.chain, files);
        let mut place = 0;
        let next = || {
            if place >= size {
                return Ok(None);
            }
            let start = place;
            while distrust.first().is_some_and(|range| range.end <= start) {
                distrust = &distrust[1..];
            }
            let (stop, lost) = match distrust.first() {
                Some(range) if range.start <= start => (range.end.min(size), true),
                Some(range) => (range.start.min(size), false),
                None => (size, false),
            };
            if lost {
                place = stop;
                let bad = BadRange { start, len: stop - start, why: why.to_owned() };
                return Ok(Some(Job::Lost(bad)));
            }
            let job = match source.extents(start, stop) {
                Ok(extents) => Job::Extents(extents),
                Err(error) => {
                    let end = (start / blind + 1).saturating_mul(blind).min(stop);
                    Job::Lost(bad(start, end - start, &error))
                }
            };
            place = match &job {
                Job::Extents(extents) => extents.last().map_or(stop, Extent::end),
                Job::Lost(bad) => bad.start + bad.len,
            };
            Ok(Some(job))
        };
        let mut list = Vec::new();
        order::in_order(
            order::threads(),
            next,
            |fetcher: &mut Fetcher, job| Ok(salvaged(fetcher, files, job)),
            |(extents, bytes): (Outcome, Vec<u8>)| {
                let (start, len) = (extents.start, extents.len);
                if bytes.is_empty() {
                    sink.zeroes(start, len)?;
                } else {
                    sink.bytes(start, &bytes)?;
                }
                extents.bad.into_iter().for_each(|bad| note(&mut list, bad));
                watch.advance(len)
            },
        )?;
        Ok(list)
    }
}

/// Takes bytes that only had to be read.
struct Nowhere;

impl Sink for Nowhere {
    fn bytes(&mut self, _at: u64, _bytes: &[u8]) -> Result<(), Error> {
        Ok(())
    }

    fn zeroes(&mut self, _at: u64, _len: u64) -> Result<(), Error> {
        Ok(())
    }
}

enum Job {
    Extents(Vec<Extent>),
    Lost(BadRange),
}

/// What came of a job, besides its bytes.
struct Outcome {
    start: u64,
    len: u64,
    bad: Vec<BadRange>,
}

/// The bytes of a job, zeroes where there are none to have; no byte at all for nothing but zeroes.
fn salvaged(fetcher: &mut Fetcher, files: &Files, job: Job) -> (Outcome, Vec<u8>) {
    let extents = match job {
        Job::Extents(extents) => extents,
        Job::Lost(bad) => {
            return (Outcome { start: bad.start, len: bad.len, bad: vec![bad] }, Vec::new());
        }
    };
    let (start, len) = match (extents.first(), extents.last()) {
        (Some(first), Some(last)) => (first.start, last.end() - first.start),
        _ => (0, 0),
    };
    let mut outcome = Outcome { start, len, bad: Vec::new() };
    let mut bytes = Vec::new();
    if let [only] = extents.as_slice()
        && (is_zero(&only.kind) || matches!(only.kind, Kind::Corrupt(_)))
    {
        // It may be of any length, and takes no memory.
        if let Kind::Corrupt(fault) = &only.kind {
            let error = files.fault((**fault).clone());
            outcome.bad.push(bad(start, len, &error));
        }
        return (outcome, bytes);
    }
    for extent in &extents {
        fetch(fetcher, files, extent, &mut bytes, &mut outcome.bad);
    }
    (outcome, bytes)
}

fn fetch(
    fetcher: &mut Fetcher,
    files: &Files,
    extent: &Extent,
    bytes: &mut Vec<u8>,
    list: &mut Vec<BadRange>,
) {
    let before = bytes.len();
    let Err(error) = fetcher.fetch(files, extent, bytes) else { return };
    let is_data = matches!(extent.kind, Kind::Data { .. });
    if is_data && extent.len > SECTOR_BYTES {
        let mut place = extent.start;
        while place < extent.end() {
            let end = (place / SECTOR_BYTES + 1) * SECTOR_BYTES;
            let sector = extent.cut(place, end);
            fetch(fetcher, files, &sector, bytes, list);
            place = sector.end();
        }
        return;
    }
    bytes.resize(before + crate::narrow(extent.len), 0);
    list.push(bad(extent.start, extent.len, &error));
}

fn bad(start: u64, len: u64, error: &Error) -> BadRange {
    let why = match error {
        Error::Fault { fault, .. } => fault.to_string(),
        other => other.to_string(),
    };
    BadRange { start, len, why }
}

/// Joins ranges that meet, whatever their reasons: the first is told.
fn note(list: &mut Vec<BadRange>, bad: BadRange) {
    match list.last_mut() {
        Some(last) if last.start + last.len == bad.start => last.len += bad.len,
        _ => list.push(bad),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_file_covers_the_disk() {
        let range = |start, len| BadRange { start, len, why: String::new() };
        let mut bad = Vec::new();
        for next in [range(0, 512), range(65_536, 512), range(66_048, 512)] {
            note(&mut bad, next);
        }
        let salvaged = Salvaged { virtual_size: 1 << 20, bad, written_bytes: 0 };
        assert_eq!(salvaged.bad_bytes(), 1536);
        let text = salvaged.map_file();
        let lines: Vec<&str> = text.lines().skip(4).collect();
        assert_eq!(
            lines,
            [
                "0x00000000  0x00000200  -",
                "0x00000200  0x0000FE00  +",
                "0x00010000  0x00000400  -",
                "0x00010400  0x000EFC00  +"
            ]
        );
    }
}
