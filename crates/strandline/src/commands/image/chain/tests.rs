//! What the verbs print and how they end, on a chain of two small images.

use crate::testing::{Ran, Script, run};
use images::{
    Format, Identity,
    layout::{Held, ParentPlan, Plan},
    qcow2::write::{Qcow2Options, layout},
};
use serde_json::Value;
use std::{fs, path::Path};

const SIZE: usize = 1 << 20;

struct Place(tempfile::TempDir);

impl Place {
    /// `base.raw`, and `top.qcow2` over it that holds its second 64 KiB.
    fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("a directory"));
        put(&place.0.path().join("base.raw"), &vec![7; SIZE]);
        let plan = Plan {
            virtual_size: SIZE as u64,
            held: vec![Held { start: 65_536, len: 65_536, zero: false }],
            parent: Some(ParentPlan {
                name: "base.raw".to_owned(),
                format: Format::Raw,
                identity: Identity::None,
                virtual_size: SIZE as u64,
            }),
            seed: [1; 32],
            made_s: 1,
        };
        let files = layout(&plan, &Qcow2Options::default()).expect("writable");
        let bytes = images::testing::render(&*files[0].layout, &vec![9; SIZE], u64::MAX);
        put(&place.0.path().join("top.qcow2"), &bytes);
        place
    }

    fn name(&self, name: &str) -> String {
        self.0.path().join(name).to_string_lossy().into_owned()
    }

    fn change(&self, at: usize) {
        let path = self.0.path().join("base.raw");
        let mut bytes = get(&path);
        bytes[at] ^= 1;
        put(&path, &bytes);
    }

    fn chain(&self, verb: &str, image: &str, more: &[&str]) -> Ran {
        let (image, book) = (self.name(image), self.name("book"));
        let line = ["image", "chain", verb, &image, "--book", &book];
        run(&[&line, more].concat(), &Script::default(), false)
    }

    /// What was printed, with the folder left out.
    fn short(&self, ran: &Ran) -> String {
        ran.stdout.replace(&format!("{}/", self.0.path().display()), "")
    }
}

#[expect(clippy::disallowed_methods, reason = "the test's own files")]
fn put(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("written");
}

#[expect(clippy::disallowed_methods, reason = "the test's own files")]
fn rename(from: &str, to: &str) {
    fs::rename(from, to).expect("moved");
}

#[expect(clippy::disallowed_methods, reason = "the test's own files")]
fn get(path: &Path) -> Vec<u8> {
    fs::read(path).expect("read")
}

#[test]
fn a_chain_is_sealed_and_then_checked() {
    let place = Place::new();
    let ran = place.chain("check", "top.qcow2", &[]);
    assert_eq!(ran.exit, 1);
    assert_eq!(
        place.short(&ran),
        "unknown\ttop.qcow2\t<- base.raw\tunknown\tnot sealed, and the format keeps no identifiers\n"
    );
    assert!(ran.stderr.contains("image chain guard"), "{}", ran.stderr);
    let ran = place.chain("guard", "top.qcow2", &["--quiet"]);
    assert_eq!(ran.exit, 0, "{}", ran.stderr);
    let sealed = place.short(&ran);
    assert!(sealed.starts_with("sealed\ttop.qcow2\t<- base.raw\tall\t1048576\n"), "{sealed}");
    let ran = place.chain("check", "top.qcow2", &[]);
    assert_eq!(
        (ran.exit, place.short(&ran).as_str()),
        (0, "ok\ttop.qcow2\t<- base.raw\tquiet\t\n")
    );
    let ran = place.chain("check", "top.qcow2", &["--level", "bytes"]);
    assert_eq!((ran.exit, place.short(&ran).as_str()), (0, "ok\ttop.qcow2\t<- base.raw\tsame\t\n"));
}

