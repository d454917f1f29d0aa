//! The full check: every table of the disk, its snapshots and bitmaps, and the refcounts against them.
//!
//! References are counted for [`limits::OVERLAP_UNITS`] clusters of the file at a time; a larger file
//! is walked several times, and entries are judged in the first walk only. Each step reads one L2
//! table, one bitmap's table or one refcount block.

use super::{
    Qcow2, View, bitmaps, decode,
    entry::{Cluster, L1Entry, L2Entry},
    header::{Header, incompatible},
    snapshots,
};
use crate::{
    Class, Fault, Input, Kind, Part, Report, Severity, Stop,
    bytes::{be64, narrow, wide},
    limits,
};

/// L1 entries that are looked at in one step.
const L1_WINDOW: u64 = 512;

/// A check under way.
#[derive(Debug, Default)]
pub(super) struct Walk {
    phase: Phase,
    /// First cluster whose references are counted now.
    base: u64,
    /// References to each cluster from `base` on, at most 65535.
    counts: Vec<u16>,
    /// The L1 tables to be walked, that of the opened disk first.
    views: Vec<View>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Phase {
    #[default]
    Start,
    Level1 {
        view: usize,
        index: u64,
    },
    Bitmaps {
        place: usize,
    },
    Refcounts {
        block: u64,
    },
}

impl Walk {
    /// One piece; `Ok(true)` after the last.
    pub fn step(
        &mut self,
        image: &mut Qcow2,
        input: &Input,
        report: &mut Report,
    ) -> Result<bool, Stop> {
        match self.phase {
            Phase::Start => self.start(image, input, report)?,
            Phase::Level1 { view, index } => self.level_1(image, view, index, input, report)?,
            Phase::Bitmaps { place } => self.bitmap(image, place, input, report)?,
            Phase::Refcounts { block } => return self.refcounts(image, block, input, report),
        }
        Ok(false)
    }

    fn is_first(&self) -> bool {
        self.base == 0
    }

    /// Notes of the opening, and the references of tables at fixed places.
    fn start(&mut self, image: &Qcow2, input: &Input, report: &mut Report) -> Result<(), Stop> {
        let header = &image.header;
        let listed = match snapshots::list(header, input) {
            Err(Stop::Fault(_)) => Vec::new(), // a note of the opening
            listed => listed?,
        };
        // All reads come first: the step is run again after each.
        let refcounts = refcount_places(image, input)?;
        let clusters = input.len(header.file).div_ceil(header.cluster());
        let counted = (clusters - self.base.min(clusters)).min(limits::OVERLAP_UNITS);
        self.counts = vec![0; narrow(counted)];
        self.views = vec![View { l1: header.l1, l1_count: header.l1_count, part: Part::L1 }];
        self.refer(header, 0, header.cluster());
        self.refer(header, header.l1, header.l1_count.saturating_mul(8));
        let end = listed.last().map_or(header.snapshots, |last| last.end);
        self.refer(header, header.snapshots, end - header.snapshots);
        for (at, len) in refcounts {
            self.refer(header, at, len);
        }
        for found in listed {
            match found.snapshot.fault {
                Some(fault) if self.is_first() => report.add(Severity::Warning, fault),
                Some(_) => {}
                None => {
                    self.refer(header, found.l1, found.l1_count * 8);
                    let (l1, l1_count) = (found.l1, found.l1_count);
                    self.views.push(View { l1, l1_count, part: Part::Snapshots });
                }
            }
        }
        if self.is_first() {
            for note in &image.facts.notes {
                report.add(Severity::Warning, note.clone());
            }
        }
        self.phase = Phase::Level1 { view: 0, index: 0 };
        Ok(())
    }

    /// The next L2 table of a view, or the end of a window of empty L1 entries.
    fn level_1(
        &mut self,
        image: &mut Qcow2,
        view: usize,
        mut index: u64,
        input: &Input,
        report: &mut Report,
    ) -> Result<(), Stop> {
        let Some(View { l1, l1_count, part }) = self.views.get(view).copied() else {
            self.phase = Phase::Bitmaps { place: 0 };
            return Ok(());
        };
        if index >= l1_count {
            self.phase = Phase::Level1 { view: view + 1, index: 0 };
            return Ok(());
        }
        let start = index / L1_WINDOW * L1_WINDOW;
        let count = (l1_count - start).min(L1_WINDOW);
        let file = image.header.file;
        let entries = input.read(file, l1 + start * 8, count * 8, part)?;
        while index < start + count {
            let word = be64(entries, narrow(index - start) * 8);
            if word != 0 {
                let at = l1 + index * 8;
                self.level_2(image, (view, index, at), L1Entry::of(word), input, report)?;
                index += 1;
                break;
            }
            index += 1;
        }
        self.phase = Phase::Level1 { view, index };
        Ok(())
    }

