//! What the log has others do: blocking jobs over the disk, each of no effect until its outcome comes
//! back and the manifest knows.
//!
//! Order within a job is what makes a crash harmless: data, then its name, then the index, then its
//! name; the manifest record follows as a job of its own.

use crate::{
    batch::{HEADER, HEADER_NONCE},
    files::{CellFile, Home},
    log::random,
    planted,
    recording::{How, Recorded},
    state::{Fact, Interval},
    terms::Environment,
};
use history_index::{
    Contents, Entry, MemoryRun, MergeJob, PageCache, Progress, Run, RunWriter, write_run,
};
use manifest::{Manifest, Record};
use seal::{CellName, TagKey};
use std::{
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
};
use thiserror::Error;
use units::{BranchId, CELL, FileId, Lba, Place, RunId};
use world::{Access, Bytes, File, Image};

/// Cells written to a pack at once: 384 × 4128 = 387 × 4096.
const PIECE_CELLS: usize = 384;
/// Pages of a merge between two looks at whether to stop.
const MERGE_PAGES: u64 = 1024;

/// Length of the pieces in which a new segment file is filled.
const FILL_BYTES: usize = 1 << 20;

/// A job; see [`Work::run`].
pub struct Work {
    pub(crate) env: Arc<Environment>,
    pub(crate) task: Task,
}

pub(crate) enum Task {
    PrepareSegment(NewSegment),
    PrepareBulk(NewBulk),
    Record { manifest: Arc<Mutex<Manifest>>, how: How, records: Vec<Record> },
    Seal { segment: FileId, contents: Arc<MemoryRun>, run: RunId, cache: Arc<PageCache> },
    Pack(Pack),
    Merge { inputs: Vec<Arc<Run>>, run: RunId, cache: Arc<PageCache> },
    Remove { paths: Vec<String> },
    Shorten { file: File, length_bytes: u64 },
}

/// A segment file to be made ready.
pub(crate) struct NewSegment {
    pub slot: u64,
    /// It was used before: all of it is written.
    pub recycled: bool,
    /// Write over it if it was not: worth its time if it is used again and again.
    pub fill: bool,
    pub bytes: u64,
    /// What must stay free on the disk.
    pub reserve_bytes: u64,
}

/// A bulk file to be made ready.
pub(crate) struct NewBulk {
    pub id: FileId,
    /// How long it would best be.
    pub bytes: u64,
    /// How long it must be.
    pub least_bytes: u64,
    /// What must stay free on the disk.
    pub reserve_bytes: u64,
    /// One that is removed before room is looked for.
    pub instead_of: Option<FileId>,
}

/// A segment to be packed.
pub(crate) struct Pack {
    pub segment: FileId,
    /// The file, if its contents are no longer in memory.
    pub file: File,
    pub image: Option<Bytes>,
    pub end_bytes: u64,
    pub contents: Arc<MemoryRun>,
    pub into: FileId,
    pub run: RunId,
    pub cache: Arc<PageCache>,
}

/// How a job ended.
pub struct Outcome(pub(crate) Ended);

pub(crate) enum Ended {
    Segment {
        slot: u64,
        recycled: bool,
        result: io::Result<PreparedSegment>,
    },
    Bulk(io::Result<Box<PreparedBulk>>),
    Recorded(Recorded),
    Sealed {
        segment: FileId,
        run: Result<Arc<Run>, WorkError>,
    },
    Packed {
        segment: FileId,
        result: Result<PackedSegment, WorkError>,
    },
    Merged {
        inputs: Vec<RunId>,
        run: Result<Arc<Run>, WorkError>,
    },
    /// Something that nobody waits for was done.
    Tidied,
}

/// A segment file that waits to be used.
#[derive(Debug)]
pub struct PreparedSegment {
    pub slot: u64,
    pub file: File,
}

/// A bulk file that waits to be used.
pub struct PreparedBulk {
    pub id: FileId,
    pub file: File,
    pub key: TagKey,
    pub start_bytes: u64,
    pub end_bytes: u64,
}

