//! The log: batches, flush, recovery, packs. Owns durability.
