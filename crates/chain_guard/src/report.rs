//! What is said of one child and its parent.

use std::{ops::Range, path::PathBuf};

use lineage::{Conclusion, Native, Notice, Outcome, Scope, Share, Sign, Verdict, Weight};

/// All that was found of a link.
#[derive(Debug)]
pub struct LinkReport {
    /// Place of the child in its chain; 0 is the image that was named.
    pub layer: usize,
    /// The child.
    pub child: PathBuf,
    /// Its parent.
    pub parent: PathBuf,
    /// In one word.
    pub status: Status,
    /// What the link was compared with.
    pub seal: SealFacts,
    /// What the formats' own identifiers say.
    pub native: Native,
    /// What seal, signs and bytes say; `None` where there is no seal.
    pub conclusion: Option<Conclusion>,
    /// What could not be read of the parent's disk, where it matters.
    pub damage: Option<image_files::Error>,
    /// Files were written while they were read: what was read is not believed.
    pub unsteady: bool,
}

/// A link in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// The child sees what it was made over, as far as was looked.
    Ok,
    /// Nothing can decide.
    Unknown,
    /// The child sees other bytes, or stands on another image.
    Fault,
}

/// The record that a link was compared with.
#[derive(Debug)]
pub enum SealFacts {
    /// There is none.
    None,
    /// Children that hold nothing look alike: one of those was sealed over another parent.
    Alike,
    /// There is none; the child carries a digest of its parent in itself.
    Label,
    /// It cannot be read.
    Unreadable(String),
    /// There is one.
    Found {
        /// When it was made, in ns since 1970-01-01 UTC.
        made_ns: i64,
        /// By the child's file; else by what the child holds.
        by_file: bool,
        /// Which bytes were digested; `None`: none.
        scope: Option<Scope>,
        /// How much of the parent's disk that was.
        share: Option<Share>,
        /// Why a change was accepted, if one was.
        reason: String,
    },
}

impl Status {
    /// The word for scripts and people.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Fault => "FAULT",
        }
    }
}

impl LinkReport {
    /// The verdict in one word: `same`, `quiet` (no sign, not all compared), `beyond`, `shadowed`,
    /// `visible`, `unknown`; by identifiers alone `agrees` or `differs`.
    pub fn verdict(&self) -> &'static str {
        match (&self.conclusion, self.native) {
            (Some(conclusion), _) => outcome_word(conclusion.outcome),
            (None, Native::Agrees) => "agrees",
            (None, Native::Differs(_)) => "differs",
            (None, Native::Hint(_) | Native::Untold) => "unknown",
        }
    }

    /// Whether its record can be written anew: signs changed and the bytes were proven, or the child
    /// is a copy that has no record of its own yet.
    pub fn is_to_renew(&self) -> bool {
        let outcome = self.conclusion.as_ref().map(|conclusion| conclusion.outcome);
        let by_file = match self.seal {
            SealFacts::Found { by_file, .. } => by_file,
            SealFacts::Label => return outcome == Some(Outcome::Same) && self.status == Status::Ok,
            _ => return false,
        };
        self.status == Status::Ok
            && match outcome {
                Some(Outcome::Same) => !by_file || !self.signs().is_empty(),
                Some(Outcome::Quiet) => !by_file,
                _ => false,
            }
    }

    /// The signs of file system and header.
    pub fn signs(&self) -> &[Sign] {
        self.conclusion.as_ref().map_or(&[], |conclusion| conclusion.notice.signs())
    }

    /// Ranges of the parent's disk that are not as they were.
    pub fn ranges(&self) -> &[(Range<u64>, Verdict)] {
        let judgement = self.conclusion.as_ref().and_then(|all| all.judgement.as_ref());
        judgement.map_or(&[], |judgement| judgement.ranges())
    }

    /// What there is to say; empty where all is as it was.
    pub fn text(&self) -> String {
        let mut parts: Vec<String> = Vec::new();
        match &self.seal {
            SealFacts::Unreadable(why) => parts.push(format!("its seal cannot be read: {why}")),
            SealFacts::Alike => parts.push(
                "an image that holds nothing, as this one, was sealed over another parent"
                    .to_owned(),
            ),
            SealFacts::None | SealFacts::Label | SealFacts::Found { .. } => {}
        }
        if self.unsteady {
            parts.push("files were written while they were read".to_owned());
        }
        match (&self.conclusion, self.native) {
            (Some(conclusion), native) => {
                parts.extend(told(conclusion));
                if let Native::Differs(what) = native {
                    parts.push(format!("{}: programs of this format may refuse it", what.words()));
                }
            }
            (None, Native::Differs(what) | Native::Hint(what)) => {
                parts.push(what.words().to_owned());
                if matches!(native_weight(self.native), Some(Weight::Trigger)) {
                    parts.push("not sealed, so nothing can decide".to_owned());
                }
            }
            (None, Native::Agrees) => {
                parts.push("by its identifiers alone: not sealed".to_owned());
            }
            (None, Native::Untold) => {
                if matches!(self.seal, SealFacts::None) {
                    parts.push("not sealed, and the format keeps no identifiers".to_owned());
                }
            }
        }
        if let Some(error) = &self.damage {
            parts.push(error.to_string());
        }
        parts.join("; ")
    }

    /// What a person can do; empty where nothing need be done.
    pub fn advice(&self) -> &'static str {
        match (&self.conclusion, self.status) {
            (Some(conclusion), _) => conclusion.advice(),
            (None, Status::Fault) => {
                "put the parent back as it was, or open the child for reading only"
            }
            (None, _) => "seal it while all is well: strandline image chain guard",
        }
    }
}

