//! The full check of a disk with a block table: every entry, and what stands behind clear bits.

use super::{FREE, Sparse, Variant, run};
use crate::{
    Class, Facts, Fault, Input, Part, Report, Severity, Stop,
    bytes::{be32, wide},
};

/// Bytes behind clear bits that are read at once.
const PIECE: u64 = 1 << 20;

/// Table entries past the disk's end that are looked at.
const EXTRA_MAX: u64 = 1 << 18;

/// How far a check is.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    begun: bool,
    block: u64,
    sector: u64,
}

/// What was found at opening is part of what a check finds.
pub(super) fn notes(facts: &Facts, report: &mut Report) {
    for note in &facts.notes {
        report.add(Severity::Warning, note.clone());
    }
}

impl Sparse {
    pub(super) fn check_next(&mut self, input: &Input, report: &mut Report) -> Result<bool, Stop> {
        if !self.checked.begun {
            self.check_extra(input, report)?;
            notes(&self.facts, report);
            report.units_leaked += self.leaked();
            self.checked.begun = true;
            return Ok(false);
        }
        while self.checked.block < self.table.count() {
            if self.check_block(input, report)? {
                return Ok(false);
            }
        }
        self.checked = Cursor::default();
        Ok(true)
    }

    /// Entries that the disk does not need: they should be free.
    fn check_extra(&self, input: &Input, report: &mut Report) -> Result<(), Stop> {
        let needed = self.table.count();
        let extra = (self.entries - needed).min(EXTRA_MAX);
        let at = self.table.at(needed);
        let bytes = input.read_up_to(self.file, at, extra * 4, Part::BatEntry)?;
        let used = bytes.chunks_exact(4).filter(|entry| be32(entry, 0) != FREE).count();
        if used > 0 {
            let text = format!("{used} entries of the table past the disk's end are not free");
            let fault = Fault::at(Class::BadField, Part::BatEntry, self.file, at, text);
            report.add(Severity::Note, fault);
        }
        if self.entries - needed > EXTRA_MAX {
            report.unchecked.push(format!("table entries from {} on", needed + EXTRA_MAX));
        }
        Ok(())
    }

    /// Whole blocks of the file that no entry leads to.
    fn leaked(&self) -> u64 {
        let unit = self.bitmap + self.block;
        let mut reach = self.structures.iter().map(|taken| taken.end).max().unwrap_or(0);
        let mut leaked = 0;
        for (entry, _) in self.places() {
            let place = u64::from(entry) * 512;
            if place >= self.end {
                break;
            }
            leaked += place.saturating_sub(reach) / unit;
            reach = reach.max(place + unit);
        }
        leaked + self.end.saturating_sub(reach) / unit
    }

    /// Goes on with the block of the cursor; whether bytes were read for it. Nothing is reported
    /// before all that is needed has been read.
    fn check_block(&mut self, input: &Input, report: &mut Report) -> Result<bool, Stop> {
        let (block, sector) = (self.checked.block, self.checked.sector);
        let place = match self.place(block) {
            Ok(Some(place)) => place,
            Ok(None) => {
                self.next_block();
                return Ok(false);
            }
            Err(fault) => {
                report.add(Severity::Error, fault);
                self.next_block();
                return Ok(false);
            }
        };
        let guest = (self.facts.virtual_size - block * self.block).min(self.block);
        // Behind clear bits of a child may stand anything: its parent shows through.
        let is_dynamic = self.facts.variant == Variant::Dynamic.word();
        if is_dynamic && !self.bitmaps.has(block) {
            let bitmap = input.read(self.file, place, self.bitmap, Part::Data)?;
            self.bitmaps.put(block, bitmap.to_vec());
        }
        let clear = if is_dynamic { self.clear_run(guest / 512) } else { None };
        let (from, past) = clear.unwrap_or((0, 0));
        let at = place + self.bitmap + from * 512;
        let len = (past - from) * 512;
        let there = len.min(self.end.saturating_sub(at));
        let bytes = input.read_up_to(self.file, at, there, Part::Data)?;
        if sector == 0 {
            report.units_data += 1;
            let past = place + self.bitmap + guest;
            if past > self.end {
                let text = format!("block {block} ends at byte {past}, data at {}", self.end);
                let fault = Fault::at(Class::Truncated, Part::Data, self.file, self.end, text);
                report.add(Severity::Error, fault);
            }
        }
        let first = bytes.iter().position(|byte| *byte != 0);
        if let Some(first) = first {
            let text = format!(
                "block {block} has bytes behind a clear bit of its bitmap: they read as zero, some \
                 programs show them"
            );
            let at = at + wide(first);
            let fault = Fault::at(Class::AmbiguousBitmap, Part::Data, self.file, at, text);
            report.add(Severity::Warning, fault);
        }
        if clear.is_none() || first.is_some() {
            self.next_block();
        } else {
            self.checked.sector = past;
        }
        Ok(is_dynamic)
    }

    fn next_block(&mut self) {
        self.checked.block += 1;
        self.checked.sector = 0;
    }

    /// The next sectors of the block whose bits are clear, at most [`PIECE`] of them.
    fn clear_run(&mut self, sectors: u64) -> Option<(u64, u64)> {
        let bitmap = self.bitmaps.get(self.checked.block)?;
        let mut sector = self.checked.sector;
        while sector < sectors {
            let (set, past) = run(bitmap, sector, sectors);
            if !set {
                return Some((sector, past.min(sector + PIECE / 512)));
            }
            sector = past;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_follow_the_bits() {
        let bitmap = [0b1110_0000, 0xff, 0x01, 0];
        assert_eq!(run(&bitmap, 0, 32), (true, 3));
        assert_eq!(run(&bitmap, 3, 32), (false, 8));
        assert_eq!(run(&bitmap, 8, 32), (true, 16));
        assert_eq!(run(&bitmap, 16, 32), (false, 23));
        assert_eq!(run(&bitmap, 24, 27), (false, 27));
    }
}
