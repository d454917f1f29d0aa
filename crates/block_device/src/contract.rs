//! One suite that every [`crate::BlockDevice`] runs.
//!
//! A crate with a device implements [`Subject`] in its tests and calls [`run_all`], or [`run_case`]
//! with one of [`CASES`]. The suite knows a device only by its trait: it submits, drives the subject
//! until answers come, and compares with a plain copy of what must be there. It panics with the
//! case's name on the first difference.
//!
//! Each answer is checked as it arrives: its ticket was asked and not answered before, its kind fits
//! the command, and read data has the length asked for. What needs a restart is left out for a subject
//! that has no such thing. The suite asks for devices of up to 96 MiB.

use std::collections::BTreeMap;

use units::ClientId;
use world::Page;

use crate::{Answer, BlockDevice, BlockError, BlockExtent, Command, Payload, Ticket};

mod cases;
#[cfg(test)]
mod teeth;

pub use cases::{CASES, behaves_as_a_plain_copy};

/// What a device's crate provides.
pub trait Subject {
    /// Begins anew with a writable device of that size, never written; what was before may go.
    fn make(&mut self, size_bytes: u64);

    /// The device made last.
    fn device(&mut self) -> &mut dyn BlockDevice;

    /// Lets the device work (a turn of its loop) until it has got on. [`TURNS_MAX`] calls in a row
    /// without an answer fail the case.
    fn drive(&mut self);

    /// From now on [`Self::device`] is a read-only device of the same contents. `false`: there is
    /// no such thing.
    fn make_read_only(&mut self) -> bool;

    /// Loses what was not durable, and comes back with what was. `false`: there is no such thing.
    fn reopen(&mut self) -> bool;

    /// Memory for [`Payload::Pages`]; `None`: the case that needs it is left out.
    fn page(&mut self, length_bytes: usize) -> Option<Page>;
}

/// Calls of [`Subject::drive`] after which a missing answer is lost.
pub const TURNS_MAX: usize = 1_000_000;

/// A rule that devices keep.
pub type Case = fn(&mut Bench<'_>);

/// Every case, then random requests of a few seeds.
pub fn run_all(subject: &mut dyn Subject) {
    for &(name, case) in CASES {
        run_case(subject, name, case);
    }
    for seed in 1..=4 {
        behaves_as_a_plain_copy(subject, seed, 200);
    }
}

/// One case; `name` is what a failure says.
pub fn run_case(subject: &mut dyn Subject, name: &str, case: Case) {
    let mut bench = Bench::new(subject, name);
    case(&mut bench);
    bench.settle();
}

/// A subject, the plain copy beside it, and the requests that are on their way.
pub struct Bench<'a> {
    pub(crate) subject: &'a mut dyn Subject,
    pub(crate) case: String,
    /// What the device must hold.
    pub(crate) copy: Vec<u8>,
    next: u64,
    asked: BTreeMap<Ticket, Kind>,
    answered: BTreeMap<Ticket, Result<Answer, BlockError>>,
}

/// Which answer fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data(u64),
    Written,
    Flushed,
    Extents(u64),
}

impl<'a> Bench<'a> {
    pub(crate) fn new(subject: &'a mut dyn Subject, case: &str) -> Self {
        let (asked, answered) = (BTreeMap::new(), BTreeMap::new());
        Self { subject, case: case.to_owned(), copy: Vec::new(), next: 1, asked, answered }
    }

    /// A fresh device of that size, and a copy of zeros.
    pub(crate) fn make(&mut self, size_bytes: u64) {
        self.subject.make(size_bytes);
        self.copy = vec![0; length(size_bytes)];
        let info = self.subject.device().info();
        assert_eq!((info.size_bytes, info.read_only), (size_bytes, false), "{}: info", self.case);
    }

