//! VMDK.

use super::{M, by_python, good, index, run};
use std::{fs, path::Path};

use images::{
    Format, Identity,
    layout::{Held, ParentPlan, Plan},
    vmdk::{
        stream::{GRAIN_BYTES, Stream, pack_grain},
        write::{Adapter, VmdkKind, VmdkOptions, content_id, layout},
    },
};

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

/// What the guest sees of a plan over `below`: bytes that half compress.
fn guest(plan: &Plan, below: &[u8]) -> Vec<u8> {
    let bytes = super::guest(SIZE, &plan.held, plan.seed[0], below);
    bytes.into_iter().map(|byte| byte & 0x3f).collect()
}

/// Writes the files of an image that is called `stem` + `.vmdk`.
fn write(folder: &Path, stem: &str, plan: &Plan, kind: VmdkKind, guest: &[u8]) {
    let name = format!("{stem}.vmdk");
    for file in layout(plan, &VmdkOptions { kind, name, adapter: Adapter::LsiLogic }).unwrap() {
        let path = folder.join(format!("{stem}{}.vmdk", file.suffix));
        super::write(&path, &file, guest);
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

/// QEMU must find the guest's bytes in an image of that kind.
fn qemu_agrees(folder: &Path, name: &str, kind: &str, guest: &[u8]) {
    let info = super::qemu_agrees(folder, name, "vmdk", guest);
    let part = format!("\"create-type\": \"{kind}\"");
    assert!(info.contains(&part), "{name}: no {part} in {info}");
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

/// For [`by_python`].
const LIBVMDK: &str = "
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

#[test]
fn libvmdk_reads_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let base = plan(&HELD);
    let disk = guest(&base, &[]);
    write(folder.path(), "flat", &base, VmdkKind::Flat, &disk);
    write(folder.path(), "base", &base, VmdkKind::Sparse, &disk);
    write_stream(&folder.path().join("stream.vmdk"), &disk);
    for name in ["flat.vmdk", "base.vmdk", "stream.vmdk"] {
        let read = by_python(LIBVMDK, folder.path(), &[name]);
        assert!(read == disk, "{name}: bytes differ");
    }
    // Without zeroed grains, which libvmdk does not know.
    let mut child = child();
    child.held.retain(|held| !held.zero);
    let over = guest(&child, &disk);
    write(folder.path(), "child", &child, VmdkKind::Sparse, &over);
    let read = by_python(LIBVMDK, folder.path(), &["child.vmdk", "base.vmdk"]);
    assert!(read == over, "the child's bytes differ");
}
