//! `image digest`: of the bytes that a guest sees.

use super::{INTERRUPTED, failure, no_pipe, open, watched};
use crate::{
    cli::{DigestName, ImageDigestArgs},
    context::Context,
    out::{Cell, Stop, Table},
};
use image_files::Algorithm;
use serde_json::{Map, Value, json};

pub(super) fn run(args: &ImageDigestArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    let image = &args.state.of.image;
    no_pipe(image)?;
    let mut disk = open(&args.state)?;
    let size = disk.virtual_size();
    let mut algorithms: Vec<Algorithm> = args.algorithm.iter().copied().map(algorithm).collect();
    algorithms.dedup();
    let ended = watched(&context.global, context.out.quiet, "digesting", size, |watch| {
        disk.digest(&algorithms, watch)
    });
    let Some(digests) = ended.map_err(|error| failure(error, image))? else {
        return Ok(INTERRUPTED);
    };
    let path = image.to_string_lossy();
    if context.out.json {
        let of = digests
            .iter()
            .map(|digest| (digest.algorithm.word().to_owned(), Value::from(digest.hex.as_str())));
        context.out.document(&json!({
            "schema": "image.digest/1",
            "file": path,
            "snapshot": args.state.snapshot,
            "size": size,
            "digests": of.collect::<Map<String, Value>>(),
        }))?;
        return Ok(0);
    }
    let mut table = Table::new(["ALGORITHM", "DIGEST", "FILE"]);
    for digest in &digests {
        table.row([
            Cell::text(digest.algorithm.word()),
            Cell::text(&digest.hex),
            Cell::text(&path),
        ]);
    }
    context.out.table(&table)?;
    Ok(0)
}

fn algorithm(name: DigestName) -> Algorithm {
    match name {
        DigestName::Sha256 => Algorithm::Sha256,
        DigestName::Blake3 => Algorithm::Blake3,
        DigestName::Md5 => Algorithm::Md5,
        DigestName::Sha256Pages => Algorithm::Pages,
    }
}
