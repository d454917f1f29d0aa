//! What clients see is compared with the model: reads, extents, differences, times.

use crate::{
    Machine,
    clients::{Asked, Clients, Device},
    model::{Change, Content, Model, index},
    run::Run,
};
use block_device::{Answer, BlockError, BlockExtent, Command};
use std::{collections::BTreeMap, ops::Range};
use units::{BranchId, ClientId, Sequence};
use volume::ChangedKind;

impl Clients {
    /// Compares every present with the model, and one instant of the past of each.
    pub fn compare_all(&mut self, run: &mut Run, machine: &mut Machine) {
        Self::compare_clock(run, machine);
        for device in self.devices.clone() {
            let sequence = machine.store.log().last().number();
            self.compare(run, machine, device, sequence);
            let at = run.rng.below(sequence + 1);
            if let Some(past) = Self::device_at(machine, device, at) {
                self.compare(run, machine, past, at);
                run.report.instants += 1;
                machine.store.close_view(past.view);
            }
        }
    }

    pub(crate) fn compare(&self, run: &mut Run, machine: &mut Machine, device: Device, at: u64) {
        for start in (0..device.size).step_by(1 << 20) {
            let range = start..device.size.min(start + (1 << 20));
            let length_bytes = range.end - range.start;
            let command = Command::Read { offset_bytes: start, length_bytes };
            let wanted = run.model.read(device.branch, at, range.clone());
            match machine.ask(device.view, ClientId(0), command) {
                Ok(Answer::Data(parts)) => {
                    let found = parts.iter().map(|part| &part[..]).collect::<Vec<_>>().concat();
                    run.report.reads += 1;
                    if let Some(byte) = (0..wanted.len()).find(|&i| found[i] != wanted[i]) {
                        let offset = start + byte as u64;
                        let writers = run.model.writers(device.branch, at, device.size);
                        panic!(
                            "T1: {:?} at {at}: byte {offset} (block {}) is {:#x}, must be {:#x} of {:?}; \
                             there is {}",
                            device.branch,
                            offset / 4096,
                            found[byte],
                            wanted[byte],
                            writers[index(offset / 4096)],
                            whose(&run.model, offset, &found[byte..]),
                        );
                    }
                }
                _ if machine.is_crashed() => return,
                Err(BlockError::Io) if self.menu.reads_fail => run.report.failures += 1,
                other => panic!("R2: {:?} at {at}, {range:?} reads as {other:?}", device.branch),
            }
        }
    }

    /// R1, T1: each piece is as the last answered change left it, or as one did that was under way.
    pub(crate) fn check_read(
        &self,
        model: &Model,
        branch: BranchId,
        at: Option<u64>,
        base: u64,
        range: Range<u64>,
        found: &[u8],
    ) {
        let wanted = model.read(branch, base, range.clone());
        assert_eq!(found.len(), wanted.len(), "R1: a read of {range:?} is short");
        if wanted == found {
            return;
        }
        let name = if at.is_some() { "T1" } else { "R1" };
        let others = self.under_way(model, branch, at, base, &range);
        let mut cuts: Vec<u64> =
            (range.start / 4096 + 1..=range.end / 4096).map(|b| b * 4096).collect();
        // An answered change may hide part of one that is not answered yet (FUA) but came before it.
        let hiding = model.history.range(known(model)..).map(|(_, change)| change);
        cuts.extend(others.iter().chain(hiding).flat_map(|change| [change.start, change.end]));
        cuts.extend([range.start, range.end]);
        cuts.retain(|cut| (range.start..=range.end).contains(cut));
        cuts.sort_unstable();
        cuts.dedup();
        for pair in cuts.windows(2) {
            let piece = index(pair[0] - range.start)..index(pair[1] - range.start);
            let one_of_the_others = || {
                others.iter().any(|change| {
                    let mut bytes = wanted[piece.clone()].to_vec();
                    change.paint_into(pair[0], &mut bytes);
                    bytes == found[piece.clone()]
                })
            };
            assert!(
                wanted[piece.clone()] == found[piece.clone()] || one_of_the_others(),
                "{name}: {branch:?} at {at:?} (answered {base}): bytes {}..{} are neither as history \
                 has them nor as a change that was under way: {}",
                pair[0],
                pair[1],
                first_difference(model, pair[0], &found[piece.clone()], &wanted[piece]),
            );
        }
    }

    /// Changes of the branch that a request which was sent when `base` had been answered may show.
    pub(crate) fn under_way(
        &self,
        model: &Model,
        branch: BranchId,
        at: Option<u64>,
        base: u64,
        range: &Range<u64>,
    ) -> Vec<Change> {
        if at.is_some() {
            return Vec::new();
        }
        let chain = model.chain(branch, u64::MAX);
        let seen = |branch: BranchId, sequence: u64| {
            chain.get(&branch).is_some_and(|up_to| sequence <= *up_to)
        };
        let later = model.history.range(base + 1..);
        let later = later.filter(|&(sequence, change)| seen(change.branch, *sequence));
        let flying = self.asked.values().filter_map(|asked| match asked {
            Asked::Change { change, .. } => Some(change),
            _ => None,
        });
        let unknown = flying.chain(self.failed.values()).filter(|it| seen(it.branch, base + 1));
        let all = later.map(|(_, change)| change).chain(unknown);
        all.filter(|it| it.touches(range)).copied().collect()
    }

