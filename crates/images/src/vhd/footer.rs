//! The footer: at the end of every VHD, and a copy of it at the head of those with a table.
//!
//! Microsoft, Virtual Hard Disk Image Format Specification 1.0 (2006), "Hard Disk Footer Format".
//! Numbers are big-endian. The end counts where both are good: the head of a fixed disk is the
//! guest's, who can write there what looks like a copy.

use crate::{
    Class, Detected, Fault, FileId, Input, Part, Stop,
    bytes::{array, be16, be32, be64},
    detect, limits,
};

/// Bytes of a footer.
pub(super) const FOOTER: u64 = 512;

const COOKIE: &[u8; 8] = b"conectix";

/// What every sparse VHD's sectors can be numbered by: 32 bits of 512 bytes.
const SPARSE_BYTES_MAX: u64 = 1 << 41;

/// Cylinders × heads × sectors that stand for "more than a geometry can say".
const SECTORS_MAX: u64 = 65535 * 16 * 255;

/// How the guest's bytes are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Fixed,
    Dynamic,
    Differencing,
}

impl Kind {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Dynamic => "dynamic",
            Self::Differencing => "differencing",
        }
    }
}

/// A footer whose sum and fields are right.
#[derive(Clone, Debug)]
pub(super) struct Footer {
    pub(super) kind: Kind,
    pub(super) features: u32,
    /// Where the header of a disk with a table is.
    pub(super) header_at: u64,
    /// Seconds since 2000-01-01 UTC.
    pub(super) time: u32,
    creator: [u8; 4],
    creator_version: u32,
    creator_os: [u8; 4],
    /// The size as its creator means it: what the guest saw.
    pub(super) size: u64,
    pub(super) id: [u8; 16],
    pub(super) saved_state: bool,
}

/// The footer that counts, and what is odd about its copy.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) footer: Footer,
    /// Where the footer at the end begins, or the file ends that has none: data ends here.
    pub(super) end: u64,
    pub(super) notes: Vec<Fault>,
}

/// What stands in a place for a footer.
enum Look {
    Absent,
    Bad(Fault),
    Good(Box<[u8; 512]>),
}

/// Finds the footer of a file.
pub(super) fn find(file: FileId, input: &Input) -> Result<Found, Stop> {
    let len = input.len(file);
    let tail_at = len.saturating_sub(FOOTER);
    let tail = input.read_up_to(file, tail_at, FOOTER, Part::Footer)?;
    let front = look(input.read_up_to(file, 0, FOOTER, Part::Footer)?, file, 0);
    // Virtual PC before 2004 wrote 511 bytes.
    let end = if tail.starts_with(COOKIE) { tail_at } else { tail_at + 1 };
    let tail_kind = tail.get(60..64).map(|bytes| be32(bytes, 0));
    let mut notes = Vec::new();
    let (bytes, at, end) = match (look_at_tail(tail, file, end), front) {
        (Look::Good(bytes), front) => {
            let footer = Footer::parse(&bytes, file, end, &mut Vec::new())?;
            if footer.kind != Kind::Fixed {
                notes.extend(compare(&bytes, front, file)?);
            }
            (bytes, end, end)
        }
        // What looks like a copy at the head of a fixed disk is no witness.
        (Look::Bad(fault), _) if tail_kind == Some(2) => return Err(fault.into()),
        (Look::Bad(fault), Look::Good(bytes)) => {
            notes.push(fault);
            (bytes, 0, end)
        }
        (Look::Absent, Look::Good(bytes)) => {
            let text = "no footer at the end, only its copy at the head";
            let fault = Fault::at(Class::Truncated, Part::Footer, file, len, text);
            if Footer::parse(&bytes, file, 0, &mut Vec::new())?.kind == Kind::Fixed {
                return Err(fault.into());
            }
            notes.push(fault);
            (bytes, 0, len)
        }
        (Look::Bad(fault), _) | (Look::Absent, Look::Bad(fault)) => return Err(fault.into()),
        (Look::Absent, Look::Absent) => return Err(absent(file, input)?.into()),
    };
    let mut footer = Footer::parse(&bytes, file, at, &mut notes)?;
    footer.saved_state |= notes.iter().any(|note| note.class == Class::SavedState);
    Ok(Found { footer, end, notes })
}

/// The fault of a file with no footer at all.
fn absent(file: FileId, input: &Input) -> Result<Fault, Stop> {
    let header = input.read_up_to(file, FOOTER, 8, Part::Header)?;
    if header == super::header::COOKIE {
        let text = "a header without a footer, neither at the head nor at the end";
        return Ok(Fault::new(Class::BadMagic, Part::Footer, file, text));
    }
    let is_other = matches!(detect(input, file)?, Detected::Format(_) | Detected::Foreign(_));
    if is_other || input.len(file) <= FOOTER {
        let text = "no VHD: neither its head nor its end has the word conectix";
        return Ok(Fault::new(Class::BadMagic, Part::Footer, file, text));
    }
    let text = format!(
        "no footer at the end of {} bytes: no VHD, or a fixed one that was cut",
        input.len(file)
    );
    Ok(Fault::new(Class::Truncated, Part::Footer, file, text))
}

