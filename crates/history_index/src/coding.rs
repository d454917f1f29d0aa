//! How items become bytes of a page: differences to the item before, as LEB128 numbers.
//!
//! Each page begins anew with [`Coded::ORIGIN`] as the item before, so a page can be read alone. The
//! coding stands in `docs/format.md` 9. Whatever is decoded is in range and in order, or refused.

use crate::{ClientRun, ClockPoint, Entry, FlushPoint, ZeroRange};
use units::{BranchId, CELL_GRANULES, ClientId, Extent, Lba, Place, Sequence, Timestamp};

/// An item of a run.
pub(crate) trait Coded: Copy + PartialEq {
    /// Number of its section, from 0.
    const SECTION: usize;
    /// What the first item of a page is compared to.
    const ORIGIN: Self;

    /// Appends the item; `previous` is not after it.
    fn put(&self, previous: &Self, out: &mut Vec<u8>);

    /// Takes an item; `None` if the bytes are none.
    fn take(previous: &Self, input: &mut Input<'_>) -> Option<Self>;

    /// What the fence of a page is, made from its first item, when this one is added to the page.
    fn widen(fence: &mut Self, item: &Self) {
        let _ = (fence, item);
    }

    /// Whether this may stand behind `previous`.
    fn follows(&self, previous: &Self) -> bool;
}

/// Bytes that are taken from the front.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if (bits << shift) >> shift != bits {
                return None;
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn signed(&mut self) -> Option<i64> {
        let number = self.number()?;
        Some((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }
}

fn put_number(mut number: u64, out: &mut Vec<u8>) {
    loop {
        let low = number.to_le_bytes()[0] & 0x7f;
        number >>= 7;
        if number == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

fn put_signed(number: i64, out: &mut Vec<u8>) {
    put_number((number << 1 ^ number >> 63).cast_unsigned(), out);
}

fn put_sequence_change(now: Sequence, before: Sequence, out: &mut Vec<u8>) {
    put_signed(now.number().cast_signed() - before.number().cast_signed(), out);
}

fn changed_sequence(before: Sequence, change: i64) -> Option<Sequence> {
    Sequence::new(before.number().checked_add_signed(change)?)
}

fn later_sequence(before: Sequence, by: u64) -> Option<Sequence> {
    Sequence::new(before.number().checked_add(by)?)
}

const FIRST_BLOCK: Lba = Lba::new(0).expect("in range");
const FIRST_EXTENT: Extent = Extent::new(FIRST_BLOCK, 1).expect("not empty");

// Bits of an entry's first byte: this field is not as foreseen and follows.
const BRANCH: u8 = 1;
const LBA: u8 = 2;
const SEQUENCE: u8 = 4;
const PLACE: u8 = 8;

impl Coded for Entry {
    const SECTION: usize = 0;
    const ORIGIN: Self = Self {
        branch: BranchId(0),
        lba: FIRST_BLOCK,
        sequence: Sequence::ZERO,
        place: Place::from_bits(0),
    };

    fn put(&self, previous: &Self, out: &mut Vec<u8>) {
        let head = out.len();
        out.push(0);
        let mut lba_before = previous.lba.number();
        if self.branch != previous.branch {
            out[head] |= BRANCH;
            put_number(self.branch.0.into(), out);
            lba_before = 0;
        }
        if self.lba.number() != lba_before + 1 {
            out[head] |= LBA;
            put_number(self.lba.number() - lba_before, out);
        }
        if self.sequence != previous.sequence {
            out[head] |= SEQUENCE;
            put_sequence_change(self.sequence, previous.sequence, out);
        }
        let leap = self.place.bits().wrapping_sub(foreseen_place(previous));
        if leap != 0 {
            out[head] |= PLACE;
            put_signed(leap.cast_signed(), out);
        }
    }

    fn take(previous: &Self, input: &mut Input<'_>) -> Option<Self> {
        let head = input.byte()?;
        if head > BRANCH | LBA | SEQUENCE | PLACE {
            return None;
        }
        let mut entry = *previous;
        let mut lba_before = previous.lba.number();
        if head & BRANCH != 0 {
            entry.branch = BranchId(input.number()?.try_into().ok()?);
            lba_before = 0;
        }
        let step = if head & LBA != 0 { input.number()? } else { 1 };
        entry.lba = Lba::new(lba_before.checked_add(step)?)?;
        if head & SEQUENCE != 0 {
            entry.sequence = changed_sequence(previous.sequence, input.signed()?)?;
        }
        let leap = if head & PLACE != 0 { input.signed()?.cast_unsigned() } else { 0 };
        entry.place = Place::from_bits(foreseen_place(previous).wrapping_add(leap));
        Some(entry)
    }

    fn follows(&self, previous: &Self) -> bool {
        self.key() > previous.key()
    }
}

/// Cells of a sequential write, and of a pack, lie in a row.
fn foreseen_place(previous: &Entry) -> u64 {
    previous.place.bits().wrapping_add(CELL_GRANULES)
}

impl Coded for ZeroRange {
    const SECTION: usize = 1;
    const ORIGIN: Self =
        Self { branch: BranchId(0), sequence: Sequence::ZERO, extent: FIRST_EXTENT, kind: 0 };

    fn put(&self, previous: &Self, out: &mut Vec<u8>) {
        let start = self.extent.start().number();
        let same = self.branch == previous.branch;
        put_number((self.branch.0 - previous.branch.0).into(), out);
        put_number(if same { start - previous.extent.start().number() } else { start }, out);
        put_number(self.extent.blocks(), out);
        put_sequence_change(self.sequence, previous.sequence, out);
        out.push(self.kind);
    }

    fn take(previous: &Self, input: &mut Input<'_>) -> Option<Self> {
        let step = u32::try_from(input.number()?).ok()?;
        let branch = BranchId(previous.branch.0.checked_add(step)?);
        let before = if step == 0 { previous.extent.start().number() } else { 0 };
        let start = Lba::new(before.checked_add(input.number()?)?)?;
        let extent = Extent::new(start, input.number()?)?;
        let sequence = changed_sequence(previous.sequence, input.signed()?)?;
        Some(Self { branch, sequence, extent, kind: input.byte()? })
    }

    fn widen(fence: &mut Self, item: &Self) {
        let end = fence.extent.end().max(item.extent.end());
        let start = fence.extent.start();
        fence.extent = Extent::new(start, end - start.number()).expect("longer than one that was");
    }

    fn follows(&self, previous: &Self) -> bool {
        self.key() >= previous.key()
    }
}

impl Coded for ClockPoint {
    const SECTION: usize = 2;
    const ORIGIN: Self = Self { sequence: Sequence::ZERO, wall: Timestamp(0), era: 0 };

    fn put(&self, previous: &Self, out: &mut Vec<u8>) {
        let step = self.sequence.number() - previous.sequence.number();
        let leaps = self.era - previous.era;
        put_number(step << 1 | u64::from(leaps != 0), out);
        if leaps != 0 {
            put_number(leaps.into(), out);
        }
        put_signed(self.wall.0.wrapping_sub(previous.wall.0), out);
    }

    fn take(previous: &Self, input: &mut Input<'_>) -> Option<Self> {
        let head = input.number()?;
        let leaps = if head & 1 != 0 { u32::try_from(input.number()?).ok()? } else { 0 };
        Some(Self {
            sequence: later_sequence(previous.sequence, head >> 1)?,
            era: previous.era.checked_add(leaps)?,
            wall: Timestamp(previous.wall.0.wrapping_add(input.signed()?)),
        })
    }

    fn follows(&self, previous: &Self) -> bool {
        self.sequence > previous.sequence && (self.era, self.wall) >= (previous.era, previous.wall)
    }
}

impl Coded for ClientRun {
    const SECTION: usize = 3;
    const ORIGIN: Self = Self { first: Sequence::ZERO, client: ClientId(0) };

    fn put(&self, previous: &Self, out: &mut Vec<u8>) {
        put_number(self.first.number() - previous.first.number(), out);
        put_number(self.client.0, out);
    }

    fn take(previous: &Self, input: &mut Input<'_>) -> Option<Self> {
        let first = later_sequence(previous.first, input.number()?)?;
        Some(Self { first, client: ClientId(input.number()?) })
    }

    fn follows(&self, previous: &Self) -> bool {
        self.first >= previous.first
    }
}

impl Coded for FlushPoint {
    const SECTION: usize = 4;
    const ORIGIN: Self = Self { sequence: Sequence::ZERO, branch: BranchId(0) };

    fn put(&self, previous: &Self, out: &mut Vec<u8>) {
        put_number(self.sequence.number() - previous.sequence.number(), out);
        put_number(self.branch.0.into(), out);
    }

    fn take(previous: &Self, input: &mut Input<'_>) -> Option<Self> {
        let sequence = later_sequence(previous.sequence, input.number()?)?;
        Some(Self { sequence, branch: BranchId(input.number()?.try_into().ok()?) })
    }

    fn follows(&self, previous: &Self) -> bool {
        self.sequence >= previous.sequence
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_come_back(number: u64, signed: i64) {
            let mut bytes = Vec::new();
            put_number(number, &mut bytes);
            put_signed(signed, &mut bytes);
            let mut input = Input(&bytes);
            prop_assert_eq!((input.number(), input.signed()), (Some(number), Some(signed)));
            prop_assert!(input.0.is_empty());
        }

        #[test]
        fn an_entry_comes_back_after_any_other(
            a: (u32, u64, u64, u64), b: (u32, u64, u64, u64), near: bool,
        ) {
            let entry = |(branch, lba, sequence, place): (u32, u64, u64, u64)| Entry {
                branch: BranchId(branch),
                lba: Lba::new(lba >> 16).expect("48 bits"),
                sequence: Sequence::new(sequence >> 16).expect("48 bits"),
                place: Place::from_bits(place),
            };
            let (first, mut second) = (entry(a).min(entry(b)), entry(a).max(entry(b)));
            if near {
                second.branch = first.branch;
            }
            prop_assume!(second.follows(&first));
            let mut bytes = Vec::new();
            second.put(&first, &mut bytes);
            let mut input = Input(&bytes);
            prop_assert_eq!(Entry::take(&first, &mut input), Some(second));
            prop_assert!(input.0.is_empty());
        }
    }

    #[test]
    fn an_overlong_number_is_refused() {
        assert_eq!(Input(&[0xff; 11]).number(), None);
        assert_eq!(
            Input(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]).number(),
            None
        );
    }

    #[test]
    fn the_next_block_of_a_request_costs_a_byte() {
        let first = Entry { sequence: Sequence::MAX, ..Entry::ORIGIN };
        let lba = first.lba.plus(1).expect("small");
        let second = Entry { lba, place: first.place.plus_cells(1), ..first };
        let mut bytes = Vec::new();
        second.put(&first, &mut bytes);
        assert_eq!(bytes, [0]);
    }
}