/// What came of packing.
pub(crate) struct PackedSegment {
    /// `None` if all its cells lie in bulk files, or it has none.
    pub pack: Option<Arc<CellFile>>,
    pub run: Arc<Run>,
    pub moved: Vec<Moved>,
}

/// A cell that lies elsewhere now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Whose block.
    pub branch: BranchId,
    /// Which block.
    pub lba: Lba,
    /// Where it was.
    pub from: Place,
    /// Where it is.
    pub to: Place,
}

/// Why packing, sealing or merging failed.
#[derive(Debug, Error)]
pub enum WorkError {
    /// The disk.
    #[error(transparent)]
    Disk(#[from] io::Error),
    /// The index.
    #[error(transparent)]
    Index(#[from] history_index::Error),
    /// A cell is not as it was sealed.
    #[error("segment {segment} holds no whole cell at {at_bytes}")]
    Damaged {
        /// The segment.
        segment: FileId,
        /// Where the cell should be.
        at_bytes: u64,
    },
    /// A cell is not where its entry says.
    #[error("segment {segment} ends before the cell at {at_bytes}")]
    Outside {
        /// The segment.
        segment: FileId,
        /// Where the cell should be.
        at_bytes: u64,
    },
}

impl Work {
    /// Whether it takes long: then it must not stand in the way of short ones.
    pub fn is_long(&self) -> bool {
        matches!(self.task, Task::Seal { .. } | Task::Pack(_) | Task::Merge { .. })
    }

    /// Does it.
    pub fn run(self) -> Outcome {
        let env = &*self.env;
        Outcome(match self.task {
            Task::PrepareSegment(new) => {
                let (slot, recycled) = (new.slot, new.recycled);
                Ended::Segment { slot, recycled, result: new.prepare(env) }
            }
            Task::PrepareBulk(new) => Ended::Bulk(new.prepare(env).map(Box::new)),
            Task::Record { manifest, how, records } => {
                let mut manifest = manifest.lock().unwrap_or_else(PoisonError::into_inner);
                let result = match how {
                    How::Append => manifest.append(&records),
                    How::Rewrite => manifest.rewrite(&*env.disk, &*env.chance, &records),
                };
                let (usable, bytes) = (manifest.takes_records(), manifest.bytes());
                let error = result.err().map(|error| error.to_string());
                Ended::Recorded(Recorded { error, usable, bytes })
            }
            Task::Seal { segment, contents, run, cache } => {
                Ended::Sealed { segment, run: seal(env, &contents, run, &cache) }
            }
            Task::Pack(pack) => Ended::Packed { segment: pack.segment, result: pack.run(env) },
            Task::Merge { inputs, run, cache } => {
                let ids = inputs.iter().map(|run| run.meta().run).collect();
                Ended::Merged { inputs: ids, run: merge(env, inputs, run, &cache) }
            }
            Task::Remove { paths } => {
                for path in paths {
                    // What stays is garbage that the next start removes.
                    let _ = env.disk.remove(&path);
                }
                Ended::Tidied
            }
            Task::Shorten { file, length_bytes } => {
                // As above: then the end stays reserved.
                let _ = file.set_length(length_bytes);
                Ended::Tidied
            }
        })
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.task {
            Task::PrepareSegment(_) => "Work(prepare segment)",
            Task::PrepareBulk(_) => "Work(prepare bulk file)",
            Task::Record { .. } => "Work(record)",
            Task::Seal { .. } => "Work(seal)",
            Task::Pack(_) => "Work(pack)",
            Task::Merge { .. } => "Work(merge)",
            Task::Remove { .. } => "Work(remove)",
            Task::Shorten { .. } => "Work(shorten)",
        })
    }
}

/// Path of a run.
pub fn run_path(run: RunId) -> String {
    format!("run/{run}.run")
}

fn no_room() -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, "No space left on device")
}