fn look_at_tail(tail: &[u8], file: FileId, at: u64) -> Look {
    if tail.starts_with(COOKIE) {
        return look(tail, file, at);
    }
    let mut padded = tail.get(1..).unwrap_or_default().to_vec();
    padded.push(0);
    look(&padded, file, at)
}

fn look(bytes: &[u8], file: FileId, at: u64) -> Look {
    let Some(bytes) = bytes.first_chunk::<512>().filter(|bytes| bytes.starts_with(COOKIE)) else {
        return Look::Absent;
    };
    match super::check_sum(bytes, 64) {
        Ok(()) => Look::Good(Box::new(*bytes)),
        Err(text) => Look::Bad(Fault::at(Class::BadChecksum, Part::Footer, file, at, text)),
    }
}

/// Holds the copy at the head against the footer at the end: notes where they differ in what does
/// not change a byte, a fault where they do.
fn compare(tail: &[u8; 512], front: Look, file: FileId) -> Result<Vec<Fault>, Fault> {
    let fault = |class, text: &str| Fault::at(class, Part::Footer, file, 0, text);
    let front = match front {
        Look::Absent => {
            return Ok(vec![fault(Class::CopiesDiffer, "no copy of the footer at the head")]);
        }
        Look::Bad(fault) => return Ok(vec![fault]),
        Look::Good(front) => front,
    };
    let same = |from: usize, to: usize| tail[from..to] == front[from..to];
    for (from, to, what) in [
        (12, 16, "version"),
        (16, 24, "place of the header"),
        (48, 56, "size"),
        (60, 64, "type"),
        (68, 84, "unique id"),
    ] {
        if !same(from, to) {
            let text = format!("head and end each have a good footer with a {what} of its own");
            return Err(fault(Class::CopiesDiffer, &text));
        }
    }
    let mut notes = Vec::new();
    if !same(84, 85) {
        let text = "one of the two footers says that a saved state belongs to the disk";
        notes.push(fault(Class::SavedState, text));
    }
    if !(same(8, 12) && same(24, 48) && same(56, 60)) {
        let text = "the footers differ in creator, time, geometry or features";
        notes.push(fault(Class::CopiesDiffer, text));
    }
    Ok(notes)
}

/// Whose word decides the size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SizeRule {
    /// The size field: the specification's, and Hyper-V's.
    Field,
    /// Its guests saw the geometry's product, never more than the field.
    GeometryWithin,
    /// Its guests saw the geometry's product, which may be more than the field.
    Geometry,
}

/// Programs by their word in the footer.
const CREATORS: [(&[u8; 4], &str, SizeRule); 11] = [
    (b"vpc ", "Virtual PC", SizeRule::GeometryWithin),
    (b"vs  ", "Virtual Server", SizeRule::GeometryWithin),
    (b"win ", "Hyper-V", SizeRule::Field),
    (b"qemu", "QEMU", SizeRule::Geometry),
    (b"qem2", "QEMU", SizeRule::Field),
    (b"vbox", "VirtualBox", SizeRule::Field),
    (b"d2v ", "Disk2vhd", SizeRule::Field),
    (b"tap\0", "XenServer", SizeRule::Field),
    (b"CTXS", "XenConverter", SizeRule::Field),
    (b"wa\0\0", "Azure", SizeRule::Field),
    (b"wa  ", "Azure", SizeRule::Field),
];

