//! One suite that every [`crate::BlockDevice`] runs.
