//! Which format a file has, by its magic numbers at head and tail.
//!
//! A guest writes the first bytes of a raw disk and of a fixed VHD: a magic there may be its work. So
//! a head that says one format and a VHD footer at the tail contradict each other, and nothing at all
//! is never taken for raw here: [`crate::Opening`] decides with the file's name.

use crate::{FileId, Format, Input, Part, Stop};

/// What a file looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// A format that is read here.
    Format(Format),
    /// Something else, by name.
    Foreign(Foreign),
    /// Head and footer each say a format of their own.
    Both(Format, Format),
    /// A partition table, and no magic of any format.
    Disk,
    /// Nothing that is known.
    Nothing,
}

/// What is known by its magic and not read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign(pub &'static str);

/// Bytes at a fixed place of the head that name something foreign.
const FOREIGN: [(usize, &[u8], &str); 14] = [
    (0, b"QED\0", "a QED image"),
    (0, b"WithoutFreeSpace", "a Parallels image"),
    (0, b"WithouFreSpacExt", "a Parallels image"),
    (0, b"Bochs Virtual HD Image", "a Bochs image"),
    (0, b"LUKS\xba\xbe", "an encrypted LUKS volume"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip stream"),
    (0, b"\xfd7zXZ\0", "an xz stream"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd stream"),
    (0, b"BZh", "a bzip2 stream"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"AFF", "an AFF image"),
    (0, b"EVF\x09\x0d\x0a\xff\0", "an EWF image"),
    (257, b"ustar", "a tar archive"),
];

/// Looks at head and tail of a file.
pub fn detect(input: &Input, file: FileId) -> Result<Detected, Stop> {
    let len = input.len(file);
    let head = input.read_up_to(file, 0, 4096, Part::Header)?;
    let tail_at = len.saturating_sub(512);
    let tail = input.read_up_to(file, tail_at, 512, Part::Footer)?;
    let volume = input.read_up_to(file, 32768, 6, Part::Header)?;
    let found = by_head(head);
    // Virtual PC before 2004 wrote footers of 511 bytes.
    let footer = tail.starts_with(b"conectix") || tail.get(1..).is_some_and(is_footer);
    Ok(match (found, footer) {
        (Detected::Format(Format::Vhd) | Detected::Nothing | Detected::Disk, true) => {
            Detected::Format(Format::Vhd)
        }
        (Detected::Format(format), true) => Detected::Both(format, Format::Vhd),
        (Detected::Foreign(_), true) => Detected::Format(Format::Vhd),
        (Detected::Nothing | Detected::Disk, false) if tail.starts_with(b"koly") => {
            Detected::Foreign(Foreign("an Apple disk image"))
        }
        (Detected::Nothing | Detected::Disk, false) if volume == b"\x01CD001" => {
            Detected::Foreign(Foreign("an ISO 9660 image"))
        }
        (found, _) => found,
    })
}

fn is_footer(bytes: &[u8]) -> bool {
    bytes.starts_with(b"conectix")
}

fn by_head(head: &[u8]) -> Detected {
    let starts = |at: usize, magic: &[u8]| head.get(at..).is_some_and(|at| at.starts_with(magic));
    if starts(0, b"QFI\xfb") {
        return if starts(4, &[0, 0, 0, 1]) {
            Detected::Foreign(Foreign("a qcow image of version 1"))
        } else {
            Detected::Format(Format::Qcow2)
        };
    }
    if starts(0, b"vhdxfile") {
        return Detected::Format(Format::Vhdx);
    }
    if starts(0, b"conectix") {
        return Detected::Format(Format::Vhd);
    }
    let sesparse = [0xbe, 0xba, 0xfe, 0xca, 0, 0, 0, 0];
    if starts(0, b"KDMV") || starts(0, b"COWD") || starts(0, &sesparse) || is_descriptor(head) {
        return Detected::Format(Format::Vmdk);
    }
    if starts(64, &0xbeda_107f_u32.to_le_bytes()) {
        return Detected::Format(Format::Vdi);
    }
    if let Some((.., name)) = FOREIGN.iter().find(|(at, magic, _)| starts(*at, magic)) {
        return Detected::Foreign(Foreign(name));
    }
    if starts(510, &[0x55, 0xaa]) { Detected::Disk } else { Detected::Nothing }
}

/// Whether a file begins as a VMDK descriptor does: its first line, in any case, after blanks.
fn is_descriptor(head: &[u8]) -> bool {
    const LINE: &[u8] = b"# disk descriptorfile";
    let head = head.trim_ascii_start();
    head.get(..LINE.len()).is_some_and(|line| line.eq_ignore_ascii_case(LINE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    fn detect_bytes(bytes: Vec<u8>) -> Detected {
        let folder = Folder::new().with("x", bytes);
        let mut input = Input::new(FileId(0), folder.len(FileId(0)));
        loop {
            let result = detect(&input, FileId(0));
            match input.step(result) {
                crate::Step::Need(need) => input.supply(folder.bytes(need)).unwrap(),
                crate::Step::Done(found) => return found,
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn magic_at_the_head_decides() {
        assert_eq!(detect_bytes(b"QFI\xfb\0\0\0\x03".to_vec()), Detected::Format(Format::Qcow2));
        assert_eq!(
            detect_bytes(b"QFI\xfb\0\0\0\x01".to_vec()),
            Detected::Foreign(Foreign("a qcow image of version 1"))
        );
        assert_eq!(
            detect_bytes(b"# Disk DescriptorFile\nversion=1".to_vec()),
            Detected::Format(Format::Vmdk)
        );
        assert_eq!(detect_bytes(Vec::new()), Detected::Nothing);
        assert_eq!(detect_bytes(vec![0; 70000]), Detected::Nothing);
    }

    #[test]
    fn footer_against_head_is_no_decision() {
        let mut fixed = vec![0; 4096];
        fixed.extend_from_slice(b"conectix");
        fixed.resize(4096 + 512, 0);
        assert_eq!(detect_bytes(fixed.clone()), Detected::Format(Format::Vhd));
        fixed[..4].copy_from_slice(b"QFI\xfb");
        assert_eq!(detect_bytes(fixed), Detected::Both(Format::Qcow2, Format::Vhd));
    }
}
