//! Where a server listens: addresses as users write them, and the usual socket.

use api::{Failure, codes};
use rustix::process::geteuid;
use server::serving::Address;
use std::{
    env, io,
    net::{SocketAddr, ToSocketAddrs as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

/// The port of NBD.
const PORT: u16 = 10809;

/// Where sockets of the whole system lie.
const SYSTEM_SOCKETS: &str = "/run/strandline";

/// Addresses of `--nbd`; TCP beyond this host only if that is wanted.
pub(super) fn parse_all(texts: &[String], insecure_lan: bool) -> Result<Vec<Address>, Failure> {
    let mut addresses = Vec::new();
    for text in texts {
        addresses.extend(parse(text, insecure_lan)?);
    }
    Ok(addresses)
}

/// One text may name several addresses: `localhost` has two.
fn parse(text: &str, insecure_lan: bool) -> Result<Vec<Address>, Failure> {
    let wrong = |why: &str| {
        Failure::new(codes::ADDRESS, format!("`{text}` is no address to listen at{why}"))
            .doing("write unix:/run/strandline/nbd.sock, 127.0.0.1:10809 or [::1]:10809")
    };
    if let Some(path) = text.strip_prefix("unix:") {
        if path.starts_with('/') || path.starts_with("./") || path.starts_with("../") {
            return Ok(vec![Address::Unix(PathBuf::from(path))]);
        }
        return Err(wrong(": a socket's path begins with /, ./ or ../"));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, port.parse().map_err(|_| wrong(""))?)
        }
        _ => (text, PORT),
    };
    if host.is_empty() || host.contains('/') {
        return Err(wrong(""));
    }
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let found: Vec<SocketAddr> =
        (host, port).to_socket_addrs().map_err(|error| wrong(&format!(": {error}")))?.collect();
    if found.is_empty() {
        return Err(wrong(": the host has no address"));
    }
    if let Some(open) = found.iter().find(|address| !address.ip().to_canonical().is_loopback())
        && !insecure_lan
    {
        let text = format!("{open} can be reached from other hosts, and NBD there is plain text");
        return Err(Failure::new(codes::NOT_ALLOWED, text)
            .doing("listen on 127.0.0.1 or a unix socket, or say --insecure-lan"));
    }
    let mut distinct: Vec<Address> = Vec::new();
    for address in found.into_iter().map(Address::Tcp) {
        if !distinct.contains(&address) {
            distinct.push(address);
        }
    }
    Ok(distinct)
}

/// Where clients knock when nothing is said: the system's directory for root, the session's for a
/// user, and the store itself where there is no session.
pub(super) fn usual(store: &Path) -> PathBuf {
    let session = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let session = session.filter(|path| path.is_absolute() && path.is_dir());
    let directory = match session {
        _ if geteuid().is_root() => PathBuf::from(SYSTEM_SOCKETS),
        Some(session) => session.join("strandline"),
        None => store.to_owned(),
    };
    directory.join("nbd.sock")
}

/// A socket of this process alone, beside the usual one of its user.
pub(super) fn own_socket() -> Result<PathBuf, Failure> {
    let usual = usual(Path::new(""));
    match usual.parent().filter(|directory| directory.is_absolute()) {
        Some(directory) => Ok(directory.join(format!("image-{}.sock", std::process::id()))),
        None => {
            Err(Failure::new(codes::ADDRESS, "there is no session whose directory could be used")
                .doing("name a socket: --nbd unix:/tmp/mine/nbd.sock"))
        }
    }
}

/// Makes the directory of the usual socket. Others may enter: the socket's own mode keeps them out.
pub(super) fn prepare(usual: Option<&Path>) -> Result<(), Failure> {
    let Some(directory) = usual.and_then(Path::parent) else { return Ok(()) };
    let mode = if geteuid().is_root() { 0o755 } else { 0o700 };
    match std::fs::DirBuilder::new().mode(mode).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            let text = format!("cannot make {}: {error}", directory.display());
            Err(Failure::new(codes::FILE_DENIED, text).doing("name a socket: --nbd unix:PATH"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> api::codes::Code {
        parse(text, false).expect_err(text).code
    }

    #[test]
    fn addresses_are_taken_as_they_are_written() {
        let tcp = |text: &str| Address::Tcp(text.parse().expect("an address"));
        let of = |text| parse(text, false).expect(text);
        assert_eq!(of("unix:/run/x.sock"), [Address::Unix("/run/x.sock".into())]);
        assert_eq!(of("127.0.0.1"), [tcp("127.0.0.1:10809")]);
        assert_eq!(of("127.0.0.1:1"), [tcp("127.0.0.1:1")]);
        assert_eq!(of("[::1]:2"), [tcp("[::1]:2")]);
        assert_eq!(of("[::1]"), [tcp("[::1]:10809")]);
        assert_eq!(of("::1"), [tcp("[::1]:10809")]);
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in ["", "unix:", "unix:x", "127.0.0.1:99999", ":1", "/run/x.sock"] {
            assert_eq!(refused(bad), codes::ADDRESS, "{bad}");
        }
    }

    #[test]
    fn other_hosts_come_in_only_when_that_is_said() {
        for open in ["0.0.0.0", "[::]:10809", "192.0.2.7:1"] {
            assert_eq!(refused(open), codes::NOT_ALLOWED, "{open}");
            assert_eq!(parse(open, true).expect("allowed").len(), 1, "{open}");
        }
        assert!(parse("[::ffff:127.0.0.1]:1", false).is_ok());
    }
}
