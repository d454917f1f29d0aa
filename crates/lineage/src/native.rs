//! What a format itself says of a parent and its child: identifiers of the one, copies in the other.
//!
//! By these alone a chain is judged that nobody sealed. That they agree proves nothing about bytes;
//! that they differ proves, by the format's rule, that the parent was written or is another one.

use images::{Facts, Format, Identity};

use crate::{Label, ParentLabel};

/// What the identifiers of a child and its parent say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Native {
    /// The format keeps none, or the child has no copy.
    Untold,
    /// They agree.
    Agrees,
    /// Something differs that also differs for other reasons.
    Hint(Differing),
    /// The parent is not what the child was made over.
    Differs(Differing),
}

macro_rules! differing {
    ($($(#[$doc:meta])* $name:ident $word:literal $words:literal,)*) => {
        /// What it is that differs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Differing {
            $($(#[$doc])* $name,)*
        }

        impl Differing {
            /// A word for scripts.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// It as a sentence, without the names of the files.
            pub const fn words(self) -> &'static str {
                match self { $(Self::$name => $words,)* }
            }
        }
    };
}

differing! {
    /// VHD: the unique id.
    VhdId "vhd-id" "the parent has another unique id than the child was made over",
    /// VHD: the time stamp.
    VhdTime "vhd-time" "the parent's time stamp is not the one that the child notes, as after any copy or write",
    /// VHDX: the DataWriteGuid.
    DataWriteGuid "data-write-guid" "the parent's DataWriteGuid changed after the child was made",
    /// VMDK: the CID.
    ContentId "cid" "the parent's CID changed after the child was made",
    /// VDI: the UUID.
    VdiId "vdi-id" "the parent has another UUID than the child was made over",
    /// VDI: the modification UUID.
    VdiModified "vdi-modified" "the parent's modification UUID changed after the child was made",
    /// The generation of a label.
    Generation "generation" "the parent's generation changed after the child was labelled",
    /// VHD, VMDK: parent and child must be of one size.
    Size "size" "the parent has another size than the child",
    /// The parent is of another format than the child's names.
    Format "format" "the parent is not of the format that the child names",
}

impl Native {
    /// Compares what a child says of its parent with what the parent says of itself.
    pub fn between(child: &Facts, parent: &Facts) -> Self {
        let stated = child.parent.as_ref().map_or(Identity::None, |parent| parent.identity);
        let sizes_must_agree = matches!(child.format, Format::Vhd | Format::Vmdk);
        let same_size = child.virtual_size == parent.virtual_size;
        let differs = match (stated, parent.identity) {
            (Identity::None, _) => return Self::by_label(child, parent),
            (Identity::Vhd { id, .. }, Identity::Vhd { id: found, .. }) => {
                (id != found).then_some(Differing::VhdId)
            }
            (
                Identity::Vhdx { file_write: second, data_write: first },
                Identity::Vhdx { data_write: found, .. },
            ) => {
                // The second linkage is there while a merge is under way, and is as good then.
                let is_known = first == found || (second != [0; 16] && second == found);
                (!is_known).then_some(Differing::DataWriteGuid)
            }
            (Identity::Vmdk { content }, Identity::Vmdk { content: found }) => {
                (content != found).then_some(Differing::ContentId)
            }
            (Identity::Vdi { id, modified }, Identity::Vdi { id: found, modified: at }) => {
                if id != found {
                    Some(Differing::VdiId)
                } else if modified == [0; 16] {
                    return Self::Untold;
                } else {
                    (modified != at).then_some(Differing::VdiModified)
                }
            }
            _ => Some(Differing::Format),
        };
        match (differs, stated, parent.identity) {
            (Some(what), ..) => Self::Differs(what),
            _ if sizes_must_agree && !same_size => Self::Differs(Differing::Size),
            (None, Identity::Vhd { time, .. }, Identity::Vhd { time: found, .. })
                if time != found =>
            {
                Self::Hint(Differing::VhdTime)
            }
            _ => Self::Agrees,
        }
    }

    /// The same by the labels of both. A parent's label that is open or was left by a foreign writer
    /// says nothing; one that the child does not name neither.
    fn by_label(child: &Facts, parent: &Facts) -> Self {
        let of_child = Label::in_qcow2(child).and_then(|(label, _)| label.parent);
        let Some(ParentLabel { generation, size, .. }) = of_child else { return Self::Untold };
        if size != parent.virtual_size {
            return Self::Hint(Differing::Size);
        }
        match Label::in_qcow2(parent) {
            _ if generation == [0; 16] => Self::Untold,
            Some((label, _)) if label.generation != generation => {
                Self::Differs(Differing::Generation)
            }
            Some((_, true)) => Self::Agrees,
            _ => Self::Untold,
        }
    }
}
