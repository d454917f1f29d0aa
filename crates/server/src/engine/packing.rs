//! Packed exports: streams whose bytes show while the guest's are packed, on a few threads.
//!
//! A `streamOptimized` VMDK takes one pass. A packed qcow2 begins with a header that names tables which
//! come last: it is packed twice, the first time to learn the header, unless the whole of it fits
//! [`KEEP_BYTES`] or the reader can go back. Either way the bytes are the same.

use super::{failures::block_failure, lens::OpenView, shelf::Image};
use crate::data::Reading;
use api::{Chunk, Chunks, Failure, codes};
use crossbeam_channel::{Receiver, Sender, bounded};
use image_files::{Batch, pack_clusters, pack_grains};
use images::{
    form::Made,
    layout::{Held, Unwritable},
    vmdk,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// Guest bytes that are packed at a time, about.
const BATCH_BYTES: u64 = 1 << 20;
/// Pieces of the file that wait for a slow reader.
const QUEUE: usize = 4;
/// A packed image up to this is kept in memory from its first pass.
const KEEP_BYTES: usize = 32 << 20;

/// A packed image on its way; who drops it ends the packing.
struct Packing {
    /// `None` is the end: a thread that breaks off sends none.
    pieces: Receiver<Result<Option<Chunk>, Failure>>,
    ended: bool,
    gone: Arc<AtomicBool>,
}

/// Why packing ended early.
enum End {
    Failed(Failure),
    /// Nobody reads.
    Gone,
}

impl From<Unwritable> for End {
    fn from(why: Unwritable) -> Self {
        Self::Failed(super::exporting::unwritable(&why))
    }
}

impl Chunks for Packing {
    fn next(&mut self) -> Result<Option<Chunk>, Failure> {
        if self.ended {
            return Ok(None);
        }
        let step = self.pieces.recv();
        let step = step.unwrap_or_else(|_| Err(Failure::bug("packing an image broke off")));
        self.ended = !matches!(step, Ok(Some(_)));
        step
    }
}

impl Drop for Packing {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
    }
}

/// All bytes of a packed image; `name` is for who is told of damage.
pub(super) fn pack(
    image: Arc<Image>,
    name: String,
    head_last: bool,
) -> Result<Box<dyn Chunks>, Failure> {
    image.lens.view(0)?; // refuses what cannot be opened before the answer begins
    let (sender, pieces) = bounded(QUEUE);
    let gone = Arc::new(AtomicBool::new(false));
    let packing = Packing { pieces, ended: false, gone: Arc::clone(&gone) };
    let work = move || {
        let job = Job { image: &image, name: &name, out: Out { sender: &sender, gone: &gone } };
        let last = match job.run(head_last) {
            Ok(()) => Ok(None),
            Err(End::Failed(failure)) => Err(failure),
            Err(End::Gone) => return,
        };
        let _ = sender.send(last); // nobody reads any more
    };
    let spawned = thread::Builder::new().name("strand-image".to_owned()).spawn(work);
    spawned.map_err(|error| {
        Failure::new(codes::BUG, format!("no thread to pack an image: {error}"))
    })?;
    Ok(Box::new(packing))
}

struct Job<'a> {
    image: &'a Image,
    name: &'a str,
    out: Out<'a>,
}

/// A piece of the guest that is being read.
struct Asked {
    reading: Reading,
    view: Arc<OpenView>,
    start: u64,
}

