//! Where bytes go, in order: new files that stay sparse, devices, streams.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use world::real::{NewFile, TargetDevice};

use crate::Error;

/// Zeroes of this length and alignment are left out of new files: what no file system keeps smaller.
const HOLE_BYTES: usize = 4096;

/// Zeroes that a stream is given at once.
static ZEROES: [u8; 1 << 18] = [0; 1 << 18];

/// Takes bytes in order: each call goes on where the last one ended.
pub trait Sink {
    /// Bytes that stand at `at`.
    fn bytes(&mut self, at: u64, bytes: &[u8]) -> Result<(), Error>;
    /// Zeroes that stand at `at`.
    fn zeroes(&mut self, at: u64, len: u64) -> Result<(), Error>;
}

/// A new file: zeroes are holes.
pub struct FileSink {
    file: NewFile,
    path: PathBuf,
    /// Bytes that were written.
    pub written: u64,
}

impl FileSink {
    /// The file that shall be at `path`.
    pub fn make(path: &Path) -> Result<Self, Error> {
        let cannot = |cause| Error::Io { doing: "make", path: path.to_owned(), cause };
        let file = NewFile::beside(path).map_err(cannot)?;
        Ok(Self { file, path: path.to_owned(), written: 0 })
    }

    /// Gives the file its length: zeroes at its end are not written.
    pub fn set_length(&self, len: u64) -> Result<(), Error> {
        self.file.set_length(len).map_err(|cause| self.cannot("size", cause))
    }

    /// Reads back what was written; what was not is zero.
    pub fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Error> {
        self.file.read_at(at, into).map_err(|cause| self.cannot("read", cause))
    }

    /// Makes it durable and gives it its name.
    pub fn place(self, replace: bool) -> Result<(), Error> {
        let path = self.path;
        self.file.place(replace).map_err(|cause| match cause.kind() {
            io::ErrorKind::AlreadyExists => Error::Exists(path),
            _ => Error::Io { doing: "finish", path, cause },
        })
    }

    fn cannot(&self, doing: &'static str, cause: io::Error) -> Error {
        Error::Io { doing, path: self.path.clone(), cause }
    }
}

impl Sink for FileSink {
    fn bytes(&mut self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        for (start, run) in full_runs(at, bytes) {
            let at = at + start as u64;
            self.file.write_at(at, run).map_err(|cause| self.cannot("write", cause))?;
            self.written += run.len() as u64;
        }
        Ok(())
    }

    fn zeroes(&mut self, _at: u64, _len: u64) -> Result<(), Error> {
        Ok(())
    }
}

/// The runs of `bytes` that hold anything but zeroes, cut at multiples of [`HOLE_BYTES`] of a file in
/// which they stand at `at`.
pub(crate) fn full_runs(at: u64, bytes: &[u8]) -> Vec<(usize, &[u8])> {
    let odd = usize::try_from(at % HOLE_BYTES as u64).expect("below the length of a block");
    let first = (HOLE_BYTES - odd).min(bytes.len());
    let (head, rest) = bytes.split_at(first);
    let mut runs: Vec<(usize, &[u8])> = Vec::new();
    let (mut start, mut place) = (None, 0);
    for block in std::iter::once(head).chain(rest.chunks(HOLE_BYTES)) {
        match (is_zero(block), start) {
            (false, None) => start = Some(place),
            (true, Some(begun)) => {
                runs.push((begun, &bytes[begun..place]));
                start = None;
            }
            _ => {}
        }
        place += block.len();
    }
    if let Some(begun) = start {
        runs.push((begun, &bytes[begun..]));
    }
    runs
}

/// Whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let mut words = bytes.chunks_exact(64);
    words.all(|word| word.iter().fold(0, |all, byte| all | byte) == 0)
        && words.remainder().iter().all(|byte| *byte == 0)
}

/// A block device: zeroes are written, or made by the device.
pub struct DeviceSink {
    device: TargetDevice,
    path: PathBuf,
    /// Bytes that were written.
    pub written: u64,
}

