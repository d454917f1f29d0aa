//! Images in interchange formats, parsed to maps: bytes in, extents out.
//!
//! ```text
//! caller ◀─ Step::Need(file, offset, len) ── Opening ─▶ Chain ─▶ Mapping  ─▶ extents of the chain
//!        ─▶ supply(bytes)                             └───────▶ LayerMap ─▶ extents of one file
//!        ◀─ Step::Ask(file by checked name)           └───────▶ Checking ─▶ Report
//!        ─▶ answer(opened | missing | refused)
//! ```
//!
//! - No file, socket, clock or thread: the caller reads a file, an HTTP range or a fuzzer's slice.
//! - Each operation is [`Stepped`]. A parser is straight code over an [`Input`]; where bytes are not
//!   there yet it stops, and is run again from its last point of progress once they are.
//! - Bytes of an image never panic, and never make this crate hold more than the bounds of
//!   [`limits`]. Tables above [`limits::RESIDENT_BYTES`] are read as they are needed.
//! - A pointer past the end of its file is a fault and never zeroes. Damage in one place damages
//!   the range that needs it ([`Kind::Corrupt`]), not the image.
//! - Names found in an image are data: only [`names`] turns them into something a caller may open.
//!
//! The words of [`Class`] are those of the corpus of images that this crate is tested with.

#![forbid(unsafe_code)]

mod bytes;
mod cache;
mod chain;
mod check;
mod detect;
mod facts;
mod fault;
pub mod form;
mod input;
pub mod layout;
pub mod limits;
mod map;
pub mod names;
mod overlap;
pub mod packed;
mod pieces;
pub mod qcow2;
mod raw;
pub mod relink;
mod table;
pub mod testing;
pub mod vdi;
pub mod vhd;
pub mod vhdx;
pub mod vmdk;

pub use chain::{
    Chain, Checking, Layer, LayerMap, Mapping, OpenOptions, Opening, Outside, Purpose,
};
pub use check::{Finding, Report, Severity};
pub use detect::{Detected, Foreign, detect};
pub use facts::{Bitmap, Facts, Identity, OtherFile, Parent, Snapshot};
pub use fault::{Class, Fault, Part, Trouble};
pub use form::{Form, Subformat};
pub use input::{Answer, Ask, FileId, FolderQuery, Input, Need, Role, Step, Stepped, Stop};
pub use map::{Algorithm, Extent, Kind, Mapped, Packed};

/// A format that is read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// The guest's bytes and nothing else.
    Raw,
    /// QEMU's copy-on-write format, versions 2 and 3.
    Qcow2,
    /// Microsoft's first format, of Virtual PC.
    Vhd,
    /// Microsoft's second format, of Hyper-V.
    Vhdx,
    /// VMware's formats: descriptor, flat, sparse and stream-optimised extents.
    Vmdk,
    /// VirtualBox's format.
    Vdi,
}

impl Format {
    /// Every format, in the order manuals list them.
    pub const ALL: [Self; 6] =
        [Self::Raw, Self::Qcow2, Self::Vhd, Self::Vhdx, Self::Vmdk, Self::Vdi];

    /// The word for the format on command lines.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vhd => "vhd",
            Self::Vhdx => "vhdx",
            Self::Vmdk => "vmdk",
            Self::Vdi => "vdi",
        }
    }

    /// The format of that word; QEMU's `vpc` is [`Format::Vhd`].
    pub fn of_word(word: &str) -> Option<Self> {
        if word == "vpc" {
            return Some(Self::Vhd);
        }
        Self::ALL.into_iter().find(|format| format.word() == word)
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

/// One opened image file: what each format's module gives. The contract of [`Image::map`] and
/// [`Image::check`] is what [`Chain`] and its tests rely on.
pub(crate) trait Image: Send {
    /// What was found when it was opened.
    fn facts(&self) -> &Facts;

    /// Extents that cover a beginning of `range`: the first begins at `range.start`, they are in
    /// order without gaps, at least one and at most [`limits::EXTENTS_MAX`], none past `range.end`.
    /// `range` is not empty and within the virtual size. Damage is a [`Kind::Corrupt`] extent; an
    /// `Err(Stop::Fault)` is for what leaves no answer at all. After a stop for bytes the call is
    /// repeated with the same range: what was learned may be kept in a bounded cache.
    fn map(&mut self, range: std::ops::Range<u64>, input: &Input) -> Result<Vec<Extent>, Stop>;

    /// Whether `parent` is what this image was made over; notes for what is odd but harmless.
    /// Asked once, after the parent was opened.
    fn admit(&self, parent: &Facts) -> Result<Vec<Fault>, Fault> {
        let _ = parent;
        Ok(Vec::new())
    }

    /// The next piece of a full check; `Ok(true)` when all is done. After `Ok(false)` the bytes read
    /// so far are gone: progress lives in `self`. Begins anew after `Ok(true)`.
    fn check(&mut self, input: &Input, report: &mut Report) -> Result<bool, Stop>;
}

/// What a format's module is asked to open.
#[derive(Clone, Debug)]
pub(crate) struct Request<'a> {
    /// The file; its length is known to the [`Input`].
    pub file: FileId,
    /// Name (or else id) of an internal snapshot to open in place of the present state.
    pub snapshot: Option<&'a str>,
}
