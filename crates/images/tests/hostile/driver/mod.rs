//! Images changed at a few places: every input ends in an answer, in bounded time and memory.
//!
//! An input chooses an image of our own making and how it is opened, then edits it: images have megabytes
//! of which a few bytes matter. Checksums can be made right again after the edits, so that what they
//! protect is reached.

mod bases;

use bases::{Base, DISK_BYTES};
use images::{Format, OpenOptions, testing};
use std::sync::LazyLock;

/// Places that tables and headers take; edits are drawn to them, or count from the end of the file.
const NEAR: [usize; 16] = [
    0, 512, 1024, 1536, 2048, 4096, 8192, 0x10000, 0x20000, 0x30000, 0x40000, 0x10_0000, 0x20_0000,
    0x21_0000, 0x30_0000, 0x40_0000,
];

/// Formats that have something to be hostile with.
pub const FORMATS: [Format; 5] =
    [Format::Qcow2, Format::Vhd, Format::Vhdx, Format::Vmdk, Format::Vdi];

static BASES: LazyLock<[Vec<Base>; 5]> = LazyLock::new(|| FORMATS.map(bases::of));

/// The images of a format to begin from.
pub fn bases(format: Format) -> &'static [Base] {
    let place = FORMATS.iter().position(|known| *known == format);
    place.map_or(&[], |place| &BASES[place])
}

/// Image, how it is opened, length that is cut off; then edits of place, length and bytes. `true` if
/// it could be opened.
pub fn check(format: Format, input: &[u8]) -> bool {
    let [which, how, cut, edits @ ..] = input else { return false };
    let bases = bases(format);
    let base = &bases[usize::from(*which) % bases.len()];
    let mut bytes = base.bytes.clone();
    edit(&mut bytes, edits);
    bytes.truncate(bytes.len() - usize::from(*cut) * (bytes.len() / 4096));
    if how & 1 == 1 {
        reseal(format, &mut bytes);
    }
    let told = (how & 2 == 2).then_some(format);
    let mut folder = testing::Folder::new().with(base.name, bytes);
    for (name, bytes) in &base.beside {
        folder = folder.with(name, bytes.clone());
    }
    // An extent is reached through the descriptor that names it.
    let opened = if base.name == "e" { "d.vmdk" } else { base.name };
    let options = OpenOptions { format: told, ..OpenOptions::default() };
    let Ok(mut chain) = testing::open(&folder, opened, options) else { return false };
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
    true
}

/// Each edit: a place to count from, how far from there (16 bits), a length, that many bytes.
fn edit(bytes: &mut [u8], mut edits: &[u8]) {
    while let [near, high, low, length, rest @ ..] = edits {
        let far = usize::from(u16::from_be_bytes([*high, *low]));
        let start = match NEAR.get(usize::from(*near) % (NEAR.len() + 1)) {
            Some(near) => near + far,
            None => bytes.len().saturating_sub(far),
        };
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
            // Headers, region tables, and the first entry of a log of ours at 1 MiB.
            let blocks = [
                (0x10000, 4096),
                (0x20000, 4096),
                (0x30000, 65536),
                (0x40000, 65536),
                (0x10_0000, 8192),
            ];
            for (start, length) in blocks {
                if let Some(block) = bytes.get_mut(start..start + length)
                    && (start < 0x10_0000 || block.starts_with(b"loge"))
                {
                    block[4..8].fill(0);
                    let sum = crc32c::crc32c(block);
                    block[4..8].copy_from_slice(&sum.to_le_bytes());
                }
            }
        }
        _ => {}
    }
}
