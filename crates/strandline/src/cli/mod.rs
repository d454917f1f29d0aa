//! The command line's grammar, in one place: parser, help, completions and manual come from it.
//!
//! References and instants stay text here: a bare time is read in the zone of `--tz`, which is
//! known only after parsing.

mod chain;
mod history;
mod image;
mod mount;
mod pages;
mod serve;
mod store;
mod vol;

pub use chain::{
    ChainCheckArgs, ChainExplainArgs, ChainFixArgs, ChainGuardArgs, ChainHookArgs, ChainOpenArgs,
    ChainRunArgs, ChainVerb, ChainWatchArgs, CheckLevel, GuardLevel,
};
pub use history::{
    CloneArgs, CloseArgs, DiffArgs, LogArgs, LogUnit, MarkVerb, OpenArgs, RestoreArgs, RewindArgs,
};
pub use image::{
    DigestName, GivenFormat, ImageAdoptArgs, ImageArgs, ImageCheckArgs, ImageConvertArgs,
    ImageDigestArgs, ImageExportArgs, ImageFillArgs, ImageFormat, ImageImportArgs, ImageInfoArgs,
    ImageMapArgs, ImageOpenArgs, ImageSalvageArgs, ImageStateArgs, ImageVerb,
};
pub use mount::MountArgs;
pub use pages::{CompletionsArgs, DemoArgs, ManArgs};
pub use serve::{AckPolicy, AnyoneRight, IoChoice, ServeArgs};
pub use store::{InitArgs, KeyAddKind, KeyVerb, StoreVerb, TrashVerb};
pub use vol::{ResizeArgs, SessionVerb, SetArgs, ShowArgs, VolCreateArgs, VolVerb, WhenFullChoice};

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// A virtual-disk server that keeps every write.
#[derive(Debug, Parser)]
#[command(
    name = "strandline",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "References: VOL[~BRANCH][@INSTANT]. Instants: now, start, -5m, 10:03:40, \
        2026-11-20T10:00:03Z, seq:123, mark:NAME; then ^flush, ^mark or ^quiet:2s.\n\
        First steps: strandline demo",
    after_long_help = "References: VOL[~BRANCH][@INSTANT]\n\
        Instants:   now  start  -5s  -2h30m  -3d  (before the server's present)\n            \
        2026-11-20T10:00:03.250+01:00  2026-11-20  \"2026-11-20 10:00\"  10:00  yesterday/18:30\n            \
        seq:123  mark:NAME  mark:NAME~2 (two earlier of that name)\n            \
        then ^flush, ^mark or ^quiet:2s, which round down\n\
        Sizes:      40G = 40GiB (2^30 each), 40GB (10^9 each)\n\
        Exit:       0 done, 1 the answer is no, 2 usage, 3 not found, 4 exists or busy,\n            \
        5 not allowed, 6 refused to protect data, 7 damaged bytes, 8 server unreachable,\n            \
        9 no space, 70 our bug, 130 interrupted\n\
        First steps: strandline demo"
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub noun: Noun,
}

/// What may stand anywhere on the line.
#[expect(clippy::struct_excessive_bools, reason = "one for each switch of the command line")]
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Everywhere")]
pub struct Global {
    /// Directory of the store
    #[arg(
        short,
        long,
        global = true,
        value_name = "DIR",
        env = "STRANDLINE_STORE",
        hide_env_values = true
    )]
    pub store: Option<PathBuf>,
    /// Control socket of a running server, instead of the store's own
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "STRANDLINE_SOCKET",
        hide_env_values = true
    )]
    pub socket: Option<PathBuf>,
    /// Key file of the store
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "STRANDLINE_KEY_FILE",
        hide_env_values = true
    )]
    pub key_file: Option<PathBuf>,
    /// File that holds the store's passphrase
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "STRANDLINE_PASSPHRASE_FILE",
        hide_env_values = true
    )]
    pub passphrase_file: Option<PathBuf>,
    /// Settings in TOML: keys as the flags are named, those of `serve` in [serve]
    ///
    /// A flag beats a variable, a variable this file. Without it /etc/strandline/config.toml is read
    /// where there is one.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "STRANDLINE_CONFIG",
        hide_env_values = true
    )]
    pub config: Option<PathBuf>,
    /// Allow a store on a network file system
    #[arg(long, global = true)]
    pub network_fs: bool,
    /// JSON instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// Print only what was asked for
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more on stderr; twice for all
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Colour
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        default_value = "auto",
        env = "STRANDLINE_COLOR"
    )]
    pub color: Color,
    /// Progress on stderr
    #[arg(long, global = true, value_name = "FORM", default_value = "auto")]
    pub progress: ProgressForm,
    /// Never ask
    #[arg(long, global = true)]
    pub no_input: bool,
    /// Answer yes to every question
    #[arg(short, long, global = true)]
    pub yes: bool,
    /// Say what would happen, and change nothing
    #[arg(short = 'n', long, global = true)]
    pub dry_run: bool,
    /// Time zone of bare times: Europe/Paris, UTC, +01:00
    #[arg(long, global = true, value_name = "ZONE", env = "STRANDLINE_TZ", hide_env_values = true)]
    pub tz: Option<String>,
    /// How long to wait for the server
    #[arg(long, global = true, value_name = "DUR", value_parser = duration)]
    pub timeout: Option<u64>,
}