    /// One L1 entry and the table it leads to.
    fn level_2(
        &mut self,
        image: &mut Qcow2,
        (view, index, at): (usize, u64, u64),
        entry: L1Entry,
        input: &Input,
        report: &mut Report,
    ) -> Result<(), Stop> {
        let (file, cluster) = (image.header.file, image.header.cluster());
        let fault = |class, text: String| Fault::at(class, Part::L1Entry, file, at, text);
        let is_opened = view == 0 && self.views[0].l1 == image.l1.at(0);
        let is_bad =
            !entry.offset.is_multiple_of(cluster) || !input.holds(file, entry.offset, cluster);
        let table = if entry.offset == 0 || is_bad {
            &[][..]
        } else {
            input.read(file, entry.offset, cluster, Part::L1Entry)?
        };
        if is_opened && self.is_first() {
            judge_disk(image, index, input, report)?;
        }
        if self.is_first() {
            if entry.reserved != 0 {
                let text = format!("reserved bits {:#x} are set", entry.reserved);
                report.add(Severity::Warning, fault(Class::ReservedBits, text));
            }
            if entry.offset == 0 && entry.copied {
                let text = "an L2 table on the header: taken as none".to_owned();
                report.add(Severity::Warning, fault(Class::Overlap, text));
            }
            if is_bad && !is_opened {
                let text = format!("a snapshot's L2 table at {}", entry.offset);
                report.add(Severity::Warning, fault(Class::PointerOutsideFile, text));
            }
        }
        if table.is_empty() {
            return Ok(());
        }
        self.refer(&image.header, entry.offset, cluster);
        let entries = image.header.l2_count();
        for slot in 0..entries {
            let found = decode(&image.header, table, slot);
            let at = entry.offset + slot * image.header.l2_entry();
            if self.is_first() {
                judge_entry(&image.header, &found, at, input, report);
                if view == 0 {
                    tally(&found, report);
                }
            }
            if image.data != file {
                continue;
            }
            match found.cluster {
                Cluster::Plain { host } | Cluster::Zero { host } if host != 0 => {
                    self.refer(&image.header, host, cluster);
                }
                Cluster::Packed { offset, len } => self.refer(&image.header, offset, len),
                _ => {}
            }
        }
        Ok(())
    }

    /// One bitmap's table and the clusters it names.
    fn bitmap(
        &mut self,
        image: &Qcow2,
        place: usize,
        input: &Input,
        report: &mut Report,
    ) -> Result<(), Stop> {
        let header = &image.header;
        let listed = match bitmaps::list(header, input) {
            Err(Stop::Fault(_)) => Vec::new(), // a note of the opening
            listed => listed?,
        };
        let Some(found) = listed.get(place) else {
            self.phase = Phase::Refcounts { block: self.base / per_block(header) };
            return Ok(());
        };
        let (file, part) = (header.file, Part::Bitmaps);
        let len = found.table_count * 8;
        let sound = if len > limits::RESIDENT_BYTES {
            let text = format!("a bitmap's table of {len} bytes");
            Err(Fault::at(Class::Limit, part, file, found.table, text))
        } else {
            input.inside(file, found.table, len, part)
        };
        match sound {
            Ok(()) => {
                let table = input.read(file, found.table, len, part)?;
                if place == 0
                    && let Some((at, len)) = bitmaps::directory(header)
                {
                    self.refer(header, at, len);
                }
                self.refer(header, found.table, len);
                for entry in table.chunks_exact(8) {
                    let host = L1Entry::of(be64(entry, 0)).offset;
                    if host != 0 {
                        self.refer(header, host, header.cluster());
                    }
                }
            }
            Err(fault) if self.is_first() => report.add(Severity::Warning, fault),
            Err(_) => {}
        }
        self.phase = Phase::Bitmaps { place: place + 1 };
        Ok(())
    }

