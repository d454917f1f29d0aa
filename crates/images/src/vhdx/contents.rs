//! The file as it is once its log has been replayed: bytes of the file, changes over them.

use std::sync::Arc;

use crate::{
    Class, Fault, FileId, Input, Part, Stop,
    bytes::{narrow, wide},
};

use super::overlay::{Over, Overlay};

/// A file and what its log changes in it. The file itself is never written.
#[derive(Debug)]
pub(super) struct Contents {
    file: FileId,
    /// Bytes that the file has.
    real: u64,
    /// Bytes that it has after the replay, which may extend it by zeroes.
    len: u64,
    overlay: Option<Overlay>,
}

/// Where bytes of the replayed file are.
#[derive(Debug)]
pub(super) enum Source {
    /// In the file, at the same offset.
    File,
    /// Nowhere: they are zero.
    Zero,
    /// In memory, from `skip` on.
    Bytes { bytes: Arc<[u8]>, skip: usize },
    /// Past the end.
    Outside,
}

impl Contents {
    /// A file whose log is empty.
    pub fn plain(file: FileId, len: u64) -> Self {
        Self { file, real: len, len, overlay: None }
    }

    /// A file of `real` bytes with a log that leaves it `len` bytes long.
    pub fn replayed(file: FileId, real: u64, len: u64, overlay: Overlay) -> Self {
        Self { file, real, len: len.max(real), overlay: Some(overlay) }
    }

    /// The file.
    pub fn file(&self) -> FileId {
        self.file
    }

    /// Its length in bytes, the log replayed.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether `len` bytes from `at` on are there.
    pub fn holds(&self, at: u64, len: u64) -> bool {
        at.checked_add(len).is_some_and(|end| end <= self.len)
    }

    /// A [`Class::PointerOutsideFile`] of `part` unless `len` bytes from `at` on are there.
    pub fn inside(&self, at: u64, len: u64, part: Part) -> Result<(), Fault> {
        if self.holds(at, len) {
            return Ok(());
        }
        let text = format!("{len} bytes at byte {at} lie outside the file of {} bytes", self.len);
        Err(Fault::at(Class::PointerOutsideFile, part, self.file, at, text))
    }

    /// `len` bytes from `at` on, as the log leaves them.
    pub fn read(&self, input: &Input, at: u64, len: u64, part: Part) -> Result<Vec<u8>, Stop> {
        if !self.holds(at, len) {
            let text =
                format!("{len} bytes are needed at byte {at}, the file ends at {}", self.len);
            return Err(Fault::at(Class::Truncated, part, self.file, at, text).into());
        }
        let mut bytes = input.read_up_to(self.file, at, len, part)?.to_vec();
        bytes.resize(narrow(len), 0);
        if let Some(overlay) = &self.overlay {
            overlay.patch(at, &mut bytes);
        }
        Ok(bytes)
    }

    /// Where the byte at `at` is, and for how many of `most` bytes that goes on.
    pub fn source(&self, at: u64, most: u64) -> (Source, u64) {
        if at >= self.len {
            return (Source::Outside, most);
        }
        let most = most.min(self.len - at);
        let (over, most) =
            self.overlay.as_ref().map_or((Over::File, most), |overlay| overlay.at(at, most));
        match over {
            Over::File if at >= self.real => (Source::Zero, most),
            Over::File => (Source::File, most.min(self.real - at)),
            Over::Zero => (Source::Zero, most),
            Over::Bytes { bytes, skip } => {
                let source = Source::Bytes { bytes: Arc::clone(bytes), skip: narrow(skip) };
                debug_assert!(skip + most <= wide(bytes.len()), "a run within its page");
                (source, most)
            }
        }
    }
}
