//! The suite passes a device in memory, and catches each way in which that one is broken.

use std::panic::{AssertUnwindSafe, catch_unwind};

use units::{BLOCK_BYTES, ClientId, Sequence};
use world::{Bytes, Page, Pool};

use super::{CASES, Subject, length, run_all, run_case};
use crate::{
    Answer, BlockDevice, BlockError, BlockExtent, Command, Completion, DeviceInfo,
    MAX_REQUEST_BYTES, Payload, Ticket,
};

/// What is wrong with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    FreshBytesAreNotZero,
    SmallWritesFillTheirBlock,
    ReadModifyWriteRaces,
    TrimOnlyWholeBlocks,
    TrimRoundsOutwards,
    ZeroesAreIgnored,
    WritesPastTheEndAreCut,
    OffsetsOverflow,
    EmptyWriteClears,
    ReadOnlyIsIgnored,
    ExtentsAreAllHoles,
    ExtentsHaveGaps,
    ExtentsAreSplit,
    ExtentsPassTheCount,
    AnswersTwice,
    NeverAnswersFlush,
    FlushDoesNothing,
    FuaIsIgnored,
    LargeReadsAreShort,
    LargeIsTaken,
    PartBlockIsLost,
    PagesAreFull,
    SequencesStand,
}

struct Memory {
    fault: Fault,
    bytes: Vec<u8>,
    durable: Vec<u8>,
    read_only: bool,
    last: Sequence,
    /// The rest of read-modify-writes that wait for their turn.
    waiting: Vec<(Ticket, u64, Vec<u8>)>,
    done: Vec<Completion>,
    pool: Pool,
}

