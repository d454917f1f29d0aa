//! `image export`: an instant of a volume as an image, to files that appear whole, a device, or stdout.
//!
//! The store makes the image's bytes as they are read; this process opens what the user names and
//! writes them. The same instant and options give the same bytes each time, so their digest is told.

use super::{INTERRUPTED, failure, format_to, is_closed_pipe};
use crate::{
    cli::ImageExportArgs,
    commands::distance,
    context::Context,
    out::{Progress, Stop},
};
use api::{
    Caller, Chunk, Control, Failure,
    amounts::size_text,
    codes,
    verbs::export::{self, Describe, Described, ExportFile},
};
use image_files::{DeviceSink, Error, FileSink, Sink, StreamSink, may_write, with_suffix};
use images::Format;
use ring::digest::{Context as Hash, SHA256};
use serde_json::json;
use std::{
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use world::{
    Waker,
    real::{Place, StopSignals},
};

/// Bytes that are read back, or zeroes that are hashed, at a time.
const STEP_BYTES: usize = 1 << 18;

pub(super) fn run(args: &ImageExportArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    let out = args.out.as_path();
    let to_stdout = out.as_os_str() == "-";
    let asked = question(args, to_stdout, context)?;
    let described = context.ask(asked.clone())?;
    // What was described is what is read, though the present moves on.
    let asked = Describe {
        reference: described.reference.clone(),
        base: described.base.as_ref().map(|base| base.reference.clone()),
        ..asked
    };
    let mut place = Place::Free;
    if !to_stdout {
        for file in &described.files {
            place = may_write(&with_suffix(out, &file.suffix), args.force)
                .map_err(|error| failure(error, out))?;
        }
    }
    let what = what(&described, context);
    if context.global.dry_run {
        return plan(&described, &what, out, context);
    }
    if to_stdout {
        return to_stream(&described, asked, context);
    }
    let (hashed, who) = (!args.no_digest, context.who);
    let mut going = Going::new(&described, context);
    let control = context.control()?;
    let mut export = Export { control, who, described: &described, asked, going: &mut going };
    let ended = match place {
        Place::Device => export.write_device(out, args.force, hashed),
        _ => export.write_files(out, args.force, hashed),
    };
    going.progress.finish();
    match ended {
        Ok(written) => say(&described, &what, &written, context),
        Err(Trouble::Interrupted) => Ok(INTERRUPTED),
        Err(Trouble::Failed(failure)) => Err(failure.into()),
        Err(Trouble::Image(error)) => Err(failure(error, out).into()),
    }
}

/// What is asked of the store.
fn question(
    args: &ImageExportArgs,
    to_stdout: bool,
    context: &Context<'_>,
) -> Result<Describe, Failure> {
    let format = format_to(args.to, &args.out)?;
    let reference = context.reference(&args.reference)?;
    let base = args.base.as_deref().map(|base| context.instant_of(base)).transpose()?;
    let own = args.out.file_name().filter(|_| !to_stdout);
    Ok(Describe {
        reference,
        format: word_of(format),
        subformat: args.subformat.clone(),
        base,
        base_name: args.base_file.clone(),
        name: own.map(|name| name.to_string_lossy().into_owned()),
        exact: args.exact,
    })
}

const fn word_of(format: Format) -> export::ImageFormat {
    match format {
        Format::Raw => export::ImageFormat::Raw,
        Format::Qcow2 => export::ImageFormat::Qcow2,
        Format::Vhd => export::ImageFormat::Vhd,
        Format::Vhdx => export::ImageFormat::Vhdx,
        Format::Vmdk => export::ImageFormat::Vmdk,
        Format::Vdi => export::ImageFormat::Vdi,
    }
}

/// `db@seq:93880 (2026-11-20 10:03:40.123, 2 ms before), 40 GiB`, and what it differs from.
fn what(described: &Described, context: &Context<'_>) -> String {
    let mut text = format!(
        "{} ({}{}), {}",
        described.reference,
        context.zone.show_precise(described.time),
        distance(described.resolution.as_ref()),
        size_text(described.size)
    );
    if let Some(base) = &described.base {
        write!(text, ", as it differs from {}", base.reference).expect("text grows");
    }
    text
}

fn plan(
    described: &Described,
    what: &str,
    out: &Path,
    context: &mut Context<'_>,
) -> Result<u8, Stop> {
    let mut text = format!("would write {what} to {} ({})", out.display(), kind(described));
    let lengths: Option<Vec<u64>> = described.files.iter().map(|file| file.length).collect();
    match lengths {
        Some(lengths) => {
            let length: u64 = lengths.iter().sum();
            write!(text, ", {length} bytes").expect("text grows");
        }
        None => text.push_str(", as long as it is when it is packed"),
    }
    context.out.plan(&text)?;
    Ok(0)
}

/// `vmdk, streamOptimized`; the usual kind is not named.
fn kind(described: &Described) -> String {
    let format = serde_json::to_value(described.format).unwrap_or_default();
    let format = format.as_str().unwrap_or_default();
    match described.subformat.as_str() {
        "plain" | "dynamic" | "sparse" => format.to_owned(),
        kind => format!("{format}, {kind}"),
    }
}

/// Progress, and whether somebody wants it to end.
struct Going {
    progress: Progress,
    signals: Option<StopSignals>,
}

impl Going {
    fn new(described: &Described, context: &Context<'_>) -> Self {
        let lengths: Option<u64> = described.files.iter().map(|file| file.length).sum();
        let total = lengths.or(described.data).unwrap_or(described.size);
        let quiet = context.out.quiet || context.out.json;
        let progress = Progress::new(context.global.progress, quiet, "exporting", total);
        // Where signals are caught already, or cannot be, they do what they did before.
        let signals = StopSignals::install(Waker(Arc::new(|| ()))).ok();
        Self { progress, signals }
    }

    fn advance(&mut self, bytes: u64) -> Result<(), Trouble> {
        self.progress.advance(bytes);
        match &self.signals {
            Some(signals) if signals.count() > 0 => Err(Trouble::Interrupted),
            _ => Ok(()),
        }
    }
}

/// Why it ended early.
enum Trouble {
    Failed(Failure),
    Image(Error),
    Interrupted,
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Image(error)
    }
}

