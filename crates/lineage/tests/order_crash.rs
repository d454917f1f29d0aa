//! A layer's writer cut off between any two steps, with any part of what was not durable lost:
//! never the old identifier over new bytes.

use lineage::{
    Dependants, Label, LabelState, Malformed, Order, OrderError, Step,
    label::{COPY_BYTES, COPY_STRIDE, EXTENSION_BYTES},
};

const OLD: [u8; 16] = [1; 16];
const NEW: [u8; 16] = [2; 16];
const NOBODY: Dependants = Dependants { living: 0, may_break: false };

/// Where the guest's bytes lie in the small file, after the label.
const DATA: usize = EXTENSION_BYTES;

/// A file with a volatile cache: what was written since the last sync may be lost in any part.
#[derive(Clone)]
struct File {
    durable: Vec<u8>,
    /// Pieces in the order they were written; none is larger than what is written whole or not.
    pending: Vec<(usize, Vec<u8>)>,
}

impl File {
    fn new(label: &[u8]) -> Self {
        let mut durable = label.to_vec();
        durable.resize(DATA + 8, b'-');
        Self { durable, pending: Vec::new() }
    }

    /// A write that may be torn at two places.
    fn write(&mut self, at: usize, bytes: &[u8]) {
        let third = bytes.len().div_ceil(3);
        for (place, piece) in bytes.chunks(third).enumerate() {
            self.pending.push((at + place * third, piece.to_vec()));
        }
    }

    fn sync(&mut self) {
        for (at, piece) in std::mem::take(&mut self.pending) {
            self.durable[at..at + piece.len()].copy_from_slice(&piece);
        }
    }

    /// Every file that a cut now may leave.
    fn cuts(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        assert!(self.pending.len() <= 12, "few enough to try all");
        (0..1_u32 << self.pending.len()).map(|kept| {
            let mut file = self.clone();
            let mut bit = 0;
            file.pending.retain(|_| {
                bit += 1;
                kept >> (bit - 1) & 1 == 1
            });
            file.sync();
            file.durable
        })
    }
}

fn label_of(bytes: &[u8]) -> Result<Label, Malformed> {
    Label::newest(&bytes[..EXTENSION_BYTES])
}

fn is_changed(bytes: &[u8]) -> bool {
    bytes[DATA..] != *b"--------"
}

/// Ends that were met.
#[derive(Debug, Default)]
struct Met {
    cuts: u32,
    misses: u32,
    false_alarms: u32,
    right_alarms: u32,
    quiet: u32,
}

impl Met {
    /// Looks at every file that a cut now may leave, as a child sealed under [`OLD`] does.
    fn look(&mut self, file: &File) {
        for bytes in file.cuts() {
            self.cuts += 1;
            let is_old = label_of(&bytes).is_ok_and(|label| label.generation == OLD);
            match (is_old, is_changed(&bytes)) {
                (true, true) => self.misses += 1,
                (true, false) => self.quiet += 1,
                (false, false) => self.false_alarms += 1,
                (false, true) => self.right_alarms += 1,
            }
        }
    }
}

/// Carries an order out, looking at each cut before and after each step.
fn drive(file: &mut File, met: &mut Met, mut order: Order, early: bool) -> Vec<&'static str> {
    let mut steps = Vec::new();
    if early {
        file.write(DATA, b"eee"); // what a driver must not do: planted
    }
    loop {
        met.look(file);
        match order.next() {
            Step::Lease => steps.push("lease"),
            Step::WriteLabel { at, copy } => {
                steps.push("label");
                file.write(at, &copy[..]);
            }
            Step::SyncFile => {
                steps.push("sync");
                file.sync();
            }
            Step::SyncFolder => steps.push("folder"),
            Step::Writing => {
                steps.push("writing");
                for (at, bytes) in [(DATA, b"abc"), (DATA + 5, b"xyz"), (DATA, b"def")] {
                    file.write(at, bytes);
                    met.look(file);
                }
                order.close(8, None);
                continue;
            }
            Step::Release => steps.push("release"),
            Step::Done => return steps,
        }
        met.look(file);
        order.done();
    }
}

