//! What a user sees when a command fails: what was wrong, what to do, a code for scripts.
//!
//! One form everywhere: text on stderr, or the JSON object `{"error":{…}}` on the control socket
//! and with `--json`. Both carry the same facts, and the JSON form is read back without loss.
//! A failure has at most one hint and one `see`: who needs three has not decided what helps.

use crate::codes::{self, Code};
use serde::{Deserialize, Serialize};
use std::fmt::{self, Write as _};
use utoipa::ToSchema;

/// Why, in the few ways a script can act upon. The number is the exit code of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Kind {
    /// The answer is no: a difference, a failed test.
    No = 1,
    /// The command or request is not understood.
    Usage = 2,
    /// What was named does not exist.
    NotFound = 3,
    /// It exists already, or is in use.
    Busy = 4,
    /// The caller may not, or has no key.
    Denied = 5,
    /// Refused to protect data; a confirmation or option allows it.
    Protected = 6,
    /// Damaged bytes were met or found.
    Damaged = 7,
    /// A server or peer does not answer.
    Unreachable = 8,
    /// No space.
    Full = 9,
    /// Our fault.
    Bug = 70,
}

impl Kind {
    /// The exit code of a command that ends so.
    pub const fn exit(self) -> u8 {
        self as u8
    }

    /// The word in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Usage => "usage",
            Self::NotFound => "not_found",
            Self::Busy => "busy",
            Self::Denied => "denied",
            Self::Protected => "protected",
            Self::Damaged => "damaged",
            Self::Unreachable => "unreachable",
            Self::Full => "full",
            Self::Bug => "bug",
        }
    }
}

/// What a hint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Label {
    /// What helps.
    Do,
    /// What was probably meant.
    DidYouMean,
    /// The oldest instant that is kept.
    Oldest,
    /// The kept instant that lies nearest.
    Nearest,
}

impl Label {
    const ALL: [Self; 4] = [Self::DidYouMean, Self::Oldest, Self::Nearest, Self::Do];

    /// The words before the hint.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Do => "do",
            Self::DidYouMean => "did you mean",
            Self::Oldest => "oldest",
            Self::Nearest => "nearest",
        }
    }
}

/// A command that could not be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// For scripts; gives the exit code.
    pub code: Code,
    /// What was wrong, one line, lower case, no full stop.
    pub message: String,
    /// What helps.
    pub hint: Option<(Label, String)>,
    /// A command that tells more.
    pub see: Option<String>,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, see: None }
    }

    /// A fault of ours: exit 70.
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(codes::BUG, message)
    }

    /// With what to do about it.
    #[must_use]
    pub fn doing(self, text: impl Into<String>) -> Self {
        self.hinting(Label::Do, text)
    }

    /// With what was probably meant.
    #[must_use]
    pub fn meaning(self, text: impl Into<String>) -> Self {
        self.hinting(Label::DidYouMean, text)
    }

    /// With a hint.
    #[must_use]
    pub fn hinting(mut self, label: Label, text: impl Into<String>) -> Self {
        self.hint = Some((label, text.into()));
        self
    }

    /// With a command that tells more.
    #[must_use]
    pub fn seeing(mut self, command: impl Into<String>) -> Self {
        self.see = Some(command.into());
        self
    }

    /// Why, as scripts see it.
    pub const fn kind(&self) -> Kind {
        self.code.kind()
    }

    /// The exit code.
    pub const fn exit(&self) -> u8 {
        self.kind().exit()
    }

    /// The lines under the message, each as label and text.
    pub fn lines(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let hint = self.hint.as_ref().map(|(label, text)| (label.words(), text.as_str()));
        hint.into_iter().chain(self.see.as_deref().map(|see| ("see", see)))
    }

    /// The JSON form, `{"error":{…}}`.
    pub fn to_json(&self) -> ErrorDocument {
        let hint = self.hint.as_ref().map(|(label, text)| match label {
            Label::Do => text.clone(),
            label => format!("{} {text}", label.words()),
        });
        let error = ErrorBody {
            code: self.code.to_string(),
            kind: self.kind(),
            exit: self.exit(),
            message: self.message.clone(),
            hint,
            see: self.see.clone(),
        };
        ErrorDocument { error }
    }

    /// From the JSON form. A code that this version does not know becomes
    /// [`codes::UNEXPECTED_ANSWER`], with the code in the message.
    pub fn from_json(document: ErrorDocument) -> Self {
        let body = document.error;
        let (code, message) = match Code::of_text(&body.code) {
            Some(code) => (code, body.message),
            None => (codes::UNEXPECTED_ANSWER, format!("{}: {}", body.code, body.message)),
        };
        let hint = body.hint.map(|text| {
            Label::ALL
                .into_iter()
                .find_map(|label| {
                    let rest = text.strip_prefix(label.words())?.strip_prefix(' ')?;
                    (label != Label::Do).then(|| (label, rest.to_owned()))
                })
                .unwrap_or((Label::Do, text))
        });
        Self { code, message, hint, see: body.see }
    }
}

