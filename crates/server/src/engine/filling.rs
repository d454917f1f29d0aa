//! Adopted images are taken over in the background, by one thread for all of them.
//!
//! ```text
//! source ─▶ unit (1 MiB) ─▶ blocks that hold anything ─▶ Store::fill ─▶ Store::take_over ─▶ detached
//! ```
//! What readers ask for goes first. While clients are at work only a little is taken over between their
//! requests; a rate bounds it at all times. What was written is recorded every [`RECORD_UNITS`] units or
//! [`RECORD_NS`]; the store flushes before it records. A base is detached when all its units are
//! recorded. The thread ends with the store; the next start goes on from what was recorded.

use super::{
    adopting::OnImage,
    failures::change_failure,
    running::{Engine, lock},
};
use api::Failure;
use block_device::{Answer, BlockError};
use catalogue::{Base, Presence, UNIT_BYTES};
use image_source::SourceFault;
use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::Duration,
};
use units::{BLOCK, BranchId, Lba};
use volume::Filler;

/// Units after which it is recorded what was taken over.
const RECORD_UNITS: u64 = 64;
/// The same as a time.
const RECORD_NS: u64 = 5_000_000_000;
/// Units of zeros that are passed over at once.
const ZERO_UNITS_MAX: usize = 256;
/// Pause between two units while clients are at work.
const YIELD: Duration = Duration::from_millis(40);
/// Pause while nothing can be done.
const REST: Duration = Duration::from_secs(1);
/// Units that could not be read are tried again after so long.
const AGAIN_NS: u64 = 60_000_000_000;

/// The thread, and what it tells of itself.
#[derive(Debug, Default)]
pub(super) struct Filling {
    state: Mutex<State>,
    stirred: Condvar,
}

#[derive(Debug, Default)]
struct State {
    runs: bool,
    over: bool,
    /// Units of a base that cannot be read.
    unread: BTreeMap<BranchId, u64>,
}

/// What a step came to.
enum Step {
    /// Go on after this.
    Pause(Duration),
    /// Nothing to be taken over.
    Rest,
}

/// How far a base is.
struct Going {
    filler: Filler,
    since_record: u64,
    recorded_ns: u64,
    tried_ns: u64,
    /// Its next unit is not read before.
    due_ns: u64,
    /// Bytes that were read since, for the rate.
    paced: (u64, u64),
    rate_bytes: u64,
}

impl Filling {
    /// Units of a base that cannot be read.
    pub(super) fn unread(&self, base: BranchId) -> u64 {
        lock(&self.state).unread.get(&base).copied().unwrap_or(0)
    }

    /// Ends the thread soon.
    pub(super) fn stop(&self) {
        lock(&self.state).over = true;
        self.stirred.notify_all();
    }

    fn is_over(&self) -> bool {
        lock(&self.state).over
    }

    fn wait(&self, time: Duration) {
        let state = lock(&self.state);
        if !state.over && !time.is_zero() {
            drop(self.stirred.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner));
        }
    }
}

impl Engine {
    /// Has all bases that want it taken over in the background.
    pub(super) fn begin_filling(&self) {
        self.filling.stirred.notify_all();
        let mut state = lock(&self.filling.state);
        if state.runs || state.over || self.held.read_only {
            return;
        }
        let Some(engine) = self.me.upgrade() else { return };
        let run = move || engine.fill_all();
        match thread::Builder::new().name("strand-fill".to_owned()).spawn(run) {
            Ok(thread) => {
                state.runs = true;
                lock(&self.detaching).push(thread);
            }
            Err(error) => tracing::warn!(%error, "images are not taken over"),
        }
    }

    /// Whether any base wants to be taken over.
    pub(super) fn wants_filling(&self) -> Result<bool, Failure> {
        let past = self.look()?;
        Ok(past.catalogue().bases().any(|base| base.fill && !base.detached))
    }

