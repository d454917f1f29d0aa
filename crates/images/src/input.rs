//! What a parser asks for, and what it has been given so far.
//!
//! A parser calls [`Input::read`] and [`Input::file`] and passes their [`Stop`] on with `?`. The
//! operation around it ([`crate::Opening`] and its kin) turns that into a [`Step`], keeps the answer,
//! and runs the parser again: what it asked before is then answered at once. Bytes are held until the
//! parser reports progress, at most [`limits::HELD_BYTES_MAX`] of them.

use std::collections::HashMap;

use crate::{
    Class, Fault, Part,
    bytes::{narrow, wide},
    limits,
    names::FileName,
};

/// A file of an image, by the number that whoever opened it gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u32);

/// Bytes of a file that a parser needs. They lie within the file's length as it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The file.
    pub file: FileId,
    /// Offset of the first byte.
    pub offset: u64,
    /// Number of bytes, at most [`limits::NEED_BYTES_MAX`] and never 0.
    pub len: usize,
}

/// What another file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The image that this one differs from.
    Parent,
    /// A part of this image (VMDK extent).
    Extent,
    /// All guest data of this image (qcow2 external data file).
    DataFile,
}

/// A question about other files than those opened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ask {
    /// Open a file for reading.
    Open {
        /// The file that names it: a relative name starts in that file's folder.
        from: FileId,
        /// What it is for.
        role: Role,
        /// Its name, checked. The opener still resolves it beneath the folder (openat2), and
        /// refuses what is no regular file.
        name: FileName,
    },
    /// The names of files in a folder.
    List(FolderQuery),
}

/// Which files of a folder are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FolderQuery {
    /// A file in the folder, not listed itself.
    pub beside: FileId,
    /// Suffix of the names, without the dot, compared without case.
    pub suffix: &'static str,
}

/// The answer to an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The file is open under this number. A file that is open already (same device and inode)
    /// keeps its number: that is how loops are found.
    Opened {
        /// Its number.
        file: FileId,
        /// Its length in bytes.
        len: u64,
    },
    /// There is no such file, or it is a directory.
    Missing,
    /// It must not be opened, and why: it lies outside the folder, or is a device or a pipe.
    Refused(String),
    /// To [`Ask::List`]: names in a stable order.
    Names(Vec<String>),
}

/// How far an operation is.
#[derive(Debug)]
pub enum Step<T> {
    /// Bytes are needed: answer with [`Stepped::supply`].
    Need(Need),
    /// Another file is needed: answer with [`Stepped::answer`].
    Ask(Ask),
    /// Finished. The operation is not asked again.
    Done(T),
    /// Ended by a fault. The operation is not asked again.
    Fail(Fault),
}

/// An operation that is driven by its caller, who does all input.
pub trait Stepped {
    /// What it gives in the end.
    type Output;

    /// Goes on as far as it can.
    fn next(&mut self) -> Step<Self::Output>;

    /// The bytes of the last [`Step::Need`]. Fewer than asked means that the file has become shorter
    /// than its length was told, which ends the operation.
    fn supply(&mut self, bytes: Vec<u8>);

    /// The answer to the last [`Step::Ask`].
    fn answer(&mut self, answer: Answer);
}

/// Why a parser cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Bytes are needed.
    Need(Need),
    /// Another file is needed.
    Ask(Box<Ask>),
    /// The image is not good.
    Fault(Fault),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// What is known of the files of a chain: their lengths, answers, and the bytes in hand.
#[derive(Debug, Default)]
pub struct Input {
    files: HashMap<FileId, u64>,
    /// A list of thousands of extents asks for each again whenever it is gone through.
    answers: HashMap<Ask, Answer>,
    held: Vec<(Need, Vec<u8>)>,
    held_bytes: usize,
    asked: Option<Stop>,
}

impl Input {
    /// An input that knows one file.
    pub fn new(file: FileId, len: u64) -> Self {
        Self { files: HashMap::from([(file, len)]), ..Self::default() }
    }

