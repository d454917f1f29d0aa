//! How the loop ends: what was asked is answered, what was answered is made durable, and the log is
//! closed so that the next start has nothing to search for.

use super::{
    hub::Visit,
    turn::{Core, NET, Tickets},
};
use crossbeam_channel::Receiver;
use std::{io, time::Duration};
use world::{Done, Ring, Wait};

/// After a stop, answers that take longer are given up.
const STOP_NS: u64 = 10_000_000_000;

/// Why the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// It was asked to.
    Asked,
    /// Not all answers could be given in time; what was answered is durable.
    GaveUp,
    /// What was written since the last flush could not be made durable.
    Unflushed,
}

/// A stop under way.
pub(super) struct Stopping {
    /// When the stage is given up.
    deadline_ns: u64,
    stage: StopStage,
    /// What the loop ends with if the rest goes well.
    reason: StopReason,
}

/// How far a stop has come; in each stage the store tells by the id.
#[derive(Clone, Copy)]
enum StopStage {
    Answering,
    Flushing(u64),
    Finishing(u64),
    Over(StopReason),
}

impl Core {
    /// Ends the loop once all that was asked is answered and durable.
    pub fn stop(&mut self) {
        if self.stopping.is_none() {
            let deadline_ns = self.clock.boot_ns() + STOP_NS;
            let (stage, reason) = (StopStage::Answering, StopReason::Asked);
            self.stopping = Some(Stopping { deadline_ns, stage, reason });
            self.stirred.extend(self.connections.keys());
        }
    }

    /// A flush or end that the store was asked for is over; a stop may wait for it.
    pub(super) fn stop_goes_on(&mut self, id: u64, ok: bool) {
        let Some(stopping) = &mut self.stopping else { return };
        stopping.stage = match stopping.stage {
            StopStage::Flushing(flush) if flush == id && !ok => {
                StopStage::Over(StopReason::Unflushed)
            }
            StopStage::Flushing(flush) if flush == id => {
                self.asked = true;
                StopStage::Finishing(self.store.finish())
            }
            // All is durable: what could not be indexed the next start finds.
            StopStage::Finishing(finish) if finish == id => StopStage::Over(stopping.reason),
            stage => stage,
        };
    }

    /// Whether the loop may end.
    pub(super) fn stopped(&mut self) -> Option<StopReason> {
        let now = self.clock.boot_ns();
        let answered = self.connections.is_empty() && self.store.is_idle();
        let stopping = self.stopping.as_mut()?;
        let late = now >= stopping.deadline_ns;
        match stopping.stage {
            StopStage::Over(reason) => return Some(reason),
            // All is durable: what is not indexed in time the next start finds.
            StopStage::Finishing(_) if late => return Some(stopping.reason),
            StopStage::Flushing(_) if late => return Some(StopReason::Unflushed),
            StopStage::Answering if answered || late => {
                if !answered {
                    stopping.reason = StopReason::GaveUp;
                }
                stopping.deadline_ns = now + STOP_NS;
                stopping.stage = StopStage::Flushing(self.store.flush_all());
                self.asked = true;
            }
            _ => {}
        }
        None
    }

    /// Lets the workers end and takes what they still bring.
    pub(super) fn end(
        &mut self,
        ring: &mut dyn Ring,
        inbox: &Receiver<Visit>,
        done: &mut Vec<Done>,
    ) -> io::Result<()> {
        self.listeners.clear();
        if let Some(workers) = self.workers.take() {
            workers.finish(|| {
                if let Ok(visit) = inbox.recv_timeout(Duration::from_millis(10)) {
                    visit(self);
                }
                // Nothing that would answer these runs any more: who waits is told by the end.
                self.waiting.clear();
                self.tickets = Tickets::default();
            });
        }
        while let Ok(visit) = inbox.try_recv() {
            visit(self);
        }
        self.store.advance();
        self.store.take_ops(&mut self.ops);
        for (token, op) in self.ops.drain(..) {
            if token.0 & NET == 0 {
                ring.push(token, op);
            }
        }
        ring.turn(Wait::No, done)
    }
}
