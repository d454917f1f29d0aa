//! A clean end: the open segment is closed, and what is not indexed yet is.
//!
//! So the next start has nothing to search for, and a file of the log that is damaged or gone meanwhile
//! is told from what a crash took: its cells are refused, no others. Packing is left for later.

use crate::{log::Log, terms::Event};

/// How far the end has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Finish {
    /// The log goes on.
    #[default]
    No,
    /// It ends; who asked is told by this ticket.
    Asked(u64),
    /// All is durable and indexed, or cannot be.
    Over,
}

impl Log {
    /// Ends the log: no request is taken any more. [`Event::Flushed`] tells when all is durable and
    /// indexed, [`Event::Failed`] that this cannot be: then the next start searches as after a crash.
    pub fn finish(&mut self, ticket: u64) {
        self.finish = Finish::Asked(ticket);
        if self.poison().is_some() {
            return self.finished(false);
        }
        self.cut();
        if self.segment.as_ref().is_some_and(|open| open.run.last() >= open.run.first()) {
            self.close_segment();
        }
    }

    /// Whether requests are taken no more.
    pub(crate) fn is_finishing(&self) -> bool {
        self.finish != Finish::No
    }

    /// Tells who waits for the end, once there is nothing left to index.
    pub(crate) fn look_for_end(&mut self) {
        if !self.flights.is_empty() || self.full.iter().any(|full| full.sealed.is_none()) {
            return;
        }
        let unused = self.bulk.take_unused();
        self.background.give_back_bulk(unused);
        if !self.background.is_preparing_bulk() {
            self.finished(true);
        }
    }

    /// The end has come, well or not.
    pub(crate) fn finished(&mut self, well: bool) {
        if let Finish::Asked(ticket) = self.finish {
            self.finish = Finish::Over;
            self.events.push_back(if well {
                Event::Flushed { ticket }
            } else {
                Event::Failed { ticket, full: false }
            });
        }
    }
}
