//! How a client reaches a disk: the lines that `vol show --qemu|--libvirt|--nbd-client` prints.
//!
//! Each carries the settings with which the client outlives a restart of the server. `cache=none`
//! stands only beside the policy `disk`: only there an answered write has reached the disk.

use crate::{cli::ShowArgs, out::Stop};
use api::{Failure, codes, verbs::vol::VolDetails};

/// Seconds for which a client waits for the server to come back.
const RECONNECT_S: u32 = 300;

/// For whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Qemu,
    Libvirt,
    NbdClient,
}

impl Form {
    pub(super) const fn of(args: &ShowArgs) -> Option<Self> {
        match (args.qemu, args.libvirt, args.nbd_client) {
            (true, _, _) => Some(Self::Qemu),
            (_, true, _) => Some(Self::Libvirt),
            (_, _, true) => Some(Self::NbdClient),
            _ => None,
        }
    }
}

/// Where a server offers a disk, taken from its URI.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Unix(String),
    Tcp { host: String, port: String },
}

/// The lines.
pub(super) fn print(form: Form, disk: &VolDetails) -> Result<String, Stop> {
    let Some(uri) = &disk.uri else {
        let failure = Failure::new(codes::NO_SERVER, format!("no server offers `{}`", disk.name));
        return Err(failure.doing("start one: strandline serve --nbd unix:PATH").into());
    };
    let Some((place, export)) = parts(uri) else {
        return Err(Failure::bug(format!("`{uri}` is no NBD address")).into());
    };
    Ok(match form {
        Form::Qemu => qemu(&place, &export, disk),
        Form::Libvirt => libvirt(&place, &export, disk),
        Form::NbdClient => nbd_client(&place, &export, disk.block),
    })
}

/// Place and export of `nbd+unix:///EXPORT?socket=PATH` or `nbd://HOST[:PORT]/EXPORT`.
fn parts(uri: &str) -> Option<(Place, String)> {
    if let Some(rest) = uri.strip_prefix("nbd+unix:///") {
        let (export, socket) = rest.split_once("?socket=")?;
        return Some((Place::Unix(unescape(socket)?), unescape(export)?));
    }
    let (authority, export) = uri.strip_prefix("nbd://")?.split_once('/')?;
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (authority, "10809"),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some((Place::Tcp { host: host.to_owned(), port: port.to_owned() }, unescape(export)?))
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

fn qemu(place: &Place, export: &str, disk: &VolDetails) -> String {
    let server = match place {
        Place::Unix(path) => {
            format!("file.server.type=unix,file.server.path={}", doubled(path))
        }
        Place::Tcp { host, port } => {
            format!("file.server.type=inet,file.server.host={host},file.server.port={port}")
        }
    };
    let cache = if disk.ack == "disk" { "none" } else { "writeback" };
    let read_only = if disk.read_only { ",readonly=on" } else { "" };
    let drive = format!(
        "if=none,id={id},driver=raw,cache={cache}{read_only},file.driver=nbd,{server},\
         file.export={export},file.reconnect-delay={RECONNECT_S}",
        id = disk.name,
        export = doubled(export),
    );
    let device = format!("virtio-blk-pci,drive={},serial={}", disk.name, disk.serial);
    format!("-drive {} \\\n-device {}\n", quoted(&drive), quoted(&device))
}

/// A comma ends an option of QEMU unless it is doubled.
fn doubled(text: &str) -> String {
    text.replace(',', ",,")
}

/// As one word of a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,=:@%+~".contains(c);
    if !text.is_empty() && text.chars().all(plain) && !text.starts_with('~') {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn libvirt(place: &Place, export: &str, disk: &VolDetails) -> String {
    let host = match place {
        Place::Unix(path) => format!("<host transport='unix' socket='{}'/>", escaped(path)),
        Place::Tcp { host, port } => format!("<host name='{}' port='{port}'/>", escaped(host)),
    };
    let cache = if disk.ack == "disk" { "none" } else { "writeback" };
    let read_only = if disk.read_only { "\n  <readonly/>" } else { "" };
    format!(
        "<disk type='network' device='disk'>
  <driver name='qemu' type='raw' cache='{cache}' discard='unmap'/>
  <source protocol='nbd' name='{export}'>
    {host}
    <reconnect delay='{RECONNECT_S}'/>
  </source>
  <target dev='vda' bus='virtio'/>
  <serial>{serial}</serial>{read_only}
</disk>
",
        export = escaped(export),
        serial = escaped(&disk.serial),
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('\'', "&apos;")
}

fn nbd_client(place: &Place, export: &str, block: u32) -> String {
    let server = match place {
        Place::Unix(path) => format!("-unix {}", quoted(path)),
        Place::Tcp { host, port } => format!("{} {port}", quoted(host)),
    };
    let export = quoted(export);
    format!(
        "nbd-client {server} /dev/nbd0 -name {export} -block-size {block} -persist -timeout {RECONNECT_S}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::details;

    fn printed(form: Form, uri: &str) -> String {
        let disk = VolDetails { uri: Some(uri.to_owned()), ..details("db") };
        match print(form, &disk) {
            Ok(text) => text,
            Err(stop) => panic!("{stop:?}"),
        }
    }

    const UNIX: &str = "nbd+unix:///db?socket=/run/strandline/nbd.sock";

    #[test]
    fn qemu_waits_for_the_server_to_come_back() {
        assert_eq!(
            printed(Form::Qemu, UNIX),
            "-drive if=none,id=db,driver=raw,cache=none,file.driver=nbd,file.server.type=unix,\
             file.server.path=/run/strandline/nbd.sock,file.export=db,file.reconnect-delay=300 \\\n\
             -device virtio-blk-pci,drive=db,serial=7f3a19c2-1\n"
        );
    }

    #[test]
    fn libvirt_gets_a_disk_element() {
        let text = printed(Form::Libvirt, "nbd://backup.example/db@seq:93880");
        assert!(text.contains("<source protocol='nbd' name='db@seq:93880'>"), "{text}");
        assert!(text.contains("<host name='backup.example' port='10809'/>"), "{text}");
        assert!(text.contains("<reconnect delay='300'/>"), "{text}");
    }

    #[test]
    fn nbd_client_persists() {
        assert_eq!(
            printed(Form::NbdClient, "nbd+unix:///a%20b?socket=/tmp/it%27s"),
            "nbd-client -unix '/tmp/it'\\''s' /dev/nbd0 -name 'a b' -block-size 512 -persist \
             -timeout 300\n"
        );
    }

    #[test]
    fn only_the_disk_policy_is_printed_beside_cache_none() {
        let disk =
            VolDetails { uri: Some(UNIX.to_owned()), ack: "page".to_owned(), ..details("db") };
        let Ok(text) = print(Form::Qemu, &disk) else { panic!("there is a URI") };
        assert!(text.contains("cache=writeback"), "{text}");
    }

    #[test]
    fn addresses_are_taken_apart() {
        let tcp =
            |host: &str, port: &str| Place::Tcp { host: host.to_owned(), port: port.to_owned() };
        assert_eq!(parts("nbd://[::1]:10810/db"), Some((tcp("::1", "10810"), "db".to_owned())));
        assert_eq!(parts("nbd://[::1]/db"), Some((tcp("::1", "10809"), "db".to_owned())));
        assert_eq!(parts("http://x/db"), None);
        assert_eq!(parts("nbd+unix:///db?socket=%zz"), None);
    }
}
