//! Who may do what, as far as the first version tells people apart: the owner of the store, the user
//! of this process (who holds the key) and root may do all; members of the socket's group read, write and list; everybody else what `--anyone`
//! says. The past is for those who may do all, for it holds what was deleted.

use super::running::Engine;
use api::{Caller, Failure, codes};
use rustix::process::geteuid;
use world::{real::groups_of, ring::Peer};

/// What everybody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anyone {
    /// Read the present.
    Read,
    /// Read and write the present.
    Write,
}

/// Rising: each may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// Nothing, not even know of names.
    Nothing,
    /// Read and list the present.
    Read,
    /// Write it.
    Write,
    /// All, the past too.
    All,
}

impl Engine {
    /// What who is at the other end of a client's socket may do.
    pub(super) fn level_of(&self, peer: &Peer) -> Level {
        let anyone = match self.settings.anyone {
            None => Level::Nothing,
            Some(Anyone::Read) => Level::Read,
            Some(Anyone::Write) => Level::Write,
        };
        let Peer::Process { uid, gid, pid } = *peer else { return anyone };
        if self.is_ours(uid) {
            return Level::All;
        }
        let member = self
            .settings
            .socket_group
            .is_some_and(|group| group == gid || groups_of(pid).contains(&group));
        if member { anyone.max(Level::Write) } else { anyone }
    }

    /// Refuses callers that may not use the control plane. Where a group of administrators is named,
    /// the socket's own mode has let in nobody else.
    pub(super) fn must_manage(&self, who: &Caller) -> Result<(), Failure> {
        if self.is_ours(who.uid) || !self.settings.serving || self.settings.admin_group.is_some() {
            return Ok(());
        }
        Err(Failure::new(codes::NOT_ALLOWED, format!("user {} may not manage this store", who.uid))
            .doing("ask its owner, or serve with --admin-group"))
    }

    fn is_ours(&self, uid: u32) -> bool {
        uid == 0 || uid == self.held.owner || uid == geteuid().as_raw()
    }
}