    /// Submits without waiting.
    pub(crate) fn submit(&mut self, command: Command<'_>) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        let kind = match command {
            Command::Read { length_bytes, .. } => Kind::Data(length_bytes),
            Command::Write { .. } | Command::Trim { .. } | Command::WriteZeroes { .. } => {
                Kind::Written
            }
            Command::Flush => Kind::Flushed,
            Command::Extents { length_bytes, .. } => Kind::Extents(length_bytes),
        };
        self.asked.insert(ticket, kind);
        self.subject.device().submit(ticket, ClientId(1), command);
        ticket
    }

    /// Waits for the answer of one request.
    pub(crate) fn wait(&mut self, ticket: Ticket) -> Result<Answer, BlockError> {
        let mut idle_turns = 0;
        loop {
            if let Some(answer) = self.answered.remove(&ticket) {
                return answer;
            }
            let before = self.asked.len();
            self.collect();
            if self.answered.contains_key(&ticket) {
                continue;
            }
            self.subject.drive();
            idle_turns = if self.asked.len() < before { 0 } else { idle_turns + 1 };
            assert!(idle_turns < TURNS_MAX, "{}: {ticket:?} is never answered", self.case);
        }
    }

    /// Submits and waits.
    pub(crate) fn ask(&mut self, command: Command<'_>) -> Result<Answer, BlockError> {
        let ticket = self.submit(command);
        self.wait(ticket)
    }

    /// Waits for all that is on its way, then sees that nothing comes twice.
    pub(crate) fn settle(&mut self) {
        while let Some((&ticket, _)) = self.asked.first_key_value() {
            let _ = self.wait(ticket);
        }
        for _ in 0..8 {
            self.subject.drive();
            self.collect();
        }
        self.answered.clear();
    }

    fn collect(&mut self) {
        let mut completions = Vec::new();
        self.subject.device().take_completions(&mut completions);
        for done in completions {
            let kind = self.asked.remove(&done.ticket).unwrap_or_else(|| {
                panic!("{}: {:?} is answered twice or was never asked", self.case, done.ticket)
            });
            if let Ok(answer) = &done.result {
                let fits = match (kind, answer) {
                    (Kind::Data(bytes), Answer::Data(parts)) => {
                        length(bytes) == parts.iter().map(|part| part.len()).sum::<usize>()
                    }
                    (Kind::Written, Answer::Written(_)) | (Kind::Flushed, Answer::Flushed) => true,
                    (Kind::Extents(bytes), Answer::Extents(extents)) => {
                        extents.iter().map(|it| it.length_bytes).sum::<u64>() <= bytes
                    }
                    _ => false,
                };
                assert!(fits, "{}: {kind:?} does not fit {answer:?}", self.case);
            }
            self.answered.insert(done.ticket, done.result);
        }
    }

    /// Writes to the device and the copy, and waits.
    pub(crate) fn write(&mut self, offset_bytes: u64, bytes: &[u8]) {
        let data = Payload::Borrowed(bytes);
        let result = self.ask(Command::Write { offset_bytes, data, fua: false });
        assert!(result.is_ok(), "{}: write at {offset_bytes} fails: {result:?}", self.case);
        self.copy_in(offset_bytes, bytes);
    }

    /// Trims or zeroes the device, zeroes the copy, and waits.
    pub(crate) fn clear(&mut self, offset_bytes: u64, length_bytes: u64, trim: bool) {
        let result = self.ask(clearing(offset_bytes, length_bytes, trim, false));
        assert!(result.is_ok(), "{}: clearing at {offset_bytes} fails: {result:?}", self.case);
        self.copy_in(offset_bytes, &vec![0; length(length_bytes)]);
    }

    pub(crate) fn copy_in(&mut self, offset_bytes: u64, bytes: &[u8]) {
        let start = length(offset_bytes);
        self.copy[start..start + bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn read(&mut self, offset_bytes: u64, length_bytes: u64) -> Vec<u8> {
        match self.ask(Command::Read { offset_bytes, length_bytes }) {
            Ok(Answer::Data(parts)) => {
                parts.iter().map(|part| &part[..]).collect::<Vec<_>>().concat()
            }
            other => panic!("{}: read at {offset_bytes} gives {other:?}", self.case),
        }
    }

    /// Compares a part of the device with the copy.
    pub(crate) fn compare(&mut self, offset_bytes: u64, length_bytes: u64) {
        let found = self.read(offset_bytes, length_bytes);
        let start = length(offset_bytes);
        let wanted = &self.copy[start..start + found.len()];
        if let Some(at) = found.iter().zip(wanted).position(|(a, b)| a != b) {
            let (case, found, wanted) = (&self.case, found[at], wanted[at]);
            let at = start + at;
            panic!("{case}: byte {at} is {found:#04x}, must be {wanted:#04x}");
        }
    }

    /// Compares all of it.
    pub(crate) fn compare_all(&mut self) {
        let step = 8 << 20;
        let size = self.copy.len() as u64;
        for offset in (0..size).step_by(length(step)) {
            self.compare(offset, step.min(size - offset));
        }
    }

    /// Extents cover the range without gaps, alternate, and say "hole" only of zeros.
    pub(crate) fn compare_extents(
        &mut self,
        offset_bytes: u64,
        length_bytes: u64,
        count_max: usize,
    ) {
        let (mut at, end) = (offset_bytes, offset_bytes + length_bytes);
        while at < end {
            let extents = self.extents(at, end - at, count_max);
            let case = &self.case;
            assert!(!extents.is_empty(), "{case}: no extent at {at}");
            assert!(extents.len() <= count_max, "{case}: more extents than asked for");
            assert!(
                extents.windows(2).all(|pair| pair[0].hole != pair[1].hole),
                "{case}: neighbours at {at} are of one kind"
            );
            for extent in extents {
                assert!(extent.length_bytes > 0, "{case}: an empty extent at {at}");
                let bytes = &self.copy[length(at)..length(at + extent.length_bytes)];
                assert!(
                    !extent.hole || bytes.iter().all(|&byte| byte == 0),
                    "{case}: a hole at {at} over data"
                );
                at += extent.length_bytes;
            }
        }
        assert_eq!(at, end, "{}: extents pass the range", self.case);
    }

    pub(crate) fn extents(
        &mut self,
        offset_bytes: u64,
        length_bytes: u64,
        count_max: usize,
    ) -> Vec<BlockExtent> {
        match self.ask(Command::Extents { offset_bytes, length_bytes, count_max }) {
            Ok(Answer::Extents(extents)) => extents,
            other => panic!("{}: extents at {offset_bytes} give {other:?}", self.case),
        }
    }

    /// The request must fail just so.
    pub(crate) fn refuse(&mut self, command: Command<'_>, wanted: &[BlockError]) {
        let said = describe(&command);
        match self.ask(command) {
            Err(error) if wanted.contains(&error) => {}
            other => panic!("{}: {said} gives {other:?}, not {wanted:?}", self.case),
        }
    }
}

/// A request without its payload.
fn describe(command: &Command<'_>) -> String {
    match command {
        Command::Write { offset_bytes, data: Payload::Borrowed(bytes), .. } => {
            format!("a write of {} bytes at {offset_bytes}", bytes.len())
        }
        other => format!("{other:?}"),
    }
}

/// A trim, or else a write of zeroes.
pub(crate) fn clearing<'a>(
    offset_bytes: u64,
    length_bytes: u64,
    trim: bool,
    fua: bool,
) -> Command<'a> {
    if trim {
        Command::Trim { offset_bytes, length_bytes, fua }
    } else {
        Command::WriteZeroes { offset_bytes, length_bytes, no_hole: false, fua }
    }
}

/// A length in memory.
pub(crate) fn length(bytes: u64) -> usize {
    usize::try_from(bytes).expect("the suite's devices fit memory")
}