    /// Length of a file in bytes, as it was told when the file was opened.
    pub fn len(&self, file: FileId) -> u64 {
        *self.files.get(&file).expect("files are known by the answer that opened them")
    }

    /// Whether `len` bytes from `offset` on lie in the file.
    pub fn holds(&self, file: FileId, offset: u64, len: u64) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.len(file))
    }

    /// `len` bytes from `offset` on: all of them, or a [`Class::Truncated`] of `part`. Where a pointer
    /// past the end shall be told from a file that was cut, ask [`Input::inside`] first.
    pub fn read(&self, file: FileId, offset: u64, len: u64, part: Part) -> Result<&[u8], Stop> {
        if !self.holds(file, offset, len) {
            let text = format!(
                "{len} bytes are needed at byte {offset}, the file ends at {}",
                self.len(file)
            );
            return Err(Fault::at(Class::Truncated, part, file, offset, text).into());
        }
        self.read_held(file, offset, len, part)
    }

    /// Up to `len` bytes from `offset` on: fewer, or none, where the file ends before.
    pub fn read_up_to(
        &self,
        file: FileId,
        offset: u64,
        len: u64,
        part: Part,
    ) -> Result<&[u8], Stop> {
        let there = self.len(file).saturating_sub(offset).min(len);
        self.read_held(file, offset, there, part)
    }

    /// A [`Class::PointerOutsideFile`] of `part` unless `len` bytes from `offset` on are in the file.
    pub fn inside(&self, file: FileId, offset: u64, len: u64, part: Part) -> Result<(), Fault> {
        if self.holds(file, offset, len) {
            return Ok(());
        }
        let text = format!(
            "{len} bytes at byte {offset} lie outside the file of {} bytes",
            self.len(file)
        );
        Err(Fault::at(Class::PointerOutsideFile, part, file, offset, text))
    }

    /// Opens another file: its number, or `None` if it is missing; a refusal is its text.
    pub fn file(&self, from: FileId, role: Role, name: &FileName) -> Result<Opened, Stop> {
        let ask = Ask::Open { from, role, name: name.clone() };
        match self.answers.get(&ask) {
            Some(Answer::Opened { file, .. }) => Ok(Opened::File(*file)),
            Some(Answer::Refused(why)) => Ok(Opened::Refused(why.clone())),
            Some(_) => Ok(Opened::Missing),
            None => Err(Stop::Ask(Box::new(ask))),
        }
    }

    /// Names in a folder, at most [`limits::CANDIDATES_MAX`].
    pub(crate) fn names(&self, query: FolderQuery) -> Result<&[String], Stop> {
        let ask = Ask::List(query);
        match self.answers.get(&ask) {
            Some(Answer::Names(names)) => Ok(&names[..names.len().min(limits::CANDIDATES_MAX)]),
            Some(_) => Ok(&[]),
            None => Err(Stop::Ask(Box::new(ask))),
        }
    }

    fn read_held(&self, file: FileId, offset: u64, len: u64, part: Part) -> Result<&[u8], Stop> {
        if len == 0 {
            return Ok(&[]);
        }
        for (need, bytes) in &self.held {
            if need.file == file && need.offset <= offset {
                let skip = offset - need.offset;
                if skip.checked_add(len).is_some_and(|end| end <= wide(bytes.len())) {
                    return Ok(&bytes[narrow(skip)..narrow(skip + len)]);
                }
            }
        }
        let room = wide(limits::HELD_BYTES_MAX - self.held_bytes.min(limits::HELD_BYTES_MAX));
        if len > limits::NEED_BYTES_MAX || len > room {
            let text = format!("a structure of {len} bytes is more than is read at once");
            return Err(Fault::at(Class::Limit, part, file, offset, text).into());
        }
        Err(Stop::Need(Need { file, offset, len: narrow(len) }))
    }

    /// Turns what a parser came to into a step; bytes in hand are dropped once it is through.
    pub(crate) fn step<T>(&mut self, result: Result<T, Stop>) -> Step<T> {
        match result {
            Ok(done) => {
                self.forget();
                Step::Done(done)
            }
            Err(stop) => {
                self.asked = Some(stop.clone());
                match stop {
                    Stop::Need(need) => Step::Need(need),
                    Stop::Ask(ask) => Step::Ask(*ask),
                    Stop::Fault(fault) => {
                        self.forget();
                        Step::Fail(fault)
                    }
                }
            }
        }
    }

    /// Drops the bytes in hand: the parser has made progress.
    pub(crate) fn forget(&mut self) {
        self.held.clear();
        self.held_bytes = 0;
    }

    /// Drops answers to questions that will not come again.
    pub(crate) fn forget_answers(&mut self) {
        self.answers.clear();
    }

    /// Takes the bytes that were asked for; a fault if they are too few.
    pub(crate) fn supply(&mut self, bytes: Vec<u8>) -> Result<(), Fault> {
        let Some(Stop::Need(need)) = self.asked.take() else {
            return Ok(()); // nobody asked: bytes without a place are dropped
        };
        if bytes.len() < need.len {
            let text = format!(
                "the file gave {} of {} bytes: it became shorter while it was read",
                bytes.len(),
                need.len
            );
            return Err(Fault::at(Class::Truncated, Part::Data, need.file, need.offset, text));
        }
        self.held_bytes += bytes.len();
        self.held.push((need, bytes));
        Ok(())
    }

    /// Takes the answer to what was asked.
    pub(crate) fn answer(&mut self, answer: Answer) {
        let Some(Stop::Ask(ask)) = self.asked.take() else { return };
        if let Answer::Opened { file, len } = answer {
            self.files.entry(file).or_insert(len);
        }
        self.answers.insert(*ask, answer);
    }
}

