//! Which level notices which change of a parent: the table of the design, one row after the other.
//! Sampled digests (level 2) are not made here. Two entries say more than the table does: a seal holds
//! the virtual size of every format, so growing and shrinking show in each header.

use images::{Facts, Format, Identity};
use lineage::{
    Answer, Changes, Child, Conclusion, Id, Label, LabelState, Level, Notice, Outcome, Ranges,
    Seal, SealError, Sign, Stat, Tree, Use, Verdict, Weight, Witness,
    label::{AUTOCLEAR, EXTENSION_TYPE},
};

const NODE: u64 = 64 << 10;
const SIZE: u64 = 4 * NODE;
/// Held by the child, in part of a node.
const HELD: std::ops::Range<u64> = NODE + 4096..NODE + 8192;

#[derive(Clone)]
struct Parent {
    bytes: Vec<u8>,
    witness: Witness,
}

fn narrow(n: u64) -> usize {
    usize::try_from(n).expect("small")
}

fn labelled(generation: u8) -> Id {
    Id::Labelled { generation: [generation; 16], is_open: false, is_intact: true }
}

/// A parent of each format, and of qcow2 with our label too.
fn parents() -> Vec<Parent> {
    let parent = |format, id| {
        let stat = Stat {
            len: 9000,
            modified_ns: 100,
            changed_ns: 100,
            inode: 5,
            device: 1,
            born_ns: Some(50),
        };
        let witness = Witness { format, virtual_size: SIZE, id, files: vec![stat] };
        let mut bytes = vec![0; narrow(SIZE)];
        bytes[..70_000].fill(7);
        Parent { bytes, witness }
    };
    vec![
        parent(Format::Raw, Id::None),
        parent(Format::Qcow2, Id::None),
        parent(Format::Qcow2, labelled(1)),
        parent(Format::Vhd, Id::Vhd { id: [1; 16], time: 100 }),
        parent(Format::Vhdx, Id::Vhdx { file_write: [1; 16], data_write: [2; 16] }),
        parent(Format::Vmdk, Id::Vmdk { content: 0x1001 }),
        parent(Format::Vdi, Id::Vdi { id: [1; 16], modified: [2; 16] }),
    ]
}

impl Parent {
    fn written(mut self, at: u64) -> Self {
        self.bytes[narrow(at)] ^= 0xff;
        self
    }

    /// As the file system sees a write.
    fn touched(mut self) -> Self {
        let file = &mut self.witness.files[0];
        (file.modified_ns, file.changed_ns) = (200, 200);
        self
    }

    /// As the format's own rule has it, by a program that knows the format and not our label.
    fn moved_on(mut self) -> Self {
        match &mut self.witness.id {
            Id::None | Id::Vhd { .. } => {}
            Id::Vhdx { file_write, data_write } => (*file_write, *data_write) = ([8; 16], [9; 16]),
            Id::Vmdk { content } => *content = 0x3003,
            Id::Vdi { modified, .. } => *modified = [9; 16],
            Id::Labelled { is_intact, .. } => *is_intact = false,
        }
        self
    }

    fn resized(mut self, size: u64) -> Self {
        self.bytes.resize(narrow(size), 0);
        self.witness.virtual_size = size;
        self.witness.files[0].len += 1;
        self.touched()
    }

    fn tree(&self, mut tree: Tree) -> Tree {
        for node in 0..tree.nodes() {
            let range = tree.node_range(node);
            tree.put(node, &self.bytes[narrow(range.start)..narrow(range.end)]);
        }
        tree
    }
}

/// What each level notices: file system, header, what the child needs, all bytes.
struct Noticed {
    notice: Notice,
    needed: bool,
    all: bool,
    conclusion: Conclusion,
}