    fn fill_all(&self) {
        let mut going: BTreeMap<BranchId, Going> = BTreeMap::new();
        while !self.filling.is_over() {
            match self.fill_step(&mut going) {
                Ok(Step::Pause(time)) => self.filling.wait(time),
                Ok(Step::Rest) => self.filling.wait(REST),
                Err(failure) => {
                    if self.hub.visit(|_| ()).is_err() {
                        return; // the store was closed
                    }
                    tracing::warn!(%failure, "an image is not taken over now");
                    self.filling.wait(REST);
                }
            }
        }
        // What is written and not recorded is taken over once more after the next start.
        for going in going.values_mut() {
            let _ = self.record(going);
        }
    }

    /// A unit of the next base whose turn it is.
    fn fill_step(&self, going: &mut BTreeMap<BranchId, Going>) -> Result<Step, Failure> {
        let past = self.look()?;
        let catalogue = past.catalogue();
        let wants = |base: &&Base| {
            let volume = catalogue.branch(base.root).and_then(|root| catalogue.volume(root.volume));
            let trash = volume.is_none_or(|it| matches!(it.presence, Presence::Trash { .. }));
            base.fill && !base.detached && !trash
        };
        let bases: Vec<Base> = catalogue.bases().filter(wants).cloned().collect();
        going.retain(|id, _| bases.iter().any(|base| base.id == *id));
        let mut pause = None;
        for base in &bases {
            let Some(source) = self.sources.get(base.id) else { continue };
            let now = self.held.clock.boot_ns();
            let going = going.entry(base.id).or_insert_with(|| Going {
                filler: Filler::new(base, catalogue.taken(base.id)),
                since_record: 0,
                recorded_ns: now,
                tried_ns: now,
                due_ns: now,
                paced: (now, 0),
                rate_bytes: base.rate_bytes,
            });
            if going.rate_bytes != base.rate_bytes {
                (going.rate_bytes, going.paced, going.due_ns) = (base.rate_bytes, (now, 0), now);
            }
            let wait = if now < going.due_ns {
                Some(Duration::from_nanos(going.due_ns - now))
            } else {
                self.fill_unit(base, &source, going)?
            };
            if let Some(time) = wait {
                let wait_ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
                going.due_ns = self.held.clock.boot_ns().saturating_add(wait_ns);
                pause = Some(pause.map_or(time, |other: Duration| other.min(time)));
            }
        }
        Ok(pause.map_or(Step::Rest, Step::Pause))
    }

    /// Takes one unit over; gives how long to wait before the next. `None`: there is none now.
    fn fill_unit(
        &self,
        base: &Base,
        source: &Arc<OnImage>,
        going: &mut Going,
    ) -> Result<Option<Duration>, Failure> {
        let now = self.held.clock.boot_ns();
        let id = base.id;
        let (wanted, asked) = self.visit(move |core| {
            let sessions = core.sessions();
            (core.store.take_wanted(id), sessions.iter().map(|it| it.requests).sum::<u64>())
        })?;
        going.filler.want(wanted);
        let Some(mut unit) = going.filler.begin() else {
            self.record(going)?;
            if going.filler.is_done() {
                return self.detach_base(id).map(|()| None);
            }
            if now.saturating_sub(going.tried_ns) > AGAIN_NS {
                going.tried_ns = now;
                going.filler.try_again();
            }
            return Ok(None);
        };
        let mut copied = self.copy_unit(base, source, unit);
        // Zeros cost nobody anything.
        for _ in 0..ZERO_UNITS_MAX {
            if !matches!(copied, Ok(0)) {
                break;
            }
            going.filler.wrote(unit);
            match going.filler.begin() {
                Some(next) => unit = next,
                None => return Ok(Some(Duration::ZERO)),
            }
            copied = self.copy_unit(base, source, unit);
        }
        let read = match copied {
            Ok(bytes) => {
                going.filler.wrote(unit);
                bytes
            }
            Err(Missed::Source(SourceFault::Damaged(error))) => {
                tracing::warn!(%error, unit, "a part of an adopted image cannot be taken over");
                going.filler.failed(unit);
                lock(&self.filling.state).unread.insert(id, going.filler.failures());
                0
            }
            Err(Missed::Source(fault)) => {
                going.filler.failed(unit);
                going.filler.try_again();
                self.lose_source(id, &fault)?;
                return Ok(None);
            }
            Err(Missed::Store(failure)) => {
                going.filler.failed(unit);
                going.filler.try_again();
                return Err(failure);
            }
        };
        going.since_record += u64::from(read > 0);
        let late = now.saturating_sub(going.recorded_ns) > RECORD_NS;
        if going.since_record >= RECORD_UNITS || late {
            self.record(going)?;
        }
        if read == 0 {
            return Ok(Some(Duration::ZERO));
        }
        let asked_since = self
            .visit(move |core| core.sessions().iter().map(|it| it.requests).sum::<u64>() > asked)?;
        let mut pause = if asked_since { YIELD } else { Duration::ZERO };
        if base.rate_bytes > 0 {
            let (since, bytes) = &mut going.paced;
            *bytes += read;
            let due = u128::from(*bytes) * 1_000_000_000 / u128::from(base.rate_bytes);
            let spent = self.held.clock.boot_ns().saturating_sub(*since);
            let left = u64::try_from(due).unwrap_or(u64::MAX).saturating_sub(spent);
            pause = pause.max(Duration::from_nanos(left));
            if spent > 10_000_000_000 {
                going.paced = (self.held.clock.boot_ns(), 0);
            }
        }
        Ok(Some(pause))
    }