impl NewSegment {
    /// A segment file of full length whose name is durable. One that was used before is taken as it is.
    fn prepare(self, env: &Environment) -> io::Result<PreparedSegment> {
        let (slot, bytes) = (self.slot, self.bytes);
        let path = Home::Slot(slot).path();
        if self.recycled {
            let file = env.disk.open(&path, Access::WRITE_DIRECT)?;
            if file.length_bytes()? < bytes {
                file.allocate(bytes)?;
                file.sync_data()?;
            }
            return Ok(PreparedSegment { slot, file });
        }
        if env.disk.space()?.free_bytes < bytes.saturating_add(self.reserve_bytes) {
            return Err(no_room());
        }
        let file = env.disk.open(&path, Access::WRITE_DIRECT.new_file())?;
        let made = file
            .allocate(bytes)
            .and_then(|()| if self.fill { fill(&file, bytes) } else { Ok(()) })
            .and_then(|()| file.sync_data())
            .and_then(|()| env.disk.sync_dir("log"));
        if let Err(error) = made {
            let _ = env.disk.remove(&path);
            return Err(error);
        }
        Ok(PreparedSegment { slot, file })
    }
}

/// Writes zeros over a file that was allocated. A file system keeps note of which blocks were never
/// written and must change that note at the first write to each, in its journal, while somebody waits:
/// on ext4 that more than doubles the time of a single write (docs/decisions/0007).
fn fill(file: &File, bytes: u64) -> io::Result<()> {
    let mut zeros = Image::new(FILL_BYTES);
    zeros.append(FILL_BYTES).fill(0);
    let mut at_bytes = 0;
    while at_bytes < bytes {
        let piece = (bytes - at_bytes).min(FILL_BYTES as u64);
        let piece = usize::try_from(piece).expect("no longer than what is filled at once");
        file.write_at(at_bytes, zeros.get(0..piece))?;
        at_bytes += piece as u64;
    }
    Ok(())
}

impl NewBulk {
    fn prepare(self, env: &Environment) -> io::Result<PreparedBulk> {
        if let Some(unfit) = self.instead_of {
            env.disk.remove(&Home::Bulk(unfit).path())?;
        }
        prepare_bulk(env, self.id, self.length(env)?)
    }

    /// At most half of what is free, for segments need room too, unless that is less than it must be.
    fn length(&self, env: &Environment) -> io::Result<u64> {
        let free_bytes = env.disk.space()?.free_bytes.saturating_sub(self.reserve_bytes);
        let half_bytes = free_bytes / 2 / HEADER as u64 * HEADER as u64;
        let bytes = self.bytes.min(half_bytes.max(self.least_bytes));
        if bytes > free_bytes { Err(no_room()) } else { Ok(bytes) }
    }
}

/// A bulk file with its header, whose name is durable.
fn prepare_bulk(env: &Environment, id: FileId, bytes: u64) -> io::Result<PreparedBulk> {
    let path = Home::Bulk(id).path();
    let file = env.disk.open(&path, Access::WRITE_DIRECT.new_file())?;
    let salt: [u8; 32] = random(&*env.chance);
    let mut image = Image::new(HEADER);
    let header = image.append(HEADER);
    header.fill(0);
    header[..8].copy_from_slice(b"SLBULK01");
    header[8..12].copy_from_slice(&1_u32.to_le_bytes());
    header[16..32].copy_from_slice(&env.store.0);
    header[32..40].copy_from_slice(&id.number().to_le_bytes());
    header[40..72].copy_from_slice(&salt);
    let key = TagKey::new(&env.master.derive("bulk", &salt));
    let tag = key.tag(HEADER_NONCE, &[&header[..72]]);
    header[72..88].copy_from_slice(&tag);
    let made = file
        .allocate(bytes)
        .and_then(|()| file.write_at(0, image.get(0..HEADER)))
        .and_then(|()| file.sync_data())
        .and_then(|()| env.disk.sync_dir("bulk"));
    if let Err(error) = made {
        let _ = env.disk.remove(&path);
        return Err(error);
    }
    Ok(PreparedBulk { id, file, key, start_bytes: HEADER as u64, end_bytes: bytes })
}

/// Writes the index of a segment and opens it; leaves nothing behind if that fails.
pub(crate) fn seal(
    env: &Environment,
    contents: &MemoryRun,
    run: RunId,
    cache: &Arc<PageCache>,
) -> Result<Arc<Run>, WorkError> {
    let path = run_path(run);
    let write = || {
        write_run(&*env.disk, &path, run, &env.master, &*env.chance, contents)?;
        if !planted::is(13) {
            env.disk.sync_dir("run")?;
        }
        Ok(Arc::new(Run::open(&*env.disk, &path, run, &env.master, cache)?))
    };
    or_remove(env, &path, write())
}

