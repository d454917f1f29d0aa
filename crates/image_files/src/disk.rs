//! An open image: its chain and the files under it.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use images::{Chain, Extent, Format, Mapped, OpenOptions, Opening, Outside, Purpose, Report};
use world::real::Kinds;

use crate::{Error, Files, fetch::Fetcher, source::Source};

/// How an image is opened.
#[derive(Clone, Debug)]
pub struct OpenDisk {
    /// Its format; found out where it was not told.
    pub format: Option<Format>,
    /// The format of parents whose children do not state it.
    pub parent_format: Option<Format>,
    /// Internal snapshot to read in place of the present state.
    pub snapshot: Option<String>,
    /// What it is opened for.
    pub purpose: Purpose,
    /// Folders in which parents and parts are looked for when they are not where the image says.
    pub search: Vec<PathBuf>,
    /// Which files may be opened.
    pub kinds: Kinds,
    /// Parents may lie outside the folder of the image that names them: the user's own images.
    pub outside: bool,
}

impl Default for OpenDisk {
    fn default() -> Self {
        Self {
            format: None,
            parent_format: None,
            snapshot: None,
            purpose: Purpose::Read,
            search: Vec::new(),
            kinds: Kinds::Files,
            outside: false,
        }
    }
}

/// An image with its parents, open for reading.
pub struct Disk {
    pub(crate) files: Files,
    pub(crate) chain: Chain,
}

impl Disk {
    /// Opens the image at `path`.
    pub fn open(path: &Path, how: &OpenDisk) -> Result<Self, Error> {
        let mut files = Files::new(&how.search, how.kinds, how.outside)?;
        let (file, len) = files.open_named(path)?;
        let options = OpenOptions {
            format: how.format,
            suffix: path.extension().map(|suffix| suffix.to_string_lossy().into_owned()),
            parent_format: how.parent_format,
            snapshot: how.snapshot.clone(),
            purpose: how.purpose,
            outside: match (how.outside, how.search.is_empty()) {
                (true, _) => Outside::Follow,
                (false, false) => Outside::LastStep,
                (false, true) => Outside::Refuse,
            },
        };
        let chain = files.drive(Opening::new(file, len, options))?;
        files.keep_only(&chain.files());
        Ok(Self { files, chain })
    }

    /// The images, the top first.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The files that hold them.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// Bytes that the guest sees.
    pub fn virtual_size(&self) -> u64 {
        self.chain.virtual_size()
    }

    /// Where the guest bytes of a beginning of `range` are; empty only at the end of the disk.
    pub fn map(&mut self, range: Range<u64>) -> Result<Vec<Mapped>, Error> {
        self.files.read_for(self.chain.map(range))
    }

    /// What one image of the chain itself holds of a beginning of `range`.
    pub fn layer_map(&mut self, layer: usize, range: Range<u64>) -> Result<Vec<Extent>, Error> {
        self.files.read_for(self.chain.layer_map(layer, range))
    }

    /// Walks all of one image of the chain.
    pub fn check(&mut self, layer: usize) -> Result<Report, Error> {
        self.files.read_for(self.chain.check(layer))
    }

    /// Guest bytes; the first damage among them fails it. The range lies within the disk.
    pub fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        let end = offset + into.len() as u64;
        let mut fetcher = Fetcher::default();
        let mut source = Source::new(&mut self.chain, &self.files);
        let mut bytes = Vec::with_capacity(into.len());
        let mut place = offset;
        while place < end {
            let extents = source.extents(place, end)?;
            for extent in &extents {
                fetcher.fetch(source.files, extent, &mut bytes)?;
            }
            place = extents.last().map_or(end, Extent::end);
        }
        into.copy_from_slice(&bytes);
        Ok(())
    }
}
