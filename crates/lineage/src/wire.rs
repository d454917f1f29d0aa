//! Little-endian fields out of and into bytes, and what can be wrong with them.

use crate::ranges::Ranges;

/// Bytes that are not what one of this crate's forms looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// They end too early.
    #[error("the {what} ends before its last field")]
    Short {
        /// The form.
        what: &'static str,
    },
    /// They begin with something else.
    #[error("this is no {what}")]
    Magic {
        /// The form.
        what: &'static str,
    },
    /// Made by a later program.
    #[error("the {what} has version {version}, which this program does not know")]
    Version {
        /// The form.
        what: &'static str,
        /// What stands there.
        version: u16,
    },
    /// They were changed or cut after they were made.
    #[error("the checksum of the {what} is wrong")]
    Checksum {
        /// The form.
        what: &'static str,
    },
    /// A field has a value that no writer gives it.
    #[error("the field {field} of the {what} has no meaning")]
    Field {
        /// The form.
        what: &'static str,
        /// Its field.
        field: &'static str,
    },
}

/// Bytes of the checksum that ends each form: the beginning of their BLAKE3 hash.
pub(crate) const CHECKSUM: usize = 16;

/// Bytes of a run (start, length) in a list of ranges.
const RUN: usize = 16;

/// Takes fields off the front of bytes of one form.
pub(crate) struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// The fields of bytes that end in a right checksum and begin with `magic` and `version`.
    pub(crate) fn open(
        what: &'static str,
        magic: [u8; 8],
        version: u16,
        bytes: &'a [u8],
    ) -> Result<Self, Malformed> {
        let mut reader = Self { what, rest: bytes };
        if reader.take::<8>()? != magic {
            return Err(Malformed::Magic { what });
        }
        let found = reader.u16()?;
        if found != version {
            return Err(Malformed::Version { what, version: found });
        }
        let Some((rest, sum)) = reader.rest.split_last_chunk::<CHECKSUM>() else {
            return Err(Malformed::Short { what });
        };
        if *sum != checksum(&bytes[..bytes.len() - CHECKSUM]) {
            return Err(Malformed::Checksum { what });
        }
        reader.rest = rest;
        Ok(reader)
    }

    pub(crate) fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (field, rest) =
            self.rest.split_first_chunk().ok_or(Malformed::Short { what: self.what })?;
        self.rest = rest;
        Ok(*field)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_le_bytes(self.take()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.take()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Malformed> {
        Ok(i64::from_le_bytes(self.take()?))
    }

    /// A list of ranges in the one way to write it: ascending, apart from each other, none empty.
    pub(crate) fn ranges(&mut self, field: &'static str) -> Result<Ranges, Malformed> {
        let runs = self.u64()?;
        if usize::try_from(runs).map_or(true, |runs| runs > self.rest.len() / RUN) {
            return Err(Malformed::Short { what: self.what });
        }
        let (mut ranges, mut free) = (Ranges::new(), Some(0));
        for _ in 0..runs {
            let (start, len) = (self.u64()?, self.u64()?);
            let end = start.checked_add(len).filter(|_| len > 0);
            match (end, free) {
                (Some(end), Some(free)) if start >= free => ranges.insert(start..end),
                _ => return Err(self.wrong(field)),
            }
            free = end.and_then(|end| end.checked_add(1));
        }
        Ok(ranges)
    }

    /// Bytes with their length before them.
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        let short = Malformed::Short { what: self.what };
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(short)?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(crate) fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.wrong("length")) }
    }

    pub(crate) fn wrong(&self, field: &'static str) -> Malformed {
        Malformed::Field { what: self.what, field }
    }
}

/// Bytes of a form on their way; [`Writer::seal`] ends them with their checksum.
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn new(magic: [u8; 8], version: u16) -> Self {
        let mut bytes = magic.to_vec();
        bytes.extend_from_slice(&version.to_le_bytes());
        Self(bytes)
    }

    pub(crate) fn put(&mut self, field: &[u8]) -> &mut Self {
        self.0.extend_from_slice(field);
        self
    }

    pub(crate) fn ranges(&mut self, ranges: &Ranges) {
        self.put(&wide(ranges.runs()).to_le_bytes());
        for run in ranges.iter() {
            self.put(&run.start.to_le_bytes()).put(&(run.end - run.start).to_le_bytes());
        }
    }

    pub(crate) fn seal(mut self) -> Vec<u8> {
        let sum = checksum(&self.0);
        self.put(&sum);
        self.0
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM] {
    let hash = blake3::hash(bytes);
    *hash.as_bytes().first_chunk().expect("a hash has 32 bytes")
}

/// A length in memory as a number of 64 bits.
pub(crate) fn wide(len: usize) -> u64 {
    u64::try_from(len).expect("lengths have 64 bits at most")
}

/// A number that the caller knows to be small enough for memory.
pub(crate) fn narrow(len: u64) -> usize {
    usize::try_from(len).expect("bounded by the caller")
}
