//! Are images served as they are: at once, byte for byte, and damage only where it is?

#![expect(clippy::disallowed_methods, reason = "the client's side has files of its own")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use e2e::{finish, need, noise, open_image, program, said, succeed};
use tempfile::TempDir;

/// A disk with data, holes and a size that is no multiple of 4096.
fn disk(directory: &Path) -> (PathBuf, Vec<u8>) {
    let mut bytes = noise(7, 24 << 20);
    bytes[3 << 20..9 << 20].fill(0);
    bytes.truncate((24 << 20) - 1024);
    let path = directory.join("disk.raw");
    fs::write(&path, &bytes).expect("scratch");
    (path, bytes)
}

fn converted(raw: &Path, format: &[&str]) -> PathBuf {
    let image = raw.with_extension(format[0]);
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-f", "raw", "-O"]).args(format).arg(raw).arg(&image);
    succeed(&mut convert);
    image
}

#[test]
fn every_format_is_served_as_the_bytes_it_holds() {
    need(&["qemu-img"], "qemu-utils");
    need(&["nbdcopy", "nbdinfo"], "libnbd-bin");
    let directory = TempDir::with_prefix("strandline-open-").expect("temp dir");
    let (raw, bytes) = disk(directory.path());
    for format in [
        &["qcow2"][..],
        &["qcow2", "-c"],
        &["vhdx"],
        &["vmdk"],
        &["vmdk", "-o", "subformat=streamOptimized"],
        &["vdi"],
    ] {
        let image = converted(&raw, format);
        let before = fs::read(&image).expect("scratch");
        let server = open_image(&image, &[], directory.path());
        let name = image.file_name().expect("a file").to_str().expect("utf-8");
        let got = directory.path().join("got.raw");
        succeed(Command::new("nbdcopy").arg(server.uri("")).arg(&got));
        let got = fs::read(&got).expect("scratch");
        assert!(got[..bytes.len()] == bytes[..], "{format:?}: other bytes");
        assert!(
            got[bytes.len()..].iter().all(|byte| *byte == 0),
            "{format:?}: not padded by zeroes"
        );
        let told = succeed(Command::new("nbdinfo").arg(server.uri(name)));
        assert!(told.contains("is_read_only: true"), "{told}");
        let map = succeed(Command::new("nbdinfo").args(["--map", "--totals", &server.uri("")]));
        assert!(map.contains("hole"), "{format:?}: no hole is seen\n{map}");
        assert!(!finish(Command::new("nbdinfo").arg(server.uri("other"))).status.success());
        let wrote = finish(
            Command::new("qemu-io").args(["-f", "raw", "-c", "write 0 4096"]).arg(server.uri("")),
        );
        assert!(!wrote.status.success() || said(&wrote).contains("rror"), "{}", said(&wrote));
        assert!(server.stop().success());
        assert!(fs::read(&image).expect("scratch") == before, "{format:?}: the image was written");
    }
}

#[test]
fn damage_fails_the_reads_that_need_it_and_no_others() {
    need(&["qemu-img", "qemu-io"], "qemu-utils");
    let directory = TempDir::with_prefix("strandline-open-").expect("temp dir");
    let raw = directory.path().join("disk.raw");
    fs::write(&raw, noise(3, 4 << 20)).expect("scratch");
    let image = converted(&raw, &["qcow2"]);
    let mut bytes = fs::read(&image).expect("scratch");
    // L1 begins where the header says; the first L2's second entry shall lead past the end.
    let at = |bytes: &[u8], place: usize| {
        u64::from_be_bytes(bytes[place..place + 8].try_into().expect("8 bytes"))
    };
    let l1 = usize::try_from(at(&bytes, 40)).expect("small");
    let l2 = usize::try_from(at(&bytes, l1) & 0x00ff_ffff_ffff_fe00).expect("small");
    let lost = 1_u64 << 63 | 1 << 40;
    bytes[l2 + 8..l2 + 16].copy_from_slice(&lost.to_be_bytes());
    fs::write(&image, bytes).expect("scratch");
    let server = open_image(&image, &[], directory.path());
    let read = |place: &str| {
        let line = format!("read {place} 64k");
        let ran = finish(
            Command::new("qemu-io").args(["-r", "-f", "raw", "-c", &line]).arg(server.uri("")),
        );
        said(&ran)
    };
    assert!(read("64k").contains("Input/output error"), "{}", read("64k"));
    for place in ["0", "128k", "3M"] {
        assert!(read(place).contains("read 65536/65536"), "{place}: {}", read(place));
    }
    assert!(server.log().contains("cannot be read"), "{}", server.log());
}

#[test]
fn what_is_no_image_is_refused_before_anybody_can_connect() {
    let directory = TempDir::with_prefix("strandline-open-").expect("temp dir");
    let missing = directory.path().join("missing.qcow2");
    let socket = format!("unix:{}/nbd.sock", directory.path().display());
    let mut open = Command::new(program());
    open.args(["image", "open"]).arg(&missing).args(["--nbd", &socket]);
    let ran = finish(&mut open);
    assert_eq!(ran.status.code(), Some(3), "{}", said(&ran));
    assert!(!directory.path().join("nbd.sock").exists());
}
