//! The text that describes a VMDK: identity, parent, and the files that make up the disk.
//!
//! Lines end in LF or CRLF; a zero byte ends the text, as sparse extents pad it. Keys are compared
//! without case. A line that is neither a comment, an assignment nor an extent is refused, and so is
//! a key that is there twice with two values: skipping either could drop a part of the disk.
//!
//! Names are text in the descriptor's `encoding`. UTF-8 and windows-1252 are understood; of others
//! only what is ASCII, since a wrong guess could open a wrong file.
//!
//! Source: VMware Virtual Disk Format 1.1 and 5.0, "The Descriptor File".

use std::collections::HashMap;

use crate::{Class, Fault, FileId, Part, bytes::wide, limits};

/// What a descriptor says.
#[derive(Debug)]
pub(super) struct Descriptor {
    /// `createType`, in VMware's spelling.
    pub variant: &'static str,
    /// `CID`: changes with the first write after opening.
    pub content: Option<u32>,
    /// `parentCID`, where it is not that of no parent.
    pub parent: Option<u32>,
    /// `parentFileNameHint`, as UTF-8 where its encoding is understood.
    pub hint: Option<Vec<u8>>,
    /// The parts of the disk in order.
    pub extents: Vec<ExtentLine>,
    /// Words on what is in use.
    pub features: Vec<String>,
    /// Bytes of all extents.
    pub virtual_size: u64,
}

/// One part of the disk.
#[derive(Debug)]
pub(super) struct ExtentLine {
    /// Bytes of the disk that it holds.
    pub len: u64,
    /// What its file is.
    pub kind: ExtentKind,
    /// Its file, as UTF-8 where the encoding is understood; empty for zeroes.
    pub name: Vec<u8>,
    /// Where its bytes begin in a flat file.
    pub offset: u64,
    /// Offset of the line in the file.
    pub at: u64,
}

/// What the file of an extent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExtentKind {
    /// The guest's bytes as they are: `FLAT`, `VMFS`.
    Flat,
    /// Grains by tables, hosted or COWD: `SPARSE`, `VMFSSPARSE`.
    Sparse,
    /// Grains by tables of 64-bit entries: `SESPARSE`.
    SeSparse,
    /// Nothing but zeroes, without a file.
    Zero,
}

/// The first line of every descriptor.
const MAGIC: &[u8] = b"# disk descriptorfile";

/// `parentCID` of an image without a parent.
pub(super) const NO_PARENT: u32 = u32::MAX;

/// Versions of the text: 1 everywhere, 2 to 4 with change tracking, SEsparse and encryption.
const VERSION_MAX: u64 = 4;

const VARIANTS: [&str; 18] = [
    "custom",
    "monolithicSparse",
    "monolithicFlat",
    "twoGbMaxExtentSparse",
    "twoGbMaxExtentFlat",
    "2GbMaxExtentSparse",
    "2GbMaxExtentFlat",
    "streamOptimized",
    "fullDevice",
    "partitionedDevice",
    "vmfs",
    "vmfsThin",
    "vmfsPreallocated",
    "vmfsEagerZeroedThick",
    "vmfsSparse",
    "vmfsThick",
    "vmfsLazyZeroedThick",
    "seSparse",
];

/// Kinds of disk whose bytes are on a device or in another program's store.
const ELSEWHERE: [&str; 6] = [
    "vmfsRawDeviceMap",
    "vmfsPassthroughRawDeviceMap",
    "vmfsRDM",
    "vmfsRDMP",
    "vmfsRaw",
    "vsanSparse",
];

/// Keys whose value decides something here.
const KEYS: [&str; 6] =
    ["version", "cid", "parentcid", "createtype", "parentfilenamehint", "encoding"];

/// Whether a file begins as a descriptor does.
pub(super) fn is_descriptor(head: &[u8]) -> bool {
    let head = head.trim_ascii_start();
    head.get(..MAGIC.len()).is_some_and(|line| line.eq_ignore_ascii_case(MAGIC))
}

