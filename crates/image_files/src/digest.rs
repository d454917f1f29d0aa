//! Digests of the bytes that a guest sees: the same for every format that holds them.

use std::fmt::Write as _;

use images::layout::Plain;
use md5::{Digest as _, Md5};
use ring::digest::{Context, SHA256};

use crate::{
    Disk, Error, Watch,
    sink::{Sink, is_zero},
    write,
};

/// Bytes of a page of [`Algorithm::Pages`].
const PAGE_BYTES: usize = 64 << 10;

/// A digest's algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// SHA-256 of all bytes.
    Sha256,
    /// BLAKE3 of all bytes.
    Blake3,
    /// MD5 of all bytes: for lists that have nothing else; it withstands no forger.
    Md5,
    /// SHA-256 over the offset (64 bits, little endian) and the bytes of each 64 KiB page that holds
    /// a byte other than zero, in rising order. Runs of zeroes cost nothing, so it ends soon for
    /// large disks that hold little. The size is no part of it.
    Pages,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 4] = [Self::Sha256, Self::Blake3, Self::Md5, Self::Pages];

    /// The word for it on command lines.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Blake3 => "blake3",
            Self::Md5 => "md5",
            Self::Pages => "sha256-pages",
        }
    }
}

/// A digest of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// How it was made.
    pub algorithm: Algorithm,
    /// It, in hexadecimal.
    pub hex: String,
}

impl Disk {
    /// Digests of all bytes that the guest sees, in one pass.
    pub fn digest(
        &mut self,
        algorithms: &[Algorithm],
        watch: &mut Watch<'_>,
    ) -> Result<Vec<Digest>, Error> {
        let mut sink = Digests(algorithms.iter().map(|algorithm| State::new(*algorithm)).collect());
        let plain = Plain(self.virtual_size());
        write::write(&mut self.chain, &self.files, &plain, &mut sink, watch)?;
        let hex = algorithms.iter().zip(sink.0);
        Ok(hex
            .map(|(algorithm, state)| Digest { algorithm: *algorithm, hex: state.end() })
            .collect())
    }
}

struct Digests(Vec<State>);

enum State {
    Sha256(Context),
    Blake3(Box<blake3::Hasher>),
    Md5(Md5),
    Pages(Pages),
}

impl State {
    fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Context::new(&SHA256)),
            Algorithm::Blake3 => Self::Blake3(Box::default()),
            Algorithm::Md5 => Self::Md5(Md5::new()),
            Algorithm::Pages => Self::Pages(Pages::new()),
        }
    }

    fn bytes(&mut self, at: u64, bytes: &[u8]) {
        match self {
            Self::Sha256(state) => state.update(bytes),
            Self::Blake3(state) => {
                state.update(bytes);
            }
            Self::Md5(state) => state.update(bytes),
            Self::Pages(state) => state.bytes(at, bytes),
        }
    }

    fn zeroes(&mut self, at: u64, len: u64) {
        static ZEROES: [u8; PAGE_BYTES] = [0; PAGE_BYTES];
        if let Self::Pages(state) = self {
            return state.zeroes(at, len);
        }
        let mut left = len;
        while left > 0 {
            let now = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROES.len());
            self.bytes(at, &ZEROES[..now]);
            left -= now as u64;
        }
    }

    fn end(self) -> String {
        match self {
            Self::Sha256(state) => hex(state.finish().as_ref()),
            Self::Blake3(state) => hex(state.finalize().as_bytes()),
            Self::Md5(state) => hex(&state.finalize()),
            Self::Pages(state) => hex(state.end().as_ref()),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all");
        text
    })
}

impl Sink for Digests {
    fn bytes(&mut self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        self.0.iter_mut().for_each(|state| state.bytes(at, bytes));
        Ok(())
    }

    fn zeroes(&mut self, at: u64, len: u64) -> Result<(), Error> {
        self.0.iter_mut().for_each(|state| state.zeroes(at, len));
        Ok(())
    }
}

