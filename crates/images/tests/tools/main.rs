//! Files of our making, read by other people's programs: qemu-img, and the Python modules of libvhdi
//! and libvmdk, not least for children that QEMU does not read. What is missing is a failure that
//! names its package.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test has its files to itself, and fails where one is not as it should be"
)]

mod vhd_vdi;
mod vhdx;
mod vmdk;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use images::{
    layout::{Held, ImageFile},
    testing,
};

const M: u64 = 1 << 20;

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

/// What the guest sees: bytes that follow from `seed`, compress badly and repeat nowhere, over `below`.
fn guest(size: u64, held: &[Held], seed: u8, below: &[u8]) -> Vec<u8> {
    let mut bytes = below.to_vec();
    bytes.resize(index(size), 0);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ u64::from(seed);
    for held in held {
        for byte in &mut bytes[index(held.start)..index(held.start + held.len)] {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = if held.zero { 0 } else { state.to_le_bytes()[3] };
        }
    }
    bytes
}

fn write(path: &Path, file: &ImageFile, guest: &[u8]) {
    fs::write(path, testing::render(&*file.layout, guest, u64::MAX)).unwrap();
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

/// QEMU must find the guest's bytes in an image, by two of its ways; gives what it says of the image.
fn qemu_agrees(folder: &Path, name: &str, format: &str, guest: &[u8]) -> String {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (image, raw, out) = (path(name), path("guest.raw"), path("out.raw"));
    fs::write(&raw, guest).unwrap();
    let compared = run("qemu-img", &["compare", "-f", format, "-F", "raw", &image, &raw]);
    assert!(good(&compared).contains("Images are identical"), "{name}: {compared:?}");
    good(&run("qemu-img", &["convert", "-f", format, "-O", "raw", &image, &out]));
    assert!(fs::read(&out).unwrap() == guest, "{name}: converted bytes differ");
    if format != "vpc" {
        let checked = good(&run("qemu-img", &["check", "-f", format, &image]));
        assert!(checked.contains("No errors were found"), "{name}: {checked}");
    }
    let info = good(&run("qemu-img", &["info", "--output=json", "-f", format, &image]));
    assert!(info.contains(&format!("\"virtual-size\": {}", guest.len())), "{name}: {info}");
    info
}

/// The guest's bytes of an image, whose parents follow it, by a program in the distribution's Python,
/// which has the distribution's modules.
fn by_python(program: &str, folder: &Path, names: &[&str]) -> Vec<u8> {
    let paths: Vec<String> =
        names.iter().map(|name| folder.join(name).to_str().unwrap().to_owned()).collect();
    let arguments: Vec<&str> =
        ["-c", program].into_iter().chain(paths.iter().map(String::as_str)).collect();
    let output = run("/usr/bin/python3", &arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    let help = "apt-get install -y python3-libvhdi python3-libvmdk";
    assert!(!errors.contains("ModuleNotFoundError"), "{errors}{help}");
    assert!(output.status.success(), "{names:?}: {errors}");
    output.stdout
}

/// For [`by_python`]: VHD and VHDX.
const LIBVHDI: &str = "
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
