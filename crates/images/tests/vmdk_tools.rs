//! VMDK files of our making, read by other people's programs: qemu-img, and libvmdk's Python module.
//! Without qemu-img the tests fail and name its package; without the Python module one is left out and
//! says so.

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
    vmdk::{
        stream::{GRAIN_BYTES, Stream, pack_grain},
        write::{Adapter, VmdkKind, VmdkOptions, content_id, layout},
    },
};

const M: u64 = 1 << 20;

/// More than one table of grains, and no whole grains.
const SIZE: u64 = 34 * M + 512 * 7;

/// At the head, over the edges of grains, in both tables, and at the very end.
const HELD: [(u64, u64, bool); 6] = [
    (0, 4096, false),
    (M - 512, 1024, false),
    (3 * M, M - 512, true),
    (4 * M - 512, 2 * M + 1024, false),
    (32 * M - 512, 4096, false),
    (SIZE - 512, 512, false),
];

fn plan(held: &[(u64, u64, bool)]) -> Plan {
    let held = held.iter().map(|&(start, len, zero)| Held { start, len, zero }).collect();
    Plan { virtual_size: SIZE, held, parent: None, seed: [0x5a; 32], made_s: 1_700_000_000 }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

/// What the guest sees of a plan over `below`: bytes that half compress.
fn guest(plan: &Plan, below: &[u8]) -> Vec<u8> {
    let mut bytes = below.to_vec();
    bytes.resize(index(SIZE), 0);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ u64::from(plan.seed[0]);
    for held in &plan.held {
        for byte in &mut bytes[index(held.start)..index(held.start + held.len)] {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = if held.zero { 0 } else { state.to_le_bytes()[3] & 0x3f };
        }
    }
    bytes
}

fn bytes(file: &ImageFile, guest: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < index(file.layout.len()) {
        let at = u64::try_from(bytes.len()).unwrap();
        for piece in file.layout.pieces(at..file.layout.len()) {
            let end = bytes.len() + index(piece.len);
            match piece.content {
                Content::Table(table) => bytes.extend(table),
                Content::Guest(from) => {
                    let rest = guest.get(index(from)..).unwrap_or_default();
                    bytes.extend(rest.iter().take(index(piece.len)));
                }
                Content::Zero => {}
            }
            bytes.resize(end, 0);
        }
    }
    bytes
}

/// Writes the files of an image that is called `stem` + `.vmdk`.
fn write(folder: &Path, stem: &str, plan: &Plan, kind: VmdkKind, guest: &[u8]) {
    let name = format!("{stem}.vmdk");
    for file in layout(plan, &VmdkOptions { kind, name, adapter: Adapter::LsiLogic }).unwrap() {
        let path = folder.join(format!("{stem}{}.vmdk", file.suffix));
        fs::write(path, bytes(&file, guest)).unwrap();
    }
}

fn write_stream(path: &Path, guest: &[u8]) {
    let name = path.file_name().unwrap().to_str().unwrap();
    let mut stream = Stream::new(&plan(&[]), name, Adapter::LsiLogic).unwrap();
    let mut bytes = stream.begin();
    for (number, plain) in (0..).zip(guest.chunks(index(GRAIN_BYTES))) {
        bytes.extend(stream.grain(number, &pack_grain(plain, 6)).unwrap());
    }
    bytes.extend(stream.finish().unwrap());
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
fn qemu_agrees(folder: &Path, name: &str, kind: &str, guest: &[u8]) {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (image, raw, out) = (path(name), path("guest.raw"), path("out.raw"));
    fs::write(&raw, guest).unwrap();
    let compared = run("qemu-img", &["compare", "-f", "vmdk", "-F", "raw", &image, &raw]);
    assert!(good(&compared).contains("Images are identical"), "{name}: {compared:?}");
    good(&run("qemu-img", &["convert", "-f", "vmdk", "-O", "raw", &image, &out]));
    assert!(fs::read(&out).unwrap() == guest, "{name}: converted bytes differ");
    let checked = good(&run("qemu-img", &["check", "-f", "vmdk", &image]));
    assert!(checked.contains("No errors were found"), "{name}: {checked}");
    let info = good(&run("qemu-img", &["info", "--output=json", "-f", "vmdk", &image]));
    for part in [format!("\"virtual-size\": {SIZE}"), format!("\"create-type\": \"{kind}\"")] {
        assert!(info.contains(&part), "{name}: no {part} in {info}");
    }
}

/// A plan over an image of `plan()` called base.vmdk.
fn child() -> Plan {
    let held = [
        (0, 512, false),
        (M, 512, true),
        (4 * M, M + 100, true),
        (33 * M, 65536, false),
        (SIZE - 1024, 1024, true),
    ];
    let parent = ParentPlan {
        name: "base.vmdk".to_owned(),
        format: Format::Vmdk,
        identity: Identity::Vmdk { content: content_id(&plan(&HELD)) },
        virtual_size: SIZE,
    };
    Plan { parent: Some(parent), seed: [0xa5; 32], ..plan(&held) }
}

#[test]
fn qemu_reads_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let base = plan(&HELD);
    let disk = guest(&base, &[]);
    write(folder.path(), "flat", &base, VmdkKind::Flat, &disk);
    qemu_agrees(folder.path(), "flat.vmdk", "monolithicFlat", &disk);
    write(folder.path(), "base", &base, VmdkKind::Sparse, &disk);
    qemu_agrees(folder.path(), "base.vmdk", "monolithicSparse", &disk);
    let child = child();
    let over = guest(&child, &disk);
    write(folder.path(), "child", &child, VmdkKind::Sparse, &over);
    qemu_agrees(folder.path(), "child.vmdk", "monolithicSparse", &over);
    write_stream(&folder.path().join("stream.vmdk"), &disk);
    qemu_agrees(folder.path(), "stream.vmdk", "streamOptimized", &disk);
}

#[test]
fn qemu_writes_into_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let base = plan(&HELD);
    let disk = guest(&base, &[]);
    let mut over = guest(&child(), &disk);
    write(folder.path(), "base", &base, VmdkKind::Sparse, &disk);
    write(folder.path(), "child", &child(), VmdkKind::Sparse, &over);
    let path = folder.path().join("child.vmdk");
    let path = path.to_str().unwrap();
    // Into a grain that is held, one that is zeroed, and one of the parent's.
    for at in [0, 4 * M + 4096, 32 * M] {
        let write = format!("write -P 0x77 {at} 512");
        good(&run("qemu-io", &["-f", "vmdk", "-c", &write, path]));
        over[index(at)..index(at + 512)].fill(0x77);
    }
    qemu_agrees(folder.path(), "child.vmdk", "monolithicSparse", &over);
}

