//! Memory that the kernel reads or fills while we go on.
//!
//! All of it comes from anonymous mappings of 2 MiB pages (`madvise(MADV_HUGEPAGE)`): a virtual
//! disk charges by memory segment, not by byte. Three shapes:
//! [`Page`] is owned and can be written; [`Bytes`] is shared and never changes again; [`Image`] grows
//! at its end while what was frozen before is already being read.
//!
//! Invariant of all `unsafe` here: a byte is either reachable through one `&mut` path ([`Page`], the
//! unfrozen end of an [`Image`]) or through shared ones ([`Bytes`]), never both.
#![expect(unsafe_code, reason = "owns mappings that the kernel shares with us")]

use std::{
    collections::BTreeMap,
    fmt,
    ops::{Deref, DerefMut, Range},
    ptr::NonNull,
    slice,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

/// Size and alignment of the pages that everything is carved from.
pub const HUGE_BYTES: usize = 2 << 20;

/// The smallest piece that a [`Pool`] hands out, and the alignment of all pieces.
const SMALLEST_BYTES: usize = 4096;

/// Sizes from 4 KiB to 2 MiB, by powers of two.
const CLASSES: usize = 10;

/// A mapping of its own.
struct Region {
    start: NonNull<u8>,
    length_bytes: usize,
}

// SAFETY: a region is plain memory; who may touch which byte is settled by its users (module head).
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Maps zeroed memory, aligned to 2 MiB. Panics when the machine has none left.
    fn map(length_bytes: usize) -> Self {
        use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
        let length_bytes = length_bytes.next_multiple_of(HUGE_BYTES);
        let wide = length_bytes + HUGE_BYTES;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice; the parts outside
        // the aligned middle are ours and unused, so unmapping them takes nothing from anybody.
        unsafe {
            let raw = mmap_anonymous(
                std::ptr::null_mut(),
                wide,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
            .expect("memory for I/O buffers");
            let skip = raw.addr().next_multiple_of(HUGE_BYTES) - raw.addr();
            let start = raw.byte_add(skip);
            if skip > 0 {
                let _ = munmap(raw, skip);
            }
            let _ = munmap(start.byte_add(length_bytes), wide - skip - length_bytes);
            let _ = madvise(start, length_bytes, Advice::LinuxHugepage);
            let start = NonNull::new(start.cast()).expect("mmap never gives null");
            Self { start, length_bytes }
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and who holds a pointer into it also holds the region.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.length_bytes) };
    }
}

/// Hands out pages up to a limit and takes them back when they are dropped.
#[derive(Clone)]
pub struct Pool(Arc<PoolInner>);

struct PoolInner {
    limit_bytes: usize,
    state: Mutex<PoolState>,
}

#[derive(Default)]
struct PoolState {
    regions: Vec<Region>,
    /// What each region (by its address) is carved into, and how many of its pieces are out.
    carved: BTreeMap<usize, (usize, usize)>,
    free: [Vec<usize>; CLASSES], // addresses, exposed by `Region`
    mapped_bytes: usize,
    used_bytes: usize,
}

impl PoolState {
    /// A region that belongs to no size: a fresh one below the limit, or one that is wholly free.
    fn region(&mut self, limit_bytes: usize) -> Option<usize> {
        if self.mapped_bytes + HUGE_BYTES <= limit_bytes {
            let region = Region::map(HUGE_BYTES);
            let start = region.start.as_ptr().expose_provenance();
            self.mapped_bytes += HUGE_BYTES;
            self.regions.push(region);
            return Some(start);
        }
        let (&start, &(class, _)) = self.carved.iter().find(|(_, (_, out))| *out == 0)?;
        self.free[class].retain(|piece| *piece / HUGE_BYTES != start / HUGE_BYTES);
        Some(start)
    }

    fn count(&mut self, piece: usize) -> &mut (usize, usize) {
        let start = piece / HUGE_BYTES * HUGE_BYTES;
        self.carved.get_mut(&start).expect("every piece lies in a region")
    }
}

impl Pool {
    /// A pool that maps at most `limit_bytes`, when they are first needed.
    pub fn new(limit_bytes: usize) -> Self {
        let limit_bytes = limit_bytes.next_multiple_of(HUGE_BYTES);
        Self(Arc::new(PoolInner { limit_bytes, state: Mutex::default() }))
    }

