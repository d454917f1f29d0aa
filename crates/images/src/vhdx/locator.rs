//! The parent locator: how a differencing disk names its parent, and knows it (MS-VHDX 2.6.2.6).
//!
//! Pairs of UTF-16 texts. `parent_linkage` is the parent's DataWriteGuid; `parent_linkage2` a second
//! one that will do while a merge is under way. Paths are tried in this order: `relative_path`, its
//! last step, then the last steps of `absolute_win32_path` and `volume_path`, each in the child's
//! folder. Those paths themselves lead elsewhere, and are never followed.

use crate::{
    Class, Fault, FileId, Part, Role,
    bytes::{array, le16, le32, narrow, wide},
    names::{self, FileName, Style},
};

use super::guid::{self, Guid};

const HEADER: usize = 20;
const ENTRY: usize = 12;

/// What a parent locator says.
#[derive(Clone, Debug)]
pub(super) struct Locator {
    /// The parent's DataWriteGuid.
    pub linkage: Guid,
    /// Where the text of it stands in the file, and its bytes.
    pub linkage_at: (u64, u64),
    /// Another that will do; [`guid::NONE`] if there is none.
    pub linkage2: Guid,
    /// The path to show: the first one that is stated.
    pub stated: String,
    /// Names to try, in order.
    pub names: Vec<Result<FileName, Fault>>,
}

/// The keys that mean something.
const KEYS: [&str; 5] =
    ["parent_linkage", "parent_linkage2", "relative_path", "absolute_win32_path", "volume_path"];

/// The locator of an item's bytes, which stand at `at` in `file`.
pub(super) fn parse(bytes: &[u8], (file, at): (FileId, u64)) -> Result<Locator, Fault> {
    let fault = |class, at, text: &str| Fault::at(class, Part::Metadata, file, at, text);
    if bytes.len() < HEADER {
        return Err(fault(Class::BadField, at, "the parent locator is shorter than its header"));
    }
    let kind: Guid = array(bytes, 0);
    if kind != guid::LOCATOR_TYPE {
        let text = format!("a parent locator of type {}", guid::text(&kind));
        return Err(fault(Class::UnknownFeature, at, &text));
    }
    let mut values: [Option<Value<'_>>; KEYS.len()] = [None; KEYS.len()];
    for number in 0..usize::from(le16(bytes, 18)) {
        let entry_at = at + wide(HEADER + number * ENTRY);
        let Some(entry) = bytes.get(HEADER + number * ENTRY..).and_then(<[u8]>::first_chunk) else {
            return Err(fault(
                Class::PointerOutsideFile,
                entry_at,
                "entries pass the locator's end",
            ));
        };
        let (key, value) = pair(bytes, entry, at).ok_or_else(|| {
            let text = "a key or value lies outside the parent locator";
            fault(Class::PointerOutsideFile, entry_at, text)
        })?;
        let known = KEYS.iter().position(|known| known.encode_utf16().eq(units(key)));
        let Some(known) = known else { continue };
        if values[known].replace(value).is_some() {
            let text = format!("the key {} stands twice", KEYS[known]);
            return Err(fault(Class::BadField, entry_at, &text));
        }
    }
    let [linkage, linkage2, relative, absolute, volume] = values;
    let id = |value: Value<'_>, key: &str| {
        let text = value.text();
        text.as_deref().and_then(guid::parse).ok_or_else(|| {
            let text = format!("{key} is no GUID: {:?}", text.unwrap_or_default());
            fault(Class::BadField, value.at, &text)
        })
    };
    let linkage = linkage
        .ok_or_else(|| fault(Class::MissingPart, at, "the parent locator has no parent_linkage"))?;
    let stated = [relative, absolute, volume].into_iter().flatten().find_map(|value| value.text());
    Ok(Locator {
        linkage: id(linkage, KEYS[0])?,
        linkage_at: (linkage.at, wide(linkage.bytes.len())),
        linkage2: linkage2.map_or(Ok(guid::NONE), |value| id(value, KEYS[1]))?,
        stated: stated.unwrap_or_default(),
        names: candidates(relative, [absolute, volume], file),
    })
}

/// A value and where it stands in the file.
#[derive(Clone, Copy)]
struct Value<'a> {
    bytes: &'a [u8],
    at: u64,
}

impl Value<'_> {
    /// Its text, if it is one.
    fn text(&self) -> Option<String> {
        let is_whole = self.bytes.len().is_multiple_of(2);
        let units: Vec<u16> = units(self.bytes).collect();
        String::from_utf16(&units).ok().filter(|_| is_whole)
    }
}

/// Key and value of an entry, if both are within the locator.
fn pair<'a>(bytes: &'a [u8], entry: &[u8; ENTRY], at: u64) -> Option<(&'a [u8], Value<'a>)> {
    let part = |offset: u32, len: u16| {
        let start = narrow(u64::from(offset));
        bytes.get(start..start + usize::from(len))
    };
    let value_at = le32(entry, 4);
    let key = part(le32(entry, 0), le16(entry, 8))?;
    let value = part(value_at, le16(entry, 10))?;
    Some((key, Value { bytes: value, at: at + u64::from(value_at) }))
}

fn units(bytes: &[u8]) -> impl Iterator<Item = u16> + '_ {
    bytes.chunks_exact(2).map(|unit| le16(unit, 0))
}

/// The names to try. A forbidden relative path is not made good by its last step: what it says is
/// told instead, unless another path names a file of the folder.
fn candidates(
    relative: Option<Value<'_>>,
    others: [Option<Value<'_>>; 2],
    file: FileId,
) -> Vec<Result<FileName, Fault>> {
    let check = |value: Value<'_>, text: Option<&str>| {
        // What is no text is checked as bytes that are no text either.
        let bytes = text.map_or(&b"\xff"[..], str::as_bytes);
        names::check_bytes(bytes, Style::Windows, Role::Parent, (file, value.at))
    };
    let mut names: Vec<Result<FileName, Fault>> = Vec::new();
    if let Some(value) = relative {
        let text = value.text();
        let name = check(value, text.as_deref());
        let leaf = name.is_ok().then(|| check(value, text.as_deref().map(last_step)));
        names.push(name);
        names.extend(leaf.filter(Result::is_ok));
    }
    for value in others.into_iter().flatten() {
        let text = value.text();
        names.extend(Some(check(value, text.as_deref().map(last_step))).filter(Result::is_ok));
    }
    let mut distinct: Vec<Result<FileName, Fault>> = Vec::new();
    for name in names {
        if !distinct.contains(&name) {
            distinct.push(name);
        }
    }
    distinct
}

fn last_step(path: &str) -> &str {
    path.rsplit(['\\', '/']).next().unwrap_or(path)
}
