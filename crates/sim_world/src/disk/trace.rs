//! The last operations of a disk, to be printed when a check fails.

use super::fault::Kind;
use std::{collections::VecDeque, fmt, sync::Arc};

const KEPT: usize = 256;

/// What a disk did last, oldest first. `{}` prints one operation a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace(VecDeque<Event>);

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// [`crate::SimDisk::operations`] before it.
    pub operation: u64,
    /// What was asked.
    pub kind: Kind,
    /// Of which file or directory.
    pub path: Arc<str>,
    /// Where; 0 if that means nothing here.
    pub offset_bytes: u64,
    /// How much; 0 if that means nothing here.
    pub length_bytes: u64,
    /// `ok`, or what went wrong, known to the caller or not.
    pub outcome: &'static str,
}

impl Trace {
    pub(crate) fn push(&mut self, event: Event) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(event);
    }

    /// The operations, oldest first.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.0.iter()
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Event { operation, kind, path, offset_bytes, length_bytes, outcome } in &self.0 {
            let kind = format!("{kind:?}");
            writeln!(
                f,
                "{operation:>6} {kind:<9} {path:<20} {offset_bytes}+{length_bytes} {outcome}"
            )?;
        }
        Ok(())
    }
}