fn notice(before: &Parent, after: &Parent, child: &Child) -> Noticed {
    let size = |parent: &Parent| parent.witness.virtual_size;
    let needed = before.tree(Tree::needed(size(before), child.mask()));
    let all = before.tree(Tree::new(size(before)));
    let seal = Seal::new(1, before.witness.clone(), Some(all.summary())).expect("nobody writes");
    let seal = Seal::parse(&seal.encode()).expect("as it was written");
    let now = after.tree(all.again(size(after)));
    let changes = Changes::between(&needed, &after.tree(needed.again(size(after))));
    let judgement = changes.judge(child);
    let notice = Notice::between(&seal, &after.witness);
    let needed = judgement.overall() != Verdict::Same;
    let all = seal.content.is_some_and(|sealed| sealed != now.summary());
    let conclusion = Conclusion::new(notice.clone(), Some(judgement));
    Noticed { notice, needed, all, conclusion }
}

/// One row for one format; the header's column is what `header` says.
fn row(change: impl Fn(Parent) -> Parent, wanted: [bool; 3], header: impl Fn(&Parent) -> bool) {
    let child = Child::new(SIZE, &std::iter::once(HELD).collect());
    for before in parents() {
        let found = notice(&before, &change(before.clone()), &child);
        let id = before.witness.id;
        assert_eq!(found.notice.is_noticed_at(Level::Stat), wanted[0], "file system, {id:?}");
        assert_eq!(found.notice.is_noticed_at(Level::Header), header(&before), "header, {id:?}");
        assert_eq!(found.needed, wanted[1], "what the child needs, {id:?}");
        assert_eq!(found.all, wanted[2], "all, {id:?}");
    }
}

fn has_moving_id(parent: &Parent) -> bool {
    !matches!(parent.witness.id, Id::None | Id::Vhd { .. })
}

#[test]
fn write_by_a_tool_of_the_format() {
    row(|parent| parent.written(5).touched().moved_on(), [true; 3], has_moving_id);
    // Where the child holds its own bytes, only a digest of all notices.
    let hidden = |parent: Parent| parent.written(HELD.start).touched().moved_on();
    row(hidden, [true, false, true], has_moving_id);
}

#[test]
fn write_with_the_time_put_back() {
    let change = |parent: Parent| {
        let mut after = parent.written(5).touched();
        after.witness.files[0].modified_ns = 100;
        after
    };
    row(change, [true; 3], |_| false);
    let before = parents().remove(0);
    let child = Child::new(SIZE, &Ranges::new());
    let found = notice(&before, &change(before.clone()), &child);
    assert_eq!(found.notice.signs(), [Sign::Changed]);
}

#[test]
fn copy_of_other_bytes_into_the_file() {
    row(|parent| parent.written(5).touched(), [true; 3], |_| false);
}

#[test]
fn one_sector_changed_behind_everything() {
    row(|parent| parent.written(5), [false, true, true], |_| false);
}

#[test]
fn replaced_by_another_file() {
    let change = |parent: Parent| {
        let mut after = parent.written(5).touched();
        after.witness.files[0].inode = 6;
        after.witness.id = match after.witness.id {
            Id::Vhd { .. } => Id::Vhd { id: [7; 16], time: 100 },
            Id::Vhdx { .. } => Id::Vhdx { file_write: [7; 16], data_write: [7; 16] },
            Id::Vmdk { .. } => Id::Vmdk { content: 7 },
            Id::Vdi { .. } => Id::Vdi { id: [7; 16], modified: [7; 16] },
            Id::None | Id::Labelled { .. } => Id::None,
        };
        after
    };
    row(change, [true; 3], |parent| parent.witness.id != Id::None);
}

#[test]
fn opened_for_writing_and_nothing_written() {
    let change = |mut parent: Parent| {
        match &mut parent.witness.id {
            Id::Vhdx { file_write, .. } => *file_write = [8; 16],
            Id::Labelled { is_intact, .. } => *is_intact = false,
            _ => {}
        }
        parent
    };
    let header =
        |parent: &Parent| matches!(parent.witness.id, Id::Vhdx { .. } | Id::Labelled { .. });
    row(change, [false; 3], header);
    for before in parents().into_iter().filter(header) {
        let child = Child::new(SIZE, &Ranges::new());
        let found = notice(&before, &change(before.clone()), &child);
        assert_eq!(found.notice.weight(), Some(Weight::Trigger), "it proves nothing");
        assert_eq!(found.conclusion.outcome, Outcome::Same);
        assert_eq!(found.conclusion.answer(Use::Write), Answer::Note);
    }
}

