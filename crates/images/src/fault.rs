//! What can be wrong with an image, in words that scripts may rely on.

use std::fmt;

use crate::FileId;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* #[doc = concat!("`", $word, "`.")] $variant,)*
        }

        impl $name {
            /// Every one of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word that stands in messages and JSON.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}

words! {
    /// The kind of a fault.
    Class {
        BadMagic = "bad-magic",
        UnknownVersion = "unknown-version",
        UnknownFeature = "unknown-feature",
        UnsupportedFormat = "unsupported-format",
        UnsupportedEncryption = "unsupported-encryption",
        BadField = "bad-field",
        ReservedBits = "reserved-bits",
        BadChecksum = "bad-checksum",
        CopiesDiffer = "copies-differ",
        AmbiguousHeader = "ambiguous-header",
        FormatAmbiguous = "format-ambiguous",
        Limit = "limit",
        TableTooSmall = "table-too-small",
        MissingPart = "missing-part",
        PointerOutsideFile = "pointer-outside-file",
        PointerMisaligned = "pointer-misaligned",
        Overlap = "overlap",
        Truncated = "truncated",
        RefcountMismatch = "refcount-mismatch",
        MarkedCorrupt = "marked-corrupt",
        Unclean = "unclean",
        TextModeDamage = "text-mode-damage",
        DecompressError = "decompress-error",
        DecompressShort = "decompress-short",
        DecompressLong = "decompress-long",
        LogCorrupt = "log-corrupt",
        ChainLoop = "chain-loop",
        ParentMissing = "parent-missing",
        ParentFormat = "parent-format",
        ParentMismatch = "parent-mismatch",
        ParentSize = "parent-size",
        ParentTime = "parent-time",
        ParentNameForbidden = "parent-name-forbidden",
        ExtentMissing = "extent-missing",
        ExtentNameForbidden = "extent-name-forbidden",
        DataFileMissing = "data-file-missing",
        DataFileForbidden = "data-file-forbidden",
        SizeMismatch = "size-mismatch",
        SavedState = "saved-state",
        NoAccess = "no-access",
        AmbiguousBitmap = "ambiguous-bitmap",
    }
}

words! {
    /// The structure of a format in which a fault sits.
    Part {
        Header = "header",
        HeaderExtension = "header-extension",
        Footer = "footer",
        Descriptor = "descriptor",
        RegionTable = "region-table",
        Metadata = "metadata",
        Log = "log",
        L1 = "l1",
        L1Entry = "l1-entry",
        L2Entry = "l2-entry",
        BatEntry = "bat-entry",
        BlockMap = "block-map",
        GrainDirectory = "grain-directory",
        GrainTable = "grain-table",
        GrainTableEntry = "grain-table-entry",
        GrainMarker = "grain-marker",
        Refcounts = "refcounts",
        Snapshots = "snapshots",
        Bitmaps = "bitmaps",
        Crypto = "crypto",
        Data = "data",
        Chain = "chain",
    }
}

/// What a script can do about a fault; the command line gives each an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// A file that belongs to the image is not there (exit 3).
    NotFound,
    /// Not an image of this format, or the format has to be said (exit 2).
    NotThisFormat,
    /// An image of a kind that is not read here (exit 2).
    Unsupported,
    /// Bytes are not what they must be (exit 7).
    Damaged,
    /// It names a file that it must not make us open (exit 5).
    Forbidden,
    /// Parent and child do not belong together (exit 1 from a check, 6 where opening is refused).
    Differs,
    /// Larger than this program is willing to follow (exit 7).
    OverLimit,
    /// Readable, and must not be written (exit 6).
    ReadOnly,
}

impl Class {
    /// The class of that word.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|class| class.word() == word)
    }

    /// What can be done about it.
    pub const fn trouble(self) -> Trouble {
        match self {
            Self::BadMagic | Self::FormatAmbiguous => Trouble::NotThisFormat,
            Self::UnknownVersion
            | Self::UnknownFeature
            | Self::UnsupportedFormat
            | Self::UnsupportedEncryption
            | Self::ParentFormat
            | Self::NoAccess => Trouble::Unsupported,
            Self::Limit => Trouble::OverLimit,
            Self::ParentMissing | Self::ExtentMissing | Self::DataFileMissing => Trouble::NotFound,
            Self::ParentNameForbidden | Self::ExtentNameForbidden | Self::DataFileForbidden => {
                Trouble::Forbidden
            }
            Self::ParentMismatch | Self::ParentSize | Self::ParentTime => Trouble::Differs,
            Self::SavedState | Self::MarkedCorrupt => Trouble::ReadOnly,
            _ => Trouble::Damaged,
        }
    }
}

/// One fault: its kind, where it sits, and a sentence with the figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The kind.
    pub class: Class,
    /// The structure in which it was found.
    pub part: Part,
    /// Place of the image in its chain; 0 is the image that was opened, 1 its parent.
    pub layer: usize,
    /// The file.
    pub file: FileId,
    /// Offset in the file in bytes, where there is one.
    pub at: Option<u64>,
    /// What is there and what should be: lower case, no full stop.
    pub text: String,
}

impl Fault {
    /// A fault of a file as a whole; the chain fills in the layer.
    pub fn new(class: Class, part: Part, file: FileId, text: impl Into<String>) -> Self {
        Self { class, part, layer: 0, file, at: None, text: text.into() }
    }

    /// A fault at an offset in bytes.
    pub fn at(class: Class, part: Part, file: FileId, at: u64, text: impl Into<String>) -> Self {
        Self { class, part, layer: 0, file, at: Some(at), text: text.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}", self.text, self.class)?;
        write!(f, ", {}", self.part)?;
        if let Some(at) = self.at {
            write!(f, " at byte {at}")?;
        }
        f.write_str(")")
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_lead_back_to_their_class() {
        for class in Class::ALL {
            assert_eq!(Class::of_word(class.word()), Some(*class));
        }
        assert_eq!(Class::ALL.len(), 41);
        assert_eq!(Class::of_word("fine"), None);
    }

    #[test]
    fn fault_says_what_where_and_which() {
        let fault = Fault::at(Class::BadField, Part::Header, FileId(0), 20, "cluster bits are 63");
        assert_eq!(fault.to_string(), "cluster bits are 63 (bad-field, header at byte 20)");
    }
}
