//! An image in another format: files that appear when they are whole, a device, or a stream.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use images::{
    Algorithm, Format,
    layout::{Held, ImageFile, Plan, Unwritable},
    qcow2::{self, pack::Packer},
    vdi::{
        self,
        write::{VdiKind, VdiOptions},
    },
    vhd::{
        self,
        write::{VhdKind, VhdOptions},
    },
    vhdx::{
        self,
        write::{Allocation, VhdxOptions},
    },
    vmdk::{
        self,
        stream::Stream,
        write::{Adapter, VmdkKind, VmdkOptions},
    },
};
use ring::digest::{Context, SHA256};
use world::real::Place;

use crate::{
    Disk, Error, Watch, pack,
    sink::{DeviceSink, FileSink, Sink, StreamSink},
    write::{self, Plain},
};

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversion {
    format: Format,
    subformat: Subformat,
}

/// A kind within a format; the first of each format is what is written when none is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subformat {
    /// Raw: there is one kind.
    Plain,
    /// qcow2: clusters as they are.
    Clusters,
    /// qcow2: clusters packed by deflate, which every reader knows.
    Deflate,
    /// qcow2: clusters packed by Zstandard.
    Zstd,
    /// VHD, VHDX, VDI: blocks that hold something.
    Dynamic,
    /// VHD, VHDX, VDI: all blocks.
    Fixed,
    /// VMDK: one file with the grains that hold something.
    Sparse,
    /// VMDK: a descriptor, and a file with all bytes.
    Flat,
    /// VMDK: packed grains, in one pass.
    StreamOptimized,
}

impl Subformat {
    /// The kinds of a format and their words, the usual one first.
    pub const fn of(format: Format) -> &'static [(&'static str, Self)] {
        match format {
            Format::Raw => &[("plain", Self::Plain)],
            Format::Qcow2 => {
                &[("plain", Self::Clusters), ("zlib", Self::Deflate), ("zstd", Self::Zstd)]
            }
            Format::Vhd | Format::Vhdx => &[("dynamic", Self::Dynamic), ("fixed", Self::Fixed)],
            Format::Vdi => &[("dynamic", Self::Dynamic), ("static", Self::Fixed)],
            Format::Vmdk => &[
                ("sparse", Self::Sparse),
                ("flat", Self::Flat),
                ("streamOptimized", Self::StreamOptimized),
            ],
        }
    }
}

impl Conversion {
    /// A format, in the kind of that word; `monolithicSparse` and the like mean the same as `sparse`.
    pub fn new(format: Format, word: Option<&str>) -> Result<Self, Unwritable> {
        let known = Subformat::of(format);
        let Some(word) = word else { return Ok(Self { format, subformat: known[0].1 }) };
        let short = word.strip_prefix("monolithic").unwrap_or(word);
        let found = known.iter().find(|(name, _)| name.eq_ignore_ascii_case(short));
        found.map(|(_, subformat)| Self { format, subformat: *subformat }).ok_or_else(|| {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            let text = format!("{word:?} is no kind of it; there are {}", names.join(", "));
            Unwritable::Option { format, text }
        })
    }

    /// The format.
    pub const fn format(self) -> Format {
        self.format
    }
}

/// A conversion whose tables are made, ready to be written.
pub struct Prepared {
    work: Work,
    total_bytes: u64,
}

