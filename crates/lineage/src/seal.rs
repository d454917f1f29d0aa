//! What was true of a parent when its child was made, as bytes that can be kept.
//!
//! A [`Witness`] is what file system and header say of a layer at one time; a [`Seal`] is the witness
//! of a parent together with the [`Summary`] of a digest of its bytes. The digest's tree itself is
//! kept beside the seal ([`Tree::encode`](crate::Tree::encode)).
//!
//! A seal is taken only of a layer that nobody writes: an identifier holds for what was there when its
//! writer closed the file (see [`order`](crate::order)).

use images::{Facts, Format, Identity};

use crate::{
    Digest, Label, LabelState, Malformed, Scope, Summary,
    wire::{Reader, Writer, wide},
};

/// Files of a layer, at most: a descriptor and as many extents as a descriptor may name.
pub const FILES_MAX: usize = 8193;

const WHAT: &str = "seal of a parent";
const MAGIC: [u8; 8] = *b"SLPARENT";
const VERSION: u16 = 1;

/// Bytes of an identity in a seal.
const ID: usize = 32;

/// What was true of a parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// When it was taken, in ns since 1970-01-01 UTC.
    pub made_ns: i64,
    /// What file system and header said.
    pub witness: Witness,
    /// Digest of the guest's bytes, where they were read.
    pub content: Option<Summary>,
}

/// What file system and header say of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// Its format.
    pub format: Format,
    /// Bytes that the guest sees.
    pub virtual_size: u64,
    /// Its own identifiers.
    pub id: Id,
    /// Its file, then the others that hold parts of it, in the order of [`Facts::files`]. None where
    /// it does not come from a file system.
    pub files: Vec<Stat>,
}

/// What the file system says of a file. Times are ns since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Length in bytes.
    pub len: u64,
    /// Last change of its bytes; anybody may put it back.
    pub modified_ns: i64,
    /// Last change of bytes or inode; only the clock decides it.
    pub changed_ns: i64,
    /// Inode.
    pub inode: u64,
    /// Device.
    pub device: u64,
    /// When it was made, where the file system knows.
    pub born_ns: Option<i64>,
}

/// Identifiers of a layer; the bytes are in the order of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Id {
    /// It has none.
    None,
    /// VHD's unique id, which no write changes, and its time stamp (seconds since 2000-01-01 UTC).
    Vhd {
        /// Unique id.
        id: [u8; 16],
        /// Time stamp.
        time: u32,
    },
    /// VHDX's write ids.
    Vhdx {
        /// FileWriteGuid: changes before the first write of any kind.
        file_write: [u8; 16],
        /// DataWriteGuid: changes before the first write that the guest can see.
        data_write: [u8; 16],
    },
    /// VMDK's CID; with it goes the capacity, which is the virtual size.
    Vmdk {
        /// CID.
        content: u32,
    },
    /// VDI's UUIDs.
    Vdi {
        /// Of the image.
        id: [u8; 16],
        /// Of its last modification.
        modified: [u8; 16],
    },
    /// The generation of a layer with a [`Label`].
    Labelled {
        /// Generation.
        generation: [u8; 16],
        /// Somebody who keeps labels has it open for writing, or went down with it open.
        is_open: bool,
        /// Nobody who does not know labels had it open for writing since.
        is_intact: bool,
    },
}

/// Why a layer cannot be sealed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Its bytes may change under the identifier that the seal would hold.
    #[error("the layer is open for writing, or was not closed by its last writer")]
    Open,
    /// More files than a seal holds.
    #[error("the layer has {0} files; a seal holds {FILES_MAX}")]
    Files(usize),
    /// The digest is of a disk of another size.
    #[error("the digest is of {digest} bytes, the layer of {layer}")]
    Size {
        /// Bytes of the digest's disk.
        digest: u64,
        /// Bytes of the layer.
        layer: u64,
    },
}

impl Seal {
    /// Seals a layer. An identity that a foreign writer made void is left out.
    pub fn new(
        made_ns: i64,
        mut witness: Witness,
        content: Option<Summary>,
    ) -> Result<Self, SealError> {
        if let Id::Labelled { is_open, is_intact, .. } = witness.id {
            if is_open && is_intact {
                return Err(SealError::Open);
            }
            if !is_intact {
                witness.id = Id::None;
            }
        }
        if witness.files.len() > FILES_MAX {
            return Err(SealError::Files(witness.files.len()));
        }
        if let Some(digest) = content.map(|content| content.size)
            && digest != witness.virtual_size
        {
            return Err(SealError::Size { digest, layer: witness.virtual_size });
        }
        Ok(Self { made_ns, witness, content })
    }

    /// The bytes that [`Seal::parse`] takes.
    pub fn encode(&self) -> Vec<u8> {
        let Self { made_ns, witness, content } = self;
        let (kind, id) = witness.id.fields();
        let mut form = Writer::new(MAGIC, VERSION);
        form.put(&made_ns.to_le_bytes()).put(&[number_of(witness.format), kind]).put(&id);
        form.put(&witness.virtual_size.to_le_bytes());
        put_content(&mut form, content.as_ref());
        let files = u32::try_from(witness.files.len()).expect("bounded by FILES_MAX");
        form.put(&files.to_le_bytes());
        for file in &witness.files {
            form.put(&file.len.to_le_bytes());
            form.put(&file.modified_ns.to_le_bytes()).put(&file.changed_ns.to_le_bytes());
            form.put(&file.inode.to_le_bytes()).put(&file.device.to_le_bytes());
            form.put(&[u8::from(file.born_ns.is_some())]);
            form.put(&file.born_ns.unwrap_or_default().to_le_bytes());
        }
        form.seal()
    }