/// Reads a descriptor of at most [`limits::DESCRIPTOR_BYTES_MAX`] that stands at `base` of `file`.
pub(super) fn parse(bytes: &[u8], file: FileId, base: u64) -> Result<Descriptor, Fault> {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let fault = |class, at: u64, text: String| Fault::at(class, Part::Descriptor, file, at, text);
    if text.trim_ascii().is_empty() {
        return Err(fault(Class::MissingPart, base, "there is no descriptor".to_owned()));
    }
    if !is_descriptor(text) {
        let text = "the text does not begin as a descriptor does".to_owned();
        return Err(fault(Class::BadMagic, base, text));
    }
    let mut lines = Lines {
        file,
        at: base,
        values: HashMap::new(),
        extents: Vec::new(),
        features: Vec::new(),
        virtual_size: 0,
    };
    for line in text.split(|byte| *byte == b'\n') {
        lines.take(line.trim_ascii())?;
        lines.at += wide(line.len()) + 1;
    }
    lines.finish(base)
}

/// Lines that were read so far.
struct Lines {
    file: FileId,
    /// Offset of the present line in the file.
    at: u64,
    values: HashMap<String, (Vec<u8>, u64)>,
    extents: Vec<ExtentLine>,
    features: Vec<String>,
    virtual_size: u64,
}

impl Lines {
    fn take(&mut self, line: &[u8]) -> Result<(), Fault> {
        let first = line.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        if line.is_empty() || line.starts_with(b"#") {
            return Ok(());
        }
        if is_word(first, "RW") || is_word(first, "RDONLY") || is_word(first, "NOACCESS") {
            return self.extent(line);
        }
        let Some(sign) = line.iter().position(|byte| *byte == b'=') else {
            let text = format!(
                "a line that is neither assignment nor extent: {:?}",
                String::from_utf8_lossy(&line[..line.len().min(80)])
            );
            return Err(self.fault(Class::BadField, text));
        };
        let key = String::from_utf8_lossy(line[..sign].trim_ascii()).to_ascii_lowercase();
        self.assign(key, unquoted(&line[sign + 1..]))
    }

    fn assign(&mut self, key: String, value: &[u8]) -> Result<(), Fault> {
        let names_crypt = value.to_ascii_lowercase().windows(5).any(|word| word == b"crypt");
        if key.starts_with("encryption.") || (key == "ddb.iofilters" && names_crypt) {
            let text = "the disk is encrypted".to_owned();
            return Err(self.fault(Class::UnsupportedEncryption, text));
        }
        match key.as_str() {
            "changetrackpath" => self.features.push("change tracking".to_owned()),
            "ddb.adaptertype" => {
                let adapter: String = String::from_utf8_lossy(value).chars().take(32).collect();
                self.features.push(format!("adapter {adapter}"));
            }
            known if KEYS.contains(&known) => {
                let at = self.at;
                if self.values.get(known).is_some_and(|(first, _)| first != value) {
                    return Err(self.fault(Class::BadField, format!("{key} has two values")));
                }
                self.values.entry(key).or_insert_with(|| (value.to_vec(), at));
            }
            _ => {}
        }
        Ok(())
    }

    /// `ACCESS SECTORS TYPE ["NAME" [OFFSET [partitionUUID "ID"]]]`; of devices also
    /// `deviceIdentifier`.
    fn extent(&mut self, line: &[u8]) -> Result<(), Fault> {
        if self.extents.len() >= limits::PART_FILES_MAX {
            let text = format!("more than {} extents", limits::PART_FILES_MAX);
            return Err(self.fault(Class::Limit, text));
        }
        let mut rest = line;
        let access = next_word(&mut rest);
        let sectors = next_word(&mut rest);
        let kind = next_word(&mut rest);
        let len = self.sectors(sectors, "size of an extent")?;
        let kind = self.kind(kind)?;
        if is_word(access, "NOACCESS") {
            let text = "an extent says that it must not be accessed".to_owned();
            return Err(self.fault(Class::NoAccess, text));
        }
        let end = self.virtual_size.checked_add(len);
        let Some(end) = end.filter(|end| *end <= limits::VIRTUAL_BYTES_MAX) else {
            let text = format!("extents of more than {} bytes", limits::VIRTUAL_BYTES_MAX);
            return Err(self.fault(Class::Limit, text));
        };
        let (name, offset) = if kind == ExtentKind::Zero {
            (Vec::new(), 0)
        } else {
            self.name_and_offset(rest.trim_ascii())?
        };
        if offset != 0 && kind != ExtentKind::Flat {
            let text = format!("a sparse extent that begins at byte {offset} of its file");
            return Err(self.fault(Class::BadField, text));
        }
        self.virtual_size = end;
        self.extents.push(ExtentLine { len, kind, name, offset, at: self.at });
        Ok(())
    }

