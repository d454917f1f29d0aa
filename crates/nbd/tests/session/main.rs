//! The session as a whole: byte-exact transcripts, laws over any bytes and any cuts, old findings.

mod client;
mod corpus;
mod driver;
mod session_laws;
mod transcripts;