    /// Compares one refcount block; `Ok(true)` when the last cluster of the file was compared.
    fn refcounts(
        &mut self,
        image: &Qcow2,
        block: u64,
        input: &Input,
        report: &mut Report,
    ) -> Result<bool, Stop> {
        let header = &image.header;
        let clusters = input.len(header.file).div_ceil(header.cluster());
        let first = block * per_block(header);
        let end =
            (self.base + wide(self.counts.len())).min(first.saturating_add(per_block(header)));
        if !image.has_refcounts || first >= self.base + wide(self.counts.len()) {
            return Ok(self.next_window(image, clusters, report));
        }
        // The window may begin inside a block.
        let start = first.max(self.base);
        let at = block_offset(header, block, input)?;
        let fault = |class, text: String| Fault::at(class, Part::Refcounts, header.file, at, text);
        if !at.is_multiple_of(header.cluster()) || !input.holds(header.file, at, header.cluster()) {
            let class = if at.is_multiple_of(header.cluster()) {
                Class::PointerOutsideFile
            } else {
                Class::PointerMisaligned
            };
            let text = format!("a refcount block at {at}");
            report.add(Severity::Warning, fault(class, text));
        } else {
            let bytes = match at {
                0 => &[][..],
                _ => input.read(header.file, at, header.cluster(), Part::Refcounts)?,
            };
            for cluster in start..end {
                let found = refcount(bytes, cluster - first, header.refcount_bits);
                self.compare(image, cluster, found, report);
            }
        }
        self.phase = Phase::Refcounts { block: block + 1 };
        Ok(false)
    }

    /// Says what is wrong with the refcount of one cluster.
    fn compare(&self, image: &Qcow2, cluster: u64, found: u64, report: &mut Report) {
        let counted = u64::from(self.counts[narrow(cluster - self.base)]);
        let header = &image.header;
        let is_stale = header.needs(incompatible::DIRTY);
        let mut tell = |severity, text: String| {
            let severity = if is_stale { Severity::Note } else { severity };
            let at = cluster * header.cluster();
            let class = Class::RefcountMismatch;
            report.add(severity, Fault::at(class, Part::Refcounts, header.file, at, text));
        };
        if found.min(65535) == counted {
            if found != 1 && image.claims.is_alone(cluster) && counted > 0 {
                tell(Severity::Warning, format!("marked as used once, its refcount is {found}"));
            }
        } else if counted == 0 {
            report.units_leaked += 1;
        } else if found < counted {
            let text = format!("refcount {found}, used {counted} times: a writer may destroy it");
            tell(Severity::Error, text);
        } else {
            tell(Severity::Warning, format!("refcount {found}, used {counted} times"));
        }
    }

    /// Goes on to the clusters after these; `true` if there are none.
    fn next_window(&mut self, image: &Qcow2, clusters: u64, report: &mut Report) -> bool {
        self.base += wide(self.counts.len());
        if self.base < clusters && !self.counts.is_empty() && image.has_refcounts {
            self.phase = Phase::Start;
            return false;
        }
        if !image.has_refcounts {
            report.unchecked.push("refcounts: their table cannot be read".to_owned());
        }
        if report.units_packed > 0 {
            let text = format!("content of {} compressed clusters", report.units_packed);
            report.unchecked.push(text);
        }
        if report.units_leaked > 0 {
            let text = format!("{} clusters are used by nothing", report.units_leaked);
            let class = Class::RefcountMismatch;
            report.add(Severity::Note, Fault::new(class, Part::Refcounts, image.header.file, text));
        }
        *self = Self::default();
        true
    }

