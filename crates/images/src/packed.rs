//! Compressed units (clusters, grains) to guest bytes.
//!
//! A unit unpacks to exactly its length: output stops one byte past it, so a stream of a few bytes
//! that yields gigabytes costs no more than a good one.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, ResetDirective};

use crate::{
    Algorithm, Class, Fault, Packed, Part,
    bytes::{narrow, wide},
};

/// Window that a zstd frame may ask for, as a power of two: 8 MiB, what every decoder must have.
const ZSTD_WINDOW_LOG: u32 = 23;

/// Level of zstd when packing: QEMU's own.
const ZSTD_LEVEL: i32 = 3;

/// Reusable state of the decompressors; one for each thread that unpacks.
pub struct Unpacker {
    raw: Decompress,
    zlib: Decompress,
    zstd: DCtx<'static>,
}

impl std::fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpacker").finish_non_exhaustive()
    }
}

impl Default for Unpacker {
    fn default() -> Self {
        let mut zstd = DCtx::create();
        let bounded = zstd.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG));
        assert!(bounded.is_ok(), "zstd takes no bound on its window");
        Self { raw: Decompress::new_with_window_bits(false, 12), zlib: Decompress::new(true), zstd }
    }
}

impl Unpacker {
    /// The `packed.unit` bytes of a unit, from the bytes that were read for it; what the extent
    /// means begins `packed.skip` bytes on.
    pub fn unpack(&mut self, packed: &Packed, bytes: &[u8]) -> Result<Vec<u8>, Fault> {
        let unit = narrow(u64::from(packed.unit));
        let result = match packed.algorithm {
            Algorithm::Deflate12 => inflate(&mut self.raw, false, bytes, unit),
            Algorithm::Zlib => inflate(&mut self.zlib, true, bytes, unit),
            Algorithm::Zstd => self.unzstd(bytes, unit),
        };
        result.map_err(|class| {
            let class = match class {
                // Input that runs out is the file's fault only where the file ends.
                Class::Truncated if !packed.cut => Class::DecompressShort,
                class => class,
            };
            let text = format!(
                "a unit of {} bytes, packed in at most {}: {}",
                unit,
                bytes.len(),
                match class {
                    Class::DecompressShort => "the stream ends before the unit is full",
                    Class::DecompressLong => "the stream goes on past the unit",
                    Class::Truncated => "the file ends within the stream",
                    _ => "the stream is damaged",
                }
            );
            Fault::at(class, Part::Data, packed.file, packed.offset, text)
        })
    }

    /// Frames are unpacked until the unit is full: QEMU's rule.
    fn unzstd(&mut self, bytes: &[u8], unit: usize) -> Result<Vec<u8>, Class> {
        let mut out = vec![0; unit + 1];
        let mut output = OutBuffer::around(&mut out[..]);
        let mut input = InBuffer::around(bytes);
        self.zstd.reset(ResetDirective::SessionOnly).map_err(|_| Class::DecompressError)?;
        loop {
            let before = (input.pos(), output.pos());
            let left = self
                .zstd
                .decompress_stream(&mut output, &mut input)
                .map_err(|_| Class::DecompressError)?;
            if output.pos() > unit {
                return Err(Class::DecompressLong);
            }
            if left == 0 && output.pos() == unit {
                break;
            }
            if input.pos() == bytes.len() && (left != 0 || output.pos() < unit)
                || before == (input.pos(), output.pos())
            {
                return Err(if left == 0 { Class::DecompressShort } else { Class::Truncated });
            }
        }
        out.truncate(unit);
        Ok(out)
    }
}

/// A unit packed, where that makes it shorter: the same bytes for the same unit and version.
pub fn pack(algorithm: Algorithm, unit: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(unit.len());
    let mut state = match algorithm {
        Algorithm::Zstd => {
            let mut context = zstd::zstd_safe::CCtx::create();
            out.resize(unit.len(), 0);
            // No room for a longer stream: that is an error here, and means to store as it is.
            let len = context.compress(&mut out[..], unit, ZSTD_LEVEL).ok()?;
            out.truncate(len);
            return (len < unit.len()).then_some(out);
        }
        Algorithm::Zlib => Compress::new(Compression::default(), true),
        Algorithm::Deflate12 => Compress::new_with_window_bits(Compression::default(), false, 12),
    };
    let status = state.compress_vec(unit, &mut out, FlushCompress::Finish).ok()?;
    (status == Status::StreamEnd && out.len() < unit.len()).then_some(out)
}

