//! The files of a chain, by number: opened as the parser asks, read as it needs.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use images::{Answer, Ask, Fault, FileId, Need, Step, Stepped};
use world::real::{FileStat, Folder, ForeignFile, Kinds, Refusal, Stretch};

use crate::{Error, edit::bar_error};

/// Open files. Numbers are given in the order of opening and never used again.
#[derive(Debug)]
pub struct Files {
    open: Vec<Open>,
    by_inode: HashMap<(u64, u64), FileId>,
    search: Vec<Folder>,
    kinds: Kinds,
    /// Names that lead out of an image's folder are followed.
    outside: bool,
}

#[derive(Debug)]
struct Open {
    path: PathBuf,
    /// `None` once nobody needs it.
    file: Option<(ForeignFile, Folder)>,
    length_bytes: u64,
}

impl Files {
    /// No file yet. `search` are folders in which parts and parents are looked for when they are not
    /// where the image says.
    pub(crate) fn new(search: &[PathBuf], kinds: Kinds, outside: bool) -> Result<Self, Error> {
        let folder = |path: &PathBuf| {
            Folder::open(path).map_err(|cause| Error::Io {
                doing: "open the folder",
                path: path.clone(),
                cause,
            })
        };
        let search = search.iter().map(folder).collect::<Result<_, _>>()?;
        Ok(Self { open: Vec::new(), by_inode: HashMap::new(), search, kinds, outside })
    }

    /// The file that the user named: its number and length.
    pub(crate) fn open_named(&mut self, path: &Path) -> Result<(FileId, u64), Error> {
        let cannot = |cause| Error::Io { doing: "open", path: path.to_owned(), cause };
        let file = ForeignFile::open(path, self.kinds).map_err(|refusal| match refusal {
            Refusal::Missing if path.is_dir() => {
                Error::Unfit { path: path.to_owned(), why: "it is a directory" }
            }
            Refusal::Missing => Error::Missing(path.to_owned()),
            Refusal::Forbidden(why) => Error::Unfit { path: path.to_owned(), why },
            Refusal::Io(cause) => cannot(cause),
        })?;
        let folder = Folder::of(path).map_err(cannot)?;
        Ok(self.keep(path.to_owned(), file, folder))
    }

    /// Does what the operation asks until it ends.
    pub(crate) fn drive<S: Stepped>(&mut self, mut operation: S) -> Result<S::Output, Error> {
        loop {
            match operation.next() {
                Step::Need(need) => operation.supply(self.bytes(need)?),
                Step::Ask(ask) => operation.answer(self.answer(&ask)?),
                Step::Done(output) => return Ok(output),
                Step::Fail(fault) => return Err(self.fault(fault)),
            }
        }
    }

    /// The same for an operation on a chain that is open: it asks for no further file.
    pub(crate) fn read_for<S: Stepped>(&self, mut operation: S) -> Result<S::Output, Error> {
        loop {
            match operation.next() {
                Step::Need(need) => operation.supply(self.bytes(need)?),
                Step::Ask(_) => operation.answer(Answer::Missing),
                Step::Done(output) => return Ok(output),
                Step::Fail(fault) => return Err(self.fault(fault)),
            }
        }
    }

    /// Reads into all of `into`; gives how many bytes there were.
    pub(crate) fn read(&self, file: FileId, offset: u64, into: &mut [u8]) -> Result<usize, Error> {
        let open = self.get(file);
        let Some((real, _)) = &open.file else { return Ok(0) };
        let cannot = |cause| Error::Io { doing: "read", path: open.path.clone(), cause };
        real.read_at(offset, into).map_err(cannot)
    }

    /// What stands at an offset of a file, for at most `len` bytes.
    pub(crate) fn stretch(&self, file: FileId, offset: u64, len: u64) -> Stretch {
        match &self.get(file).file {
            Some((real, _)) => real.stretch(offset, len),
            None => Stretch::Data(len),
        }
    }

    /// Closes all files but those.
    pub(crate) fn keep_only(&mut self, wanted: &[FileId]) {
        for (place, open) in self.open.iter_mut().enumerate() {
            if !wanted.iter().any(|file| index(*file) == place) {
                open.file = None;
            }
        }
    }

    /// The path by which a file was reached, for messages.
    pub fn path(&self, file: FileId) -> &Path {
        &self.get(file).path
    }

    /// Its length in bytes when it was opened.
    pub fn length_bytes(&self, file: FileId) -> u64 {
        self.get(file).length_bytes
    }

    /// When it was last written, in seconds since 1970-01-01 UTC.
    pub fn modified_s(&self, file: FileId) -> u64 {
        self.get(file).file.as_ref().map_or(0, |(real, _)| real.modified_s())
    }

    /// What the file system says of it now.
    pub fn stat(&self, file: FileId) -> Result<FileStat, Error> {
        let open = self.get(file);
        let Some((real, _)) = &open.file else { return Err(Error::Missing(open.path.clone())) };
        let cannot = |cause| Error::Io { doing: "look at", path: open.path.clone(), cause };
        real.stat().map_err(cannot)
    }

