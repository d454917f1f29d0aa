//! `vol …` and `session …`

use super::size;
use clap::{Args, Subcommand, ValueEnum};

/// Verbs of `vol`.
#[derive(Debug, Subcommand)]
pub enum VolVerb {
    /// Make a volume
    Create(VolCreateArgs),
    /// List the volumes
    Ls,
    /// Show a volume, or how an instant is understood
    Show(ShowArgs),
    /// Change settings
    Set(SetArgs),
    /// Change the size; the past keeps its own
    Resize(ResizeArgs),
    /// Give a volume another name
    Rename {
        /// The volume
        #[arg(value_name = "VOL")]
        name: String,
        /// Its new name
        #[arg(value_name = "NEW")]
        to: String,
    },
    /// Put a volume into the trash
    Rm {
        /// The volume
        #[arg(value_name = "VOL")]
        name: String,
    },
    /// Bring a volume back from the trash
    Undelete {
        /// Its name when it was removed
        #[arg(value_name = "VOL")]
        name: String,
        /// A new name
        #[arg(long = "as", value_name = "NEW")]
        new_name: Option<String>,
        /// Its number, where several of that name are in the trash
        #[arg(long, value_name = "N")]
        id: Option<u32>,
    },
    /// Let clients in again that `rewind --detach` had cut off
    Release {
        /// The volume
        #[arg(value_name = "VOL")]
        name: String,
    },
}

/// `vol create`
#[derive(Debug, Args)]
pub struct VolCreateArgs {
    /// Its name: a-z, 0-9, `.` and `-`
    #[arg(value_name = "VOL")]
    pub name: String,
    /// Size of the disk, as in 40G
    #[arg(long, value_name = "SIZE", value_parser = size, allow_hyphen_values = true)]
    pub size: u64,
    /// Logical block that clients are told; fixed for ever
    #[arg(long, value_name = "BYTES", default_value = "512", value_parser = block)]
    pub block: u32,
    /// Refuse a second writer
    #[arg(long)]
    pub exclusive: bool,
}

/// `vol show`
#[expect(clippy::struct_excessive_bools, reason = "one for each switch of the command line")]
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// A volume, or an instant of it
    #[arg(value_name = "VOL[@I]")]
    pub reference: String,
    /// Print QEMU's options for this disk
    #[arg(long, group = "form")]
    pub qemu: bool,
    /// Print libvirt's <disk> for this disk
    #[arg(long, group = "form")]
    pub libvirt: bool,
    /// Print the nbd-client command for this disk
    #[arg(long, group = "form")]
    pub nbd_client: bool,
    /// Refuse an instant that was thinned
    #[arg(long)]
    pub exact: bool,
}

/// `vol set`
#[derive(Debug, Args)]
pub struct SetArgs {
    /// The volume
    #[arg(value_name = "VOL")]
    pub name: String,
    #[command(flatten)]
    pub settings: SettingArgs,
}

/// What `vol set` changes, at least one.
#[derive(Debug, Args)]
#[group(id = "setting", required = true, multiple = true)]
pub struct SettingArgs {
    /// Refuse a second writer
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub exclusive: Option<bool>,
    /// Refuse all writes
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub read_only: Option<bool>,
    /// When the disk is full: thin the oldest history, or stop writes
    #[arg(long, value_name = "WHAT")]
    pub when_full: Option<WhenFullChoice>,
}

/// What happens when the disk is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WhenFullChoice {
    /// The oldest unpinned history yields
    Thin,
    /// Writes end with ENOSPC before history yields
    Stop,
}

/// `vol resize`
#[derive(Debug, Args)]
pub struct ResizeArgs {
    /// The volume
    #[arg(value_name = "VOL")]
    pub name: String,
    /// New size, as in 80G
    #[arg(value_name = "SIZE", value_parser = size)]
    pub size: u64,
    /// Allow a smaller size
    #[arg(long)]
    pub shrink: bool,
}

/// Verbs of `session`.
#[derive(Debug, Subcommand)]
pub enum SessionVerb {
    /// List who is connected
    Ls {
        /// Only this volume's clients
        #[arg(value_name = "VOL")]
        volume: Option<String>,
    },
    /// End a session; the client may come back
    Kick {
        /// Number of the session
        #[arg(value_name = "N")]
        id: u64,
    },
}

fn block(text: &str) -> Result<u32, String> {
    match text {
        "512" => Ok(512),
        "4096" | "4K" | "4k" => Ok(4096),
        _ => Err("a logical block has 512 or 4096 bytes".to_owned()),
    }
}
