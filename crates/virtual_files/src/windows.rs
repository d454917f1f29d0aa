//! Read-ahead for bytes that come from far: whole windows are asked for when a reader goes on.
//!
//! A read that begins where another ended, or that wants much, asks for its whole window once, and
//! the reads that follow find it here. A read somewhere else asks for its own bytes alone. Threads
//! that want the same window wait for the one that asks. At most [`WINDOWS`] windows are kept, in all
//! files of a mount together.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use crate::Trouble;

/// Bytes of a window; it begins at a multiple.
const WINDOW_BYTES: u64 = 1 << 20;

/// Windows that are kept, and ends of reads that are remembered.
const WINDOWS: usize = 32;

/// A read of this length is worth its whole window.
const LARGE_BYTES: usize = 512 << 10;

/// Gives the bytes from an offset on.
pub(crate) type Fetch<'f> = &'f dyn Fn(u64, &mut [u8]) -> Result<(), Trouble>;

/// See the module's head. The most recent stands first.
#[derive(Default)]
pub(crate) struct Windows {
    recent: Mutex<Recent>,
}

#[derive(Default)]
struct Recent {
    /// By file and offset.
    kept: VecDeque<((u64, u64), Arc<Slot>)>,
    /// Where reads ended, by file.
    ends: VecDeque<(u64, u64)>,
}

/// A window that is there, or that somebody is asking for.
#[derive(Default)]
struct Slot(Mutex<Held>);

#[derive(Default)]
enum Held {
    /// Nobody has asked for it.
    #[default]
    Not,
    /// It is there.
    Bytes(Vec<u8>),
    /// It could not be had as a whole: each reads its own part.
    Failed,
}

/// A range of a file, within one window.
struct Part<'p> {
    file: u64,
    /// Of the window.
    start: u64,
    end: u64,
    offset: u64,
    into: &'p mut [u8],
}

impl Windows {
    /// Reads from a file of `len` bytes; `file` tells it from others. `into` ends within it.
    pub(crate) fn read(
        &self,
        (file, len): (u64, u64),
        offset: u64,
        into: &mut [u8],
        fetch: Fetch<'_>,
    ) -> Result<(), Trouble> {
        let worth = into.len() >= LARGE_BYTES || self.goes_on(file, offset, into.len() as u64);
        let mut rest = into;
        let mut offset = offset;
        while !rest.is_empty() {
            let start = offset - offset % WINDOW_BYTES;
            let end = start.saturating_add(WINDOW_BYTES).min(len);
            let room = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX);
            assert!(room > 0, "a read past the end of its file");
            let now = room.min(rest.len());
            let (into, later) = rest.split_at_mut(now);
            let part = Part { file, start, end, offset, into };
            match self.slot(&part, worth) {
                Some(slot) => slot.copy(part, fetch)?,
                None => fetch(offset, part.into)?,
            }
            rest = later;
            offset += now as u64;
        }
        Ok(())
    }

    /// Whether a read begins where another ended; where it ends is remembered before it is done,
    /// for the kernel has several in flight.
    fn goes_on(&self, file: u64, offset: u64, length: u64) -> bool {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let before = recent.ends.iter().position(|end| *end == (file, offset));
        if let Some(place) = before {
            recent.ends.remove(place);
        }
        recent.ends.push_front((file, offset + length));
        recent.ends.truncate(WINDOWS);
        before.is_some()
    }

    /// The window of a part, where it is kept or `worth` to be asked for.
    fn slot(&self, part: &Part<'_>, worth: bool) -> Option<Arc<Slot>> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (part.file, part.start);
        let found = recent.kept.iter().position(|(its, _)| *its == key);
        let entry = match found {
            Some(place) => recent.kept.remove(place)?,
            None if worth => (key, Arc::default()),
            None => return None,
        };
        let slot = Arc::clone(&entry.1);
        recent.kept.push_front(entry);
        recent.kept.truncate(WINDOWS);
        Some(slot)
    }
}

