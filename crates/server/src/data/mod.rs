//! The data plane: one thread that owns the ring, the sockets, the sessions and the store.
//!
//! ```text
//! ring ─▶ connections ─▶ nbd sessions ─▶ Store ─▶ operations ─▶ ring
//!                 ◀─ replies ◀─ completions ◀┘  └─▶ jobs ─▶ workers
//! ```
//! Each turn takes everything that has arrived, hands it to the store, lets the store cut its batch,
//! and sends all answers that are due in one send per connection. Other threads reach it through a
//! [`Hub`] only. Nothing here blocks but the ring's turn.

pub(crate) mod connection;
mod hub;
mod stopping;
mod tally;
mod turn;
mod workers;

pub use connection::{Export, Exports, SessionInfo};
pub use hub::{ChangeError, Hub, Reading};
pub use stopping::StopReason;
pub use tally::{BUCKETS_NS, Count, Counts, Kind};
pub use turn::{Core, Running, start};