impl Footer {
    fn parse(
        bytes: &[u8; 512],
        file: FileId,
        at: u64,
        notes: &mut Vec<Fault>,
    ) -> Result<Self, Fault> {
        let fault = |class, field: u64, text: String| {
            Fault::at(class, Part::Footer, file, at + field, text)
        };
        let version = be32(bytes, 12);
        if version >> 16 != 1 {
            let text = format!("version {}.{}, known is 1.0", version >> 16, version & 0xffff);
            return Err(fault(Class::UnknownVersion, 12, text));
        }
        let kind = match be32(bytes, 60) {
            2 => Kind::Fixed,
            3 => Kind::Dynamic,
            4 => Kind::Differencing,
            other => {
                return Err(fault(Class::BadField, 60, format!("a disk of type {other}")));
            }
        };
        let field = be64(bytes, 48);
        let most = if kind == Kind::Fixed { limits::VIRTUAL_BYTES_MAX } else { SPARSE_BYTES_MAX };
        if field > most {
            let text = format!("a {} disk of {field} bytes, more than {most}", kind.word());
            return Err(fault(Class::Limit, 48, text));
        }
        if field == 0 || !field.is_multiple_of(512) {
            let text = format!("a size of {field} bytes is no number of sectors");
            return Err(fault(Class::BadField, 48, text));
        }
        let creator = array(bytes, 28);
        let sectors = u64::from(be16(bytes, 56)) * u64::from(bytes[58]) * u64::from(bytes[59]);
        let rule = CREATORS.iter().find(|(word, ..)| **word == creator).map(|(.., rule)| *rule);
        let size = match rule.unwrap_or(SizeRule::Field) {
            // A geometry that is empty or at its end says nothing.
            _ if sectors == 0 || sectors >= SECTORS_MAX || sectors * 512 == field => field,
            SizeRule::Field => field,
            rule => {
                let seen = if rule == SizeRule::Geometry { sectors * 512 } else { field };
                let text = format!(
                    "{field} bytes by the size, {} by the geometry that {} showed to its guests; \
                     read as {seen}",
                    sectors * 512,
                    String::from_utf8_lossy(&creator).trim_end(),
                );
                notes.push(fault(Class::SizeMismatch, 48, text));
                seen
            }
        };
        Ok(Self {
            kind,
            features: be32(bytes, 8),
            header_at: be64(bytes, 16),
            time: be32(bytes, 24),
            creator,
            creator_version: be32(bytes, 32),
            creator_os: array(bytes, 36),
            size,
            id: array(bytes, 68),
            saved_state: bytes[84] != 0,
        })
    }

    /// The program that made it, as it says: `win  10.0 on Wi2k (Hyper-V)`.
    pub(super) fn made_by(&self) -> String {
        let text = |word: &[u8; 4]| {
            let shown = word.iter().map(|byte| if byte.is_ascii_graphic() { *byte } else { b' ' });
            String::from_utf8_lossy(&shown.collect::<Vec<u8>>()).trim_end().to_owned()
        };
        let known = CREATORS.iter().find(|(word, ..)| **word == self.creator);
        let name = known.map_or(String::new(), |(_, name, _)| format!(" ({name})"));
        let (major, minor) = (self.creator_version >> 16, self.creator_version & 0xffff);
        format!("{} {major}.{minor} on {}{name}", text(&self.creator), text(&self.creator_os))
    }

    /// What its feature bits say; bit 1 is always set.
    pub(super) fn feature_words(&self) -> Vec<String> {
        let mut words = Vec::new();
        if self.features & 1 != 0 {
            words.push("temporary".to_owned());
        }
        if self.features & !3 != 0 {
            words.push(format!("unknown feature bits {:#x}", self.features & !3));
        }
        if self.saved_state {
            words.push("saved state".to_owned());
        }
        words
    }
}

/// The geometry of a disk of `sectors`, as the specification's appendix computes it.
pub(super) fn geometry(sectors: u64) -> (u16, u8, u8) {
    let total = sectors.min(SECTORS_MAX);
    let by = |heads: u64, per_track: u64| (total / per_track / heads, heads, per_track);
    let (cylinders, heads, per_track) = if total >= 65535 * 16 * 63 {
        by(16, 255)
    } else {
        let tracks = total / 17;
        let heads = tracks.div_ceil(1024).max(4);
        if tracks < heads * 1024 && heads <= 16 {
            by(heads, 17)
        } else if total / 31 < 16 * 1024 {
            by(16, 31)
        } else {
            by(16, 63)
        }
    };
    let byte = |value: u64| u8::try_from(value).expect("at most 255");
    (u16::try_from(cylinders).expect("at most 65535"), byte(heads), byte(per_track))
}

/// A footer as it is written.
pub(super) struct Written {
    pub(super) kind: Kind,
    pub(super) size: u64,
    pub(super) time: u32,
    pub(super) id: [u8; 16],
    /// Where the header is, for a disk with a table.
    pub(super) header_at: Option<u64>,
}

impl Written {
    /// Its bytes. The creator is Hyper-V's word, by which every reader takes the size field for the
    /// size; the geometry is there for those that look at nothing else.
    pub(super) fn bytes(&self) -> [u8; 512] {
        let mut bytes = [0; 512];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, COOKIE);
        put(8, &2_u32.to_be_bytes());
        put(12, &0x0001_0000_u32.to_be_bytes());
        put(16, &self.header_at.unwrap_or(u64::MAX).to_be_bytes());
        put(24, &self.time.to_be_bytes());
        put(28, b"win ");
        put(32, &0x000a_0000_u32.to_be_bytes());
        put(36, b"Wi2k");
        put(40, &self.size.to_be_bytes());
        put(48, &self.size.to_be_bytes());
        let (cylinders, heads, per_track) = geometry(self.size / 512);
        put(56, &cylinders.to_be_bytes());
        put(58, &[heads, per_track]);
        let kind: u32 = match self.kind {
            Kind::Fixed => 2,
            Kind::Dynamic => 3,
            Kind::Differencing => 4,
        };
        put(60, &kind.to_be_bytes());
        put(68, &self.id);
        let sum = super::sum(&bytes, 64);
        bytes[64..68].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}
