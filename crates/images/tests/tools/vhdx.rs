//! VHDX.

use super::{LIBVHDI, M, by_python, good, index, qemu_agrees, run};
use std::{fs, path::Path};

use images::{
    Class, Format, OpenOptions,
    layout::{Held, ParentPlan, Plan},
    testing::{Folder, open, read_all},
    vhdx::write::{Allocation, VhdxOptions, identity, layout},
};

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

fn guest(plan: &Plan, below: &[u8]) -> Vec<u8> {
    super::guest(SIZE, &plan.held, plan.seed[0], below)
}

fn write(path: &Path, plan: &Plan, options: &VhdxOptions, guest: &[u8]) {
    super::write(path, &layout(plan, options).unwrap()[0], guest);
}

#[test]
fn qemu_reads_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let (plan, guest) = (plan(), guest(&plan(), &[]));
    for allocation in [Allocation::Dynamic, Allocation::Fixed] {
        for block_bytes in [None, Some(2 << 20), Some(32 << 20)] {
            let options = VhdxOptions { allocation, block_bytes, ..VhdxOptions::default() };
            write(&folder.path().join("image.vhdx"), &plan, &options, &guest);
            qemu_agrees(folder.path(), "image.vhdx", "vhdx", &guest);
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

#[test]
fn libvhdi_reads_what_is_written_and_its_child() {
    let folder = tempfile::tempdir().unwrap();
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
    write(&folder.path().join("base.vhdx"), &base, &options, &below);
    write(&folder.path().join("child.vhdx"), &child, &options, &above);
    for (names, wanted) in [(&["base.vhdx"][..], &below), (&["child.vhdx", "base.vhdx"], &above)] {
        let read = by_python(LIBVHDI, folder.path(), names);
        assert!(read == *wanted, "{names:?}: libvhdi reads other bytes");
    }
}
