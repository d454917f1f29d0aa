//! What a full check of one image found.

use crate::{Class, Fault, limits};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Odd, or wasteful; nothing is wrong with any byte.
    Note,
    /// A rule of the format is broken and the guest's bytes are still known; must not be written.
    Warning,
    /// Guest bytes are lost or in doubt.
    Error,
}

/// One thing that a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is.
    pub fault: Fault,
}

/// The result of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What was found, up to [`limits::FINDINGS_MAX`].
    pub findings: Vec<Finding>,
    /// How many more there were.
    pub dropped: u64,
    /// Units (clusters, blocks, grains) that hold plain data.
    pub units_data: u64,
    /// Units that are compressed.
    pub units_packed: u64,
    /// Units that are marked as zero.
    pub units_zero: u64,
    /// Units of the file that nothing refers to.
    pub units_leaked: u64,
    /// What was not checked, and why; empty if everything was.
    pub unchecked: Vec<String>,
}

impl Report {
    /// Takes a finding in.
    pub(crate) fn add(&mut self, severity: Severity, fault: Fault) {
        if self.findings.len() < limits::FINDINGS_MAX {
            self.findings.push(Finding { severity, fault });
        } else {
            self.dropped += 1;
        }
    }

    /// The worst of the findings that were kept.
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).max()
    }

    /// Whether something of this class was found.
    pub fn has(&self, class: Class) -> bool {
        self.findings.iter().any(|finding| finding.fault.class == class)
    }
}