#[test]
fn touched_copied_or_restored() {
    let change = |mut parent: Parent| {
        let file = &mut parent.witness.files[0];
        (file.inode, file.device, file.born_ns) = (77, 2, Some(300));
        parent.touched()
    };
    row(change, [true, false, false], |_| false);
    let before = parents().remove(0);
    let found = notice(&before, &change(before.clone()), &Child::new(SIZE, &Ranges::new()));
    assert_eq!(found.conclusion.outcome, Outcome::Same);
    assert_eq!(
        found.conclusion.to_string(),
        "the parent's bytes are what the child was made over; only the time of last modification, \
         the inode's time of last change, the inode, the device it lies on, the time its file was \
         made changed"
    );
}

#[test]
fn grown() {
    row(|parent| parent.resized(6 * NODE), [true, false, true], |_| true);
    let tail = |parent: Parent| parent.resized(6 * NODE).written(5 * NODE);
    row(tail, [true, false, true], |_| true); // past the child's end
    let larger = Child::new(6 * NODE, &Ranges::new());
    for before in parents() {
        assert!(notice(&before, &tail(before.clone()), &larger).needed, "the child is larger");
    }
}

#[test]
fn shrunk() {
    row(|parent| parent.resized(NODE), [true; 3], |_| true);
    // Only zeroes were cut off.
    row(|parent| parent.resized(3 * NODE), [true, false, true], |_| true);
}

#[test]
fn commit_of_a_sibling_into_the_parent() {
    // QEMU moves VMDK's CID, and keeps qcow2's autoclear bits.
    let change = |parent: Parent| {
        let after = parent.written(5).touched();
        if matches!(after.witness.id, Id::Vmdk { .. }) { after.moved_on() } else { after }
    };
    row(change, [true; 3], |parent| matches!(parent.witness.id, Id::Vmdk { .. }));
}

#[test]
fn defragmented_or_compressed_anew() {
    let change = |mut parent: Parent| {
        parent.witness.files[0].len = 4000;
        parent.touched().moved_on()
    };
    row(change, [true, false, false], has_moving_id);
}

#[test]
fn converted_to_another_format() {
    let before = parents().remove(3);
    let mut after = before.clone();
    after.witness.format = Format::Vhdx;
    after.witness.id = Id::Vhdx { file_write: [3; 16], data_write: [4; 16] };
    let found = notice(&before, &after, &Child::new(SIZE, &Ranges::new()));
    assert_eq!(found.notice.signs(), [Sign::Format]);
    assert_eq!(found.conclusion.outcome, Outcome::Same);
}

