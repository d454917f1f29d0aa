//! Other programs: run them, find them, install them.
//!
//! A program that is missing is installed when we are root on a system with apt; else its line is
//! printed and the caller fails. Nothing goes on without it.

use std::{
    env,
    ffi::OsStr,
    fmt,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

/// What went wrong, as one sentence for a developer.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

/// A program of the system that some check needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tool {
    /// Its file name, or `python3:MODULE` for a Python module.
    name: &'static str,
    /// Debian's package.
    package: &'static str,
}

/// All programs that `cargo xtask test` uses.
pub(crate) const TOOLS: &[Tool] = &[
    Tool { name: "python3", package: "python3" },
    Tool { name: "python3:cryptography", package: "python3-cryptography" },
    Tool { name: "python3:nbd", package: "python3-libnbd" },
    Tool { name: "python3:zstandard", package: "python3-zstandard" },
    Tool { name: "python3:pyvhdi", package: "python3-libvhdi" },
    Tool { name: "python3:pyvmdk", package: "python3-libvmdk" },
    Tool { name: "7zz", package: "7zip" },
    Tool { name: "curl", package: "curl" },
    Tool { name: "qemu-nbd", package: "qemu-utils" },
    Tool { name: "qemu-img", package: "qemu-utils" },
    Tool { name: "qemu-io", package: "qemu-utils" },
    Tool { name: "nbdinfo", package: "libnbd-bin" },
    Tool { name: "nbdcopy", package: "libnbd-bin" },
    Tool { name: "file", package: "file" }, // nbdinfo asks it what a disk holds
    Tool { name: "nbdkit", package: "nbdkit" },
    Tool { name: "fio", package: "fio" },
    Tool { name: "mkfs.ext4", package: "e2fsprogs" },
    Tool { name: "mkfs.xfs", package: "xfsprogs" },
    Tool { name: "mkfs.vfat", package: "dosfstools" },
    Tool { name: "mcopy", package: "mtools" },
    Tool { name: "mkntfs", package: "ntfs-3g" },
    Tool { name: "sfdisk", package: "fdisk" },
    Tool { name: "losetup", package: "mount" },
    Tool { name: "kill", package: "procps" },
];

/// The root of the checkout.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// The shared scripts' directory, if it is there.
pub(crate) fn shared() -> Option<PathBuf> {
    let path = env::var_os("STRANDLINE_SHARED").map_or(root().join("../shared"), PathBuf::from);
    path.join("bench").is_dir().then_some(path)
}

/// `program` with `arguments`, at the root of the checkout.
pub(crate) fn command<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: &[A]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root());
    command
}

/// The cargo that runs us.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), arguments)
}

/// Runs with the terminal as it is; a failure names the command.
pub(crate) fn run(mut command: Command) -> Result<(), Failure> {
    let status =
        command.status().map_err(|error| Failure(format!("{}: {error}", shown(&command))))?;
    if status.success() { Ok(()) } else { Err(Failure(format!("{}: {status}", shown(&command)))) }
}

/// Standard output of a command that must succeed.
pub(crate) fn output(mut command: Command) -> Result<String, Failure> {
    let done = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let done = done.map_err(|error| Failure(format!("{}: {error}", shown(&command))))?;
    if done.status.success() {
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    } else {
        Err(Failure(format!("{}: {}", shown(&command), done.status)))
    }
}

/// Whether a question to another program has the answer yes; nothing of it is shown.
pub(crate) fn succeeds_quietly(mut command: Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Runs, shows every line as it comes, and gives it to `watch` too. True if it succeeded.
pub(crate) fn watched(
    command: &mut Command,
    mut watch: impl FnMut(&str) + Send,
) -> Result<bool, Failure> {
    let spawned =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|error| Failure(format!("{}: {error}", shown(command))))?;
    let errors = child.stderr.take().map(BufReader::new);
    let lines = child.stdout.take().map(BufReader::new);
    let (send, receive) = std::sync::mpsc::channel::<String>();
    thread::scope(|scope| {
        let other = send.clone();
        let forward = |reader: Box<dyn BufRead + Send>, sender: std::sync::mpsc::Sender<String>| {
            scope.spawn(move || {
                for line in reader.lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            });
        };
        if let Some(reader) = errors {
            forward(Box::new(reader), other);
        }
        if let Some(reader) = lines {
            forward(Box::new(reader), send);
        }
        for line in receive {
            println!("{line}");
            watch(&line);
        }
    });
    Ok(child.wait()?.success())
}

/// Makes sure that all of [`TOOLS`] are there.
pub(crate) fn install_tools() -> Result<(), Failure> {
    let mut packages: Vec<&str> =
        TOOLS.iter().filter(|tool| !present(tool.name)).map(|tool| tool.package).collect();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    let line = format!("apt-get install -y --no-install-recommends {}", packages.join(" "));
    if !is_root() || !on_path("apt-get") {
        return Err(Failure(format!("tools are missing; install them with\n  {line}")));
    }
    println!("installing what the tests need: {line}");
    let apt = |arguments: &[&str]| {
        let mut apt = command("apt-get", arguments);
        apt.env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
        run(apt)
    };
    apt(&["update", "-qq"])?;
    let mut install = vec!["install", "-y", "-qq", "--no-install-recommends"];
    install.extend(packages);
    apt(&install)?;
    match TOOLS.iter().find(|tool| !present(tool.name)) {
        None => Ok(()),
        Some(tool) => Err(Failure(format!("{} is still missing after `{line}`", tool.name))),
    }
}

/// True if we may mount and install.
pub(crate) fn is_root() -> bool {
    output(command("id", &["-u"])).is_ok_and(|uid| uid.trim() == "0")
}

/// True if `name` is a program on the path, or where Debian keeps root's programs.
pub(crate) fn on_path(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|directory| directory.join(name).is_file())
}

fn present(name: &str) -> bool {
    let Some(module) = name.strip_prefix("python3:") else { return on_path(name) };
    ["python3", "/usr/bin/python3"]
        .iter()
        .any(|python| succeeds_quietly(command(python, &["-c", &format!("import {module}")])))
}

fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_missing_says_no() {
        assert!(succeeds_quietly(command("true", &[""; 0])));
        assert!(!succeeds_quietly(command("false", &[""; 0])));
        assert!(!succeeds_quietly(command("strandline-has-no-such-program", &[""; 0])));
    }
}
