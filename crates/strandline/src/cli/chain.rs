//! `image chain …`

use super::{GivenFormat, ImageFormat, duration};
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

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