#[test]
fn conclusions_have_their_answers_and_words() {
    let before = parents().remove(4);
    let child = Child::new(SIZE, &std::iter::once(HELD).collect());
    let conclude = |after: &Parent| notice(&before, after, &child).conclusion;
    let exits = |all: &Conclusion| [Use::Check, Use::Read, Use::Write].map(|what| all.exit(what));

    let same = conclude(&before);
    assert_eq!((same.outcome, exits(&same)), (Outcome::Same, [0, 0, 0]));
    assert_eq!(same.to_string(), "the parent is what the child was made over");

    let visible = conclude(&before.clone().written(5).touched().moved_on());
    assert_eq!((visible.outcome, exits(&visible)), (Outcome::Visible, [1, 6, 6]));
    assert_eq!(
        visible.to_string(),
        "the parent changed where the child reads it: 65536 bytes in 1 range, the first at byte 0; \
         changed too: the time of last modification, the inode's time of last change, the \
         FileWriteGuid, the DataWriteGuid"
    );

    let seal = Seal::new(0, before.witness.clone(), None).expect("nobody writes");
    let no_digest = |after: &Parent| Conclusion::new(Notice::between(&seal, &after.witness), None);
    let quiet = no_digest(&before);
    assert_eq!((quiet.outcome, exits(&quiet)), (Outcome::Quiet, [0, 0, 0]));
    let touched = no_digest(&before.clone().touched());
    assert_eq!((touched.outcome, exits(&touched)), (Outcome::Unknown, [1, 0, 6]));
    assert_eq!(touched.answer(Use::Read), Answer::Warn);
    assert!(touched.to_string().starts_with("the parent may have changed ("), "{touched}");
    let moved = no_digest(&before.clone().moved_on());
    assert!(moved.to_string().starts_with("the parent is not the one that was sealed"), "{moved}");

    let hidden = before.clone().written(HELD.start);
    let changes = Changes::known(std::iter::once(HELD.start..HELD.start + 512).collect());
    let shadowed =
        Conclusion::new(Notice::between(&seal, &hidden.witness), Some(changes.judge(&child)));
    assert_eq!((shadowed.outcome, exits(&shadowed)), (Outcome::Shadowed, [0, 0, 0]));
    assert_eq!(
        shadowed.to_string(),
        "the parent changed only where the child holds its own bytes: 512 bytes in 1 range, the \
         first at byte 69632"
    );
    assert!(!shadowed.advice().is_empty() && same.advice().is_empty());
}

fn facts(format: Format, extensions: Vec<(u32, Vec<u8>)>, autoclear: u64) -> Facts {
    Facts {
        format,
        variant: "v3",
        virtual_size: SIZE,
        unit: NODE,
        sector: 512,
        creator: None,
        identity: Identity::None,
        parent: None,
        files: Vec::new(),
        features: Vec::new(),
        extensions,
        autoclear,
        snapshots: Vec::new(),
        bitmaps: Vec::new(),
        notes: Vec::new(),
        read_only: None,
    }
}

#[test]
fn a_label_in_qcow2_is_the_identity() {
    let (label, bytes) = Label::first([3; 16], SIZE, None);
    let with = |bytes: &[u8], autoclear| {
        let extensions = vec![(0x1234_5678, vec![1]), (EXTENSION_TYPE, bytes.to_vec())];
        Id::of(&facts(Format::Qcow2, extensions, autoclear))
    };
    let id = |is_open, is_intact| Id::Labelled { generation: [3; 16], is_open, is_intact };
    assert_eq!(with(&bytes, AUTOCLEAR), id(false, true));
    assert_eq!(with(&bytes, 1), id(false, false), "a foreign writer cleared bit 62");
    assert_eq!(with(&bytes[..700], AUTOCLEAR), Id::None);
    assert_eq!(with(&[], AUTOCLEAR), Id::None);
    let raw = facts(Format::Raw, vec![(EXTENSION_TYPE, bytes.clone())], AUTOCLEAR);
    assert_eq!(Id::of(&raw), Id::None);

    let open = Label { sequence: 2, state: LabelState::Open, ..label };
    let mut both = bytes;
    both[open.place()..][..256].copy_from_slice(&open.encode());
    assert_eq!(with(&both, AUTOCLEAR), id(true, true), "the greater sequence counts");
    both[open.place() + 20] ^= 1;
    assert_eq!(with(&both, AUTOCLEAR), id(false, true), "a torn copy leaves the other");
}

#[test]
fn what_is_being_written_is_not_sealed() {
    let mut witness = parents().remove(2).witness;
    let with = |witness: &mut Witness, is_open, is_intact| {
        witness.id = Id::Labelled { generation: [1; 16], is_open, is_intact };
        Seal::new(0, witness.clone(), None)
    };
    assert_eq!(with(&mut witness, true, true), Err(SealError::Open));
    let void = with(&mut witness, true, false).expect("the label says nothing any more");
    assert_eq!(void.witness.id, Id::None);
    let other = Tree::new(SIZE + 1).summary();
    let refused = Seal::new(0, parents().remove(0).witness, Some(other));
    assert_eq!(refused, Err(SealError::Size { digest: SIZE + 1, layer: SIZE }));
}
