//! Settings from a file: what no flag and no variable says.
//!
//! TOML, keys named as the flags are; those of `serve` stand in the table `[serve]`. An unknown key is an
//! error, for a misspelt one would be a setting that silently does not hold.

use crate::cli::{AckPolicy, AnyoneRight, Cli, Global, IoChoice, Noun, ServeArgs};
use api::{Failure, amounts::parse_size, codes};
use serde::Deserialize;
use std::{
    io,
    path::{Path, PathBuf},
};

/// What is read when no file is named, if it is there.
const SYSTEM: &str = "/etc/strandline/config.toml";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Config {
    store: Option<PathBuf>,
    socket: Option<PathBuf>,
    key_file: Option<PathBuf>,
    passphrase_file: Option<PathBuf>,
    network_fs: Option<bool>,
    tz: Option<String>,
    #[serde(default)]
    serve: Serve,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Serve {
    #[serde(default)]
    nbd: Vec<String>,
    default: Option<String>,
    read_only: Option<bool>,
    ack: Option<AckPolicy>,
    io: Option<IoChoice>,
    no_pack: Option<bool>,
    pool_size: Option<Size>,
    socket_group: Option<String>,
    admin_group: Option<String>,
    anyone: Option<AnyoneRight>,
    insecure_lan: Option<bool>,
}

/// `"4G"`, or bytes.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Size {
    Bytes(u64),
    Text(String),
}

impl Size {
    fn bytes(&self) -> Result<u64, Failure> {
        match self {
            Self::Bytes(bytes) => Ok(*bytes),
            Self::Text(text) => parse_size(text),
        }
    }
}

/// Fills in what the command line and the variables left open.
pub fn fill_in(cli: &mut Cli) -> Result<(), Failure> {
    let named = cli.global.config.clone();
    let path = named.as_deref().unwrap_or(Path::new(SYSTEM));
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if named.is_none() && holds_nothing_for_us(&error) => {
            tracing::debug!(%error, "{} is not read", path.display());
            return Ok(());
        }
        Err(error) => {
            let code = match error.kind() {
                io::ErrorKind::NotFound => codes::NO_FILE,
                _ => codes::FILE_DENIED,
            };
            return Err(Failure::new(code, format!("cannot read {}: {error}", path.display())));
        }
    };
    apply(&text, cli).map_err(|mut failure| {
        failure.message = format!("{}: {}", path.display(), failure.message);
        failure
    })
}

/// The system's file is for the system's store: where its administrator keeps it from other users,
/// their own stores go on without it.
fn holds_nothing_for_us(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
}

fn apply(text: &str, cli: &mut Cli) -> Result<(), Failure> {
    let config: Config = toml::from_str(text)
        .map_err(|error| Failure::new(codes::USAGE, error.to_string().trim().to_owned()))?;
    fill_global(&config, &mut cli.global);
    if let Noun::Serve(args) = &mut cli.noun {
        fill_serve(config.serve, args)?;
    }
    Ok(())
}

fn fill_global(config: &Config, global: &mut Global) {
    fill(&mut global.store, config.store.as_ref());
    fill(&mut global.socket, config.socket.as_ref());
    // A key that was named for this command stands for itself.
    if global.key_file.is_none() && global.passphrase_file.is_none() {
        global.key_file.clone_from(&config.key_file);
        global.passphrase_file.clone_from(&config.passphrase_file);
    }
    fill(&mut global.tz, config.tz.as_ref());
    global.network_fs |= config.network_fs.unwrap_or(false);
}

fn fill_serve(config: Serve, args: &mut ServeArgs) -> Result<(), Failure> {
    if args.stop {
        return Ok(()); // ending a server asks for nothing else
    }
    if args.nbd.is_empty() {
        args.nbd = config.nbd;
    }
    args.pool_size = match (args.pool_size, &config.pool_size) {
        (None, Some(size)) => Some(size.bytes()?),
        (given, _) => given,
    };
    fill(&mut args.default, config.default.as_ref());
    fill(&mut args.ack, config.ack.as_ref());
    fill(&mut args.io, config.io.as_ref());
    fill(&mut args.socket_group, config.socket_group.as_ref());
    fill(&mut args.admin_group, config.admin_group.as_ref());
    fill(&mut args.anyone, config.anyone.as_ref());
    args.read_only |= config.read_only.unwrap_or(false);
    args.no_pack |= config.no_pack.unwrap_or(false);
    args.insecure_lan |= config.insecure_lan.unwrap_or(false);
    Ok(())
}

fn fill<T: Clone>(given: &mut Option<T>, configured: Option<&T>) {
    if given.is_none() {
        *given = configured.cloned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    const TEXT: &str = r#"
        store = "/srv/strand"
        tz = "Europe/Paris"

        [serve]
        nbd = ["unix:/run/strandline/nbd.sock"]
        ack = "page"
        pool-size = "1G"
        anyone = "read"
    "#;

    fn cli(line: &str) -> Cli {
        Cli::try_parse_from(line.split(' ')).expect("understood")
    }

    #[test]
    fn a_flag_beats_the_file() {
        let mut plain = cli("strandline serve");
        apply(TEXT, &mut plain).expect("sound");
        let Noun::Serve(args) = plain.noun else { panic!("another noun") };
        assert_eq!(args.nbd, ["unix:/run/strandline/nbd.sock"]);
        assert_eq!((args.ack, args.anyone), (Some(AckPolicy::Page), Some(AnyoneRight::Read)));
        assert_eq!(args.pool_size, Some(1 << 30));
        assert_eq!(plain.global.tz.as_deref(), Some("Europe/Paris"));
        let mut flags = cli("strandline -s /mine serve --nbd 127.0.0.1 --ack disk --pool-size 2G");
        apply(TEXT, &mut flags).expect("sound");
        assert_eq!(flags.global.store, Some(PathBuf::from("/mine")));
        let Noun::Serve(args) = flags.noun else { panic!("another noun") };
        assert_eq!(
            (args.nbd.as_slice(), args.ack),
            (&["127.0.0.1".to_owned()][..], Some(AckPolicy::Disk))
        );
        assert_eq!(args.pool_size, Some(2 << 30));
    }

    #[test]
    fn what_is_no_setting_is_refused_with_its_place() {
        for (text, word) in [
            ("stroe = \"/srv\"", "stroe"),
            ("[serve]\nack = \"tape\"", "tape"),
            ("[serve]\npool-size = \"much\"", "much"),
            ("store = ", "line 1"),
        ] {
            let failure = apply(text, &mut cli("strandline serve")).expect_err(text);
            assert_eq!(failure.exit(), 2, "{failure}");
            assert!(failure.to_string().contains(word), "{failure}");
        }
    }

    #[test]
    fn a_closed_system_directory_stops_no_user() {
        for kind in [io::ErrorKind::NotFound, io::ErrorKind::PermissionDenied] {
            assert!(holds_nothing_for_us(&kind.into()), "{kind}");
        }
        assert!(!holds_nothing_for_us(&io::ErrorKind::InvalidData.into()));
    }

    #[test]
    fn a_named_file_must_be_there() {
        let mut cli = cli("strandline --config /nonexistent/config.toml status");
        assert_eq!(fill_in(&mut cli).expect_err("nothing there").code, codes::NO_FILE);
    }
}
