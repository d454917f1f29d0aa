//! Sorted runs: which version of a block is where, at any sequence.
