//! Reads an image through its chain and writes the guest's bytes; or compares verdicts with those of
//! a corpus. A driver for tests of the library, on plain files; the product's own is elsewhere.
//!
//! ```text
//! read_image PATH FORMAT|auto [OUT]        bytes to stdout, or sparsely to OUT
//! read_image --check PATH FORMAT|auto      what a full check finds
//! read_image --snapshot NAME PATH FORMAT   bytes of an internal snapshot
//! read_image --verdicts CORPUS [PREFIX]    class of each bad case against manifest.json
//! ```

#![expect(clippy::disallowed_methods, reason = "an example has the file system to itself")]

use std::{
    fs::File,
    io::{Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    process::ExitCode,
};

use images::{
    Answer, Ask, Chain, Class, Fault, FileId, Format, Kind, Layer, OpenOptions, Opening, Part,
    Purpose, Step, Stepped, packed::Unpacker,
};

/// Guest bytes that are read at once.
const BATCH: u64 = 4 << 20;

/// Files that are open, by number.
#[derive(Default)]
struct Files(Vec<(PathBuf, File, (u64, u64))>);

impl Files {
    fn open(&mut self, path: &Path) -> Answer {
        let Ok(meta) = std::fs::metadata(path) else { return Answer::Missing };
        if meta.is_dir() {
            return Answer::Missing;
        }
        if !meta.is_file() && !meta.file_type().is_block_device() {
            return Answer::Refused("it is no regular file".to_owned());
        }
        let inode = (meta.dev(), meta.ino());
        let known = self.0.iter().position(|(.., known)| *known == inode);
        let place = known.unwrap_or(self.0.len());
        if known.is_none() {
            let Ok(file) = File::open(path) else { return Answer::Missing };
            self.0.push((path.to_owned(), file, inode));
        }
        let file = FileId(u32::try_from(place).expect("few files"));
        Answer::Opened { file, len: meta.len() }
    }

    fn answer(&mut self, ask: &Ask) -> Answer {
        match ask {
            Ask::Open { from, name, .. } => {
                let folder = self.folder(*from);
                let path = folder.join(name.as_str());
                match (std::fs::canonicalize(&path), std::fs::canonicalize(&folder)) {
                    (Ok(real), Ok(folder)) if !real.starts_with(&folder) => {
                        Answer::Refused("it lies outside the image's folder".to_owned())
                    }
                    (Ok(_), _) => self.open(&path),
                    _ => Answer::Missing,
                }
            }
            Ask::List(query) => {
                let own = self.place(query.beside).0.file_name().map(ToOwned::to_owned);
                let entries = std::fs::read_dir(self.folder(query.beside)).into_iter().flatten();
                let names = entries.flatten().map(|entry| entry.file_name());
                let names = names.filter(|name| Some(name) != own.as_ref());
                let mut names: Vec<String> =
                    names.filter_map(|name| name.into_string().ok()).collect();
                names.retain(|name| has_suffix(name, query.suffix));
                names.sort_unstable();
                Answer::Names(names)
            }
        }
    }

    fn run<S: Stepped>(&mut self, mut operation: S) -> Result<S::Output, Fault> {
        loop {
            match operation.next() {
                Step::Need(need) => {
                    operation.supply(self.read(need.file, need.offset, need.len));
                }
                Step::Ask(ask) => operation.answer(self.answer(&ask)),
                Step::Done(output) => return Ok(output),
                Step::Fail(fault) => return Err(fault),
            }
        }
    }

    fn read(&self, file: FileId, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut done = 0;
        while done < len {
            let at = offset + u64::try_from(done).expect("64 bits");
            match self.place(file).1.read_at(&mut bytes[done..], at) {
                Ok(0) | Err(_) => break,
                Ok(more) => done += more,
            }
        }
        bytes.truncate(done);
        bytes
    }

    fn place(&self, file: FileId) -> &(PathBuf, File, (u64, u64)) {
        &self.0[usize::try_from(file.0).expect("64 bits")]
    }

    fn folder(&self, file: FileId) -> PathBuf {
        self.place(file).0.parent().map(Path::to_owned).unwrap_or_default()
    }

    fn chain(&mut self, path: &Path, options: OpenOptions) -> Result<Chain, Fault> {
        let Answer::Opened { file, len } = self.open(path) else {
            let text = format!("{} is not there", path.display());
            return Err(Fault::new(Class::MissingPart, Part::Header, FileId(0), text));
        };
        let suffix = path.extension().and_then(|suffix| suffix.to_str()).map(str::to_owned);
        self.run(Opening::new(file, len, OpenOptions { suffix, ..options }))
    }

    /// Every run of guest bytes that is not zero by its map, in order.
    fn each(
        &mut self,
        chain: &mut Chain,
        mut take: impl FnMut(u64, &[u8]) -> std::io::Result<()>,
    ) -> Result<(), Fault> {
        let (mut place, end) = (0, chain.virtual_size());
        let mut unpacker = Unpacker::default();
        while place < end {
            for mapped in self.run(chain.map(place..end))? {
                let extent = mapped.extent;
                place = extent.end();
                let mut start = extent.start;
                while start < extent.end() {
                    let part = extent.cut(start, start.saturating_add(BATCH).min(extent.end()));
                    if let Some(bytes) = self.bytes(&part.kind, part.len, &mut unpacker)? {
                        take(start, &bytes).expect("the output takes what is written");
                    } else {
                        start = extent.end();
                        continue;
                    }
                    start = part.end();
                }
            }
        }
        Ok(())
    }

    fn bytes(
        &self,
        kind: &Kind,
        len: u64,
        unpacker: &mut Unpacker,
    ) -> Result<Option<Vec<u8>>, Fault> {
        let short = |file, offset| {
            Fault::at(Class::Truncated, Part::Data, file, offset, "the file ends before its map")
        };
        let len = usize::try_from(len).expect("64 bits");
        match kind {
            Kind::Data { file, offset } => {
                let bytes = self.read(*file, *offset, len);
                if bytes.len() < len { Err(short(*file, *offset)) } else { Ok(Some(bytes)) }
            }
            Kind::Zero | Kind::Hole | Kind::Parent => Ok(None),
            Kind::Packed(packed) => {
                let wanted = usize::try_from(packed.len).expect("64 bits");
                let bytes = self.read(packed.file, packed.offset, wanted);
                let unit = unpacker.unpack(packed, &bytes)?;
                let skip = usize::try_from(packed.skip).expect("64 bits");
                Ok(Some(unit[skip..skip + len].to_vec()))
            }
            Kind::Inline { bytes, skip } => Ok(Some(bytes[*skip..*skip + len].to_vec())),
            Kind::Corrupt(fault) => Err((**fault).clone()),
        }
    }
}

fn has_suffix(name: &str, suffix: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, found)| found.eq_ignore_ascii_case(suffix))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["--verdicts", corpus] => return verdicts(Path::new(corpus), ""),
        ["--verdicts", corpus, prefix] => return verdicts(Path::new(corpus), prefix),
        ["--check", path, format] => check(Path::new(path), format),
        ["--snapshot", name, path, format] => write(Path::new(path), format, Some(name), None),
        [path, format] => write(Path::new(path), format, None, None),
        [path, format, out] => write(Path::new(path), format, None, Some(Path::new(out))),
        _ => panic!("usage: read_image [--check | --snapshot NAME | --verdicts] PATH FORMAT [OUT]"),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("{}: {fault}", fault.class);
            ExitCode::FAILURE
        }
    }
}

