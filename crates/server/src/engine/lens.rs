//! A state of a branch, open for reading as long as somebody holds it.
//!
//! A view remembers where each block lies that was asked for. Who reads a large disk from end to end
//! would fill the memory with that, so a view is left for a fresh one from time to time.

use super::{failures::change_failure, running::lock};
use crate::data::Hub;
use api::{Failure, codes};
use std::sync::{Arc, Mutex};
use units::{BranchId, Sequence};
use volume::ViewId;

/// Bytes that are read through one view: its map then has 32 MiB at most.
const VIEW_BYTES: u64 = 16 << 30;

/// See the module's head.
pub(super) struct Lens {
    hub: Hub,
    branch: BranchId,
    at: Sequence,
    seat: Mutex<Option<(Arc<OpenView>, u64)>>,
}

/// A view; closed when dropped.
pub(super) struct OpenView {
    hub: Hub,
    view: ViewId,
}

impl OpenView {
    pub(super) const fn id(&self) -> ViewId {
        self.view
    }
}

impl Lens {
    /// On a state; nothing is opened yet.
    pub(super) fn new(hub: Hub, (branch, at): (BranchId, Sequence)) -> Self {
        Self { hub, branch, at, seat: Mutex::default() }
    }

    pub(super) const fn hub(&self) -> &Hub {
        &self.hub
    }

    /// A view by which so many bytes shall be read.
    pub(super) fn view(&self, bytes: u64) -> Result<Arc<OpenView>, Failure> {
        let mut seat = lock(&self.seat);
        match &mut *seat {
            Some((view, read)) if *read < VIEW_BYTES => {
                *read += bytes;
                Ok(Arc::clone(view))
            }
            _ => {
                let (branch, at) = (self.branch, self.at);
                let opened = self.hub.visit(move |core| core.store.open_view(branch, Some(at)));
                let view = opened.map_err(change_failure)?.ok_or_else(|| {
                    Failure::new(codes::NO_INSTANT, format!("the state at seq:{at} is gone"))
                })?;
                let view = Arc::new(OpenView { hub: self.hub.clone(), view });
                *seat = Some((Arc::clone(&view), bytes));
                Ok(view)
            }
        }
    }
}

impl Drop for OpenView {
    fn drop(&mut self) {
        let view = self.view;
        // A server that has stopped has let go of it.
        let closed = self.hub.visit(move |core| core.store.close_view(view));
        if let Err(error) = closed.map_err(change_failure) {
            tracing::debug!(%error, "a view was left to the end of the server");
        }
    }
}
