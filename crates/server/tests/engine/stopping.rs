//! How a server ends whose disk refuses.

use crate::house::Place;
use server::{
    data::{self, StopReason},
    engine,
};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use world::{
    Done, Op, Ring, Token, Wait, Waker,
    real::{RingChoice, open_ring},
};

/// A ring on which syncs can be made to fail.
struct Refusing {
    ring: Box<dyn Ring>,
    refuses: Arc<AtomicBool>,
    syncs: Vec<Token>,
}

impl Ring for Refusing {
    fn push(&mut self, token: Token, op: Op) {
        if matches!(op, Op::Sync { .. }) {
            self.syncs.push(token);
        }
        self.ring.push(token, op);
    }

    fn turn(&mut self, wait: Wait, done: &mut Vec<Done>) -> io::Result<()> {
        self.ring.turn(wait, done)?;
        for done in done {
            if let Some(at) = self.syncs.iter().position(|token| *token == done.token) {
                self.syncs.swap_remove(at);
                if self.refuses.load(Ordering::SeqCst) {
                    done.result = Err(io::ErrorKind::Other.into());
                }
            }
        }
        Ok(())
    }

    fn waker(&self) -> Waker {
        self.ring.waker()
    }

    fn in_flight(&self) -> usize {
        self.ring.in_flight()
    }
}

/// Serves a store, writes to it, and stops it while syncs go well or not.
fn stop(refuse: bool) -> StopReason {
    let place = Place::new();
    let house = place.serve();
    house.create("db", 1 << 20);
    house.stop();
    let opened = engine::open(&place.store(), &place.options()).expect("opened");
    let clock = opened.held.clock.clone();
    let catalogue = opened.store.catalogue();
    let volume = catalogue.find("db").expect("made").id;
    let branch = catalogue.branches(volume).next().expect("its present").id;
    let refuses = Arc::new(AtomicBool::new(false));
    let refusals = refuses.clone();
    let open = move || -> io::Result<Box<dyn Ring>> {
        let (ring, _) = open_ring(RingChoice::Threads)?;
        Ok(Box::new(Refusing { ring, refuses: refusals, syncs: Vec::new() }))
    };
    let running = data::start(opened.store, clock, open).expect("started");
    let hub = running.hub.clone();
    let view = hub.visit(move |core| core.store.open_view(branch, None)).expect("runs");
    let view = view.expect("there");
    hub.trim(view, 0, 4096).expect("written");
    refuses.store(refuse, Ordering::SeqCst);
    assert_eq!(hub.trim(view, 4096, 4096).is_err(), refuse);
    hub.visit(data::Core::stop).expect("runs");
    running.join().expect("ended")
}

#[test]
fn a_stop_says_whether_all_is_durable() {
    assert_eq!(stop(false), StopReason::Asked);
    assert_eq!(stop(true), StopReason::Unflushed);
}