enum Work {
    /// Files whose every byte follows from the plan.
    Files(Vec<ImageFile>),
    /// A stream of packed grains.
    Grains(Box<Stream>),
    /// Clusters of so many bytes, packed so.
    Clusters(Box<Packer>, (Algorithm, u64)),
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
        conversion: Conversion,
        name: &str,
        watch: &mut Watch<'_>,
    ) -> Result<Prepared, Error> {
        let virtual_size = self.virtual_size();
        let work = match conversion.subformat {
            Subformat::Plain => {
                let layout = Box::new(Plain(virtual_size));
                Work::Files(vec![ImageFile { suffix: String::new(), layout }])
            }
            Subformat::StreamOptimized => {
                // What is held shows while the grains are packed.
                let plan = self.plan(conversion, Vec::new());
                Work::Grains(Box::new(Stream::new(&plan, name, Adapter::default())?))
            }
            _ => {
                let held = self.held(watch)?;
                let plan = self.plan(conversion, held);
                work_of(conversion, plan, name)?
            }
        };
        let total_bytes = match &work {
            Work::Files(files) => files.iter().map(|file| file.layout.len()).sum(),
            Work::Grains(_) | Work::Clusters(..) => virtual_size,
        };
        Ok(Prepared { work, total_bytes })
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
                    Work::Clusters(..) => {
                        let why = "a packed qcow2 image is no stream: its head comes last";
                        return Err(Error::Unsuitable(why));
                    }
                    Work::Files(files) if files.len() != 1 => {
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
        work: Work,
        sink: &mut dyn Sink,
        watch: &mut Watch<'_>,
    ) -> Result<u64, Error> {
        let (chain, files) = (&mut self.chain, &self.files);
        match work {
            Work::Files(layouts) => {
                let mut length = 0;
                for file in layouts {
                    write::write(chain, files, &*file.layout, sink, watch)?;
                    length += file.layout.len();
                }
                Ok(length)
            }
            Work::Grains(stream) => pack::grains(chain, files, *stream, sink, watch),
            Work::Clusters(packer, how) => pack::clusters(chain, files, *packer, how, sink, watch),
        }
    }

    /// Whether a path may be written: nothing is there, or it may be written over, and it is no file
    /// of what is read.
    pub fn may_write(&self, path: &Path, force: bool) -> Result<(), Error> {
        self.look(path, force).map(|_| ())
    }

    /// What is at the path, if it may be written.
    pub(crate) fn look(&self, path: &Path, force: bool) -> Result<Place, Error> {
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
        if place != Place::Free && self.files.has(path) {
            return Err(Error::Itself(path.to_owned()));
        }
        if place == Place::File && !force {
            return Err(Error::Exists(path.to_owned()));
        }
        Ok(place)
    }

    fn write_device(
        &mut self,
        work: Work,
        path: &Path,
        force: bool,
        watch: &mut Watch<'_>,
    ) -> Result<Converted, Error> {
        let length_bytes = match &work {
            Work::Files(files) if files.len() == 1 => files[0].layout.len(),
            Work::Files(_) => {
                let why = "a format of several files does not fit on one device";
                return Err(Error::Unsuitable(why));
            }
            Work::Grains(_) | Work::Clusters(..) => {
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
        work: Work,
        path: &Path,
        force: bool,
        watch: &mut Watch<'_>,
    ) -> Result<Converted, Error> {
        let mut converted = Converted { paths: Vec::new(), length_bytes: 0, written_bytes: 0 };
        let mut made = Vec::new();
        let parts: Vec<(String, Work)> = match work {
            Work::Files(mut files) => {
                // The file that is opened appears last, when what it names is there.
                files.sort_by_key(|file| file.suffix.is_empty());
                let part = |file: ImageFile| (file.suffix.clone(), Work::Files(vec![file]));
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
            if let Work::Files(files) = &work {
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

    fn plan(&self, conversion: Conversion, held: Vec<Held>) -> Plan {
        Plan {
            virtual_size: self.virtual_size(),
            held,
            parent: None,
            seed: self.seed(conversion),
            made_s: self.files.modified_s(self.chain.layers()[0].file()),
        }
    }

    /// From what the identifiers of a new image are derived: the files that are read, as they are
    /// now, and the format. The same files give the same bytes; another disk gives other ids.
    fn seed(&self, conversion: Conversion) -> [u8; 32] {
        let mut context = Context::new(&SHA256);
        context.update(b"strandline image convert/1\0");
        context.update(format!("{conversion:?}\0").as_bytes());
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

/// A plan in a format.
fn work_of(conversion: Conversion, plan: Plan, name: &str) -> Result<Work, Unwritable> {
    let fixed = conversion.subformat == Subformat::Fixed;
    let options = qcow2::write::Qcow2Options::default();
    let algorithm = match conversion.subformat {
        Subformat::Deflate => Some(Algorithm::Deflate12),
        Subformat::Zstd => Some(Algorithm::Zstd),
        _ => None,
    };
    if let Some(algorithm) = algorithm {
        let cluster = 1 << options.cluster_bits;
        let packer = Packer::new(plan, options, algorithm)?;
        return Ok(Work::Clusters(Box::new(packer), (algorithm, cluster)));
    }
    let files = match conversion.format {
        Format::Raw => {
            vec![ImageFile { suffix: String::new(), layout: Box::new(Plain(plan.virtual_size)) }]
        }
        Format::Qcow2 => qcow2::write::layout(&plan, &options)?,
        Format::Vhd => {
            let kind = if fixed { VhdKind::Fixed } else { VhdKind::Dynamic };
            vhd::write::layout(&plan, &VhdOptions { kind, ..VhdOptions::default() })?
        }
        Format::Vhdx => {
            let allocation = if fixed { Allocation::Fixed } else { Allocation::Dynamic };
            vhdx::write::layout(&plan, &VhdxOptions { allocation, ..VhdxOptions::default() })?
        }
        Format::Vdi => {
            let kind = if fixed { VdiKind::Static } else { VdiKind::Dynamic };
            vdi::write::layout(&plan, &VdiOptions { kind })?
        }
        Format::Vmdk => {
            let kind = match conversion.subformat {
                Subformat::Flat => VmdkKind::Flat,
                _ => VmdkKind::Sparse,
            };
            let (name, adapter) = (name.to_owned(), Adapter::default());
            vmdk::write::layout(&plan, &VmdkOptions { kind, name, adapter })?
        }
    };
    Ok(Work::Files(files))
}

/// Writes a small file, whole or not at all.
pub fn write_list(path: &Path, bytes: &[u8], force: bool) -> Result<(), Error> {
    let mut sink = FileSink::make(path)?;
    sink.bytes(0, bytes)?;
    sink.set_length(bytes.len() as u64)?;
    sink.place(force)
}

/// `disk.vmdk` and `-flat`: `disk-flat.vmdk`.
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
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
