//! Images that QEMU made are read; images that we made satisfy QEMU.

use std::{path::Path, process::Command};

use images::{
    Algorithm, Format, Identity,
    layout::ParentPlan,
    qcow2::write::Qcow2Options,
    testing::{Folder, read_all},
};

use super::{check, image, opened, packed_image, plan};

/// Fails, naming the package, where the tool is missing: no test is left out in silence.
fn need_qemu() {
    let found = Command::new("qemu-img").arg("--version").output();
    assert!(found.is_ok(), "qemu-img is missing: apt-get install -y qemu-utils");
}

fn qemu_img(folder: &Path, arguments: &[&str]) {
    let output = Command::new("qemu-img").args(arguments).current_dir(folder).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "qemu-img {arguments:?}: {text}");
}

/// Text, zeroes and noise, with an odd end.
fn disk() -> Vec<u8> {
    let mut state = 1_u64;
    let mut disk: Vec<u8> = (0..3 << 20)
        .map(|at: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            match at >> 18 & 3 {
                0 => b"strandline "[usize::try_from(at % 11).unwrap()],
                1 => 0,
                _ => state.to_be_bytes()[0],
            }
        })
        .collect();
    disk.extend_from_slice(&[9; 1536]);
    disk
}

#[expect(clippy::disallowed_methods, reason = "a test has its folder to itself")]
fn load(folder: &Path, names: &[&str]) -> Folder {
    names.iter().fold(Folder::new(), |files, name| {
        files.with(name, std::fs::read(folder.join(name)).unwrap())
    })
}

#[expect(clippy::disallowed_methods, reason = "a test has its folder to itself")]
fn save(folder: &Path, name: &str, bytes: &[u8]) {
    std::fs::write(folder.join(name), bytes).unwrap();
}

#[test]
fn images_made_by_qemu_are_read() {
    need_qemu();
    let temp = tempfile::tempdir().unwrap();
    let disk = disk();
    save(temp.path(), "disk.raw", &disk);
    for (options, packed) in [
        ("compat=0.10", false),
        ("compat=0.10,cluster_size=512", true),
        ("cluster_size=2M", false),
        ("extended_l2=on", false),
        ("refcount_bits=1", false),
        ("refcount_bits=64,cluster_size=4k", true),
        ("compression_type=zstd", true),
        ("compression_type=zlib,cluster_size=2M", true),
        ("data_file=x.data,data_file_raw=on", false),
    ] {
        let mut arguments = vec!["convert", "-O", "qcow2", "-o", options];
        arguments.extend(packed.then_some("-c"));
        arguments.extend(["-f", "raw", "disk.raw", "x.qcow2"]);
        qemu_img(temp.path(), &arguments);
        let names = if options.starts_with("data_file") {
            &["x.qcow2", "x.data"][..]
        } else {
            &["x.qcow2"]
        };
        let folder = load(temp.path(), names);
        let mut chain = opened(&folder, "x.qcow2").unwrap();
        assert!(read_all(&folder, &mut chain).unwrap() == disk, "{options}");
        assert_eq!(check(&folder, &mut chain).unwrap().findings, [], "{options}");
    }
}

#[test]
fn chain_made_by_qemu_is_read() {
    need_qemu();
    let temp = tempfile::tempdir().unwrap();
    let disk = disk();
    save(temp.path(), "base.raw", &disk);
    let size = (disk.len() + 65536).to_string();
    qemu_img(temp.path(), &["create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "mid.qcow2"]);
    qemu_img(
        temp.path(),
        &["create", "-f", "qcow2", "-b", "mid.qcow2", "-F", "qcow2", "top.qcow2", &size],
    );
    let folder = load(temp.path(), &["base.raw", "mid.qcow2", "top.qcow2"]);
    let mut chain = opened(&folder, "top.qcow2").unwrap();
    assert_eq!(chain.layers().len(), 3);
    let mut wanted = disk;
    wanted.resize(wanted.len() + 65536, 0);
    assert!(read_all(&folder, &mut chain).unwrap() == wanted);
}

#[test]
fn images_made_here_satisfy_qemu() {
    need_qemu();
    let temp = tempfile::tempdir().unwrap();
    let disk = disk();
    let size = disk.len() as u64;
    save(temp.path(), "disk.raw", &disk);
    save(temp.path(), "base.raw", &disk);
    for cluster_bits in [9, 12, 16, 21] {
        let options = Qcow2Options {
            cluster_bits,
            extensions: vec![(0x5354_4c44, vec![1; 24])],
            autoclear: 1 << 62,
        };
        let held: Vec<(u64, u64, bool)> = (0..size / 262_144)
            .filter(|run| run & 3 != 1)
            .map(|run| (run * 262_144, 262_144, false))
            .chain([(size - 1536, 1536, false)])
            .collect();
        let mut plan = plan(size, &held);
        save(temp.path(), "x.qcow2", &image(&plan, &options, &disk, 1 << 20));
        qemu_img(temp.path(), &["check", "-f", "qcow2", "x.qcow2"]);
        qemu_img(temp.path(), &["compare", "-f", "qcow2", "-F", "raw", "x.qcow2", "disk.raw"]);

        for algorithm in [Algorithm::Deflate12, Algorithm::Zstd] {
            save(temp.path(), "z.qcow2", &packed_image(&plan, &options, algorithm, &disk));
            qemu_img(temp.path(), &["check", "-f", "qcow2", "z.qcow2"]);
            qemu_img(temp.path(), &["compare", "-f", "qcow2", "-F", "raw", "z.qcow2", "disk.raw"]);
        }

        plan.held.truncate(2);
        plan.parent = Some(ParentPlan {
            name: "base.raw".to_owned(),
            format: Format::Raw,
            identity: Identity::None,
            virtual_size: size,
        });
        save(temp.path(), "y.qcow2", &image(&plan, &options, &disk, 1 << 20));
        qemu_img(temp.path(), &["check", "-f", "qcow2", "y.qcow2"]);
        qemu_img(temp.path(), &["compare", "-f", "qcow2", "-F", "raw", "y.qcow2", "disk.raw"]);
    }
}
