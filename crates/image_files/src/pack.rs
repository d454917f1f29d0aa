//! Compressed images: formats whose layout is known only once their bytes are packed.
//!
//! Reading, unpacking and packing are spread over threads; tables are made in the order of the guest's
//! bytes, so the same disk gives the same file.

use images::{Algorithm, Chain, Extent, layout::Unwritable, qcow2, vmdk};

use crate::{
    Error, Files, Watch,
    fetch::Fetcher,
    narrow, order,
    sink::{Sink, is_zero},
    source::{self, JOB_BYTES, Source},
};

/// Level of deflate for grains: what VMware's own tools take.
const GRAIN_LEVEL: u32 = 6;

/// Guest bytes to be packed: they begin at a multiple of the unit, and end at one or at the end of
/// the disk.
pub struct Batch<J> {
    /// Where they begin.
    pub start: u64,
    /// How many there are.
    pub len: u64,
    /// Bytes that lie behind once it is done, zeroes before it included.
    pub passed: u64,
    /// How to get them.
    pub job: J,
}

/// Packs a `streamOptimized` VMDK, from head to end. `next` names the guest's bytes in order, and may
/// leave out units of zeroes; `fetch` gets them, on any thread; `take` is given the file's bytes in
/// order, and how much of the guest lies behind with them.
pub fn pack_grains<J, W, E>(
    mut stream: vmdk::stream::Stream,
    mut next: impl FnMut() -> Result<Option<Batch<J>>, E>,
    fetch: impl Fn(&mut W, J) -> Result<Vec<u8>, E> + Sync,
    mut take: impl FnMut(Vec<u8>, u64) -> Result<(), E>,
) -> Result<(), E>
where
    J: Send,
    W: Default,
    E: From<Unwritable> + Send,
{
    const GRAIN: u64 = vmdk::stream::GRAIN_BYTES;
    take(stream.begin(), 0)?;
    let work = |state: &mut W, batch: Batch<J>| {
        let bytes = fetch(state, batch.job)?;
        let packed: Vec<(u64, Vec<u8>)> = bytes
            .chunks(narrow(GRAIN))
            .zip(batch.start / GRAIN..)
            .map(|(plain, number)| (number, vmdk::stream::pack_grain(plain, GRAIN_LEVEL)))
            .filter(|(_, packed)| !packed.is_empty())
            .collect();
        Ok((packed, batch.passed))
    };
    order::in_order(order::threads(), &mut next, work, |(packed, passed)| {
        let mut bytes = Vec::new();
        for (number, grain) in packed {
            bytes.extend(stream.grain(number, &grain)?);
        }
        take(bytes, passed)
    })?;
    take(stream.finish()?, 0)
}

/// Packs a qcow2 image; the first call of `take` has zeroes in the place of the file's first cluster,
/// and the answer is what belongs there. `next`, `fetch` and `take` as in [`pack_grains`].
pub fn pack_clusters<J, W, E>(
    mut packer: qcow2::pack::Packer,
    (algorithm, cluster): (Algorithm, u64),
    mut next: impl FnMut() -> Result<Option<Batch<J>>, E>,
    fetch: impl Fn(&mut W, J) -> Result<Vec<u8>, E> + Sync,
    mut take: impl FnMut(Vec<u8>, u64) -> Result<(), E>,
) -> Result<Vec<u8>, E>
where
    J: Send,
    W: Default,
    E: From<Unwritable> + Send,
{
    take(packer.start(), 0)?;
    let step = narrow(cluster);
    let work = |state: &mut W, batch: Batch<J>| {
        let mut bytes = fetch(state, batch.job)?;
        bytes.resize(bytes.len().next_multiple_of(step), 0); // zeroes past the end of the disk
        // A cluster of zeroes is mostly one that the plan leaves out.
        let packed: Vec<Option<Vec<u8>>> = bytes
            .chunks(step)
            .map(|plain| if is_zero(plain) { None } else { qcow2::pack::pack(algorithm, plain) })
            .collect();
        Ok((batch.start, batch.passed, bytes, packed))
    };
    order::in_order(order::threads(), &mut next, work, |(start, passed, bytes, packed)| {
        let places = (start..).step_by(step);
        let mut out = Vec::new();
        for ((guest, plain), stream) in places.zip(bytes.chunks(step)).zip(packed) {
            if packer.wanted() != Some(guest) {
                // The plan holds every cluster that is not all zero.
                assert!(is_zero(plain), "a cluster of data that the plan leaves out");
            } else if stream.is_none() && is_zero(plain) {
                out.extend(packer.push(plain));
            } else {
                out.extend(packer.push_packed(plain, stream));
            }
        }
        take(out, passed)
    })?;
    let finish = packer.finish()?;
    take(finish.tables, 0)?;
    Ok(finish.header)
}

/// Appends to a sink.
struct Appender<'s, 'w, 'f> {
    sink: &'s mut dyn Sink,
    end: u64,
    watch: &'w mut Watch<'f>,
}

impl Appender<'_, '_, '_> {
    fn append(&mut self, bytes: &[u8], passed: u64) -> Result<(), Error> {
        self.sink.bytes(self.end, bytes)?;
        self.end += bytes.len() as u64;
        self.watch.advance(passed)
    }
}

/// A `streamOptimized` VMDK of a chain; gives its length.
pub(crate) fn grains(
    chain: &mut Chain,
    files: &Files,
    stream: vmdk::stream::Stream,
    sink: &mut dyn Sink,
    watch: &mut Watch<'_>,
) -> Result<u64, Error> {
    let mut out = Appender { sink, end: 0, watch };
    let mut batches = Batches::new(Source::new(chain, files), vmdk::stream::GRAIN_BYTES);
    pack_grains(
        stream,
        || batches.next(),
        fetch_from(files),
        |bytes, passed| out.append(&bytes, passed),
    )?;
    Ok(out.end)
}

/// A qcow2 image of compressed clusters; its first cluster is written last. Gives its length.
pub(crate) fn clusters(
    chain: &mut Chain,
    files: &Files,
    packer: qcow2::pack::Packer,
    (algorithm, cluster): (Algorithm, u64),
    sink: &mut dyn Sink,
    watch: &mut Watch<'_>,
) -> Result<u64, Error> {
    let mut out = Appender { sink, end: 0, watch };
    let mut batches = Batches::new(Source::new(chain, files), cluster);
    let how = (algorithm, cluster);
    let header = pack_clusters(
        packer,
        how,
        || batches.next(),
        fetch_from(files),
        |bytes, passed| out.append(&bytes, passed),
    )?;
    out.sink.bytes(0, &header)?;
    Ok(out.end)
}

fn fetch_from(
    files: &Files,
) -> impl Fn(&mut Fetcher, Vec<Extent>) -> Result<Vec<u8>, Error> + Sync {
    |fetcher, extents| {
        let len = extents.iter().map(|extent| extent.len).sum();
        let mut bytes = Vec::with_capacity(narrow(len));
        for extent in &extents {
            fetcher.fetch(files, extent, &mut bytes)?;
        }
        Ok(bytes)
    }
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

    fn next(&mut self) -> Result<Option<Batch<Vec<Extent>>>, Error> {
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
        Ok(Some(Batch { start, len: end - start, passed: end - before, job: extents }))
    }
}
