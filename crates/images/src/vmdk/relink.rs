//! Another parent for a VMDK: `parentCID`, `parentFileNameHint` and, where the guest sees other bytes,
//! `CID` in the descriptor.
//!
//! Where only one sector of the text changes, that sector is written: a shorter name is followed by
//! blanks, so that the text keeps its length, and most texts end in their first sector. Else one in a
//! file of its own is made anew, and one within an extent is refused: it cannot be moved to other sectors,
//! though its header says where it stands, for QEMU reads the parent's name at byte 512 whatever that says.

use std::ops::Range;

use super::{
    descriptor::{self, is_descriptor},
    header::{self, HOSTED, SECTOR},
    write::{disk_bytes, quotable},
};
use crate::{
    FileId, Format, Identity, Input, Part,
    bytes::{le32, narrow, wide},
    limits,
    names::{self, Style},
    relink::{Edit, Halt, Relink, SECTOR_BYTES, Steps, refused},
};

pub(crate) fn edit(file: FileId, input: &Input, relink: &Relink) -> Result<Edit, Halt> {
    let head = input.read_up_to(file, 0, SECTOR, Part::Header)?;
    if head.starts_with(HOSTED) {
        return embedded(file, input, relink);
    }
    let len = input.len(file);
    if !is_descriptor(head) || len > limits::DESCRIPTOR_BYTES_MAX {
        return Err(no("it is no descriptor, and has none within"));
    }
    let text = input.read(file, 0, len, Part::Descriptor)?.to_vec();
    let changed = changed(&text, (file, 0), relink)?;
    Ok(in_one_sector(&text, &changed, 0).unwrap_or(Edit::Whole(changed)))
}

/// A descriptor in the sectors that a hosted sparse extent has for it.
fn embedded(file: FileId, input: &Input, relink: &Relink) -> Result<Edit, Halt> {
    let sparse = header::hosted(input, file)?;
    if sparse.read_only.is_some() {
        return Err(no("it was not closed, or one of its directories is lost"));
    }
    let Some((at, len)) = sparse.descriptor else {
        return Err(no("it is an extent; the image is changed by its descriptor"));
    };
    let area = input.read(file, at, len, Part::Descriptor)?.to_vec();
    let text = area.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut changed = changed(text, (file, at), relink)?;
    // Zeroes follow the text, one at least: what stood there of an older one must not go on with it.
    if changed.len() >= area.len() {
        return Err(no("its descriptor has no room for the parent's name"));
    }
    changed.resize(area.len(), 0);
    in_one_sector(&area, &changed, at).ok_or_else(|| {
        no("its descriptor would change in several sectors, which cannot be written at once")
    })
}

/// The edit of bytes that keep their length and change in one sector only; they stand at `at`.
fn in_one_sector(text: &[u8], changed: &[u8], at: u64) -> Option<Edit> {
    if text.len() != changed.len() {
        return None;
    }
    let mut differs = (0..text.len()).filter(|place| text[*place] != changed[*place]);
    let Some(first) = differs.next() else { return Some(Edit::InPlace(Vec::new())) };
    let last = differs.next_back().unwrap_or(first);
    let sector = wide(first) / SECTOR_BYTES;
    if wide(last) / SECTOR_BYTES != sector || !at.is_multiple_of(SECTOR_BYTES) {
        return None;
    }
    let range = narrow(sector * SECTOR_BYTES)..text.len().min(narrow((sector + 1) * SECTOR_BYTES));
    let mut steps = Steps::default();
    // A part of a sector: what stands behind the text is not ours to know.
    steps.write(at + wide(range.start), changed[range].to_vec()).sync();
    Some(steps.done())
}

