//! `restore VOL@I --to-disk DEV|FILE`: the whole disk of an instant, written by this process.
//!
//! The command line opens the target itself, so that a server with more rights cannot be made to
//! write for a caller with fewer. A new file stays sparse; a device gets every byte, zeroes too. A
//! device that holds data, or a file that exists, is written only after a confirmation. What ends
//! early leaves the target unfinished, says so, and is repeated by the same command.

use super::{super::distance, cannot};
use crate::{
    cli::RestoreArgs,
    context::Context,
    out::{Progress, Stop},
};
use api::{
    Chunk, Chunks, Failure,
    amounts::size_text,
    codes,
    verbs::{past, vol::VolShow},
};
use rustix::fs::{FileType, Mode, OFlags};
use serde_json::json;
use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::FileExt as _,
    path::Path,
};

/// How much of a device is looked at to see whether it holds data.
const LOOK_BYTES: u64 = 1 << 20;

/// Runs of zeroes of this length and more are left as holes.
const HOLE_BYTES: usize = 4096;

pub(super) fn run(args: &RestoreArgs, path: &Path, context: &mut Context<'_>) -> Result<u8, Stop> {
    let reference = context.instant_of(&args.reference)?;
    let found = context.ask(VolShow { reference, exact: args.exact })?;
    let size = found.size;
    if path.as_os_str() == "-" {
        let failure = Failure::new(codes::USAGE, "a disk is not written to stdout");
        return Err(failure.doing("name a file, ./- for one of that name").into());
    }
    let what = format!(
        "{} ({}{}), {}",
        found.reference,
        context.zone.show_precise(found.time),
        distance(found.resolution.as_ref()),
        size_text(size)
    );
    if context.global.dry_run {
        context.out.plan(&format!("would write {what} to {}", path.display()))?;
        return Ok(0);
    }
    let target = prepare(path, size, context)?;
    let asked = past::Read {
        reference: found.reference.clone(),
        offset: 0,
        length: Some(size),
        exact: false,
    };
    let who = context.who;
    let mut chunks = context.control()?.read(&who, asked)?;
    let mut progress = Progress::new(
        context.global.progress,
        context.out.quiet || context.out.json,
        "restoring",
        size,
    );
    let written = write_all(&mut *chunks, &target, size, path, &mut progress);
    progress.finish();
    let data = written.map_err(|failure| unfinished(failure, path))?;
    if context.out.json {
        context.out.document(&json!({
            "schema": "restore/1",
            "reference": found.reference,
            "seq": found.seq,
            "time": found.time,
            "size": size,
            "data": data,
            "target": path.to_string_lossy(),
        }))?;
    } else {
        context.out.line(&format!("restored {what} to {}", path.display()))?;
    }
    Ok(0)
}

fn unfinished(failure: Failure, path: &Path) -> Failure {
    let message = format!("{}; {} is unfinished", failure.message, path.display());
    Failure { message, ..failure }
}

/// Where the disk is written.
struct Target {
    file: File,
    /// Zeroes may be left out: what is not written reads as zero.
    sparse: bool,
}

fn prepare(path: &Path, size: u64, context: &mut Context<'_>) -> Result<Target, Stop> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR) {
        Ok(new) => {
            let file = File::from(new);
            file.set_len(size).map_err(|error| cannot("size", path, &error))?;
            return Ok(Target { file, sparse: true });
        }
        Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(cannot("make", path, &error.into()).into()),
    }
    // EXCL on a block device: refused while it is mounted or held by something else.
    let kind = rustix::fs::stat(path).map_err(|error| cannot("look at", path, &error.into()))?;
    match FileType::from_raw_mode(kind.st_mode) {
        FileType::BlockDevice => device(path, size, context),
        FileType::RegularFile => existing(path, size, context),
        _ => {
            let failure = format!("{} is no disk and no file", path.display());
            Err(Failure::new(codes::TARGET_EXISTS, failure).into())
        }
    }
}

fn existing(path: &Path, size: u64, context: &mut Context<'_>) -> Result<Target, Stop> {
    let plan = format!("{} exists and would be written over", path.display());
    let refusal = Failure::new(codes::TARGET_EXISTS, format!("{plan}; pass --yes"));
    context.confirm(&plan, "the file's path", &path.to_string_lossy(), refusal)?;
    let file = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let file = File::from(file.map_err(|error| cannot("open", path, &error.into()))?);
    // Emptied first: what is then not written reads as zero.
    file.set_len(0)
        .and_then(|()| file.set_len(size))
        .map_err(|error| cannot("size", path, &error))?;
    Ok(Target { file, sparse: true })
}

fn device(path: &Path, size: u64, context: &mut Context<'_>) -> Result<Target, Stop> {
    let flags = OFlags::RDWR | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty());
    let mut file = File::from(file.map_err(|error| cannot("open", path, &error.into()))?);
    let room = file.seek(SeekFrom::End(0)).map_err(|error| cannot("size", path, &error))?;
    if room < size {
        let (room, size) = (size_text(room), size_text(size));
        let failure = format!("{} has {room}, and the disk is {size}", path.display());
        return Err(Failure::new(codes::TARGET_FULL, failure).into());
    }
    if holds_data(&mut file).map_err(|error| cannot("read", path, &error))? {
        let plan = format!("{} holds data, which would be written over", path.display());
        let refusal = Failure::new(codes::DEVICE_NOT_EMPTY, format!("{plan}; pass --yes"));
        context.confirm(&plan, "the device's path", &path.to_string_lossy(), refusal)?;
    }
    Ok(Target { file, sparse: false })
}

