//! VHD and VDI.

use super::{LIBVHDI, M, by_python, good, guest, index, qemu_agrees, run, write};

use images::{
    Format, Identity,
    layout::{Held, ParentPlan, Plan},
    vdi::write::{self as vdi, VdiKind, VdiOptions},
    vhd::write::{self as vhd, VhdKind, VhdOptions},
};

/// No product of a geometry, and no whole blocks.
const SIZE: u64 = 9 * M + 512 * 7;

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

#[test]
fn qemu_reads_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let (plan, guest) = (plan(), guest(SIZE, &plan().held, 0, &[]));
    let mebibyte = 1 << 20;
    for (name, kind, block_bytes) in [
        ("fixed.vhd", VhdKind::Fixed, 2 * mebibyte),
        ("dynamic.vhd", VhdKind::Dynamic, 2 * mebibyte),
        ("small-blocks.vhd", VhdKind::Dynamic, mebibyte / 2),
    ] {
        let files = vhd::layout(&plan, &VhdOptions { kind, block_bytes }).unwrap();
        write(&folder.path().join(name), &files[0], &guest);
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
        write(&folder.path().join(name), &files[0], &guest);
        qemu_agrees(folder.path(), name, "vdi", &guest);
    }
}

#[test]
fn libvhdi_reads_what_is_written_and_its_children() {
    let folder = tempfile::tempdir().unwrap();
    let base = plan();
    let bytes = guest(SIZE, &base.held, 0, &[]);
    for kind in [VhdKind::Fixed, VhdKind::Dynamic] {
        let files = vhd::layout(&base, &VhdOptions { kind, ..VhdOptions::default() }).unwrap();
        write(&folder.path().join("base.vhd"), &files[0], &bytes);
        let read = by_python(LIBVHDI, folder.path(), &["base.vhd"]);
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
    let (own, mut seen) = (guest(SIZE, &held, 0, &[]), bytes);
    for held in &held {
        let range = index(held.start)..index(held.start + held.len);
        seen[range.clone()].copy_from_slice(&own[range]);
    }
    let files = vhd::layout(&child, &VhdOptions::default()).unwrap();
    write(&folder.path().join("child.vhd"), &files[0], &seen);
    let read = by_python(LIBVHDI, folder.path(), &["child.vhd", "base.vhd"]);
    assert!(read == seen, "the child's bytes differ");
    assert_ne!(vhd::identity(&child), vhd::identity(&base));
    assert!(matches!(vhd::identity(&child), Identity::Vhd { id: [0xa5, ..], .. }));
}
