//! The log: append, flush, recovery, packs. Owns durability; knows volumes only as numbers in cells.
//!
//! Start reading at [`Log`], the state machine of the log thread; what it has others do is [`Work`].
//! What lies on disk is laid out in `batch` and, for the manifest, in [`state`]; how it is read back
//! after a crash stands in `scan` and `recovery`.

mod background;
mod batch;
mod bulk;
mod clock;
mod files;
mod finish;
mod flushing;
mod keyring;
mod landing;
mod log;
mod open;
pub mod planted;
mod recording;
mod recovery;
mod relog;
mod rolling;
mod scan;
pub mod state;
mod terms;
mod work;
mod writer;

pub use background::Moves;
pub use files::CellFile;
pub use keyring::Keyring;
pub use log::{BULK_BYTES, Log};
pub use open::{Mode, OpenError, open};
pub use recovery::MissingFlushed;
pub use terms::{AckPolicy, Config, Environment, Event, Located, Poison, Room};
pub use work::{Moved, Outcome, Work};
pub use writer::Shape;