impl DeviceSink {
    /// The device at `path`, for `len` bytes. One that holds data is taken only if `force`.
    pub fn open(path: &Path, len: u64, force: bool) -> Result<Self, Error> {
        let cannot = |doing| move |cause| Error::Io { doing, path: path.to_owned(), cause };
        let device = TargetDevice::open(path).map_err(cannot("open"))?;
        let room = device.length_bytes();
        if room < len {
            return Err(Error::TooSmall { path: path.to_owned(), room, wanted: len });
        }
        if !force && device.holds_data(1 << 20).map_err(cannot("read"))? {
            return Err(Error::DeviceInUse(path.to_owned()));
        }
        Ok(Self { device, path: path.to_owned(), written: 0 })
    }

    /// Makes all of it durable.
    pub fn finish(&self) -> Result<(), Error> {
        self.device.sync().map_err(|cause| self.cannot("flush", cause))
    }

    fn cannot(&self, doing: &'static str, cause: io::Error) -> Error {
        Error::Io { doing, path: self.path.clone(), cause }
    }
}

impl Sink for DeviceSink {
    fn bytes(&mut self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        self.device.write_at(at, bytes).map_err(|cause| self.cannot("write", cause))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn zeroes(&mut self, at: u64, len: u64) -> Result<(), Error> {
        self.device.write_zeroes(at, len).map_err(|cause| self.cannot("write", cause))
    }
}

/// A pipe or the like: every byte goes out.
pub struct StreamSink<'w> {
    out: &'w mut dyn Write,
    /// Bytes that were written.
    pub written: u64,
}

impl<'w> StreamSink<'w> {
    /// Into `out`.
    pub fn new(out: &'w mut dyn Write) -> Self {
        Self { out, written: 0 }
    }

    /// Hands on what is still held.
    pub fn finish(&mut self) -> Result<(), Error> {
        self.out.flush().map_err(stream)
    }
}

fn stream(cause: io::Error) -> Error {
    Error::Io { doing: "write to", path: PathBuf::from("stdout"), cause }
}

impl Sink for StreamSink<'_> {
    fn bytes(&mut self, _at: u64, bytes: &[u8]) -> Result<(), Error> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes).map_err(stream)
    }

    fn zeroes(&mut self, at: u64, len: u64) -> Result<(), Error> {
        let mut left = len;
        while left > 0 {
            let now = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROES.len());
            self.bytes(at, &ZEROES[..now])?;
            left -= now as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(at: u64, bytes: &[u8]) -> Vec<(usize, usize)> {
        full_runs(at, bytes).into_iter().map(|(start, run)| (start, run.len())).collect()
    }

    #[test]
    fn only_whole_blocks_of_the_file_are_left_out() {
        let mut bytes = vec![0; 5 * 4096];
        assert_eq!(runs(0, &bytes), []);
        assert_eq!(runs(0, &[]), []);
        bytes[4096] = 1;
        bytes[3 * 4096 - 1] = 1;
        assert_eq!(runs(0, &bytes), [(4096, 2 * 4096)]);
        // Blocks are those of the file: here the first of them ends after 512 bytes.
        assert_eq!(runs(4096 - 512, &bytes), [(512, 4096), (2 * 4096 + 512, 4096)]);
        bytes[5 * 4096 - 1] = 1;
        assert_eq!(runs(0, &bytes), [(4096, 2 * 4096), (4 * 4096, 4096)]);
        assert_eq!(runs(1, &[1]), [(0, 1)]);
    }

    #[test]
    fn a_single_bit_anywhere_is_not_zero() {
        let mut bytes = vec![0; 200];
        assert!(is_zero(&bytes) && is_zero(&[]));
        for place in 0..200 {
            bytes[place] = 0x80;
            assert!(!is_zero(&bytes), "{place}");
            bytes[place] = 0;
        }
    }

    #[test]
    fn a_stream_gets_every_zero() {
        let mut out = Vec::new();
        let mut sink = StreamSink::new(&mut out);
        sink.zeroes(0, 300_000).expect("written");
        sink.bytes(300_000, b"x").expect("written");
        assert_eq!(sink.written, 300_001);
        assert_eq!((out.len(), out[300_000]), (300_001, b'x'));
    }
}
