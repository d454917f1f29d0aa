//! VMDK images: a text descriptor, and the extents it lists.
//!
//! ```text
//! descriptor ─▶ pieces of the disk ─▶ flat: the file's bytes from an offset on
//! (a file of its own, or within       zero: nothing
//!  a hosted sparse extent)            sparse: header ─▶ directory ─▶ table ─▶ grain
//! ```
//!
//! - Read: monolithic and split images, flat and sparse; `vmfs` and its sparse formats COWD and
//!   SEsparse; `streamOptimized`, with its directory at either end; deltas of all of these.
//! - An extent alone is refused: without its descriptor nobody knows whether it has a parent.
//! - Refused: devices (raw device maps), encryption, an SEsparse journal that waits for its replay.
//! - Of a split image the headers of the first [`EAGER`] sparse extents are read when it is opened,
//!   the others when they are first needed; a bad one then damages its own range.
//!
//! "Extent" is VMware's word for a part file; what this crate calls an extent is a run of guest
//! bytes. Here a part of the disk is a [`Piece`].

use std::ops::Range;

use crate::{
    Class, Extent, Facts, Fault, FileId, Format, Identity, Image, Input, Kind, OtherFile, Parent,
    Part, Report, Request, Role, Stop,
    cache::Cache,
    input::Opened,
    limits,
    names::{self, Style},
    vmdk::{
        claims::Claims,
        descriptor::{Descriptor, ExtentKind, ExtentLine},
        grains::{Grains, Shared},
        header::{COWD, HOSTED, SE, SECTOR, Sparse},
    },
};

mod check;
mod claims;
mod descriptor;
mod grains;
mod header;
pub(crate) mod relink;
pub mod stream;
#[cfg(test)]
mod tests;
pub mod write;
#[cfg(test)]
mod write_tests;

/// Sparse extents whose header is read at opening.
const EAGER: u32 = 64;

/// An image: its pieces in order, without gaps from 0 on.
#[derive(Debug)]
struct Vmdk {
    facts: Facts,
    pieces: Vec<Piece>,
    shared: Shared,
    cursor: check::Cursor,
}

/// A part of the disk.
#[derive(Debug)]
struct Piece {
    /// Guest offset.
    start: u64,
    /// Length in bytes, never 0.
    len: u64,
    /// Where the descriptor tells of it.
    line: (FileId, u64),
    store: Store,
}

/// Where the bytes of a piece are.
#[derive(Debug)]
enum Store {
    Zero,
    Flat {
        file: FileId,
        offset: u64,
    },
    /// A sparse extent whose header was not read yet.
    Closed {
        file: FileId,
        kind: ExtentKind,
    },
    Sparse(Box<Grains>),
    /// A sparse extent whose header is no good.
    Damaged(Fault),
}

/// Opens an image of this format.
pub(crate) fn open(request: &Request<'_>, input: &Input) -> Result<Box<dyn Image>, Stop> {
    let file = request.file;
    if let Some(name) = request.snapshot {
        let text = format!("a VMDK image has no snapshot {name:?} within");
        return Err(Fault::new(Class::MissingPart, Part::Snapshots, file, text).into());
    }
    let head = input.read_up_to(file, 0, SECTOR, Part::Header)?;
    let image = if head.starts_with(HOSTED) {
        open_embedded(file, input)?
    } else if descriptor::is_descriptor(head) {
        open_separate(file, input)?
    } else {
        let is_extent = head.starts_with(COWD) || head.starts_with(&SE);
        let (class, text) = if is_extent {
            (Class::MissingPart, "this is an extent; the image is opened by its descriptor")
        } else {
            (Class::BadMagic, "neither a descriptor nor a sparse extent")
        };
        return Err(Fault::at(class, Part::Header, file, 0, text).into());
    };
    Ok(Box::new(image))
}