fn options(format: &str) -> OpenOptions {
    OpenOptions { format: Format::of_word(format), ..OpenOptions::default() }
}

fn write(
    path: &Path,
    format: &str,
    snapshot: Option<&str>,
    out: Option<&Path>,
) -> Result<(), Fault> {
    let mut files = Files::default();
    let options = OpenOptions { snapshot: snapshot.map(str::to_owned), ..options(format) };
    let mut chain = files.chain(path, options)?;
    let size = chain.virtual_size();
    for layer in chain.layers() {
        for note in layer.notes() {
            eprintln!("note: {note}");
        }
    }
    if let Some(out) = out {
        let out = File::create(out).expect("the output can be made");
        out.set_len(size).expect("the output can have that size");
        return files.each(&mut chain, |start, bytes| out.write_all_at(bytes, start));
    }
    let mut out = std::io::stdout().lock();
    let mut written = 0;
    let zeroes = vec![0; 1 << 20];
    let fill = |written: &mut u64, to: u64, out: &mut dyn Write| -> std::io::Result<()> {
        while *written < to {
            let some = (to - *written).min(1 << 20);
            out.write_all(&zeroes[..usize::try_from(some).expect("64 bits")])?;
            *written += some;
        }
        Ok(())
    };
    files.each(&mut chain, |start, bytes| {
        fill(&mut written, start, &mut out)?;
        written += u64::try_from(bytes.len()).expect("64 bits");
        out.write_all(bytes)
    })?;
    fill(&mut written, size, &mut out).expect("the output takes what is written");
    Ok(())
}

