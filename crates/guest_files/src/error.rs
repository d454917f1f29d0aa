//! Why something of a guest's disk could not be told.

use crate::ReadError;

/// Why something of a guest's disk could not be told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Bytes that cannot be so.
    #[error("{what}, near byte {at} of the file system")]
    Damaged {
        /// What is wrong.
        what: &'static str,
        /// Where, in bytes from the begin of the file system; roughly.
        at: u64,
    },
    /// Something that is not read here.
    #[error("{0}")]
    Unsupported(String),
    /// More than a bound allows.
    #[error("{0} is more than this program follows")]
    Limit(&'static str),
    /// The disk itself cannot be read there.
    #[error(transparent)]
    Source(ReadError),
}

impl Error {
    /// Bytes that cannot be so, near this place.
    pub(crate) const fn damaged(what: &'static str, at: u64) -> Self {
        Self::Damaged { what, at }
    }

    /// Something that is not read here.
    pub(crate) fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported(what.into())
    }
}
