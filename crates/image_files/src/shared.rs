//! An open image that several threads read at once.
//!
//! Maps are asked for one at a time, for their caches are shared; bytes are read and unpacked beside
//! each other. What is damaged fails the reads that need it and no others.

use std::{
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
};

use images::Chain;

use crate::{
    Disk, Error, Files,
    fetch::Fetcher,
    narrow,
    source::{Source, is_zero},
};

/// States of threads that are kept for the next reads, at most: each may hold an unpacked unit.
const FETCHERS_MAX: usize = 4;

/// Steps along the map that one question of [`SharedDisk::pieces`] takes at most; its answer may be
/// short.
const STEPS_MAX: usize = 256;

/// See the module's head.
pub struct SharedDisk {
    size: u64,
    files: Files,
    chain: Mutex<Chain>,
    fetchers: Mutex<Vec<Fetcher>>,
}

/// A run of guest bytes of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Which bytes.
    pub range: Range<u64>,
    /// The map says that they are zero; the others may be, too.
    pub is_zero: bool,
}

impl From<Disk> for SharedDisk {
    fn from(disk: Disk) -> Self {
        let Disk { files, chain } = disk;
        let size = chain.virtual_size();
        Self { size, files, chain: Mutex::new(chain), fetchers: Mutex::default() }
    }
}

impl SharedDisk {
    /// Bytes that the guest sees.
    pub fn virtual_size(&self) -> u64 {
        self.size
    }

    /// The files that hold it.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// Something about the images, the top first. Others wait meanwhile.
    pub fn with_chain<R>(&self, ask: impl FnOnce(&Chain) -> R) -> R {
        ask(&lock(&self.chain))
    }

    /// Guest bytes from `offset` on, as many as `into` takes; the first damage among them fails it. What
    /// lies past the end of the disk is zero.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        let len = into.len() as u64;
        let inside = narrow(self.size.saturating_sub(offset).min(len));
        let (into, past) = into.split_at_mut(inside);
        past.fill(0);
        let mut fetcher = lock(&self.fetchers).pop().unwrap_or_default();
        let read = self.read_by(&mut fetcher, offset, into);
        let mut fetchers = lock(&self.fetchers);
        if fetchers.len() < FETCHERS_MAX {
            fetchers.push(fetcher);
        }
        read
    }

    fn read_by(&self, fetcher: &mut Fetcher, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        let end = offset + into.len() as u64;
        let mut place = offset;
        while place < end {
            let mut chain = lock(&self.chain);
            let extents = Source::within(&mut chain, &self.files, end).extents(place, end)?;
            drop(chain);
            for extent in &extents {
                let stop = extent.end().min(end);
                let part = &mut into[narrow(place - offset)..narrow(stop - offset)];
                fetcher.fill(&self.files, &extent.cut(place, stop), part)?;
                place = stop;
            }
        }
        Ok(())
    }

    /// What lies where in a beginning of `range`, which lies within the disk: in order and without gaps,
    /// neighbours differ in kind, at most `count_max` of them and at least one.
    pub fn pieces(&self, range: Range<u64>, count_max: usize) -> Result<Vec<Piece>, Error> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut chain = lock(&self.chain);
        let mut source = Source::within(&mut chain, &self.files, range.end);
        let mut place = range.start;
        for _ in 0..STEPS_MAX {
            if place >= range.end {
                break;
            }
            let extent = source.extent(place, range.end)?;
            let zero = is_zero(&extent.kind);
            let stop = extent.end().min(range.end);
            let full = pieces.len() == count_max;
            match pieces.last_mut() {
                Some(last) if last.is_zero == zero => last.range.end = stop,
                _ if full => break,
                _ => pieces.push(Piece { range: place..stop, is_zero: zero }),
            }
            place = stop;
        }
        Ok(pieces)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