    fn kind(&self, word: &[u8]) -> Result<ExtentKind, Fault> {
        let text = || format!("an extent of type {:?}", String::from_utf8_lossy(word));
        match word.to_ascii_uppercase().as_slice() {
            b"FLAT" | b"VMFS" => Ok(ExtentKind::Flat),
            b"SPARSE" | b"VMFSSPARSE" => Ok(ExtentKind::Sparse),
            b"SESPARSE" => Ok(ExtentKind::SeSparse),
            b"ZERO" => Ok(ExtentKind::Zero),
            b"VMFSRDM" | b"VMFSRDMP" | b"VMFSRAW" | b"VSANSPARSE" => {
                Err(self.fault(Class::UnsupportedFormat, text()))
            }
            _ => Err(self.fault(Class::UnknownFeature, text())),
        }
    }

    fn name_and_offset(&self, rest: &[u8]) -> Result<(Vec<u8>, u64), Fault> {
        let quoted = rest.strip_prefix(b"\"");
        // A quote behind a backslash is part of the name: no file's name ends in one.
        let ends = |pair: &[u8]| pair[1] == b'"' && pair[0] != b'\\';
        let end = quoted.and_then(|_| rest.windows(2).position(ends));
        let (Some(quoted), Some(end)) = (quoted, end) else {
            let text = "an extent without the name of its file".to_owned();
            return Err(self.fault(Class::BadField, text));
        };
        let mut rest = &quoted[end + 1..];
        let offset = match next_word(&mut rest) {
            [] => 0,
            word => self.sectors(word, "offset of an extent")?,
        };
        let more = next_word(&mut rest);
        if !(more.is_empty() || is_word(more, "partitionUUID") || is_word(more, "deviceIdentifier"))
        {
            let text = format!("an extent with {:?} behind it", String::from_utf8_lossy(more));
            return Err(self.fault(Class::BadField, text));
        }
        Ok((quoted[..end].to_vec(), offset))
    }

    /// A number of sectors in bytes.
    fn sectors(&self, word: &[u8], what: &str) -> Result<u64, Fault> {
        let digits = std::str::from_utf8(word).unwrap_or_default();
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            let text = format!("the {what} is {:?} sectors", String::from_utf8_lossy(word));
            return Err(self.fault(Class::BadField, text));
        }
        let bytes = digits.parse::<u64>().ok().and_then(|sectors| sectors.checked_mul(512));
        bytes
            .filter(|bytes| *bytes <= limits::VIRTUAL_BYTES_MAX)
            .ok_or_else(|| self.fault(Class::Limit, format!("the {what} is {digits} sectors")))
    }

    fn finish(mut self, base: u64) -> Result<Descriptor, Fault> {
        self.at = base;
        self.version()?;
        let variant = self.variant()?;
        if self.extents.is_empty() {
            return Err(self.fault(Class::MissingPart, "no extent is listed".to_owned()));
        }
        let content = self.id("cid")?;
        let parent = self.id("parentcid")?;
        let hint = self.values.get("parentfilenamehint").map(|(hint, _)| hint.clone());
        if parent.is_none() && hint.is_some() {
            let text = "a parent is named, and parentCID is missing".to_owned();
            return Err(self.fault(Class::BadField, text));
        }
        let encoding = self.values.get("encoding").map(|(word, _)| word.to_ascii_lowercase());
        let latin = encoding.as_deref() == Some(b"windows-1252");
        for extent in &mut self.extents {
            decode(&mut extent.name, latin);
        }
        Ok(Descriptor {
            variant,
            content,
            parent: parent.filter(|parent| *parent != NO_PARENT),
            hint: hint.map(|mut hint| {
                decode(&mut hint, latin);
                hint
            }),
            extents: self.extents,
            features: self.features,
            virtual_size: self.virtual_size,
        })
    }

    fn version(&self) -> Result<(), Fault> {
        let Some((word, at)) = self.values.get("version") else { return Ok(()) };
        let version = std::str::from_utf8(word).ok().and_then(|word| word.parse::<u64>().ok());
        if version.is_some_and(|version| (1..=VERSION_MAX).contains(&version)) {
            return Ok(());
        }
        let text = format!("a descriptor of version {:?}", String::from_utf8_lossy(word));
        Err(Fault::at(Class::UnknownVersion, Part::Descriptor, self.file, *at, text))
    }

    fn variant(&self) -> Result<&'static str, Fault> {
        let Some((word, at)) = self.values.get("createtype") else {
            return Err(self.fault(Class::BadField, "createType is missing".to_owned()));
        };
        if let Some(variant) = VARIANTS.into_iter().find(|known| is_word(word, known)) {
            return Ok(variant);
        }
        let is_elsewhere = ELSEWHERE.into_iter().any(|known| is_word(word, known));
        let class = if is_elsewhere { Class::UnsupportedFormat } else { Class::UnknownFeature };
        let text = format!("createType is {:?}", String::from_utf8_lossy(word));
        Err(Fault::at(class, Part::Descriptor, self.file, *at, text))
    }

    /// A content id: up to eight hexadecimal digits.
    fn id(&self, key: &str) -> Result<Option<u32>, Fault> {
        let Some((word, at)) = self.values.get(key) else { return Ok(None) };
        let digits = std::str::from_utf8(word).unwrap_or_default();
        let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = u32::from_str_radix(digits, 16).ok().filter(|_| is_hex);
        id.map(Some).ok_or_else(|| {
            let text = format!("{key} is {:?}", String::from_utf8_lossy(word));
            Fault::at(Class::BadField, Part::Descriptor, self.file, *at, text)
        })
    }

    fn fault(&self, class: Class, text: String) -> Fault {
        Fault::at(class, Part::Descriptor, self.file, self.at, text)
    }
}