/// A hosted sparse extent with its descriptor within.
fn open_embedded(file: FileId, input: &Input) -> Result<Vmdk, Stop> {
    let sparse = header::hosted(input, file)?;
    let Some((at, len)) = sparse.descriptor else {
        let text = "this is an extent; the image is opened by its descriptor";
        return Err(Fault::at(Class::MissingPart, Part::Descriptor, file, 28, text).into());
    };
    let bytes = input.read(file, at, len, Part::Descriptor)?;
    let descriptor = descriptor::parse(bytes, file, at)?;
    let [line] = descriptor.extents.as_slice() else {
        let text = format!(
            "a descriptor within an extent lists {} extents, not one",
            descriptor.extents.len()
        );
        return Err(Fault::at(Class::BadField, Part::Descriptor, file, at, text).into());
    };
    if line.kind != ExtentKind::Sparse {
        let text = "a descriptor within a sparse extent lists one of another type";
        return Err(Fault::at(Class::BadField, Part::Descriptor, file, line.at, text).into());
    }
    let mut image = Vmdk::new(&descriptor, (file, at));
    let grains = image.sparse(sparse, 0, (line.len, (file, line.at)))?;
    image.add(line.len, (file, line.at), Store::Sparse(Box::new(grains)));
    Ok(image)
}

/// A descriptor in a file of its own.
fn open_separate(file: FileId, input: &Input) -> Result<Vmdk, Stop> {
    let len = input.len(file);
    if len > limits::DESCRIPTOR_BYTES_MAX {
        let text = format!("a descriptor of {len} bytes");
        return Err(Fault::at(Class::Limit, Part::Descriptor, file, 0, text).into());
    }
    let descriptor = descriptor::parse(input.read(file, 0, len, Part::Descriptor)?, file, 0)?;
    let mut image = Vmdk::new(&descriptor, (file, 0));
    // Bytes of files and who has them: of a sparse extent all, of the descriptor too.
    let mut taken = vec![(file, 0, u64::MAX, 0)];
    for (line, index) in descriptor.extents.iter().zip(0_u32..) {
        if index == EAGER {
            ask_for_next(&descriptor.extents, file, input)?;
        }
        let store = match line.kind {
            ExtentKind::Zero => Store::Zero,
            kind => {
                let other = open_extent(line, file, input)?;
                let (start, len) = match kind {
                    ExtentKind::Flat => (line.offset, line.len),
                    _ => (0, u64::MAX),
                };
                taken.push((other.file, start, start.saturating_add(len), line.at));
                let store = match kind {
                    ExtentKind::Flat => Store::Flat { file: other.file, offset: line.offset },
                    kind if index < EAGER => {
                        let is_se = kind == ExtentKind::SeSparse;
                        let sparse = Sparse::open(input, other.file, is_se)?;
                        let of_line = (line.len, (file, line.at));
                        Store::Sparse(Box::new(image.sparse(sparse, index, of_line)?))
                    }
                    kind => Store::Closed { file: other.file, kind },
                };
                image.facts.files.push(other);
                store
            }
        };
        image.add(line.len, (file, line.at), store);
    }
    apart(taken, file)?;
    Ok(image)
}

/// Asks for the next file of a long list. Files are asked for in order, so those that were are found
/// by halves: going through all of them for each one more takes minutes where there are thousands.
fn ask_for_next(lines: &[ExtentLine], from: FileId, input: &Input) -> Result<(), Stop> {
    let (mut known, mut past) = (0, lines.len());
    while known < past {
        let middle = usize::midpoint(known, past);
        let is_known = match &lines[middle] {
            line if line.kind == ExtentKind::Zero => true,
            line => match open_extent(line, from, input) {
                Ok(_) => true,
                Err(Stop::Fault(fault)) => return Err(fault.into()),
                Err(_) => false,
            },
        };
        if is_known { known = middle + 1 } else { past = middle }
    }
    match lines.get(known) {
        Some(line) => open_extent(line, from, input).map(|_| ()),
        None => Ok(()),
    }
}

/// The file of an extent, opened.
fn open_extent(line: &ExtentLine, from: FileId, input: &Input) -> Result<OtherFile, Stop> {
    let role = Role::Extent;
    let name = names::check_bytes(&line.name, Style::Windows, role, (from, line.at))?;
    let fault = |class, text: String| Fault::at(class, Part::Descriptor, from, line.at, text);
    match input.file(from, role, &name)? {
        Opened::File(file) => Ok(OtherFile { role, name: name.as_str().to_owned(), file }),
        Opened::Missing => {
            let text = format!("the extent {:?} is not there", name.as_str());
            Err(fault(names::missing(role), text).into())
        }
        Opened::Refused(why) => Err(fault(names::forbidden(role), format!("{name}: {why}")).into()),
    }
}