impl Memory {
    fn new(fault: Fault) -> Self {
        Self {
            fault,
            bytes: Vec::new(),
            durable: Vec::new(),
            read_only: false,
            last: Sequence::ZERO,
            waiting: Vec::new(),
            done: Vec::new(),
            pool: Pool::new(4 << 20),
        }
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn run(&mut self, command: Command<'_>) -> Result<Answer, BlockError> {
        let size = self.bytes.len() as u64;
        let (offset, bytes, changes) = match &command {
            Command::Read { offset_bytes, length_bytes } => (*offset_bytes, *length_bytes, false),
            Command::Extents { offset_bytes, length_bytes, .. } => {
                (*offset_bytes, *length_bytes, false)
            }
            Command::Write { offset_bytes, data, .. } => {
                let bytes = match data {
                    Payload::Borrowed(bytes) => bytes.len(),
                    Payload::Pages { length_bytes, .. } => *length_bytes,
                };
                (*offset_bytes, bytes as u64, true)
            }
            Command::Trim { offset_bytes, length_bytes, .. }
            | Command::WriteZeroes { offset_bytes, length_bytes, .. } => {
                (*offset_bytes, *length_bytes, true)
            }
            Command::Flush => (0, 0, false),
        };
        if changes && self.read_only && !self.is(Fault::ReadOnlyIsIgnored) {
            return Err(BlockError::ReadOnly);
        }
        let limited = matches!(command, Command::Read { .. } | Command::Write { .. });
        if limited && bytes > MAX_REQUEST_BYTES && !self.is(Fault::LargeIsTaken) {
            return Err(BlockError::TooLarge);
        }
        let end = if self.is(Fault::OffsetsOverflow) {
            Some(offset.wrapping_add(bytes))
        } else {
            offset.checked_add(bytes)
        };
        if end.is_none_or(|end| end > size) {
            if self.is(Fault::WritesPastTheEndAreCut)
                && let Command::Write { data: Payload::Borrowed(bytes), .. } = command
            {
                let start = length(offset.min(size));
                let part = bytes.len().min(self.bytes.len() - start);
                self.bytes[start..start + part].copy_from_slice(&bytes[..part]);
            }
            return Err(BlockError::OutOfRange);
        }
        if offset > size {
            return Ok(Answer::Written(self.last)); // only reached by the overflow
        }
        let start = length(offset);
        Ok(match command {
            Command::Read { .. } => {
                let mut data = self.bytes[start..start + length(bytes)].to_vec();
                if self.is(Fault::LargeReadsAreShort) && bytes == MAX_REQUEST_BYTES {
                    data.pop();
                }
                if self.is(Fault::FreshBytesAreNotZero) && self.last == Sequence::ZERO {
                    data.fill(0xa5);
                }
                let middle = data.len() / 3;
                let tail = data.split_off(middle);
                Answer::Data(vec![Bytes::from(data), Bytes::from(tail)])
            }
            Command::Write { data, fua, .. } => {
                let mut new = match data {
                    Payload::Borrowed(bytes) => bytes.to_vec(),
                    Payload::Pages { pages, length_bytes } => {
                        let mut all: Vec<u8> = pages.iter().flat_map(|it| it.to_vec()).collect();
                        if !self.is(Fault::PagesAreFull) {
                            all.truncate(length_bytes);
                        }
                        all
                    }
                };
                if new.is_empty() && self.is(Fault::EmptyWriteClears) {
                    self.bytes.fill(0);
                }
                let tail = self.bytes.len() % length(BLOCK_BYTES);
                if self.is(Fault::PartBlockIsLost) && start + new.len() > self.bytes.len() - tail {
                    new.truncate((self.bytes.len() - tail).saturating_sub(start));
                }
                if self.is(Fault::SmallWritesFillTheirBlock) && new.len() < 512 {
                    let block = start / 4096 * 4096;
                    let end = (block + 4096).min(self.bytes.len());
                    self.bytes[block..end].fill(0);
                }
                self.bytes[start..start + new.len()].copy_from_slice(&new);
                self.changed(fua)
            }
            Command::Trim { fua, .. } => {
                let (mut from, mut to) = (start, start + length(bytes));
                if self.is(Fault::TrimOnlyWholeBlocks) {
                    from = from.next_multiple_of(4096);
                    to = to / 4096 * 4096;
                }
                if self.is(Fault::TrimRoundsOutwards) {
                    from = from / 4096 * 4096;
                    to = to.next_multiple_of(4096).min(self.bytes.len());
                }
                if from < to {
                    self.bytes[from..to].fill(0);
                }
                self.changed(fua)
            }
            Command::WriteZeroes { fua, .. } => {
                if !self.is(Fault::ZeroesAreIgnored) {
                    self.bytes[start..start + length(bytes)].fill(0);
                }
                self.changed(fua)
            }
            Command::Flush => {
                if !self.is(Fault::FlushDoesNothing) {
                    self.durable.clone_from(&self.bytes);
                }
                Answer::Flushed
            }
            Command::Extents { count_max, .. } => {
                Answer::Extents(self.extents(start, length(bytes), count_max))
            }
        })
    }

    fn changed(&mut self, fua: bool) -> Answer {
        if !self.is(Fault::SequencesStand) || self.last == Sequence::ZERO {
            self.last = self.last.next();
        }
        if fua && !self.is(Fault::FuaIsIgnored) {
            self.durable.clone_from(&self.bytes);
        }
        Answer::Written(self.last)
    }

    fn extents(&self, start: usize, bytes: usize, count_max: usize) -> Vec<BlockExtent> {
        let mut extents: Vec<BlockExtent> = Vec::new();
        let mut at = start;
        while at < start + bytes && extents.len() <= count_max.max(3) {
            let end = (at / 4096 * 4096 + 4096).min(start + bytes);
            let block = at / 4096 * 4096..(at / 4096 * 4096 + 4096).min(self.bytes.len());
            let hole = self.is(Fault::ExtentsAreAllHoles)
                || self.bytes[block].iter().all(|&byte| byte == 0);
            let length_bytes = (end - at) as u64;
            match extents.last_mut() {
                Some(last) if last.hole == hole && !self.is(Fault::ExtentsAreSplit) => {
                    last.length_bytes += length_bytes;
                }
                _ => extents.push(BlockExtent { length_bytes, hole }),
            }
            at = end;
        }
        if self.is(Fault::ExtentsHaveGaps) && extents.len() > 2 {
            extents.remove(1);
        }
        if !self.is(Fault::ExtentsPassTheCount) {
            extents.truncate(count_max);
        }
        extents
    }
}

impl BlockDevice for Memory {
    fn info(&self) -> DeviceInfo {
        let (size_bytes, read_only) = (self.bytes.len() as u64, self.read_only);
        DeviceInfo { size_bytes, read_only, frozen: read_only }
    }