impl fmt::Display for Failure {
    /// The text form, without colour; what clients named is escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code, printable(&self.message))?;
        self.lines().try_for_each(|(label, text)| write!(f, "\n  {label:<12}  {}", printable(text)))
    }
}

impl std::error::Error for Failure {}

/// A failure as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorDocument {
    /// The failure.
    pub error: ErrorBody,
}

/// The facts of a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// Such as `E3104`; never changes its meaning.
    #[schema(example = "E3104")]
    pub code: String,
    /// Why, in the few ways a script can act upon.
    pub kind: Kind,
    /// Exit code of the command line.
    pub exit: u8,
    /// What was wrong.
    pub message: String,
    /// What helps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// A command that tells more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub see: Option<String>,
}

/// The text with control characters (and what reorders a line) written as escapes: names come from
/// clients and guests, and a terminal must not obey them.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let reorders = matches!(c, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || reorders {
            write!(out, "{}", c.escape_default()).expect("a string takes all");
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Failure {
        Failure::new(codes::NO_INSTANT, "volume `db` has no instant `mark:before-upgrad`")
            .meaning("mark:before-upgrade  (2026-11-20 09:58:02, 14 min ago)?")
            .seeing("strandline log db --marks")
    }

    #[test]
    fn the_text_form_is_that_of_the_manual() {
        let text = "error[E3104]: volume `db` has no instant `mark:before-upgrad`\n  \
            did you mean  mark:before-upgrade  (2026-11-20 09:58:02, 14 min ago)?\n  \
            see           strandline log db --marks";
        assert_eq!(example().to_string(), text);
    }

    #[test]
    fn the_json_form_is_that_of_the_manual_and_is_read_back() {
        let json = serde_json::to_string(&example().to_json()).expect("plain data");
        let expected = concat!(
            r#"{"error":{"code":"E3104","kind":"not_found","exit":3,"#,
            r#""message":"volume `db` has no instant `mark:before-upgrad`","#,
            r#""hint":"did you mean mark:before-upgrade  (2026-11-20 09:58:02, 14 min ago)?","#,
            r#""see":"strandline log db --marks"}}"#
        );
        assert_eq!(json, expected);
        let back = Failure::from_json(serde_json::from_str(&json).expect("the same form"));
        assert_eq!(back, example());
        let plain = Failure::new(codes::IN_USE, "busy").doing("shut the guest down");
        assert_eq!(Failure::from_json(plain.to_json()), plain);
    }

    #[test]
    fn a_code_from_a_newer_server_stays_readable() {
        let mut document = example().to_json();
        document.error.code = "E3999".to_owned();
        let failure = Failure::from_json(document);
        assert_eq!(failure.exit(), 70);
        assert!(failure.message.starts_with("E3999: volume"));
    }

    #[test]
    fn what_a_guest_named_cannot_command_the_terminal() {
        let failure = Failure::new(codes::IN_USE, "\u{1b}[2J\nqemu\u{202e}");
        assert_eq!(failure.to_string(), "error[E4003]: \\u{1b}[2J\\nqemu\\u{202e}");
    }
}
