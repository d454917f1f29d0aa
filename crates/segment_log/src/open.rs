//! Opening a store's log: the manifest's facts, the end of the log, and what is garbage.

use crate::{
    background::{Background, sealing_facts},
    clock::HistoryClock,
    files::{CellFile, Home},
    log::Log,
    planted,
    recovery::{MissingFlushed, Recovered, numbered, recover},
    rolling::FullSegment,
    scan::Scanned,
    state::{BadRecord, Fact, Interval, KIND_END, LogState},
    terms::{Config, Environment, Poison},
    work::{WorkError, run_path, seal},
};
use history_index::{MemoryRun, PageCache, Run, Source};
use manifest::{Manifest, Record};
use seal::Tag;
use std::{collections::BTreeSet, io, sync::Arc};
use thiserror::Error;
use units::{FileId, RunId, Sequence, Timestamp};
use world::Access;

/// Memory for opened pages of runs.
const CACHE_BYTES: usize = 16 << 20;

/// Where the log's files are.
const DIRECTORIES: [&str; 4] = ["log", "bulk", "pack", "run"];

/// Eras that a lost run is thought to have begun at most: each needs a leap of the wall clock.
const ERAS_LOST_MAX: u32 = 1 << 12;

/// How a log is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing is written, recovery stays in memory.
    Read,
    /// The log's end is indexed and new writes are taken.
    Write,
    /// The same, even if flushed data is missing: history ends where the log does.
    AcceptLoss,
}

