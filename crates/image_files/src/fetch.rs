//! The bytes of an extent: read, unpacked, or an error.

use images::{Class, Extent, Fault, FileId, Kind, Packed, Part, packed::Unpacker};

use crate::{Error, Files, narrow};

/// Bytes of a unit and its packed form, at most: QEMU's largest cluster and a little.
const PACKED_MAX: u64 = 16 << 20;

/// State of one thread that fetches.
#[derive(Default)]
pub(crate) struct Fetcher {
    unpacker: Unpacker,
    /// The unit that was unpacked last: extents of one unit follow each other.
    last: Option<(FileId, u64, Vec<u8>)>,
}

impl Fetcher {
    /// Adds the extent's bytes to `out`: all of them, or none and an error.
    pub(crate) fn fetch(
        &mut self,
        files: &Files,
        extent: &Extent,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let start = out.len();
        out.resize(start + narrow(extent.len), 0);
        let filled = self.fill(files, extent, &mut out[start..]);
        filled.inspect_err(|_| out.truncate(start))
    }

    /// Fills `into`, which is as long as the extent, with its bytes.
    pub(crate) fn fill(
        &mut self,
        files: &Files,
        extent: &Extent,
        into: &mut [u8],
    ) -> Result<(), Error> {
        let len = into.len();
        match &extent.kind {
            Kind::Data { file, offset } => match files.read(*file, *offset, into)? {
                read if read == len => {}
                read => return Err(files.fault(short(*file, *offset, len, read))),
            },
            Kind::Zero | Kind::Hole | Kind::Parent => into.fill(0),
            Kind::Packed(packed) => {
                let skip = narrow(u64::from(packed.skip));
                into.copy_from_slice(&self.unit(files, packed)?[skip..skip + len]);
            }
            Kind::Inline { bytes, skip } => into.copy_from_slice(&bytes[*skip..*skip + len]),
            Kind::Corrupt(fault) => return Err(files.fault((**fault).clone())),
        }
        Ok(())
    }

    fn unit(&mut self, files: &Files, packed: &Packed) -> Result<&[u8], Error> {
        let known = |(file, offset, _): &(FileId, u64, Vec<u8>)| {
            *file == packed.file && *offset == packed.offset
        };
        if !self.last.as_ref().is_some_and(known) {
            if packed.len > PACKED_MAX {
                let text = format!("a unit packed in {} bytes", packed.len);
                let fault = Fault::at(Class::Limit, Part::Data, packed.file, packed.offset, text);
                return Err(files.fault(fault));
            }
            let mut bytes = vec![0; narrow(packed.len)];
            let read = files.read(packed.file, packed.offset, &mut bytes)?;
            let unit =
                self.unpacker.unpack(packed, &bytes[..read]).map_err(|fault| files.fault(fault))?;
            self.last = Some((packed.file, packed.offset, unit));
        }
        Ok(self.last.as_ref().map_or(&[], |(.., unit)| unit))
    }
}

fn short(file: FileId, offset: u64, len: usize, read: usize) -> Fault {
    let text = format!("{len} bytes are mapped here, and the file gives {read}");
    Fault::at(Class::Truncated, Part::Data, file, offset, text)
}
