//! A child's parent changed in place, cut off anywhere: the child leads to the old parent or the new
//! one, and to no third.

use std::{collections::BTreeSet, ops::Range};

use images::{
    Facts, Format, Identity, OpenOptions,
    layout::{Held, ParentPlan, Plan, Unwritable},
    qcow2::write::Qcow2Options,
    relink::{Edit, EditStep, Relink, Relinking, SECTOR_BYTES},
    testing::{self, Folder},
    vdi::write::{VdiKind, VdiOptions},
    vhd::write::VhdOptions,
    vhdx::write::VhdxOptions,
    vmdk::write::{VmdkKind, VmdkOptions},
};
use proptest::prelude::*;

const FORMATS: [Format; 5] = [Format::Qcow2, Format::Vhd, Format::Vhdx, Format::Vmdk, Format::Vdi];

const SIZE: u64 = 2 << 20;

/// What the child holds: of its own, whatever its parent is.
const HELD: Range<u64> = 256 << 10..320 << 10;

/// An image of `format` over `parent`, of a disk that is `fill` everywhere it is held.
fn image(format: Format, number: u8, parent: Option<ParentPlan>) -> (Vec<u8>, Identity) {
    let range = if parent.is_some() { HELD } else { 0..SIZE };
    let plan = Plan {
        virtual_size: SIZE,
        held: vec![Held { start: range.start, len: range.end - range.start, zero: false }],
        parent,
        seed: [number; 32],
        made_s: 1_700_000_000 + u64::from(number),
    };
    let name = format!("{number}.vmdk");
    let (files, identity) = match format {
        Format::Qcow2 => {
            // As QEMU's table of feature names: the parent's name stands behind the first sector.
            let extensions = vec![(0x6803_f857, vec![1; 384])];
            let options = Qcow2Options { cluster_bits: 12, extensions, autoclear: 0 };
            (images::qcow2::write::layout(&plan, &options), Identity::None)
        }
        Format::Vhd => {
            let options = VhdOptions { block_bytes: 64 << 10, ..VhdOptions::default() };
            (images::vhd::write::layout(&plan, &options), images::vhd::write::identity(&plan))
        }
        Format::Vhdx => (
            images::vhdx::write::layout(&plan, &VhdxOptions::default()),
            images::vhdx::write::identity(&plan.seed),
        ),
        Format::Vmdk => {
            let (kind, adapter) = (VmdkKind::Sparse, images::vmdk::write::Adapter::default());
            let content = images::vmdk::write::content_id(&plan);
            let options = VmdkOptions { kind, name, adapter };
            (images::vmdk::write::layout(&plan, &options), Identity::Vmdk { content })
        }
        Format::Vdi => (
            images::vdi::write::layout(&plan, &VdiOptions { kind: VdiKind::Dynamic }),
            images::vdi::write::identity(&plan),
        ),
        Format::Raw => panic!("no child is raw"),
    };
    let files = files.expect("can be written");
    let guest = vec![number; usize::try_from(SIZE).expect("small")];
    // A child's block is written whole in VDI: what it does not hold is its first parent's there.
    (testing::render(&*files[0].layout, &guest, 1 << 16), identity)
}

fn parent_plan(format: Format, name: &str, identity: Identity) -> ParentPlan {
    ParentPlan { name: name.to_owned(), format, identity, virtual_size: SIZE }
}

/// A child over a parent, and another one to which it is to be led.
struct Case {
    format: Format,
    child: Vec<u8>,
    old: (String, Vec<u8>),
    new: (String, Vec<u8>),
    to: ParentPlan,
}

impl Case {
    fn new(format: Format, old_name: &str, new_name: &str) -> Self {
        let named = |name: &str| format!("{name}.{format}");
        let (old_name, new_name) = (named(old_name), named(new_name));
        let (old, old_id) = image(format, 1, None);
        let (new, new_id) = image(format, 2, None);
        let (child, _) = image(format, 9, Some(parent_plan(format, &old_name, old_id)));
        let to = parent_plan(format, &new_name, new_id);
        Self { format, child, old: (old_name, old), new: (new_name, new), to }
    }

    fn folder(&self, child: Vec<u8>) -> Folder {
        Folder::new()
            .with(&self.child_name(), child)
            .with(&self.old.0, self.old.1.clone())
            .with(&self.new.0, self.new.1.clone())
    }