    /// Counts a reference to the clusters of a range, those that are in the window.
    fn refer(&mut self, header: &Header, at: u64, len: u64) {
        if len == 0 {
            return;
        }
        let last = at.saturating_add(len - 1) / header.cluster();
        let end = self.base + wide(self.counts.len());
        let first = (at / header.cluster()).max(self.base);
        for cluster in first..=last.min(end.saturating_sub(1)) {
            let count = &mut self.counts[narrow(cluster - self.base)];
            *count = count.saturating_add(1);
        }
    }
}

/// Every damage of the disk that the map finds in the range of an L1 entry.
fn judge_disk(
    image: &mut Qcow2,
    index: u64,
    input: &Input,
    report: &mut Report,
) -> Result<(), Stop> {
    let reach = image.header.l2_reach();
    let size = image.facts.virtual_size;
    let Some(mut place) = index.checked_mul(reach).filter(|start| *start < size) else {
        return Ok(());
    };
    let end = place.saturating_add(reach).min(size);
    let mut faults = Vec::new();
    while place < end {
        let mut extents = Vec::new();
        place = image.map_table(place..end, input, &mut extents)?;
        faults.extend(extents.into_iter().filter_map(|extent| match extent.kind {
            Kind::Corrupt(fault) => Some(*fault),
            _ => None,
        }));
        faults.truncate(limits::FINDINGS_MAX);
    }
    for fault in faults {
        report.add(Severity::Error, fault);
    }
    Ok(())
}

/// What is wrong with an L2 entry and does not keep its cluster from being read.
fn judge_entry(header: &Header, entry: &L2Entry, at: u64, input: &Input, report: &mut Report) {
    let mut tell = |class, text: String| {
        let fault = Fault::at(class, Part::L2Entry, header.file, at, text);
        report.add(Severity::Warning, fault);
    };
    if entry.reserved != 0 {
        tell(Class::ReservedBits, format!("reserved bits {:#x} are set", entry.reserved));
    }
    match entry.cluster {
        Cluster::Absent if entry.copied => {
            tell(Class::Overlap, "data on the header: taken as not held".to_owned());
        }
        Cluster::Packed { offset, len } => {
            let size = input.len(header.file);
            if offset < size && len > size - offset {
                let text = format!("a compressed cluster of up to {len} bytes at {offset}");
                tell(Class::PointerOutsideFile, format!("{text}, the file ends at {size}"));
            }
            if entry.bitmap.is_some_and(|bitmap| bitmap != (0, 0)) {
                tell(Class::ReservedBits, "subclusters of a compressed cluster".to_owned());
            }
        }
        _ => {}
    }
}

/// Counts a cluster of the disk by its kind.
fn tally(entry: &L2Entry, report: &mut Report) {
    match entry.cluster {
        Cluster::Absent => {}
        Cluster::Zero { .. } => report.units_zero += 1,
        Cluster::Plain { .. } => report.units_data += 1,
        Cluster::Packed { .. } => report.units_packed += 1,
    }
}

/// The refcount table and its blocks: offset and length of each.
fn refcount_places(image: &Qcow2, input: &Input) -> Result<Vec<(u64, u64)>, Stop> {
    let header = &image.header;
    if !image.has_refcounts {
        return Ok(Vec::new());
    }
    let (at, len) = (header.refcount_table, header.refcount_clusters * header.cluster());
    let table = input.read(header.file, at, len, Part::Refcounts)?.chunks_exact(8);
    let blocks = table.map(|entry| be64(entry, 0)).filter(|block| *block != 0);
    let blocks = blocks.map(|block| (block, header.cluster()));
    Ok(std::iter::once((at, len)).chain(blocks).collect())
}

/// Refcounts in a block.
fn per_block(header: &Header) -> u64 {
    header.cluster() * 8 / u64::from(header.refcount_bits)
}

/// Where a refcount block is; 0 if there is none.
fn block_offset(header: &Header, block: u64, input: &Input) -> Result<u64, Stop> {
    let len = header.refcount_clusters * header.cluster();
    let at = block.saturating_mul(8);
    if at.saturating_add(8) > len {
        return Ok(0);
    }
    let entry = input.read(header.file, header.refcount_table + at, 8, Part::Refcounts)?;
    Ok(be64(entry, 0))
}

/// A refcount of `bits` bits: big-endian, below a byte from its low bits on. 0 without a block.
fn refcount(block: &[u8], index: u64, bits: u32) -> u64 {
    let bit = index * u64::from(bits);
    let at = narrow(bit / 8);
    if bits < 8 {
        let byte = u64::from(block.get(at).copied().unwrap_or(0));
        return byte >> (bit % 8) & ((1 << bits) - 1);
    }
    let bytes = block.get(at..).unwrap_or_default();
    let bytes = bytes.iter().take(narrow(u64::from(bits / 8)));
    bytes.fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refcounts_of_every_width_are_read() {
        let block = [0b1110_0100, 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde];
        let counts: Vec<u64> = (0..4).map(|index| refcount(&block, index, 2)).collect();
        assert_eq!(counts, [0, 1, 2, 3]);
        assert_eq!(refcount(&block, 2, 1), 1);
        assert_eq!(refcount(&block, 1, 4), 0xe);
        assert_eq!(refcount(&block, 1, 16), 0x3456);
        assert_eq!(refcount(&block, 0, 64), 0xe412_3456_789a_bcde);
        assert_eq!(refcount(&[], 7, 16), 0);
    }
}
