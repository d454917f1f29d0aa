//! A foreign image served as it is, read-only and without a store, until somebody says stop.
//!
//! ```text
//! sockets ─▶ ring ─▶ connections ─▶ nbd sessions ─▶ ImageDevice ─▶ workers ─▶ image_files
//! ```
//! One loop owns ring, sockets and sessions, as that of a store does; what may block (maps, reads,
//! unpacking) is done by workers. Limits: requests and their bytes per connection as in the data plane,
//! and [`device::POOL_BYTES`] for all that is read and not yet sent.

mod device;
mod turn;

pub use device::ImageDevice;

use crate::{
    engine::Listening,
    serving::{Doors, Ended, no_thread, open_doors},
};
use api::Failure;
use image_files::SharedDisk;
use rustix::process::geteuid;
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};
use turn::Loop;
use world::{
    Waker,
    real::{RealClock, RingChoice, StopSignals, open_ring},
    ring::Peer,
};

/// What is served.
pub struct Served {
    /// The image.
    pub disk: Arc<SharedDisk>,
    /// Its name for clients, beside the empty one.
    pub name: String,
    /// For people.
    pub description: String,
    /// Whoever can reach the address may read; else this user and root only.
    pub anyone: bool,
}

/// Who may read it.
#[derive(Clone, Copy, Debug)]
struct Readers {
    anyone: bool,
    uid: u32,
}

impl Readers {
    fn admit(self, peer: &Peer) -> bool {
        let known = match peer {
            Peer::Process { uid, .. } => *uid == self.uid || *uid == 0,
            Peer::Address(_) | Peer::Unknown => false,
        };
        known || self.anyone
    }
}

/// Serves the image until a signal ends it; `begun` is told once clients are served.
pub fn serve(
    served: Served,
    ring: RingChoice,
    doors: &Doors,
    begun: &mut dyn FnMut(&[Listening]),
) -> Result<Ended, Failure> {
    let (listeners, listening) = open_doors(doors)?;
    let (mut ring, _) = open_ring(ring).map_err(no_thread)?;
    let wishes = Arc::new(AtomicU32::new(0));
    let waker = {
        let (wishes, ring) = (wishes.clone(), ring.waker());
        Waker(Arc::new(move || {
            wishes.fetch_add(1, Ordering::SeqCst);
            ring.wake();
        }))
    };
    let signals = StopSignals::install(waker).map_err(no_thread)?;
    let readers = Readers { anyone: served.anyone, uid: geteuid().as_raw() };
    let device = ImageDevice::start(&served.disk, &ring.waker()).map_err(no_thread)?;
    let name = (served.name, served.description);
    let mut serving = Loop::new(device, name, readers, Arc::new(RealClock));
    for listener in listeners {
        serving.listen(listener.into_listener());
    }
    begun(&listening);
    let ended = serving.run(&mut *ring, &wishes);
    drop(signals);
    ended.map_err(no_thread)
}
