//! Bounds on what an image can make this crate hold or do. Beyond them: [`crate::Class::Limit`],
//! or the lazy way where a format allows one.

/// The largest guest-visible size in bytes: offsets must fit an `i64`, as kernels count.
pub const VIRTUAL_BYTES_MAX: u64 = (1 << 63) - (1 << 16);

/// Tables up to this many bytes are read whole when an image is opened; larger ones on demand.
pub const RESIDENT_BYTES: u64 = 32 << 20;

/// Bytes of tables that one image caches.
pub const CACHE_BYTES: usize = 32 << 20;

/// Bytes that one step may ask for.
pub const NEED_BYTES_MAX: u64 = 64 << 20;

/// Bytes an operation may hold between two points of progress.
pub const HELD_BYTES_MAX: usize = 160 << 20;

/// Extents in one answer; a longer map is asked for in parts.
pub const EXTENTS_MAX: usize = 4096;

/// Images in a chain.
pub const DEPTH_MAX: usize = 255;

/// Longest name of another file in bytes.
pub const NAME_BYTES_MAX: usize = 1023;

/// Longest text descriptor (VMDK) in bytes.
pub const DESCRIPTOR_BYTES_MAX: u64 = 1 << 20;

/// Part files of one image (VMDK extents).
pub const PART_FILES_MAX: usize = 8192;

/// Files of a folder that are looked at to find a parent by its identity.
pub const CANDIDATES_MAX: usize = 256;

/// Bytes by which a packed unit may be longer than what it unpacks to.
pub const PACKED_SLACK: u64 = 64 << 10;

/// Internal snapshots, and bitmaps, that an image may list.
pub const SNAPSHOTS_MAX: u64 = 65536;

/// Findings that a report keeps; the rest is counted.
pub const FINDINGS_MAX: usize = 1000;

/// Units whose owners one pass of an overlap test counts.
pub const OVERLAP_UNITS: u64 = 1 << 25;
