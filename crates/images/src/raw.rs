//! Raw images: the guest's bytes and nothing else.
//!
//! Holes of the file are not seen here: an opener that knows them (SEEK_HOLE) may split the one
//! extent.

use std::ops::Range;

use crate::{
    Class, Extent, Facts, Fault, Format, Image, Input, Kind, Part, Report, Request, Stop, limits,
};

/// A raw image.
#[derive(Debug)]
struct Raw {
    facts: Facts,
    file: crate::FileId,
}

/// Any file is one.
pub(crate) fn open(request: &Request<'_>, input: &Input) -> Result<Box<dyn Image>, Stop> {
    let len = input.len(request.file);
    if len > limits::VIRTUAL_BYTES_MAX {
        let text = format!("a disk of {len} bytes");
        return Err(Fault::new(Class::Limit, Part::Header, request.file, text).into());
    }
    if let Some(name) = request.snapshot {
        let text = format!("a raw image has no snapshot {name:?}");
        return Err(Fault::new(Class::MissingPart, Part::Snapshots, request.file, text).into());
    }
    let facts = Facts::new(Format::Raw, "raw", len, 0);
    Ok(Box::new(Raw { facts, file: request.file }))
}

impl Image for Raw {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn map(&mut self, range: Range<u64>, _: &Input) -> Result<Vec<Extent>, Stop> {
        let kind = Kind::Data { file: self.file, offset: range.start };
        Ok(vec![Extent { start: range.start, len: range.end - range.start, kind }])
    }

    fn check(&mut self, _: &Input, _: &mut Report) -> Result<bool, Stop> {
        Ok(true)
    }
}