/// A conclusion in words; nothing where there is nothing to say.
fn told(conclusion: &Conclusion) -> Option<String> {
    match conclusion.outcome {
        Outcome::Quiet => None,
        Outcome::Same if conclusion.notice.is_quiet() => None,
        // Without a sign only one digest over all can have said so: that of a label.
        Outcome::Unknown if conclusion.notice.is_quiet() => {
            Some("the parent changed, and where is not known".to_owned())
        }
        Outcome::Same => Some(format!(
            "all bytes that the child needs are what they were; changed: {}",
            conclusion.notice
        )),
        _ => Some(conclusion.to_string()),
    }
}

fn native_weight(native: Native) -> Option<Weight> {
    match native {
        Native::Differs(_) => Some(Weight::Proof),
        Native::Hint(_) => Some(Weight::Trigger),
        Native::Agrees | Native::Untold => None,
    }
}

/// The word of an outcome.
pub const fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Same => "same",
        Outcome::Quiet => "quiet",
        Outcome::Beyond => "beyond",
        Outcome::Shadowed => "shadowed",
        Outcome::Unknown => "unknown",
        Outcome::Visible => "visible",
    }
}

/// What follows from all that was found.
pub(crate) fn status_of(
    seal: &SealFacts,
    native: Native,
    conclusion: Option<&Conclusion>,
    doubt: bool,
) -> Status {
    let status = match conclusion.map(|conclusion| (conclusion.outcome, &conclusion.notice)) {
        Some((Outcome::Visible, _)) => Status::Fault,
        Some((Outcome::Unknown, notice)) => of_signs(notice),
        Some(_) => Status::Ok,
        None => match native {
            Native::Differs(_) => Status::Fault,
            Native::Agrees => Status::Ok,
            Native::Hint(_) | Native::Untold => Status::Unknown,
        },
    };
    let unread = matches!(seal, SealFacts::Unreadable(_) | SealFacts::Alike);
    if status == Status::Ok && (doubt || unread) { Status::Unknown } else { status }
}

/// Signs of which the bytes could not all be compared.
fn of_signs(notice: &Notice) -> Status {
    match notice.weight() {
        Some(Weight::Proof) => Status::Fault,
        _ => Status::Unknown,
    }
}
