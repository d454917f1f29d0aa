//! `image chain …`

use super::{GivenFormat, ImageFormat, duration};
use clap::{Args, Subcommand, ValueEnum};
use std::{ffi::OsString, path::PathBuf};

/// Verbs of `image chain`.
#[derive(Debug, Subcommand)]
pub enum ChainVerb {
    /// Tell whether images still stand on what they were made over (exit 1: not, or nobody can tell)
    Check(ChainCheckArgs),
    /// Seal what an image stands on as it is now, so that any change of it is noticed
    Guard(ChainGuardArgs),
    /// Show every sign of an image's links, what it means, and what to do
    Explain(ChainExplainArgs),
    /// Look again whenever a file changes, until Ctrl-C
    Watch(ChainWatchArgs),
    /// Run a program on images while nothing they stand on can be written; not at all if that changed
    Run(ChainRunArgs),
    /// Mend an image that does not stand on what it was made over; without a way, propose the best
    Fix(ChainFixArgs),
    /// Look at a machine's disks before libvirt starts it: its XML on stdin
    Hook(ChainHookArgs),
}

/// How chains are opened, and where their seals are.
#[derive(Clone, Debug, Args)]
pub struct ChainOpenArgs {
    /// Format of the images named
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    pub format: GivenFormat,
    /// Format of parents, where the images over them do not state it
    #[arg(long, value_name = "FORMAT")]
    pub parent_format: Option<ImageFormat>,
    /// Look for parents and parts here too; may be repeated
    #[arg(long, value_name = "DIR")]
    pub search: Vec<PathBuf>,
    /// Allow block devices, for the images and what they name
    #[arg(long)]
    pub devices: bool,
    /// Follow parents that lie outside the folder of the image that names them
    #[arg(long)]
    pub outside: bool,
    /// The folder of seals; else the store's, where a store is named, else the user's own
    #[arg(long, value_name = "DIR")]
    pub book: Option<PathBuf>,
}

/// `image chain check`
#[derive(Debug, Args)]
pub struct ChainCheckArgs {
    /// The images; each is looked at with all it stands on
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<PathBuf>,
    #[command(flatten)]
    pub open: ChainOpenArgs,
    /// How far to look
    #[arg(long, value_name = "LEVEL", default_value = "auto")]
    pub level: CheckLevel,
}

/// How far a check looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CheckLevel {
    /// At files and headers; at bytes where those changed
    Auto,
    /// At files and headers alone
    Signs,
    /// At all bytes that were sealed
    Bytes,
}

/// `image chain guard`
#[derive(Debug, Args)]
pub struct ChainGuardArgs {
    /// The image; every link of its chain is sealed
    #[arg(value_name = "IMAGE")]
    pub image: PathBuf,
    #[command(flatten)]
    pub open: ChainOpenArgs,
    /// How much is sealed
    #[arg(long, value_name = "LEVEL", default_value = "all")]
    pub level: GuardLevel,
    /// Write what it stands on into the image, too (qcow2): it can be checked on another machine
    #[arg(long)]
    pub label: bool,
    /// Seal a parent that changed as it is now; the reason is kept
    #[arg(long, value_name = "REASON")]
    pub accept: Option<String>,
}

/// How much is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GuardLevel {
    /// Times, sizes and identifiers: nothing is read, and a change is suspected, never decided
    Header,
    /// Digests of the bytes that the image needs
    Needed,
    /// Digests of all bytes: tells harmless changes from others
    All,
}

/// `image chain explain`
#[derive(Debug, Args)]
pub struct ChainExplainArgs {
    /// The image
    #[arg(value_name = "IMAGE")]
    pub image: PathBuf,
    #[command(flatten)]
    pub open: ChainOpenArgs,
    /// How far to look
    #[arg(long, value_name = "LEVEL", default_value = "bytes")]
    pub level: CheckLevel,
}

/// `image chain watch`
#[derive(Debug, Args)]
pub struct ChainWatchArgs {
    /// The images; each is looked at with all it stands on
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<PathBuf>,
    #[command(flatten)]
    pub open: ChainOpenArgs,
    /// How long to wait between two looks at the files
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "2s")]
    pub every: u64,
}

/// `image chain run`
#[derive(Debug, Args)]
pub struct ChainRunArgs {
    /// The images; each is looked at with all it stands on
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<PathBuf>,
    #[command(flatten)]
    pub open: ChainOpenArgs,
    /// How far to look before
    #[arg(long, value_name = "LEVEL", default_value = "auto")]
    pub level: CheckLevel,
    /// Run it though nobody can tell whether an image stands on what it was made over
    #[arg(long)]
    pub unsealed: bool,
    /// The program and its arguments
    #[arg(value_name = "CMD", last = true, required = true)]
    pub command: Vec<OsString>,
}

/// `image chain fix`
#[derive(Debug, Args)]
pub struct ChainFixArgs {
    /// The image whose parent is wrong or lost
    #[arg(value_name = "IMAGE")]
    pub image: PathBuf,
    #[command(flatten)]
    pub open: ChainOpenArgs,
    #[command(flatten)]
    pub way: FixWay,
    /// Lead it to this file
    #[arg(long, value_name = "FILE", requires = "relink")]
    pub parent: Option<PathBuf>,
    /// Why, where nothing proves that it is right; kept with the seal
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// List what could not be saved here, as GNU ddrescue does; OUT.map when absent
    #[arg(long, value_name = "FILE", requires = "salvage")]
    pub map: Option<PathBuf>,
    /// Write over OUT and its list
    #[arg(long, requires = "salvage")]
    pub force: bool,
}

/// A way to mend a link.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct FixWay {
    /// Lead it to its parent, which was moved, renamed or restored: looked for in its folder and in
    /// those of --search, by what was sealed and by identifiers
    #[arg(long)]
    pub relink: bool,
    /// Take the parent as it is for the right one
    #[arg(long)]
    pub accept: bool,
    /// Make it independent: all that its guest sees goes into it
    #[arg(long)]
    pub absorb: bool,
    /// Write what can be believed to a raw disk
    #[arg(long, value_name = "OUT")]
    pub salvage: Option<PathBuf>,
}

/// `image chain hook`
#[derive(Debug, Args)]
pub struct ChainHookArgs {
    /// Print the script that libvirt runs, to be put at /etc/libvirt/hooks/qemu
    #[arg(long, conflicts_with_all = ["domain", "operation", "phase", "extra"])]
    pub script: bool,
    /// Name of the machine
    #[arg(value_name = "DOMAIN")]
    pub domain: Option<String>,
    /// What libvirt is about to do
    #[arg(value_name = "OPERATION")]
    pub operation: Option<String>,
    /// When: begin or end
    #[arg(value_name = "PHASE")]
    pub phase: Option<String>,
    /// What else libvirt says
    #[arg(value_name = "EXTRA")]
    pub extra: Option<String>,
    /// The folder of seals; else the store's, where a store is named, else the user's own
    #[arg(long, value_name = "DIR")]
    pub book: Option<PathBuf>,
}