/// When to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR or TERM=dumb
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProgressForm {
    /// Bars on a terminal, else nothing
    Auto,
    /// Lines of text
    Plain,
    /// Lines of JSON
    Json,
    /// Nothing
    None,
}

/// The nouns.
#[derive(Debug, Subcommand)]
pub enum Noun {
    /// Make, look at, check and mend a store
    #[command(subcommand)]
    Store(StoreVerb),
    /// Make, list, change and remove volumes
    #[command(subcommand)]
    Vol(VolVerb),
    /// Serve the store's volumes, in the foreground
    Serve(ServeArgs),
    /// Show a volume's history
    Log(LogArgs),
    /// Give instants names
    #[command(subcommand)]
    Mark(MarkVerb),
    /// Make an instant reachable for clients
    Open(OpenArgs),
    /// Close an opened instant
    Close(CloseArgs),
    /// Make a writable volume that begins at an instant
    Clone(CloneArgs),
    /// Put a volume back at an instant; the left future stays as a branch
    Rewind(RewindArgs),
    /// Show what differs between two instants (exit 1 if anything does)
    Diff(DiffArgs),
    /// Bring files back from an instant, or write its whole disk
    Restore(RestoreArgs),
    /// Show disks as files in every format, made as they are read; in the foreground
    #[command(override_usage = "strandline mount [OPTIONS] [VOL[@I]|FILE] DIR")]
    Mount(MountArgs),
    /// Look at, check, read and convert images in other formats; needs no store
    #[command(subcommand)]
    Image(ImageVerb),
    /// Show and end clients' sessions
    #[command(subcommand)]
    Session(SessionVerb),
    /// Show how the store and its server are
    Status,
    /// Find what is wrong and say what to do
    Doctor,
    /// Play the first five minutes in a temporary store
    Demo(DemoArgs),
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Print the manual page, or write all pages into a directory
    Man(ManArgs),
}

pub(crate) fn size(text: &str) -> Result<u64, String> {
    api::amounts::parse_size(text).map_err(|failure| reason(&failure))
}

pub(crate) fn duration(text: &str) -> Result<u64, String> {
    api::amounts::parse_duration(text).map_err(|failure| reason(&failure))
}

fn reason(failure: &api::Failure) -> String {
    let hint = failure.hint.as_ref().map(|(_, hint)| format!("; {hint}"));
    format!("{}{}", failure.message, hint.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn instants_before_now_are_no_options() {
        let cli = Cli::try_parse_from(["strandline", "log", "db", "--since", "-20m", "--graph"]);
        let Noun::Log(args) = cli.expect("understood").noun else { panic!("another noun") };
        assert_eq!(args.since.as_deref(), Some("-20m"));
    }

    #[test]
    fn a_bad_size_says_what_a_good_one_is() {
        let error = Cli::try_parse_from(["strandline", "vol", "create", "db", "--size", "ten"]);
        let text = error.expect_err("no size").to_string();
        assert!(text.contains("`ten` is no size; write 40G"), "{text}");
    }

    #[test]
    fn a_change_of_settings_names_one() {
        let refused = Cli::try_parse_from(["strandline", "vol", "set", "db"]);
        let text = refused.expect_err("nothing to set").to_string();
        assert!(text.contains("--exclusive"), "{text}");
        assert!(Cli::try_parse_from(["strandline", "vol", "set", "db", "--exclusive"]).is_ok());
    }

    #[test]
    fn every_command_says_what_it_does() {
        fn look(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            assert!(command.get_about().is_some(), "{path} has no text");
            for argument in command.get_arguments() {
                let known = ["help", "version"].contains(&argument.get_id().as_str());
                assert!(known || argument.get_help().is_some(), "{path}: {}", argument.get_id());
            }
            command.get_subcommands().for_each(|below| look(below, &path));
        }
        look(&Cli::command(), "");
    }
}
