//! The commands on small images: what they print, and how they end.

use crate::testing::{Ran, Script, run};
use api::{
    Answer, Failure, codes,
    verbs::export::{Described, ExportFile, ImageFormat},
};
use std::{fs, path::Path};

fn image(line: &[&str]) -> Ran {
    run(&[&["image"], line].concat(), &Script::default(), false)
}

/// A folder with a raw disk of 1 MiB that holds a few bytes.
fn folder() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = dir.path().join("disk.raw");
    let mut bytes = vec![0; 1 << 20];
    bytes[4096..4106].copy_from_slice(b"strandline");
    put(&disk, &bytes);
    (dir, disk.to_string_lossy().into_owned())
}

#[expect(clippy::disallowed_methods, reason = "the test's own files")]
fn put(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("written");
}

#[expect(clippy::disallowed_methods, reason = "the test's own files")]
fn get(path: &str) -> Vec<u8> {
    fs::read(path).expect("read")
}

#[test]
fn info_says_what_the_file_is() {
    let (_dir, disk) = folder();
    let ran = image(&["info", &disk]);
    assert_eq!(ran.exit, 0, "{}", ran.stderr);
    assert!(ran.stdout.starts_with(&format!("file\t{disk}\nformat\traw\nsize\t1048576\n")));
    let ran = image(&["info", &disk, "--json"]);
    let document: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(document["schema"], "image.info/1");
    assert_eq!((&document["size"], &document["format"]), (&(1 << 20).into(), &"raw".into()));
    assert_eq!(document["chain"][0]["file"], disk.as_str());
}

#[test]
fn digest_is_that_of_the_guests_bytes() {
    let (_dir, disk) = folder();
    let ran = image(&["digest", &disk, "-a", "md5", "-a", "sha256-pages"]);
    assert_eq!(ran.exit, 0, "{}", ran.stderr);
    let md5 = "431b16a62de296b790652e2fa80cf03e";
    let pages = "8e0776654ca6852c83dc40650f28cb0bd3805a69f66e35be3c851ee099577224";
    assert_eq!(ran.stdout, format!("md5\t{md5}\t{disk}\nsha256-pages\t{pages}\t{disk}\n"));
}

#[test]
fn a_disk_comes_back_through_every_format() {
    let (dir, disk) = folder();
    let bytes = get(&disk);
    for (name, kind) in [
        ("a.qcow2", None),
        ("b.qcow2", Some("zlib")),
        ("c.qcow2", Some("zstd")),
        ("a.vhd", None),
        ("b.vhd", Some("fixed")),
        ("a.vhdx", None),
        ("b.vhdx", Some("fixed")),
        ("a.vdi", None),
        ("b.vdi", Some("static")),
        ("a.vmdk", None),
        ("b.vmdk", Some("flat")),
        ("c.vmdk", Some("streamOptimized")),
    ] {
        let there = dir.path().join(name).to_string_lossy().into_owned();
        let mut line = vec!["convert", &disk, &there];
        line.extend(kind.iter().flat_map(|kind| ["--subformat", kind]));
        let ran = image(&line);
        assert_eq!(ran.exit, 0, "{name}: {}", ran.stderr);
        let ran = image(&["check", &there]);
        assert_eq!(ran.exit, 0, "{name}: {}{}", ran.stdout, ran.stderr);
        let back = format!("{there}.raw");
        let ran = image(&["convert", &there, &back]);
        assert_eq!(ran.exit, 0, "{name}: {}", ran.stderr);
        assert!(get(&back) == bytes, "{name}: other bytes");
        let again = image(&["convert", &disk, &there, "--force", "--json"]);
        assert_eq!(again.exit, 0, "{name}: {}", again.stderr);
    }
}

#[test]
fn nothing_is_written_over_unasked() {
    let (dir, disk) = folder();
    let out = dir.path().join("out.raw").to_string_lossy().into_owned();
    put(Path::new(&out), b"mine");
    let ran = image(&["convert", &disk, &out]);
    assert_eq!(
        (ran.exit, ran.stderr.as_str()),
        (
            4,
            format!(
                "error[E4009]: {out} exists\n  do            name another file; or --force, which \
                 writes over it"
            )
            .as_str()
        )
    );
    assert_eq!(get(&out), b"mine");
    assert_eq!(image(&["convert", &disk, &out, "--force"]).exit, 0);
    assert_eq!(get(&out), get(&disk));
    let ran = image(&["convert", &disk, &disk, "--force"]);
    assert!(ran.exit == 2 && ran.stderr.contains("is part of what is read"), "{}", ran.stderr);
    let files = fs::read_dir(dir.path()).expect("listed").count();
    assert_eq!(files, 2, "something was left behind");
}