    /// The seal of these bytes; each seal has one form, and any other is refused.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut form = Reader::open(WHAT, MAGIC, VERSION, bytes)?;
        let made_ns = form.i64()?;
        let format = format_of(form.u8()?).ok_or(form.wrong("format"))?;
        let kind = form.u8()?;
        let id = Id::of_fields(kind, &form.take()?).ok_or(form.wrong("identity"))?;
        let virtual_size = form.u64()?;
        let content = take_content(&mut form, virtual_size)?;
        let count = form.u32()?;
        if wide(FILES_MAX) < u64::from(count) {
            return Err(form.wrong("number of files"));
        }
        let files = (0..count).map(|_| Stat::take(&mut form)).collect::<Result<Vec<_>, _>>()?;
        form.end()?;
        let witness = Witness { format, virtual_size, id, files };
        Self::new(made_ns, witness, content).map_err(|_| form.wrong("identity"))
    }
}

impl Witness {
    /// What an opened image and its files say; `files` in the order of [`Witness::files`].
    pub fn of(facts: &Facts, files: Vec<Stat>) -> Self {
        let (format, virtual_size) = (facts.format, facts.virtual_size);
        Self { format, virtual_size, id: Id::of(facts), files }
    }
}

impl Stat {
    fn take(form: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (len, modified_ns, changed_ns) = (form.u64()?, form.i64()?, form.i64()?);
        let (inode, device) = (form.u64()?, form.u64()?);
        let born_ns = match (form.u8()?, form.i64()?) {
            (0, 0) => None,
            (1, born_ns) => Some(born_ns),
            _ => return Err(form.wrong("birth time")),
        };
        Ok(Self { len, modified_ns, changed_ns, inode, device, born_ns })
    }
}

impl Id {
    /// The identifiers of an opened image. A label that cannot be read is none.
    pub fn of(facts: &Facts) -> Self {
        match facts.identity {
            Identity::Vhd { id, time } => Self::Vhd { id, time },
            Identity::Vhdx { file_write, data_write } => Self::Vhdx { file_write, data_write },
            Identity::Vmdk { content } => Self::Vmdk { content },
            Identity::Vdi { id, modified } => Self::Vdi { id, modified },
            Identity::None => match Label::in_qcow2(facts) {
                Some((label, is_intact)) => Self::Labelled {
                    generation: label.generation,
                    is_open: label.state == LabelState::Open,
                    is_intact,
                },
                None => Self::None,
            },
        }
    }

    fn fields(self) -> (u8, [u8; ID]) {
        let mut bytes = [0; ID];
        let (low, high) = bytes.split_at_mut(16);
        let kind = match self {
            Self::None => 0,
            Self::Vhd { id, time } => {
                low.copy_from_slice(&id);
                high[..4].copy_from_slice(&time.to_le_bytes());
                1
            }
            Self::Vhdx { file_write: one, data_write: two } => {
                low.copy_from_slice(&one);
                high.copy_from_slice(&two);
                2
            }
            Self::Vmdk { content } => {
                low[..4].copy_from_slice(&content.to_le_bytes());
                3
            }
            Self::Vdi { id: one, modified: two } => {
                low.copy_from_slice(&one);
                high.copy_from_slice(&two);
                4
            }
            // A seal holds only the identity of what was closed and intact: [`Seal::new`].
            Self::Labelled { generation, .. } => {
                low.copy_from_slice(&generation);
                5
            }
        };
        (kind, bytes)
    }

    fn of_fields(kind: u8, bytes: &[u8; ID]) -> Option<Self> {
        let one = *bytes.first_chunk::<16>()?;
        let two = *bytes.last_chunk::<16>()?;
        let (low, high) = (*one.first_chunk::<4>()?, *two.first_chunk::<4>()?);
        let id = match kind {
            0 => Self::None,
            1 => Self::Vhd { id: one, time: u32::from_le_bytes(high) },
            2 => Self::Vhdx { file_write: one, data_write: two },
            3 => Self::Vmdk { content: u32::from_le_bytes(low) },
            4 => Self::Vdi { id: one, modified: two },
            5 => Self::Labelled { generation: one, is_open: false, is_intact: true },
            _ => return None,
        };
        // What a kind does not use is zero.
        (id.fields() == (kind, *bytes)).then_some(id)
    }
}

/// Scope, root and cover: 65 bytes; the size stands elsewhere in each form.
pub(crate) fn put_content(form: &mut Writer, content: Option<&Summary>) {
    let scope = match content.map(|content| content.scope) {
        None => 0,
        Some(Scope::Needed) => 3,
        Some(Scope::All) => 4,
    };
    let [root, cover] = content.map_or([Digest::ZERO; 2], |content| [content.root, content.cover]);
    form.put(&[scope]).put(&root.0).put(&cover.0);
}

pub(crate) fn take_content(form: &mut Reader<'_>, size: u64) -> Result<Option<Summary>, Malformed> {
    let scope = form.u8()?;
    let (root, cover) = (Digest(form.take()?), Digest(form.take()?));
    let scope = match scope {
        0 if root == Digest::ZERO && cover == Digest::ZERO => return Ok(None),
        3 => Scope::Needed,
        4 => Scope::All,
        _ => return Err(form.wrong("level")),
    };
    Ok(Some(Summary { scope, size, root, cover }))
}

pub(crate) fn number_of(format: Format) -> u8 {
    match format {
        Format::Raw => 0,
        Format::Qcow2 => 1,
        Format::Vhd => 2,
        Format::Vhdx => 3,
        Format::Vmdk => 4,
        Format::Vdi => 5,
    }
}

pub(crate) fn format_of(number: u8) -> Option<Format> {
    Format::ALL.into_iter().find(|format| number_of(*format) == number)
}
