//! The full check of an image: every entry of the block table.
//!
//! What opening has found wrong is told again as a note. Sector bitmaps are checked for their place,
//! not for their bits: any bits are right.

use crate::{
    Class, Fault, Input, Part, Report, Severity, Stop,
    overlap::{Claim, Seen},
};

use super::{
    BITMAP_BYTES, Vhdx,
    bat::{Entry, Owner, State},
};

/// Entries of one piece of a check: as many as a page of the table has.
const ENTRIES: u64 = 8192;

/// How far a check is.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    /// The notes have been told.
    begun: bool,
    /// The next entry.
    index: u64,
    /// Units of 1 MiB that blocks claim; of tables that are not held whole.
    seen: Seen,
    /// Bytes of the file that blocks claim.
    claimed: u64,
    /// Some claims were not compared.
    unsure: bool,
}

impl Vhdx {
    /// The next piece of a check; true when it was the last.
    pub(super) fn check_piece(&mut self, input: &Input, report: &mut Report) -> Result<bool, Stop> {
        let end = (self.check.index + ENTRIES).min(self.geometry.entries);
        if !std::mem::replace(&mut self.check.begun, true) {
            for note in &self.facts.notes {
                report.add(Severity::Note, note.clone());
            }
        }
        while self.check.index < end {
            // All entries that this one needs are in hand before anything of it is counted.
            let entry = self.bat.entry(self.check.index, &self.contents, input)?;
            let owner = self.geometry.owner(entry.index);
            let bitmap = match owner {
                Owner::Payload(block) if entry.state() == State::Partial => {
                    self.bitmap_entry(block, input)?
                }
                _ => None,
            };
            self.check.index += 1;
            match owner {
                Owner::Payload(block) => self.check_payload(&entry, block, bitmap, report),
                Owner::Bitmap(_) => self.check_bitmap(&entry, report),
            }
        }
        if self.check.index < self.geometry.entries {
            return Ok(false);
        }
        let done = std::mem::take(&mut self.check);
        let used = done.claimed.saturating_add(self.structures.bytes());
        report.units_leaked = self.contents.len().saturating_sub(used) / self.geometry.block;
        if done.unsure {
            let text = "more blocks than a check compares: some may be claimed twice";
            report.unchecked.push(text.to_owned());
        }
        Ok(true)
    }

    fn check_payload(
        &mut self,
        entry: &Entry,
        block: u64,
        bitmap: Option<Entry>,
        report: &mut Report,
    ) {
        let file = self.contents.file();
        let mut add = |severity, class, text: String| {
            report.add(severity, Fault::at(class, Part::BatEntry, file, entry.at, text));
        };
        if entry.reserved() != 0 {
            let text = format!("reserved bits {:#x} are set", entry.reserved());
            add(Severity::Warning, Class::ReservedBits, text);
        }
        if block >= self.geometry.blocks {
            if entry.state() != State::Absent {
                add(Severity::Warning, Class::BadField, "a block past the disk's end".to_owned());
            }
            return;
        }
        match entry.state() {
            State::Absent => return,
            State::Zero => {
                report.units_zero += 1;
                return;
            }
            State::Unknown(state) => {
                let text = format!("a block is in state {state}");
                add(Severity::Error, Class::BadField, text);
                return;
            }
            State::Partial if !self.geometry.differs => {
                let text = "a block is partly present, and the disk has no parent".to_owned();
                add(Severity::Error, Class::BadField, text);
                return;
            }
            State::Present | State::Partial => {}
        }
        report.units_data += 1;
        if let Some(place) = self.check_claim(entry, self.geometry.block, report) {
            let visible = self.geometry.visible(block);
            if !self.contents.holds(place, visible) {
                let text = format!("a block at byte {place} is cut by the end of the file");
                let fault = Fault::at(Class::Truncated, Part::Data, file, place, text);
                report.add(Severity::Error, fault);
            }
        }
        if let Some(Err(fault)) = bitmap.map(|bitmap| self.bitmap_at(&bitmap)) {
            report.add(Severity::Error, fault);
        }
    }

    /// The entry of the sector bitmap for a block of a differencing disk.
    fn bitmap_entry(&mut self, block: u64, input: &Input) -> Result<Option<Entry>, Stop> {
        if !self.geometry.differs {
            return Ok(None);
        }
        let index = self.geometry.bitmap(block / self.geometry.ratio);
        self.bat.entry(index, &self.contents, input).map(Some)
    }

    fn check_bitmap(&mut self, entry: &Entry, report: &mut Report) {
        let add = |report: &mut Report, class, text: &str| {
            let file = self.contents.file();
            report.add(Severity::Warning, Fault::at(class, Part::BatEntry, file, entry.at, text));
        };
        if entry.reserved() != 0 {
            add(report, Class::ReservedBits, "reserved bits of a sector bitmap's entry are set");
        }
        match entry.state() {
            State::Absent => {}
            State::Present if self.geometry.differs => {
                self.check_claim(entry, BITMAP_BYTES, report);
            }
            _ => add(report, Class::BadField, "a sector bitmap that cannot be one"),
        }
    }

    /// Where an entry's block begins; findings if it cannot be there.
    fn check_claim(&mut self, entry: &Entry, len: u64, report: &mut Report) -> Option<u64> {
        let place = match self.bat.claimed(entry, len, &self.contents, &self.structures) {
            Ok(place) => place,
            Err(fault) => {
                report.add(Severity::Error, fault);
                return None;
            }
        };
        self.check.claimed += len.min(self.contents.len() - place);
        if self.bat.is_whole() {
            return Some(place);
        }
        let mut again = false;
        for unit in place >> 20..(place + len) >> 20 {
            match self.check.seen.claim(unit) {
                Claim::First => {}
                Claim::Again => again = true,
                Claim::Unknown => self.check.unsure = true,
            }
        }
        if again {
            let text = format!("another block is at byte {place} too");
            let fault =
                Fault::at(Class::Overlap, Part::BatEntry, self.contents.file(), entry.at, text);
            report.add(Severity::Error, fault);
        }
        Some(place)
    }
}