/// Inflates to a unit. A raw stream that yields the unit and lacks only its last bits is taken, as
/// other readers do; an envelope must be whole, for it ends in a checksum.
fn inflate(
    state: &mut Decompress,
    envelope: bool,
    bytes: &[u8],
    unit: usize,
) -> Result<Vec<u8>, Class> {
    state.reset(envelope);
    let mut out = vec![0; unit + 1];
    loop {
        let (eaten, made) = (narrow(state.total_in()), narrow(state.total_out()));
        let status = state
            .decompress(&bytes[eaten..], &mut out[made..], FlushDecompress::None)
            .map_err(|_| Class::DecompressError)?;
        let made_now = narrow(state.total_out());
        if made_now > unit {
            return Err(Class::DecompressLong);
        }
        let stuck = state.total_in() == wide(eaten) && made_now == made;
        if status == Status::StreamEnd || stuck || narrow(state.total_in()) == bytes.len() {
            let whole = made_now == unit && (status == Status::StreamEnd || !envelope);
            if whole {
                break;
            }
            return Err(match status {
                Status::StreamEnd => Class::DecompressShort,
                _ => Class::Truncated,
            });
        }
    }
    out.truncate(unit);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FileId;

    const UNIT: usize = 65536;

    fn packed(algorithm: Algorithm, bytes: &[u8], cut: bool) -> Packed {
        let unit = u32::try_from(UNIT).unwrap();
        let len = wide(bytes.len());
        Packed { file: FileId(0), offset: 0, len, algorithm, unit, skip: 0, cut }
    }

    fn stream(algorithm: Algorithm, plain: &[u8]) -> Vec<u8> {
        let mut state = match algorithm {
            Algorithm::Zstd => return zstd::bulk::compress(plain, 3).unwrap(),
            Algorithm::Zlib => Compress::new(Compression::best(), true),
            Algorithm::Deflate12 => Compress::new_with_window_bits(Compression::best(), false, 12),
        };
        let mut out = Vec::with_capacity(plain.len() * 2 + 100);
        state.compress_vec(plain, &mut out, FlushCompress::Finish).unwrap();
        out
    }

    fn text(len: usize) -> Vec<u8> {
        (0..len).map(|n| b"strandline "[n * n / 7 % 11]).collect()
    }

    fn class(algorithm: Algorithm, bytes: &[u8]) -> Class {
        let packed = packed(algorithm, bytes, false);
        Unpacker::default().unpack(&packed, bytes).unwrap_err().class
    }

    const ALL: [Algorithm; 3] = [Algorithm::Deflate12, Algorithm::Zlib, Algorithm::Zstd];

    #[test]
    fn units_come_back_whole() {
        let mut unpacker = Unpacker::default();
        for algorithm in ALL {
            let mut bytes = stream(algorithm, &text(UNIT));
            for _ in 0..2 {
                let unit = unpacker.unpack(&packed(algorithm, &bytes, false), &bytes).unwrap();
                assert_eq!(unit, text(UNIT), "{algorithm:?}");
                bytes.extend_from_slice(b"what follows in its sector");
            }
        }
    }

    #[test]
    fn unit_must_be_just_full() {
        for algorithm in ALL {
            assert_eq!(class(algorithm, &stream(algorithm, &text(1000))), Class::DecompressShort);
            assert_eq!(
                class(algorithm, &stream(algorithm, &text(UNIT + 1))),
                Class::DecompressLong
            );
            let bomb = stream(algorithm, &vec![0; 16 << 20]);
            assert_eq!(class(algorithm, &bomb), Class::DecompressLong);
            assert_eq!(class(algorithm, &[0xff; 40]), Class::DecompressError);
            assert_eq!(class(algorithm, &[]), Class::DecompressShort);
        }
    }

    #[test]
    fn stream_cut_by_the_file_is_truncated() {
        for algorithm in ALL {
            let bytes = stream(algorithm, &text(UNIT));
            let part = &bytes[..bytes.len() / 2];
            let fault =
                Unpacker::default().unpack(&packed(algorithm, part, true), part).unwrap_err();
            assert_eq!(fault.class, Class::Truncated, "{algorithm:?}");
        }
    }

    #[test]
    fn packing_makes_shorter_or_nothing() {
        let mut unpacker = Unpacker::default();
        let mut state = 1_u32;
        let noise: Vec<u8> = (0..UNIT)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state.to_be_bytes()[0]
            })
            .collect();
        for algorithm in ALL {
            let bytes = pack(algorithm, &text(UNIT)).unwrap();
            assert!(bytes.len() < UNIT);
            let unit = unpacker.unpack(&packed(algorithm, &bytes, false), &bytes).unwrap();
            assert_eq!(unit, text(UNIT));
            assert_eq!(pack(algorithm, &noise), None, "{algorithm:?}");
        }
    }

    #[test]
    fn several_frames_fill_one_unit() {
        let mut bytes = stream(Algorithm::Zstd, &text(UNIT)[..40000]);
        bytes.extend(stream(Algorithm::Zstd, &text(UNIT)[40000..]));
        let unit =
            Unpacker::default().unpack(&packed(Algorithm::Zstd, &bytes, false), &bytes).unwrap();
        assert_eq!(unit, text(UNIT));
    }
}