/// A file that was written.
struct Written {
    path: PathBuf,
    length: u64,
    /// Bytes that are no holes.
    data: u64,
    sha256: Option<String>,
    etag: String,
}

/// An export on its way to where the user wants it.
struct Export<'a> {
    control: &'a dyn Control,
    who: Caller,
    described: &'a Described,
    asked: Describe,
    going: &'a mut Going,
}

impl Export<'_> {
    /// To new files: they appear when all are whole, the one that is opened last.
    fn write_files(
        &mut self,
        out: &Path,
        force: bool,
        hashed: bool,
    ) -> Result<Vec<Written>, Trouble> {
        let (mut sinks, mut all) = (Vec::new(), Vec::new());
        for (number, file) in (0..).zip(&self.described.files) {
            let path = with_suffix(out, &file.suffix);
            let mut sink = FileSink::make(&path)?;
            if let Some(length) = file.length {
                // A file that cannot be so long is refused before anything is read.
                sink.set_length(length)?;
            }
            let head_last = file.length.is_none() && self.described.format == QCOW2;
            let mut hash = Digest::new(hashed && !head_last);
            let mut length = self.copy(number, file, head_last, &mut sink, &mut hash)?;
            if head_last {
                length = put_head(&mut sink, length)?;
            }
            sink.set_length(length)?;
            if hashed && head_last {
                hash = Digest::new(true);
                read_back(&sink, length, &mut hash)?;
            }
            let (data, etag) = (sink.written, file.etag.clone());
            all.push(Written { path, length, data, sha256: hash.finish(), etag });
            sinks.push(sink);
        }
        // The file that is opened, the first, appears last: when what it names is there.
        sinks.into_iter().rev().try_for_each(|sink| sink.place(force))?;
        Ok(all)
    }

    fn write_device(
        &mut self,
        out: &Path,
        force: bool,
        hashed: bool,
    ) -> Result<Vec<Written>, Trouble> {
        let [file] = self.described.files.as_slice() else {
            let why = "a format of several files does not fit on one device";
            return Err(Error::Unsuitable(why).into());
        };
        let Some(length) = file.length else {
            let why = "a packed image has no length before it is packed: name a file";
            return Err(Error::Unsuitable(why).into());
        };
        let mut sink = DeviceSink::open(out, length, force)?;
        let mut hash = Digest::new(hashed);
        self.copy(0, file, false, &mut sink, &mut hash)?;
        sink.finish()?;
        let (path, data, etag) = (out.to_owned(), sink.written, file.etag.clone());
        Ok(vec![Written { path, length, data, sha256: hash.finish(), etag }])
    }

    /// Copies a file from its first byte to its last; gives how many came.
    fn copy(
        &mut self,
        number: u32,
        file: &ExportFile,
        head_last: bool,
        sink: &mut dyn Sink,
        hash: &mut Digest,
    ) -> Result<u64, Trouble> {
        let mut read = self.asked.clone().read(number);
        read.head_last = head_last;
        read.length = file.length;
        let mut chunks = self.control.export(&self.who, read)?;
        let mut at = 0;
        while let Some(chunk) = chunks.next()? {
            let length = chunk.length();
            match chunk {
                Chunk::Data(bytes) => {
                    sink.bytes(at, &bytes)?;
                    hash.bytes(&bytes);
                }
                Chunk::Zeroes(_) => {
                    sink.zeroes(at, length)?;
                    hash.zeroes(length);
                }
            }
            at += length;
            self.going.advance(length)?;
        }
        match file.length {
            Some(length) if length != at => {
                let text = format!("{at} of {length} bytes of {} came", file.name);
                Err(Failure::new(codes::SERVER_GONE, text).into())
            }
            _ => Ok(at),
        }
    }
}

