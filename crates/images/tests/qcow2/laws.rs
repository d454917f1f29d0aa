//! Laws of writer and reader against the plainest model: the disk as bytes.

use images::{
    Algorithm, Format, Identity, Kind,
    layout::{ParentPlan, Plan},
    qcow2::write::Qcow2Options,
    testing::{Folder, map, read, read_all},
};
use proptest::{collection::vec, prelude::*};

use super::{check, image, opened, packed_image, plan};

/// A disk of sectors and which of them are held: absent, zero, data.
fn disks() -> impl Strategy<Value = (Vec<u8>, u32)> {
    let runs = vec((0..3_u8, 1..40_usize), 1..30);
    let sectors = runs.prop_map(|runs| {
        runs.into_iter().flat_map(|(kind, len)| std::iter::repeat_n(kind, len)).collect()
    });
    (sectors, 9..14_u32)
}

/// The plan of the sectors, and the disk over a parent whose bytes are all `behind`.
fn model(sectors: &[u8], behind: u8) -> (Plan, Vec<u8>) {
    let mut disk = Vec::new();
    let mut held = Vec::new();
    for (number, kind) in (0_u64..).zip(sectors) {
        let fill = match kind {
            0 => behind,
            1 => 0,
            _ => 1 + number.to_le_bytes()[0] % 250,
        };
        disk.extend_from_slice(&[fill; 512]);
        if *kind > 0 {
            held.push((number * 512, 512, *kind == 1));
        }
    }
    (plan(disk.len() as u64, &held), disk)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn what_was_written_reads_back(
        (sectors, cluster_bits) in disks(),
        step in 1..9000_u64,
        windows in vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 8),
    ) {
        let (plan, disk) = model(&sectors, 0);
        let options = Qcow2Options { cluster_bits, ..Qcow2Options::default() };
        let bytes = image(&plan, &options, &disk, step);
        let folder = Folder::new().with("a.qcow2", bytes);
        let mut chain = opened(&folder, "a.qcow2").unwrap();
        prop_assert_eq!(&read_all(&folder, &mut chain).unwrap(), &disk);
        for (one, other) in windows {
            let (one, other) = (one.index(disk.len()), other.index(disk.len()));
            let (start, end) = (one.min(other), one.max(other));
            let window = read(&folder, &mut chain, start as u64..end as u64).unwrap();
            prop_assert_eq!(&window, &disk[start..end]);
        }
        let report = check(&folder, &mut chain).unwrap();
        prop_assert_eq!(report.findings, []);
    }

    #[test]
    fn child_over_parent_reads_as_the_disk((sectors, cluster_bits) in disks()) {
        let (mut plan, disk) = model(&sectors, 0xbb);
        plan.parent = Some(ParentPlan {
            name: "base.raw".to_owned(),
            format: Format::Raw,
            identity: Identity::None,
            virtual_size: plan.virtual_size,
        });
        let options = Qcow2Options { cluster_bits, ..Qcow2Options::default() };
        let bytes = image(&plan, &options, &disk, 4096);
        let folder =
            Folder::new().with("a.qcow2", bytes).with("base.raw", vec![0xbb; disk.len()]);
        let mut chain = opened(&folder, "a.qcow2").unwrap();
        prop_assert_eq!(&read_all(&folder, &mut chain).unwrap(), &disk);
        prop_assert_eq!(check(&folder, &mut chain).unwrap().findings, []);
        // The child holds whole clusters, and of the parent's at least what nobody wrote.
        let cluster = 1_u64 << cluster_bits;
        for mapped in map(&folder, &mut chain, 0..disk.len() as u64).unwrap() {
            if mapped.layer == 1 {
                let start = mapped.extent.start / 512;
                let end = mapped.extent.end().div_ceil(512);
                prop_assert!((start..end).all(|at| sectors[usize::try_from(at).unwrap()] == 0));
                prop_assert!(mapped.extent.start.is_multiple_of(cluster));
            }
        }
    }

    #[test]
    fn what_was_packed_reads_back((sectors, cluster_bits) in disks(), zstd in any::<bool>()) {
        let (plan, disk) = model(&sectors, 0);
        let algorithm = if zstd { Algorithm::Zstd } else { Algorithm::Deflate12 };
        let options = Qcow2Options { cluster_bits, ..Qcow2Options::default() };
        let bytes = packed_image(&plan, &options, algorithm, &disk);
        prop_assert_eq!(&packed_image(&plan, &options, algorithm, &disk), &bytes);
        let folder = Folder::new().with("a.qcow2", bytes);
        let mut chain = opened(&folder, "a.qcow2").unwrap();
        prop_assert_eq!(&read_all(&folder, &mut chain).unwrap(), &disk);
        prop_assert_eq!(check(&folder, &mut chain).unwrap().findings, []);
    }

    #[test]
    fn hostile_bytes_end_in_an_answer(
        (sectors, cluster_bits) in disks(),
        flips in vec((any::<prop::sample::Index>(), any::<u8>()), 1..24),
        head_flips in vec((0..160_usize, any::<u8>()), 0..3),
        cut in any::<prop::sample::Index>(),
    ) {
        let (plan, disk) = model(&sectors, 0);
        let options = Qcow2Options { cluster_bits, ..Qcow2Options::default() };
        let mut bytes = image(&plan, &options, &disk, 4096);
        for (place, value) in flips {
            // Tables come first: half of the flips hit them.
            let place = place.index(bytes.len());
            let place = if value & 1 == 0 { place } else { place / 8 };
            bytes[place] = value;
        }
        for (place, value) in head_flips {
            bytes[place] = value;
        }
        let kept = bytes.len() - cut.index(bytes.len()) / 4;
        bytes.truncate(kept);
        let folder = Folder::new().with("a.qcow2", bytes);
        if let Ok(mut chain) = opened(&folder, "a.qcow2") {
            let end = chain.virtual_size().min(1 << 20);
            let _ = read(&folder, &mut chain, 0..end);
            let _ = check(&folder, &mut chain);
        }
    }
}

