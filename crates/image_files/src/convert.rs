//! An image in another format: files that appear when they are whole, a device, or a stream.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use images::{
    Form,
    form::{Made, Naming},
    layout::{Held, ImageFile, Plan},
};
use ring::digest::{Context, SHA256};
use world::real::Place;

use crate::{
    Disk, Error, Watch, pack,
    sink::{DeviceSink, FileSink, Sink, StreamSink},
    write,
};

/// A conversion whose tables are made, ready to be written.
pub struct Prepared {
    work: Made,
    total_bytes: u64,
}

impl Prepared {
    /// Bytes that will go by, for progress.
    pub const fn total_bytes(&self) -> u64 {
        self.total_bytes
    }
}

/// Where it is written.
pub enum Target<'w> {
    /// To a new file or a block device. What is there is written over only if `force`.
    Path {
        /// The path.
        path: &'w Path,
        /// Write over a file, or a device that holds data.
        force: bool,
    },
    /// To a stream, from the first byte to the last.
    Stream(&'w mut dyn Write),
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    /// The files, the one that is opened last; none for a stream.
    pub paths: Vec<PathBuf>,
    /// Length of all files in bytes.
    pub length_bytes: u64,
    /// Bytes that were written; the rest is holes.
    pub written_bytes: u64,
}

impl Disk {
    /// Looks at what the disk holds, and lays it out; `name` is the file name that an image may
    /// carry in itself.
    pub fn prepare(
        &mut self,
        form: Form,
        name: &str,
        watch: &mut Watch<'_>,
    ) -> Result<Prepared, Error> {
        let virtual_size = self.virtual_size();
        let held = if form.needs_ranges() { self.held(watch)? } else { Vec::new() };
        let work = form.make(self.plan(form, held), Naming { name, sector_bytes: 512 })?;
        let total_bytes = match &work {
            Made::Files(files) => files.iter().map(|file| file.layout.len()).sum(),
            Made::Grains(_) | Made::Clusters(..) => virtual_size,
        };
        Ok(Prepared { work, total_bytes })
    }

    /// The files of an image in a form whose every byte follows from what is `held`; `name` is the
    /// file name that an image may carry in itself.
    pub fn lay_out(
        &self,
        form: Form,
        held: Vec<Held>,
        name: &str,
    ) -> Result<Vec<ImageFile>, Error> {
        match form.make(self.plan(form, held), Naming { name, sector_bytes: 512 })? {
            Made::Files(files) => Ok(files),
            Made::Grains(_) | Made::Clusters(..) => {
                Err(Error::Unsuitable("a packed image has no length before it is packed"))
            }
        }
    }

