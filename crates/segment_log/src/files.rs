//! The files that hold cells, by id: where they are, what they may hold, and who still reads them.
//!
//! A file id is never used twice, so a place whose file is not here is merely old: who holds it asks
//! the index again. A file leaves the table before its slot is used anew, and the slot waits until
//! the last reader has let go.

use std::{
    collections::{HashMap, VecDeque},
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
};
use units::{FileId, Sequence};
use world::{Access, Disk, File};

/// Files kept open at most; the others are opened as they are read.
const OPEN_MAX: usize = 512;

/// What kind of file, and its number in the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// `log/<slot>.seg`
    Slot(u64),
    /// `bulk/<file>.bulk`
    Bulk(FileId),
    /// `pack/<file>.pack`
    Pack(FileId),
}

impl Home {
    /// Its path in the store.
    pub fn path(self) -> String {
        match self {
            Self::Slot(slot) => format!("log/{slot}.seg"),
            Self::Bulk(file) => format!("bulk/{file}.bulk"),
            Self::Pack(file) => format!("pack/{file}.pack"),
        }
    }
}

/// A file that holds cells.
pub struct CellFile {
    /// Its id: of this use, if it is a segment.
    pub id: FileId,
    /// Where it is.
    pub home: Home,
    /// The first sequence its cells may have; the last only matters where a slot was used before.
    pub first: Sequence,
    handle: Mutex<Option<File>>,
}

impl CellFile {
    /// One that is open already, or will be when it is first read.
    pub fn new(id: FileId, home: Home, first: Sequence, handle: Option<File>) -> Arc<Self> {
        Arc::new(Self { id, home, first, handle: Mutex::new(handle) })
    }

    /// The open file.
    pub fn open(&self, disk: &dyn Disk) -> io::Result<File> {
        let mut handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &*handle {
            return Ok(file.clone());
        }
        let file = disk.open(&self.home.path(), Access::READ_DIRECT)?;
        *handle = Some(file.clone());
        Ok(file)
    }

    fn close(&self) {
        *self.handle.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn is_open(&self) -> bool {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

impl fmt::Debug for CellFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CellFile({} {:?})", self.id, self.home)
    }
}

/// All files that hold cells now.
#[derive(Debug, Default)]
pub struct FileTable {
    files: HashMap<FileId, Arc<CellFile>>,
    opened: VecDeque<FileId>,
    /// Segments that hold nothing any more but may still be read.
    retiring: Vec<(u64, Arc<CellFile>)>,
}

impl FileTable {
    /// Adds a file.
    pub fn insert(&mut self, file: Arc<CellFile>) {
        self.files.insert(file.id, file);
    }

    /// The file of that id.
    pub fn get(&self, id: FileId) -> Option<Arc<CellFile>> {
        self.files.get(&id).cloned()
    }

    /// The file of that id, open; `None` if it holds no cells any more.
    pub fn open(
        &mut self,
        id: FileId,
        disk: &dyn Disk,
    ) -> Option<io::Result<(Arc<CellFile>, File)>> {
        let file = self.files.get(&id)?.clone();
        if !file.is_open() {
            self.opened.push_back(id);
            if self.opened.len() > OPEN_MAX
                && let Some(oldest) = self.opened.pop_front().and_then(|id| self.files.get(&id))
            {
                oldest.close();
            }
        }
        Some(file.open(disk).map(|handle| (file, handle)))
    }

    /// Closes a file until it is read again.
    pub fn close(&self, id: FileId) {
        if let Some(file) = self.files.get(&id) {
            file.close();
        }
    }

    /// Takes out a file that holds nothing; its slot is not used again in this run.
    pub fn remove(&mut self, id: FileId) {
        self.files.remove(&id);
    }

    /// Takes out a segment whose cells have moved; its slot comes from [`FileTable::freed`] later.
    pub fn retire(&mut self, id: FileId) {
        if let Some(file) = self.files.remove(&id)
            && let Home::Slot(slot) = file.home
        {
            self.retiring.push((slot, file));
        }
    }

    /// A slot that nobody reads any more.
    pub fn freed(&mut self) -> Option<u64> {
        let index = self.retiring.iter().position(|(_, file)| Arc::strong_count(file) == 1)?;
        Some(self.retiring.swap_remove(index).0)
    }
}
