//! The fuzz targets' drivers with bytes of a few seeds: what hours of fuzzing do, in a second.

mod files;
mod records;

use sim_world::Seed;

/// Random inputs, short ones more often.
fn each_input(label: &str, count: usize, unit: usize, mut check: impl FnMut(&[u8])) {
    let mut rng = Seed(41).rng(label);
    for number in 0..count {
        let mut bytes = vec![0; 1 + unit * (1 + number % 6)];
        rng.fill(&mut bytes);
        check(&bytes);
    }
}

#[test]
fn changed_segments_give_old_bytes_or_errors() {
    files::check_segment(&[]);
    // Cut off within a page: packing it read what is left unaligned.
    files::check_segment(&[0x2a, 0x0a, 0xac, 0xac, 0xac, 0xac, 0x2c, 0x2e]);
    each_input("segment", 60, files::CHANGE, files::check_segment);
}

#[test]
fn changed_packs_give_old_bytes_or_errors() {
    files::check_pack(&[]);
    each_input("pack", 60, files::CHANGE, files::check_pack);
}

#[test]
fn damaged_manifests_are_shorter_or_refused() {
    each_input("manifest", 2000, 5, |bytes| {
        let mut bytes = bytes.to_vec();
        bytes[0] = 0;
        records::check_manifest(&bytes);
    });
}

#[test]
fn sealed_nonsense_is_refused_record_by_record() {
    let mut rng = Seed(43).rng("records");
    for seed in records::seeds() {
        records::check_manifest(&seed);
        for _ in 0..300 {
            let mut bytes = seed.clone();
            for _ in 0..=rng.index(3) {
                let at = 1 + rng.index(bytes.len() - 1);
                bytes[at] = u8::try_from(rng.below(256)).expect("a byte");
            }
            records::check_manifest(&bytes);
        }
    }
}

#[test]
fn changed_super_blocks_open_for_their_own_keys_only() {
    each_input("super", 3000, 4, records::check_super_block);
}
