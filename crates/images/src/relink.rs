//! Another parent written into a child, as a list of writes: no file is touched here.
//!
//! ```text
//! Relink ─▶ Relinking ─(bytes of the child)─▶ Edit: write … sync … write … sync
//! ```
//!
//! Cut anywhere (a kill, a power cut; each sector of 512 bytes written whole or not at all, those of
//! one write in any order, syncs kept), the file that is left names the old parent or the new one. So
//! the last write that counts is always one sector, or has a checksum and a second copy:
//!
//! | format | what switches |
//! |---|---|
//! | qcow2 | the first sector: place and length of the name, format, feature bits; the name was written before to a free place of the first cluster |
//! | VHD | with the same name: the header's first sector, which has ids and checksum; else the copy of the footer at the head, which leads to a header that was appended before |
//! | VHDX | the sector of the metadata table with the locator's entry; the locator was written before to a free place of the region, and a header with a new FileWriteGuid before that |
//! | VMDK | the sector of the descriptor that changes; one in a file of its own is replaced whole where more do |
//! | VDI | the first sector |
//!
//! A child that cannot be changed so is refused: it is to be converted.
//!
//! Identifiers of the child follow its format's rule: what depends on *it* shall see no change where
//! the guest sees none. Only [`Relink::changes_bytes`] moves DataWriteGuid (VHDX), CID (VMDK),
//! modification UUID (VDI) and time stamp (VHD); FileWriteGuid moves always.

use crate::{
    Answer, Fault, FileId, Format, Input, Step, Stepped, Stop,
    bytes::wide,
    layout::{ParentPlan, Unwritable},
    limits,
    names::{self, Style},
    qcow2, vdi, vhd, vhdx, vmdk,
};

/// What is written whole or not at all.
pub const SECTOR_BYTES: u64 = 512;

/// A parent for a child.
#[derive(Clone, Debug)]
pub struct Relink {
    /// The parent: its name from the child's folder on, and its identity as its own facts have it.
    pub parent: ParentPlan,
    /// Whether the child's guest sees other bytes afterwards.
    pub changes_bytes: bool,
    /// Random bytes: new identifiers are taken from them.
    pub fresh: [u8; 32],
    /// The name may lead out of the child's folder: absolute, or by `..`.
    pub outside: bool,
    /// Feature bits (qcow2, autoclear) that the caller keeps right; the format's own two are kept
    /// anyhow, all others are cleared, as their rule says.
    pub autoclear_known: u64,
    /// The present time in seconds since 1970-01-01 UTC.
    pub now_s: u64,
}

/// Changes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// In this order. Empty where nothing changes.
    InPlace(Vec<EditStep>),
    /// The whole file, which is small: written beside it, made durable and renamed over it.
    Whole(Vec<u8>),
}

/// A step of an edit in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EditStep {
    /// Bytes at an offset; the file grows where it must.
    Write {
        /// From the start of the file.
        at: u64,
        /// What stands there from then on.
        bytes: Vec<u8>,
    },
    /// All writes before are durable before one after it may be.
    Sync,
}

/// Finds the edit that writes a parent into a child.
pub struct Relinking {
    input: Input,
    file: FileId,
    format: Format,
    relink: Relink,
    failed: Option<Fault>,
}

impl Relinking {
    /// Begins with the child: its number, its length in bytes and its format.
    pub fn new(file: FileId, len: u64, format: Format, relink: Relink) -> Self {
        Self { input: Input::new(file, len), file, format, relink, failed: None }
    }

    fn edit(&self) -> Result<Edit, Halt> {
        let style = match self.format {
            Format::Qcow2 | Format::Raw => Style::Unix,
            _ => Style::Windows,
        };
        let name = &self.relink.parent.name;
        if !(self.relink.outside && names::outside(name, style).is_some()) {
            names::check(name, style).map_err(|flaw| {
                refused(self.format, format!("the parent's name {name:?}: {flaw}"))
            })?;
        }
        let (file, input, relink) = (self.file, &self.input, &self.relink);
        match self.format {
            Format::Qcow2 => qcow2::relink::edit(file, input, relink),
            Format::Vhd => vhd::relink::edit(file, input, relink),
            Format::Vhdx => vhdx::relink::edit(file, input, relink),
            Format::Vmdk => vmdk::relink::edit(file, input, relink),
            Format::Vdi => vdi::relink::edit(file, input, relink),
            Format::Raw => Err(refused(Format::Raw, "a raw disk has no parent")),
        }
    }
}

impl Stepped for Relinking {
    type Output = Result<Edit, Unwritable>;

    fn next(&mut self) -> Step<Self::Output> {
        if let Some(fault) = self.failed.take() {
            return Step::Fail(fault);
        }
        match self.edit() {
            Ok(edit) => Step::Done(Ok(edit)),
            Err(Halt::Refused(why)) => Step::Done(Err(why)),
            Err(Halt::Stop(stop)) => self.input.step(Err(stop)),
        }
    }

    fn supply(&mut self, bytes: Vec<u8>) {
        self.failed = self.input.supply(bytes).err();
    }

    fn answer(&mut self, answer: Answer) {
        self.input.answer(answer);
    }
}

/// Why there is no edit yet, or none at all.
#[derive(Debug)]
pub(crate) enum Halt {
    Stop(Stop),
    Refused(Unwritable),
}

impl From<Stop> for Halt {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

impl From<Fault> for Halt {
    fn from(fault: Fault) -> Self {
        Self::Stop(fault.into())
    }
}

impl From<Unwritable> for Halt {
    fn from(why: Unwritable) -> Self {
        Self::Refused(why)
    }
}

/// A child that cannot be changed so.
pub(crate) fn refused(format: Format, text: impl Into<String>) -> Halt {
    Halt::Refused(Unwritable::Option { format, text: text.into() })
}

/// Steps under construction.
#[derive(Default)]
pub(crate) struct Steps(Vec<EditStep>);

impl Steps {
    /// A write.
    pub fn write(&mut self, at: u64, bytes: Vec<u8>) -> &mut Self {
        self.0.push(EditStep::Write { at, bytes });
        self
    }

    /// A write of the sectors of `head`, the beginning of a file, that hold `range`.
    pub fn write_sectors(&mut self, head: &[u8], range: std::ops::Range<u64>) -> &mut Self {
        let start = range.start / SECTOR_BYTES * SECTOR_BYTES;
        let end = range.end.next_multiple_of(SECTOR_BYTES).min(wide(head.len()));
        let bytes = head[crate::bytes::narrow(start)..crate::bytes::narrow(end)].to_vec();
        self.write(start, bytes)
    }

    /// A barrier.
    pub fn sync(&mut self) -> &mut Self {
        self.0.push(EditStep::Sync);
        self
    }

    pub fn done(self) -> Edit {
        Edit::InPlace(self.0)
    }
}

/// Sixteen random bytes as an identifier of version 4.
pub(crate) fn fresh_id(bytes: &[u8]) -> [u8; 16] {
    let mut id = [0; 16];
    id.copy_from_slice(&bytes[..16]);
    // In the mixed order of Windows the version is in byte 7.
    id[7] = (id[7] & 0x0f) | 0x40;
    id[8] = (id[8] & 0x3f) | 0x80;
    id
}

const _: () = assert!(limits::NAME_BYTES_MAX < 4096, "a name fits a first cluster of QEMU's");