/// The text with the new parent; as long as before where the new lines are not longer.
fn changed(text: &[u8], at: (FileId, u64), relink: &Relink) -> Result<Vec<u8>, Halt> {
    let parsed = descriptor::parse(text, at.0, at.1)?;
    if parsed.parent.is_none() {
        return Err(no("it has no parent"));
    }
    let parent = &relink.parent;
    let Identity::Vmdk { content } = parent.identity else {
        let text = format!("a parent of the format {}, it must be a VMDK", parent.format);
        return Err(refused(Format::Vmdk, text));
    };
    if disk_bytes(parent.virtual_size)? != disk_bytes(parsed.virtual_size)? {
        let (own, other) = (parsed.virtual_size, parent.virtual_size);
        let text = format!("a disk of {own} bytes over a parent of {other}");
        return Err(refused(Format::Vmdk, text));
    }
    let is_led_outside = relink.outside && names::check(&parent.name, Style::Windows).is_err();
    if is_led_outside && parent.name.contains(['"', '\n', '\r']) {
        return Err(no("a descriptor cannot hold the parent's name"));
    }
    if !is_led_outside {
        quotable(&parent.name)?;
    }
    let lines = Lines(text);
    if !parent.name.is_ascii() && lines.value("encoding").is_none_or(|word| !is_utf8(word)) {
        return Err(no("its descriptor is not in UTF-8, and the parent's name is not in ASCII"));
    }

    let mut lines: Vec<(Range<usize>, String)> = Vec::new();
    let own = Lines(text);
    let mut put = |key: &str, value: String| {
        own.line(key).map(|(line, value_at)| {
            let head = String::from_utf8_lossy(&text[line.start..value_at]).into_owned();
            lines.push((line, head + &value));
        })
    };
    let hint = format!("\"{}\"", parent.name);
    put("parentcid", format!("{content:08x}")).ok_or_else(|| no("it has no parentCID"))?;
    if relink.changes_bytes {
        let id = content_id(relink, [parsed.content, Some(content)]);
        put("cid", format!("{id:08x}")).ok_or_else(|| no("it has no CID"))?;
    }
    if put("parentfilenamehint", hint.clone()).is_none() {
        let (line, _) = own.line("parentcid").ok_or_else(|| no("it has no parentCID"))?;
        lines.push((line.end..line.end, format!("\nparentFileNameHint={hint}")));
    }
    lines.sort_by_key(|(line, _)| line.start);

    let mut made = Vec::with_capacity(text.len() + limits::NAME_BYTES_MAX);
    let mut place = 0;
    for (line, content) in lines {
        made.extend_from_slice(&text[place..line.start]);
        made.extend_from_slice(content.as_bytes());
        // Blanks at the end of a line mean nothing.
        let room = line.len().saturating_sub(content.len());
        made.resize(made.len() + room, b' ');
        place = line.end;
    }
    made.extend_from_slice(&text[place..]);
    // What was made is read as it will be.
    let again = descriptor::parse(&made, at.0, at.1)?;
    assert_eq!(again.parent, Some(content), "the descriptor that was made");
    Ok(made)
}

/// A content id that is none of those, and means no special thing.
fn content_id(relink: &Relink, taken: [Option<u32>; 2]) -> u32 {
    let words = relink.fresh.chunks_exact(4).map(|word| le32(word, 0));
    let is_free = |id: &u32| *id < descriptor::NO_PARENT - 1 && !taken.contains(&Some(*id));
    words.chain(1..4).find(is_free).expect("three numbers, of which two are taken at most")
}

fn is_utf8(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"utf-8")
}

/// The lines of a descriptor.
struct Lines<'t>(&'t [u8]);

impl<'t> Lines<'t> {
    /// The first assignment to a key: its line, without what ends it, and where the value begins.
    fn line(&self, key: &str) -> Option<(Range<usize>, usize)> {
        let mut start = 0;
        for line in self.0.split(|byte| *byte == b'\n') {
            let line_at = start;
            start += line.len() + 1;
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let Some(sign) = line.iter().position(|byte| *byte == b'=') else { continue };
            if line[..sign].trim_ascii().eq_ignore_ascii_case(key.as_bytes()) {
                let blanks = line[sign + 1..].iter().take_while(|byte| **byte == b' ').count();
                let value = line_at + sign + 1 + blanks;
                // A value of blanks alone has none before it.
                return Some((line_at..line_at + line.len(), value.min(line_at + line.len())));
            }
        }
        None
    }

    fn value(&self, key: &str) -> Option<&'t [u8]> {
        let (line, value) = self.line(key)?;
        let value = self.0[value..line.end].trim_ascii();
        Some(value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value))
    }
}

fn no(text: &str) -> Halt {
    refused(Format::Vmdk, text)
}