fn is_word(found: &[u8], word: &str) -> bool {
    found.eq_ignore_ascii_case(word.as_bytes())
}

fn next_word<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let text = rest.trim_ascii_start();
    let end = text.iter().position(u8::is_ascii_whitespace).unwrap_or(text.len());
    let (word, after) = text.split_at(end);
    *rest = after;
    word
}

fn unquoted(value: &[u8]) -> &[u8] {
    let value = value.trim_ascii();
    value.strip_prefix(b"\"").and_then(|inner| inner.strip_suffix(b"\"")).unwrap_or(value)
}

/// Bytes 0x80 to 0x9f of windows-1252; 0 where it has no letter.
const LATIN: [u16; 32] = [
    0x20ac, 0, 0x201a, 0x0192, 0x201e, 0x2026, 0x2020, 0x2021, 0x02c6, 0x2030, 0x0160, 0x2039,
    0x0152, 0, 0x017d, 0, 0, 0x2018, 0x2019, 0x201c, 0x201d, 0x2022, 0x2013, 0x2014, 0x02dc,
    0x2122, 0x0161, 0x203a, 0x0153, 0, 0x017e, 0x0178,
];

/// Turns a name in windows-1252 into UTF-8. Left as it is where it has no such letters; the check
/// of names then refuses it.
fn decode(name: &mut Vec<u8>, latin: bool) {
    if !latin {
        return;
    }
    let letter = |byte: &u8| match byte {
        0x80..=0x9f => {
            let code = LATIN[usize::from(byte - 0x80)];
            char::from_u32(u32::from(code)).filter(|_| code != 0)
        }
        byte => Some(char::from(*byte)),
    };
    if let Some(text) = name.iter().map(letter).collect::<Option<String>>() {
        *name = text.into_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(lines: &str) -> Vec<u8> {
        let head = "# Disk DescriptorFile\nversion=1\nCID=0000002a\nparentCID=ffffffff\n";
        format!("{head}createType=\"custom\"\n{lines}\n").into_bytes()
    }

    fn class(text: &[u8]) -> Class {
        parse(text, FileId(0), 0).unwrap_err().class
    }

    #[test]
    fn spelling_is_free_where_vmware_is() {
        let text = b"# disk descriptorfile\r\nversion = 1\r\ncid= 2A\r\nParentCID=FFFFFFFF\r\n\
            createtype = \"MonolithicFlat\" \r\n rw  8 flat \"a b.vmdk\"  16 \r\n\
            RDONLY 8 ZERO\r\n\0trailing";
        let found = parse(text, FileId(0), 512).unwrap();
        assert_eq!(found.variant, "monolithicFlat");
        assert_eq!((found.content, found.parent, found.virtual_size), (Some(42), None, 8192));
        assert_eq!(
            (found.extents[0].name.as_slice(), found.extents[0].offset),
            (&b"a b.vmdk"[..], 8192)
        );
        assert_eq!(found.extents[1].kind, ExtentKind::Zero);
        let line = text.windows(4).position(|four| four == b" rw ").unwrap();
        assert_eq!(found.extents[0].at, 512 + wide(line));
    }

    #[test]
    fn lines_that_mean_nothing_are_refused() {
        for (lines, class_of) in [
            ("RW 8 ZERO\nnonsense", Class::BadField),
            ("RW -8 ZERO", Class::BadField),
            ("RW 8 FLAT", Class::BadField),
            ("RW 8 FLAT \"x", Class::BadField),
            ("RW 8 FLAT \"x\" -1", Class::BadField),
            ("RW 8 FLAT \"\" 0 more", Class::BadField),
            ("RW 8 FLAT \"x\" what", Class::BadField),
            ("RW 8 SPARSE \"x\" 1", Class::BadField),
            ("RW 8 ZERO\nCID=2b", Class::BadField),
            ("RW 8 ZERO\nversion=9", Class::BadField),
            ("RW 8 ZERO\nddb.iofilters=\"vmwarevmcrypt\"", Class::UnsupportedEncryption),
            ("RW 8 WHAT \"x\"", Class::UnknownFeature),
            ("RW 8 VMFSRDM \"x\"", Class::UnsupportedFormat),
            ("NOACCESS 8 ZERO", Class::NoAccess),
            ("RW 99999999999999999999999 ZERO", Class::Limit),
            ("RW 18014398509481983 ZERO\nRW 18014398509481983 ZERO", Class::Limit),
            ("", Class::MissingPart),
        ] {
            assert_eq!(class(&text(lines)), class_of, "{lines:?}");
        }
        assert_eq!(class(&text(&"RW 1 ZERO\n".repeat(8193))), Class::Limit);
        assert_eq!(class(&[0; 512]), Class::MissingPart);
        assert_eq!(class(b"# something else"), Class::BadMagic);
        let old = b"# Disk DescriptorFile\nversion=5\ncreateType=\"custom\"\nRW 8 ZERO\n";
        assert_eq!(class(old), Class::UnknownVersion);
        let named = b"# Disk DescriptorFile\ncreateType=\"custom\"\nparentFileNameHint=\"x\"\n\
            RW 8 ZERO\n";
        assert_eq!(class(named), Class::BadField);
        let nameless = b"# Disk DescriptorFile\nRW 8 ZERO\n";
        assert_eq!(class(nameless), Class::BadField);
        for (word, class_of) in
            [("quantum", Class::UnknownFeature), ("vmfsRawDeviceMap", Class::UnsupportedFormat)]
        {
            let text = format!("# Disk DescriptorFile\ncreateType=\"{word}\"\nRW 8 ZERO\n");
            assert_eq!(class(text.as_bytes()), class_of);
        }
    }

    #[test]
    fn content_ids_are_hexadecimal() {
        for word in ["", "g", "+1", "123456789"] {
            let text =
                format!("# Disk DescriptorFile\nCID={word}\ncreateType=\"custom\"\nRW 8 ZERO\n");
            assert_eq!(class(text.as_bytes()), Class::BadField, "{word:?}");
        }
    }

    #[test]
    fn windows_1252_names_become_utf_8() {
        let mut lines = text("encoding=\"windows-1252\"\nRW 8 FLAT \"");
        lines.pop();
        lines.extend_from_slice(b"\xe4\x80.vmdk\"\n");
        let found = parse(&lines, FileId(0), 0).unwrap();
        assert_eq!(found.extents[0].name, "ä€.vmdk".as_bytes());
        let mut name = b"\x81".to_vec();
        decode(&mut name, true);
        assert_eq!(name, b"\x81");
    }
}
