//! A directory in memory, and chance that is none: what these tests need of a world.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
};
use world::{Access, Chance, Disk, DiskFile, File, Space};

/// Files by path; what is written is there.
#[derive(Default)]
pub struct MemoryDisk {
    files: Mutex<BTreeMap<String, Arc<MemoryFile>>>,
}

/// A file's bytes and how often pages of it were read.
#[derive(Debug, Default)]
pub struct MemoryFile {
    bytes: Mutex<Vec<u8>>,
    reads: Mutex<u64>,
    synced: Mutex<bool>,
}

#[allow(dead_code, reason = "each test file uses some of it")]
impl MemoryDisk {
    pub fn bytes(&self, path: &str) -> Vec<u8> {
        self.file(path).bytes.lock().expect("no holder panics").clone()
    }

    pub fn put(&self, path: &str, bytes: Vec<u8>) {
        let file = MemoryFile { bytes: Mutex::new(bytes), ..MemoryFile::default() };
        self.files.lock().expect("no holder panics").insert(path.to_owned(), Arc::new(file));
    }

    pub fn reads(&self, path: &str) -> u64 {
        *self.file(path).reads.lock().expect("no holder panics")
    }

    pub fn is_synced(&self, path: &str) -> bool {
        *self.file(path).synced.lock().expect("no holder panics")
    }

    fn file(&self, path: &str) -> Arc<MemoryFile> {
        self.files.lock().expect("no holder panics")[path].clone()
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &str, access: Access) -> io::Result<File> {
        let mut files = self.files.lock().expect("no holder panics");
        match (files.get(path), access.create_new) {
            (Some(_), true) => Err(io::ErrorKind::AlreadyExists.into()),
            (Some(file), false) => Ok(file.clone()),
            (None, false) => Err(io::ErrorKind::NotFound.into()),
            (None, true) => {
                let file = Arc::<MemoryFile>::default();
                files.insert(path.to_owned(), file.clone());
                Ok(file)
            }
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.files.lock().expect("no holder panics");
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let removed = self.files.lock().expect("no holder panics").remove(path);
        removed.map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn make_dir(&self, _path: &str) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _path: &str) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let prefix = format!("{path}/");
        let files = self.files.lock().expect("no holder panics");
        Ok(files.keys().filter_map(|name| name.strip_prefix(&prefix)).map(str::to_owned).collect())
    }

    fn space(&self) -> io::Result<Space> {
        Ok(Space { total_bytes: 1 << 40, free_bytes: 1 << 40 })
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, offset_bytes: u64, into: &mut [u8]) -> io::Result<()> {
        *self.reads.lock().expect("no holder panics") += 1;
        let start = usize::try_from(offset_bytes).map_err(io::Error::other)?;
        let bytes = self.bytes.lock().expect("no holder panics");
        let from = bytes.get(start..start + into.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        into.copy_from_slice(from);
        Ok(())
    }

    fn write_at(&self, offset_bytes: u64, from: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset_bytes).map_err(io::Error::other)?;
        let mut bytes = self.bytes.lock().expect("no holder panics");
        let length = bytes.len().max(start + from.len());
        bytes.resize(length, 0);
        bytes[start..start + from.len()].copy_from_slice(from);
        *self.synced.lock().expect("no holder panics") = false;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        *self.synced.lock().expect("no holder panics") = true;
        Ok(())
    }

    fn length_bytes(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().expect("no holder panics").len() as u64)
    }

    fn set_length(&self, length_bytes: u64) -> io::Result<()> {
        let length = usize::try_from(length_bytes).map_err(io::Error::other)?;
        self.bytes.lock().expect("no holder panics").resize(length, 0);
        Ok(())
    }

    fn allocate(&self, length_bytes: u64) -> io::Result<()> {
        self.set_length(length_bytes)
    }

    fn alignment(&self) -> usize {
        1
    }

    fn handle(&self) -> i32 {
        -1
    }
}

/// Bytes that count up: files of one test differ only where they should.
pub struct Counting;

impl Chance for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::try_from(index % 256).expect("below 256");
        }
    }
}
