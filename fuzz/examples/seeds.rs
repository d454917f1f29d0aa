//! Writes what the drivers call beginnings into the corpora, so that no binary file need be kept.

#![allow(dead_code)] // only the beginnings are wanted

#[path = "../../crates/api/tests/hostile/driver.rs"]
mod driver;
#[path = "../../crates/volume/tests/hostile/records.rs"]
mod records;

use std::{fs, path::Path};

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (target, seeds) in [("instants", driver::seeds()), ("manifest", records::seeds())] {
        let directory = corpus.join(target);
        fs::create_dir_all(&directory)?;
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(directory.join(format!("seed-{number:02}")), seed)?;
        }
    }
    Ok(())
}
