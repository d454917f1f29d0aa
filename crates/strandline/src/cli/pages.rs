//! `demo`, `completions`, `man`

use clap::Args;
use clap_complete::Shell;
use std::path::PathBuf;

/// `demo`
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Keep the store, in this new directory
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// End after the proof, instead of serving until Ctrl-C; so it is where nobody is at a terminal
    #[arg(long)]
    pub once: bool,
    /// Use no other programs, even where they are installed
    #[arg(long)]
    pub built_in: bool,
}

/// `completions`
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

/// `man`
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write all pages here
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
}
