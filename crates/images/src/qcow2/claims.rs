//! Who claims which cluster of the image's file.
//!
//! The image's own tables claim theirs when it is opened, guest clusters theirs as L2 tables are
//! loaded. Two entries may share a cluster only if neither says that it is its one user (bit 63):
//! else the later claim is damage. Compressed clusters share with each other and with nothing else.

use super::{
    View,
    entry::{Cluster, L1Entry, L2Entry},
    header::Header,
    snapshots::Found,
};
use crate::{
    Class, Fault, FileId, Input, Part, Stop,
    bytes::be64,
    limits,
    overlap::{Claim, Seen},
    table::Table,
};

/// Claims by cluster of the file, but for `damaged` (guest cluster), `bad` and `taken` (L1 index).
#[derive(Debug)]
pub(super) struct Claims {
    file: FileId,
    cluster: u64,
    tables: Seen,
    plain: Seen,
    alone: Seen,
    packed: Seen,
    /// L1 entries whose table claimed its cluster, and those that came second.
    taken: Seen,
    bad: Seen,
    /// L1 entries whose L2 table made its claims.
    walked: Seen,
    damaged: Seen,
}

impl Claims {
    /// No claim but the header's.
    pub fn new(header: &Header) -> Self {
        let mut claims = Self {
            file: header.file,
            cluster: header.cluster(),
            tables: Seen::default(),
            plain: Seen::default(),
            alone: Seen::default(),
            packed: Seen::default(),
            taken: Seen::default(),
            bad: Seen::default(),
            walked: Seen::default(),
            damaged: Seen::default(),
        };
        claims.table(0, header.cluster());
        claims
    }

    /// Claims of the L1 tables and of the snapshot table; each lies within the file.
    pub fn tables_of(&mut self, header: &Header, snapshots: &[Found], view: &View) {
        self.table(header.l1, if view.l1 == header.l1 { header.l1_count * 8 } else { 0 });
        let end = snapshots.last().map_or(header.snapshots, |last| last.end);
        self.table(header.snapshots, end - header.snapshots);
        for found in snapshots.iter().filter(|found| found.snapshot.fault.is_none()) {
            self.table(found.l1, found.l1_count * 8);
        }
    }

    /// Claims of the refcount table and its blocks. A fault if they cannot be found, of which
    /// reading is independent.
    pub fn refcounts(&mut self, header: &Header, input: &Input) -> Result<(), Stop> {
        let (at, file, part) = (header.refcount_table, header.file, Part::Refcounts);
        let fault = |class, text: String| Stop::from(Fault::at(class, part, file, at, text));
        let len = header.refcount_clusters * header.cluster();
        if !at.is_multiple_of(header.cluster()) {
            let text = "the refcount table does not begin with a cluster".to_owned();
            return Err(fault(Class::PointerMisaligned, text));
        }
        if len > limits::RESIDENT_BYTES {
            let text = format!("a refcount table of {len} bytes");
            return Err(fault(Class::Limit, text));
        }
        if len == 0 {
            return Err(fault(Class::TableTooSmall, "a refcount table of no cluster".to_owned()));
        }
        input.inside(file, at, len, part)?;
        let table = input.read(file, at, len, part)?;
        self.table(at, len);
        for entry in table.chunks_exact(8) {
            let block = be64(entry, 0);
            if block != 0
                && block.is_multiple_of(self.cluster)
                && input.holds(file, block, self.cluster)
            {
                self.table(block, self.cluster);
            }
        }
        Ok(())
    }

    /// Claims of all L2 tables at once, if the L1 table is at hand.
    pub fn level_1(&mut self, l1: &Table) {
        for (index, entry) in (0..).zip(l1.whole().unwrap_or_default().chunks_exact(8)) {
            let entry = L1Entry::of(be64(entry, 0));
            if entry.offset != 0 && entry.offset.is_multiple_of(self.cluster) {
                self.take_table(index, entry);
            }
        }
    }

    /// Claims an L2 table for an L1 entry; `false` if its place was taken by something else.
    pub fn take_table(&mut self, index: u64, entry: L1Entry) -> bool {
        if self.taken.claim(index) == Claim::First {
            if self.tables.claim(entry.offset / self.cluster) == Claim::Again {
                self.bad.claim(index);
            }
            if entry.copied {
                self.alone.claim(entry.offset / self.cluster);
            }
        }
        !self.bad.has(index)
    }

    /// Whether an L2 table is loaded for the first time.
    pub fn is_new_table(&mut self, index: u64) -> bool {
        self.walked.claim(index) != Claim::Again
    }

    /// Claims of one guest cluster; `own` if it lies in the image's own file.
    pub fn level_2(&mut self, guest: u64, entry: &L2Entry, own: bool) -> Result<(), Fault> {
        let is_damaged = match entry.cluster {
            Cluster::Absent | Cluster::Zero { host: 0 } => false,
            Cluster::Plain { host } | Cluster::Zero { host } => {
                let unit = host / self.cluster;
                let foreign = own && (self.tables.has(unit) || self.packed.has(unit));
                let again = self.plain.claim(unit) == Claim::Again;
                let shared = again && (entry.copied || self.alone.has(unit));
                if entry.copied {
                    self.alone.claim(unit);
                }
                // What reads as zero is not harmed by what lies there.
                (foreign || shared) && matches!(entry.cluster, Cluster::Plain { .. })
            }
            Cluster::Packed { offset, .. } => {
                let unit = offset / self.cluster;
                self.packed.claim(unit);
                self.tables.has(unit) || self.plain.has(unit)
            }
        };
        if is_damaged && self.damaged.claim(guest) == Claim::Unknown {
            let text = "more clusters overlap than are kept in mind";
            return Err(Fault::new(Class::Overlap, Part::L2Entry, self.file, text));
        }
        Ok(())
    }

    /// Whether a guest cluster's claim came second.
    pub fn is_damaged(&self, guest: u64) -> bool {
        self.damaged.has(guest)
    }

    /// Whether an entry says that it is the one user of a cluster.
    pub fn is_alone(&self, unit: u64) -> bool {
        self.alone.has(unit)
    }

    fn table(&mut self, at: u64, len: u64) {
        if len == 0 {
            return;
        }
        for unit in at / self.cluster..=(at + len - 1) / self.cluster {
            self.tables.claim(unit);
        }
    }
}
