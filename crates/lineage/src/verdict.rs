//! What a change of the parent means for one child.
//!
//! A changed byte is visible through a child if the child does not hold it and does not end before it.
//! [`Changes`] say which bytes changed, as exactly as is known; [`Child`] says what the child holds
//! *now*, by sector; [`Judgement`] lays one over the other, and [`Conclusion`] adds the signs.
//!
//! Doubt never becomes "harmless": of a 64 KiB node that differs somewhere, and of which the child
//! holds a part, it is unknown who sees the change until both bytes are compared
//! ([`Changes::refine`]). Harmless is only for *this* child, and only while it holds what it holds.

use std::{collections::BTreeMap, fmt, ops::Range};

use images::{Extent, Kind, Trouble};

use crate::{Difference, Notice, Ranges, SECTOR_BYTES, Tree, Weight, digest::NODE_BYTES};

/// What a child holds of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    size: u64,
    held: Ranges,
}

/// Which bytes of a parent changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Every sector of these differs, or the part of it that the larger disk has.
    exact: Ranges,
    /// In each node of these some byte differs, other than those of `mask`.
    coarse: Ranges,
    /// Whether these changed is not known.
    unknown: Ranges,
    /// What the compared trees did not look at.
    mask: Ranges,
    /// Of these nodes of `coarse`, by their starts: in these runs some byte differs.
    narrowed: BTreeMap<u64, Ranges>,
}

/// What a range of a parent is for a child. In rising order of what it takes to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// The bytes are what they were.
    Same,
    /// Changed, past the child's end.
    Beyond,
    /// Changed, and the child holds all of it.
    Shadowed,
    /// Perhaps changed where the child reads it.
    Unknown,
    /// Changed where the child reads it.
    Visible,
}

/// Verdicts by range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Ascending; what lies between is the same.
    ranges: Vec<(Range<u64>, Verdict)>,
}

/// What is to be said of a parent and its child in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conclusion {
    /// In one word.
    pub outcome: Outcome,
    /// What file system and header show.
    pub notice: Notice,
    /// What the bytes show; `None` where there was no digest.
    pub judgement: Option<Judgement>,
}

/// A conclusion in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// All bytes that the child needs were compared and are what they were.
    Same,
    /// Nothing tells of a change; not all bytes were compared.
    Quiet,
    /// Changed only past the child's end.
    Beyond,
    /// Changed only where the child holds its own.
    Shadowed,
    /// Signs of a change, and bytes that were not compared.
    Unknown,
    /// Changed where the child reads it.
    Visible,
}

/// What an answer is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Use {
    /// Looking whether all is well.
    Check,
    /// Reading through the child.
    Read,
    /// Writing to the child.
    Write,
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// Go on.
    Go,
    /// Go on, and say what was found; the seal can be renewed.
    Note,
    /// Go on, and warn.
    Warn,
    /// Stop, with this class of trouble. Reading goes on by an explicit flag; writing after an
    /// `Unknown` by `accept` with a reason.
    Refuse(Trouble),
}

impl Verdict {
    /// The word for scripts.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Beyond => "beyond",
            Self::Shadowed => "shadowed",
            Self::Unknown => "unknown",
            Self::Visible => "visible",
        }
    }
}

impl Child {
    /// A child of `size` bytes that holds `held`. Sectors that it holds in part only fall through.
    pub fn new(size: u64, held: &Ranges) -> Self {
        let whole = |run: Range<u64>| {
            let end = if run.end == size { size } else { run.end / SECTOR_BYTES * SECTOR_BYTES };
            run.start.next_multiple_of(SECTOR_BYTES)..end
        };
        Self { size, held: held.within(0..size).map(whole).collect() }
    }

    /// A child by its own map (`Chain::layer_map`). What is damaged falls through: whether the child
    /// holds it nobody knows.
    pub fn of_map<'e>(size: u64, map: impl IntoIterator<Item = &'e Extent>) -> Self {
        let holds = |kind: &Kind| !matches!(kind, Kind::Parent | Kind::Hole | Kind::Corrupt(_));
        let held = map.into_iter().filter(|extent| holds(&extent.kind));
        Self::new(size, &held.map(|extent| extent.start..extent.end()).collect())
    }

    /// Bytes that its guest sees.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What it holds.
    pub fn held(&self) -> &Ranges {
        &self.held
    }

    /// What it does not need of any parent: the mask of [`Tree::needed`].
    pub fn mask(&self) -> Ranges {
        let mut mask = self.held.clone();
        mask.insert(self.size..u64::MAX);
        mask
    }

    /// What it reads of a range of its parent.
    fn sees(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        self.held.gaps(range.start..range.end.min(self.size))
    }
}

