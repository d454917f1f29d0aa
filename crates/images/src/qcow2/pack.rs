//! Compressed qcow2 to be written, in one pass over the guest's clusters.
//!
//! ```text
//! header (last) │ packed clusters, one behind the other … │ L2 │ L1 │ refcount blocks │ table
//! ```
//!
//! How long a packed cluster is shows when it is packed, so the tables come behind the data and the
//! header is known last: the output must be a file whose first cluster can be filled in at the end.
//! A pipe cannot have this; it gets [`super::write::layout`]. Memory is 10 bytes for each cluster
//! held. The same plan, options and compressor give the same bytes.

use super::{
    header::incompatible,
    write::{self, Qcow2Options, Run},
};
use crate::{
    Algorithm, Format,
    bytes::{narrow, wide},
    layout::{Plan, Unwritable},
    packed,
};

/// A cluster packed, where that makes it shorter.
pub fn pack(algorithm: Algorithm, cluster: &[u8]) -> Option<Vec<u8>> {
    packed::pack(algorithm, cluster)
}

/// A compressed image on its way.
pub struct Packer {
    plan: Plan,
    options: Qcow2Options,
    algorithm: Algorithm,
    cluster: u64,
    runs: Vec<Run>,
    /// The run and the cluster within it that come next.
    next: (usize, u64),
    /// L2 entries of the clusters of data, in guest order.
    entries: Vec<u64>,
    /// Refcounts of the file's clusters.
    counts: Vec<u16>,
    /// Where the next byte goes.
    end: u64,
}

/// What is left when all clusters are in.
#[derive(Debug)]
pub struct Finish {
    /// Bytes behind all others: the tables.
    pub tables: Vec<u8>,
    /// Bytes of the first cluster, in place of the zeroes that stand there.
    pub header: Vec<u8>,
}

impl Packer {
    /// Begins an image; the first bytes are those of [`Packer::start`]. The algorithm is
    /// [`Algorithm::Deflate12`] or [`Algorithm::Zstd`].
    pub fn new(
        plan: Plan,
        options: Qcow2Options,
        algorithm: Algorithm,
    ) -> Result<Self, Unwritable> {
        write::check(&plan, &options)?;
        if algorithm == Algorithm::Zlib {
            let text = "clusters have no zlib envelope".to_owned();
            return Err(Unwritable::Option { format: Format::Qcow2, text });
        }
        let cluster = 1 << options.cluster_bits;
        let runs = write::runs(&plan, cluster);
        Ok(Self {
            plan,
            options,
            algorithm,
            cluster,
            runs,
            next: (0, 0),
            entries: Vec::new(),
            counts: vec![1],
            end: cluster,
        })
    }

    /// The zeroes that stand in the header's place until the end.
    pub fn start(&self) -> Vec<u8> {
        vec![0; narrow(self.cluster)]
    }

    /// Guest offset of the cluster that comes next, as long as there is one. What reaches past the
    /// virtual size is zero.
    pub fn wanted(&mut self) -> Option<u64> {
        while let Some(run) = self.runs.get(self.next.0) {
            if run.data && self.next.1 < run.count {
                return Some((run.first + self.next.1) * self.cluster);
            }
            self.next = (self.next.0 + 1, 0);
        }
        None
    }