    /// A page of `length_bytes` (at most 2 MiB) with undefined but initialised contents, aligned to
    /// 4 KiB; `None` while the pool is used up.
    pub fn take(&self, length_bytes: usize) -> Option<Page> {
        assert!(length_bytes <= HUGE_BYTES, "longer than a page of the pool");
        let bytes = length_bytes.next_power_of_two().max(SMALLEST_BYTES);
        let class = (bytes / SMALLEST_BYTES).trailing_zeros() as usize;
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.free[class].is_empty() {
            let start = state.region(self.0.limit_bytes)?;
            state.carved.insert(start, (class, 0));
            state.free[class].extend((0..HUGE_BYTES / bytes).rev().map(|i| start + i * bytes));
        }
        let address = state.free[class].pop()?;
        state.count(address).1 += 1;
        state.used_bytes += bytes;
        drop(state);
        let start = NonNull::new(std::ptr::with_exposed_provenance_mut(address))?;
        Some(Page { start, length_bytes, class, pool: self.0.clone() })
    }

    /// Bytes handed out at the moment.
    pub fn used_bytes(&self) -> usize {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).used_bytes
    }

    /// Bytes it may hand out.
    pub fn limit_bytes(&self) -> usize {
        self.0.limit_bytes
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} of {} bytes)", self.used_bytes(), self.0.limit_bytes)
    }
}

/// A piece of a pool, owned; goes back when dropped.
pub struct Page {
    start: NonNull<u8>,
    length_bytes: usize,
    class: usize,
    pool: Arc<PoolInner>,
}

// SAFETY: a page is the only path to its bytes, as a `Box<[u8]>` is.
unsafe impl Send for Page {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for Page {}

impl Page {
    /// Ends all writing: from now on the bytes can be shared.
    pub fn freeze(self) -> Bytes {
        let (start, length_bytes) = (self.start, self.length_bytes);
        Bytes { start, length_bytes, owner: Owner::Page(Arc::new(self)) }
    }

    /// Makes the page shorter; the room behind is lost until it goes back.
    pub fn truncate(&mut self, length_bytes: usize) {
        self.length_bytes = self.length_bytes.min(length_bytes);
    }
}

impl Deref for Page {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: mapped as long as the pool lives, initialised by the kernel, ours alone.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.length_bytes) }
    }
}

impl DerefMut for Page {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes this the only path.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.length_bytes) }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let mut state = self.pool.state.lock().unwrap_or_else(PoisonError::into_inner);
        let address = self.start.as_ptr().expose_provenance();
        state.used_bytes -= SMALLEST_BYTES << self.class;
        state.count(address).1 -= 1;
        state.free[self.class].push(address);
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Page({} bytes)", self.length_bytes)
    }
}

/// Bytes that many hold and nobody changes; cloning and slicing copy nothing.
#[derive(Clone)]
#[expect(clippy::struct_field_names, reason = "the unit comes last, as everywhere")]
pub struct Bytes {
    start: NonNull<u8>,
    length_bytes: usize,
    owner: Owner,
}

#[derive(Clone)]
#[expect(dead_code, reason = "held so that the memory lives, never looked at")]
enum Owner {
    Page(Arc<Page>),
    Region(Arc<Region>),
    Vec(Arc<[u8]>),
}

// SAFETY: only reads are possible, and the owner keeps the memory.
unsafe impl Send for Bytes {}
// SAFETY: as above.
unsafe impl Sync for Bytes {}

impl Bytes {
    /// So many zeros (at most 2 MiB), all from one shared page.
    pub fn zeros(length_bytes: usize) -> Self {
        static ZEROS: LazyLock<Arc<Region>> = LazyLock::new(|| Arc::new(Region::map(HUGE_BYTES)));
        assert!(length_bytes <= HUGE_BYTES, "longer than the page of zeros");
        Self { start: ZEROS.start, length_bytes, owner: Owner::Region(ZEROS.clone()) }
    }

    /// A part of it.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.length_bytes, "slice out of range");
        // SAFETY: the start lies inside the same memory, checked above.
        let start = unsafe { self.start.add(range.start) };
        Self { start, length_bytes: range.end - range.start, owner: self.owner.clone() }
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        let owner: Arc<[u8]> = bytes.into();
        let start = NonNull::new(owner.as_ptr().cast_mut()).expect("a slice is never null");
        Self { start, length_bytes: owner.len(), owner: Owner::Vec(owner) }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the owner keeps the memory, and no `&mut` path to it exists any more.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.length_bytes) }
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({})", self.length_bytes)
    }
}

