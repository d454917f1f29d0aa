//! Makes one run of neighbours, in bounded steps. Nothing is dropped: every version stays.
//!
//! A merge reads each input once from front to back and holds one page of each; a step ends after
//! so many pages written. Killed between two steps it leaves a file that nobody names.

use crate::{
    ClientRun, ClockPoint, Entry, FlushPoint, Result, Run, RunMeta, RunWriter, ZeroRange,
    cursor::Items, layout::Stored,
};
use std::{ops::Range, sync::Arc};
use units::ClientId;

/// Runs that are merged at once.
pub const FAN_IN: usize = 8;

/// Which runs (given in the order of time) to merge next.
///
/// A run's tier is the power of [`FAN_IN`] that its bytes reach, but at least that of every newer
/// run: what is small and older than something large cannot wait for its equals, none will come. So
/// tiers fall towards the newest, runs of one tier are neighbours, and once there are [`FAN_IN`] of
/// the lowest they are merged. Thus there are never more than 8 runs to each tier, and equal runs are
/// written once for each tier.
pub fn pick_merge(runs: &[RunMeta]) -> Option<Range<usize>> {
    let mut tier = 0;
    let mut newest_of_tier = runs.len();
    for (index, run) in runs.iter().enumerate().rev() {
        let own = run.bytes.max(1).ilog(FAN_IN as u64);
        if own > tier {
            (tier, newest_of_tier) = (own, index + 1);
        }
        let oldest_of_tier = index == 0 || runs[index - 1].bytes.max(1).ilog(FAN_IN as u64) > tier;
        if oldest_of_tier && newest_of_tier - index >= FAN_IN {
            return Some(index..index + FAN_IN);
        }
    }
    None
}

/// How far a merge is.
#[derive(Debug)]
pub enum Progress {
    /// Not done; this is the job to step again.
    More(Box<MergeJob>),
    /// The run is written and its data synced; the directory is the caller's to sync.
    Done(RunMeta),
}

/// A merge on its way.
#[derive(Debug)]
pub struct MergeJob {
    inputs: Vec<Arc<Run>>,
    writer: RunWriter,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Entries(Vec<Items<Entry>>),
    Ranges(Vec<Items<ZeroRange>>),
    Clock(Vec<Items<ClockPoint>>),
    Clients(Vec<Items<ClientRun>>, Option<ClientId>),
    Flushes(Vec<Items<FlushPoint>>),
}

impl MergeJob {
    /// Of neighbours in the order of time; the writer's interval is that of all. With a lost run among
    /// them the first step fails.
    pub fn new(inputs: Vec<Arc<Run>>, writer: RunWriter) -> Self {
        let ordered = inputs.windows(2).all(|pair| pair[0].meta().last < pair[1].meta().first);
        assert!(ordered && !inputs.is_empty(), "runs are merged in the order of time");
        let phase = Phase::Entries(all(&inputs));
        Self { inputs, writer, phase }
    }

    /// Goes on until so many pages more are written, or to the end. After an error the file is to
    /// be removed and the inputs stay.
    pub fn step(mut self, pages_max: u64) -> Result<Progress> {
        let enough = self.writer.pages() + pages_max;
        while self.writer.pages() < enough {
            let done = match &mut self.phase {
                Phase::Entries(items) => match smallest(items, Entry::key)? {
                    Some(entry) => self.writer.push_entry(entry).map(|()| false)?,
                    None => true,
                },
                Phase::Ranges(items) => match smallest(items, ZeroRange::key)? {
                    Some(range) => self.writer.push_range(range).map(|()| false)?,
                    None => true,
                },
                Phase::Clock(items) => match smallest(items, |point| point.sequence)? {
                    Some(point) => self.writer.push_clock(point).map(|()| false)?,
                    None => true,
                },
                Phase::Clients(items, writing) => match smallest(items, |run| run.first)? {
                    // Each run says anew who was writing when it began.
                    Some(run) if *writing == Some(run.client) => false,
                    Some(run) => {
                        *writing = Some(run.client);
                        self.writer.push_client(run).map(|()| false)?
                    }
                    None => true,
                },
                Phase::Flushes(items) => match smallest(items, |f| (f.sequence, f.branch))? {
                    Some(flush) => self.writer.push_flush(flush).map(|()| false)?,
                    None => return self.writer.finish().map(Progress::Done),
                },
            };
            if done {
                self.phase = match self.phase {
                    Phase::Entries(_) => Phase::Ranges(all(&self.inputs)),
                    Phase::Ranges(_) => Phase::Clock(all(&self.inputs)),
                    Phase::Clock(_) => Phase::Clients(all(&self.inputs), None),
                    Phase::Clients(..) | Phase::Flushes(_) => Phase::Flushes(all(&self.inputs)),
                };
            }
        }
        Ok(Progress::More(Box::new(self)))
    }
}

/// One section of each input.
fn all<T: Stored>(inputs: &[Arc<Run>]) -> Vec<Items<T>> {
    inputs.iter().map(|run| Items::new(run)).collect()
}

/// Takes the item with the smallest key, of equal ones the oldest input's.
fn smallest<T: Stored, K: Ord>(
    inputs: &mut [Items<T>],
    key: impl Fn(&T) -> K,
) -> Result<Option<T>> {
    let mut best: Option<(K, usize)> = None;
    for (index, input) in inputs.iter_mut().enumerate() {
        if let Some(item) = input.peek()? {
            let key = key(&item);
            if best.as_ref().is_none_or(|(smallest, _)| key < *smallest) {
                best = Some((key, index));
            }
        }
    }
    match best {
        Some((_, index)) => inputs[index].next().transpose(),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use units::{RunId, Sequence};

    /// Runs of these sizes arrive, all merges are made; gives the most runs there were at a time
    /// and how often a byte was written.
    fn grow(sizes: impl Iterator<Item = u64>) -> (usize, f64) {
        let (mut runs, mut most, mut arrived, mut written): (Vec<RunMeta>, _, _, _) =
            (Vec::new(), 0, 0.0, 0.0);
        for (number, bytes) in sizes.enumerate() {
            let at = Sequence::new(number as u64 + 1).expect("small");
            let (run, clock) = (RunId(at.number()), None);
            runs.push(RunMeta { run, first: at, last: at, entries: 0, ranges: 0, bytes, clock });
            arrived += f64::from(u32::try_from(bytes).expect("small"));
            written += f64::from(u32::try_from(bytes).expect("small"));
            while let Some(group) = pick_merge(&runs) {
                let bytes = runs[group.clone()].iter().map(|run| run.bytes).sum();
                let (first, last) = (runs[group.start].first, runs[group.end - 1].last);
                written += f64::from(u32::try_from(bytes).expect("small"));
                let merged = RunMeta { first, last, bytes, ..runs[group.start] };
                runs.splice(group, [merged]);
            }
            most = most.max(runs.len());
        }
        (most, written / arrived)
    }

    #[test]
    fn equal_runs_are_merged_few_times() {
        let (most, times) = grow((0..4096).map(|_| 100));
        assert!(most <= 32 && times < 6.0, "{most} runs, each byte written {times} times");
    }

    #[test]
    fn runs_of_any_size_stay_few() {
        let sizes = (0..4000_u64).map(|n| 1 + n * 7919 % 13 * (n * 104_729 % 97) * 10);
        let (most, times) = grow(sizes);
        assert!(most <= 56 && times < 8.0, "{most} runs, each byte written {times} times");
    }
}
