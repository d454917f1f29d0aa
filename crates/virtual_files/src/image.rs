//! A disk in every format: the folder that `mount FILE` shows.
//!
//! All files of all formats follow from what the disk's map says to be held, so their lengths are
//! known before a byte of the guest's is read, and each byte is made from the disk when it is read.

use std::sync::Arc;

use image_files::{Disk, Error, SharedDisk, Watch};
use images::{Form, Format, layout::Unwritable};
use units::Timestamp;
use world::real::Stretch;

use crate::{Entry, Node, Trouble, VirtualFile, made::Made, tree::Shelf};

/// A disk as a folder.
pub struct DiskFolder {
    /// The folder, to be mounted.
    pub root: Entry,
    /// Names and lengths of its files.
    pub files: Vec<(String, u64)>,
    /// Formats that cannot hold the disk, and why.
    pub left_out: Vec<(Format, String)>,
}

impl DiskFolder {
    /// Lays a disk out in all formats; its map is walked once.
    pub fn of(mut disk: Disk, watch: &mut Watch<'_>) -> Result<Self, Error> {
        let held = disk.held_by_map(watch)?;
        let kept = held.iter().map(|held| held.len).sum();
        let seconds = disk.files().modified_s(disk.chain().layers()[0].file());
        let modified = i64::try_from(seconds).unwrap_or(0).saturating_mul(1_000_000_000);
        let mut laid_out = Vec::new();
        let mut left_out = Vec::new();
        for format in Format::ALL.into_iter().filter(|format| *format != Format::Raw) {
            let form = Form::new(format, None)?;
            match disk.lay_out(form, held.clone(), &name_of("", format)) {
                Ok(files) => laid_out.extend(files.into_iter().map(|file| (format, file))),
                Err(Error::Unwritable(why @ Unwritable::TooLarge { .. })) => {
                    left_out.push((format, why.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        let guest: Arc<dyn VirtualFile> = Arc::new(Guest { disk: SharedDisk::from(disk), kept });
        let mut files = vec![(name_of("", Format::Raw), Arc::clone(&guest))];
        for (format, file) in laid_out {
            let made = Made::new(file.layout, Arc::clone(&guest));
            files.push((name_of(&file.suffix, format), Arc::new(made)));
        }
        let lengths = files.iter().map(|(name, file)| (name.clone(), file.len())).collect();
        let entry = |(name, file): (String, Arc<dyn VirtualFile>)| {
            let modified = Timestamp(modified);
            let entry = Entry { key: name.clone(), node: Node::File(file), modified, fixed: true };
            (name, entry)
        };
        let shelf = Shelf(files.into_iter().map(entry).collect());
        let root = Entry {
            key: String::new(),
            node: Node::Folder(Arc::new(shelf)),
            modified: Timestamp(modified),
            fixed: true,
        };
        Ok(Self { root, files: lengths, left_out })
    }
}

/// `disk.vmdk`, and `disk-flat.vmdk` for what goes with it.
pub(crate) fn name_of(suffix: &str, format: Format) -> String {
    format!("disk{suffix}.{format}")
}

/// The guest's bytes.
struct Guest {
    disk: SharedDisk,
    kept: u64,
}

impl VirtualFile for Guest {
    fn len(&self) -> u64 {
        self.disk.virtual_size()
    }

    fn kept(&self) -> u64 {
        self.kept
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), Trouble> {
        self.disk.read(offset, into).map_err(|error| Trouble::Failed(error.to_string()))
    }

    fn stretch(&self, offset: u64) -> Result<Stretch, Trouble> {
        let end = self.len();
        let found = self.disk.pieces(offset..end, 1);
        let found = found.map_err(|error| Trouble::Failed(error.to_string()))?;
        Ok(match found.first() {
            Some(piece) if piece.is_zero => Stretch::Hole(piece.range.end - offset),
            Some(piece) => Stretch::Data(piece.range.end - offset),
            None => Stretch::Data(end - offset),
        })
    }
}
