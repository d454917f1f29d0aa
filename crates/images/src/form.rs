//! What an image is written as: a format, and a kind within it.
//!
//! A [`Form`] makes of a plan either files whose every byte follows from it, or a packer whose bytes
//! show as the guest's go by.

use crate::{
    Algorithm, Format,
    layout::{ImageFile, Plain, Plan, Unwritable},
    qcow2::{self, pack::Packer, write::Qcow2Options},
    vdi::{
        self,
        write::{VdiKind, VdiOptions},
    },
    vhd::{
        self,
        write::{VhdKind, VhdOptions},
    },
    vhdx::{
        self,
        write::{Allocation, VhdxOptions},
    },
    vmdk::{
        self,
        stream::Stream,
        write::{Adapter, VmdkKind, VmdkOptions},
    },
};

/// A format, in one of its kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Form {
    format: Format,
    subformat: Subformat,
}

/// A kind within a format; the first of each format is what is written when none is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subformat {
    /// Raw: there is one kind.
    Plain,
    /// qcow2: clusters as they are.
    Clusters,
    /// qcow2: clusters packed by deflate, which every reader knows.
    Deflate,
    /// qcow2: clusters packed by Zstandard.
    Zstd,
    /// VHD, VHDX, VDI: blocks that hold something.
    Dynamic,
    /// VHD, VHDX, VDI: all blocks.
    Fixed,
    /// VMDK: one file with the grains that hold something.
    Sparse,
    /// VMDK: a descriptor, and a file with all bytes.
    Flat,
    /// VMDK: packed grains, in one pass.
    StreamOptimized,
}

impl Subformat {
    /// The kinds of a format and their words, the usual one first.
    pub const fn of(format: Format) -> &'static [(&'static str, Self)] {
        match format {
            Format::Raw => &[("plain", Self::Plain)],
            Format::Qcow2 => {
                &[("plain", Self::Clusters), ("zlib", Self::Deflate), ("zstd", Self::Zstd)]
            }
            Format::Vhd | Format::Vhdx => &[("dynamic", Self::Dynamic), ("fixed", Self::Fixed)],
            Format::Vdi => &[("dynamic", Self::Dynamic), ("static", Self::Fixed)],
            Format::Vmdk => &[
                ("sparse", Self::Sparse),
                ("flat", Self::Flat),
                ("streamOptimized", Self::StreamOptimized),
            ],
        }
    }
}

/// What a form is told besides the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Naming<'n> {
    /// File name that an image may carry in itself (VMDK does).
    pub name: &'n str,
    /// Bytes of the disk's logical sector, 512 or 4096, where the format can say so (VHDX can).
    pub sector_bytes: u32,
}

/// An image in the making.
pub enum Made {
    /// Files whose every byte follows from the plan.
    Files(Vec<ImageFile>),
    /// A stream of packed grains.
    Grains(Box<Stream>),
    /// Packed clusters: how they are packed, and their bytes.
    Clusters(Box<Packer>, Algorithm, u64),
}

impl Form {
    /// A format, in the kind of that word; `monolithicSparse` and the like mean the same as `sparse`.
    pub fn new(format: Format, word: Option<&str>) -> Result<Self, Unwritable> {
        let known = Subformat::of(format);
        let Some(word) = word else { return Ok(Self { format, subformat: known[0].1 }) };
        let short = word.strip_prefix("monolithic").unwrap_or(word);
        let found = known.iter().find(|(name, _)| name.eq_ignore_ascii_case(short));
        found.map(|(_, subformat)| Self { format, subformat: *subformat }).ok_or_else(|| {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            let text = format!("{word:?} is no kind of it; there are {}", names.join(", "));
            Unwritable::Option { format, text }
        })
    }

    /// The format.
    pub const fn format(self) -> Format {
        self.format
    }

    /// The kind.
    pub const fn subformat(self) -> Subformat {
        self.subformat
    }

