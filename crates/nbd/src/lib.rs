//! The server's side of NBD as a state machine: bytes in, requests out, answers in, bytes out.
//!
//! ```text
//! received bytes ─▶ Session::poll ─▶ Event::Open    ─▶ opened | refused ─▶ output
//!                                 ─▶ Event::List    ─▶ listed | refused ─▶ output
//!                                 ─▶ Event::Request ─▶ ReplyTo::…       ─▶ output ‖ data of a read
//! ```
//!
//! Spoken: fixed newstyle handshake; simple, structured and extended replies; `base:allocation`.
//! Not spoken: TLS, oldstyle, resizing.
//!
//! - No socket, clock, thread or lock: `server` owns those; simulator and fuzzer drive the same code.
//! - The caller owns the buffers. [`Session::poll`] parses in its receive buffer; the payload of a
//!   write never passes through here, nor does the data of a read. In the transmission phase nothing
//!   is allocated but what the output grows by.
//! - What comes out does not depend on where the bytes were cut.
//! - Each request is answered once: a [`ReplyTo`] is used up by the answer.
//! - Bytes from a client never panic. A broken framing is a [`Violation`], and the session is over.
//! - Memory is bounded by [`OPTION_BYTES_MAX`] of input and the limits below; the caller stops polling
//!   while the output is longer than it likes, and closes a handshake that takes too long.

mod handshake;
mod reply;
mod session;
mod transmission;
mod wire;

pub use reply::{Errno, ReplyTo, StatusExtent};
pub use session::{
    Command, Event, ExportInfo, Open, Phase, Purpose, Refusal, Request, Session, Violation,
};

/// The longest read or write, in bytes; told to clients as the maximum block size.
pub const PAYLOAD_BYTES_MAX: u32 = 32 << 20;

/// The longest payload of a refused request that is read and dropped, in bytes; past it the
/// connection ends, for reading it takes longer than connecting again.
pub const SKIPPED_BYTES_MAX: u64 = 64 << 20;

/// The longest data of one option, in bytes. A receive buffer that holds this and
/// [`OPTION_HEADER_BYTES`] is never too small.
pub const OPTION_BYTES_MAX: u32 = 64 << 10;

/// Bytes before the data of an option.
pub const OPTION_HEADER_BYTES: usize = 16;

/// How many options a client may send before it chooses an export.
pub const OPTIONS_MAX: u32 = 1000;

/// How many bytes a handshake may take, all options together.
pub const HANDSHAKE_BYTES_MAX: usize = 1 << 20;

/// The longest name or message, in bytes: the limit of the protocol.
pub const STRING_BYTES_MAX: usize = 4096;

/// The most extents that one answer to a block status carries: 256 KiB of them.
pub const STATUS_EXTENTS_MAX: usize = 16 << 10;