fn check(path: &Path, format: &str) -> Result<(), Fault> {
    let mut files = Files::default();
    let mut chain = files.chain(path, options(format))?;
    for layer in 0..chain.layers().len() {
        let report = files.run(chain.check(layer))?;
        println!("layer {layer}: {report:#?}");
    }
    Ok(())
}

/// When a fault was told, and its class.
type Told = Option<(&'static str, Class)>;

/// The first fault of an image, in the order of moments that a corpus knows.
fn told(path: &Path, format: &str, wanted: Option<Class>) -> (Told, Vec<String>) {
    let mut files = Files::default();
    let mut chain = match files.chain(path, options(format)) {
        Ok(chain) => chain,
        Err(fault) => return (Some(("open", fault.class)), vec![fault.to_string()]),
    };
    let notes = chain.layers().iter().flat_map(Layer::notes);
    let mut seen: Vec<_> = notes.map(|fault| (fault.class, fault.to_string())).collect();
    if seen.iter().any(|(class, _)| Some(*class) == wanted) {
        let texts = seen.into_iter().map(|(_, text)| text).collect();
        return (wanted.map(|class| ("open", class)), texts);
    }
    if let Err(fault) = files.each(&mut chain, |_, _| Ok(())) {
        return (Some(("read", fault.class)), vec![fault.to_string()]);
    }
    for layer in 0..chain.layers().len() {
        match files.run(chain.check(layer)) {
            Ok(report) => {
                let found = report.findings.into_iter().map(|finding| finding.fault);
                seen.extend(found.map(|fault| (fault.class, fault.to_string())));
            }
            Err(fault) => seen.push((fault.class, fault.to_string())),
        }
    }
    let options = OpenOptions { purpose: Purpose::Write, ..options(format) };
    if let Err(fault) = Files::default().chain(path, options)
        && Some(fault.class) == wanted
    {
        return (Some(("write", fault.class)), vec![fault.to_string()]);
    }
    let hit = seen.iter().find(|(class, _)| Some(*class) == wanted).or(seen.first());
    let told = hit.map(|(class, _)| ("check", *class));
    (told, seen.into_iter().map(|(_, text)| text).collect())
}

fn verdicts(corpus: &Path, prefix: &str) -> ExitCode {
    let mut text = String::new();
    let mut manifest = File::open(corpus.join("manifest.json")).expect("the corpus has a manifest");
    manifest.seek(SeekFrom::Start(0)).expect("it is a file");
    std::io::Read::read_to_string(&mut manifest, &mut text).expect("it is text");
    let manifest: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
    let (mut right, mut wrong) = (0, 0);
    for case in manifest["bad"].as_array().expect("a list of bad images") {
        let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let id = word(&case["id"]);
        if !id.starts_with(prefix) {
            continue;
        }
        let wanted = Class::of_word(&word(&case["verdict"]["class"]));
        let latest = word(&case["verdict"]["latest"]);
        let (told, why) = told(&corpus.join(word(&case["path"])), &word(&case["format"]), wanted);
        let rank =
            |moment: &str| ["open", "read", "check"].iter().position(|known| *known == moment);
        let in_time = |moment| match (rank(moment), rank(&latest)) {
            (Some(when), Some(latest)) => when <= latest,
            _ => true, // writing: whatever refuses it
        };
        let accepts = case["verdict"]["accept_nz_sha256"].is_string();
        let good = told.is_some_and(|(moment, class)| {
            Some(class) == wanted && in_time(moment) && !(accepts && moment == "read")
        });
        if good {
            right += 1;
        } else {
            wrong += 1;
            let wanted = wanted.map_or("?", Class::word);
            println!("{id:<32} wanted {wanted} at {latest}, told {told:?}: {}", why.join("; "));
        }
    }
    println!("{right} right, {wrong} other");
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