/// Passes a result on; if it is an error, what was made at the path goes. What stays all the same is
/// garbage that the next start removes.
fn or_remove<T>(
    env: &Environment,
    path: &str,
    result: Result<T, WorkError>,
) -> Result<T, WorkError> {
    if result.is_err() {
        let _ = env.disk.remove(path);
    }
    result
}

fn merge(
    env: &Environment,
    inputs: Vec<Arc<Run>>,
    run: RunId,
    cache: &Arc<PageCache>,
) -> Result<Arc<Run>, WorkError> {
    let path = run_path(run);
    let interval = match (inputs.first(), inputs.last()) {
        (Some(first), Some(last)) => first.meta().first..=last.meta().last,
        _ => return Err(io::Error::from(io::ErrorKind::InvalidInput).into()),
    };
    let write = || {
        let writer =
            RunWriter::create(&*env.disk, &path, run, &env.master, &*env.chance, interval)?;
        let mut job = MergeJob::new(inputs, writer);
        while let Progress::More(more) = job.step(MERGE_PAGES)? {
            job = *more;
        }
        env.disk.sync_dir("run")?;
        Ok(Arc::new(Run::open(&*env.disk, &path, run, &env.master, cache)?))
    };
    or_remove(env, &path, write())
}

impl Pack {
    /// Copies the segment's cells, sorted, into a pack; then writes the index with their new places.
    pub(crate) fn run(self, env: &Environment) -> Result<PackedSegment, WorkError> {
        let old = self.contents.contents();
        let here = |entry: &&Entry| entry.place.file() == self.segment;
        let cells = old.entries.iter().filter(here).count();
        let mut moved = Vec::with_capacity(cells);
        let mut pack = None;
        if cells > 0 {
            let bytes = match &self.image {
                Some(image) => image.clone(),
                None => read_segment(&self.file, self.end_bytes)?,
            };
            let copied = self.copy(env, &bytes, cells as u64, &mut moved);
            pack = Some(or_remove(env, &self.path(), copied)?);
        }
        let mut places = moved.iter().map(|moved| moved.to);
        let entries = old.entries.iter().map(|entry| {
            let left = entry.place.file() == self.segment;
            let place = if left { places.next() } else { None };
            Entry { place: place.unwrap_or(entry.place), ..*entry }
        });
        let contents = Contents { entries: entries.collect(), ..old.clone() };
        let sealed = seal(env, &MemoryRun::new(contents), self.run, &self.cache);
        let run = match pack {
            Some(_) => or_remove(env, &self.path(), sealed)?,
            None => sealed?,
        };
        Ok(PackedSegment { pack, run, moved })
    }

    fn path(&self) -> String {
        Home::Pack(self.into).path()
    }