/// State of [`Algorithm::Pages`].
struct Pages {
    context: Context,
    /// Where the page in hand begins.
    start: u64,
    /// What there is of it.
    page: Vec<u8>,
}

impl Pages {
    fn new() -> Self {
        Self { context: Context::new(&SHA256), start: 0, page: Vec::with_capacity(PAGE_BYTES) }
    }

    fn bytes(&mut self, at: u64, mut bytes: &[u8]) {
        if self.page.is_empty() {
            self.start = at;
        }
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at((PAGE_BYTES - self.page.len()).min(bytes.len()));
            self.page.extend_from_slice(now);
            bytes = rest;
            if self.page.len() == PAGE_BYTES {
                self.turn();
            }
        }
    }

    fn zeroes(&mut self, at: u64, len: u64) {
        if self.page.is_empty() {
            self.start = at;
        }
        let to_fill = (PAGE_BYTES - self.page.len()) as u64;
        if self.page.is_empty() || len < to_fill {
            // Whole pages are passed over; what is left begins or goes on with a page.
            let page = PAGE_BYTES as u64;
            let over = if self.page.is_empty() { len / page * page } else { 0 };
            self.start += over;
            let rest = usize::try_from(len - over).expect("shorter than a page");
            self.page.resize(self.page.len() + rest, 0);
            return;
        }
        self.page.resize(PAGE_BYTES, 0);
        self.turn();
        self.zeroes(self.start, len - to_fill);
    }

    fn turn(&mut self) {
        if !is_zero(&self.page) {
            self.context.update(&self.start.to_le_bytes());
            self.context.update(&self.page);
        }
        self.start += self.page.len() as u64;
        self.page.clear();
    }

    fn end(mut self) -> ring::digest::Digest {
        self.turn();
        self.context.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of `parts` one after the other, `None` being a run of zeroes of that length.
    fn digests(parts: &[(Option<u8>, usize)]) -> Vec<String> {
        let mut sink = Digests(Algorithm::ALL.into_iter().map(State::new).collect());
        let mut at = 0;
        for (byte, len) in parts {
            match byte {
                Some(byte) => sink.bytes(at, &vec![*byte; *len]).expect("taken"),
                None => sink.zeroes(at, *len as u64).expect("taken"),
            }
            at += *len as u64;
        }
        sink.0.into_iter().map(State::end).collect()
    }

    #[test]
    fn known_answers() {
        assert_eq!(
            digests(&[(Some(b'a'), 1), (Some(b'b'), 1), (Some(b'c'), 1)])[..3],
            [
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
                "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85",
                "900150983cd24fb0d6963f7d28e17f72"
            ]
        );
    }

    #[test]
    fn a_run_of_zeroes_is_as_good_as_its_bytes() {
        for parts in [
            &[(None, 3), (Some(7), 100), (None, 500_000), (Some(1), 1), (None, 65_536)][..],
            &[(None, 200_000), (Some(9), 70_000), (None, 1_000)],
            &[(Some(9), 65_536), (None, 65_536), (Some(8), 65_535)],
            &[(None, 1), (None, 65_535), (None, 65_536), (Some(1), 1)],
        ] {
            let written: Vec<_> =
                parts.iter().map(|(byte, len)| (byte.or(Some(0)), *len)).collect();
            assert_eq!(digests(parts), digests(&written), "{parts:?}");
        }
    }

    #[test]
    fn pages_of_zeroes_are_no_part_of_the_digest() {
        let pages = |parts: &[(Option<u8>, usize)]| digests(parts).pop().expect("the last");
        assert_eq!(pages(&[(None, 9 << 20)]), pages(&[]));
        assert_eq!(pages(&[(Some(1), 1), (None, 9 << 20)]), pages(&[(Some(1), 1), (None, 65_535)]));
        assert_ne!(pages(&[(None, 65_536), (Some(1), 65_536)]), pages(&[(Some(1), 65_536)]));
    }
}
