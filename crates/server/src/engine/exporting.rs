//! `export/describe` and `export/read`: instants as images, made as they are read.
//!
//! What an image holds comes from the index alone; tables follow from that (`export`, `images`), so
//! lengths are known before a byte of the disk is read. [`super::shelf`] keeps what was made.

use super::{
    failures::index_failure,
    lens::Lens,
    packing,
    past::{Found, Past},
    reading::Stream,
    rendering::FileStream,
    running::{Engine, lock},
    shelf::{Between, Body, Image},
};
use api::{
    Chunks, Failure, InstantSpec, Reference, codes,
    verbs::export::{Describe, Described, DescribedBase, ExportFile, ImageFormat, Read},
};
use export::{Base, Export, Ranges, State, Unfit, Walk};
use images::{
    Form, Format,
    form::Made,
    layout::{Held, Unwritable},
};
use std::{fmt::Write as _, sync::Arc};
use volume::{Changed, ChangedKind};

/// What was asked for, found.
struct Asked {
    found: Found,
    base: Option<Found>,
    /// File name of the image, and of its base.
    name: String,
    base_name: Option<String>,
    image: Arc<Image>,
}

impl Engine {
    pub(super) fn export_describe(&self, request: &Describe) -> Result<Described, Failure> {
        let asked = self.asked(request)?;
        let image = &asked.image;
        let tag = hex(&image.export.tag());
        let file = |suffix: &str, length: Option<u64>| ExportFile {
            name: with_suffix(&asked.name, suffix),
            suffix: suffix.to_owned(),
            length,
            etag: format!("{tag}{suffix}"),
        };
        let files = match &image.body {
            Body::Plain => vec![file("", Some(asked.found.size))],
            Body::Files(files) => {
                files.iter().map(|(suffix, layout)| file(suffix, Some(layout.len()))).collect()
            }
            Body::Packed => vec![file("", None)],
        };
        let data = match image.body {
            Body::Plain => None,
            _ => Some(image.held.iter().filter(|held| !held.zero).map(|held| held.len).sum()),
        };
        let moment = asked.found.moment();
        let base = asked.base.as_ref().map(|base| DescribedBase {
            reference: base.reference.clone(),
            seq: base.moment().seq,
            time: base.moment().time,
            size: base.size,
            name: asked.base_name.clone(),
        });
        Ok(Described {
            reference: asked.found.reference,
            seq: moment.seq,
            time: moment.time,
            resolution: asked.found.resolution,
            size: asked.found.size,
            format: request.format,
            subformat: image.export.form().word().to_owned(),
            base,
            data,
            files,
        })
    }

    pub(super) fn export_read(&self, request: &Read) -> Result<Box<dyn Chunks>, Failure> {
        let asked = self.asked(&request.describe())?;
        let (image, size) = (&asked.image, asked.found.size);
        let name = asked.found.reference.to_string();
        let no_file = || {
            let text = format!("the export has no file {}", request.file);
            Failure::new(codes::USAGE, text)
        };
        let number = usize::try_from(request.file).map_err(|_| no_file())?;
        let range = |length: u64| range_of(request, length);
        match &image.body {
            Body::Plain if number == 0 => {
                let (start, end) = range(size)?;
                Ok(Box::new(Stream::new(Arc::clone(&image.lens), name, start, end)))
            }
            Body::Files(files) => {
                let (_, layout) = files.get(number).ok_or_else(no_file)?;
                let (start, end) = range(layout.len())?;
                let walk = Walk::new(Arc::clone(layout), start, end);
                Ok(Box::new(FileStream::new(Arc::clone(&image.lens), name, size, walk)))
            }
            Body::Packed if number == 0 => {
                if request.offset > 0 || request.length.is_some() {
                    let text = "a packed image is given from its beginning to its end only";
                    return Err(Failure::new(codes::USAGE, text)
                        .doing("leave offset and length out, or take a kind that is not packed"));
                }
                packing::pack(Arc::clone(image), name, request.head_last)
            }
            Body::Plain | Body::Packed => Err(no_file()),
        }
    }

    /// Finds the instants, and makes the image unless it is there.
    fn asked(&self, request: &Describe) -> Result<Asked, Failure> {
        let (past, found) = self.find_for_export(&request.reference, request.exact)?;
        let base = match &request.base {
            None => None,
            Some(base) => Some(past.find_instant(base, request.exact)?),
        };
        let format = format_of(request.format);
        let form =
            Form::new(format, request.subformat.as_deref()).map_err(|why| unwritable(&why))?;
        let name = request.name.clone().unwrap_or_else(|| usual_name(&found, format));
        let base_name = base
            .as_ref()
            .filter(|_| format != Format::Vdi)
            .map(|base| request.base_name.clone().unwrap_or_else(|| usual_name(base, format)));
        let stands_on = base.as_ref().map(|base| Base {
            state: self.state(base),
            name: base_name.clone().unwrap_or_default(),
        });
        let export = Export::new(self.state(&found), form, &name, stands_on);
        let export = export.map_err(|why| unfit(why, &found))?;
        let between = (base.as_ref().map(Found::state), found.state());
        let image = self.image(&past, between, export)?;
        Ok(Asked { found, base, name, base_name, image })
    }

