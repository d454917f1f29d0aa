//! VHD and VDI files of our making, read by other people's programs: qemu-img, and libvhdi's Python
//! module for what QEMU does not read (children). Without qemu-img the tests fail and name its
//! package; without the Python module one is left out and says so.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test has its files to itself, and fails where one is not as it should be"
)]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use images::{
    Format, Identity,
    layout::{Content, Held, ImageFile, ParentPlan, Plan},
    vdi::write::{self as vdi, VdiKind, VdiOptions},
    vhd::write::{self as vhd, VhdKind, VhdOptions},
};

const M: u64 = 1 << 20;

/// No product of a geometry, and no whole blocks.
const SIZE: u64 = 9 * M + 512 * 7;

/// Bytes that compress badly and repeat nowhere, but for what is zero.
fn guest(held: &[Held]) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(SIZE).unwrap()];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for held in held.iter().filter(|held| !held.zero) {
        let range =
            usize::try_from(held.start).unwrap()..usize::try_from(held.start + held.len).unwrap();
        for byte in &mut bytes[range] {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = state.to_le_bytes()[3];
        }
    }
    bytes
}

/// At the head, over the edges of blocks, and at the very end.
fn plan() -> Plan {
    let data = |start, len| Held { start, len, zero: false };
    let zero = |start, len| Held { start, len, zero: true };
    let held = vec![
        data(0, 4096),
        data(M - 512, 1024),
        zero(3 * M, M / 2),
        data(4 * M - 512, 2 * M + 1024),
        data(SIZE - 512, 512),
    ];
    Plan { virtual_size: SIZE, held, parent: None, seed: [0x5a; 32], made_s: 1_700_000_000 }
}

fn write(path: &Path, files: &[ImageFile], guest: &[u8]) {
    let layout = &files[0].layout;
    let mut bytes = Vec::new();
    while u64::try_from(bytes.len()).unwrap() < layout.len() {
        let at = u64::try_from(bytes.len()).unwrap();
        for piece in layout.pieces(at..layout.len()) {
            let end = bytes.len() + usize::try_from(piece.len).unwrap();
            match piece.content {
                Content::Table(table) => bytes.extend(table),
                Content::Guest(from) => {
                    let rest = guest.get(usize::try_from(from).unwrap()..).unwrap_or_default();
                    bytes.extend(rest.iter().take(usize::try_from(piece.len).unwrap()));
                }
                Content::Zero => {}
            }
            bytes.resize(end, 0);
        }
    }
    fs::write(path, bytes).unwrap();
}

fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output();
    output
        .unwrap_or_else(|error| panic!("{program}: {error}: apt-get install -y qemu-utils python3"))
}

fn good(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Whether QEMU finds the same bytes in an image as in a raw file, by two of its ways.
fn qemu_agrees(folder: &Path, name: &str, format: &str, guest: &[u8]) {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (image, raw, out) = (path(name), path("guest.raw"), path("out.raw"));
    fs::write(&raw, guest).unwrap();
    let compare = ["compare", "-f", format, "-F", "raw", &image, &raw];
    let compared = run("qemu-img", &compare);
    assert!(good(&compared).contains("Images are identical"), "{name}: {compared:?}");
    good(&run("qemu-img", &["convert", "-f", format, "-O", "raw", &image, &out]));
    assert!(fs::read(&out).unwrap() == guest, "{name}: converted bytes differ");
    let info = good(&run("qemu-img", &["info", "--output=json", "-f", format, &image]));
    assert!(info.contains(&format!("\"virtual-size\": {SIZE}")), "{name}: {info}");
    if format == "vdi" {
        let checked = good(&run("qemu-img", &["check", "-f", format, &image]));
        assert!(checked.contains("No errors were found"), "{name}: {checked}");
    }
}

#[test]
fn qemu_reads_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let (plan, guest) = (plan(), guest(&plan().held));
    let mebibyte = 1 << 20;
    for (name, kind, block_bytes) in [
        ("fixed.vhd", VhdKind::Fixed, 2 * mebibyte),
        ("dynamic.vhd", VhdKind::Dynamic, 2 * mebibyte),
        ("small-blocks.vhd", VhdKind::Dynamic, mebibyte / 2),
    ] {
        let files = vhd::layout(&plan, &VhdOptions { kind, block_bytes }).unwrap();
        write(&folder.path().join(name), &files, &guest);
        qemu_agrees(folder.path(), name, "vpc", &guest);
        // A QEMU that is told to take the size field finds the same: so the word is no accident.
        let path = folder.path().join(name);
        let told =
            format!("driver=vpc,force_size_calc=current_size,file.filename={}", path.display());
        let info = good(&run("qemu-img", &["info", "--output=json", "--image-opts", &told]));
        assert!(info.contains(&format!("\"virtual-size\": {SIZE}")), "{name}: {info}");
    }
    for (name, kind) in [("dynamic.vdi", VdiKind::Dynamic), ("static.vdi", VdiKind::Static)] {
        let files = vdi::layout(&plan, &VdiOptions { kind }).unwrap();
        write(&folder.path().join(name), &files, &guest);
        qemu_agrees(folder.path(), name, "vdi", &guest);
    }
}

