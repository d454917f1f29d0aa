//! Do exports of random instants hold what was written, by programs that share no code with us?

use e2e::{finish, need, program, said, workspace};
use std::process::Command;

#[test]
fn other_programs_read_back_what_was_exported() {
    need(&["qemu-img"], "qemu-utils");
    need(&["curl"], "curl");
    need(&["7zz"], "7zip");
    // The distribution's own interpreter has the distribution's modules.
    let python = Command::new("/usr/bin/python3")
        .args(["-c", "import nbd, pyvhdi, pyvmdk"])
        .output()
        .expect("python3 is missing: apt-get install -y python3");
    let help = "apt-get install -y python3-libnbd python3-libvhdi python3-libvmdk";
    assert!(python.status.success(), "{help}\n{}", said(&python));
    let mut check = Command::new("/usr/bin/python3");
    check.arg(workspace().join("e2e/python/exports.py")).arg("--program").arg(program());
    let checked = finish(&mut check);
    println!("{}", said(&checked));
    assert!(checked.status.success(), "the seed is in the first line\n{}", said(&checked));
}
