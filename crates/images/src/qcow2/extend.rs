//! A header extension of the caller's own put into a qcow2 image, or its content changed.
//!
//! ```text
//! before   header ─ extensions ─ end ┆ … name …
//! after    header ─ extensions ─ ours ─ end ┆ … name (where it was, or moved on)
//!                                └ written first, led to by the 8 bytes that were the mark of the end
//! ```
//!
//! Cut anywhere (sectors of 512 bytes whole or not at all, syncs kept), the image is the same disk over
//! the same parent; the extension is there whole or not at all, and the feature bit that goes with it
//! comes last. Everything lies in the first cluster; an image without room there is refused.

use std::ops::Range;

use super::header::extension;
use crate::{
    Format,
    bytes::{be32, be64, narrow, wide},
    layout::Unwritable,
    limits,
    relink::{Edit, SECTOR_BYTES, Steps},
};

/// An extension.
#[derive(Clone, Debug)]
pub struct Extension {
    /// Its type: none of the format's own.
    pub kind: u32,
    /// Its content.
    pub content: Vec<u8>,
    /// Bits of `autoclear_features` that go with it.
    pub autoclear: u64,
}

/// Bytes of an extension's head, and of the mark of the end.
const HEAD: u64 = 8;

/// The edit that puts an extension into an image, whose first cluster is `head`; `head` ends early where
/// the file does. One of the same type is replaced, which must have the same length: of its content only the
/// sectors that change are written, each once, in rising order and without barriers between.
pub fn extend(head: &[u8], extension: &Extension) -> Result<Edit, Unwritable> {
    let cluster = cluster(head)?;
    let mut head = head.to_vec();
    head.resize(narrow(cluster), 0);
    let name = name(&head, cluster)?;
    let area = Area::of(&head, extension.kind, name.as_ref())?;
    let mut steps = Steps::default();
    match area.ours {
        Some(ours) => replace(&mut head, extension, &ours, &mut steps)?,
        None => add(&mut head, extension, area.end, name.as_ref(), &mut steps)?,
    }
    let bits = be64(&head, 88);
    if bits & extension.autoclear != extension.autoclear {
        head[88..96].copy_from_slice(&(bits | extension.autoclear).to_be_bytes());
        steps.write_sectors(&head, 0..SECTOR_BYTES).sync();
    }
    Ok(steps.done())
}

fn no(text: impl Into<String>) -> Unwritable {
    Unwritable::Option { format: Format::Qcow2, text: text.into() }
}

/// Bytes of a cluster of an image of version 3 that was closed.
fn cluster(head: &[u8]) -> Result<u64, Unwritable> {
    if head.len() < narrow(SECTOR_BYTES) || !head.starts_with(b"QFI\xfb") {
        return Err(no("it does not begin as such images do"));
    }
    if be32(head, 4) != 3 {
        return Err(no("version 2 has no feature bits: `qemu-img amend -o compat=1.1` first"));
    }
    let (bits, incompatible) = (be32(head, 20), be64(head, 72));
    if !(9..=21).contains(&bits) || wide(head.len()) > 1 << bits {
        return Err(no("its header does not say its clusters"));
    }
    if incompatible & (super::header::incompatible::DIRTY | super::header::incompatible::CORRUPT)
        != 0
    {
        return Err(no("it is marked as not closed or corrupt: `qemu-img check -r all` first"));
    }
    Ok(1 << bits)
}

/// Where the parent's name is.
fn name(head: &[u8], cluster: u64) -> Result<Option<Range<u64>>, Unwritable> {
    let (at, len) = (be64(head, 8), u64::from(be32(head, 16)));
    if at == 0 {
        return Ok(None);
    }
    let end =
        at.checked_add(len).filter(|end| *end <= cluster && len <= wide(limits::NAME_BYTES_MAX));
    end.map(|end| Some(at..end)).ok_or_else(|| no("its parent's name is not in its first cluster"))
}

/// Where the extensions are.
struct Area {
    /// The mark of their end.
    end: u64,
    /// The content of ours.
    ours: Option<Range<u64>>,
}

impl Area {
    fn of(head: &[u8], kind: u32, name: Option<&Range<u64>>) -> Result<Self, Unwritable> {
        let mut at = u64::from(be32(head, 100));
        let limit = name.map_or(wide(head.len()), |name| name.start);
        let mut ours = None;
        while at + HEAD <= limit && at.is_multiple_of(8) {
            let (found, len) = (be32(head, narrow(at)), u64::from(be32(head, narrow(at) + 4)));
            if found == extension::END {
                return Ok(Self { end: at, ours });
            }
            if found == kind {
                ours = Some(at + HEAD..at + HEAD + len);
            }
            at += HEAD + len.next_multiple_of(8);
        }
        Err(no("its header extensions have no end"))
    }
}

fn replace(
    head: &mut [u8],
    extension: &Extension,
    ours: &Range<u64>,
    steps: &mut Steps,
) -> Result<(), Unwritable> {
    if wide(extension.content.len()) != ours.end - ours.start {
        return Err(no("it has an extension of that type and another length"));
    }
    let before = head.to_vec();
    head[narrow(ours.start)..narrow(ours.end)].copy_from_slice(&extension.content);
    let sectors = ours.start / SECTOR_BYTES..ours.end.div_ceil(SECTOR_BYTES);
    for sector in sectors {
        let range = sector * SECTOR_BYTES..wide(head.len()).min((sector + 1) * SECTOR_BYTES);
        let of = narrow(range.start)..narrow(range.end);
        if before[of.clone()] != head[of] {
            steps.write_sectors(head, range);
        }
    }
    steps.sync();
    Ok(())
}

fn add(
    head: &mut [u8],
    extension: &Extension,
    at: u64,
    name: Option<&Range<u64>>,
    steps: &mut Steps,
) -> Result<(), Unwritable> {
    let len = wide(extension.content.len());
    let content = at + HEAD..at + HEAD + len;
    // Behind the content another mark of the end, which is zeroes.
    let end = content.start + len.next_multiple_of(8) + HEAD;
    let room = || no("there is no room in its first cluster");
    let mut taken = end;
    if let Some(old) = name.filter(|old| old.start < end) {
        let start = end.max(old.end);
        let moved = start..start + (old.end - old.start);
        taken = moved.end;
        if taken > wide(head.len()) {
            return Err(room());
        }
        head.copy_within(narrow(old.start)..narrow(old.end), narrow(start));
        steps.write_sectors(head, moved).sync();
        head[8..16].copy_from_slice(&start.to_be_bytes());
        steps.write_sectors(head, 0..SECTOR_BYTES).sync();
    }
    if taken > wide(head.len()) {
        return Err(room());
    }
    // What stood there was the old name, or nothing: the mark of the end still hides it.
    head[narrow(content.start)..narrow(end)].fill(0);
    head[narrow(content.start)..narrow(content.end)].copy_from_slice(&extension.content);
    steps.write_sectors(head, at..end).sync();
    head[narrow(at)..narrow(at) + 4].copy_from_slice(&extension.kind.to_be_bytes());
    let length = u32::try_from(len).map_err(|_| room())?;
    head[narrow(at) + 4..narrow(at) + 8].copy_from_slice(&length.to_be_bytes());
    steps.write_sectors(head, at..at + HEAD).sync();
    Ok(())
}