const QCOW2: export::ImageFormat = export::ImageFormat::Qcow2;

/// Puts the head of a packed qcow2 image where it belongs: it came behind all others. Gives the file's
/// length.
fn put_head(sink: &mut FileSink, came: u64) -> Result<u64, Trouble> {
    let length = came.checked_sub(export::Read::HEAD_BYTES).ok_or_else(|| {
        Failure::new(codes::UNEXPECTED_ANSWER, "a packed image came without its head")
    })?;
    sink.set_length(came)?; // zeroes at its end were not written
    let mut head = vec![0; usize::try_from(export::Read::HEAD_BYTES).unwrap_or(0)];
    sink.read(length, &mut head)?;
    sink.bytes(0, &head)?;
    Ok(length)
}

fn read_back(sink: &FileSink, length: u64, hash: &mut Digest) -> Result<(), Trouble> {
    let mut bytes = vec![0; STEP_BYTES];
    let mut at = 0;
    while at < length {
        let now = usize::try_from(length - at).unwrap_or(STEP_BYTES).min(STEP_BYTES);
        sink.read(at, &mut bytes[..now])?;
        hash.bytes(&bytes[..now]);
        at += now as u64;
    }
    Ok(())
}

/// SHA-256 of a file, where it is wanted.
struct Digest(Option<Hash>);

impl Digest {
    fn new(wanted: bool) -> Self {
        Self(wanted.then(|| Hash::new(&SHA256)))
    }

    fn bytes(&mut self, bytes: &[u8]) {
        if let Some(hash) = &mut self.0 {
            hash.update(bytes);
        }
    }

