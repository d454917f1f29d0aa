//! `store …`

use super::size;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Verbs of `store`.
#[derive(Debug, Subcommand)]
pub enum StoreVerb {
    /// Make a store
    Init(InitArgs),
    /// Show what a store is and holds
    Info,
    /// Read what the store holds and compare it with its seals
    Check {
        /// Read only so much of it, as in 5%
        #[arg(long, value_name = "PERCENT", value_parser = percent)]
        sample: Option<u32>,
    },
    /// Rebuild what is derived
    Repair {
        /// Give a copied store an identity of its own
        #[arg(long)]
        new_id: bool,
        /// Open the store though flushed data at the log's end is missing: history ends before it
        #[arg(long)]
        accept_loss: bool,
    },
    /// Free what no kept instant needs
    Gc {
        /// At once, not at the jobs' own pace
        #[arg(long)]
        now: bool,
    },
    /// Add, list and remove what opens the store
    #[command(subcommand)]
    Key(KeyVerb),
    /// List what was removed, or remove it for good
    #[command(subcommand)]
    Trash(TrashVerb),
}

/// `store init`
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Directory of the new store
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Ask for a passphrase instead of making a key file
    #[arg(long)]
    pub passphrase: bool,
    /// Length of the log's segments; chosen from the file system when absent
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub segment_size: Option<u64>,
}

/// Verbs of `store key`.
#[derive(Debug, Subcommand)]
pub enum KeyVerb {
    /// Add a key slot
    Add {
        /// What will open it
        kind: KeyAddKind,
        /// Where to write a new key file
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// List the key slots
    Ls,
    /// Wrap the volumes' keys anew; no data is rewritten
    Rotate {
        /// Only this volume's key
        #[arg(value_name = "VOL")]
        volume: Option<String>,
    },
    /// Remove a key slot; cannot be undone
    Rm {
        /// Number of the slot
        slot: u32,
    },
}

/// What opens a key slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KeyAddKind {
    /// A file
    File,
    /// A passphrase
    Passphrase,
    /// A recovery key to write down
    Recovery,
}

/// Verbs of `store trash`.
#[derive(Debug, Subcommand)]
pub enum TrashVerb {
    /// List what was removed
    Ls,
    /// Remove it for good; cannot be undone
    Empty {
        /// Only volumes of this name
        #[arg(value_name = "VOL")]
        name: Option<String>,
    },
}

/// Parts per million from `5%` or `0.1%`.
fn percent(text: &str) -> Result<u32, String> {
    let wrong = || format!("`{text}` is no share; write 5% or 0.1%");
    let number = text.strip_suffix('%').ok_or_else(wrong)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 4 {
        return Err(wrong());
    }
    let parts: u32 = format!("{whole}{fraction:0<4}").parse().map_err(|_| wrong())?;
    (1..=1_000_000).contains(&parts).then_some(parts).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_exact() {
        assert_eq!(percent("5%"), Ok(50_000));
        assert_eq!(percent("0.1%"), Ok(1_000));
        assert_eq!(percent("100%"), Ok(1_000_000));
        for bad in ["5", "0%", "101%", "%", "1.%", "-1%", "0.00001%"] {
            assert!(percent(bad).is_err(), "{bad}");
        }
    }
}