#[test]
fn a_change_that_the_child_sees_is_a_fault() {
    let place = Place::new();
    assert_eq!(place.chain("guard", "top.qcow2", &[]).exit, 0);
    place.change(70_000);
    let ran = place.chain("check", "top.qcow2", &[]);
    assert_eq!(ran.exit, 0, "the child hides it: {}", ran.stderr);
    assert!(place.short(&ran).starts_with("ok\ttop.qcow2\t<- base.raw\tshadowed\t"));
    place.change(200_000);
    let ran = place.chain("check", "top.qcow2", &[]);
    assert_eq!(ran.exit, 1);
    let told = place.short(&ran);
    let wanted = "FAULT\ttop.qcow2\t<- base.raw\tvisible\tthe parent changed where the child reads it: \
                  65536 bytes in 1 range, the first at byte 196608; changed too: ";
    assert!(told.starts_with(wanted), "{told}");
    assert!(
        ran.stderr.starts_with("error[E1001]: 1 parent is not what its image was made over\n"),
        "{}",
        ran.stderr
    );
    let ran = place.chain("check", "top.qcow2", &["--json"]);
    let document: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!((ran.exit, &document["schema"]), (1, &"image.chain.check/1".into()));
    let link = &document["links"][0];
    assert_eq!((&link["status"], &link["verdict"]), (&"fault".into(), &"visible".into()));
    assert_eq!(link["ranges"][1]["offset"], 196_608);
    assert_eq!(link["seal"]["level"], "all");
    let refused = place.chain("guard", "top.qcow2", &[]);
    assert_eq!(refused.exit, 6, "{}", refused.stderr);
    let ran = place.chain("guard", "top.qcow2", &["--accept", "I put it there", "--json"]);
    assert_eq!(ran.exit, 0, "{}", ran.stderr);
    let document: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(document["links"][0]["reason"], "I put it there");
    assert_eq!(place.chain("check", "top.qcow2", &[]).exit, 0);
}

#[test]
fn explain_tells_each_level() {
    let place = Place::new();
    assert_eq!(place.chain("guard", "top.qcow2", &[]).exit, 0);
    place.change(200_000);
    let ran = place.chain("explain", "top.qcow2", &[]);
    assert_eq!(ran.exit, 0, "{}", ran.stderr);
    let told = place.short(&ran);
    for part in [
        "result\tFAULT (visible)\n",
        "L0\tsize, times, inode of files\tchanged: ",
        "L1\tidentifiers and size in headers\tas it was\t",
        "L3\tbytes that the child needs\tnot sealed\t",
        "L4\tall bytes of the parent\tchanges within 65536 bytes: visible\t",
        "196608\t65536\tvisible\tin here the child reads other bytes\n",
    ] {
        assert!(told.contains(part), "{part}\n{told}");
    }
    let ran = place.chain("explain", "top.qcow2", &["--json"]);
    let document: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(document["links"][0]["levels"][4]["level"], 4);
}

#[test]
fn what_is_missing_is_said_with_its_exit() {
    let place = Place::new();
    rename(&place.name("base.raw"), &place.name("moved.raw"));
    let ran = place.chain("check", "top.qcow2", &[]);
    assert_eq!(ran.exit, 3, "{}", ran.stderr);
    assert!(place.short(&ran).starts_with("FAULT\ttop.qcow2\t<- base.raw\tparent-missing\t"));
    assert_eq!(place.chain("check", "absent.qcow2", &[]).exit, 3);
    assert_eq!(place.chain("guard", "top.qcow2", &[]).exit, 3);
    let ran = place.chain("guard", "moved.raw", &[]);
    assert_eq!(ran.exit, 2, "{}", ran.stderr);
    let ran = place.chain("check", "moved.raw", &[]);
    assert_eq!((ran.exit, place.short(&ran).as_str()), (0, "moved.raw stands on no other image\n"));
}

#[test]
fn links_that_images_share_are_told_once() {
    let place = Place::new();
    let (top, book) = (place.name("top.qcow2"), place.name("book"));
    let base = place.name("base.raw");
    let line = ["image", "chain", "check", &top, &base, &top, "--book", &book, "--json"];
    let ran = run(&line, &Script::default(), false);
    let document: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(document["links"].as_array().map(Vec::len), Some(1), "{}", ran.stdout);
    assert_eq!(document["alone"][0], base.as_str());
}

#[test]
fn a_dry_run_seals_nothing() {
    let place = Place::new();
    let ran = place.chain("guard", "top.qcow2", &["--dry-run"]);
    assert_eq!((ran.exit, ran.stderr.as_str()), (0, ""));
    assert!(!Path::new(&place.name("book")).exists());
}
