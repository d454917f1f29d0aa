//! VHDX files of our making, read by other people's programs: qemu-img, and libvhdi's Python module
//! for children, which QEMU does not read. Without qemu-img the tests fail and name its package;
//! without the Python module one is left out and says so.

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
    Class, Format, OpenOptions,
    layout::{Content, Held, ParentPlan, Plan},
    testing::{Folder, open, read_all},
    vhdx::write::{Allocation, VhdxOptions, identity, layout},
};

const M: u64 = 1 << 20;

/// No whole blocks, and whole sectors of 4096 bytes.
const SIZE: u64 = 9 * M + 4096 * 3;

/// At the head, over the edges of blocks, a whole block of each kind, and the very end.
fn plan() -> Plan {
    let data = |start, len| Held { start, len, zero: false };
    let zero = |start, len| Held { start, len, zero: true };
    let held = vec![
        data(0, 4096),
        data(M - 4096, 8192),
        zero(3 * M, M),
        data(5 * M - 4096, M + 8192),
        zero(7 * M, 4096),
        data(SIZE - 4096, 4096),
    ];
    Plan { virtual_size: SIZE, held, parent: None, seed: [0x5a; 32], made_s: 1_700_000_000 }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

/// What the guest sees of a plan over `below`.
fn guest(plan: &Plan, below: &[u8]) -> Vec<u8> {
    let mut bytes = below.to_vec();
    bytes.resize(index(SIZE), 0);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ u64::from(plan.seed[0]);
    for held in &plan.held {
        for byte in &mut bytes[index(held.start)..index(held.start + held.len)] {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = if held.zero { 0 } else { state.to_le_bytes()[3] };
        }
    }
    bytes
}

fn write(path: &Path, plan: &Plan, options: &VhdxOptions, guest: &[u8]) {
    let files = layout(plan, options).unwrap();
    let layout = &files[0].layout;
    let mut bytes = Vec::new();
    while u64::try_from(bytes.len()).unwrap() < layout.len() {
        let at = u64::try_from(bytes.len()).unwrap();
        for piece in layout.pieces(at..layout.len()) {
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

#[test]
fn qemu_reads_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (plan, guest) = (plan(), guest(&plan(), &[]));
    let (raw, out) = (path("guest.raw"), path("out.raw"));
    fs::write(&raw, &guest).unwrap();
    for allocation in [Allocation::Dynamic, Allocation::Fixed] {
        for block_bytes in [None, Some(2 << 20), Some(32 << 20)] {
            let options = VhdxOptions { allocation, block_bytes, ..VhdxOptions::default() };
            let image = path("image.vhdx");
            write(Path::new(&image), &plan, &options, &guest);
            let compare = ["compare", "-f", "vhdx", "-F", "raw", &image, &raw];
            let compared = good(&run("qemu-img", &compare));
            assert!(compared.contains("Images are identical"), "{options:?}: {compared}");
            good(&run("qemu-img", &["convert", "-f", "vhdx", "-O", "raw", &image, &out]));
            assert!(fs::read(&out).unwrap() == guest, "{options:?}: converted bytes differ");
            let info = good(&run("qemu-img", &["info", "--output=json", "-f", "vhdx", &image]));
            assert!(info.contains(&format!("\"virtual-size\": {SIZE}")), "{info}");
            let checked = good(&run("qemu-img", &["check", "-f", "vhdx", &image]));
            assert!(checked.contains("No errors were found"), "{options:?}: {checked}");
        }
    }
}

#[test]
fn qemu_writes_to_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image.vhdx").to_str().unwrap().to_owned();
    let (plan, guest) = (plan(), guest(&plan(), &[]));
    write(Path::new(&image), &plan, &VhdxOptions::default(), &guest);
    let write_and_read = [
        "-f",
        "vhdx",
        "-c",
        "write -P 7 2M 64k",
        "-c",
        "write -P 8 3M 4k",
        "-c",
        "read -P 7 2M 64k",
        "-c",
        "read -P 8 3M 4k",
        "-c",
        "read -P 0 3076k 4k",
        &image,
    ];
    let written = good(&run("qemu-io", &write_and_read));
    assert!(!written.contains("failed"), "{written}");
    let checked = good(&run("qemu-img", &["check", "-f", "vhdx", &image]));
    assert!(checked.contains("No errors were found"), "{checked}");
}

#[test]
fn log_that_qemu_wrote_is_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image.vhdx").to_str().unwrap().to_owned();
    good(&run("qemu-img", &["create", "-f", "vhdx", "-o", "block_size=1M", &image, "8M"]));
    let written = ["-f", "vhdx", "-c", "write -P 7 1M 64k", "-c", "write -P 8 5M 64k", &image];
    good(&run("qemu-io", &written));
    // QEMU gives each entry a GUID of its own, and takes it out of the headers as soon as the entry's
    // pages are in their place. Back to before: the last entry's GUID is there, its page is not.
    let mut bytes = fs::read(&image).unwrap();
    let find = |from: usize, to: usize, what: &[u8]| {
        from + bytes[from..to].windows(what.len()).position(|bytes| bytes == what).unwrap()
    };
    let region = find(192 << 10, 256 << 10, b"\x66\x77\xc2\x2d\x23\xf6\x00\x42");
    let bat = u64::from_le_bytes(bytes[region + 16..region + 24].try_into().unwrap());
    let mut sectors = (1 << 20..2 << 20).step_by(4096).rev();
    let entry = sectors.find(|at: &usize| bytes[*at..].starts_with(b"loge")).unwrap();
    let guid = bytes[entry + 32..entry + 48].to_vec();
    assert!(bytes[index(bat)..index(bat) + 4096].iter().any(|byte| *byte != 0));
    bytes[index(bat)..index(bat) + 4096].fill(0);
    for header in [64 << 10, 128 << 10] {
        let header = &mut bytes[header..header + 4096];
        header[48..64].copy_from_slice(&guid);
        header[4..8].fill(0);
        let sum = crc32c::crc32c(header);
        header[4..8].copy_from_slice(&sum.to_le_bytes());
    }

    let folder = Folder::new().with("image.vhdx", bytes);
    let mut chain = open(&folder, "image.vhdx", OpenOptions::default()).unwrap();
    let notes = chain.layers()[0].notes();
    assert!(notes.iter().any(|note| note.class == Class::Unclean), "{notes:?}");
    let mut guest = vec![0; 8 << 20];
    guest[1 << 20..][..64 << 10].fill(7);
    guest[5 << 20..][..64 << 10].fill(8);
    assert!(read_all(&folder, &mut chain).unwrap() == guest, "other bytes");
}

/// Prints the guest's bytes of an image, whose parents follow it.
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

#[test]
fn libvhdi_reads_what_is_written_and_its_child() {
    // The distribution's Python, which has the distribution's modules.
    let python = "/usr/bin/python3";
    if !run(python, &["-c", "import pyvhdi"]).status.success() {
        eprintln!("left out: {python} has no module pyvhdi: apt-get install -y python3-libvhdi");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let base = plan();
    let child = Plan {
        held: vec![
            Held { start: 512, len: 1024, zero: false },
            Held { start: M, len: M, zero: false },
            Held { start: 5 * M - 512, len: 1024, zero: true },
            Held { start: SIZE - 1024, len: 512, zero: false },
        ],
        parent: Some(ParentPlan {
            name: "base.vhdx".to_owned(),
            format: Format::Vhdx,
            identity: identity(&base.seed),
            virtual_size: SIZE,
        }),
        seed: [0x77; 32],
        ..base.clone()
    };
    let below = guest(&base, &[]);
    let above = guest(&child, &below);
    let options = VhdxOptions::default();
    let (base_path, child_path) = (path("base.vhdx"), path("child.vhdx"));
    write(Path::new(&base_path), &base, &options, &below);
    write(Path::new(&child_path), &child, &options, &above);
    for (paths, wanted) in [
        (vec!["-c", BY_LIBVHDI, &base_path], &below),
        (vec!["-c", BY_LIBVHDI, &child_path, &base_path], &above),
    ] {
        let output = run(python, &paths);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout == *wanted, "{paths:?}: libvhdi reads other bytes");
    }
}
