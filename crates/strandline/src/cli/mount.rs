//! `mount`

use super::image::{GivenFormat, ImageFormat};
use clap::Args;
use std::path::PathBuf;

/// `mount`
#[derive(Debug, Args)]
pub struct MountArgs {
    /// What to show. A volume: its instants under at/. An instant, or an image (a path, beginning with
    /// / or ./ or ../): its disk in every format. All volumes, where this is the directory itself
    #[arg(value_name = "VOL[@I]|FILE|DIR")]
    pub what: PathBuf,
    /// The empty directory on which to show it
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Let other users read, too
    #[arg(long)]
    pub allow_other: bool,
    /// Refuse an instant that was thinned
    #[arg(long)]
    pub exact: bool,
    /// Format of an image
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    pub format: GivenFormat,
    /// Format of an image's parents, where the images over them do not state it
    #[arg(long, value_name = "FORMAT")]
    pub parent_format: Option<ImageFormat>,
    /// Look for parents and parts of an image here too; may be repeated
    #[arg(long, value_name = "DIR")]
    pub search: Vec<PathBuf>,
    /// Allow block devices, for an image and what it names
    #[arg(long)]
    pub devices: bool,
    /// An internal snapshot (name or id) of an image in place of its present state
    #[arg(long, value_name = "NAME")]
    pub snapshot: Option<String>,
}
