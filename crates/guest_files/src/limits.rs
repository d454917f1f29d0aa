//! Bounds on what the bytes of a guest can make this crate hold or do.

/// Bytes of one block of the cache.
pub const CACHE_BLOCK_BYTES: usize = 64 << 10;

/// Blocks of the cache: 32 MiB.
pub const CACHE_BLOCKS: usize = 512;

/// Partitions of one disk.
pub const PARTITIONS: usize = 256;

/// Pieces of one file, and blocks of tables that lead to them.
pub const PIECES: usize = 1 << 20;

/// Entries of one directory: 16 million.
pub const ENTRIES: u64 = 1 << 24;

/// Bytes of one directory: 4 GiB, as many as ext4 allows.
pub const DIRECTORY_BYTES: u64 = 4 << 30;

/// Bytes of a link's target: as long as a path can be on Linux.
pub const LINK_BYTES: u64 = 4096;

/// Bytes of a path: what Linux takes in one call.
pub const PATH_BYTES: usize = 4095;

/// Links that are followed in one look-up, as Linux does.
pub const LINKS_FOLLOWED: u32 = 40;

/// Blocks that a journal may hold for other places.
pub const JOURNAL_BLOCKS: usize = 1 << 20;

/// Bytes of a file's content that are held in an inode or record.
pub const INLINE_BYTES: usize = 64 << 10;

/// Files that differ between two states.
pub const CHANGES: usize = 1 << 22;