    fn child_name(&self) -> String {
        format!("child.{}", self.format)
    }

    /// Which parent the guest sees through such a child: its number, or why none.
    fn seen(&self, child: Vec<u8>) -> Result<u8, String> {
        let folder = self.folder(child);
        let options = OpenOptions::default();
        let opened = testing::open(&folder, &self.child_name(), options);
        let mut chain = opened.map_err(|fault| fault.to_string())?;
        assert_eq!(chain.layers().len(), 2, "a chain of another length");
        // A sector far from the child's own, and one of its own.
        let far = testing::read(&folder, &mut chain, SIZE - 512..SIZE);
        let own = testing::read(&folder, &mut chain, HELD.start..HELD.start + 512);
        let (far, own) = (far.map_err(|f| f.to_string())?, own.map_err(|f| f.to_string())?);
        assert!(own.iter().all(|byte| *byte == 9), "the child's own bytes");
        assert!(far.iter().all(|byte| *byte == far[0]), "one parent's bytes");
        Ok(far[0])
    }

    fn edit(&self, child: &[u8], changes_bytes: bool) -> Result<Edit, Unwritable> {
        edit_of(self.format, child, &self.to, changes_bytes)
    }
}

/// The edit of a qcow2 child by a caller who keeps these feature bits right.
fn edit_knowing(child: &[u8], parent: &ParentPlan, changes_bytes: bool, known: u64) -> Edit {
    let folder = Folder::new().with("child", child);
    let file = folder.id("child").expect("there");
    let relink = Relink {
        parent: parent.clone(),
        changes_bytes,
        fresh: [1; 32],
        outside: false,
        autoclear_known: known,
        now_s: 0,
    };
    let operation = Relinking::new(file, folder.len(file), Format::Qcow2, relink);
    testing::run(operation, &folder).expect("sound").expect("can be changed")
}

fn edit_of(
    format: Format,
    child: &[u8],
    parent: &ParentPlan,
    changes_bytes: bool,
) -> Result<Edit, Unwritable> {
    let folder = Folder::new().with("child", child);
    let file = folder.id("child").expect("there");
    let mut fresh = [0; 32];
    fresh.iter_mut().zip(1_u8..).for_each(|(byte, number)| *byte = number.wrapping_mul(37));
    let relink = Relink {
        parent: parent.clone(),
        changes_bytes,
        fresh,
        outside: false,
        autoclear_known: 0,
        now_s: 1_800_000_000,
    };
    let operation = Relinking::new(file, folder.len(file), format, relink);
    testing::run(operation, &folder).expect("the child is sound")
}

/// A file with a volatile cache: sectors that were written since the last sync may be lost.
#[derive(Clone)]
struct Medium {
    durable: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
}

impl Medium {
    fn write(&mut self, at: u64, bytes: &[u8]) {
        let (mut at, mut rest) = (usize::try_from(at).expect("small"), bytes);
        let sector = usize::try_from(SECTOR_BYTES).expect("small");
        while !rest.is_empty() {
            let (now, later) = rest.split_at((sector - at % sector).min(rest.len()));
            self.pending.push((at, now.to_vec()));
            (at, rest) = (at + now.len(), later);
        }
    }

    /// The file if just those of the pending sectors reached it.
    fn with(&self, kept: impl Fn(usize) -> bool) -> Vec<u8> {
        let mut file = self.durable.clone();
        for (number, (at, bytes)) in self.pending.iter().enumerate() {
            if kept(number) {
                file.resize(file.len().max(at + bytes.len()), 0);
                file[*at..at + bytes.len()].copy_from_slice(bytes);
            }
        }
        file
    }

    fn sync(&mut self) {
        self.durable = self.with(|_| true);
        self.pending.clear();
    }

