//! The chain guard: seals of the links of image chains, taken, kept, compared, explained.
//!
//! ```text
//! files ─▶ View (images, files, identifiers) ─┬─▶ Survey ─▶ LinkReport: status, signs, ranges, words
//!          Book (links, trees of hashes) ─────┘      └────▶ seal ─▶ Book
//! ```
//!
//! - [`view`]: a chain as it is now. A parent that differs from what its child was made over is
//!   opened all the same: to say by how much, its bytes are needed.
//! - [`survey`]: each link against what was sealed. Signs of file and header are asked first; guest
//!   bytes are read where a sign differs, or where the caller wants it.
//! - [`seal`]: new records for each link. What is not what it was is sealed anew only with a reason.
//! - [`label`]: what a child of qcow2 can carry in itself, where the user asks for it.
//! - [`candidate`]: another image in a parent's place.
//! - [`book`]: where records are kept when the images must not be touched.
//!
//! `lineage` decides; this crate brings it facts and bytes. Doubt is never called well: what cannot
//! be read, compared or found ends as "unknown" or as an error, never as "ok".
//! Reading takes no lock: a file that is written meanwhile is told from its times, and what was read of it is
//! not believed. While parents are sealed, writers that look at QEMU's locks are kept out.

#![forbid(unsafe_code)]

pub mod book;
pub mod candidate;
pub mod label;
mod read;
pub mod report;
pub mod seal;
pub mod survey;
pub mod view;

pub use book::{Book, BookError};
pub use label::LabelError;
pub use report::{LinkReport, SealFacts, Status};
pub use seal::{SealLevel, SealOptions, Sealed};
pub use survey::{Depth, Survey};
pub use view::View;

use std::path::PathBuf;

use lineage::SealError;

/// Why a chain was not looked at, or not sealed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An image or a file is not good.
    #[error(transparent)]
    Image(#[from] image_files::Error),
    /// The book did not answer.
    #[error(transparent)]
    Book(#[from] BookError),
    /// Another file has the name now.
    #[error("{} was replaced while it was looked at", .0.display())]
    Replaced(PathBuf),
    /// Somebody writes it.
    #[error("{} is being written", .0.display())]
    Written(PathBuf),
    /// Nothing to seal.
    #[error("{} stands on no other image", .0.display())]
    Alone(PathBuf),
    /// The parent is not what it was, and no reason was given to seal it so.
    #[error("{} <- {}: {why}", child.display(), parent.display())]
    Differs {
        /// The child.
        child: PathBuf,
        /// Its parent.
        parent: PathBuf,
        /// What is not as it was.
        why: String,
    },
    /// The child got no label.
    #[error("{}: {cause}", path.display())]
    Unlabelled {
        /// The child.
        path: PathBuf,
        /// Why.
        cause: LabelError,
    },
    /// The parent cannot be sealed as it is.
    #[error("{}: {cause}", parent.display())]
    Unsealable {
        /// The parent.
        parent: PathBuf,
        /// Why.
        cause: SealError,
    },
}
