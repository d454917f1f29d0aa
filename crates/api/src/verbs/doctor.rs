//! `doctor`: checks that only the server can make.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

question!(
    /// Asks for the checks that only the server can make.
    Doctor
);

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// All is well.
    Ok,
    /// It works, but somebody should look.
    Warn,
    /// It does not work, or is not safe.
    Fail,
}

/// One line of `doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Check {
    /// How it ended.
    pub health: Health,
    /// What was found.
    pub what: String,
    /// What to do about it.
    #[serde(rename = "do")]
    pub remedy: Option<String>,
}

/// All checks, in the order in which they were made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Checks {
    /// The checks.
    pub checks: Vec<Check>,
}