    /// Writes what was prepared to a target.
    pub fn write(
        &mut self,
        prepared: Prepared,
        target: Target<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<Converted, Error> {
        match target {
            Target::Stream(out) => {
                let mut sink = StreamSink::new(out);
                let length_bytes = match prepared.work {
                    Made::Clusters(..) => {
                        let why = "a packed qcow2 image is no stream: its head comes last";
                        return Err(Error::Unsuitable(why));
                    }
                    Made::Files(files) if files.len() != 1 => {
                        return Err(Error::Unsuitable("a format of several files is no stream"));
                    }
                    work => self.fill(work, &mut sink, watch)?,
                };
                sink.finish()?;
                let written_bytes = sink.written;
                Ok(Converted { paths: Vec::new(), length_bytes, written_bytes })
            }
            Target::Path { path, force } => match self.look(path, force)? {
                Place::Device => self.write_device(prepared.work, path, force, watch),
                _ => self.write_files(prepared.work, path, force, watch),
            },
        }
    }

    /// Writes an image of one file; gives its length.
    fn fill(
        &mut self,
        work: Made,
        sink: &mut dyn Sink,
        watch: &mut Watch<'_>,
    ) -> Result<u64, Error> {
        let (chain, files) = (&mut self.chain, &self.files);
        match work {
            Made::Files(layouts) => {
                let mut length = 0;
                for file in layouts {
                    write::write(chain, files, &*file.layout, sink, watch)?;
                    length += file.layout.len();
                }
                Ok(length)
            }
            Made::Grains(stream) => pack::grains(chain, files, *stream, sink, watch),
            Made::Clusters(packer, algorithm, cluster) => {
                pack::clusters(chain, files, *packer, (algorithm, cluster), sink, watch)
            }
        }
    }

    /// Whether a path may be written: nothing is there, or it may be written over, and it is no file
    /// of what is read.
    pub fn may_write(&self, path: &Path, force: bool) -> Result<(), Error> {
        self.look(path, force).map(|_| ())
    }

    /// What is at the path, if it may be written.
    pub(crate) fn look(&self, path: &Path, force: bool) -> Result<Place, Error> {
        let place = place_of(path)?;
        if place != Place::Free && self.files.has(path) {
            return Err(Error::Itself(path.to_owned()));
        }
        taken(place, path, force)
    }

    fn write_device(
        &mut self,
        work: Made,
        path: &Path,
        force: bool,
        watch: &mut Watch<'_>,
    ) -> Result<Converted, Error> {
        let length_bytes = match &work {
            Made::Files(files) if files.len() == 1 => files[0].layout.len(),
            Made::Files(_) => {
                let why = "a format of several files does not fit on one device";
                return Err(Error::Unsuitable(why));
            }
            Made::Grains(_) | Made::Clusters(..) => {
                let why = "a packed image has no length before it is packed: name a file";
                return Err(Error::Unsuitable(why));
            }
        };
        let mut sink = DeviceSink::open(path, length_bytes, force)?;
        self.fill(work, &mut sink, watch)?;
        sink.finish()?;
        let written_bytes = sink.written;
        Ok(Converted { paths: vec![path.to_owned()], length_bytes, written_bytes })
    }

    fn write_files(
        &mut self,
        work: Made,
        path: &Path,
        force: bool,
        watch: &mut Watch<'_>,
    ) -> Result<Converted, Error> {
        let mut converted = Converted { paths: Vec::new(), length_bytes: 0, written_bytes: 0 };
        let mut made = Vec::new();
        let parts: Vec<(String, Made)> = match work {
            Made::Files(mut files) => {
                // The file that is opened appears last, when what it names is there.
                files.sort_by_key(|file| file.suffix.is_empty());
                let part = |file: ImageFile| (file.suffix.clone(), Made::Files(vec![file]));
                files.into_iter().map(part).collect()
            }
            packed => vec![(String::new(), packed)],
        };
        for (suffix, work) in parts {
            let part = with_suffix(path, &suffix);
            if !suffix.is_empty() {
                self.look(&part, force)?;
            }
            let mut sink = FileSink::make(&part)?;
            if let Made::Files(files) = &work {
                // A file that cannot be so long is refused before anything is read.
                sink.set_length(files.iter().map(|file| file.layout.len()).sum())?;
            }
            let length = self.fill(work, &mut sink, watch)?;
            sink.set_length(length)?;
            converted.length_bytes += length;
            converted.written_bytes += sink.written;
            converted.paths.push(part);
            made.push(sink);
        }
        made.into_iter().try_for_each(|sink| sink.place(force))?;
        Ok(converted)
    }

    fn plan(&self, form: Form, held: Vec<Held>) -> Plan {
        Plan {
            virtual_size: self.virtual_size(),
            held,
            parent: None,
            seed: self.seed(form),
            made_s: self.files.modified_s(self.chain.layers()[0].file()),
        }
    }

    /// From what the identifiers of a new image are derived: the files that are read, as they are
    /// now, and the format. The same files give the same bytes; another disk gives other ids.
    fn seed(&self, form: Form) -> [u8; 32] {
        let mut context = Context::new(&SHA256);
        context.update(b"strandline image convert/1\0");
        context.update(format!("{} {}\0", form.format(), form.word()).as_bytes());
        for file in self.chain.files() {
            let (device, inode) = self.files.inode(file);
            for number in
                [device, inode, self.files.length_bytes(file), self.files.modified_s(file)]
            {
                context.update(&number.to_le_bytes());
            }
        }
        let digest = context.finish();
        digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}

/// What is at a path that shall be written, if it may be: nothing, a device, or a file that is written
/// over by `force`.
pub fn may_write(path: &Path, force: bool) -> Result<Place, Error> {
    taken(place_of(path)?, path, force)
}

fn place_of(path: &Path) -> Result<Place, Error> {
    let place = Place::at(path).map_err(|cause| Error::Io {
        doing: "look at",
        path: path.to_owned(),
        cause,
    })?;
    if place == Place::Other {
        return Err(Error::Unfit {
            path: path.to_owned(),
            why: "it is neither a regular file nor a block device",
        });
    }
    Ok(place)
}

fn taken(place: Place, path: &Path, force: bool) -> Result<Place, Error> {
    if place == Place::File && !force {
        return Err(Error::Exists(path.to_owned()));
    }
    Ok(place)
}

/// Writes a small file, whole or not at all.
pub fn write_list(path: &Path, bytes: &[u8], force: bool) -> Result<(), Error> {
    let mut sink = FileSink::make(path)?;
    sink.bytes(0, bytes)?;
    sink.set_length(bytes.len() as u64)?;
    sink.place(force)
}

/// The path of an image's part: `disk.vmdk` and `-flat` give `disk-flat.vmdk`.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    if suffix.is_empty() {
        return path.to_owned();
    }
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(suffix);
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}