/// Whether no two extents have the same bytes of a file.
fn apart(mut taken: Vec<(FileId, u64, u64, u64)>, file: FileId) -> Result<(), Fault> {
    taken.sort_unstable();
    let mut reach = (file, 0);
    for (of, start, end, at) in taken {
        if reach.0 == of && start < reach.1 {
            let text = "an extent has bytes of a file that another extent or the descriptor has";
            return Err(Fault::at(Class::Overlap, Part::Descriptor, file, at, text));
        }
        reach = (of, end);
    }
    Ok(())
}

impl Vmdk {
    fn new(descriptor: &Descriptor, (file, at): (FileId, u64)) -> Self {
        let mut facts = Facts::new(Format::Vmdk, descriptor.variant, descriptor.virtual_size, 0);
        facts.features.clone_from(&descriptor.features);
        if let Some(content) = descriptor.content {
            facts.identity = Identity::Vmdk { content };
        }
        facts.parent = descriptor.parent.map(|content| parent(descriptor, content, (file, at)));
        let shared = Shared { pieces: Cache::new(limits::CACHE_BYTES), claims: Claims::default() };
        Self { facts, pieces: Vec::new(), shared, cursor: check::Cursor::default() }
    }

    /// Takes the next piece in.
    fn add(&mut self, len: u64, line: (FileId, u64), store: Store) {
        let start = self.pieces.last().map_or(0, Piece::end);
        if len > 0 {
            self.pieces.push(Piece { start, len, line, store });
        }
    }

    /// A sparse extent that is opened with the image: what it says of itself goes into the facts.
    fn sparse(
        &mut self,
        mut sparse: Sparse,
        index: u32,
        of_line: (u64, (FileId, u64)),
    ) -> Result<Grains, Fault> {
        let facts = &mut self.facts;
        if facts.unit == 0 {
            facts.unit = sparse.grain;
        }
        for feature in sparse.features.drain(..) {
            if !facts.features.contains(&feature) {
                facts.features.push(feature);
            }
        }
        facts.notes.append(&mut sparse.notes);
        facts.read_only = facts.read_only.or(sparse.read_only);
        admit_extent(sparse, index, of_line, &mut self.shared.claims)
    }

    /// Opens a sparse extent that is still closed: whether it was, and what is odd about it.
    fn ready(
        pieces: &mut [Piece],
        shared: &mut Shared,
        index: usize,
        input: &Input,
    ) -> Result<(bool, Vec<Fault>), Stop> {
        let piece = &mut pieces[index];
        let Store::Closed { file, kind } = piece.store else { return Ok((false, Vec::new())) };
        let extent = u32::try_from(index).unwrap_or(u32::MAX);
        let mut notes = Vec::new();
        let opened = match Sparse::open(input, file, kind == ExtentKind::SeSparse) {
            Err(Stop::Fault(fault)) => Err(fault),
            Err(stop) => return Err(stop),
            Ok(mut sparse) => {
                notes.append(&mut sparse.notes);
                admit_extent(sparse, extent, (piece.len, piece.line), &mut shared.claims)
            }
        };
        piece.store = match opened {
            Ok(grains) => Store::Sparse(Box::new(grains)),
            Err(fault) => Store::Damaged(fault),
        };
        Ok((true, notes))
    }
}

/// A sparse extent, if it is as large as the descriptor says. Some programs round the size in its
/// header up to whole grains.
fn admit_extent(
    mut sparse: Sparse,
    index: u32,
    (len, (file, at)): (u64, (FileId, u64)),
    claims: &mut Claims,
) -> Result<Grains, Fault> {
    let rounded = len.checked_next_multiple_of(sparse.grain);
    if sparse.capacity != len && Some(sparse.capacity) != rounded {
        let text =
            format!("the descriptor gives an extent {len} bytes, its header {}", sparse.capacity);
        return Err(Fault::at(Class::SizeMismatch, Part::Descriptor, file, at, text));
    }
    sparse.capacity = len;
    Grains::new(sparse, index, claims)
}

