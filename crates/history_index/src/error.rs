//! Why a run could not answer.

use std::io;
use units::RunId;

/// A run file could not be written, opened or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk said no.
    #[error("run file {path}, byte {at_bytes}")]
    Io {
        /// The file.
        path: String,
        /// Where in it.
        at_bytes: u64,
        /// What the disk said.
        source: io::Error,
    },
    /// Bytes differ from their seal, or make no sense.
    #[error("run file {path} is damaged at byte {at_bytes}: {what}")]
    Damaged {
        /// The file.
        path: String,
        /// Where in it.
        at_bytes: u64,
        /// What was found wrong.
        what: &'static str,
    },
    /// A whole run file, but not the one that was asked for.
    #[error("run file {path} holds run {found}, wanted was run {wanted}")]
    OtherRun {
        /// The file.
        path: String,
        /// What was to be there.
        wanted: RunId,
        /// What is there.
        found: RunId,
    },
    /// The file could not be opened when the store was.
    #[error("run file {path} is lost: {why}")]
    Lost {
        /// The file.
        path: String,
        /// What was wrong with it then.
        why: String,
    },
}

impl Error {
    /// The file that it is about.
    pub fn path(&self) -> &str {
        match self {
            Self::Io { path, .. }
            | Self::Damaged { path, .. }
            | Self::OtherRun { path, .. }
            | Self::Lost { path, .. } => path,
        }
    }
}

/// What a question to a run file gives.
pub type Result<T, E = Error> = std::result::Result<T, E>;