impl Changes {
    /// What two trees tell.
    pub fn between(sealed: &Tree, now: &Tree) -> Self {
        let Difference { differs: coarse, unknown } = sealed.compare(now);
        Self { coarse, unknown, mask: sealed.mask().clone(), ..Self::default() }
    }

    /// Two trees of the nodes that a child held in part, taken without what it held: of such a node
    /// they tell whether a byte changed that the child needed, or one that it did not.
    pub fn sharpen(&mut self, sealed: &Tree, now: &Tree) {
        if sealed.mask() != now.mask() {
            return;
        }
        let nodes: Vec<_> = self.coarse.iter().flat_map(cut_by_nodes).collect();
        for node in nodes {
            let number = node.start / NODE_BYTES;
            let (Some(was), Some(is)) = (sealed.get(number), now.get(number)) else { continue };
            let held: Ranges = sealed.mask().within(node.clone()).collect();
            if was == is {
                self.narrowed.insert(node.start, held);
            } else {
                // Whether what was held changed, too, nobody looked.
                self.unknown.extend(held.iter());
                self.narrowed.insert(node.start, held.gaps(node).collect());
            }
        }
    }

    /// Bytes that are known to differ, in whole sectors.
    pub fn known(exact: Ranges) -> Self {
        Self { exact, ..Self::default() }
    }

    /// What is known without any digest of a parent's `size` bytes: nothing.
    pub fn unknown(size: u64) -> Self {
        Self { unknown: std::iter::once(0..size).collect(), ..Self::default() }
    }

    /// Nodes worth comparing byte by byte, where the old bytes can be had.
    pub fn to_refine(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.coarse.iter().chain(self.unknown.iter())
    }

    /// Takes in both bytes from `start` on, which begins a sector; the shorter one ended there and
    /// reads as zero. What they cover is exact from now on.
    pub fn refine(&mut self, start: u64, before: &[u8], after: &[u8]) {
        assert!(start.is_multiple_of(SECTOR_BYTES), "bytes to compare begin within a sector");
        let len = before.len().max(after.len());
        let range = start..start + crate::wire::wide(len);
        // A coarse node of which this is a part only may hold its difference elsewhere.
        let nodes = range.start / NODE_BYTES * NODE_BYTES..range.end.next_multiple_of(NODE_BYTES);
        let half_known: Vec<_> = self.coarse.within(nodes).collect();
        for run in half_known {
            let covered = range.start <= run.start && run.end <= range.end;
            if !covered {
                let (coarse, unknown) = (&mut self.coarse, &mut self.unknown);
                for part in cut_by_nodes(run) {
                    let is_cut = part.start < range.end
                        && range.start < part.end
                        && !(range.start <= part.start && part.end <= range.end);
                    if is_cut {
                        coarse.remove(part.clone());
                        unknown.insert(part);
                    }
                }
            }
        }
        for set in [&mut self.exact, &mut self.coarse, &mut self.unknown] {
            set.remove(range.clone());
        }
        let sector = crate::wire::narrow(SECTOR_BYTES);
        let piece = |bytes: &[u8], at: usize| {
            let rest = bytes.get(at..).unwrap_or_default();
            let mut piece = rest[..rest.len().min(sector)].to_vec();
            piece.resize(sector, 0);
            piece
        };
        for at in (0..len).step_by(sector) {
            if piece(before, at) != piece(after, at) {
                let place = start + crate::wire::wide(at);
                self.exact.insert(place..range.end.min(place + SECTOR_BYTES));
            }
        }
        // The bytes were compared whatever a mask hid: it hides nothing here any more.
        self.mask.remove(range);
    }