/// The parent that a descriptor states. Where its name may not be followed as it stands, a file of
/// that name beside the child is tried: VMware writes whole paths.
fn parent(descriptor: &Descriptor, content: u32, (file, at): (FileId, u64)) -> Parent {
    let check = |name: &[u8]| names::check_bytes(name, Style::Windows, Role::Parent, (file, at));
    let names = match descriptor.hint.as_deref() {
        None => {
            let text = format!("the parent of content id {content:08x} is not named");
            vec![Err(Fault::at(Class::ParentMissing, Part::Descriptor, file, at, text))]
        }
        Some(hint) => {
            let stated = check(hint);
            let alone = hint.rsplit(|byte| matches!(byte, b'/' | b'\\')).next();
            let beside = alone.filter(|_| stated.is_err()).map(check).filter(Result::is_ok);
            std::iter::once(stated).chain(beside).collect()
        }
    };
    let stated = descriptor.hint.as_deref().unwrap_or_default();
    Parent {
        stated: String::from_utf8_lossy(stated).into_owned(),
        names,
        format: Some(Format::Vmdk),
        by_identity: None,
        identity: Identity::Vmdk { content },
    }
}

impl Piece {
    /// Guest offset just after it.
    fn end(&self) -> u64 {
        self.start + self.len
    }

    /// The map of a range of this piece, which is flat.
    fn map_flat(&self, range: Range<u64>, input: &Input) -> Vec<Extent> {
        let Store::Flat { file, offset } = self.store else { return Vec::new() };
        let len = input.len(file);
        // Both within 63 bits, by the limits of the descriptor.
        let first = offset + (range.start - self.start);
        let there = len.saturating_sub(first).min(range.end - range.start);
        let mut extents = Vec::new();
        if there > 0 {
            let kind = Kind::Data { file, offset: first };
            extents.push(Extent { start: range.start, len: there, kind });
        }
        let start = range.start + there;
        if start < range.end {
            let (class, text) = if offset > 0 && offset >= len {
                (Class::PointerOutsideFile, format!("an extent begins at byte {offset}"))
            } else {
                (Class::Truncated, format!("an extent ends at byte {}", offset + self.len))
            };
            let text = format!("{text} of a file of {len}");
            let fault = Fault::at(class, Part::Descriptor, self.line.0, self.line.1, text);
            let kind = Kind::Corrupt(Box::new(fault));
            extents.push(Extent { start, len: range.end - start, kind });
        }
        extents
    }
}

impl Image for Vmdk {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn map(&mut self, range: Range<u64>, input: &Input) -> Result<Vec<Extent>, Stop> {
        let index = self.pieces.partition_point(|piece| piece.end() <= range.start);
        Self::ready(&mut self.pieces, &mut self.shared, index, input)?;
        let piece = &mut self.pieces[index];
        let (base, end) = (piece.start, range.end.min(piece.end()));
        let whole = |kind| vec![Extent { start: range.start, len: end - range.start, kind }];
        Ok(match &mut piece.store {
            Store::Zero => whole(Kind::Zero),
            Store::Flat { .. } => piece.map_flat(range.start..end, input),
            Store::Damaged(fault) => whole(Kind::Corrupt(Box::new(fault.clone()))),
            Store::Closed { .. } => unreachable!("made ready here above"),
            Store::Sparse(grains) => {
                let is_delta = self.facts.parent.is_some();
                let unheld = if is_delta { Kind::Parent } else { Kind::Hole };
                let place = (range.start - base..end - base, base);
                grains.map(&mut self.shared, place, &unheld, input)?
            }
        })
    }

    fn admit(&self, parent: &Facts) -> Result<Vec<Fault>, Fault> {
        let Some(stated) = &self.facts.parent else { return Ok(Vec::new()) };
        let file = self.pieces.first().map_or(FileId(0), |piece| piece.line.0);
        let fault = |class, text| Err(Fault::new(class, Part::Chain, file, text));
        if parent.identity != stated.identity {
            let id = |identity| match identity {
                Identity::Vmdk { content } => format!("{content:08x}"),
                _ => "none".to_owned(),
            };
            let text = format!(
                "the parent has content id {}, the child was made over {}",
                id(parent.identity),
                id(stated.identity)
            );
            return fault(Class::ParentMismatch, text);
        }
        if parent.virtual_size != self.facts.virtual_size {
            let text = format!(
                "the parent has {} bytes, the child {}",
                parent.virtual_size, self.facts.virtual_size
            );
            return fault(Class::ParentSize, text);
        }
        Ok(Vec::new())
    }

    fn check(&mut self, input: &Input, report: &mut Report) -> Result<bool, Stop> {
        check::step(self, input, report)
    }
}
