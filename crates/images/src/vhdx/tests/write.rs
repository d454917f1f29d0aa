//! Files that were laid out, read back by the reader.

use proptest::{collection::vec, prelude::*};

use super::build::MIB;
use crate::{
    Class, Format, Identity, OpenOptions,
    bytes::{narrow, wide},
    layout::{Held, Layout, ParentPlan, Plan, Unwritable},
    testing::{Folder, open, read_all, render_range, run},
    vhdx::write::{Allocation, VhdxOptions, identity, layout},
};

fn plan(size: u64, held: &[(u64, u64, bool)]) -> Plan {
    let held = held.iter().map(|&(start, len, zero)| Held { start, len, zero }).collect();
    Plan { virtual_size: size, held, parent: None, seed: [7; 32], made_s: 0 }
}

fn over(name: &str, seed: [u8; 32], size: u64) -> ParentPlan {
    ParentPlan {
        name: name.to_owned(),
        format: Format::Vhdx,
        identity: identity(&seed),
        virtual_size: size,
    }
}

fn guest_byte(at: u64) -> u8 {
    (at / 512 * 31 + at % 251).to_le_bytes()[0] | 1
}

/// Bytes of a range of a file.
fn bytes(layout: &dyn Layout, start: u64, end: u64, size: u64) -> Vec<u8> {
    let guest = |at| if at < size { guest_byte(at) } else { 0 };
    render_range(layout, start..end, u64::MAX, &guest)
}

fn file(plan: &Plan, options: &VhdxOptions) -> Vec<u8> {
    let files = layout(plan, options).unwrap();
    assert!(files.len() == 1 && files[0].suffix.is_empty());
    let layout = &*files[0].layout;
    bytes(layout, 0, layout.len(), plan.virtual_size)
}

/// What the guest sees of a plan over `below`.
fn guest(plan: &Plan, below: Vec<u8>) -> Vec<u8> {
    let mut bytes = below;
    bytes.resize(narrow(plan.virtual_size), 0);
    for held in &plan.held {
        for at in held.start..held.start + held.len {
            bytes[narrow(at)] = if held.zero { 0 } else { guest_byte(at) };
        }
    }
    bytes
}

/// The guest's bytes and the worst finding of a check.
fn read_back(folder: &Folder, name: &str) -> Vec<u8> {
    let mut chain = open(folder, name, OpenOptions::default()).unwrap();
    let report = run(chain.check(0), folder).unwrap();
    assert_eq!((report.worst(), report.units_leaked), (None, 0), "{:?}", report.findings);
    read_all(folder, &mut chain).unwrap()
}

#[test]
fn fixed_and_dynamic_read_back() {
    let plan = plan(
        5 * MIB + 1024,
        &[(512, 1024, false), (MIB, MIB, true), (2 * MIB + 100, 7, true), (5 * MIB, 1024, false)],
    );
    for (allocation, variant, blocks) in
        [(Allocation::Dynamic, "dynamic", 2), (Allocation::Fixed, "fixed", 6)]
    {
        let options = VhdxOptions { allocation, ..VhdxOptions::default() };
        let bytes = file(&plan, &options);
        assert_eq!(wide(bytes.len()), (4 + blocks) * MIB);
        let folder = Folder::new().with("a.vhdx", bytes);
        assert_eq!(read_back(&folder, "a.vhdx"), guest(&plan, Vec::new()));
        let chain = open(&folder, "a.vhdx", OpenOptions::default()).unwrap();
        let facts = chain.layers()[0].facts();
        assert_eq!((facts.variant, facts.identity), (variant, identity(&plan.seed)));
        assert!(facts.notes.is_empty(), "{:?}", facts.notes);
    }
}

#[test]
fn same_plan_gives_the_same_bytes_and_ids_differ_by_seed() {
    let one = plan(3 * MIB, &[(0, 4096, false)]);
    let options = VhdxOptions::default();
    assert_eq!(file(&one, &options), file(&one.clone(), &options));
    let other = Plan { seed: [8; 32], ..one.clone() };
    assert_ne!(file(&one, &options), file(&other, &options));
    let Identity::Vhdx { file_write, data_write } = identity(&one.seed) else { panic!("ids") };
    assert_ne!(file_write, data_write);
    assert_eq!((data_write[7] >> 4, data_write[8] >> 6), (4, 2), "version 4, variant 1");
}

#[test]
fn child_is_known_by_its_parents_identity() {
    let base = plan(3 * MIB, &[(0, 3 * MIB, false)]);
    let child = Plan {
        seed: [9; 32],
        parent: Some(over("base.vhdx", base.seed, 3 * MIB)),
        ..plan(3 * MIB, &[(512, 512, true), (MIB, MIB, true), (2 * MIB, MIB, false)])
    };
    let options = VhdxOptions::default();
    let folder = |child: &Plan| {
        let base = file(&base, &options);
        Folder::new().with("child.vhdx", file(child, &options)).with("base.vhdx", base)
    };
    assert_eq!(read_back(&folder(&child), "child.vhdx"), guest(&child, guest(&base, Vec::new())));
    let moved = Plan { parent: Some(over("base.vhdx", [1; 32], 3 * MIB)), ..child };
    let refused = open(&folder(&moved), "child.vhdx", OpenOptions::default());
    assert_eq!(refused.map(|_| ()).unwrap_err().class, Class::ParentMismatch);
}

