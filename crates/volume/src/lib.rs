//! The versioned block map on the log: any instant, clone, rewind, diff.