#[test]
fn each_refusal_has_its_exit() {
    let (dir, disk) = folder();
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let refused = |line: &[&str], exit, part: &str| {
        let ran = image(line);
        assert!(ran.exit == exit && ran.stderr.contains(part), "{line:?}: {ran:?}");
    };
    refused(&["info", &path("absent")], 3, "is not there");
    refused(&["info", &disk, "--format", "qcow2"], 2, "--format");
    refused(&["info", &path("")], 2, "it is a directory");
    refused(&["info", "/dev/null"], 2, "it is no regular file");
    refused(&["convert", "-", &path("x.raw")], 2, "not read from a pipe");
    refused(&["convert", &disk, &path("x")], 2, "--to raw");
    refused(&["convert", &disk, &path("x.vdi"), "--subformat", "flat"], 2, "dynamic, static");
    refused(&["salvage", &disk, "-", "--map", &path("bad")], 2, "not written to stdout");
    refused(&["map", &disk, "--layer", "1"], 3, "the chain has 1 image");
    let mut lies = get(&disk);
    lies[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    put(Path::new(&path("guest.raw")), &lies);
    refused(&["digest", &path("guest.raw")], 2, "--format raw");
}

#[test]
fn map_prints_extents_and_their_place() {
    let (dir, disk) = folder();
    let there = dir.path().join("a.qcow2").to_string_lossy().into_owned();
    assert_eq!(image(&["convert", &disk, &there]).exit, 0);
    let ran = image(&["map", &there, "--json"]);
    let lines: Vec<serde_json::Value> =
        ran.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 2, "{}", ran.stdout);
    assert_eq!((&lines[0]["kind"], &lines[0]["length"]), (&"data".into(), &65_536.into()));
    assert_eq!((&lines[1]["kind"], &lines[1]["offset"]), (&"hole".into(), &65_536.into()));
    let ran = image(&["map", &there, "--offset", "64K", "--length", "4K"]);
    assert_eq!(ran.stdout, "65536\t4096\thole\t0\t-\t-\n");
}

#[test]
fn a_dry_run_writes_nothing() {
    let (dir, disk) = folder();
    let out = dir.path().join("x.vhdx").to_string_lossy().into_owned();
    let ran = image(&["convert", &disk, &out, "--dry-run"]);
    assert_eq!(ran.stdout, format!("would write {disk} (raw, 1.0 MiB) to {out} (vhdx)\n"));
    assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
}

#[test]
fn a_salvage_saves_what_is_good_and_lists_the_rest() {
    let (dir, disk) = folder();
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let (there, out, bad) = (path("a.qcow2"), path("out.raw"), path("bad.map"));
    let mut bytes = get(&disk);
    bytes[512 << 10] = 1;
    put(Path::new(&disk), &bytes);
    assert_eq!(image(&["convert", &disk, &there]).exit, 0);
    // The second cluster of data is the last of the file: it is cut off.
    let whole = get(&there);
    put(Path::new(&there), &whole[..whole.len() - 65_536]);
    let ran = image(&["convert", &there, &path("no.raw")]);
    assert!(ran.exit == 7 && ran.stderr.contains("image salvage"), "{ran:?}");
    assert!(!Path::new(&path("no.raw")).exists());
    let ran = image(&["salvage", &there, &out, "--map", &bad]);
    assert_eq!(ran.exit, 7, "{ran:?}");
    bytes[512 << 10] = 0;
    assert!(get(&out) == bytes, "other bytes than the good ones");
    let list = String::from_utf8(get(&bad)).expect("text");
    assert!(list.ends_with("0x00080000  0x00010000  -\n0x00090000  0x00070000  +\n"), "{list}");
    assert_eq!(image(&["check", &there]).exit, 7);
    let ran = image(&["check", &there, "--data", "--json"]);
    let document: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!((ran.exit, &document["unreadable"][0]["offset"]), (7, &(512 << 10).into()));
}

