//! Keys; sealing and opening of cells, records and pages. The only crate that names a cipher.