/// Whether its first or last stretch is anything but zeroes.
fn holds_data(file: &mut File) -> io::Result<bool> {
    let end = file.seek(SeekFrom::End(0))?;
    for start in [0, end.saturating_sub(LOOK_BYTES)] {
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        (&*file).take(LOOK_BYTES).read_to_end(&mut bytes)?;
        if bytes.iter().any(|byte| *byte != 0) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Writes exactly `size` bytes and makes them durable; gives how many were not zeroes.
fn write_all(
    chunks: &mut dyn Chunks,
    target: &Target,
    size: u64,
    path: &Path,
    progress: &mut Progress,
) -> Result<u64, Failure> {
    let (mut at, mut data) = (0_u64, 0_u64);
    while let Some(chunk) = chunks.next()? {
        let length = chunk.length();
        if at.checked_add(length).is_none_or(|end| end > size) {
            return Err(Failure::new(
                codes::UNEXPECTED_ANSWER,
                "the store sent more than the disk",
            ));
        }
        let written = match chunk {
            Chunk::Data(bytes) => write_data(target, at, &bytes).map(|count| data += count),
            Chunk::Zeroes(_) if target.sparse => Ok(()),
            Chunk::Zeroes(length) => write_zeroes(&target.file, at, length),
        };
        written.map_err(|error| cannot("write", path, &error))?;
        at += length;
        progress.advance(length);
    }
    if at != size {
        return Err(Failure::new(codes::SERVER_GONE, format!("only {at} of {size} bytes came")));
    }
    target.file.sync_all().map_err(|error| cannot("flush", path, &error))?;
    Ok(data)
}

/// Writes the bytes, in a sparse file without whole blocks of zeroes; gives how many it wrote.
fn write_data(target: &Target, at: u64, bytes: &[u8]) -> io::Result<u64> {
    let (mut offset, mut written) = (at, 0);
    for block in bytes.chunks(HOLE_BYTES) {
        if !target.sparse || block.iter().any(|byte| *byte != 0) {
            target.file.write_all_at(block, offset)?;
            written += block.len() as u64;
        }
        offset += block.len() as u64;
    }
    Ok(written)
}

fn write_zeroes(file: &File, at: u64, length: u64) -> io::Result<()> {
    static ZEROES: [u8; 1 << 20] = [0; 1 << 20];
    let (mut offset, end) = (at, at + length);
    while offset < end {
        let now = usize::try_from(end - offset).unwrap_or(usize::MAX).min(ZEROES.len());
        file.write_all_at(&ZEROES[..now], offset)?;
        offset += now as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ProgressForm;
    use std::os::unix::fs::MetadataExt as _;

    struct Steps(std::vec::IntoIter<Chunk>);

    impl Chunks for Steps {
        fn next(&mut self) -> Result<Option<Chunk>, Failure> {
            Ok(self.0.next())
        }
    }

    fn written(sparse: bool, steps: Vec<Chunk>, size: u64) -> (Result<u64, Failure>, Vec<u8>, u64) {
        let mut file = tempfile::tempfile().expect("a file");
        file.set_len(size).expect("it grows");
        let target = Target { file: file.try_clone().expect("a descriptor"), sparse };
        let mut progress = Progress::new(ProgressForm::None, true, "restoring", size);
        let mut steps = Steps(steps.into_iter());
        let result = write_all(&mut steps, &target, size, Path::new("x"), &mut progress);
        let mut bytes = Vec::new();
        file.rewind().expect("a file");
        file.read_to_end(&mut bytes).expect("it reads");
        let blocks = file.metadata().expect("a file").blocks();
        (result, bytes, blocks * 512)
    }

    fn steps() -> Vec<Chunk> {
        let mut mixed = vec![0; 64 << 10];
        mixed[..4096].fill(7);
        vec![Chunk::Zeroes(1 << 20), Chunk::Data(mixed), Chunk::Zeroes(1 << 20)]
    }

    const SIZE: u64 = (2 << 20) + (64 << 10);

    #[test]
    fn a_new_file_stays_sparse() {
        let (data, bytes, on_disk) = written(true, steps(), SIZE);
        assert_eq!(data, Ok(4096));
        assert!(on_disk < 64 << 10, "{on_disk}");
        assert!(bytes[1 << 20..][..4096].iter().all(|byte| *byte == 7));
        assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), 4096);
    }

    #[test]
    fn a_device_gets_every_byte() {
        let (data, bytes, on_disk) = written(false, steps(), SIZE);
        assert_eq!((data, bytes.len() as u64), (Ok(64 << 10), SIZE));
        assert!(on_disk >= SIZE, "{on_disk}");
    }

    #[test]
    fn too_little_and_too_much_are_failures() {
        let (short, ..) = written(true, steps(), SIZE + 1);
        assert_eq!(short.map_err(|failure| failure.code), Err(codes::SERVER_GONE));
        let (long, ..) = written(true, steps(), SIZE - 1);
        assert_eq!(long.map_err(|failure| failure.code), Err(codes::UNEXPECTED_ANSWER));
    }

    #[test]
    fn zeroes_alone_are_no_data() {
        let mut file = tempfile::tempfile().expect("a file");
        file.set_len(3 << 20).expect("it grows");
        assert!(!holds_data(&mut file).expect("it reads"));
        file.write_all_at(&[1], (3 << 20) - 1).expect("it writes");
        assert!(holds_data(&mut file).expect("it reads"));
    }
}
