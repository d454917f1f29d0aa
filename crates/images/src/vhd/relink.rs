//! Another parent for a differencing VHD.
//!
//! The header has 1024 bytes: ids, time and checksum in its first sector, the locators of the parent's
//! name in its second. With the same name only the first changes, in place. Else a whole new header is
//! appended where the footer was, and the footers lead to it:
//!
//! ```text
//! before:  copy ─ header ─ … ─ blocks ─ footer
//! 1 sync   copy ─ header ─ … ─ blocks ─ header' ─ name' ─ zeroes     the copy counts: the old header
//! 2 sync   copy'─ header ─ … ─ blocks ─ header' ─ name' ─ zeroes     the copy counts: the new header
//! 3 sync   copy'─ header ─ … ─ blocks ─ header' ─ name' ─ footer'
//! ```

use super::{
    FOOTER,
    footer::{self, Kind},
    header::{self, HEADER, LOCATORS},
    sum,
    write::{name_parent, time_of},
};
use crate::{
    FileId, Format, Identity, Input, Part,
    bytes::{narrow, wide},
    names::{self, Style},
    relink::{Edit, Halt, Relink, SECTOR_BYTES, Steps, refused},
};

pub(crate) fn edit(file: FileId, input: &Input, relink: &Relink) -> Result<Edit, Halt> {
    let no = |text: &str| refused(Format::Vhd, text);
    let found = footer::find(file, input)?;
    let (footer, tail_at) = (found.footer, found.end);
    if footer.kind != Kind::Differencing {
        return Err(no("it has no parent"));
    }
    if footer.saved_state {
        return Err(no("a saved state belongs to it"));
    }
    let copy = input.read(file, 0, FOOTER, Part::Footer)?.to_vec();
    // A file whose last edit was cut off has the copy only: the header goes behind all of it then.
    let is_whole = input.len(file) == tail_at + FOOTER;
    let tail_at = if is_whole { tail_at } else { input.len(file) };
    if !tail_at.is_multiple_of(SECTOR_BYTES) {
        return Err(no("its footer is not where it should be"));
    }
    if is_whole && input.read(file, tail_at, FOOTER, Part::Footer)? != copy {
        return Err(no("its footer and the copy of it differ"));
    }
    let (_, bytes) = header::read(file, footer.header_at, footer.size, input)?;
    let mut head = bytes.to_vec();
    let (stated, _) = header::parent(&head, file, footer.header_at, input)?;

    let tail = if relink.changes_bytes { stamped(copy, time_of(relink.now_s)) } else { copy };
    let name = names::check(&relink.parent.name, Style::Windows).ok();
    let keeps_name = stated.names.first().and_then(|first| first.as_ref().ok()) == name.as_ref();
    let mut steps = Steps::default();
    if keeps_name && is_whole && footer.header_at.is_multiple_of(SECTOR_BYTES) {
        let before = head.clone();
        let Identity::Vhd { id, time } = relink.parent.identity else {
            return Err(no("its parent must be a VHD"));
        };
        if relink.parent.virtual_size != footer.size {
            return Err(no("its parent has another size"));
        }
        head[40..56].copy_from_slice(&id);
        head[56..60].copy_from_slice(&time.to_be_bytes());
        seal(&mut head);
        if relink.changes_bytes {
            steps.write(0, tail.clone()).sync();
            steps.write(tail_at, tail).sync();
        }
        if head != before {
            head.truncate(narrow(SECTOR_BYTES));
            steps.write(footer.header_at, head).sync();
        }
        return Ok(steps.done());
    }

    head[64..576].fill(0);
    head[LOCATORS..768].fill(0);
    let name_at = tail_at + HEADER;
    let located = name_parent(&mut head, &relink.parent, footer.size, name_at)?;
    seal(&mut head);
    let new_tail_at = name_at + wide(located.len());
    let mut tail = tail;
    tail[16..24].copy_from_slice(&tail_at.to_be_bytes());
    let tail = sealed_footer(tail);
    head.extend(located);
    head.resize(head.len() + narrow(FOOTER), 0);
    steps.write(tail_at, head).sync();
    steps.write(0, tail.clone()).sync();
    steps.write(new_tail_at, tail).sync();
    Ok(steps.done())
}

/// A footer with another time.
fn stamped(mut footer: Vec<u8>, time: u32) -> Vec<u8> {
    footer[24..28].copy_from_slice(&time.to_be_bytes());
    sealed_footer(footer)
}

fn sealed_footer(mut footer: Vec<u8>) -> Vec<u8> {
    let made = sum(&footer, 64);
    footer[64..68].copy_from_slice(&made.to_be_bytes());
    footer
}

fn seal(header: &mut [u8]) {
    let made = sum(header, 36);
    header[36..40].copy_from_slice(&made.to_be_bytes());
}
