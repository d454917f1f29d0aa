//! VHDX images.

use crate::{Class, Fault, Image, Input, Part, Request, Stop};

/// Opens an image of this format.
pub(crate) fn open(request: &Request<'_>, _: &Input) -> Result<Box<dyn Image>, Stop> {
    let text = "VHDX images are not read yet";
    Err(Fault::new(Class::UnsupportedFormat, Part::Header, request.file, text).into())
}