/// Why a log does not open.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The disk.
    #[error(transparent)]
    Disk(#[from] io::Error),
    /// The manifest contradicts itself.
    #[error(transparent)]
    Manifest(#[from] BadRecord),
    /// The index.
    #[error(transparent)]
    Index(#[from] history_index::Error),
    /// The log's end could not be indexed.
    #[error(transparent)]
    Seal(#[from] WorkError),
    /// Flushed data is not there.
    #[error(transparent)]
    Missing(#[from] MissingFlushed),
}

/// Opens the log. `records` are the manifest's; the keys of all branches must be in the keyring.
/// `others` are records that belong to the catalogue as they would be written anew.
pub fn open(
    mut config: Config,
    env: &Arc<Environment>,
    mut manifest: Manifest,
    records: &[Record],
    others: &[Record],
    mode: Mode,
) -> Result<Log, OpenError> {
    let mut state = LogState::default();
    for record in records.iter().filter(|record| record.kind < KIND_END) {
        state.apply(&Fact::decode(record)?)?;
    }
    for epoch in &state.epochs {
        env.keyring.learn_epoch(epoch);
    }
    if mode != Mode::Read {
        for directory in DIRECTORIES {
            env.disk.make_dir(directory)?;
        }
        env.disk.sync_dir("")?;
        // A killed process may have left names that are not durable; what is listed will be relied on.
        for directory in DIRECTORIES {
            env.disk.sync_dir(directory)?;
        }
        config.sector = sector(env)?;
    }
    let recovered = recover(&*env.disk, &env.master, env.store, &state, &env.keyring, mode)?;
    if mode != Mode::AcceptLoss {
        recovered.missing()?;
    }
    let cache = PageCache::new(CACHE_BYTES);
    let mut opening =
        Opening { env, config, cache, full: Vec::new(), sources: Vec::new(), damage: Vec::new() };
    opening.open_runs(&state);
    if mode != Mode::Read {
        // Before the tail is indexed: a run that a crash left behind would be in the way.
        opening.sweep(&state, &[("run", ".run"), ("pack", ".pack")])?;
    }
    if config.pack && mode != Mode::Read {
        opening.resume_packing(&state);
    }
    for scanned in &recovered.tail {
        opening.take_tail(scanned, &mut state, &mut manifest, mode)?;
    }
    if mode != Mode::Read {
        // After it: the tail may name bulk files that the manifest did not.
        opening.sweep(&state, &[("bulk", ".bulk")])?;
        if manifest.bytes() > config.manifest_bytes {
            let facts = state.snapshot();
            let all: Vec<Record> =
                facts.iter().map(Fact::encode).chain(others.iter().cloned()).collect();
            manifest.rewrite(&*env.disk, &*env.chance, &all)?;
        }
    }
    Ok(opening.finish(state, manifest, &recovered, mode))
}

struct Opening<'a> {
    env: &'a Arc<Environment>,
    config: Config,
    cache: Arc<PageCache>,
    full: Vec<FullSegment>,
    sources: Vec<Source>,
    /// What is there no more, for who looks at the store.
    damage: Vec<String>,
}

impl Opening<'_> {
    /// A run that cannot be opened is lost: blocks and instants that need it are refused, no others.
    fn open_runs(&mut self, state: &LogState) {
        for (&first, &(run, last)) in &state.runs {
            let path = run_path(run);
            let opened = Run::open(&*self.env.disk, &path, run, &self.env.master, &self.cache);
            let trouble = match &opened {
                Ok(whole) if (whole.meta().first, whole.meta().last) == (first, last) => None,
                Ok(_) => Some(format!("run file {path} covers other sequences than it should")),
                Err(error) => Some(with_source(error)),
            };
            let run = match (opened, trouble) {
                (Ok(whole), None) => whole,
                (_, trouble) => {
                    let why = trouble.unwrap_or_default();
                    self.damage.push(why.clone());
                    Run::lost(&path, run, first..=last, why)
                }
            };
            self.sources.push(Source::File(Arc::new(run)));
        }
    }

    /// Takes up again what was indexed but not packed when the store was last closed, oldest first. What
    /// cannot be read stays where it is; so does what `--no-pack` left and has been merged since.
    fn resume_packing(&mut self, state: &LogState) {
        let mut segments: Vec<_> = state.segments.iter().collect();
        segments.sort_by_key(|(_, stays)| stays.interval.first);
        for (&segment, &stays) in segments {
            if self.full.len() >= self.config.backlog_segments {
                return;
            }
            let Interval { first, last } = stays.interval;
            let own = self.sources.iter().find_map(|source| match source {
                Source::File(run) if (run.meta().first, run.meta().last) == (first, last) => {
                    Some(run)
                }
                _ => None,
            });
            let Some(Ok(contents)) = own.map(|run| run.contents()) else { continue };
            let home = Home::Slot(stays.slot);
            let file = match self.env.disk.open(&home.path(), Access::WRITE_DIRECT) {
                Ok(file) => file,
                Err(error) => {
                    self.damage.push(format!("segment file {}: {error}", home.path()));
                    continue;
                }
            };
            self.full.push(FullSegment {
                cells: CellFile::new(segment, home, first, Some(file.clone())),
                file,
                slot: stays.slot,
                image: None,
                end_bytes: stays.end_bytes,
                last_tag: Tag::default(), // only what is not indexed needs it
                run: Arc::new(MemoryRun::new(contents)),
                bulk: Vec::new(), // the manifest names them since it was indexed
                sealed: own.map(|run| run.meta().run),
                busy: false,
                stays: false,
            });
        }
    }

    /// Indexes a segment of the log's end: durably when writing, else in memory.
    fn take_tail(
        &mut self,
        scanned: &Scanned,
        state: &mut LogState,
        manifest: &mut Manifest,
        mode: Mode,
    ) -> Result<(), OpenError> {
        if scanned.contents.is_empty() {
            return Ok(());
        }
        let run = Arc::new(MemoryRun::new(scanned.contents.clone()));
        let access = if mode == Mode::Read { Access::READ_DIRECT } else { Access::WRITE_DIRECT };
        let home = Home::Slot(scanned.slot);
        let file = self.env.disk.open(&home.path(), access)?;
        let cells = CellFile::new(scanned.segment, home, run.first(), Some(file.clone()));
        let last = run.last();
        let mut bulk = Vec::new();
        for &file in &scanned.bulk {
            let first = state.bulk.get(&file).map_or(run.first(), |known| known.first);
            bulk.push(Fact::Bulk { file, interval: Interval { first, last } });
        }
        let mut full = FullSegment {
            cells,
            file,
            slot: scanned.slot,
            image: None,
            end_bytes: scanned.end_bytes,
            last_tag: scanned.last_tag,
            run: run.clone(),
            bulk: scanned.bulk.iter().map(|file| (*file, last)).collect(),
            sealed: None,
            busy: false,
            stays: false,
        };
        if mode == Mode::Read {
            for fact in &bulk {
                state.apply(fact)?;
            }
            self.sources.push(Source::Memory(run));
        } else {
            if !planted::is(25) {
                self.make_durable(&full, scanned)?;
            }
            let id = RunId(state.next_run.max(1));
            let written = seal(self.env, &run, id, &self.cache)?;
            let mut facts = sealing_facts(&full, id);
            facts.append(&mut bulk);
            let records: Vec<Record> = facts.iter().map(Fact::encode).collect();
            manifest.append(&records)?;
            for fact in &facts {
                state.apply(fact)?;
            }
            full.sealed = Some(id);
            self.sources.push(Source::File(written));
        }
        self.full.push(full);
        Ok(())
    }

    /// What recovery accepts must not be lost by the next crash. A sync alone does not bring that about:
    /// after one that failed the kernel takes pages for clean that are nowhere but in memory. So what
    /// was not flushed is written again, with the bytes it has, which a cut cannot tear into others. A
    /// bulk file that is gone was flushed before (else recovery had not accepted what lies in it): its
    /// cells are lost, no others.
    fn make_durable(&mut self, full: &FullSegment, scanned: &Scanned) -> Result<(), OpenError> {
        // Through the page cache: it knows no alignment, which may be another one than at the writing.
        let segment = self.env.disk.open(&Home::Slot(full.slot).path(), Access::WRITE)?;
        write_again(&*segment, scanned.unflushed_bytes, scanned.end_bytes)?;
        segment.sync_data()?;
        for (bulk, _) in &full.bulk {
            let path = Home::Bulk(*bulk).path();
            match self.env.disk.open(&path, Access::WRITE) {
                Ok(file) => {
                    for &(of, offset_bytes, bytes) in &scanned.unflushed_bulk {
                        if of == *bulk {
                            write_again(&*file, offset_bytes, offset_bytes + bytes)?;
                        }
                    }
                    file.sync_data()?;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.damage.push(format!("bulk file {path} is gone"));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Removes files that nothing names.
    fn sweep(&self, state: &LogState, kinds: &[(&str, &str)]) -> Result<(), OpenError> {
        for &(directory, suffix) in kinds {
            for number in numbered(&*self.env.disk, directory, suffix)? {
                let file = FileId::new(number);
                let kept = match directory {
                    "run" => state.runs.values().any(|(run, _)| run.0 == number),
                    "pack" => file.is_some_and(|file| state.packs.contains_key(&file)),
                    _ => file.is_some_and(|file| state.bulk.contains_key(&file)),
                };
                if !kept {
                    self.env.disk.remove(&format!("{directory}/{number}{suffix}"))?;
                }
            }
        }
        Ok(())
    }

    fn finish(self, state: LogState, manifest: Manifest, recovered: &Recovered, mode: Mode) -> Log {
        let Self { env, config, cache, full, sources, damage } = self;
        let used: BTreeSet<u64> = state
            .segments
            .values()
            .map(|stays| stays.slot)
            .chain(full.iter().map(|full| full.slot))
            .collect();
        let next_slot = recovered.slots.iter().max().map_or(0, |slot| slot + 1);
        let free: Vec<u64> =
            recovered.slots.iter().copied().filter(|slot| !used.contains(slot)).collect();
        let next_run = state.next_run;
        let mut background =
            Background::new(env.clone(), manifest, cache, free, next_slot, next_run);
        background.found_damaged(damage);
        let mut last_clock = None;
        let mut untold = 0; // sequences at the end of which no clock is known
        for source in sources {
            if let Some((_, last)) = source.clock_ends() {
                last_clock = Some((last.wall, last.era));
                untold = 0;
            } else {
                untold += source.last().number() - source.first().number() + 1;
            }
            background.index.push(source);
        }
        if untold > 0 {
            // A lost run may have begun eras: none of theirs is used again.
            let (wall, era) = last_clock.unwrap_or((Timestamp(i64::MIN), 0));
            let begun = u32::try_from(untold).unwrap_or(u32::MAX).min(ERAS_LOST_MAX);
            last_clock = Some((wall, era.saturating_add(begun)));
        }
        let next_file = recovered.next_file.max(state.next_file).max(1);
        let clock = HistoryClock::after(last_clock);
        let last = recovered.last;
        let mut log = Log::new(config, env.clone(), state, background, clock, last, next_file);
        log.adopt(full, mode);
        log
    }
}

impl Log {
    /// Takes over the files and segments that were found.
    fn adopt(&mut self, full: Vec<FullSegment>, mode: Mode) {
        let mut homes: Vec<(FileId, Home, Sequence)> = Vec::new();
        for (id, stays) in &self.state.segments {
            homes.push((*id, Home::Slot(stays.slot), stays.interval.first));
        }
        homes.extend(self.state.packs.iter().map(|(id, held)| (*id, Home::Pack(*id), held.first)));
        homes.extend(self.state.bulk.iter().map(|(id, held)| (*id, Home::Bulk(*id), held.first)));
        for (id, home, first) in homes {
            self.files.insert(CellFile::new(id, home, first, None));
        }
        for full in &full {
            self.files.insert(full.cells.clone());
        }
        if self.config.pack && mode != Mode::Read {
            self.full.extend(full);
        }
        if mode == Mode::Read {
            let cause = "the store is open for reading only".to_owned();
            self.poison = Some(Poison { what: "writing", cause });
        }
    }
}

/// Writes what the file holds there.
fn write_again(file: &dyn world::DiskFile, from_bytes: u64, to_bytes: u64) -> io::Result<()> {
    const PIECE: usize = 1 << 20;
    let mut piece = Vec::new();
    for start in (from_bytes..to_bytes).step_by(PIECE) {
        piece.resize(usize::try_from(to_bytes - start).unwrap_or(PIECE).min(PIECE), 0);
        file.read_at(start, &mut piece)?;
        file.write_at(start, &piece)?;
    }
    Ok(())
}

/// An error with what lies behind it.
fn with_source(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// What batches are aligned to: what the disk wants, at least 512.
fn sector(env: &Environment) -> io::Result<usize> {
    let path = "log/probe";
    let access = Access::WRITE_DIRECT.new_file();
    if let Err(error) = env.disk.remove(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let alignment = env.disk.open(path, access)?.alignment();
    env.disk.remove(path)?;
    Ok(alignment.max(512))
}
