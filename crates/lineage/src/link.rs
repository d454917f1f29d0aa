//! What is kept of one child and its parent, where the files themselves cannot take it.
//!
//! A [`Link`] is small; the trees of hashes it speaks of are kept beside it, by their own hash. It is
//! found by its child: by the file ([`FileMark`]) as long as that is in its place, and by what the
//! child holds ([`Print`]) where it was copied. Neither alone would do: a path breaks on a move, an
//! inode on a copy.

use images::Format;

use crate::{
    Digest, Malformed, Ranges, Seal, SealError, Stat, Witness,
    seal::{format_of, number_of},
    wire::{Reader, Writer, wide},
};

/// Bytes of a text that a link holds, at most; more are cut off.
pub const TEXT_BYTES_MAX: usize = 4096;

/// Images below a child, at most.
pub const DEPTH_MAX: usize = 255;

/// Bytes of what a child holds that are in its print, from the first on.
pub const PRINT_BYTES: u64 = 1 << 20;

const WHAT: &str = "record of a link";
const MAGIC: [u8; 8] = *b"SLLINK01";
const VERSION: u16 = 1;

/// Sets prints apart from hashes of bytes.
const PRINT_CONTEXT: &str = "strandline/1 print of what a child image holds";

/// What is kept of a child and its parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Counts the records of one child: the greatest is the last.
    pub sequence: u64,
    /// The child when this was written.
    pub child: ChildMark,
    /// Where the parent was, for messages and for whoever looks for it.
    pub parent_path: String,
    /// Of the parent, then of each image below it. The first may hold a digest, the others none.
    pub seals: Vec<Seal>,
    /// BLAKE3 of the stored form of the tree that the first seal's digest is the summary of.
    pub tree: Option<Digest>,
    /// The same for the tree of nodes that the child held in part, taken without what it held.
    pub edges: Option<Digest>,
    /// Why a change of the parent was accepted, if one was.
    pub reason: String,
}

/// By what a child is known again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildMark {
    /// Where it was, for messages.
    pub path: String,
    /// Its format.
    pub format: Format,
    /// Bytes that its guest sees.
    pub size: u64,
    /// Its file.
    pub file: FileMark,
    /// What it held.
    pub print: Print,
}

/// A file on this machine, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileMark {
    /// Device.
    pub device: u64,
    /// Inode.
    pub inode: u64,
    /// When it was made, in ns since 1970-01-01 UTC, where the file system knows.
    pub born_ns: Option<i64>,
}

/// What a child holds of its own, as a hash: the same for each faithful copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Print {
    /// The hash.
    pub digest: Digest,
    /// It holds something. All children that hold nothing look alike.
    pub telling: bool,
}

impl FileMark {
    /// Of a file by what the file system says.
    pub fn of(stat: &Stat) -> Self {
        Self { device: stat.device, inode: stat.inode, born_ns: stat.born_ns }
    }

    /// Whether both are one file. Devices get other numbers when a machine starts; inode and time of
    /// birth together are of one file, whatever the device is called now.
    pub fn is(&self, other: &Self) -> bool {
        match (self.born_ns, other.born_ns) {
            (Some(one), Some(two)) => self.inode == other.inode && one == two,
            (None, None) => (self.device, self.inode) == (other.device, other.inode),
            _ => false,
        }
    }

    /// What is the same wherever [`FileMark::is`] holds.
    pub fn digest(&self) -> Digest {
        let mut form = Writer(Vec::new());
        form.put(&self.inode.to_le_bytes());
        match self.born_ns {
            Some(born_ns) => form.put(&[1]).put(&born_ns.to_le_bytes()),
            None => form.put(&[0]).put(&self.device.to_le_bytes()),
        };
        Digest(*blake3::hash(&form.0).as_bytes())
    }
}

impl Print {
    /// Of a child's format, size, what it holds, and the first [`PRINT_BYTES`] of that.
    pub fn new(format: Format, size: u64, held: &Ranges, bytes: &[u8]) -> Self {
        let mut form = Writer(vec![number_of(format)]);
        form.put(&size.to_le_bytes());
        form.ranges(held);
        let mut hasher = blake3::Hasher::new_derive_key(PRINT_CONTEXT);
        hasher.update(&wide(form.0.len()).to_le_bytes()).update(&form.0).update(bytes);
        let telling = bytes.iter().any(|byte| *byte != 0);
        Self { digest: Digest(*hasher.finalize().as_bytes()), telling }
    }
}