/// A file's contents as they grow: the end is written here while the front is on its way to disk.
pub struct Image {
    region: Arc<Region>,
    capacity_bytes: usize,
    length_bytes: usize,
    frozen_bytes: usize,
}

impl Image {
    /// Room for `capacity_bytes`; memory is taken as it is first touched.
    pub fn new(capacity_bytes: usize) -> Self {
        let region = Arc::new(Region::map(capacity_bytes));
        Self { region, capacity_bytes, length_bytes: 0, frozen_bytes: 0 }
    }

    /// What it can hold.
    pub fn capacity_bytes(&self) -> usize {
        self.capacity_bytes
    }

    /// What it holds.
    pub fn length_bytes(&self) -> usize {
        self.length_bytes
    }

    /// Makes it longer and gives the new end, with undefined but initialised contents.
    pub fn append(&mut self, bytes: usize) -> &mut [u8] {
        let start = self.length_bytes;
        assert!(bytes <= self.capacity_bytes - start, "image is full");
        self.length_bytes += bytes;
        self.unfrozen(start..start + bytes)
    }

    /// A part of what is not frozen yet.
    pub fn unfrozen(&mut self, range: Range<usize>) -> &mut [u8] {
        assert!(range.start >= self.frozen_bytes, "frozen bytes never change");
        assert!(range.start <= range.end && range.end <= self.length_bytes, "out of range");
        // SAFETY: inside the mapping, not frozen, so no `Bytes` reaches it; `&mut self` is the only
        // other path.
        unsafe {
            slice::from_raw_parts_mut(
                self.region.start.as_ptr().add(range.start),
                range.end - range.start,
            )
        }
    }

    /// Any part of what it holds.
    pub fn get(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.length_bytes, "out of range");
        // SAFETY: inside the mapping; `&self` keeps `unfrozen` away.
        unsafe {
            slice::from_raw_parts(
                self.region.start.as_ptr().add(range.start),
                range.end - range.start,
            )
        }
    }

    /// Freezes all it holds and shares the part from `start`.
    pub fn freeze_from(&mut self, start: usize) -> Bytes {
        self.frozen_bytes = self.length_bytes;
        self.frozen(start..self.length_bytes)
    }

    /// Shares a part that is frozen.
    pub fn frozen(&self, range: Range<usize>) -> Bytes {
        assert!(range.start <= range.end && range.end <= self.frozen_bytes, "not frozen");
        // SAFETY: inside the mapping.
        let start = unsafe { self.region.start.add(range.start) };
        let length_bytes = range.end - range.start;
        Bytes { start, length_bytes, owner: Owner::Region(self.region.clone()) }
    }

    /// Empties it for the next file, unless a [`Bytes`] still looks into it.
    pub fn recycle(mut self) -> Option<Self> {
        Arc::get_mut(&mut self.region)?;
        self.length_bytes = 0;
        self.frozen_bytes = 0;
        Some(self)
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({} of {} bytes)", self.length_bytes, self.capacity_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_keeps_its_limit_and_takes_back() {
        let pool = Pool::new(HUGE_BYTES);
        let first = pool.take(HUGE_BYTES).expect("room for one");
        assert!(pool.take(1).is_none());
        drop(first);
        let mut again =
            pool.take(1 << 20).map_or_else(|| pool.take(HUGE_BYTES), Some).expect("back");
        again[0] = 7;
        let bytes = again.freeze();
        assert_eq!(bytes.slice(0..1)[0], 7);
        assert!(pool.used_bytes() > 0);
        drop(bytes);
        assert_eq!(pool.used_bytes(), 0);
    }

    #[test]
    fn frozen_bytes_outlive_the_image() {
        let mut image = Image::new(8192);
        image.append(4).copy_from_slice(b"abcd");
        let bytes = image.freeze_from(0);
        image.append(4).copy_from_slice(b"efgh");
        let mut image = match image.recycle() {
            None => Image::new(8192),
            Some(_) => panic!("recycled under a reader"),
        };
        assert_eq!(&*bytes, b"abcd");
        drop(bytes);
        image.append(1)[0] = 1;
        assert!(image.recycle().is_some());
    }

    #[test]
    #[should_panic(expected = "frozen bytes never change")]
    fn frozen_bytes_cannot_be_written() {
        let mut image = Image::new(4096);
        image.append(8);
        image.freeze_from(0);
        image.unfrozen(0..4);
    }
}