    /// Keeps writers out of it for as long as it is open.
    pub(crate) fn bar(&self, file: FileId) -> Result<(), Error> {
        let open = self.get(file);
        let barred = open.file.as_ref().map_or(Ok(()), |(real, _)| real.bar_writers());
        barred.map_err(|error| bar_error(error, &open.path))
    }

    /// Whether the file at a path is one of those open.
    pub(crate) fn has(&self, path: &Path) -> bool {
        ForeignFile::open(path, Kinds::FilesAndDevices)
            .is_ok_and(|file| self.by_inode.contains_key(&file.inode()))
    }

    /// What tells the file from others on this machine.
    pub(crate) fn inode(&self, file: FileId) -> (u64, u64) {
        self.get(file).file.as_ref().map_or((0, 0), |(real, _)| real.inode())
    }

    /// A fault with the path of the file in which it was seen.
    pub(crate) fn fault(&self, fault: Fault) -> Error {
        let path = self.open.get(index(fault.file)).map_or_else(PathBuf::new, |o| o.path.clone());
        Error::Fault { fault: Box::new(fault), path }
    }

    fn bytes(&self, need: Need) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; need.len];
        let read = self.read(need.file, need.offset, &mut bytes)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    fn answer(&mut self, ask: &Ask) -> Result<Answer, Error> {
        match ask {
            Ask::Open { from, name, .. } => self.open_beside(*from, name.as_str()),
            Ask::List(query) => {
                let own = self.path(query.beside).file_name().map(ToOwned::to_owned);
                let mut names = Vec::new();
                for folder in self.folders(query.beside) {
                    let listed = folder.names(query.suffix).map_err(|cause| Error::Io {
                        doing: "list",
                        path: folder.path().to_owned(),
                        cause,
                    })?;
                    names.extend(listed);
                }
                names.retain(|name| own.as_deref() != Some(name.as_ref()));
                names.sort_unstable();
                names.dedup();
                Ok(Answer::Names(names))
            }
        }
    }

    /// The file of that name: where the image says, else by its last part where the user said.
    fn open_beside(&mut self, from: FileId, name: &str) -> Result<Answer, Error> {
        match self.find(from, name) {
            Ok((path, file, below)) => {
                let (file, len) = self.keep(path, file, below);
                Ok(Answer::Opened { file, len })
            }
            Err((_, Refusal::Missing)) => Ok(Answer::Missing),
            Err((_, Refusal::Forbidden(why))) => Ok(Answer::Refused(why.to_owned())),
            Err((path, Refusal::Io(cause))) => Err(Error::Io { doing: "open", path, cause }),
        }
    }

    fn find(
        &self,
        from: FileId,
        name: &str,
    ) -> Result<(PathBuf, ForeignFile, Folder), (PathBuf, Refusal)> {
        let last = name.rsplit('/').next().unwrap_or(name);
        let is_outside = name.starts_with('/') || name.split('/').any(|step| step == "..");
        if let (true, true, Some((_, folder))) = (self.outside, is_outside, &self.get(from).file) {
            let path = folder.path().join(name);
            match ForeignFile::open(&path, self.kinds) {
                Err(Refusal::Missing) => {}
                Err(refusal) => return Err((path, refusal)),
                Ok(file) => {
                    let cannot = |cause| (path.clone(), Refusal::Io(cause));
                    let folder = Folder::of(&path).map_err(cannot)?;
                    return Ok((path, file, folder));
                }
            }
        }
        for (place, folder) in self.folders(from).enumerate() {
            let name = if place == 0 { name } else { last };
            let path = folder.path().join(name);
            match folder.file(name, self.kinds) {
                Ok((file, below)) => return Ok((path, file, below)),
                Err(Refusal::Missing) => {}
                Err(refusal) => return Err((path, refusal)),
            }
        }
        Err((PathBuf::new(), Refusal::Missing))
    }

    /// Where names in an image lead: its own folder, then those of the user.
    fn folders(&self, from: FileId) -> impl Iterator<Item = &Folder> {
        let own = self.get(from).file.as_ref().map(|(_, folder)| folder);
        own.into_iter().chain(&self.search)
    }

    fn keep(&mut self, path: PathBuf, file: ForeignFile, folder: Folder) -> (FileId, u64) {
        let inode = file.inode();
        if let Some(known) = self.by_inode.get(&inode) {
            return (*known, self.get(*known).length_bytes);
        }
        let number = FileId(u32::try_from(self.open.len()).expect("descriptors are few"));
        let length_bytes = file.length_bytes();
        self.open.push(Open { path, file: Some((file, folder)), length_bytes });
        self.by_inode.insert(inode, number);
        (number, length_bytes)
    }

    fn get(&self, file: FileId) -> &Open {
        &self.open[index(file)]
    }
}

fn index(file: FileId) -> usize {
    usize::try_from(file.0).expect("32 bits fit memory")
}