    fn zeroes(&mut self, mut length: u64) {
        static ZEROES: [u8; STEP_BYTES] = [0; STEP_BYTES];
        while length > 0 && self.0.is_some() {
            let now = usize::try_from(length).unwrap_or(STEP_BYTES).min(STEP_BYTES);
            self.bytes(&ZEROES[..now]);
            length -= now as u64;
        }
    }

    fn finish(self) -> Option<String> {
        self.0.map(|hash| hex(hash.finish().as_ref()))
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("text grows");
    }
    text
}

/// Signals end this process as they end others: a write to a full pipe can be left no other way.
fn to_stream(
    described: &Described,
    asked: Describe,
    context: &mut Context<'_>,
) -> Result<u8, Stop> {
    let [file] = described.files.as_slice() else {
        let why = "a format of several files is no stream";
        return Err(failure(Error::Unsuitable(why), Path::new("-")).into());
    };
    let who = context.who;
    let mut going = Going { signals: None, ..Going::new(described, context) };
    let mut out = io::stdout().lock();
    let mut sink = StreamSink::new(&mut out);
    let control = context.control()?;
    let mut export = Export { control, who, described, asked, going: &mut going };
    let copied = export.copy(0, file, false, &mut sink, &mut Digest::new(false));
    let ended = copied.and_then(|_| Ok(sink.finish()?));
    going.progress.finish();
    match ended {
        Ok(()) => Ok(0),
        Err(Trouble::Image(error)) if is_closed_pipe(&error) => Err(Stop::PipeClosed),
        Err(Trouble::Image(error)) => Err(failure(error, Path::new("-")).into()),
        Err(Trouble::Failed(failure)) => Err(failure.into()),
        Err(Trouble::Interrupted) => Ok(INTERRUPTED),
    }
}

/// The digest of a list as `sha256sum` prints it of the files, the one that is opened first.
fn manifest(written: &[Written]) -> Option<String> {
    let mut list = String::new();
    for file in written {
        let name = file.path.file_name()?.to_string_lossy();
        writeln!(list, "{}  {name}", file.sha256.as_ref()?).expect("text grows");
    }
    Some(hex(ring::digest::digest(&SHA256, list.as_bytes()).as_ref()))
}

fn say(
    described: &Described,
    what: &str,
    written: &[Written],
    context: &mut Context<'_>,
) -> Result<u8, Stop> {
    let (length, bytes) = written
        .iter()
        .fold((0, 0), |(length, bytes), file| (length + file.length, bytes + file.data));
    if context.out.json {
        let file = |file: &Written| {
            json!({
                "path": file.path.to_string_lossy(),
                "length": file.length,
                "written": file.data,
                "sha256": file.sha256,
                "etag": file.etag,
            })
        };
        context.out.document(&json!({
            "schema": "image.export/1",
            "reference": described.reference,
            "seq": described.seq,
            "time": described.time,
            "size": described.size,
            "format": described.format,
            "subformat": described.subformat,
            "base": described.base,
            "files": written.iter().map(file).collect::<Vec<_>>(),
            "length": length,
            "written": bytes,
            "manifest": manifest(written),
        }))?;
        return Ok(0);
    }
    let path = written.first().map_or_else(String::new, |file| file.path.display().to_string());
    context.out.line(&format!("exported {what} to {path} ({})", kind(described)))?;
    let (bytes, length) = (size_text(bytes), size_text(length));
    context.out.aside(&format!("  {bytes} of {length} written, the rest is zeroes"))?;
    for file in written {
        if let Some(sha256) = &file.sha256 {
            context.out.line(&format!("  sha256 {sha256}  {}", file.path.display()))?;
        }
    }
    if let Some(name) = described.base.as_ref().and_then(|base| base.name.as_ref()) {
        let base =
            described.base.as_ref().map_or_else(String::new, |base| base.reference.to_string());
        let text = format!("  it opens over {name}, the image of {base} in its folder");
        context.out.aside(&text)?;
    }
    Ok(0)
}
