//! The menu of faults, and when each strikes.
//!
//! A rule names a fault, the files it is for and the moment. Reads are spoiled on their way from
//! pristine contents, so that taking a rule back heals them; what a write lost stays lost.

use crate::rng::Rng;

/// What a disk may do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A read fails with EIO.
    ReadError,
    /// A write fails with EIO and changes nothing.
    WriteError,
    /// A sync of a file or directory fails with EIO; what it should have made durable is dropped
    /// as told, and the next sync succeeds without it. (Names stay as they are, not yet durable.)
    SyncError(DirtyPages),
    /// Making, renaming or removing fails with EIO and changes nothing.
    NameError,
    /// A read gives bytes from another place, with success.
    MisdirectedRead,
    /// A write lands in another place, with success.
    MisdirectedWrite,
    /// A write is answered and was never there.
    LostWrite,
    /// A sync of a file is answered and made nothing durable.
    LyingSync,
    /// A bit of what is read flips; the same one from then on, until the sector is written or
    /// [`crate::SimDisk::heal`].
    BitRot,
    /// A write on the ring ends short, one through the blocking door fails half done.
    ShortWrite,
    /// Whatever takes room fails with ENOSPC.
    NoSpace,
    /// Takes so much longer, in nanoseconds; on any operation.
    Slow(u64),
}

/// What becomes of pages whose sync failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirtyPages {
    /// Still read from the cache as if all were well, gone after a crash (ext4, xfs).
    StayVisible,
    /// Gone at once: reads see what lies on the device (btrfs, or after eviction).
    Vanish,
}

/// What a disk is asked to do, as rules, crash points and traces name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "named like the doors' functions")]
pub enum Kind {
    Read,
    Write,
    Sync,
    SetLength,
    Allocate,
    Create,
    Rename,
    Remove,
    MakeDir,
    SyncDir,
}

impl Fault {
    fn strikes(self, kind: Kind) -> bool {
        match self {
            Self::ReadError | Self::MisdirectedRead | Self::BitRot => kind == Kind::Read,
            Self::WriteError | Self::MisdirectedWrite | Self::LostWrite | Self::ShortWrite => {
                kind == Kind::Write
            }
            Self::LyingSync => kind == Kind::Sync,
            Self::SyncError(_) => matches!(kind, Kind::Sync | Kind::SyncDir),
            Self::NameError => {
                matches!(kind, Kind::Create | Kind::Rename | Kind::Remove | Kind::MakeDir)
            }
            Self::NoSpace => {
                use Kind::{Allocate, Create, MakeDir, SetLength, Write};
                matches!(kind, Write | SetLength | Allocate | Create | MakeDir)
            }
            Self::Slow(_) => true,
        }
    }
}

/// A fault, where and when.
#[derive(Clone, Debug)]
pub struct Rule {
    fault: Fault,
    path_prefix: String,
    when: When,
    met: u64,
}

#[derive(Clone, Copy, Debug)]
enum When {
    Always,
    Nth(u64),
    From(u64),
    PerMillion(u32),
}

impl Rule {
    /// Every time: EIO for ever, a device that lies.
    pub fn always(fault: Fault) -> Self {
        Self { fault, path_prefix: String::new(), when: When::Always, met: 0 }
    }

    /// The next time only.
    pub fn once(fault: Fault) -> Self {
        Self::nth(fault, 0)
    }

    /// Only the n-th fitting operation from now, counted from 0.
    pub fn nth(fault: Fault, n: u64) -> Self {
        Self { when: When::Nth(n), ..Self::always(fault) }
    }

    /// The n-th fitting operation from now, counted from 0, and all after it.
    pub fn from_nth(fault: Fault, n: u64) -> Self {
        Self { when: When::From(n), ..Self::always(fault) }
    }

    /// By the disk's seed, in so many of a million fitting operations.
    pub fn chance(fault: Fault, per_million: u32) -> Self {
        Self { when: When::PerMillion(per_million), ..Self::always(fault) }
    }

    /// Only for paths that begin so (as they were when the file was opened).
    #[must_use]
    pub fn on(self, path_prefix: &str) -> Self {
        Self { path_prefix: path_prefix.to_owned(), ..self }
    }
}

/// Names a rule that was injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleId(u64);

/// The rules in force.
#[derive(Clone)]
pub(crate) struct Faults {
    rules: Vec<(RuleId, Rule)>,
    next: u64,
    /// How many operations were spoiled, slowness aside.
    pub struck: u64,
    pub on: bool,
    pub rng: Rng,
}

impl Faults {
    pub fn new(rng: Rng) -> Self {
        Self { rules: Vec::new(), next: 0, struck: 0, on: true, rng }
    }

    pub fn inject(&mut self, rule: Rule) -> RuleId {
        let id = RuleId(self.next);
        self.next += 1;
        self.rules.push((id, rule));
        id
    }

    pub fn take_back(&mut self, id: RuleId) {
        self.rules.retain(|(other, _)| *other != id);
    }

    pub fn clear(&mut self) {
        self.rules.clear();
    }

    /// The first rule that strikes this operation, slowness aside.
    pub fn strike(&mut self, kind: Kind, path: &str) -> Option<Fault> {
        let mut struck = None;
        self.each_struck(kind, path, false, |fault| {
            struck = struck.or(Some(fault));
        });
        self.struck += u64::from(struck.is_some());
        struck
    }

    /// How much longer this operation takes.
    pub fn delay_ns(&mut self, kind: Kind, path: &str) -> u64 {
        let mut delay_ns = 0;
        self.each_struck(kind, path, true, |fault| {
            if let Fault::Slow(ns) = fault {
                delay_ns += ns;
            }
        });
        delay_ns
    }

    fn each_struck(&mut self, kind: Kind, path: &str, slow: bool, mut then: impl FnMut(Fault)) {
        if !self.on {
            return;
        }
        for (_, rule) in &mut self.rules {
            let fits = matches!(rule.fault, Fault::Slow(_)) == slow
                && rule.fault.strikes(kind)
                && path.starts_with(&rule.path_prefix);
            if !fits {
                continue;
            }
            let strikes = match rule.when {
                When::Always => true,
                When::Nth(n) => rule.met == n,
                When::From(n) => rule.met >= n,
                When::PerMillion(per_million) => self.rng.chance(per_million),
            };
            rule.met += 1;
            if strikes {
                then(rule.fault);
            }
        }
    }
}
