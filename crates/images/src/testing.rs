//! A driver over files in memory, for tests and fuzz targets: no file system, no threads.
//!
//! It answers as a careful opener does: names start in the folder of the file that states them, a
//! second name for the same file gives the same number.

use std::ops::Range;

use crate::{
    Answer, Ask, Chain, Class, Fault, FileId, Kind, Mapped, Need, OpenOptions, Opening, Part, Step,
    Stepped,
    bytes::{narrow, wide},
    layout::{Content, Layout, PIECES_MAX, TABLE_BYTES_MAX},
    packed::Unpacker,
};

/// Steps that one operation may take before it counts as endless.
const STEPS_MAX: u32 = 4_000_000;

/// Files by name; a file's number is its place.
#[derive(Clone, Debug, Default)]
pub struct Folder {
    files: Vec<(String, Vec<u8>)>,
    links: Vec<(String, FileId)>,
    refused: Vec<String>,
}

impl Folder {
    /// No files.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file; its name may have folders in it.
    #[must_use]
    pub fn with(mut self, name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.files.push((name.to_owned(), bytes.into()));
        self
    }

    /// Adds a second name for a file that is there.
    #[must_use]
    pub fn with_link(mut self, name: &str, target: &str) -> Self {
        let id = self.id(target).expect("a link to a file that is there");
        self.links.push((name.to_owned(), id));
        self
    }

    /// Makes a name one that must not be opened.
    #[must_use]
    pub fn with_refused(mut self, name: &str) -> Self {
        self.refused.push(name.to_owned());
        self
    }

    /// The number of a file.
    pub fn id(&self, name: &str) -> Option<FileId> {
        let place = self.files.iter().position(|(file, _)| file == name);
        let linked = || self.links.iter().find(|(link, _)| link == name).map(|(_, id)| *id);
        place.and_then(|place| u32::try_from(place).ok()).map(FileId).or_else(linked)
    }

    /// Length of a file in bytes.
    pub fn len(&self, file: FileId) -> u64 {
        wide(self.content(file).len())
    }

    /// The bytes that were asked for; fewer at the end of a file.
    pub fn bytes(&self, need: Need) -> Vec<u8> {
        let content = self.content(need.file);
        let start = narrow(need.offset.min(wide(content.len())));
        content[start..].iter().take(need.len).copied().collect()
    }

    /// What a careful opener answers.
    pub fn answer(&self, ask: &Ask) -> Answer {
        match ask {
            Ask::Open { from, name, .. } => {
                let path = self.beside(*from, name.as_str());
                if self.refused.contains(&path) {
                    return Answer::Refused("it is no regular file".to_owned());
                }
                match self.id(&path) {
                    Some(file) => Answer::Opened { file, len: self.len(file) },
                    None => Answer::Missing,
                }
            }
            Ask::List(query) => {
                let folder = self.beside(query.beside, "");
                let suffix = format!(".{}", query.suffix);
                let own = &self.files[place(query.beside)].0;
                let names = self.files.iter().map(|(name, _)| name).filter(|name| *name != own);
                let names = names.filter_map(|name| name.strip_prefix(&folder));
                let names = names
                    .filter(|name| !name.contains('/') && name.to_lowercase().ends_with(&suffix));
                Answer::Names(names.map(str::to_owned).collect())
            }
        }
    }

    fn content(&self, file: FileId) -> &[u8] {
        &self.files[place(file)].1
    }

    fn beside(&self, file: FileId, name: &str) -> String {
        let own = &self.files[place(file)].0;
        own.rfind('/').map_or_else(|| name.to_owned(), |slash| format!("{}{name}", &own[..=slash]))
    }
}

fn place(file: FileId) -> usize {
    narrow(u64::from(file.0))
}

/// Drives an operation to its end.
pub fn run<S: Stepped>(mut operation: S, folder: &Folder) -> Result<S::Output, Fault> {
    for _ in 0..STEPS_MAX {
        match operation.next() {
            Step::Need(need) => operation.supply(folder.bytes(need)),
            Step::Ask(ask) => operation.answer(folder.answer(&ask)),
            Step::Done(output) => return Ok(output),
            Step::Fail(fault) => return Err(fault),
        }
    }
    panic!("an operation took more than {STEPS_MAX} steps");
}

/// Opens an image of the folder and its chain; the suffix of the name is evidence as elsewhere.
pub fn open(folder: &Folder, name: &str, options: OpenOptions) -> Result<Chain, Fault> {
    let file = folder.id(name).expect("the image is in the folder");
    let suffix = name.rsplit_once('.').map(|(_, suffix)| suffix.to_owned());
    let options = OpenOptions { suffix: options.suffix.or(suffix), ..options };
    run(Opening::new(file, folder.len(file), options), folder)
}

/// The whole map of a range; fails as a read does not: damage is an extent.
pub fn map(folder: &Folder, chain: &mut Chain, range: Range<u64>) -> Result<Vec<Mapped>, Fault> {
    let end = range.end.min(chain.virtual_size());
    let (mut place, mut mapped) = (range.start, Vec::new());
    while place < end {
        let part = run(chain.map(place..end), folder)?;
        place = part.last().map_or(end, |last| last.extent.end());
        mapped.extend(part);
    }
    Ok(mapped)
}

