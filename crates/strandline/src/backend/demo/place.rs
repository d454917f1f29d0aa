//! The directory that a demo plays in, and the programs that it finds.

use api::{Failure, codes};
use rustix::fs::{Mode, OFlags};
use std::{
    env,
    fs::File,
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};
use world::{Chance as _, real::RealChance};

/// A directory of the demo's own; it goes with this unless it is kept.
#[derive(Debug)]
pub(super) struct Place {
    directory: PathBuf,
    kept: bool,
}

impl Place {
    /// A new directory: the one that is named, else a temporary one.
    pub(super) fn make(keep: Option<&Path>) -> Result<Self, Failure> {
        let temporary = || {
            let name = u32::from_be_bytes(RealChance.bytes());
            env::temp_dir().join(format!("strandline-demo-{name:08x}"))
        };
        let directory = keep.map_or_else(temporary, Path::to_owned);
        let cannot = |error: io::Error| cannot("make", &directory, &error);
        std::fs::DirBuilder::new().mode(0o700).create(&directory).map_err(cannot)?;
        let directory = std::fs::canonicalize(&directory).map_err(cannot)?;
        Ok(Self { directory, kept: keep.is_some() })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.directory
    }

    /// Whether it stays.
    pub(super) const fn is_kept(&self) -> bool {
        self.kept
    }

    /// Makes a new file in it.
    pub(super) fn create(&self, name: &str) -> Result<File, Failure> {
        let path = self.directory.join(name);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)
            .map(File::from)
            .map_err(|error| cannot("make", &path, &error.into()))
    }

    /// Makes a new file in it, with contents.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.create(name)?.write_all(bytes);
        written.map_err(|error| cannot("write", &self.directory.join(name), &error))
    }

    /// Reads a file in it.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>, Failure> {
        let path = self.directory.join(name);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::empty()).map(File::from);
        let mut bytes = Vec::new();
        file.map_err(io::Error::from)
            .and_then(|mut file| io::Read::read_to_end(&mut file, &mut bytes))
            .map_err(|error| cannot("read", &path, &error))?;
        Ok(bytes)
    }

    /// Makes a directory in it.
    pub(super) fn make_directory(&self, name: &str) -> Result<(), Failure> {
        let path = self.directory.join(name);
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| cannot("make", &path, &error))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = std::fs::remove_dir_all(&self.directory)
        {
            tracing::warn!(%error, path = %self.directory.display(), "was not removed");
        }
    }
}

/// Programs of others that the demo uses where they are installed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tools {
    /// Makes a file system with files in it.
    pub mke2fs: Option<PathBuf>,
    /// Looks into a file system.
    pub debugfs: Option<PathBuf>,
    /// Copies between files and NBD.
    pub nbdcopy: Option<PathBuf>,
    /// Does so, too.
    pub qemu_img: Option<PathBuf>,
}

impl Tools {
    /// What is installed.
    pub(super) fn find() -> Self {
        let path = env::var_os("PATH").unwrap_or_default();
        let places: Vec<PathBuf> = env::split_paths(&path)
            .chain(["/usr/sbin".into(), "/sbin".into()]) // not in every user's PATH
            .collect();
        let find = |name: &str| {
            places.iter().map(|place| place.join(name)).find(|program| program.is_file())
        };
        Self {
            mke2fs: find("mke2fs"),
            debugfs: find("debugfs"),
            nbdcopy: find("nbdcopy"),
            qemu_img: find("qemu-img"),
        }
    }

    /// What is missing, and how to get it.
    pub(super) fn missing(&self) -> Vec<&'static str> {
        let mut lines = Vec::new();
        if self.mke2fs.is_none() || self.debugfs.is_none() {
            lines.push("mke2fs, debugfs   apt-get install -y e2fsprogs");
        }
        if self.nbdcopy.is_none() && self.qemu_img.is_none() {
            lines.push("nbdcopy           apt-get install -y libnbd-bin");
        }
        lines
    }
}

fn cannot(verb: &str, path: &Path, error: &io::Error) -> Failure {
    let code = match error.kind() {
        io::ErrorKind::AlreadyExists => codes::TARGET_EXISTS,
        io::ErrorKind::NotFound => codes::NO_FILE,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => codes::TARGET_FULL,
        _ => codes::FILE_DENIED,
    };
    Failure::new(code, format!("cannot {verb} {}: {error}", path.display()))
}
