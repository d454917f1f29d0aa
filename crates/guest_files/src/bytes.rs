//! Where the bytes of a disk come from.

/// Why bytes could not be read: the caller's own error, given back to it as it was.
pub type ReadError = Box<dyn std::error::Error + Send + Sync>;

/// The bytes of a disk at one instant. They never change while they are looked at.
pub trait Source {
    /// How many there are.
    fn length_bytes(&self) -> u64;

    /// Fills `into` from `offset_bytes` on; the range lies within the length.
    fn read_at(&self, offset_bytes: u64, into: &mut [u8]) -> Result<(), ReadError>;
}

impl Source for Vec<u8> {
    fn length_bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset_bytes: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let begin = usize::try_from(offset_bytes)?;
        let bytes = self.get(begin..).and_then(|rest| rest.get(..into.len()));
        into.copy_from_slice(bytes.ok_or("a read past the end")?);
        Ok(())
    }
}