impl Job<'_> {
    fn run(&self, head_last: bool) -> Result<(), End> {
        match self.image.export.make(self.image.held.to_vec())? {
            Made::Grains(stream) => {
                let mut batches = Batches::new(self.image, vmdk::stream::GRAIN_BYTES);
                let take = |bytes: Vec<u8>, _| self.out.send(&bytes);
                pack_grains(*stream, || batches.next(self.name), fetch(self.name), take)
            }
            Made::Clusters(packer, algorithm, cluster) => {
                let first = Made::Clusters(packer, algorithm, cluster);
                if head_last {
                    let head = self.clusters(first, |bytes| self.out.send(&bytes))?;
                    return self.out.send(&head);
                }
                let mut kept = Some(Vec::new());
                let head = self.clusters(first, |bytes| {
                    let len: usize = kept.iter().map(Vec::len).sum();
                    match &mut kept {
                        Some(all) if len + bytes.len() <= KEEP_BYTES => all.extend(bytes),
                        _ => kept = None,
                    }
                    if self.out.gone.load(Ordering::Relaxed) { Err(End::Gone) } else { Ok(()) }
                })?;
                let begun = head.len();
                self.out.send(&head)?;
                if let Some(all) = kept {
                    return self.out.send(&all[begun..]);
                }
                let again = self.image.export.make(self.image.held.to_vec())?;
                let mut skip = begun;
                self.clusters(again, |bytes: Vec<u8>| {
                    let now = skip.min(bytes.len());
                    skip -= now;
                    self.out.send(&bytes[now..])
                })?;
                Ok(())
            }
            Made::Files(_) => Err(End::Failed(Failure::bug("an image that is laid out is packed"))),
        }
    }

    fn clusters(
        &self,
        made: Made,
        mut take: impl FnMut(Vec<u8>) -> Result<(), End>,
    ) -> Result<Vec<u8>, End> {
        let Made::Clusters(packer, algorithm, cluster) = made else {
            return Err(End::Failed(Failure::bug("the same export in another form")));
        };
        let mut batches = Batches::new(self.image, cluster);
        let next = || batches.next(self.name);
        pack_clusters(*packer, (algorithm, cluster), next, fetch(self.name), |bytes, _| take(bytes))
    }
}

/// Waits for guest bytes.
fn fetch(name: &str) -> impl Fn(&mut (), Asked) -> Result<Vec<u8>, End> + Sync {
    move |(), asked| {
        let parts = asked.reading.wait();
        drop(asked.view);
        let parts = parts.map_err(|error| {
            let place = format!("{name} from byte {} on", asked.start);
            End::Failed(block_failure(error, &place))
        })?;
        Ok(parts.iter().flat_map(|part| part.iter().copied()).collect())
    }
}

struct Out<'a> {
    sender: &'a Sender<Result<Option<Chunk>, Failure>>,
    gone: &'a AtomicBool,
}

impl Out<'_> {
    fn send(&self, bytes: &[u8]) -> Result<(), End> {
        for piece in bytes.chunks(Chunk::DATA_MAX) {
            self.sender.send(Ok(Some(Chunk::Data(piece.to_vec())))).map_err(|_| End::Gone)?;
        }
        Ok(())
    }
}

/// The units of a state of which something is to be read, in order.
struct Batches<'a> {
    image: &'a Image,
    unit: u64,
    size: u64,
    /// The range that comes next, and how far units were given out.
    range: usize,
    place: u64,
}

impl<'a> Batches<'a> {
    fn new(image: &'a Image, unit: u64) -> Self {
        Self { image, unit, size: image.export.state().size_bytes, range: 0, place: 0 }
    }

    /// Begins to read the next units.
    fn next(&mut self, name: &str) -> Result<Option<Batch<Asked>>, End> {
        let before = self.place;
        let Some((start, end)) = self.step() else { return Ok(None) };
        let lens = &self.image.lens;
        let view = lens.view(end - start).map_err(End::Failed)?;
        let reading = lens.hub().begin_read(view.id(), start, end - start).map_err(|error| {
            End::Failed(block_failure(error, &format!("{name} from byte {start} on")))
        })?;
        let job = Asked { reading, view, start };
        Ok(Some(Batch { start, len: end - start, passed: end - before, job }))
    }

    /// The next units, at most [`BATCH_BYTES`] of them: whole, but for the last of the disk.
    fn step(&mut self) -> Option<(u64, u64)> {
        loop {
            let parts = self.parts(self.image.held.get(self.range)?);
            let next = parts.into_iter().find_map(|(start, end)| {
                let start = start.max(self.place);
                (start < end).then_some((start, end.min(start + BATCH_BYTES)))
            });
            let Some((start, end)) = next else {
                self.range += 1;
                continue;
            };
            self.place = end;
            return Some((start, end));
        }
    }

    /// Units of a range that have to be read: all of data; of zeroes those that they cover in part,
    /// for the rest of such a unit is what the guest sees there.
    fn parts(&self, held: &Held) -> [(u64, u64); 2] {
        let (unit, end) = (self.unit, held.start + held.len);
        let (outer, inner) = (held.start / unit * unit, held.start.next_multiple_of(unit));
        let outer_end = end.next_multiple_of(unit).min(self.size);
        let inner_end = if end == self.size { end } else { end / unit * unit };
        if held.zero && inner <= inner_end {
            [(outer, inner), (inner_end, outer_end)]
        } else {
            [(outer, outer_end), (0, 0)]
        }
    }
}