#[test]
fn zeroes_over_a_parent_take_no_cluster() {
    let mut plan = plan(1 << 20, &[(0, 512 << 10, true)]);
    plan.parent = Some(ParentPlan {
        name: "base.raw".to_owned(),
        format: Format::Raw,
        identity: Identity::None,
        virtual_size: 1 << 20,
    });
    let bytes = image(&plan, &Qcow2Options::default(), &[], 65536);
    // Header, L1, refcount table, refcount block, one L2 table.
    assert_eq!(bytes.len(), 5 << 16);
    let folder = Folder::new().with("a.qcow2", bytes).with("base.raw", vec![1; 1 << 20]);
    let mut chain = opened(&folder, "a.qcow2").unwrap();
    let kinds: Vec<_> = map(&folder, &mut chain, 0..1 << 20)
        .unwrap()
        .into_iter()
        .map(|mapped| (mapped.layer, mapped.extent.len, mapped.extent.kind == Kind::Zero))
        .collect();
    assert_eq!(kinds, [(0, 512 << 10, true), (1, 512 << 10, false)]);
}

#[test]
fn extension_of_our_own_comes_back() {
    let options = Qcow2Options {
        extensions: vec![(0x5354_4c44, b"seal of a parent".to_vec())],
        autoclear: 1 << 62,
        ..Qcow2Options::default()
    };
    let bytes = image(&plan(1 << 20, &[]), &options, &[], 65536);
    let folder = Folder::new().with("a.qcow2", bytes);
    let chain = opened(&folder, "a.qcow2").unwrap();
    let facts = chain.layers()[0].facts();
    assert_eq!(facts.extensions, options.extensions);
    assert_eq!(facts.autoclear, 1 << 62);
}

#[test]
fn large_disk_is_laid_out_in_little() {
    let plan = plan(1 << 40, &[(0, 4096, false), (1 << 39, 1 << 30, false)]);
    let files = images::qcow2::write::layout(&plan, &Qcow2Options::default()).unwrap();
    let len = files[0].layout.len();
    assert!(len > 1 << 30 && len < (1 << 30) + (4 << 20), "{len} bytes");
    // The last cluster of the file is the last of the range.
    let last = files[0].layout.pieces(len - 65536..len);
    let guest = images::layout::Content::Guest((1 << 39) + (1 << 30) - 65536);
    assert_eq!(last.len(), 1);
    assert_eq!(last[0].content, guest);
}
