//! `log`, `mark`, `open`, `close`, `clone`, `rewind`, `diff`, `restore`

use super::duration;
use clap::{Args, Subcommand, ValueEnum};
use std::{ffi::OsString, path::PathBuf};

/// `log`
#[derive(Debug, Args)]
pub struct LogArgs {
    /// The volume, or a branch of it
    #[arg(value_name = "VOL")]
    pub reference: String,
    /// From this instant on
    #[arg(long, value_name = "I", allow_hyphen_values = true)]
    pub since: Option<String>,
    /// Up to this instant
    #[arg(long, value_name = "I", allow_hyphen_values = true)]
    pub until: Option<String>,
    /// What a row stands for
    #[arg(long, value_name = "UNIT", default_value = "minute", conflicts_with_all = ["marks", "graph"])]
    pub by: LogUnit,
    /// Only marks
    #[arg(long)]
    pub marks: bool,
    /// Draw it: writes, entropy, marks and branches
    #[arg(long, conflicts_with = "marks")]
    pub graph: bool,
}

/// What a row of the log stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogUnit {
    /// A minute
    Minute,
    /// A write
    Write,
    /// A client's flush
    Flush,
    /// A client
    Client,
}

/// Verbs of `mark`.
#[derive(Debug, Subcommand)]
pub enum MarkVerb {
    /// Name an instant
    Add {
        /// A volume, or an instant of it; without an instant, the present
        #[arg(value_name = "VOL[@I]")]
        reference: String,
        /// The mark; a name may be used again
        name: String,
        /// Let it go by itself after this time
        #[arg(long, value_name = "DUR", value_parser = duration)]
        keep: Option<u64>,
        /// Refuse to remove it before it is unpinned
        #[arg(long)]
        pin: bool,
        /// A line for people
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
    },
    /// List marks
    Ls {
        /// Only this volume's
        #[arg(value_name = "VOL")]
        volume: Option<String>,
    },
    /// Remove a mark; its instant then ages by the volume's rule
    Rm {
        /// The volume
        #[arg(value_name = "VOL")]
        volume: String,
        /// The mark, with ~2 for two earlier of that name
        #[arg(value_name = "NAME[~K]")]
        name: String,
    },
    /// Refuse to remove a mark
    Pin {
        /// The volume
        #[arg(value_name = "VOL")]
        volume: String,
        /// The mark, with ~2 for two earlier of that name
        #[arg(value_name = "NAME[~K]")]
        name: String,
    },
    /// Allow to remove a mark
    Unpin {
        /// The volume
        #[arg(value_name = "VOL")]
        volume: String,
        /// The mark, with ~2 for two earlier of that name
        #[arg(value_name = "NAME[~K]")]
        name: String,
    },
}

/// `open`
#[derive(Debug, Args)]
pub struct OpenArgs {
    /// The instant
    #[arg(value_name = "VOL@I")]
    pub reference: String,
    /// Writable: makes a branch that ends with `close`
    #[arg(long)]
    pub rw: bool,
    /// Where to offer it when no server runs: unix:PATH or ADDRESS[:PORT]
    #[arg(long, value_name = "ADDR")]
    pub nbd: Option<String>,
    /// Close it this long after the last client
    #[arg(long, value_name = "DUR", value_parser = duration)]
    pub ttl: Option<u64>,
    /// Refuse an instant that was thinned
    #[arg(long)]
    pub exact: bool,
}

/// `close`
#[derive(Debug, Args)]
pub struct CloseArgs {
    /// The name that `open` printed
    #[arg(value_name = "VOL@I|VOL~BRANCH")]
    pub reference: String,
}

/// `clone`
#[derive(Debug, Args)]
pub struct CloneArgs {
    /// Where the new volume begins
    #[arg(value_name = "VOL@I")]
    pub reference: String,
    /// Name of the new volume
    #[arg(value_name = "NEW")]
    pub name: String,
    /// Refuse an instant that was thinned
    #[arg(long)]
    pub exact: bool,
}

/// `rewind`
#[derive(Debug, Args)]
pub struct RewindArgs {
    /// The instant to go back to
    #[arg(value_name = "VOL@I")]
    pub reference: String,
    /// Cut clients off and refuse them until `vol release`
    #[arg(long)]
    pub detach: bool,
    /// Refuse an instant that was thinned
    #[arg(long)]
    pub exact: bool,
}

/// `diff`
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The one instant
    #[arg(value_name = "VOL@I")]
    pub from: String,
    /// The other; the present of the same volume when absent
    #[arg(value_name = "VOL@I")]
    pub to: Option<String>,
    /// Show which files differ, instead of which ranges
    #[arg(long)]
    pub files: bool,
    /// Refuse an instant that was thinned
    #[arg(long)]
    pub exact: bool,
}

/// `restore`
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("target").required(true).args(["to", "to_disk"])))]
pub struct RestoreArgs {
    /// The instant
    #[arg(value_name = "VOL@I")]
    pub reference: String,
    /// Files and directories in the disk: /etc/hosts, or p2:/etc/hosts for partition 2
    #[arg(value_name = "PATH", conflicts_with = "to_disk")]
    pub paths: Vec<OsString>,
    /// Write the files into this directory, each by its last name; all of the disk without a PATH
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
    /// Write the whole disk to this device or new file
    #[arg(long, value_name = "DEV|FILE")]
    pub to_disk: Option<PathBuf>,
    /// Replace files that exist
    #[arg(long, conflicts_with = "to_disk")]
    pub force: bool,
    /// Keep setuid and setgid bits
    #[arg(long, conflicts_with = "to_disk")]
    pub preserve: bool,
    /// Refuse an instant that was thinned
    #[arg(long)]
    pub exact: bool,
}