    /// Files that a cut may leave: all subsets of a few sectors; of many each alone, all but each,
    /// and every beginning and end.
    fn cuts(&self) -> Vec<Vec<u8>> {
        let count = self.pending.len();
        let mut kept: BTreeSet<Vec<bool>> = BTreeSet::new();
        if count <= 4 {
            for set in 0..1_usize << count {
                kept.insert((0..count).map(|n| set >> n & 1 == 1).collect());
            }
        } else {
            for at in 0..=count {
                kept.insert((0..count).map(|n| n < at).collect());
                kept.insert((0..count).map(|n| n >= at).collect());
                kept.insert((0..count).map(|n| n == at).collect());
                kept.insert((0..count).map(|n| n != at).collect());
            }
        }
        kept.into_iter().map(|kept| self.with(|n| kept[n])).collect()
    }
}

/// Carries an edit out, with `look` at every file that a cut may leave, before and after each step.
fn carry_out(file: &[u8], edit: Edit, mut look: impl FnMut(usize, Vec<u8>)) -> Vec<u8> {
    let steps = match edit {
        Edit::InPlace(steps) => steps,
        Edit::Whole(bytes) => return bytes,
    };
    assert!(steps.last().is_none_or(|last| *last == EditStep::Sync), "the last step is a barrier");
    let mut medium = Medium { durable: file.to_vec(), pending: Vec::new() };
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            EditStep::Write { at, bytes } => medium.write(at, &bytes),
            EditStep::Sync => medium.sync(),
        }
        medium.cuts().into_iter().for_each(|file| look(number, file));
    }
    medium.durable
}

/// Names that need no more room than the old one, and names that do.
const NAMES: [(&str, &str); 3] =
    [("base", "next"), ("b", "a-much-longer-name-than-before"), ("a-long-name-at-first", "n")];

#[test]
fn a_cut_leaves_the_old_parent_or_the_new_one() {
    for format in FORMATS {
        for ((old, new), changes_bytes) in NAMES.into_iter().zip([false, true, true]) {
            let case = Case::new(format, old, new);
            assert_eq!(case.seen(case.child.clone()), Ok(1), "{format}");
            let edit = case.edit(&case.child, changes_bytes).expect("can be changed");
            let mut met = BTreeSet::new();
            let done = carry_out(&case.child, edit, |step, file| match case.seen(file) {
                Ok(seen) => {
                    met.insert(seen);
                }
                Err(why) => panic!("{format} {old} {new}: step {step}: {why}"),
            });
            assert_eq!(case.seen(done), Ok(2), "{format} {old} {new}");
            assert_eq!(met, BTreeSet::from([1, 2]), "{format}: both were met");
        }
    }
}

/// The same look finds what goes wrong without the barriers, where there is more than one step.
#[test]
fn without_its_barriers_an_edit_is_caught() {
    for format in [Format::Qcow2, Format::Vhd, Format::Vhdx] {
        let (old, new) = NAMES[1];
        let case = Case::new(format, old, new);
        let Edit::InPlace(steps) = case.edit(&case.child, false).expect("can be changed") else {
            panic!("in place")
        };
        let mut steps: Vec<_> = steps.into_iter().filter(|step| *step != EditStep::Sync).collect();
        steps.push(EditStep::Sync);
        let mut caught = 0;
        carry_out(&case.child, Edit::InPlace(steps), |_, file| {
            caught += u32::from(!matches!(case.seen(file), Ok(1 | 2)));
        });
        assert!(caught > 0, "{format}");
    }
}

