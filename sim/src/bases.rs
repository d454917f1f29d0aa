//! Volumes that stand on an image: what it shows, and the filler that takes it over while clients work.
//!
//! The image is painted from its base's number, with runs of zeros, and is part of no disk: what a store
//! detached from it must have itself. Seeds without such volumes draw the same dice as ever.

use crate::{
    Machine,
    clients::{Asked, Clients},
    model::{Change, Content, index, paint},
    run::Run,
};
use catalogue::{Base, UNIT_BYTES};
use std::{collections::BTreeMap, ops::Range, sync::Arc};
use units::{BLOCK, BranchId, ClientId, Lba};
use volume::{Filler, Source, SourceError};
use world::Clock as _;

/// Units on their way at once.
const BEGUN_MAX: usize = 3;
/// Zeros come in pieces of this.
const HOLE_BYTES: u64 = 48 << 10;

/// What a line of history stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Below {
    /// The base.
    pub id: BranchId,
    /// Bytes of its image.
    pub size: u64,
}

/// Paints what an image shows from `at` on; zeros past its end.
pub fn paint_image(below: Below, at: u64, bytes: &mut [u8]) {
    let end = at + bytes.len() as u64;
    let mut place = at;
    while place < end {
        let piece = place / HOLE_BYTES;
        let stop = end.min((piece + 1) * HOLE_BYTES);
        let shown = stop.min(below.size).max(place);
        let part = &mut bytes[index(place - at)..index(stop - at)];
        part.fill(0);
        if !(piece + u64::from(below.id.0)).is_multiple_of(3) {
            let data = Content::Data(1 << 40 | u64::from(below.id.0));
            paint(data, place, &mut part[..index(shown - place)]);
        }
        place = stop;
    }
}

impl Source for Below {
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        paint_image(*self, offset, into);
        Ok(())
    }

    fn zeros(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, SourceError> {
        let pieces = range.start / HOLE_BYTES..range.end.div_ceil(HOLE_BYTES);
        let zero = pieces.filter(|piece| (piece + u64::from(self.id.0)).is_multiple_of(3));
        let zero = zero.map(|piece| piece * HOLE_BYTES..(piece + 1) * HOLE_BYTES);
        Ok(zero.map(|zero| zero.start.max(range.start)..zero.end.min(range.end)).collect())
    }
}

/// A base being taken over.
pub struct Going {
    filler: Filler,
    /// Writes of each unit that are not answered, and whether one failed.
    begun: BTreeMap<u64, (usize, bool)>,
}

impl Clients {
    /// Gives the bases their images: at the start of a life, and when one was adopted.
    pub(crate) fn find_bases(&mut self, machine: &mut Machine) {
        let catalogue = machine.store.catalogue().clone();
        self.going.retain(|id, _| catalogue.base(*id).is_some_and(|base| !base.detached));
        for base in catalogue.bases().filter(|base| !base.detached) {
            if self.going.contains_key(&base.id) {
                continue;
            }
            machine.store.set_source(base.id, Arc::new(below(base)));
            let filler = Filler::new(base, catalogue.taken(base.id));
            self.going.insert(base.id, Going { filler, begun: BTreeMap::new() });
        }
    }

    /// Takes the next unit of a base over.
    pub(crate) fn fill(&mut self, run: &mut Run, machine: &mut Machine) {
        let ids: Vec<BranchId> = self.going.keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        let id = *run.dice.pick(&ids);
        let Some(base) = machine.store.catalogue().base(id).cloned() else { return };
        let going = self.going.get_mut(&id).expect("picked");
        if going.begun.len() >= BEGUN_MAX {
            return;
        }
        going.filler.want(machine.store.take_wanted(id));
        let Some(unit) = going.filler.begin() else { return going.filler.try_again() };
        let start = unit * UNIT_BYTES;
        let length = index(UNIT_BYTES.min(base.size_bytes - start)).next_multiple_of(BLOCK);
        let mut bytes = vec![0; length];
        paint_image(below(&base), start, &mut bytes);
        let is_data = |block: &[u8]| block.iter().any(|byte| *byte != 0);
        let blocks: Vec<(usize, &[u8])> = bytes.chunks(BLOCK).enumerate().collect();
        let mut count = 0;
        for blocks in blocks.chunk_by(|one, other| is_data(one.1) == is_data(other.1)) {
            if !is_data(blocks[0].1) {
                continue;
            }
            let at = blocks[0].0 * BLOCK;
            let data = bytes[at..at + blocks.len() * BLOCK].to_vec();
            let client = run.next_client;
            run.next_client += 1;
            let at = start + at as u64;
            let change = Change {
                branch: id,
                start: at,
                end: at + data.len() as u64,
                content: Content::Zeros,
                size: base.size_bytes,
                sent: machine.place.clock.wall(),
                answered: None,
            };
            let lba = Lba::holding(at).expect("small");
            let ticket = machine.fill(id, ClientId(client), lba, data);
            let asked = Asked::Change { client, change, fua: false, left: false };
            self.asked.insert(ticket, asked);
            self.fills.insert(ticket, (id, unit));
            count += 1;
        }
        match count {
            0 => going.filler.wrote(unit),
            count => {
                going.begun.insert(unit, (count, false));
            }
        }
    }

    /// A write of a unit was answered.
    pub(crate) fn filled(&mut self, ticket: u64, well: bool) {
        let Some((base, unit)) = self.fills.remove(&ticket) else { return };
        let Some(going) = self.going.get_mut(&base) else { return };
        let Some((left, failed)) = going.begun.get_mut(&unit) else { return };
        *left -= 1;
        *failed |= !well;
        if *left == 0 {
            if *failed {
                going.filler.failed(unit);
            } else {
                going.filler.wrote(unit);
                self.wrote = Some(base);
            }
            going.begun.remove(&unit);
        }
    }

    /// Records what was taken over, and detaches what is whole.
    pub(crate) fn record(&mut self, run: &mut Run, machine: &mut Machine) {
        let ids: Vec<BranchId> = self.going.keys().copied().collect();
        if ids.is_empty() || machine.store.log().poison().is_some() {
            return;
        }
        let id = self.wrote.take().filter(|id| self.going.contains_key(id));
        let id = id.unwrap_or_else(|| *run.dice.pick(&ids));
        let runs = self.going[&id].filler.written();
        if !runs.is_empty() {
            let change = machine.store.take_over(id, runs.clone());
            match machine.wait_changed(change) {
                Some(true) => {
                    let going = self.going.get_mut(&id).expect("picked");
                    going.filler.recorded(&runs);
                    run.report.plans += 1;
                }
                Some(false) => assert!(self.menu.writes_fail, "F1: a unit is not recorded"),
                None => return,
            }
        }
        if self.going[&id].filler.is_done() {
            let records = machine.store.catalogue().plan_detach_base(id);
            self.take(run, machine, records.expect("all of it is taken"));
            self.find_bases(machine);
        }
    }
}

fn below(base: &Base) -> Below {
    Below { id: base.id, size: base.size_bytes }
}

/// What the first branches of a catalogue stand on.
pub fn belows(catalogue: &catalogue::Catalogue) -> BTreeMap<BranchId, Below> {
    catalogue.bases().map(|base| (base.root, below(base))).collect()
}