    fn copy(
        &self,
        env: &Environment,
        bytes: &[u8],
        cells: u64,
        moved: &mut Vec<Moved>,
    ) -> Result<Arc<CellFile>, WorkError> {
        let home = Home::Pack(self.into);
        let path = home.path();
        let file = env.disk.open(&path, Access::WRITE_DIRECT.new_file())?;
        let length_bytes = (HEADER as u64 + cells * CELL as u64).next_multiple_of(HEADER as u64);
        file.allocate(length_bytes)?;
        let mut piece = Image::new(PIECE_CELLS * CELL);
        self.header(env, cells, piece.append(HEADER));
        let mut at = 0;
        let flush = |piece: Image, at: &mut u64| -> Result<Image, WorkError> {
            file.write_at(*at, piece.get(0..piece.length_bytes()))?;
            *at += piece.length_bytes() as u64;
            Ok(piece.recycle().expect("nobody else looks into it"))
        };
        piece = flush(piece, &mut at)?;
        for entry in &self.contents.contents().entries {
            let from = entry.place;
            if from.file() != self.segment {
                continue;
            }
            let outside =
                || WorkError::Outside { segment: self.segment, at_bytes: from.offset_bytes() };
            let start = usize::try_from(from.offset_bytes()).map_err(|_| outside())?;
            let cell = bytes.get(start..start + CELL).ok_or_else(outside)?;
            // What was read back may be damaged, or of another place, only on its way.
            if self.image.is_none() && !is_cell_of(env, entry, cell) {
                let (segment, at_bytes) = (self.segment, from.offset_bytes());
                return Err(WorkError::Damaged { segment, at_bytes });
            }
            let to = Place::new(self.into, at + piece.length_bytes() as u64).ok_or_else(outside)?;
            piece.append(CELL).copy_from_slice(cell);
            moved.push(Moved { branch: entry.branch, lba: entry.lba, from, to });
            if piece.length_bytes() == PIECE_CELLS * CELL {
                piece = flush(piece, &mut at)?;
            }
        }
        if piece.length_bytes() > 0 {
            let padding = piece.length_bytes().next_multiple_of(HEADER) - piece.length_bytes();
            piece.append(padding).fill(0);
            flush(piece, &mut at)?;
        }
        if !planted::is(14) {
            file.sync_data()?;
        }
        env.disk.sync_dir("pack")?;
        // Closed until it is read: thousands of packs must not hold a descriptor each.
        Ok(CellFile::new(self.into, home, self.contents.first(), None))
    }

    fn header(&self, env: &Environment, cells: u64, header: &mut [u8]) {
        let salt: [u8; 32] = random(&*env.chance);
        header.fill(0);
        header[..8].copy_from_slice(b"SLPACK01");
        header[8..12].copy_from_slice(&1_u32.to_le_bytes());
        header[16..32].copy_from_slice(&env.store.0);
        header[32..40].copy_from_slice(&self.into.number().to_le_bytes());
        header[40..48].copy_from_slice(&self.contents.first().number().to_le_bytes());
        header[48..56].copy_from_slice(&self.contents.last().number().to_le_bytes());
        header[56..64].copy_from_slice(&cells.to_le_bytes());
        header[64..96].copy_from_slice(&salt);
        let key = TagKey::new(&env.master.derive("pack", &salt));
        let tag = key.tag(HEADER_NONCE, &[&header[..96]]);
        header[96..112].copy_from_slice(&tag);
    }

    /// The facts that make the pack part of history.
    pub(crate) fn facts(
        segment: FileId,
        interval: Interval,
        packed: &PackedSegment,
        replaces: Option<RunId>,
        last_tag: seal::Tag,
    ) -> Vec<Fact> {
        let run = packed.run.meta().run;
        let replaced: Vec<RunId> = replaces.into_iter().collect();
        let mut facts = vec![Fact::Run { run, interval, replaces: replaced }];
        if let Some(pack) = &packed.pack {
            facts.push(Fact::Pack { pack: pack.id, interval });
        }
        match replaces {
            Some(_) => facts.push(Fact::Gone { file: segment }),
            None => facts.push(Fact::Tail { segment, last_tag }),
        }
        facts
    }
}

/// Whether a cell is the one that its entry names, and whole as far as there is a key to tell.
fn is_cell_of(env: &Environment, entry: &Entry, cell: &[u8]) -> bool {
    let Entry { branch, lba, sequence, .. } = *entry;
    let key = env.keyring.cell_key(branch, sequence);
    CellName::of(cell) == CellName { branch, lba, sequence }
        && key.is_none_or(|key| key.verify(cell).is_ok())
}

/// The used part of a segment.
fn read_segment(file: &File, end_bytes: u64) -> io::Result<Bytes> {
    let length = usize::try_from(end_bytes.next_multiple_of(HEADER as u64)).expect("a segment");
    let mut image = Image::new(length);
    // Of a file that was cut off, what is left in whole pages: reads are aligned.
    let limit = usize::try_from(file.length_bytes()?).unwrap_or(usize::MAX) / HEADER * HEADER;
    let bytes = image.append(length.min(limit));
    for (index, piece) in bytes.chunks_mut(1 << 20).enumerate() {
        file.read_at(index as u64 * (1 << 20), piece)?;
    }
    Ok(image.freeze_from(0))
}
