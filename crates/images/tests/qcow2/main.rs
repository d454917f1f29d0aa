//! qcow2 as a whole: written, read back, damaged, and exchanged with QEMU.

#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

mod faults;
mod laws;
mod qemu;

use images::{
    Algorithm, Chain, Fault, OpenOptions, Report,
    layout::{Held, ImageFile, Plan},
    qcow2::{
        pack::Packer,
        write::{Qcow2Options, layout},
    },
    testing::{Folder, open, render, run},
};

/// A plan that holds these ranges: start, length, zero.
fn plan(virtual_size: u64, held: &[(u64, u64, bool)]) -> Plan {
    let held = held.iter().map(|&(start, len, zero)| Held { start, len, zero }).collect();
    Plan { virtual_size, held, parent: None, seed: [7; 32], made_s: 0 }
}

/// The file of a plan over what the guest sees, asked for in steps of `step` bytes.
fn image(plan: &Plan, options: &Qcow2Options, disk: &[u8], step: u64) -> Vec<u8> {
    let files = layout(plan, options).expect("a plan that can be written");
    let [ImageFile { layout, .. }] = files.as_slice() else { panic!("one file") };
    render(&**layout, disk, step)
}

/// The compressed file of a plan over what the guest sees.
fn packed_image(plan: &Plan, options: &Qcow2Options, algorithm: Algorithm, disk: &[u8]) -> Vec<u8> {
    let cluster = 1_usize << options.cluster_bits;
    let mut packer = Packer::new(plan.clone(), options.clone(), algorithm).unwrap();
    let mut bytes = packer.start();
    while let Some(at) = packer.wanted() {
        let from = usize::try_from(at).unwrap();
        let mut unit = disk[from..disk.len().min(from + cluster)].to_vec();
        unit.resize(cluster, 0);
        bytes.extend(packer.push(&unit));
    }
    let finish = packer.finish().unwrap();
    bytes.extend(finish.tables);
    bytes[..cluster].copy_from_slice(&finish.header);
    bytes
}

/// Opens the one image of a folder as it is, with its chain.
fn opened(folder: &Folder, name: &str) -> Result<Chain, Fault> {
    open(folder, name, OpenOptions::default())
}

/// What a check of the top image finds.
fn check(folder: &Folder, chain: &mut Chain) -> Result<Report, Fault> {
    run(chain.check(0), folder)
}
