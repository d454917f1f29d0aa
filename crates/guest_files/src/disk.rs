//! A disk with a cache, and windows on ranges of it.
//!
//! Look-ups read the same tables over and over, a few hundred bytes at a time, and each read of an
//! instant is a request to the store. So small reads go through a cache of [`limits::CACHE_BLOCKS`]
//! blocks; large ones, which are the contents of files, go past it.

use std::{cell::RefCell, collections::HashMap, fmt, rc::Rc};

use crate::{
    Error, Source,
    limits::{CACHE_BLOCK_BYTES, CACHE_BLOCKS},
};

/// Reads of more than this many bytes go past the cache.
const LARGE_BYTES: usize = CACHE_BLOCK_BYTES;

/// A disk whose bytes are looked at.
#[derive(Clone)]
pub struct Disk(Rc<Inner>);

struct Inner {
    source: Box<dyn Source>,
    cache: RefCell<Cache>,
}

#[derive(Default)]
struct Cache {
    blocks: HashMap<u64, (u64, Box<[u8]>)>,
    tick: u64,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Disk({} bytes)", self.length_bytes())
    }
}

impl Disk {
    /// A disk of these bytes.
    pub fn new(source: Box<dyn Source>) -> Self {
        Self(Rc::new(Inner { source, cache: RefCell::default() }))
    }

    /// How long it is.
    pub fn length_bytes(&self) -> u64 {
        self.0.source.length_bytes()
    }

    /// All of it.
    pub fn whole(&self) -> Window {
        Window { disk: self.clone(), start: 0, length: self.length_bytes() }
    }

    /// A range of it, cut at its end.
    pub fn window(&self, start: u64, length: u64) -> Window {
        let start = start.min(self.length_bytes());
        let length = length.min(self.length_bytes() - start);
        Window { disk: self.clone(), start, length }
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        if into.len() > LARGE_BYTES {
            return self.0.source.read_at(offset, into).map_err(Error::Source);
        }
        let (mut at, mut rest) = (offset, into);
        while !rest.is_empty() {
            let block = at / CACHE_BLOCK_BYTES as u64;
            let skip = usize::try_from(at % CACHE_BLOCK_BYTES as u64).unwrap_or(0);
            let take = (CACHE_BLOCK_BYTES - skip).min(rest.len());
            let (now, later) = rest.split_at_mut(take);
            self.cached(block, skip, now)?;
            at += take as u64;
            rest = later;
        }
        Ok(())
    }

    fn cached(&self, block: u64, skip: usize, into: &mut [u8]) -> Result<(), Error> {
        let mut cache = self.0.cache.borrow_mut();
        cache.tick += 1;
        let tick = cache.tick;
        if let Some((used, bytes)) = cache.blocks.get_mut(&block) {
            *used = tick;
            return copy(bytes, skip, into);
        }
        let start = block * CACHE_BLOCK_BYTES as u64;
        let length = (self.length_bytes() - start).min(CACHE_BLOCK_BYTES as u64);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)].into_boxed_slice();
        self.0.source.read_at(start, &mut bytes).map_err(Error::Source)?;
        let copied = copy(&bytes, skip, into);
        if cache.blocks.len() >= CACHE_BLOCKS {
            cache.forget_half();
        }
        cache.blocks.insert(block, (tick, bytes));
        copied
    }
}

impl Cache {
    /// Drops the half that was used longest ago: one pass for many later misses.
    fn forget_half(&mut self) {
        let mut used: Vec<u64> = self.blocks.values().map(|(used, _)| *used).collect();
        let middle = used.len() / 2;
        let (_, middle, _) = used.select_nth_unstable(middle);
        let middle = *middle;
        self.blocks.retain(|_, (used, _)| *used >= middle);
    }
}

fn copy(bytes: &[u8], skip: usize, into: &mut [u8]) -> Result<(), Error> {
    let found = bytes.get(skip..).and_then(|rest| rest.get(..into.len()));
    into.copy_from_slice(found.ok_or(Error::damaged("a read past the disk's end", 0))?);
    Ok(())
}

/// A range of a disk: a partition, or all of it.
#[derive(Clone, Debug)]
pub struct Window {
    disk: Disk,
    start: u64,
    length: u64,
}

impl Window {
    /// How long it is.
    pub const fn length_bytes(&self) -> u64 {
        self.length
    }

    /// Where it begins on the disk.
    pub const fn start_bytes(&self) -> u64 {
        self.start
    }

    /// Fills `into`; what reaches past the end is damage, for a file system said that it is there.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        let end = offset.checked_add(into.len() as u64);
        if end.is_none_or(|end| end > self.length) {
            return Err(Error::damaged("something lies past the end of the partition", offset));
        }
        self.disk.read(self.start + offset, into)
    }

    /// So many bytes.
    pub fn bytes(&self, offset: u64, length: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; length];
        self.read(offset, &mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    struct Counted(Vec<u8>, Rc<Cell<u64>>);

    impl Source for Counted {
        fn length_bytes(&self) -> u64 {
            self.0.length_bytes()
        }

        fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), crate::ReadError> {
            self.1.set(self.1.get() + 1);
            self.0.read_at(offset, into)
        }
    }

    #[test]
    fn small_reads_of_one_place_ask_once() {
        let asked = Rc::new(Cell::new(0));
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let disk = Disk::new(Box::new(Counted(bytes.clone(), Rc::clone(&asked))));
        let window = disk.window(100, 299_000);
        for _ in 0..3 {
            assert_eq!(window.bytes(65_400, 300).expect("inside"), bytes[65_500..65_800]);
        }
        assert_eq!(asked.get(), 2);
    }

    #[test]
    fn a_window_ends_where_it_ends() {
        let disk = Disk::new(Box::new(vec![7_u8; 100]));
        assert_eq!(disk.window(90, 50).length_bytes(), 10);
        assert!(matches!(disk.window(90, 10).bytes(5, 6), Err(Error::Damaged { .. })));
        assert!(matches!(disk.window(0, 10).bytes(u64::MAX, 6), Err(Error::Damaged { .. })));
    }

    #[test]
    fn the_cache_keeps_its_bound() {
        let disk = Disk::new(Box::new(vec![0_u8; (CACHE_BLOCKS + 40) * CACHE_BLOCK_BYTES]));
        for block in 0..CACHE_BLOCKS + 40 {
            disk.whole().bytes((block * CACHE_BLOCK_BYTES) as u64, 1).expect("inside");
        }
        assert!(disk.0.cache.borrow().blocks.len() <= CACHE_BLOCKS);
    }
}
