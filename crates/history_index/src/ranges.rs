//! Finds the ranges that overlap an extent among many, sorted by where they start.

use crate::ZeroRange;
use units::{BranchId, Extent};

/// Ranges looked at together.
const GROUP: usize = 64;

/// For each [`GROUP`] of a sorted list of ranges, where the one that reaches furthest ends.
#[derive(Clone, Debug, Default)]
pub(crate) struct RangeTable {
    ends: Vec<u64>,
}

impl RangeTable {
    /// Of ranges sorted by key.
    pub(crate) fn new(ranges: &[ZeroRange]) -> Self {
        let end = |group: &[ZeroRange]| group.iter().map(|range| range.extent.end()).max();
        Self { ends: ranges.chunks(GROUP).filter_map(end).collect() }
    }

    /// Those of the branch that overlap the extent; `ranges` is the list the table was made of.
    pub(crate) fn overlapping<'a>(
        &'a self,
        ranges: &'a [ZeroRange],
        branch: BranchId,
        extent: Extent,
    ) -> impl Iterator<Item = &'a ZeroRange> {
        // A group before `first` holds smaller branches only; `last` starts past the extent.
        let first = ranges.partition_point(|range| range.branch < branch) / GROUP;
        let key = (branch, extent.end());
        let last = ranges.partition_point(|r| (r.branch, r.extent.start().number()) < key);
        let groups = ranges[..last].chunks(GROUP).zip(&self.ends).skip(first);
        groups
            .filter(move |(_, end)| **end > extent.start().number())
            .flat_map(|(group, _)| group)
            .filter(move |range| range.branch == branch && range.extent.overlap(extent).is_some())
    }
}
