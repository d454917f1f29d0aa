//! Super block, key slots and the chained, sealed record log that says what is valid.
