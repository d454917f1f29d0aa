//! Exports whose tables are made, kept for who asks for their bytes piece by piece.
//!
//! Nothing here is needed: what is not on the shelf is made again and is the same. Bounds:
//! [`IMAGES_MAX`] images, [`STATES_MAX`] states, and of their ranges [`RANGES_MAX`] besides the newest.

use super::{lens::Lens, running::lock};
use export::Export;
use images::layout::{Held, Layout};
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};
use units::{BranchId, Sequence};

/// Images that are kept: the six formats of a few instants.
const IMAGES_MAX: usize = 24;
/// States, and differences of states, whose ranges are kept.
const STATES_MAX: usize = 8;
/// Ranges that all that is kept may have, besides what was used last.
const RANGES_MAX: usize = export::ranges::RANGES_MAX;
/// Nanoseconds after the last use until something is forgotten.
const IDLE_NS: u64 = 600_000_000_000;

/// A state, or the difference of two.
pub(super) type Between = (Option<(BranchId, Sequence)>, (BranchId, Sequence));

/// An export, ready to be read.
pub(super) struct Image {
    pub export: Export,
    pub body: Body,
    pub lens: Arc<Lens>,
    pub held: Arc<[Held]>,
    used_boot_ns: AtomicU64,
}

/// How its bytes are made.
pub(super) enum Body {
    /// They are the disk's.
    Plain,
    /// Each file by its layout; its suffix.
    Files(Vec<(String, Arc<dyn Layout>)>),
    /// By packing, from the first byte to the last.
    Packed,
}

impl Image {
    pub(super) fn new(export: Export, body: Body, lens: Arc<Lens>, held: Arc<[Held]>) -> Self {
        Self { export, body, lens, held, used_boot_ns: AtomicU64::new(0) }
    }
}

/// See the module's head.
#[derive(Default)]
pub(super) struct Shelf {
    kept: Mutex<Kept>,
    /// Held by who makes something: others who want the same find it afterwards.
    pub making: Mutex<()>,
}

#[derive(Default)]
struct Kept {
    /// The one that was used last stands last, in both.
    images: Vec<Arc<Image>>,
    states: Vec<(Between, Arc<[Held]>, u64)>,
}

impl Shelf {
    /// The export, if it is there.
    pub(super) fn image(&self, export: &Export, boot_ns: u64) -> Option<Arc<Image>> {
        let images = &mut lock(&self.kept).images;
        let place = images.iter().position(|image| image.export == *export)?;
        let image = images.remove(place);
        image.used_boot_ns.store(boot_ns, Ordering::Relaxed);
        images.push(Arc::clone(&image));
        Some(image)
    }

    /// The ranges of a state or difference, if they are there.
    pub(super) fn held(&self, between: Between, boot_ns: u64) -> Option<Arc<[Held]>> {
        let states = &mut lock(&self.kept).states;
        let place = states.iter().position(|(known, ..)| *known == between)?;
        let (_, held, _) = states.remove(place);
        states.push((between, Arc::clone(&held), boot_ns));
        Some(held)
    }

    /// Keeps an image and its ranges; what was used longest ago goes.
    pub(super) fn keep(&self, between: Between, image: &Arc<Image>, boot_ns: u64) {
        image.used_boot_ns.store(boot_ns, Ordering::Relaxed);
        let mut gone = Vec::new(); // dropped when the lock is free: a view is closed by the log thread
        let mut kept = lock(&self.kept);
        kept.states.retain(|(known, ..)| *known != between);
        if !matches!(image.body, Body::Plain) {
            // For a plain image nobody has looked what the state holds.
            kept.states.push((between, Arc::clone(&image.held), boot_ns));
        }
        kept.images.push(Arc::clone(image));
        let over = kept.states.len().saturating_sub(STATES_MAX);
        kept.states.drain(..over);
        while kept.images.len() > 1
            && (kept.images.len() > IMAGES_MAX || ranges(&kept.images) > RANGES_MAX)
        {
            gone.push(kept.images.remove(0));
        }
        while kept.states.len() > 1
            && kept.states.iter().map(|(_, held, _)| held.len()).sum::<usize>() > RANGES_MAX
        {
            kept.states.remove(0);
        }
        drop(kept);
    }

    /// Forgets what nobody has asked for in a while.
    pub(super) fn clear_idle(&self, boot_ns: u64) {
        let idle = |used: u64| boot_ns.saturating_sub(used) > IDLE_NS;
        let mut kept = lock(&self.kept);
        let old = |image: &mut Arc<Image>| idle(image.used_boot_ns.load(Ordering::Relaxed));
        let gone: Vec<Arc<Image>> = kept.images.extract_if(.., old).collect();
        kept.states.retain(|(.., used)| !idle(*used));
        drop(kept);
        drop(gone);
    }
}

fn ranges(images: &[Arc<Image>]) -> usize {
    images[..images.len() - 1].iter().map(|image| image.held.len()).sum()
}
