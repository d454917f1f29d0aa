//! Images changed at a few places: every input ends in an answer, in bounded time and memory.
//!
//! An input names an image of our own making and how it is opened, then edits: images have megabytes of
//! which a few bytes matter. Checksums can be made right again after the edits, so that what they
//! protect is reached.

use images::{
    Format, OpenOptions,
    layout::{Held, Plan},
    qcow2, testing, vdi, vhd, vhdx, vmdk,
};
use std::sync::LazyLock;

const DISK_BYTES: u64 = 3 << 20;

/// Places that tables and headers take; edits are drawn to them.
const NEAR: [usize; 12] = [
    0, 512, 1024, 1536, 0x10000, 0x20000, 0x30000, 0x40000, 0x10_0000, 0x20_0000, 0x21_0000,
    0x30_0000,
];

/// An image and its format.
static BASES: LazyLock<Vec<(Format, Vec<u8>)>> = LazyLock::new(bases);

fn bases() -> Vec<(Format, Vec<u8>)> {
    let held = |start, len, zero| Held { start, len, zero };
    let held = vec![held(0, 65536, false), held(1 << 20, 65536, true), held(2 << 20, 512, false)];
    let plan = Plan { virtual_size: DISK_BYTES, held, parent: None, seed: [7; 32], made_s: 1 };
    let qcow2 = qcow2::write::Qcow2Options { cluster_bits: 12, ..Default::default() };
    let name = "it.vmdk".to_owned();
    let kind = vmdk::write::VmdkKind::Sparse;
    let vmdk = vmdk::write::VmdkOptions { kind, name, adapter: vmdk::write::Adapter::default() };
    let made = [
        (Format::Qcow2, qcow2::write::layout(&plan, &qcow2)),
        (Format::Vhd, vhd::write::layout(&plan, &vhd::write::VhdOptions::default())),
        (Format::Vhdx, vhdx::write::layout(&plan, &vhdx::write::VhdxOptions::default())),
        (Format::Vmdk, vmdk::write::layout(&plan, &vmdk)),
        (Format::Vdi, vdi::write::layout(&plan, &vdi::write::VdiOptions::default())),
    ];
    let guest = vec![0x5a; 3 << 20];
    made.map(|(format, files)| {
        (format, {
            let files = files.expect("a plan that fits");
            testing::render(&*files[0].layout, &guest, u64::MAX)
        })
    })
    .into()
}

/// How many images there are to begin from.
pub fn count() -> usize {
    BASES.len()
}

/// Image, how it is opened, length that is cut off; then edits of place, length and bytes.
pub fn check(input: &[u8]) {
    let [which, how, cut, edits @ ..] = input else { return };
    let (format, base) = &BASES[usize::from(*which) % BASES.len()];
    let mut bytes = base.clone();
    edit(&mut bytes, edits);
    bytes.truncate(bytes.len() - usize::from(*cut) * (bytes.len() / 4096));
    if how & 1 == 1 {
        reseal(*format, &mut bytes);
    }
    let format = (how & 2 == 2).then_some(*format);
    let folder = testing::Folder::new().with("it.img", bytes);
    let Ok(mut chain) =
        testing::open(&folder, "it.img", OpenOptions { format, ..OpenOptions::default() })
    else {
        return;
    };
    let size = chain.virtual_size();
    for start in [0, 1 << 20, 2 << 20, size.saturating_sub(1 << 16)] {
        let range = start.min(size)..start.saturating_add(1 << 16).min(size);
        if !range.is_empty() {
            // Damage is an error; what matters is that there is an answer.
            let _ = testing::read(&folder, &mut chain, range);
        }
    }
    if size <= DISK_BYTES * 64 {
        let _ = testing::run(chain.check(0), &folder);
    }
}

/// Each edit: a place to count from, how far from there (16 bits), a length, that many bytes.
fn edit(bytes: &mut [u8], mut edits: &[u8]) {
    while let [near, high, low, length, rest @ ..] = edits {
        let start =
            NEAR[usize::from(*near) % NEAR.len()] + usize::from(u16::from_be_bytes([*high, *low]));
        let length = (usize::from(*length) % 16 + 1).min(rest.len());
        let (new, rest) = rest.split_at(length);
        if let Some(place) = bytes.get_mut(start..start + length) {
            place.copy_from_slice(new);
        }
        edits = rest;
    }
}

/// Makes the checksums right that keep the rest from being looked at.
fn reseal(format: Format, bytes: &mut [u8]) {
    match format {
        Format::Vhd => {
            let tail = bytes.len().saturating_sub(512);
            for (start, length, at) in [(0, 512, 64), (512, 1024, 36), (tail, 512, 64)] {
                if let Some(block) = bytes.get_mut(start..start + length) {
                    block[at..at + 4].fill(0);
                    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
                    block[at..at + 4].copy_from_slice(&(!sum).to_be_bytes());
                }
            }
        }
        Format::Vhdx => {
            let blocks = [(0x10000, 4096), (0x20000, 4096), (0x30000, 65536), (0x40000, 65536)];
            for (start, length) in blocks {
                if let Some(block) = bytes.get_mut(start..start + length) {
                    block[4..8].fill(0);
                    let sum = crc32c::crc32c(block);
                    block[4..8].copy_from_slice(&sum.to_le_bytes());
                }
            }
        }
        _ => {}
    }
}