/// Guest bytes; the first damage in the range fails it.
pub fn read(folder: &Folder, chain: &mut Chain, range: Range<u64>) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    let mut unpacker = Unpacker::default();
    for mapped in map(folder, chain, range)? {
        let len = narrow(mapped.extent.len);
        let fetched = |file, offset, len| {
            let bytes = folder.bytes(Need { file, offset, len });
            if bytes.len() < len {
                let text = format!("a map leads past the end of the file at byte {offset}");
                return Err(Fault::at(Class::Truncated, Part::Data, file, offset, text));
            }
            Ok(bytes)
        };
        match mapped.extent.kind {
            Kind::Data { file, offset } => bytes.extend(fetched(file, offset, len)?),
            Kind::Zero | Kind::Hole => bytes.resize(bytes.len() + len, 0),
            Kind::Parent => panic!("the map of a chain says parent"),
            Kind::Packed(packed) => {
                let held = fetched(packed.file, packed.offset, narrow(packed.len))?;
                let unit = unpacker.unpack(&packed, &held)?;
                let skip = narrow(u64::from(packed.skip));
                bytes.extend_from_slice(&unit[skip..skip + len]);
            }
            Kind::Inline { bytes: held, skip } => bytes.extend_from_slice(&held[skip..skip + len]),
            Kind::Corrupt(fault) => return Err(*fault),
        }
    }
    Ok(bytes)
}

/// All bytes that the guest sees.
pub fn read_all(folder: &Folder, chain: &mut Chain) -> Result<Vec<u8>, Fault> {
    let size = chain.virtual_size();
    read(folder, chain, 0..size)
}

/// The whole file of a layout, asked for in windows of `window` bytes; past its end the guest has zeroes.
pub fn render(layout: &dyn Layout, guest: &[u8], window: u64) -> Vec<u8> {
    let end = layout.len();
    assert!(layout.pieces(end..end.saturating_add(9)).is_empty(), "pieces past the end");
    let byte = |at: u64| guest.get(narrow(at)).copied().unwrap_or(0);
    render_range(layout, 0..end, window, &byte)
}

/// The same of a part of a file, over a guest of any size. Panics if the layout breaks its contract.
pub fn render_range(
    layout: &dyn Layout,
    range: Range<u64>,
    window: u64,
    guest: &dyn Fn(u64) -> u8,
) -> Vec<u8> {
    let (mut place, mut bytes) = (range.start, Vec::new());
    while place < range.end {
        let end = place.saturating_add(window).min(range.end);
        let pieces = layout.pieces(place..end);
        assert!(!pieces.is_empty() && pieces.len() <= PIECES_MAX, "{} pieces", pieces.len());
        let mut tables = 0;
        for piece in pieces {
            assert!(piece.start == place && piece.len > 0, "a gap at byte {place}");
            place += piece.len;
            match piece.content {
                Content::Table(table) => {
                    assert_eq!(wide(table.len()), piece.len, "a table as long as its piece");
                    tables += table.len();
                    bytes.extend(table);
                }
                Content::Zero => bytes.resize(bytes.len() + narrow(piece.len), 0),
                Content::Guest(from) => bytes.extend((from..from + piece.len).map(guest)),
            }
        }
        assert!(place <= end && tables <= TABLE_BYTES_MAX, "more than was asked for");
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Format;

    fn options(format: Option<Format>) -> OpenOptions {
        OpenOptions { format, ..OpenOptions::default() }
    }

    #[test]
    fn raw_image_gives_its_own_bytes() {
        let bytes: Vec<u8> = (0..3000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let folder = Folder::new().with("a.raw", bytes.clone());
        let mut chain = open(&folder, "a.raw", options(Some(Format::Raw))).unwrap();
        assert_eq!(chain.virtual_size(), 3000);
        assert_eq!(read_all(&folder, &mut chain).unwrap(), bytes);
        assert_eq!(read(&folder, &mut chain, 1000..1010).unwrap(), bytes[1000..1010]);
    }

    #[test]
    fn raw_is_not_guessed_from_nothing() {
        let class = |name: &str, bytes: &[u8]| {
            let folder = Folder::new().with(name, bytes);
            open(&folder, name, options(None)).err().map(|fault| fault.class)
        };
        assert_eq!(class("x.img", &[0; 4096]), Some(Class::UnsupportedFormat));
        assert_eq!(class("x.img", b""), Some(Class::UnsupportedFormat));
        assert_eq!(class("x.img", b"PK\x03\x04"), Some(Class::UnsupportedFormat));
        assert_eq!(class("x.raw", &[0; 4096]), None);
        assert_eq!(class("x.raw", b"QFI\xfb\0\0\0\x03"), Some(Class::FormatAmbiguous));
        let mut disk = [0; 4096];
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(class("x.img", &disk), None);
    }
}
