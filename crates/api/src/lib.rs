//! Control plane: references, instants, requests, answers and failures as types.
//!
//! What the command line, the control socket and (later) the console say to a store is said with
//! these types, and what a store answers, too. Nothing here does I/O, reads a clock or starts a
//! thread; who needs the present is given it ([`zone::Zone`]).
//!
//! - [`reference`], [`instant`], [`names`], [`amounts`]: the grammar that users type.
//! - [`zone`]: local wall-clock times, the only place that knows of time zones.
//! - [`failure`], [`codes`]: the one error form, its codes and exit codes.
//! - [`verbs`], [`control`]: each request with its answer, and the trait that a store implements.
//! - [`openapi`]: the description of the HTTP form, generated from the types.

pub mod amounts;
pub mod codes;
pub mod control;
pub mod failure;
pub mod instant;
pub mod names;
pub mod openapi;
pub mod reference;
mod schema;
pub mod time;
pub mod verbs;
pub mod zone;

pub use codes::Code;
pub use control::{Answer, Caller, Chunk, Chunks, Control, ControlExt, Request, Verb};
pub use failure::{Failure, Kind, Label};
pub use instant::{InstantSpec, Point, Round};
pub use names::{BranchName, MarkName, Remote, VolumeName};
pub use reference::{Reference, Subject};
pub use time::Time;
pub use zone::Zone;
