//! The record that a layer of our own making carries about itself, and qcow2's place for it.
//!
//! ```text
//! qcow2 header ─ extension 0x53544c44 ─┬ copy 0 (256 bytes) ┬─ 768 zero bytes ─┬ copy 1 (256 bytes)
//!              └ autoclear bit 62      └ written in turn: the one not written last ┘
//! ```
//!
//! The valid copy of the greater sequence counts. A write goes to the other copy, so one torn write
//! never takes both; the copies lie further apart than a sector is long.
//!
//! Any QEMU opens such a file. One that does not know bit 62 clears it when it opens the file for
//! writing, and keeps the extension: *extension there, bit clear* means that a foreign writer had the
//! file open since. A set bit proves nothing: `qemu-img commit` of a child into the file keeps it.

use images::{Facts, Format};

use crate::{
    Malformed, Summary,
    seal::{put_content, take_content},
    wire::{Reader, Writer},
};

/// Type of the header extension.
pub const EXTENSION_TYPE: u32 = 0x5354_4c44;

/// The bit of `autoclear_features` that goes with it.
pub const AUTOCLEAR: u64 = 1 << 62;

/// Bytes of a copy.
pub const COPY_BYTES: usize = 256;

/// From the start of the extension's content to that of the second copy, in bytes.
pub const COPY_STRIDE: usize = 1024;

/// Bytes of the extension's content.
pub const EXTENSION_BYTES: usize = COPY_STRIDE + COPY_BYTES;

const WHAT: &str = "layer label";
const MAGIC: [u8; 8] = *b"SLLAYER1";
const VERSION: u16 = 1;

/// Bytes of a copy that mean something; zeroes follow.
const FORM: usize = 230;

/// What a layer says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Counts the labels of this layer, from 1.
    pub sequence: u64,
    /// Whether it is being written.
    pub state: LabelState,
    /// Its present generation: another one since before the first byte changed.
    pub generation: [u8; 16],
    /// The generation before it, zero for the first.
    pub was: [u8; 16],
    /// Bytes that the guest sees.
    pub size: u64,
    /// What it was made over.
    pub parent: Option<ParentLabel>,
    /// Digest of its own bytes when it was closed, as far as they were known.
    pub content: Option<Summary>,
}

/// Whether a layer is being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LabelState {
    /// Nobody writes: identifier and bytes belong together.
    Closed,
    /// Somebody writes, or went down while writing.
    Open,
}

/// What a layer was made over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParentLabel {
    /// The parent's generation; zero where it carries no label.
    pub generation: [u8; 16],
    /// Bytes of the parent's disk.
    pub size: u64,
    /// Digest of the parent's bytes.
    pub content: Option<Summary>,
}

impl Label {
    /// The label of a new layer, with both copies: the extension's content.
    pub fn first(generation: [u8; 16], size: u64, parent: Option<ParentLabel>) -> (Self, Vec<u8>) {
        let (state, was) = (LabelState::Closed, [0; 16]);
        let label = Self { sequence: 1, state, generation, was, size, parent, content: None };
        let mut bytes = vec![0; EXTENSION_BYTES];
        bytes[label.place()..][..COPY_BYTES].copy_from_slice(&label.encode());
        (label, bytes)
    }

    /// Bytes of one copy.
    pub fn encode(&self) -> [u8; COPY_BYTES] {
        let assert_size = |content: Option<Summary>, size| {
            assert!(content.is_none_or(|content| content.size == size), "a digest of another disk");
        };
        assert_size(self.content, self.size);
        let mut form = Writer::new(MAGIC, VERSION);
        form.put(&self.sequence.to_le_bytes());
        form.put(&[u8::from(self.state == LabelState::Open), u8::from(self.parent.is_some())]);
        form.put(&self.generation).put(&self.was).put(&self.size.to_le_bytes());
        put_content(&mut form, self.content.as_ref());
        let nothing = ParentLabel { generation: [0; 16], size: 0, content: None };
        let parent = self.parent.unwrap_or(nothing);
        assert_size(parent.content, parent.size);
        form.put(&parent.generation).put(&parent.size.to_le_bytes());
        put_content(&mut form, parent.content.as_ref());
        let form = form.seal();
        let mut copy = [0; COPY_BYTES];
        copy[..FORM].copy_from_slice(&form);
        copy
    }

    /// The label of one copy.
    pub fn parse(copy: &[u8; COPY_BYTES]) -> Result<Self, Malformed> {
        let (form, padding) = copy.split_at(FORM);
        let mut form = Reader::open(WHAT, MAGIC, VERSION, form)?;
        let sequence = form.u64()?;
        let state = match form.u8()? {
            0 => LabelState::Closed,
            1 => LabelState::Open,
            _ => return Err(form.wrong("state")),
        };
        let has_parent = form.u8()?;
        let (generation, was, size) = (form.take()?, form.take()?, form.u64()?);
        let content = take_content(&mut form, size)?;
        let (parent_generation, parent_size) = (form.take()?, form.u64()?);
        let parent_content = take_content(&mut form, parent_size)?;
        let parent = ParentLabel {
            generation: parent_generation,
            size: parent_size,
            content: parent_content,
        };
        let nothing = ParentLabel { generation: [0; 16], size: 0, content: None };
        let parent = match has_parent {
            0 if parent == nothing => None,
            1 => Some(parent),
            _ => return Err(form.wrong("parent")),
        };
        form.end()?;
        if sequence == 0 || padding.iter().any(|byte| *byte != 0) {
            return Err(form.wrong("sequence"));
        }
        Ok(Self { sequence, state, generation, was, size, parent, content })
    }

    /// The label that counts among the two copies of an extension's content.
    pub fn newest(extension: &[u8]) -> Result<Self, Malformed> {
        let copy = |at: usize| {
            let copy = extension.get(at..).and_then(|rest| rest.first_chunk());
            copy.ok_or(Malformed::Short { what: WHAT }).and_then(Self::parse)
        };
        match (copy(0), copy(COPY_STRIDE)) {
            (Ok(one), Ok(two)) => Ok(if one.sequence >= two.sequence { one } else { two }),
            (one, two) => one.or(two),
        }
    }

    /// Where its copy lies in the extension's content: even sequences first, odd ones second.
    pub fn place(&self) -> usize {
        if self.sequence.is_multiple_of(2) { 0 } else { COPY_STRIDE }
    }

    /// The label of an opened qcow2 image, and whether the autoclear bit still stands. A label that
    /// cannot be read is none.
    pub fn in_qcow2(facts: &Facts) -> Option<(Self, bool)> {
        let ours = |(kind, _): &&(u32, Vec<u8>)| *kind == EXTENSION_TYPE;
        let (_, bytes) = facts.extensions.iter().find(ours)?;
        let label = Self::newest(bytes).ok().filter(|_| facts.format == Format::Qcow2)?;
        Some((label, facts.autoclear & AUTOCLEAR != 0))
    }
}