impl Link {
    /// The seals of a parent and of what is below it; `content` is of the parent's bytes.
    pub fn seals(
        made_ns: i64,
        witnesses: impl IntoIterator<Item = Witness>,
        content: Option<crate::Summary>,
    ) -> Result<Vec<Seal>, SealError> {
        let content = std::iter::once(content).chain(std::iter::repeat(None));
        let seals = witnesses.into_iter().zip(content);
        seals.map(|(witness, content)| Seal::new(made_ns, witness, content)).collect()
    }

    /// The parent's seal.
    pub fn seal(&self) -> &Seal {
        self.seals.first().expect("a link has a parent")
    }

    /// The bytes that [`Link::parse`] takes.
    pub fn encode(&self) -> Vec<u8> {
        assert!((1..=DEPTH_MAX).contains(&self.seals.len()), "a link has a parent");
        let mut form = Writer::new(MAGIC, VERSION);
        form.put(&self.sequence.to_le_bytes());
        let ChildMark { path, format, size, file, print } = &self.child;
        form.put(&[number_of(*format)]).put(&size.to_le_bytes());
        form.put(&file.device.to_le_bytes()).put(&file.inode.to_le_bytes());
        form.put(&[u8::from(file.born_ns.is_some())]);
        form.put(&file.born_ns.unwrap_or_default().to_le_bytes());
        form.put(&print.digest.0).put(&[u8::from(print.telling)]);
        for tree in [&self.tree, &self.edges] {
            form.put(&[u8::from(tree.is_some())]).put(&tree.unwrap_or(Digest::ZERO).0);
        }
        for text in [path, &self.parent_path, &self.reason] {
            put_bytes(&mut form, cut(text).as_bytes());
        }
        let count = u16::try_from(self.seals.len()).expect("bounded by DEPTH_MAX");
        form.put(&count.to_le_bytes());
        for seal in &self.seals {
            put_bytes(&mut form, &seal.encode());
        }
        form.seal()
    }

    /// The link of these bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut form = Reader::open(WHAT, MAGIC, VERSION, bytes)?;
        let sequence = form.u64()?;
        let format = format_of(form.u8()?).ok_or(form.wrong("format"))?;
        let size = form.u64()?;
        let (device, inode) = (form.u64()?, form.u64()?);
        let born_ns = match (form.u8()?, form.i64()?) {
            (0, 0) => None,
            (1, born_ns) => Some(born_ns),
            _ => return Err(form.wrong("birth time")),
        };
        let digest = Digest(form.take()?);
        let telling = match form.u8()? {
            0 => false,
            1 => true,
            _ => return Err(form.wrong("print")),
        };
        let (tree, edges) = (take_name(&mut form)?, take_name(&mut form)?);
        let path = take_text(&mut form)?;
        let (parent_path, reason) = (take_text(&mut form)?, take_text(&mut form)?);
        let count = usize::from(form.u16()?);
        if !(1..=DEPTH_MAX).contains(&count) {
            return Err(form.wrong("number of seals"));
        }
        let mut seals = Vec::new();
        for _ in 0..count {
            seals.push(Seal::parse(form.bytes()?)?);
        }
        form.end()?;
        let digests = seals.iter().map(|seal| seal.content.is_some());
        let placed = digests.enumerate().all(|(place, has)| has == (place == 0 && tree.is_some()));
        if !placed || (edges.is_some() && tree.is_none()) {
            return Err(form.wrong("digest"));
        }
        let file = FileMark { device, inode, born_ns };
        let print = Print { digest, telling };
        let child = ChildMark { path, format, size, file, print };
        Ok(Self { sequence, child, parent_path, seals, tree, edges, reason })
    }
}

/// A text, cut where it is too long and at a whole character.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

fn put_bytes(form: &mut Writer, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("a seal of few files");
    form.put(&len.to_le_bytes()).put(bytes);
}

fn take_text(form: &mut Reader<'_>) -> Result<String, Malformed> {
    let bytes = form.bytes()?;
    if bytes.len() > TEXT_BYTES_MAX {
        return Err(form.wrong("length of a text"));
    }
    String::from_utf8(bytes.to_vec()).map_err(|_| form.wrong("text"))
}

fn take_name(form: &mut Reader<'_>) -> Result<Option<Digest>, Malformed> {
    match (form.u8()?, Digest(form.take()?)) {
        (0, Digest::ZERO) => Ok(None),
        (1, name) => Ok(Some(name)),
        _ => Err(form.wrong("name of a tree")),
    }
}

#[cfg(test)]
mod tests;
