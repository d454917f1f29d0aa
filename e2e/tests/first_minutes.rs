//! Do the first things a new user does work as the README says?

use std::{env, fs, process::Command};

use e2e::{program, succeed, workspace};

#[test]
fn demo_plays_to_its_end() {
    let told = succeed(Command::new(program()).args(["demo", "--once"]));
    assert!(told.contains("rewind") && told.contains('@'), "the demo shows no instant:\n{told}");
}

#[test]
fn readme_commands_work_when_pasted() {
    let readme = fs::read_to_string(workspace().join("README.md")).expect("README.md");
    let block = readme
        .split("<!-- pasted by e2e/tests/first_minutes.rs -->")
        .nth(1)
        .and_then(|rest| rest.split("```sh\n").nth(1))
        .and_then(|rest| rest.split("```").next())
        .expect("README.md has the marked block of commands");
    e2e::need(&["qemu-io", "qemu-img"], "qemu-utils");
    let home = tempfile::TempDir::with_prefix("strandline-readme-").expect("temp dir");
    let mut shell = Command::new("bash");
    // `set -m` gives the server in the background its own group; it is ended as that.
    let script = format!("set -eum\ntrap 'kill %1 && wait %1' EXIT\n{block}");
    shell.args(["-c", &script]).current_dir(home.path()).env("HOME", home.path());
    shell
        .env_remove("STRANDLINE_STORE")
        .env_remove(e2e::KEY_FILE)
        .env("XDG_CONFIG_HOME", home.path().join("config"));
    let mut path = vec![program().parent().expect("in a directory").to_path_buf()];
    path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    shell.env("PATH", env::join_paths(path).expect("path"));
    let told = succeed(&mut shell);
    assert!(told.contains("read 4096/4096 bytes"), "{told}");
}
