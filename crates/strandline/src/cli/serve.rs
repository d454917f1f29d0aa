//! `serve`

use super::size;
use clap::{Args, ValueEnum};
use serde::Deserialize;

/// `serve`
#[expect(clippy::struct_excessive_bools, reason = "one for each switch of the command line")]
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// Offer NBD here: unix:PATH, ADDRESS[:PORT] or [ADDRESS]:PORT; may be repeated
    #[arg(long, value_name = "ADDR")]
    pub nbd: Vec<String>,
    /// The volume that an empty export name means
    #[arg(long, value_name = "VOL")]
    pub default: Option<String>,
    /// Write nothing at all
    #[arg(long)]
    pub read_only: bool,
    /// What an answered write has reached
    ///
    /// [default: disk]
    #[arg(long, value_name = "POLICY")]
    pub ack: Option<AckPolicy>,
    /// How to drive the disk
    ///
    /// [default: auto]
    #[arg(long, value_name = "WAY")]
    pub io: Option<IoChoice>,
    /// Keep segments as final form: less on disk, slower
    #[arg(long)]
    pub no_pack: bool,
    /// Room for recycled segment files
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub pool_size: Option<u64>,
    /// Group that may use the NBD socket
    #[arg(long, value_name = "GROUP")]
    pub socket_group: Option<String>,
    /// Group that may use the control socket
    #[arg(long, value_name = "GROUP")]
    pub admin_group: Option<String>,
    /// What everybody may do who is not known
    #[arg(long, value_name = "RIGHT")]
    pub anyone: Option<AnyoneRight>,
    /// Allow plain TCP beyond this host
    #[arg(long)]
    pub insecure_lan: bool,
    /// Ask for the passphrase on the terminal
    #[arg(long)]
    pub passphrase: bool,
    /// End the server that runs for this store
    #[arg(long, conflicts_with_all = ["nbd", "default", "read_only", "passphrase"])]
    pub stop: bool,
}

/// What an answered write has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AckPolicy {
    /// The disk's own cache, past the page cache
    Disk,
    /// The page cache: survives a kill, not a power cut
    Page,
    /// Memory: survives nothing before a flush
    Memory,
}

/// How to drive the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IoChoice {
    /// io_uring where it works, else threads
    Auto,
    /// io_uring or nothing
    Uring,
    /// epoll and threads
    Threads,
}

/// What everybody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AnyoneRight {
    /// Read the present
    Read,
    /// Read and write the present
    Write,
}