#[test]
fn no_cut_leaves_the_old_identifier_over_new_bytes() {
    let (label, bytes) = Label::first(OLD, 8, None);
    for has_new_name in [false, true] {
        let (mut file, mut met) = (File::new(&bytes), Met::default());
        let order = Order::open(&label, NEW, NOBODY, has_new_name).expect("nobody depends");
        let steps = drive(&mut file, &mut met, order, false);
        let folder: &[&str] = if has_new_name { &["folder"] } else { &[] };
        let wanted: Vec<_> = ["lease", "label", "sync"]
            .iter()
            .chain(folder)
            .chain(&["writing", "sync", "label", "sync", "release"])
            .copied()
            .collect();
        assert_eq!(steps, wanted);
        assert_eq!(met.misses, 0, "{met:?}");
        assert!(met.false_alarms > 0 && met.right_alarms > 0 && met.quiet > 0, "{met:?}");
        let label = label_of(&file.durable).expect("closed");
        assert_eq!((label.generation, label.was), (NEW, OLD));
        assert_eq!((label.state, label.sequence), (LabelState::Closed, 3));
    }
}

/// The same look finds the fault of a driver that lets bytes through too early.
#[test]
fn bytes_let_through_too_early_are_a_miss() {
    let (label, bytes) = Label::first(OLD, 8, None);
    let (mut file, mut met) = (File::new(&bytes), Met::default());
    let order = Order::open(&label, NEW, NOBODY, false).expect("nobody depends");
    drive(&mut file, &mut met, order, true);
    assert!(met.misses > 0, "{met:?}");
}

/// A label written over the last one may be torn, and then there is none at all; the two copies
/// always leave one that can be read.
#[test]
fn every_cut_leaves_a_label() {
    let (label, bytes) = Label::first(OLD, 8, None);
    let mut file = File::new(&bytes);
    let mut order = Order::open(&label, NEW, NOBODY, false).expect("nobody depends");
    while order.next() != Step::Writing {
        if let Step::WriteLabel { at, copy } = order.next() {
            file.write(at, &copy[..]);
            assert!(file.cuts().all(|bytes| label_of(&bytes).is_ok()));
            let mut over = File::new(&bytes);
            over.write(label.place(), &copy[..]);
            assert!(over.cuts().any(|bytes| label_of(&bytes).is_err()), "one copy is not enough");
            file.sync();
        }
        order.done();
    }
}

/// Cut while it is written, opened again, cut again: each opening moves the generation on.
#[test]
fn an_opening_after_a_cut_moves_on() {
    let (label, bytes) = Label::first(OLD, 8, None);
    let mut file = File::new(&bytes);
    let mut order = Order::open(&label, NEW, NOBODY, false).expect("nobody depends");
    while order.next() != Step::Writing {
        if let Step::WriteLabel { at, copy } = order.next() {
            file.write(at, &copy[..]);
        } else if order.next() == Step::SyncFile {
            file.sync();
        }
        order.done();
    }
    file.write(DATA, b"abc");
    for bytes in file.cuts() {
        let label = label_of(&bytes).expect("durable");
        assert_eq!((label.state, label.generation), (LabelState::Open, NEW));
        let again = Order::open(&label, NEW, NOBODY, false);
        assert_eq!(again.err(), Some(OrderError::Generation), "no generation is used twice");
        let mut met = Met::default();
        let mut file = File::new(&bytes[..EXTENSION_BYTES]);
        let order = Order::open(&label, [3; 16], NOBODY, false).expect("another generation");
        drive(&mut file, &mut met, order, false);
        assert_eq!((met.misses, met.quiet), (0, 0), "{met:?}");
        assert_eq!(label_of(&file.durable).map(|label| label.was), Ok(NEW));
    }
}

#[test]
fn children_are_not_broken_without_a_word() {
    let (label, _) = Label::first(OLD, 8, None);
    let open =
        |living, may_break| Order::open(&label, NEW, Dependants { living, may_break }, false).err();
    assert_eq!(open(2, false), Some(OrderError::Dependants(2)));
    assert_eq!(open(2, true), None);
    assert_eq!(open(0, false), None);
    let last = Label { sequence: u64::MAX - 1, ..label };
    assert_eq!(Order::open(&last, NEW, NOBODY, false).err(), Some(OrderError::Sequence));
}

#[test]
fn copies_lie_apart_by_more_than_a_sector() {
    const { assert!(COPY_STRIDE - COPY_BYTES >= 512) };
}