/// A sector that is torn within is no promise of any disk that is sold; where ids or checksums guard
/// the reference it leads to an error at worst.
#[test]
fn a_sector_torn_within_leads_to_no_third_parent() {
    for format in FORMATS.into_iter().filter(|format| *format != Format::Qcow2) {
        let (old, new) = NAMES[1];
        let case = Case::new(format, old, new);
        let edit = case.edit(&case.child, true).expect("can be changed");
        let Edit::InPlace(steps) = edit else { panic!("in place") };
        let mut file = case.child.clone();
        for step in steps {
            let EditStep::Write { at, bytes } = step else { continue };
            let at = usize::try_from(at).expect("small");
            file.resize(file.len().max(at + bytes.len()), 0);
            for cut in (0..bytes.len().min(1536)).step_by(47) {
                let mut torn = file.clone();
                torn[at..at + cut].copy_from_slice(&bytes[..cut]);
                if let Ok(seen) = case.seen(torn) {
                    assert!([1, 2].contains(&seen), "{format}: byte {cut}");
                }
            }
            file[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        assert_eq!(case.seen(file), Ok(2));
    }
}

/// After a cut the same command is given again, and may be cut again.
#[test]
fn an_edit_that_was_cut_can_be_made_again() {
    for format in FORMATS {
        let case = Case::new(format, "base", "another-one");
        let edit = case.edit(&case.child, false).expect("can be changed");
        let mut left = Vec::new();
        carry_out(&case.child, edit, |_, file| left.push(file));
        left.dedup();
        for file in left {
            let edit = case.edit(&file, false).expect("can be changed again");
            let done = carry_out(&file, edit, |step, file| {
                if let Err(why) = case.seen(file) {
                    panic!("{format}: step {step}: {why}");
                }
            });
            assert_eq!(case.seen(done.clone()), Ok(2), "{format}");
            let again = case.edit(&done, false).expect("sound");
            assert_eq!(again, Edit::InPlace(Vec::new()), "{format}: nothing is left to do");
        }
    }
}

fn facts(format: Format, child: &[u8]) -> Facts {
    let name = format!("child.{format}");
    let folder = Folder::new().with(&name, child);
    let options = OpenOptions { purpose: images::Purpose::Inspect, ..OpenOptions::default() };
    let chain = testing::open(&folder, &name, options).expect("opens alone");
    chain.layers()[0].facts().clone()
}

/// What depends on the child must not be told of a change that its guest does not see.
#[test]
fn own_identifiers_move_by_the_rule_of_the_format() {
    for format in FORMATS {
        let case = Case::new(format, "base", "next");
        let before = facts(format, &case.child).identity;
        let after = |changes_bytes| {
            let edit = case.edit(&case.child, changes_bytes).expect("can be changed");
            facts(format, &carry_out(&case.child, edit, |_, _| {})).identity
        };
        let (quiet, loud) = (after(false), after(true));
        match (before, quiet, loud) {
            (Identity::None, Identity::None, Identity::None) => assert_eq!(format, Format::Qcow2),
            (
                Identity::Vhdx { file_write: f0, data_write: d0 },
                Identity::Vhdx { file_write: f1, data_write: d1 },
                Identity::Vhdx { file_write: f2, data_write: d2 },
            ) => assert!(f1 != f0 && d1 == d0 && f2 != f0 && d2 != d0 && d2 != f2),
            (Identity::Vhd { id, time }, quiet, Identity::Vhd { id: after, time: moved }) => {
                assert_eq!((before, id), (quiet, after));
                assert!(moved > time, "{moved}");
            }
            (
                Identity::Vdi { id, modified },
                quiet,
                Identity::Vdi { id: after, modified: moved },
            ) => {
                assert_eq!((before, id), (quiet, after));
                assert_ne!(modified, moved);
            }
            (before, quiet, loud) => {
                assert_eq!(before, quiet);
                assert_ne!(before, loud, "{format}");
            }
        }
    }
}

#[test]
fn qcow2_header_keeps_what_is_not_the_parents() {
    let (old, _) = image(Format::Qcow2, 1, None);
    let mut plan = Plan {
        virtual_size: SIZE,
        held: vec![Held { start: HELD.start, len: HELD.end - HELD.start, zero: false }],
        parent: Some(parent_plan(Format::Raw, "base.raw", Identity::None)),
        seed: [9; 32],
        made_s: 0,
    };
    let extensions = vec![(0x5354_4c44, vec![7; 1280]), (0x6803_f857, vec![1; 48])];
    let options =
        Qcow2Options { extensions: extensions.clone(), autoclear: 5 << 60, cluster_bits: 12 };
    let layout = |plan: &Plan| {
        let files = images::qcow2::write::layout(plan, &options).expect("written");
        testing::render(&*files[0].layout, &vec![9; 2 << 20], 1 << 16)
    };
    let child = layout(&plan);
    let to = parent_plan(Format::Qcow2, "in/a/folder/new.qcow2", Identity::None);
    let edit = edit_of(Format::Qcow2, &child, &to, false).expect("can be changed");
    let done = carry_out(&child, edit, |_, _| {});
    let found = facts(Format::Qcow2, &done);
    let parent = found.parent.expect("a parent");
    assert_eq!((parent.stated.as_str(), parent.format), (to.name.as_str(), Some(Format::Qcow2)));
    assert_eq!(found.extensions, extensions[..1]);
    assert_eq!(found.autoclear, 0, "bits that nobody here knows are cleared");
    for (changes_bytes, left) in [(false, 4 << 60), (true, 0)] {
        let edit = edit_knowing(&child, &to, changes_bytes, 4 << 60);
        let found = facts(Format::Qcow2, &carry_out(&child, edit, |_, _| {}));
        assert_eq!(found.autoclear, left, "a bit that the caller knows");
    }
    assert_eq!(done[4096..], child[4096..], "only the header changed");

    // Without a stated format there is no room for one where a large extension stands first.
    plan.parent = Some(parent_plan(Format::Qcow2, "base.qcow2", Identity::None));
    let mut unstated = layout(&plan);
    unstated[112..116].copy_from_slice(&0x1234_5678_u32.to_be_bytes());
    let refused = edit_of(Format::Qcow2, &unstated, &to, false).expect_err("no room");
    assert!(refused.to_string().contains("no room in its first sector"), "{refused}");
    drop(old);
}

#[test]
fn what_cannot_be_changed_is_refused() {
    for format in FORMATS {
        let (whole, identity) = image(format, 1, None);
        let to = parent_plan(format, &format!("x.{format}"), identity);
        let refused = edit_of(format, &whole, &to, false).expect_err("has no parent");
        assert!(refused.to_string().contains("has no parent"), "{format}: {refused}");
        let case = Case::new(format, "base", "next");
        for name in ["../x", "/x", "nbd://h/x", ""] {
            let to = ParentPlan { name: name.to_owned(), ..case.to.clone() };
            edit_of(format, &case.child, &to, false).expect_err("a name that leads elsewhere");
        }
        if format != Format::Qcow2 {
            let to = ParentPlan { identity: Identity::None, ..case.to.clone() };
            edit_of(format, &case.child, &to, false).expect_err("a parent without an identity");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// One name after the other: places are used again, and there is always room.
    #[test]
    fn a_child_is_led_from_one_parent_to_the_next(
        names in proptest::collection::vec("[a-z]{1,40}", 1..12),
        format in proptest::sample::select(&FORMATS[..]),
    ) {
        let case = Case::new(format, "base", "next");
        let mut child = case.child.clone();
        for (number, name) in names.iter().enumerate() {
            let to = ParentPlan { name: format!("{name}.x"), ..case.to.clone() };
            let edit = edit_of(format, &child, &to, number % 2 == 1).expect("has room");
            let mut bytes = child.clone();
            if let Edit::InPlace(steps) = edit {
                for step in steps {
                    if let EditStep::Write { at, bytes: new } = step {
                        let at = usize::try_from(at).expect("small");
                        bytes.resize(bytes.len().max(at + new.len()), 0);
                        bytes[at..at + new.len()].copy_from_slice(&new);
                    }
                }
            }
            child = bytes;
            let parent = facts(format, &child).parent.expect("a parent");
            if format != Format::Vdi {
                let first = parent.names.iter().find_map(|name| name.as_ref().ok());
                prop_assert_eq!(first.map(images::names::FileName::as_str), Some(to.name.as_str()));
            }
            prop_assert_eq!(parent.format, Some(format));
        }
    }

    /// Damaged children end in an error or an edit, never in a panic.
    #[test]
    fn a_damaged_child_never_panics(
        format in proptest::sample::select(&FORMATS[..]),
        damage in proptest::collection::vec((0..4096_usize, any::<u8>()), 1..8),
        places in proptest::sample::select(vec![0_usize, 512, 64 << 10, 192 << 10, 2 << 20, (2 << 20) + (64 << 10)]),
    ) {
        let case = Case::new(format, "base", "next");
        let mut child = case.child.clone();
        for (at, byte) in damage {
            let at = (places + at).min(child.len() - 1);
            child[at] = byte;
        }
        let folder = Folder::new().with("child", child);
        let file = folder.id("child").expect("there");
        let relink = Relink {
            parent: case.to.clone(),
            changes_bytes: true,
            fresh: [3; 32],
            outside: false,
            autoclear_known: 0,
            now_s: 0,
        };
        let _ = testing::run(Relinking::new(file, folder.len(file), format, relink), &folder);
    }
}