    /// What they are for a child as it is now.
    pub fn judge(&self, child: &Child) -> Judgement {
        let mut judgement = Judgement::default();
        for run in self.exact.iter() {
            judgement.split(run, child, Verdict::Visible);
        }
        for run in self.coarse.iter() {
            for node in cut_by_nodes(run) {
                self.judge_node(node, child, &mut judgement);
            }
        }
        // What the sealed digest left out, because the child held it then, and it does no more.
        let let_go = self.mask.within(0..child.size).flat_map(|run| child.sees(run));
        let unknown: Ranges = self.unknown.iter().chain(let_go).collect();
        for run in unknown.iter().flat_map(|run| child.sees(run)) {
            judgement.ranges.push((run, Verdict::Unknown));
        }
        judgement.in_order()
    }

    /// Some byte of the node differs that no mask hid, and within what it was narrowed to. Only where the child sees all of those, or
    /// none, is it known whether it sees the one.
    fn judge_node(&self, node: Range<u64>, child: &Child, judgement: &mut Judgement) {
        let place = node.start / NODE_BYTES * NODE_BYTES;
        let narrowed = self.narrowed.get(&place).cloned();
        let looked_at: Ranges = narrowed.unwrap_or_else(|| self.mask.gaps(node).collect());
        let sees_all = looked_at.iter().all(|run| child.sees(run.clone()).eq([run]));
        let verdict = if sees_all { Verdict::Visible } else { Verdict::Unknown };
        for run in looked_at.iter() {
            judgement.split(run, child, verdict);
        }
    }
}

/// A run of bytes in pieces of one node each.
fn cut_by_nodes(run: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let nodes = run.start / NODE_BYTES..run.end.div_ceil(NODE_BYTES);
    nodes.map(move |node| {
        let start = node * NODE_BYTES;
        run.start.max(start)..run.end.min(start.saturating_add(NODE_BYTES))
    })
}

impl Judgement {
    /// Cuts a changed range into what is past the child's end, what it holds, and what it sees.
    fn split(&mut self, run: Range<u64>, child: &Child, seen: Verdict) {
        let inside = run.start..run.end.min(child.size);
        let beyond = run.start.max(child.size)..run.end;
        let shadowed = child.held.within(inside.clone()).map(|run| (run, Verdict::Shadowed));
        let visible = child.sees(inside).map(|run| (run, seen));
        let all = shadowed.chain(visible).chain([(beyond, Verdict::Beyond)]);
        self.ranges.extend(all.filter(|(run, _)| !run.is_empty()));
    }

    /// Ascending, each byte once with its gravest verdict, neighbours of one verdict joined.
    fn in_order(self) -> Self {
        let mut by_verdict = [
            (Verdict::Visible, Ranges::new()),
            (Verdict::Unknown, Ranges::new()),
            (Verdict::Shadowed, Ranges::new()),
            (Verdict::Beyond, Ranges::new()),
        ];
        for (run, verdict) in self.ranges {
            let place = by_verdict.iter_mut().find(|(known, _)| *known == verdict);
            place.expect("what is the same is not listed").1.insert(run);
        }
        let (mut graver, mut ranges) = (Ranges::new(), Vec::new());
        for (verdict, runs) in &by_verdict {
            ranges.extend(runs.minus(&graver).iter().map(|run| (run, *verdict)));
            graver.extend(runs.iter());
        }
        ranges.sort_unstable_by_key(|(run, _)| run.start);
        Self { ranges }
    }

    /// Every range that is not the same, ascending.
    pub fn ranges(&self) -> &[(Range<u64>, Verdict)] {
        &self.ranges
    }

    /// The verdict on one byte.
    pub fn at(&self, offset: u64) -> Verdict {
        let after = self.ranges.partition_point(|(run, _)| run.end <= offset);
        let found = self.ranges.get(after).filter(|(run, _)| run.contains(&offset));
        found.map_or(Verdict::Same, |(_, verdict)| *verdict)
    }

    /// The gravest verdict.
    pub fn overall(&self) -> Verdict {
        self.ranges.iter().map(|(_, verdict)| *verdict).max().unwrap_or(Verdict::Same)
    }

    /// The ranges of one verdict.
    pub fn of(&self, wanted: Verdict) -> Ranges {
        let runs = self.ranges.iter().filter(|(_, verdict)| *verdict == wanted);
        runs.map(|(run, _)| run.clone()).collect()
    }
}