#[test]
fn block_follows_from_the_size() {
    for (size, block) in [(MIB, MIB), (1 << 40, MIB), (7 << 40, 2 * MIB), (64 << 40, 32 * MIB)] {
        let files = layout(&plan(size, &[]), &VhdxOptions::default()).unwrap();
        let len = files[0].layout.len();
        let table = size.div_ceil(block) * 8;
        assert!(len >= 3 * MIB + table && len <= 3 * MIB + table + 2 * MIB, "{size}: {len}");
    }
}

#[test]
fn large_disk_is_laid_out_by_ranges() {
    let size = 64 << 40;
    let plan = plan(size, &[(5 << 40, 512, false), (size - 512, 512, false)]);
    let options = VhdxOptions { block_bytes: Some(1 << 20), ..VhdxOptions::default() };
    let files = layout(&plan, &options).unwrap();
    let layout = &*files[0].layout;
    let data = layout.len() - 2 * MIB;
    assert_eq!(bytes(layout, data - 100, data + 512, size)[100], guest_byte(5 << 40));
    let last = bytes(layout, layout.len() - 512, layout.len(), size);
    assert_eq!(last[..4], [0, 1, 2, 3].map(|n| guest_byte(size - 512 + n)));
    assert!(layout.pieces(layout.len()..u64::MAX).is_empty());
}

#[test]
fn what_the_format_cannot_hold_is_refused() {
    let refused = |plan: &Plan, options| layout(plan, &options).err().expect("refused");
    let options = VhdxOptions::default();
    assert!(matches!(refused(&plan(65 << 40, &[]), options), Unwritable::TooLarge { .. }));
    let bad_plan = plan(MIB, &[(0, 2 * MIB, false)]);
    assert!(matches!(refused(&bad_plan, options), Unwritable::Plan { .. }));
    let child = |held: &[(u64, u64, bool)]| Plan {
        parent: Some(over("base.vhdx", [1; 32], MIB)),
        ..plan(MIB, held)
    };
    let foreign = Plan {
        parent: Some(ParentPlan {
            format: Format::Qcow2,
            identity: Identity::None,
            ..over("base.qcow2", [1; 32], MIB)
        }),
        ..plan(MIB, &[])
    };
    for (plan, options) in [
        (plan(0, &[]), options),
        (plan(MIB + 100, &[]), options),
        (plan(MIB + 512, &[]), VhdxOptions { sector_bytes: 4096, ..options }),
        (plan(MIB, &[]), VhdxOptions { sector_bytes: 1024, ..options }),
        (plan(MIB, &[]), VhdxOptions { block_bytes: Some(3 << 20), ..options }),
        (plan(MIB, &[]), VhdxOptions { block_bytes: Some(512 << 20), ..options }),
        (plan(MIB, &[]), VhdxOptions { block_bytes: Some(65536), ..options }),
        (child(&[]), VhdxOptions { allocation: Allocation::Fixed, ..options }),
        (child(&[(100, 412, false)]), options),
        (foreign, options),
    ] {
        assert!(matches!(refused(&plan, options), Unwritable::Option { .. }), "{plan:?}");
    }
}

/// Ranges of whole sectors, in order.
fn held(blocks: u64) -> impl Strategy<Value = Vec<Held>> {
    vec((0..700_u64, 1..3000_u64, any::<bool>()), 0..24).prop_map(move |steps| {
        let (mut held, mut at) = (Vec::new(), 0);
        for (gap, sectors, zero) in steps {
            let start = at + gap * 512;
            let len = (sectors * 512).min((blocks * MIB).saturating_sub(start));
            if len == 0 {
                break;
            }
            held.push(Held { start, len, zero });
            at = start + len;
        }
        held
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn any_plan_reads_back(
        lower in held(6),
        upper in held(6),
        size in (5 * MIB / 512 + 1..=6 * MIB / 512).prop_map(|sectors| sectors * 512),
        block in prop_oneof![Just(MIB), Just(2 * MIB), Just(8 * MIB)],
        cuts in vec(0..7 * MIB, 0..4),
    ) {
        let options = VhdxOptions {
            block_bytes: u32::try_from(block).ok(),
            ..VhdxOptions::default()
        };
        let within = |held: Vec<Held>| -> Vec<Held> {
            let held = held.into_iter().filter(|held| held.start < size);
            held.map(|held| Held { len: held.len.min(size - held.start), ..held }).collect()
        };
        let base = Plan { held: within(lower), ..plan(size, &[]) };
        let child = Plan {
            held: within(upper),
            parent: Some(over("base.vhdx", base.seed, size)),
            seed: [3; 32],
            ..plan(size, &[])
        };
        let whole = file(&child, &options);
        // Any cut of the file into ranges gives the same bytes.
        let files = layout(&child, &options).unwrap();
        let layout = &*files[0].layout;
        let mut cuts: Vec<u64> = cuts.into_iter().map(|cut| cut.min(layout.len())).collect();
        cuts.extend([0, layout.len()]);
        cuts.sort_unstable();
        let parts = cuts.windows(2).map(|cut| bytes(layout, cut[0], cut[1], size));
        prop_assert!(parts.flatten().eq(whole.iter().copied()));

        let folder =
            Folder::new().with("child.vhdx", whole).with("base.vhdx", file(&base, &options));
        let below = guest(&base, Vec::new());
        prop_assert!(read_back(&folder, "base.vhdx") == below);
        prop_assert!(read_back(&folder, "child.vhdx") == guest(&child, below));
    }
}
