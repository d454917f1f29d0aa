//! Compressed images: formats whose layout is known only once their bytes are packed.
//!
//! Reading, unpacking and packing are spread over threads; tables are made in the order of the guest's
//! bytes, so the same disk gives the same file.

use images::{Algorithm, Chain, Extent, qcow2, vmdk};

use crate::{
    Error, Files, Watch,
    fetch::Fetcher,
    narrow, order,
    sink::{Sink, is_zero},
    source::{self, JOB_BYTES, Source},
};

/// Level of deflate for grains: what VMware's own tools take.
const GRAIN_LEVEL: u32 = 6;

/// Appends to a sink.
struct Appender<'s> {
    sink: &'s mut dyn Sink,
    end: u64,
}

impl Appender<'_> {
    fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.sink.bytes(self.end, bytes)?;
        self.end += bytes.len() as u64;
        Ok(())
    }
}

/// A `streamOptimized` VMDK, from head to end; gives its length.
pub(crate) fn grains(
    chain: &mut Chain,
    files: &Files,
    mut stream: vmdk::stream::Stream,
    sink: &mut dyn Sink,
    watch: &mut Watch<'_>,
) -> Result<u64, Error> {
    const GRAIN: u64 = vmdk::stream::GRAIN_BYTES;
    let mut out = Appender { sink, end: 0 };
    out.append(&stream.begin())?;
    let mut batches = Batches::new(Source::new(chain, files), GRAIN);
    let work = |fetcher: &mut Fetcher, batch: Batch| {
        let bytes = fetch(fetcher, files, &batch)?;
        let packed: Vec<(u64, Vec<u8>)> = bytes
            .chunks(narrow(GRAIN))
            .zip(batch.start / GRAIN..)
            .map(|(plain, number)| (number, vmdk::stream::pack_grain(plain, GRAIN_LEVEL)))
            .filter(|(_, packed)| !packed.is_empty())
            .collect();
        Ok((packed, batch.passed))
    };
    order::in_order(
        order::threads(),
        || batches.next(),
        work,
        |(packed, passed)| {
            for (number, grain) in packed {
                out.append(&stream.grain(number, &grain)?)?;
            }
            watch.advance(passed)
        },
    )?;
    out.append(&stream.finish()?)?;
    Ok(out.end)
}

/// A qcow2 image of compressed clusters; its first cluster is written last. Gives its length.
pub(crate) fn clusters(
    chain: &mut Chain,
    files: &Files,
    mut packer: qcow2::pack::Packer,
    (algorithm, cluster): (Algorithm, u64),
    sink: &mut dyn Sink,
    watch: &mut Watch<'_>,
) -> Result<u64, Error> {
    let mut out = Appender { sink, end: 0 };
    out.append(&packer.start())?;
    let mut batches = Batches::new(Source::new(chain, files), cluster);
    let step = narrow(cluster);
    let work = |fetcher: &mut Fetcher, batch: Batch| {
        let mut bytes = fetch(fetcher, files, &batch)?;
        bytes.resize(bytes.len().next_multiple_of(step), 0); // zeroes past the end of the disk
        // A cluster of zeroes is mostly one that the plan leaves out.
        let packed: Vec<Option<Vec<u8>>> = bytes
            .chunks(step)
            .map(|plain| if is_zero(plain) { None } else { qcow2::pack::pack(algorithm, plain) })
            .collect();
        Ok((batch, bytes, packed))
    };
    order::in_order(
        order::threads(),
        || batches.next(),
        work,
        |(batch, bytes, packed)| {
            let places = (batch.start..).step_by(step);
            for ((guest, plain), stream) in places.zip(bytes.chunks(step)).zip(packed) {
                if packer.wanted() != Some(guest) {
                    // The plan holds every cluster that is not all zero.
                    assert!(is_zero(plain), "a cluster of data that the plan leaves out");
                } else if stream.is_none() && is_zero(plain) {
                    out.append(&packer.push(plain))?;
                } else {
                    out.append(&packer.push_packed(plain, stream))?;
                }
            }
            watch.advance(batch.passed)
        },
    )?;
    let finish = packer.finish()?;
    out.append(&finish.tables)?;
    out.sink.bytes(0, &finish.header)?;
    Ok(out.end)
}

/// A range of the guest to be packed: it begins at a multiple of the unit, and ends at one or at the
/// end of the disk.
struct Batch {
    start: u64,
    len: u64,
    extents: Vec<Extent>,
    /// Bytes that lie behind once it is done, zeroes before it included.
    passed: u64,
}

fn fetch(fetcher: &mut Fetcher, files: &Files, batch: &Batch) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::with_capacity(narrow(batch.len));
    for extent in &batch.extents {
        fetcher.fetch(files, extent, &mut bytes)?;
    }
    Ok(bytes)
}

/// The units of a disk that are not zero by its map, in order.
struct Batches<'d> {
    source: Source<'d>,
    unit: u64,
    size: u64,
    place: u64,
}

impl<'d> Batches<'d> {
    fn new(source: Source<'d>, unit: u64) -> Self {
        let size = source.size();
        Self { source, unit, size, place: 0 }
    }

    fn next(&mut self) -> Result<Option<Batch>, Error> {
        let before = self.place;
        while self.place < self.size {
            let extent = self.source.extent(self.place, self.size)?;
            let after = if extent.end() == self.size {
                self.size
            } else {
                extent.end() / self.unit * self.unit
            };
            if !source::is_zero(&extent.kind) || after <= self.place {
                break;
            }
            self.place = after;
        }
        if self.place >= self.size {
            return Ok(None);
        }
        let start = self.place;
        let end = start.saturating_add(JOB_BYTES.max(self.unit)).min(self.size);
        let mut extents = Vec::new();
        while self.place < end {
            let extent = self.source.extent(self.place, end)?;
            self.place = extent.end();
            extents.push(extent);
        }
        Ok(Some(Batch { start, len: end - start, extents, passed: end - before }))
    }
}