/// Prints the guest's bytes of a VHD, whose parents follow it.
const BY_LIBVHDI: &str = "
import sys, pyvhdi
files = []
for name in sys.argv[1:]:
    f = pyvhdi.file(); f.open(name); files.append(f)
for child, parent in zip(files, files[1:]):
    assert child.get_parent_identifier() == parent.get_identifier()
    child.set_parent(parent)
top = files[0]
left = top.get_media_size()
top.seek_offset(0, 0)
while left:
    data = top.read_buffer(min(left, 1 << 20)); sys.stdout.buffer.write(data); left -= len(data)
";

/// The guest's bytes by libvhdi; `None` where it is not installed.
fn by_libvhdi(folder: &Path, names: &[&str]) -> Option<Vec<u8>> {
    // The distribution's Python, which has the distribution's modules.
    let python = "/usr/bin/python3";
    if !run(python, &["-c", "import pyvhdi"]).status.success() {
        eprintln!("left out: {python} has no module pyvhdi: apt-get install -y python3-libvhdi");
        return None;
    }
    let paths: Vec<String> =
        names.iter().map(|name| folder.join(name).to_str().unwrap().to_owned()).collect();
    let arguments: Vec<&str> =
        ["-c", BY_LIBVHDI].into_iter().chain(paths.iter().map(String::as_str)).collect();
    let output = run(python, &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(output.stdout)
}

#[test]
fn libvhdi_reads_what_is_written_and_its_children() {
    let folder = tempfile::tempdir().unwrap();
    let base = plan();
    let bytes = guest(&base.held);
    for kind in [VhdKind::Fixed, VhdKind::Dynamic] {
        let files = vhd::layout(&base, &VhdOptions { kind, ..VhdOptions::default() }).unwrap();
        write(&folder.path().join("base.vhd"), &files, &bytes);
        let Some(read) = by_libvhdi(folder.path(), &["base.vhd"]) else { return };
        assert!(read == bytes, "{kind:?}: bytes differ");
    }
    // The child holds zeroes over data, data over nothing, and single sectors.
    let held = [
        (0, 512, false),
        (1024, 1024, true),
        (2 * M - 1024, 2048, false),
        (5 * M, M / 2, true),
        (8 * M + 512, 512, false),
    ]
    .map(|(start, len, zero)| Held { start, len, zero });
    let child = Plan {
        held: held.to_vec(),
        seed: [0xa5; 32],
        parent: Some(ParentPlan {
            name: "base.vhd".to_owned(),
            format: Format::Vhd,
            identity: vhd::identity(&base),
            virtual_size: SIZE,
        }),
        ..base.clone()
    };
    let (own, mut seen) = (guest(&held), bytes);
    for held in &held {
        let range =
            usize::try_from(held.start).unwrap()..usize::try_from(held.start + held.len).unwrap();
        seen[range.clone()].copy_from_slice(&own[range]);
    }
    let files = vhd::layout(&child, &VhdOptions::default()).unwrap();
    write(&folder.path().join("child.vhd"), &files, &seen);
    let read = by_libvhdi(folder.path(), &["child.vhd", "base.vhd"]).unwrap();
    assert!(read == seen, "the child's bytes differ");
    assert_ne!(vhd::identity(&child), vhd::identity(&base));
    assert!(matches!(vhd::identity(&child), Identity::Vhd { id: [0xa5, ..], .. }));
}