impl Conclusion {
    /// From the signs, and from the bytes where digests of them were compared.
    pub fn new(notice: Notice, judgement: Option<Judgement>) -> Self {
        let outcome = match judgement.as_ref().map(Judgement::overall) {
            Some(Verdict::Visible) => Outcome::Visible,
            None | Some(Verdict::Unknown) if notice.is_quiet() => Outcome::Quiet,
            None | Some(Verdict::Unknown) => Outcome::Unknown,
            Some(Verdict::Shadowed) => Outcome::Shadowed,
            Some(Verdict::Beyond) => Outcome::Beyond,
            Some(Verdict::Same) => Outcome::Same,
        };
        Self { outcome, notice, judgement }
    }

    /// Whether to go on.
    pub fn answer(&self, purpose: Use) -> Answer {
        match (self.outcome, purpose) {
            (Outcome::Same, _) if !self.notice.is_quiet() => Answer::Note,
            (Outcome::Same | Outcome::Quiet, _) => Answer::Go,
            (Outcome::Beyond | Outcome::Shadowed, _) => Answer::Note,
            (Outcome::Unknown, Use::Read) => Answer::Warn,
            (Outcome::Unknown | Outcome::Visible, _) => Answer::Refuse(Trouble::Differs),
        }
    }

    /// The exit code of a command that ends with this answer: 0, 1 from a check, 6 where opening is
    /// refused.
    pub fn exit(&self, purpose: Use) -> u8 {
        match (self.answer(purpose), purpose) {
            (Answer::Refuse(_), Use::Check) => 1,
            (Answer::Refuse(_), _) => 6,
            _ => 0,
        }
    }

    /// What a person can do; empty where nothing need be done.
    pub fn advice(&self) -> &'static str {
        match self.outcome {
            Outcome::Same if self.notice.is_quiet() => "",
            Outcome::Same => "renew the seal",
            Outcome::Quiet => "",
            Outcome::Beyond => "before the child is grown past its present end, look again",
            Outcome::Shadowed => {
                "other children of this parent may see the change; so will this one where it \
                 discards what it holds"
            }
            Outcome::Unknown => {
                "compare with a copy of the parent as it was, or accept the change with a reason"
            }
            Outcome::Visible => {
                "put the parent back as it was (from a copy, or from a volume's history), or open \
                 the child for reading only"
            }
        }
    }
}

impl fmt::Display for Conclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |verdict| self.judgement.as_ref().map(|all| Amount(all.of(verdict)));
        let amount = |f: &mut fmt::Formatter<'_>, verdict| {
            of(verdict).filter(|all| !all.0.is_empty()).map_or(Ok(()), |all| write!(f, ": {all}"))
        };
        match self.outcome {
            Outcome::Same if self.notice.is_quiet() => {
                f.write_str("the parent is what the child was made over")
            }
            Outcome::Same => {
                write!(f, "the parent's bytes are what the child was made over; only ")?;
                write!(f, "{} changed", self.notice)
            }
            Outcome::Quiet => {
                f.write_str("nothing tells of a change of the parent; not all bytes were compared")
            }
            Outcome::Beyond => {
                f.write_str("the parent changed past the end of the child")?;
                amount(f, Verdict::Beyond)
            }
            Outcome::Shadowed => {
                f.write_str("the parent changed only where the child holds its own bytes")?;
                amount(f, Verdict::Shadowed)
            }
            Outcome::Unknown => {
                let what = match self.notice.weight() {
                    Some(Weight::Proof) => "the parent is not the one that was sealed",
                    _ => "the parent may have changed",
                };
                write!(f, "{what} ({}), and its bytes cannot all be compared", self.notice)?;
                amount(f, Verdict::Unknown)
            }
            Outcome::Visible => {
                f.write_str("the parent changed where the child reads it")?;
                amount(f, Verdict::Visible)?;
                if !self.notice.is_quiet() {
                    write!(f, "; changed too: {}", self.notice)?;
                }
                Ok(())
            }
        }
    }
}

/// Bytes and ranges in words.
struct Amount(Ranges);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bytes, runs) = (self.0.total(), self.0.runs());
        let ranges = if runs == 1 { "range" } else { "ranges" };
        let first = self.0.first().unwrap_or_default();
        write!(f, "{bytes} bytes in {runs} {ranges}, the first at byte {first}")
    }
}
