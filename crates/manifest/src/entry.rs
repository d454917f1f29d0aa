//! One entry of the log: the records of one append, sealed as one text, so all of them or none.
//!
//! ```text
//! entry = length 4 ‖ nonce 12 ‖ number 8 ‖ previous tag 16 ‖ sealed records ‖ tag 16
//! record = kind 2 ‖ zero 2 ‖ length 4 ‖ body
//! ```
//!
//! The 40 bytes before the sealed ones are associated data. They hold the previous tag, so an entry
//! can be verified without the one before it: that is how a hole is told from an end.

use seal::{RecordKey, TAG, Tag};

use crate::copies::array;

/// What the log carries: its meaning is the caller's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which kind; the caller's numbers.
    pub kind: u16,
    /// Its contents.
    pub body: Vec<u8>,
}

const HEADER: usize = 40;
const RECORD_HEADER: usize = 8;

/// An entry that verified.
pub(crate) struct Entry {
    pub length: usize,
    pub number: u64,
    pub previous: Tag,
    pub tag: Tag,
    pub records: Vec<Record>,
}

/// Where the chain stands: what the next entry must say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub number: u64,
    pub previous: Tag,
}

impl Link {
    /// The bytes of the next entry, and where the chain stands after it; `None` for 4 GiB and more.
    pub fn seal(
        self,
        key: &RecordKey,
        nonce: [u8; 12],
        records: &[Record],
    ) -> Option<(Vec<u8>, Self)> {
        let mut text = Vec::new();
        for record in records {
            text.extend_from_slice(&record.kind.to_le_bytes());
            text.extend_from_slice(&[0; 2]);
            text.extend_from_slice(&u32::try_from(record.body.len()).ok()?.to_le_bytes());
            text.extend_from_slice(&record.body);
        }
        let mut bytes = Vec::with_capacity(HEADER + text.len() + TAG);
        bytes.extend_from_slice(&u32::try_from(text.len() + TAG).ok()?.to_le_bytes());
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&self.previous);
        key.seal(nonce, &bytes, &mut text);
        bytes.extend_from_slice(&text);
        let previous = *text.last_chunk().expect("sealing appends a tag");
        Some((bytes, Self { number: self.number + 1, previous }))
    }
}

/// The entry that begins the bytes, if a whole and genuine one does.
pub(crate) fn open(key: &RecordKey, bytes: &[u8]) -> Option<Entry> {
    let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
    let length = usize::try_from(u32::from_le_bytes(array(header, 0))).ok()?;
    let sealed = rest.get(..length)?;
    let tag = *sealed.last_chunk()?;
    let mut text = sealed.to_vec();
    key.open(array(header, 4), header, &mut text).ok()?;
    Some(Entry {
        length: HEADER + length,
        number: u64::from_le_bytes(array(header, 16)),
        previous: array(header, 24),
        tag,
        records: parse(&text)?,
    })
}

/// Whether a whole and genuine entry lies anywhere in the bytes.
pub(crate) fn lies_within(key: &RecordKey, bytes: &[u8]) -> bool {
    // An entry's number is less than the bytes of its file: that alone rules out nearly all offsets.
    let bound = u64::try_from(bytes.len()).unwrap_or(u64::MAX).saturating_add(1 << 32);
    (0..bytes.len().saturating_sub(HEADER + TAG - 1)).any(|at| {
        u64::from_le_bytes(array(bytes, at + 16)) < bound && open(key, &bytes[at..]).is_some()
    })
}

fn parse(mut text: &[u8]) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    while !text.is_empty() {
        let (header, rest) = text.split_first_chunk::<RECORD_HEADER>()?;
        let length = usize::try_from(u32::from_le_bytes(array(header, 4))).ok()?;
        let (body, rest) = rest.split_at_checked(length)?;
        let kind = u16::from_le_bytes(array(header, 0));
        records.push(Record { kind, body: body.to_vec() });
        text = rest;
    }
    Some(records)
}
