//! A chain as it is now: its images in order, their files, and what file system and headers say.

use std::path::{Path, PathBuf};

use image_files::{Disk, OpenDisk};
use images::{Facts, FileId, Purpose};
use lineage::{FileMark, Stat, Witness};
use world::real::{BarError, FileStat, ForeignFile};

use crate::Error;

/// A chain that was opened, the top image first.
pub struct View {
    how: OpenDisk,
    layers: Vec<LayerView>,
}

/// One image of it.
pub struct LayerView {
    /// The path by which its file was reached.
    pub path: PathBuf,
    /// What it says of itself.
    pub facts: Facts,
    /// What file system and header said when the chain was opened.
    pub witness: Witness,
    /// All of its files, its own first.
    pub files: Vec<PathBuf>,
}

impl View {
    /// Opens the chain of the image at `path`. `how` says which formats and folders to take; a parent
    /// that differs from what its child was made over is opened.
    pub fn open(path: &Path, how: &OpenDisk) -> Result<Self, Error> {
        let how = OpenDisk { purpose: Purpose::Examine, snapshot: None, ..how.clone() };
        let disk = Disk::open(path, &how)?;
        let mut layers = Vec::new();
        for layer in disk.chain().layers() {
            let facts = layer.facts().clone();
            let files = files_of(layer.file(), &facts);
            let witness = Witness::of(&facts, stats(&disk, &files)?);
            let files = files.iter().map(|file| shown(disk.files().path(*file))).collect();
            let path = shown(disk.files().path(layer.file()));
            layers.push(LayerView { path, facts, witness, files });
        }
        Ok(Self { how, layers })
    }

    /// The images, the top first; never none.
    pub fn layers(&self) -> &[LayerView] {
        &self.layers
    }

    /// How many pairs of child and parent there are: one less than images.
    pub fn links(&self) -> usize {
        self.layers.len() - 1
    }

    /// Opens the chain from one of its images on.
    pub fn disk(&self, layer: usize) -> Result<Disk, Error> {
        let LayerView { path, facts, .. } = &self.layers[layer];
        let format = if layer == 0 { self.how.format } else { Some(facts.format) };
        let disk = Disk::open(path, &OpenDisk { format, ..self.how.clone() })?;
        let found = disk.chain().layers();
        let is_same = found.len() == self.layers.len() - layer
            && found.iter().zip(&self.layers[layer..]).all(|(found, known)| {
                let stat =
                    disk.files().stat(found.file()).map(|stat| FileMark::of(&stat_of(&stat)));
                stat.is_ok_and(|mark| mark == known.mark())
            });
        if is_same { Ok(disk) } else { Err(Error::Replaced(path.clone())) }
    }

    /// Keeps programs that look at QEMU's locks from writing to any parent while the files given are
    /// open. Fails if one writes already. Where a file system has no such locks, nobody is kept out.
    pub fn bar_writers(&self) -> Result<Vec<ForeignFile>, Error> {
        let mut barred = Vec::new();
        for path in self.layers[1..].iter().flat_map(|layer| &layer.files) {
            let Ok(file) = ForeignFile::open(path, self.how.kinds) else {
                return Err(Error::Replaced(path.clone()));
            };
            match file.bar_writers() {
                Err(BarError::Written | BarError::Held) => {
                    return Err(Error::Written(path.clone()));
                }
                Ok(()) | Err(BarError::Io(_)) => barred.push(file),
            }
        }
        Ok(barred)
    }

    /// Whether all files from one image on are as they were when the chain was opened: what was read
    /// of them belongs to what their headers say.
    pub fn is_still(&self, layer: usize, disk: &Disk) -> Result<bool, Error> {
        for (found, known) in disk.chain().layers().iter().zip(&self.layers[layer..]) {
            let files = files_of(found.file(), found.facts());
            if stats(disk, &files)? != known.witness.files {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl LayerView {
    /// Its own file, whatever its name.
    pub fn mark(&self) -> FileMark {
        FileMark::of(&self.witness.files[0])
    }
}

/// A path as people write it: a parent found in the present folder is `base.raw`, not `./base.raw`.
fn shown(path: &Path) -> PathBuf {
    path.strip_prefix(".").unwrap_or(path).to_owned()
}

fn files_of(own: FileId, facts: &Facts) -> Vec<FileId> {
    std::iter::once(own).chain(facts.files.iter().map(|other| other.file)).collect()
}

fn stats(disk: &Disk, files: &[FileId]) -> Result<Vec<Stat>, Error> {
    let stats = files.iter().map(|file| Ok(stat_of(&disk.files().stat(*file)?)));
    stats.collect()
}

/// What the file system says, in the words of seals.
pub(crate) fn stat_of(stat: &FileStat) -> Stat {
    Stat {
        len: stat.length_bytes,
        modified_ns: stat.modified_ns,
        changed_ns: stat.changed_ns,
        inode: stat.inode,
        device: stat.device,
        born_ns: stat.born_ns,
    }
}
