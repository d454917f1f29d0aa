//! Which grains and tables were met, so that a second claim of the same bytes is found at the read.
//!
//! Tables claim when they are first loaded, whatever the order in which a client reads: of two
//! claimants the later one is damaged, and stays so when its table is loaded anew. Bounded: a set
//! that is full says that it does not know, and [`Claims::is_incomplete`] tells a check of it.

use std::collections::{BTreeMap, BTreeSet};

use crate::overlap::{Claim, Seen};

/// What all sparse extents of one image claim; an extent claims in its own file only.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Grains whose offsets leave the extent's usual remainder, by number.
    grains: Seen,
    /// Tables, headers and grains at odd offsets: start to end. None meets another.
    others: BTreeMap<(u32, u64), u64>,
    /// Tables that have claimed.
    tables: Seen,
    /// Grains and whole tables that came second.
    damaged: BTreeSet<(u32, Claimant)>,
    incomplete: bool,
    given_up: bool,
}

/// Who claims, within an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Claimant {
    Table(u64),
    Grain(u64),
}

/// How the grains of an extent lie in its file.
#[derive(Debug)]
pub(super) struct Lie {
    /// The extent's place in the image.
    pub extent: u32,
    /// Bytes of a grain.
    pub grain: u64,
    /// Offset of the first grain that claimed, modulo the grain.
    pub phase: Option<u64>,
}

/// Ranges that are kept: about 16 MiB.
const OTHERS_MAX: usize = 1 << 18;

/// Damaged grains that are kept.
const DAMAGED_MAX: usize = 1 << 18;

/// Bits of a number within one extent; above them is the extent's own.
const NUMBER_BITS: u32 = 44;

impl Claims {
    /// Claims a range that is no whole grain; whether nobody had any of it.
    pub fn range(&mut self, lie: &Lie, start: u64, len: u64) -> bool {
        let end = start.saturating_add(len);
        if len == 0 {
            return true;
        }
        if self.meets_other(lie, start, end) || self.meets_grain(lie, start, end) {
            return false;
        }
        if self.others.len() >= OTHERS_MAX {
            self.incomplete = true;
            return true;
        }
        self.others.insert((lie.extent, start), end);
        true
    }

    /// Claims the grain at `start` of the file; whether nobody had any of it.
    pub fn grain(&mut self, lie: &mut Lie, start: u64) -> bool {
        let phase = *lie.phase.get_or_insert(start % lie.grain);
        if start % lie.grain != phase {
            return self.range(lie, start, lie.grain);
        }
        if self.meets_other(lie, start, start.saturating_add(lie.grain)) {
            return false;
        }
        let claim = key(lie.extent, start / lie.grain).map(|key| self.grains.claim(key));
        self.incomplete |= !matches!(claim, Some(Claim::First | Claim::Again));
        claim != Some(Claim::Again)
    }

    /// Whether a table is loaded for the first time, so that it and its grains have to claim.
    pub fn is_first(&mut self, extent: u32, table: u64) -> bool {
        let claim = key(extent, table).map(|key| self.tables.claim(key));
        self.incomplete |= !matches!(claim, Some(Claim::First | Claim::Again));
        claim == Some(Claim::First)
    }

    /// Keeps in mind that the bytes of a claimant belong to another.
    pub fn damage(&mut self, extent: u32, claimant: Claimant) {
        if self.damaged.len() >= DAMAGED_MAX {
            self.given_up = true;
        } else {
            self.damaged.insert((extent, claimant));
        }
    }

    /// Whether a claimant came second. Where there were too many to keep: everyone did.
    pub fn is_damaged(&self, extent: u32, claimant: Claimant) -> bool {
        self.given_up || self.damaged.contains(&(extent, claimant))
    }

    /// Whether a set was full, so that a second claim may have passed for a first.
    pub fn is_incomplete(&self) -> bool {
        self.incomplete
    }

    fn meets_other(&self, lie: &Lie, start: u64, end: u64) -> bool {
        let before = self.others.range(..(lie.extent, end)).next_back();
        before.is_some_and(|((extent, _), reach)| *extent == lie.extent && *reach > start)
    }

    fn meets_grain(&self, lie: &Lie, start: u64, end: u64) -> bool {
        let Some(phase) = lie.phase else { return false };
        // A grain of number n lies at n * grain + phase.
        let first = start.saturating_sub(phase) / lie.grain;
        let past = end.saturating_sub(phase).div_ceil(lie.grain);
        (first..past).any(|number| key(lie.extent, number).is_some_and(|key| self.grains.has(key)))
    }
}

fn key(extent: u32, number: u64) -> Option<u64> {
    (number >> NUMBER_BITS == 0).then(|| u64::from(extent) << NUMBER_BITS | number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lie(extent: u32) -> Lie {
        Lie { extent, grain: 4096, phase: None }
    }

    #[test]
    fn grains_and_ranges_keep_apart() {
        let (mut claims, mut lie) = (Claims::default(), lie(0));
        assert!(claims.range(&lie, 0, 512));
        assert!(claims.grain(&mut lie, 512 + 4096));
        assert!(!claims.grain(&mut lie, 512 + 4096));
        assert!(!claims.range(&lie, 512 + 8191, 1));
        assert!(!claims.range(&lie, 4000, 609));
        assert!(claims.range(&lie, 4000, 608));
        assert!(claims.range(&lie, 512 + 8192, 512));
        assert!(!claims.grain(&mut lie, 512 + 8192));
    }

    #[test]
    fn grains_at_odd_offsets_are_ranges() {
        let (mut claims, mut lie) = (Claims::default(), lie(3));
        assert!(claims.grain(&mut lie, 4096));
        assert!(!claims.grain(&mut lie, 8192 - 512));
        assert!(claims.grain(&mut lie, 8192 + 512));
        assert!(!claims.grain(&mut lie, 8192));
        assert!(!claims.grain(&mut lie, 8192 + 4096));
        assert!(claims.grain(&mut lie, 8192 + 8192));
    }

    #[test]
    fn extents_claim_in_files_of_their_own() {
        let mut claims = Claims::default();
        let (mut one, mut two) = (lie(1), lie(2));
        assert!(claims.grain(&mut one, 4096) && claims.grain(&mut two, 4096));
        assert!(claims.range(&one, 0, 4096) && claims.range(&two, 0, 4096));
        assert!(claims.is_first(1, 0) && claims.is_first(2, 0) && !claims.is_first(1, 0));
    }

    #[test]
    fn too_much_damage_damages_all() {
        let mut claims = Claims::default();
        claims.damage(0, Claimant::Grain(7));
        assert!(claims.is_damaged(0, Claimant::Grain(7)));
        assert!(!claims.is_damaged(0, Claimant::Table(7)));
        for grain in 0..=1 << 18 {
            claims.damage(1, Claimant::Grain(grain));
        }
        assert!(claims.is_damaged(0, Claimant::Table(7)));
    }
}