/// Prints the guest's bytes of an image, whose parents follow it.
const BY_LIBVMDK: &str = "
import sys, pyvmdk
handles = []
for name in sys.argv[1:]:
    h = pyvmdk.handle(); h.open(name); h.open_extent_data_files(); handles.append(h)
for child, parent in zip(handles, handles[1:]):
    assert child.get_parent_content_identifier() == parent.get_content_identifier()
    child.set_parent(parent)
top = handles[0]
size = top.get_media_size()
at = 0
while at < size:
    data = top.read_buffer_at_offset(min(size - at, 1 << 20), at); sys.stdout.buffer.write(data); at += len(data)
";

/// The guest's bytes by libvmdk; `None` where it is not installed.
fn by_libvmdk(folder: &Path, names: &[&str]) -> Option<Vec<u8>> {
    // The distribution's Python, which has the distribution's modules.
    let python = "/usr/bin/python3";
    if !run(python, &["-c", "import pyvmdk"]).status.success() {
        eprintln!("left out: {python} has no module pyvmdk: apt-get install -y python3-libvmdk");
        return None;
    }
    let paths: Vec<String> =
        names.iter().map(|name| folder.join(name).to_str().unwrap().to_owned()).collect();
    let arguments: Vec<&str> =
        ["-c", BY_LIBVMDK].into_iter().chain(paths.iter().map(String::as_str)).collect();
    let output = run(python, &arguments);
    assert!(output.status.success(), "{names:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(output.stdout)
}

#[test]
fn libvmdk_reads_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let base = plan(&HELD);
    let disk = guest(&base, &[]);
    write(folder.path(), "flat", &base, VmdkKind::Flat, &disk);
    write(folder.path(), "base", &base, VmdkKind::Sparse, &disk);
    write_stream(&folder.path().join("stream.vmdk"), &disk);
    for name in ["flat.vmdk", "base.vmdk", "stream.vmdk"] {
        let Some(read) = by_libvmdk(folder.path(), &[name]) else { return };
        assert!(read == disk, "{name}: bytes differ");
    }
    // Without zeroed grains, which libvmdk does not know.
    let mut child = child();
    child.held.retain(|held| !held.zero);
    let over = guest(&child, &disk);
    write(folder.path(), "child", &child, VmdkKind::Sparse, &over);
    let read = by_libvmdk(folder.path(), &["child.vmdk", "base.vmdk"]).unwrap();
    assert!(read == over, "the child's bytes differ");
}
