//! One view of a store as a [`BlockDevice`].

use crate::{Store, ViewId};
use block_device::{BlockDevice, Command, Completion, DeviceInfo, Ticket};
use units::ClientId;

/// Borrowed for as long as requests are handed in; answers of all views come out of the store.
pub struct Device<'a> {
    store: &'a mut Store,
    view: ViewId,
}

impl<'a> Device<'a> {
    /// The device that a view is.
    pub fn of(store: &'a mut Store, view: ViewId) -> Self {
        Self { store, view }
    }
}

impl BlockDevice for Device<'_> {
    fn info(&self) -> DeviceInfo {
        let gone = DeviceInfo { size_bytes: 0, read_only: true, frozen: true };
        self.store.info(self.view).unwrap_or(gone)
    }

    fn submit(&mut self, ticket: Ticket, client: ClientId, command: Command<'_>) {
        self.store.submit(self.view, ticket.0, client, command);
    }

    fn take_completions(&mut self, completions: &mut Vec<Completion>) {
        self.store.take_completions(completions);
    }
}