    pub(crate) fn check_extents(
        &self,
        model: &Model,
        branch: BranchId,
        at: Option<u64>,
        base: u64,
        range: Range<u64>,
        extents: &[BlockExtent],
    ) {
        let mut start = range.start;
        assert!(!extents.is_empty(), "R1: no extents of {range:?}");
        for extent in extents {
            let part = start..start + extent.length_bytes;
            assert!(part.end <= range.end, "R1: extents pass {range:?}");
            let under_way = self.under_way(model, branch, at, base, &part);
            if extent.hole && under_way.is_empty() {
                let bytes = model.read(branch, base, part.clone());
                assert!(bytes.iter().all(|byte| *byte == 0), "R1: a hole {part:?} over data");
            }
            start = part.end;
        }
    }

    /// T1: what changed between two instants, block for block.
    pub(crate) fn compare_diff(&mut self, run: &mut Run, machine: &mut Machine) {
        let known = known(&run.model);
        let (one, other) = (*run.rng.pick(&self.devices), *run.rng.pick(&self.devices));
        let (from, to) = (run.rng.below(known + 1), run.rng.below(known + 1));
        let snapshot = machine.store.snapshot();
        let size = |device: Device, at: u64| {
            let at = Sequence::new(at).expect("small");
            snapshot.catalogue.size_at(device.branch, at).unwrap_or(0)
        };
        let longest = size(one, from).max(size(other, to));
        let was = run.model.writers(one.branch, from, longest);
        let is = run.model.writers(other.branch, to, longest);
        let mut found = BTreeMap::new();
        let sequence = |at| Sequence::new(at).expect("small");
        let diff =
            snapshot.diff((one.branch, sequence(from)), (other.branch, sequence(to)), |changed| {
                let start = changed.offset_bytes / 4096;
                let end = (changed.offset_bytes + changed.length_bytes).div_ceil(4096);
                found.extend((start..end).map(|block| (block, changed.kind)));
                true
            });
        if diff.is_err() {
            assert!(self.menu.reads_fail || machine.is_crashed(), "R2: a diff fails: {diff:?}");
            return;
        }
        let wanted: BTreeMap<u64, ChangedKind> = (0..)
            .zip(was.iter().zip(&is))
            .filter(|(_, (was, is))| was != is)
            .map(|(block, (_, is))| {
                (block, if is.is_some() { ChangedKind::Data } else { ChangedKind::Zero })
            })
            .collect();
        assert_eq!(
            found, wanted,
            "T1: diff of {:?} at {from} and {:?} at {to}",
            one.branch, other.branch
        );
    }

    /// T3: history's clock never goes back within an era, whatever the wall does.
    fn compare_clock(run: &Run, machine: &mut Machine) {
        let index = machine.store.snapshot().index;
        let mut before = None;
        for sequence in run.model.history.keys() {
            let sequence = Sequence::new(*sequence).expect("small");
            let Ok(Some(point)) = index.time_of(sequence) else { continue };
            let now = Some((point.era, point.wall));
            assert!(before <= now, "T3: {sequence} has {now:?}, the one before it {before:?}");
            before = now;
        }
    }

    /// T3: the instant of a time shows all that was answered by then and nothing sent after it.
    pub(crate) fn compare_time(&mut self, run: &mut Run, machine: &mut Machine) {
        Self::compare_clock(run, machine);
        if run.clock_struck || run.model.history.is_empty() {
            return;
        }
        let history: Vec<(u64, Change)> = run.model.history.iter().map(|(a, b)| (*a, *b)).collect();
        let at = run
            .rng
            .pick(&history)
            .1
            .sent
            .plus_ns(i64::try_from(run.rng.below(1_000_000)).expect("small") - 500_000);
        let index = machine.store.snapshot().index;
        let Ok(point) = index.sequence_at(at, 0) else {
            assert!(self.menu.reads_fail || machine.is_crashed(), "R2: a time is not found");
            return;
        };
        let found = point.map_or(0, |point| point.sequence.number());
        for (sequence, change) in history {
            if change.answered.is_some_and(|answered| answered <= at) {
                assert!(sequence <= found, "T3: {sequence} was answered at {at:?}, not in {found}");
            }
            if change.sent > at {
                assert!(
                    sequence > found,
                    "T3: {sequence} was sent after {at:?}, but is in {found}"
                );
            }
        }
    }
}

/// The last instant of which every request is known.
pub fn known(model: &Model) -> u64 {
    let history = &model.history;
    let mut last = history.len() as u64;
    if history.last_key_value().is_some_and(|(end, _)| *end != last) {
        last = (1..).zip(history.keys()).take_while(|(n, key)| n == *key).count() as u64;
    }
    last
}

/// Words for the change whose bytes these are.
fn whose(model: &Model, at: u64, found: &[u8]) -> String {
    let found = &found[..found.len().min(8)];
    let is = |change: &Change| {
        let mut bytes = found.iter().map(|byte| !byte).collect::<Vec<_>>();
        change.paint_into(at, &mut bytes);
        change.content != Content::Zeros && bytes == found
    };
    let known = model.history.iter().find(|(_, change)| is(change));
    if let Some(it) = known {
        return format!("{it:?}");
    }
    let data = (1..100_000).find(|data| {
        let mut bytes = vec![0; found.len()];
        crate::model::paint(Content::Data(*data), at, &mut bytes);
        bytes == found
    });
    format!("data {data:?}, {found:02x?}, which was never answered")
}

fn first_difference(model: &Model, at: u64, found: &[u8], wanted: &[u8]) -> String {
    let byte = (0..found.len()).find(|&i| found[i] != wanted[i]).expect("they differ");
    let offset = at + byte as u64;
    let (is, must) = (&found[byte..], &wanted[byte..]);
    format!("at {offset} is {}, not {}", whose(model, offset, is), whose(model, offset, must))
}