    /// The word of the kind.
    pub fn word(self) -> &'static str {
        let known = Subformat::of(self.format);
        known.iter().find(|(_, kind)| *kind == self.subformat).map_or("", |(word, _)| word)
    }

    /// Whether all bytes follow from the plan: lengths are known, and any range can be made alone.
    pub const fn is_laid_out(self) -> bool {
        !matches!(self.subformat, Subformat::Deflate | Subformat::Zstd | Subformat::StreamOptimized)
    }

    /// Whether the plan's ranges matter: else they show while the bytes go by.
    pub const fn needs_ranges(self) -> bool {
        !matches!(self.subformat, Subformat::Plain | Subformat::StreamOptimized)
    }

    /// The image of a plan.
    pub fn make(self, plan: Plan, naming: Naming<'_>) -> Result<Made, Unwritable> {
        let fixed = self.subformat == Subformat::Fixed;
        let algorithm = match self.subformat {
            Subformat::StreamOptimized => {
                let stream = Stream::new(&plan, naming.name, Adapter::default())?;
                return Ok(Made::Grains(Box::new(stream)));
            }
            Subformat::Deflate => Some(Algorithm::Deflate12),
            Subformat::Zstd => Some(Algorithm::Zstd),
            _ => None,
        };
        let options = Qcow2Options::default();
        if let Some(algorithm) = algorithm {
            let cluster = 1 << options.cluster_bits;
            let packer = Packer::new(plan, options, algorithm)?;
            return Ok(Made::Clusters(Box::new(packer), algorithm, cluster));
        }
        let files = match self.format {
            Format::Raw if plan.parent.is_some() => {
                let text = "a raw disk has no parent: take qcow2, VHDX, VHD, VMDK or VDI";
                return Err(Unwritable::Option { format: Format::Raw, text: text.to_owned() });
            }
            Format::Raw => {
                vec![ImageFile {
                    suffix: String::new(),
                    layout: Box::new(Plain(plan.virtual_size)),
                }]
            }
            Format::Qcow2 => qcow2::write::layout(&plan, &options)?,
            Format::Vhd => {
                let kind = if fixed { VhdKind::Fixed } else { VhdKind::Dynamic };
                vhd::write::layout(&plan, &VhdOptions { kind, ..VhdOptions::default() })?
            }
            Format::Vhdx => {
                let allocation = if fixed { Allocation::Fixed } else { Allocation::Dynamic };
                let sector_bytes = naming.sector_bytes;
                let options = VhdxOptions { allocation, sector_bytes, ..VhdxOptions::default() };
                vhdx::write::layout(&plan, &options)?
            }
            Format::Vdi => {
                let kind = if fixed { VdiKind::Static } else { VdiKind::Dynamic };
                vdi::write::layout(&plan, &VdiOptions { kind })?
            }
            Format::Vmdk => {
                let kind = match self.subformat {
                    Subformat::Flat => VmdkKind::Flat,
                    _ => VmdkKind::Sparse,
                };
                let (name, adapter) = (naming.name.to_owned(), Adapter::default());
                vmdk::write::layout(&plan, &VmdkOptions { kind, name, adapter })?
            }
        };
        Ok(Made::Files(files))
    }

    /// The identity of the image that is made of a plan: what a child of it must name.
    pub fn identity(self, plan: &Plan) -> crate::Identity {
        match self.format {
            Format::Raw | Format::Qcow2 => crate::Identity::None,
            Format::Vhd => vhd::write::identity(plan),
            Format::Vhdx => vhdx::write::identity(&plan.seed),
            Format::Vmdk => crate::Identity::Vmdk { content: vmdk::write::content_id(plan) },
            Format::Vdi => vdi::write::identity(plan),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_lead_to_their_kinds_and_back() {
        for format in Format::ALL {
            for (word, subformat) in Subformat::of(format) {
                let form = Form::new(format, Some(word)).expect("a word of the table");
                assert_eq!((form.subformat(), form.word()), (*subformat, *word));
            }
            assert_eq!(Form::new(format, None).map(Form::word), Ok(Subformat::of(format)[0].0));
            assert!(Form::new(format, Some("round")).is_err());
        }
        let sparse = Form::new(Format::Vmdk, Some("monolithicSparse"));
        assert_eq!(sparse.map(Form::subformat), Ok(Subformat::Sparse));
    }
}