/// What came of opening another file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It is open. A file that was open before has its number of then.
    File(FileId),
    /// It is not there.
    Missing,
    /// It must not be opened; the text says why.
    Refused(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: FileId = FileId(0);

    #[test]
    fn bytes_in_hand_answer_what_lies_within() {
        let mut input = Input::new(FILE, 100);
        let need = Need { file: FILE, offset: 10, len: 20 };
        let asked = input.read(FILE, 10, 20, Part::Header).map(<[u8]>::to_vec);
        assert!(matches!(input.step(asked), Step::Need(found) if found == need));
        input.supply((10..30).collect()).unwrap();
        assert_eq!(input.read(FILE, 12, 3, Part::Header).unwrap(), [12, 13, 14]);
        assert!(matches!(input.read(FILE, 9, 3, Part::Header), Err(Stop::Need(_))));
    }

    #[test]
    fn end_of_file_is_never_asked_for() {
        let input = Input::new(FILE, 100);
        let Err(Stop::Fault(fault)) = input.read(FILE, 90, 20, Part::L1) else { panic!("read") };
        assert_eq!((fault.class, fault.part), (Class::Truncated, Part::L1));
        let Err(Stop::Need(need)) = input.read_up_to(FILE, 90, 20, Part::L1) else {
            panic!("read")
        };
        assert_eq!(need.len, 10);
        assert_eq!(input.read_up_to(FILE, 200, 20, Part::L1).unwrap(), []);
        assert!(!input.holds(FILE, u64::MAX, 2));
    }

    #[test]
    fn short_answer_is_a_fault() {
        let mut input = Input::new(FILE, 100);
        let asked = input.read(FILE, 0, 20, Part::Header).map(<[u8]>::to_vec);
        let _ = input.step(asked);
        assert_eq!(input.supply(vec![0; 19]).unwrap_err().class, Class::Truncated);
    }

    #[test]
    fn huge_structures_are_refused_unread() {
        let input = Input::new(FILE, u64::MAX);
        let Err(Stop::Fault(fault)) = input.read(FILE, 0, 1 << 40, Part::L1) else {
            panic!("read")
        };
        assert_eq!(fault.class, Class::Limit);
    }
}
