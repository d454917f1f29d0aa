//! Volumes, branches, marks and their rules, as records.