    /// Takes the bytes of the cluster that was wanted; gives the bytes to append to the file.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        let stream = pack(self.algorithm, bytes);
        self.push_packed(bytes, stream)
    }

    /// The same with what [`pack`] made of the bytes, which may be done elsewhere and before.
    pub fn push_packed(&mut self, bytes: &[u8], stream: Option<Vec<u8>>) -> Vec<u8> {
        assert_eq!(wide(bytes.len()), self.cluster, "a cluster at a time");
        assert!(self.wanted().is_some(), "a cluster that is not wanted");
        self.next.1 += 1;
        if let Some(stream) = stream {
            return self.append_packed(stream);
        }
        let mut out = self.fill();
        self.entries.push(write::COPIED | self.end);
        self.append(wide(bytes.len()));
        out.extend_from_slice(bytes);
        out
    }

    /// Appends a stream; it may share its host clusters with its neighbours.
    fn append_packed(&mut self, stream: Vec<u8>) -> Vec<u8> {
        let is_full =
            self.counts.last() == Some(&u16::MAX) && !self.end.is_multiple_of(self.cluster);
        let mut out = if is_full { self.fill() } else { Vec::new() };
        let (at, len) = (self.end, wide(stream.len()));
        let sectors = (at + len - 1) / 512 - at / 512;
        let shift = 62 - (self.options.cluster_bits - 8);
        self.entries.push(COMPRESSED | (sectors << shift) | at);
        self.append(len);
        out.extend(stream);
        out
    }

    /// Zeroes up to the next cluster.
    fn fill(&mut self) -> Vec<u8> {
        let gap = self.end.next_multiple_of(self.cluster) - self.end;
        self.end += gap;
        vec![0; narrow(gap)]
    }

    /// Counts a reference to each cluster of the next `len` bytes.
    fn append(&mut self, len: u64) {
        let (first, last) = (self.end / self.cluster, (self.end + len - 1) / self.cluster);
        self.counts.resize(self.counts.len().max(narrow(last + 1)), 0);
        for count in &mut self.counts[narrow(first)..=narrow(last)] {
            *count = count.saturating_add(1);
        }
        self.end += len;
    }

    /// The tables and the header, once no cluster is wanted.
    pub fn finish(mut self) -> Result<Finish, Unwritable> {
        assert!(self.wanted().is_none(), "clusters are missing");
        let mut out = self.fill();
        let per_table = self.cluster / 8;
        let reach = self.cluster * per_table;
        let mut level_1 = vec![0_u64; narrow(self.plan.virtual_size.div_ceil(reach))];
        let mut entries = self.entries.iter();
        let mut table: Option<(u64, Vec<u64>)> = None;
        let mut tables: Vec<(u64, Vec<u64>)> = Vec::new();
        for run in &self.runs {
            for guest in run.first..run.first + run.count {
                let index = guest / per_table;
                if table.as_ref().is_none_or(|(known, _)| *known != index) {
                    tables.extend(table.take());
                    table = Some((index, vec![0; narrow(per_table)]));
                }
                let word = if run.data { *entries.next().expect("one each") } else { write::ZERO };
                if let Some((_, words)) = &mut table {
                    words[narrow(guest % per_table)] = word;
                }
            }
        }
        tables.extend(table);
        for (index, words) in tables {
            level_1[narrow(index)] = write::COPIED | self.end;
            self.put_words(&words, &mut out);
        }
        let l1 = self.end;
        self.put_words(&level_1, &mut out);
        let (blocks, refcounts) = self.put_refcounts(&mut out);
        let places = write::Places {
            cluster: self.cluster,
            l1,
            l1_count: wide(level_1.len()),
            refcounts: blocks,
            refcount_clusters: refcounts,
            incompatible: match self.algorithm {
                Algorithm::Zstd => incompatible::COMPRESSION,
                _ => 0,
            },
        };
        let mut header = write::make_header(&self.plan, &self.options, &places)?;
        header.resize(narrow(self.cluster), 0);
        Ok(Finish { tables: out, header })
    }

    /// Appends words as whole clusters.
    fn put_words(&mut self, words: &[u64], out: &mut Vec<u8>) {
        let len = (wide(words.len()) * 8).next_multiple_of(self.cluster);
        if len == 0 {
            return;
        }
        let end = wide(out.len()) + len;
        out.extend(words.iter().flat_map(|word| word.to_be_bytes()));
        out.resize(narrow(end), 0);
        self.append(len);
    }

    /// Appends refcount blocks, which count themselves, and their table: its place and clusters.
    fn put_refcounts(&mut self, out: &mut Vec<u8>) -> (u64, u64) {
        let fixed = wide(self.counts.len());
        let (mut blocks, mut table) = (1, 1);
        loop {
            let wanted = (fixed + blocks + table).div_ceil(self.cluster / 2);
            let clusters = (wanted * 8).div_ceil(self.cluster);
            if wanted <= blocks && clusters <= table {
                break;
            }
            (blocks, table) = (wanted.max(blocks), clusters.max(table));
        }
        let first = self.end;
        self.counts.resize(narrow(fixed + blocks + table), 1);
        let counts = self.counts.iter().flat_map(|count| count.to_be_bytes());
        let end = wide(out.len()) + blocks * self.cluster;
        out.extend(counts);
        out.resize(narrow(end), 0);
        out.extend((0..blocks).flat_map(|block| (first + block * self.cluster).to_be_bytes()));
        out.resize(narrow(end + table * self.cluster), 0);
        (first + blocks * self.cluster, table)
    }
}

const COMPRESSED: u64 = 1 << 62;