impl Slot {
    /// Copies from the window, which is asked for if nobody has. Damage elsewhere in it is nobody's
    /// trouble here.
    fn copy(&self, part: Part<'_>, fetch: Fetch<'_>) -> Result<(), Trouble> {
        let Part { start, end, offset, into, .. } = part;
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*held, Held::Not) {
            let mut bytes = vec![0; narrow(end - start)];
            *held = match fetch(start, &mut bytes) {
                Ok(()) => Held::Bytes(bytes),
                Err(_) => Held::Failed,
            };
        }
        let Held::Bytes(bytes) = &*held else {
            drop(held);
            return fetch(offset, into);
        };
        let from = narrow(offset - start);
        into.copy_from_slice(&bytes[from..from + into.len()]);
        Ok(())
    }
}

/// A length within a window.
fn narrow(len: u64) -> usize {
    usize::try_from(len).expect("at most a window")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: u64 = (5 << 20) + 77;

    /// A file, and the ranges that were asked of it; some bytes of it are damaged.
    struct File {
        windows: Windows,
        asked: Mutex<Vec<(u64, usize)>>,
        damaged: u64,
    }

    impl File {
        fn new(damaged: u64) -> Self {
            Self { windows: Windows::default(), asked: Mutex::default(), damaged }
        }

        fn read(&self, offset: u64, length: usize) -> Result<(), Trouble> {
            let mut bytes = vec![0; length];
            let fetch = |offset: u64, into: &mut [u8]| {
                let end = offset + into.len() as u64;
                self.asked.lock().expect("one thread").push((offset, into.len()));
                if (offset..end).contains(&self.damaged) {
                    return Err(Trouble::Failed("damaged".to_owned()));
                }
                into.iter_mut().zip(offset..).for_each(|(byte, at)| *byte = at.to_le_bytes()[1]);
                Ok(())
            };
            self.windows.read((1, LEN), offset, &mut bytes, &fetch)?;
            let right = bytes.iter().zip(offset..).all(|(byte, at)| *byte == at.to_le_bytes()[1]);
            assert!(right, "other bytes at {offset}");
            Ok(())
        }

        fn asked(&self) -> Vec<(u64, usize)> {
            std::mem::take(&mut *self.asked.lock().expect("one thread"))
        }
    }

    #[test]
    fn who_goes_on_gets_whole_windows() {
        let file = File::new(u64::MAX);
        for place in 0..32 {
            file.read(place << 17, 1 << 17).expect("read");
        }
        let window = 1 << 20;
        let first = [(0, 1 << 17), (0, window)];
        let later = [1 << 20, 2 << 20, 3 << 20].map(|start| (start, window));
        assert_eq!(file.asked(), [&first[..], &later[..]].concat());
        file.read(LEN - 10, 10).expect("read");
        assert_eq!(file.asked(), [(LEN - 10, 10)]);
    }

    #[test]
    fn reads_here_and_there_ask_for_their_own_bytes() {
        let file = File::new(u64::MAX);
        for place in [3 << 20, 100, 5 << 20, 2_000_000, (1 << 20) - 5] {
            file.read(place, 40).expect("read");
        }
        let own = [(3 << 20, 40), (100, 40), (5 << 20, 40), (2_000_000, 40)];
        let across = [((1 << 20) - 5, 5), (1 << 20, 35)];
        assert_eq!(file.asked(), [&own[..], &across[..]].concat());
        file.read(0, 1 << 20).expect("read");
        assert_eq!(file.asked(), [(0, 1 << 20)]);
    }

    #[test]
    fn damage_fails_only_who_reads_it() {
        let file = File::new(1000);
        for place in 0..8_u64 {
            let read = file.read(place << 17, 1 << 17);
            assert_eq!(read.is_err(), place == 0, "{place}");
        }
        assert!(file.read(0, 1 << 20).is_err());
        file.read(1001, 1 << 19).expect("the damage lies before");
    }

    #[test]
    fn memory_is_bounded() {
        let file = File::new(u64::MAX);
        for number in 0..100 {
            let fetch = |_: u64, into: &mut [u8]| -> Result<(), Trouble> {
                into.fill(0);
                Ok(())
            };
            let mut bytes = vec![0; 1 << 20];
            file.windows.read((number, LEN), 0, &mut bytes, &fetch).expect("read");
        }
        let recent = file.windows.recent.lock().expect("one thread");
        assert!(recent.kept.len() <= WINDOWS && recent.ends.len() <= WINDOWS);
    }
}