    /// Reads a unit and writes what it holds; gives how many bytes that were.
    fn copy_unit(&self, base: &Base, source: &Arc<OnImage>, unit: u64) -> Result<u64, Missed> {
        let start = unit * UNIT_BYTES;
        let end = (start + UNIT_BYTES).min(base.size_bytes);
        let zeros = source.0.zeros(start..end).map_err(Missed::Source)?;
        if zeros.first().is_some_and(|zero| zero.start <= start && zero.end >= end) {
            return Ok(0);
        }
        let length = usize::try_from(end - start).expect("a unit").next_multiple_of(BLOCK);
        let mut bytes = vec![0; length];
        source.0.read(start, &mut bytes).map_err(Missed::Source)?;
        let is_data = |block: &[u8]| block.iter().any(|byte| *byte != 0);
        let blocks: Vec<(usize, &[u8])> = bytes.chunks(BLOCK).enumerate().collect();
        let mut answers = Vec::new();
        for run in blocks.chunk_by(|one, other| is_data(one.1) == is_data(other.1)) {
            if !is_data(run[0].1) {
                continue;
            }
            let lba = Lba::holding(start + (run[0].0 * BLOCK) as u64).expect("inside the disk");
            let data = bytes[run[0].0 * BLOCK..][..run.len() * BLOCK].to_vec();
            let answer = self.hub.fill(base.id, lba, data);
            answers.push(answer.map_err(|error| Missed::Store(change_failure(error)))?);
        }
        for answer in answers {
            match answer.recv().unwrap_or(Err(BlockError::Stopping)) {
                Ok(Answer::Written(_)) => {}
                Ok(_) => return Err(Missed::Store(Failure::bug("a fill is no write"))),
                Err(error) => {
                    let what = "an image on its way into the store";
                    return Err(Missed::Store(super::failures::block_failure(error, what)));
                }
            }
        }
        Ok(end - start)
    }

    /// Makes durable what was taken over, and records it.
    fn record(&self, going: &mut Going) -> Result<(), Failure> {
        let runs = going.filler.written();
        going.since_record = 0;
        going.recorded_ns = self.held.clock.boot_ns();
        if runs.is_empty() {
            return Ok(());
        }
        let base = going.filler.base();
        self.hub.take_over(base, runs.clone()).map_err(change_failure)?;
        going.filler.recorded(&runs);
        Ok(())
    }

    /// All of a base is recorded: its source is needed no more.
    fn detach_base(&self, base: BranchId) -> Result<(), Failure> {
        self.change(|past| {
            let records = past.catalogue().plan_detach_base(base);
            Ok(((), records.map_err(|error| past.teller().catalogue(error))?))
        })?;
        self.sources.drop(base);
        lock(&self.filling.state).unread.remove(&base);
        tracing::info!(%base, "all of an adopted image was taken over; it is needed no more");
        Ok(())
    }
}

/// Why a unit was not taken over.
enum Missed {
    Source(SourceFault),
    Store(Failure),
}