/// The answer of a store that has an instant as files of zeroes, of these suffixes.
fn described(files: &[(&str, Option<u64>)]) -> Answer {
    let file = |(suffix, length): &(&str, Option<u64>)| ExportFile {
        name: format!("out{suffix}.vmdk"),
        suffix: (*suffix).to_owned(),
        length: *length,
        etag: format!("e7a9{suffix}"),
    };
    Answer::ExportDescribe(Described {
        reference: "db@seq:93880".parse().expect("a reference"),
        seq: 93880,
        time: "2026-11-20T10:03:40Z".parse().expect("a time"),
        resolution: None,
        size: 40 << 30,
        format: ImageFormat::Vmdk,
        subformat: "sparse".to_owned(),
        base: None,
        data: Some(0),
        files: files.iter().map(file).collect(),
    })
}

#[test]
fn an_export_appears_whole_with_its_digest() {
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("out.vmdk").to_string_lossy().into_owned();
    let script = Script::of([Ok(described(&[("", Some(8192)), ("-flat", Some(1 << 20))]))]);
    let ran = run(&["image", "export", "db@10:00", &out], &script, false);
    assert_eq!(ran.exit, 0, "{}", ran.stderr);
    let asked = &script.asked()[0];
    assert!(asked.contains(r#""reference":"db@2026-11-20T10:00:00Z""#), "{asked}");
    assert!(asked.contains(r#""name":"out.vmdk""#) && asked.contains(r#""format":"vmdk""#));
    let flat = out.replace(".vmdk", "-flat.vmdk");
    assert_eq!((get(&out).len(), get(&flat).len()), (8192, 1 << 20));
    let zeroes = "9f1dcbc35c350d6027f98be0f5c8b43b42ca52b7604459c0c42be3aa88913d47";
    let begins = format!("exported db@seq:93880 (10:03:40.000), 40.0 GiB to {out} (vmdk)\n");
    assert!(ran.stdout.starts_with(&begins), "{}", ran.stdout);
    assert!(ran.stdout.contains(&format!("sha256 {zeroes}  {out}\n")), "{}", ran.stdout);

    let again = Script::of([Ok(described(&[("", Some(8192)), ("-flat", Some(1 << 20))]))]);
    let ran = run(&["image", "export", "db", &out], &again, false);
    assert_eq!(ran.exit, 4, "it exists: {}", ran.stderr);
    let forced = Script::of([Ok(described(&[("", Some(4096))]))]);
    let ran = run(&["image", "export", "db", &out, "--force", "--json"], &forced, false);
    let told: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!((&told["schema"], &told["seq"]), (&"image.export/1".into(), &93880.into()));
    assert_eq!((&told["length"], &told["written"]), (&4096.into(), &0.into()));
    assert_eq!(told["manifest"].as_str().map(str::len), Some(64));
    assert_eq!(get(&out).len(), 4096);
    let names = std::fs::read_dir(dir.path()).expect("a folder").count();
    assert_eq!(names, 2, "nothing else is left");
}

#[test]
fn an_export_is_planned_and_refused_without_a_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let script = Script::of([Ok(described(&[("", Some(8192)), ("-flat", Some(1 << 20))]))]);
    let ran = run(&["image", "export", "db", &path("out.vmdk"), "-n"], &script, false);
    assert_eq!(ran.exit, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("would write db@seq:93880"), "{}", ran.stdout);
    assert!(ran.stdout.contains("1056768 bytes"), "{}", ran.stdout);
    let ran = run(&["image", "export", "db", &path("out")], &Script::default(), false);
    assert_eq!(ran.exit, 2, "no suffix says the format: {}", ran.stderr);
    let line = ["image", "export", "db", &path("a.qcow2"), "--base", "db"];
    let ran = run(&line, &Script::default(), false);
    assert_eq!(ran.exit, 2, "a base is an instant: {}", ran.stderr);
    let flat = Script::of([Ok(described(&[("", Some(8192)), ("-flat", Some(1 << 20))]))]);
    let ran = run(&["image", "export", "db", "-", "--to", "vmdk"], &flat, false);
    assert_eq!(ran.exit, 2, "two files are no stream: {}", ran.stderr);
    let failed = Script::of([Err(Failure::new(codes::NO_INSTANT, "there is no such instant"))]);
    let ran = run(&["image", "export", "db@seq:1", &path("a.qcow2")], &failed, false);
    assert_eq!(ran.exit, 3, "{}", ran.stderr);
    assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 0, "nothing is left");
}