    /// What never moves is found in the store as it stands; all else sees what was accepted before.
    fn find_for_export(
        &self,
        reference: &Reference,
        exact: bool,
    ) -> Result<(Past, Found), Failure> {
        if reference.instant.as_ref().is_some_and(InstantSpec::is_fixed) {
            let past = self.look()?;
            match past.find(reference, exact) {
                Err(failure) if failure.code == codes::NOT_YET => {} // accepted, not durable yet
                other => return other.map(|found| (past, found)),
            }
        }
        let past = self.settled()?;
        let found = past.find(reference, exact)?;
        Ok((past, found))
    }

    /// A state by what never changes of it.
    fn state(&self, found: &Found) -> State {
        let (branch, sequence) = found.state();
        let time_s = found.resolved.time.0.div_euclid(1_000_000_000);
        State {
            store: self.held.facts.store.0,
            branch: branch.0,
            sequence: sequence.number(),
            time_s: u64::try_from(time_s).unwrap_or(0),
            size_bytes: found.size,
            sector_bytes: u32::try_from(found.volume.block.bytes()).unwrap_or(512),
        }
    }

    fn image(&self, past: &Past, between: Between, export: Export) -> Result<Arc<Image>, Failure> {
        let boot_ns = self.held.clock.boot_ns();
        if let Some(image) = self.shelf.image(&export, boot_ns) {
            return Ok(image);
        }
        let _making = lock(&self.shelf.making);
        if let Some(image) = self.shelf.image(&export, boot_ns) {
            return Ok(image);
        }
        let held = match self.shelf.held(between, boot_ns) {
            Some(held) => held,
            None if export.form().format() == Format::Raw => Arc::from([]),
            None => ranges(past, between, export.state().size_bytes)?.into(),
        };
        let made = export.make(held.to_vec()).map_err(|why| unwritable(&why))?;
        let body = match made {
            Made::Files(_) if export.form().format() == Format::Raw => Body::Plain,
            Made::Files(files) => Body::Files(
                files.into_iter().map(|file| (file.suffix, Arc::from(file.layout))).collect(),
            ),
            Made::Grains(_) | Made::Clusters(..) => Body::Packed,
        };
        let lens = Arc::new(Lens::new(self.hub.clone(), between.1));
        let image = Arc::new(Image::new(export, body, lens, held));
        self.shelf.keep(between, &image, boot_ns);
        Ok(image)
    }
}

/// What a state holds, or what it holds otherwise than its base, by the index alone.
fn ranges(past: &Past, (base, state): Between, size: u64) -> Result<Vec<Held>, Failure> {
    let mut ranges = Ranges::new(size);
    let add = |changed: Changed| {
        let zero = changed.kind == ChangedKind::Zero;
        ranges.add(changed.offset_bytes, changed.length_bytes, zero);
        true
    };
    let searched = match base {
        None => past.snapshot.held(state, add),
        Some(base) => past.snapshot.diff(base, state, add),
    };
    searched.map_err(|error| index_failure(&error))?;
    Ok(ranges.into_held())
}

/// The range of a file that is asked for.
fn range_of(request: &Read, length: u64) -> Result<(u64, u64), Failure> {
    let end = match request.length {
        None => Some(length).filter(|end| *end >= request.offset),
        Some(wanted) => request.offset.checked_add(wanted).filter(|end| *end <= length),
    };
    let end = end.ok_or_else(|| {
        Failure::new(codes::USAGE, format!("the file has {length} bytes"))
            .doing("ask for a range inside the file")
    })?;
    Ok((request.offset, end))
}

/// `db-seq93880.qcow2`: no letter of it means anything to QEMU or Windows.
fn usual_name(found: &Found, format: Format) -> String {
    let mut name = found.name.to_string();
    if let Some(branch) = &found.reference.branch {
        write!(name, "-{branch}").expect("text grows");
    }
    let seq = found.resolved.sequence;
    write!(name, "-seq{seq}.{format}").expect("text grows");
    name
}

/// `disk.vmdk` and `-flat`: `disk-flat.vmdk`.
fn with_suffix(name: &str, suffix: &str) -> String {
    match name.rsplit_once('.') {
        Some((stem, extension)) => format!("{stem}{suffix}.{extension}"),
        None => format!("{name}{suffix}"),
    }
}

fn format_of(format: ImageFormat) -> Format {
    match format {
        ImageFormat::Raw => Format::Raw,
        ImageFormat::Qcow2 => Format::Qcow2,
        ImageFormat::Vhd => Format::Vhd,
        ImageFormat::Vhdx => Format::Vhdx,
        ImageFormat::Vmdk => Format::Vmdk,
        ImageFormat::Vdi => Format::Vdi,
    }
}

pub(super) fn unwritable(why: &Unwritable) -> Failure {
    match why {
        Unwritable::Plan { .. } => Failure::bug(why.to_string()),
        _ => Failure::new(codes::IMAGE_UNWRITABLE, why.to_string()),
    }
}

fn unfit(why: Unfit, found: &Found) -> Failure {
    let text = match why {
        Unfit::SameState => format!("the base is {} itself", found.reference),
        Unfit::OtherStore => "the base is of another store".to_owned(),
    };
    Failure::new(codes::USAGE, text).doing("name another instant as the base")
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("text grows");
    }
    text
}
