//! Signs of a change that file system and header give: what is cheap to ask, and never a verdict.
//!
//! A sign of the file system (level 0) is a *trigger*: a copy, a restored backup or `touch` gives it
//! too. A sign of the header (level 1) proves that somebody wrote where the format's rule says so, and
//! its absence proves nothing. Whether the guest's bytes changed, digests decide.

use std::fmt;

use crate::{Id, Seal, Stat, Witness};

/// How a change can be noticed (`docs/format.md` uses the numbers).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// 0: size, times, inode.
    Stat,
    /// 1: identifiers and size in the header.
    Header,
    /// 3: digest of the bytes that the child needs.
    Needed,
    /// 4: digest of all bytes.
    All,
}

/// What a sign is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Weight {
    /// Reason to compare bytes.
    Trigger,
    /// By its format's rule somebody changed it, or it is another one.
    Proof,
}

impl Level {
    /// Its number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Stat => 0,
            Self::Header => 1,
            Self::Needed => 3,
            Self::All => 4,
        }
    }
}

impl Weight {
    /// The word for scripts.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Trigger => "trigger",
            Self::Proof => "proof",
        }
    }
}

macro_rules! signs {
    ($($(#[$doc:meta])* $name:ident $level:ident $weight:ident $words:literal,)*) => {
        /// One thing that is not as it was sealed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Sign {
            $(#[doc = concat!("`", $words, "`.")] $name,)*
        }

        impl Sign {
            /// Every one of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The level that notices it.
            pub const fn level(self) -> Level {
                match self { $(Self::$name => Level::$level,)* }
            }

            /// What it is worth.
            pub const fn weight(self) -> Weight {
                match self { $(Self::$name => Weight::$weight,)* }
            }

            /// It as a word for scripts: `virtual-size`.
            pub fn word(self) -> String {
                let name = match self { $(Self::$name => stringify!($name),)* };
                let mut word = String::new();
                for letter in name.chars() {
                    if letter.is_ascii_uppercase() && !word.is_empty() {
                        word.push('-');
                    }
                    word.push(letter.to_ascii_lowercase());
                }
                word
            }

            /// It in words.
            pub const fn words(self) -> &'static str {
                match self { $(Self::$name => $words,)* }
            }
        }
    };
}

signs! {
    FileCount Stat Trigger "the number of its files",
    Length Stat Trigger "the length of its file",
    Modified Stat Trigger "the time of last modification",
    Changed Stat Trigger "the inode's time of last change",
    Inode Stat Trigger "the inode",
    Device Stat Trigger "the device it lies on",
    Born Stat Trigger "the time its file was made",
    Below Stat Trigger "an image further down the chain",
    Format Header Proof "the format",
    VirtualSize Header Proof "the size of the disk",
    IdGone Header Proof "its identifier, which is gone",
    VhdId Header Proof "the unique id",
    VhdTime Header Trigger "the time stamp in the footer",
    FileWrite Header Trigger "the FileWriteGuid",
    DataWrite Header Proof "the DataWriteGuid",
    ContentId Header Proof "the CID",
    VdiId Header Proof "the UUID",
    VdiModified Header Proof "the modification UUID",
    Generation Header Proof "the generation",
    NotClosed Header Trigger "its state (open for writing, or not closed by its writer)",
    ForeignWriter Header Trigger "its seal mark (a program that keeps none had it open for writing)",
}

/// All signs between a seal and what is there now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notice {
    signs: Vec<Sign>,
}

impl Notice {
    /// Compares what is there now with what was sealed.
    pub fn between(seal: &Seal, now: &Witness) -> Self {
        let was = &seal.witness;
        let mut signs = of_files(&was.files, &now.files);
        let mut add = |differs: bool, sign| {
            if differs {
                signs.push(sign);
            }
        };
        add(was.format != now.format, Sign::Format);
        add(was.virtual_size != now.virtual_size, Sign::VirtualSize);
        if was.format == now.format {
            of_ids(&was.id, &now.id, add);
        }
        signs.sort_unstable();
        signs.dedup();
        Self { signs }
    }

    /// Takes in what the images below the parent show: of each the seal and what is there now. Their
    /// bytes are part of what the parent's guest sees, so any sign of theirs is a trigger.
    pub fn see_below<'w>(
        &mut self,
        sealed: &[Seal],
        now: impl ExactSizeIterator<Item = &'w Witness>,
    ) {
        let is_other = sealed.len() != now.len()
            || sealed.iter().zip(now).any(|(seal, now)| !Self::between(seal, now).is_quiet());
        if is_other {
            self.signs.push(Sign::Below);
            self.signs.sort_unstable();
        }
    }

    /// The signs, those of the file system first.
    pub fn signs(&self) -> &[Sign] {
        &self.signs
    }

    /// Whether all is as it was sealed.
    pub fn is_quiet(&self) -> bool {
        self.signs.is_empty()
    }

    /// Whether a level notices anything.
    pub fn is_noticed_at(&self, level: Level) -> bool {
        self.signs.iter().any(|sign| sign.level() == level)
    }

    /// What its heaviest sign is worth; `None` where all is as it was.
    pub fn weight(&self) -> Option<Weight> {
        self.signs.iter().map(|sign| sign.weight()).max()
    }
}

fn of_files(was: &[Stat], now: &[Stat]) -> Vec<Sign> {
    if was.len() != now.len() {
        return vec![Sign::FileCount];
    }
    let of_one = |(was, now): (&Stat, &Stat)| {
        let is_other =
            |was: Option<i64>, now: Option<i64>| was.zip(now).is_some_and(|(a, b)| a != b);
        [
            (was.len != now.len, Sign::Length),
            (was.modified_ns != now.modified_ns, Sign::Modified),
            (was.changed_ns != now.changed_ns, Sign::Changed),
            (was.inode != now.inode, Sign::Inode),
            (was.device != now.device, Sign::Device),
            (is_other(was.born_ns, now.born_ns), Sign::Born),
        ]
    };
    let signs = was.iter().zip(now).flat_map(of_one);
    signs.filter_map(|(differs, sign)| differs.then_some(sign)).collect()
}

/// Signs of the identifiers of one format; what was sealed without any has none.
fn of_ids(was: &Id, now: &Id, mut add: impl FnMut(bool, Sign)) {
    match (was, now) {
        (Id::None, _) => {}
        (Id::Vhd { id, time }, Id::Vhd { id: id_now, time: time_now }) => {
            add(id != id_now, Sign::VhdId);
            add(time != time_now, Sign::VhdTime);
        }
        (
            Id::Vhdx { file_write, data_write },
            Id::Vhdx { file_write: file_now, data_write: data_now },
        ) => {
            add(file_write != file_now, Sign::FileWrite);
            add(data_write != data_now, Sign::DataWrite);
        }
        (Id::Vmdk { content }, Id::Vmdk { content: now }) => add(content != now, Sign::ContentId),
        (Id::Vdi { id, modified }, Id::Vdi { id: id_now, modified: modified_now }) => {
            add(id != id_now, Sign::VdiId);
            add(modified != modified_now, Sign::VdiModified);
        }
        (Id::Labelled { generation, .. }, Id::Labelled { generation: now, is_open, is_intact }) => {
            add(generation != now, Sign::Generation);
            add(*is_open, Sign::NotClosed);
            add(!is_intact, Sign::ForeignWriter);
        }
        _ => add(true, Sign::IdGone),
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = self.signs.iter().map(|sign| sign.words()).collect();
        f.write_str(&words.join(", "))
    }
}
