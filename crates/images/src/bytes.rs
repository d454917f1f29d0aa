//! Numbers out of byte slices whose length the caller has already made sure of.

/// Big-endian number at `at`.
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array(bytes, at))
}

/// Big-endian number at `at`.
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}

/// Big-endian number at `at`.
pub(crate) fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array(bytes, at))
}

/// Little-endian number at `at`.
pub(crate) fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

/// Little-endian number at `at`.
pub(crate) fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

/// Little-endian number at `at`.
pub(crate) fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

/// `N` bytes at `at`. Panics where they are not there: parsers ask an [`crate::Input`] for a whole
/// structure first, and that answers with all of it or not at all.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk::<N>())
        .copied()
        .expect("the structure was read whole")
}

/// A length in memory as an offset in a file.
pub(crate) fn wide(len: usize) -> u64 {
    u64::try_from(len).expect("lengths have 64 bits at most")
}

/// An offset or length that is known to be small enough for memory.
pub(crate) fn narrow(len: u64) -> usize {
    usize::try_from(len).expect("bounded by the limits of this crate")
}

/// `value` rounded up to a multiple of `unit`, which is not 0; `None` past 64 bits.
pub(crate) fn round_up(value: u64, unit: u64) -> Option<u64> {
    value.checked_next_multiple_of(unit)
}
