//! The files that are lost and come back, and the plain archive that holds them where no file
//! system can be made.
//!
//! An archive is one block of text that names each file with its place, and the files behind it,
//! each from the begin of a block on.

use ring::digest::{SHA256, digest};
use std::fmt::Write as _;

/// Files begin at multiples of this, here as in a file system.
pub(super) const BLOCK: usize = 4096;

/// First line of an archive.
const TITLE: &str = "files of the strandline demo\n";

/// Names, and thousands of lines.
const FILES: [(&str, usize); 6] = [
    ("accounts.csv", 12),
    ("diary.txt", 5),
    ("letter-to-grandma.txt", 1),
    ("novel.txt", 20),
    ("photo-list.txt", 3),
    ("thesis.tex", 16),
];

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Document {
    pub name: String,
    pub bytes: Vec<u8>,
}

/// All files.
pub(super) fn all() -> Vec<Document> {
    let one = |(name, thousands): (&str, usize)| {
        let mut text = String::new();
        for line in 1..=thousands * 1000 {
            let _ = writeln!(text, "{name}, line {line}: years of work are in this file"); // grows
        }
        Document { name: name.to_owned(), bytes: text.into_bytes() }
    };
    FILES.into_iter().map(one).collect()
}

/// The files as an archive.
pub(super) fn pack(documents: &[Document]) -> Vec<u8> {
    let mut list = TITLE.to_owned();
    let mut at = BLOCK;
    for Document { name, bytes } in documents {
        let _ = writeln!(list, "{at} {} {name}", bytes.len()); // a string takes all
        at += bytes.len().next_multiple_of(BLOCK);
    }
    let mut archive = list.into_bytes();
    for Document { bytes, .. } in documents {
        archive.resize(archive.len().next_multiple_of(BLOCK), 0);
        archive.extend(bytes);
    }
    archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    archive
}

/// The files in an archive; `None` if the disk holds none.
pub(super) fn unpack(disk: &[u8]) -> Option<Vec<Document>> {
    let list = std::str::from_utf8(disk.get(..BLOCK)?).ok()?;
    let list = list.strip_prefix(TITLE)?.trim_end_matches('\0');
    let mut documents = Vec::new();
    for line in list.lines() {
        let mut words = line.splitn(3, ' ');
        let at: usize = words.next()?.parse().ok()?;
        let length: usize = words.next()?.parse().ok()?;
        let bytes = disk.get(at..at.checked_add(length)?)?.to_vec();
        documents.push(Document { name: words.next()?.to_owned(), bytes });
    }
    Some(documents)
}

/// Offsets of the disk's blocks that hold contents of the files.
pub(super) fn places(disk: &[u8], documents: &[Document]) -> Vec<u64> {
    let mut known: Vec<Vec<u8>> = Vec::new();
    for piece in documents.iter().flat_map(|document| document.bytes.chunks(BLOCK)) {
        let mut block = piece.to_vec();
        block.resize(BLOCK, 0);
        known.push(block);
    }
    known.sort_unstable();
    let blocks = (0_u64..).step_by(BLOCK).zip(disk.chunks_exact(BLOCK));
    let held = blocks
        .filter(|(_, block)| known.binary_search_by(|probe| probe.as_slice().cmp(block)).is_ok());
    held.map(|(offset, _)| offset).collect()
}

/// A digest that `sha256sum` prints, too.
pub(super) fn sha256(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in digest(&SHA256, bytes).as_ref() {
        let _ = write!(text, "{byte:02x}"); // a string takes all
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_packed_is_unpacked() {
        let documents = all();
        let mut disk = pack(&documents);
        disk.resize(disk.len() + (1 << 20), 0);
        assert_eq!(unpack(&disk), Some(documents.clone()));
        assert_eq!(unpack(&vec![0; 1 << 20]), None);
        let places = places(&disk, &documents);
        let blocks: usize = documents.iter().map(|it| it.bytes.len().div_ceil(BLOCK)).sum();
        assert_eq!((places.len(), places.first()), (blocks, Some(&4096)));
    }

    #[test]
    fn the_digest_is_the_known_one() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256(b""), empty);
    }
}