    fn submit(&mut self, ticket: Ticket, _: ClientId, command: Command<'_>) {
        if self.is(Fault::NeverAnswersFlush) && matches!(command, Command::Flush) {
            return;
        }
        if self.is(Fault::ReadModifyWriteRaces)
            && let Command::Write { offset_bytes, data: Payload::Borrowed(new), .. } = &command
            && new.len() < 4096
            && length(*offset_bytes) + new.len() <= self.bytes.len()
        {
            // Reads its blocks now and writes them whole later, with what others had not written yet.
            let start = length(*offset_bytes) / 4096 * 4096;
            let end = (length(*offset_bytes) + new.len()).next_multiple_of(4096);
            let mut blocks = self.bytes[start..end.min(self.bytes.len())].to_vec();
            let at = length(*offset_bytes) - start;
            blocks[at..at + new.len()].copy_from_slice(new);
            self.waiting.push((ticket, start as u64, blocks));
            return;
        }
        let result = self.run(command);
        if self.is(Fault::AnswersTwice) && matches!(result, Ok(Answer::Flushed)) {
            self.done.push(Completion { ticket, result: Ok(Answer::Flushed) });
        }
        self.done.push(Completion { ticket, result });
    }

    fn take_completions(&mut self, completions: &mut Vec<Completion>) {
        completions.extend(self.done.pop()); // one at a time, the last one first
    }
}

impl Subject for Memory {
    fn make(&mut self, size_bytes: u64) {
        let pool = self.pool.clone();
        let bytes = vec![0; length(size_bytes)];
        *self = Self { durable: bytes.clone(), bytes, pool, ..Self::new(self.fault) };
    }

    fn device(&mut self) -> &mut dyn BlockDevice {
        self
    }

    fn drive(&mut self) {
        for (ticket, offset, blocks) in std::mem::take(&mut self.waiting) {
            let start = length(offset);
            self.bytes[start..start + blocks.len()].copy_from_slice(&blocks);
            let result = Ok(self.changed(false));
            self.done.push(Completion { ticket, result });
        }
    }

    fn make_read_only(&mut self) -> bool {
        self.read_only = true;
        true
    }

    fn reopen(&mut self) -> bool {
        self.bytes.clone_from(&self.durable);
        true
    }

    fn page(&mut self, length_bytes: usize) -> Option<Page> {
        self.pool.take(length_bytes)
    }
}

#[test]
fn a_device_in_memory_passes() {
    run_all(&mut Memory::new(Fault::None));
}

#[test]
fn every_fault_is_caught_by_its_case() {
    use Fault as F;
    let faults = [
        (F::FreshBytesAreNotZero, "a_fresh_device_reads_as_zero"),
        (F::SmallWritesFillTheirBlock, "writes_are_read_at_any_alignment"),
        (F::ReadModifyWriteRaces, "small_writes_in_flight_all_count"),
        (F::TrimOnlyWholeBlocks, "cleared_bytes_read_as_zero"),
        (F::TrimRoundsOutwards, "cleared_bytes_read_as_zero"),
        (F::ZeroesAreIgnored, "cleared_bytes_read_as_zero"),
        (F::WritesPastTheEndAreCut, "requests_past_the_end_change_nothing"),
        (F::OffsetsOverflow, "requests_past_the_end_change_nothing"),
        (F::EmptyWriteClears, "empty_requests_change_nothing"),
        (F::ReadOnlyIsIgnored, "a_read_only_device_takes_no_change"),
        (F::ExtentsAreAllHoles, "extents_agree_with_contents"),
        (F::ExtentsHaveGaps, "extents_agree_with_contents"),
        (F::ExtentsAreSplit, "extents_agree_with_contents"),
        (F::ExtentsPassTheCount, "extents_agree_with_contents"),
        (F::AnswersTwice, "a_flush_is_answered_among_writes"),
        (F::NeverAnswersFlush, "a_flush_is_answered_among_writes"),
        (F::FlushDoesNothing, "durable_writes_survive"),
        (F::FuaIsIgnored, "fua_is_taken_by_every_change"),
        (F::LargeReadsAreShort, "the_largest_requests_are_taken"),
        (F::LargeIsTaken, "larger_requests_are_refused"),
        (F::PartBlockIsLost, "a_last_part_block_is_served"),
        (F::PagesAreFull, "pages_are_written_as_bytes_are"),
        (F::SequencesStand, "sequences_grow_with_answers"),
    ];
    for (fault, name) in faults {
        let &(_, case) = CASES.iter().find(|case| case.0 == name).expect("a case of that name");
        let run = || run_case(&mut Memory::new(fault), name, case);
        let panic = catch_unwind(AssertUnwindSafe(run)).expect_err(&format!("{fault:?} is missed"));
        let text = panic.downcast_ref::<String>().expect("a message");
        assert!(text.contains(name), "{fault:?} is caught by chance: {text}");
    }
}
