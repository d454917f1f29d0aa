//! `image …`

use super::{ChainVerb, size};
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Verbs of `image`.
#[derive(Debug, Subcommand)]
pub enum ImageVerb {
    /// Show what an image is, and the images it stands on
    Info(ImageInfoArgs),
    /// Look for damage in an image and its parents (exit 1: rules are broken, 7: bytes are lost)
    Check(ImageCheckArgs),
    /// Show where the guest's bytes are
    Map(ImageMapArgs),
    /// Print digests of the bytes that a guest sees: the same in every format
    Digest(ImageDigestArgs),
    /// Write an image in another format
    Convert(ImageConvertArgs),
    /// Write an instant of a volume as an image: the same bytes each time
    Export(ImageExportArgs),
    /// Write what can be read of a damaged image, and list what cannot (exit 7 if anything)
    Salvage(ImageSalvageArgs),
    /// Serve an image as it is, at once and read-only, in the foreground until Ctrl-C
    Open(ImageOpenArgs),
    /// Make a volume on an image: usable at once, nothing copied, the image never written
    Adopt(ImageAdoptArgs),
    /// Have the image that a volume stands on taken over in the background
    Fill(ImageFillArgs),
    /// Copy an image into a volume, whole
    Import(ImageImportArgs),
    /// Guard images that stand on others against changes of those
    #[command(subcommand)]
    Chain(ChainVerb),
}

/// The image that is read.
#[derive(Clone, Debug, Args)]
pub struct ImageArgs {
    /// The image
    #[arg(value_name = "IMAGE")]
    pub image: PathBuf,
    /// Its format
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    pub format: GivenFormat,
    /// Format of parents, where the images over them do not state it
    #[arg(long, value_name = "FORMAT")]
    pub parent_format: Option<ImageFormat>,
    /// Look for parents and parts here too; may be repeated
    #[arg(long, value_name = "DIR")]
    pub search: Vec<PathBuf>,
    /// Allow block devices, for the image and what it names
    #[arg(long)]
    pub devices: bool,
}

/// The image, and which of its states is read.
#[derive(Clone, Debug, Args)]
pub struct ImageStateArgs {
    #[command(flatten)]
    pub of: ImageArgs,
    /// An internal snapshot (name or id) in place of the present state
    #[arg(long, value_name = "NAME")]
    pub snapshot: Option<String>,
}

/// `image info`
#[derive(Debug, Args)]
pub struct ImageInfoArgs {
    #[command(flatten)]
    pub of: ImageArgs,
}

/// `image check`
#[derive(Debug, Args)]
pub struct ImageCheckArgs {
    #[command(flatten)]
    pub of: ImageArgs,
    /// Only this image, not those it stands on
    #[arg(long)]
    pub alone: bool,
    /// Read, and unpack, all that the guest can see, too
    #[arg(long, conflicts_with = "alone")]
    pub data: bool,
}

/// `image map`
#[derive(Debug, Args)]
pub struct ImageMapArgs {
    #[command(flatten)]
    pub state: ImageStateArgs,
    /// What one image of the chain itself holds: 0 is the one named, 1 its parent
    #[arg(long, value_name = "N")]
    pub layer: Option<usize>,
    /// Begin here
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "0")]
    pub offset: u64,
    /// End after this
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub length: Option<u64>,
}

/// `image digest`
#[derive(Debug, Args)]
pub struct ImageDigestArgs {
    #[command(flatten)]
    pub state: ImageStateArgs,
    /// How; may be repeated
    #[arg(long, short, value_name = "NAME", default_value = "sha256")]
    pub algorithm: Vec<DigestName>,
}

/// `image convert`
#[derive(Debug, Args)]
pub struct ImageConvertArgs {
    #[command(flatten)]
    pub state: ImageStateArgs,
    /// The file or device to write; - for stdout
    #[arg(value_name = "OUT|-")]
    pub out: PathBuf,
    /// Format of what is written; that of OUT's suffix when absent
    #[arg(long, value_name = "FORMAT")]
    pub to: Option<ImageFormat>,
    /// Kind within that format: qcow2 plain, zlib, zstd; VHD and VHDX dynamic, fixed; VDI dynamic,
    /// static; VMDK sparse, flat, streamOptimized
    #[arg(long, value_name = "KIND")]
    pub subformat: Option<String>,
    /// Write over a file, or a device that holds data
    #[arg(long)]
    pub force: bool,
}

/// `image export`
#[derive(Debug, Args)]
pub struct ImageExportArgs {
    /// The instant; the present when none is named
    #[arg(value_name = "VOL[~BRANCH][@INSTANT]")]
    pub reference: String,
    /// The file or device to write; - for stdout
    #[arg(value_name = "OUT|-")]
    pub out: PathBuf,
    /// Format of what is written; that of OUT's suffix when absent
    #[arg(long, value_name = "FORMAT")]
    pub to: Option<ImageFormat>,
    /// Kind within that format: qcow2 plain, zlib, zstd; VHD and VHDX dynamic, fixed; VDI dynamic,
    /// static; VMDK sparse, flat, streamOptimized
    #[arg(long, value_name = "KIND")]
    pub subformat: Option<String>,
    /// Write what differs from this instant, to be opened over its image in the same format
    #[arg(long, value_name = "VOL@INSTANT")]
    pub base: Option<String>,
    /// File name of the base's image, as seen from OUT's folder; VOL-seqN.FORMAT when absent
    #[arg(long, value_name = "NAME", requires = "base")]
    pub base_file: Option<String>,
    /// Write over a file, or a device that holds data
    #[arg(long)]
    pub force: bool,
    /// Do not print SHA-256 digests: a large disk of zeroes takes its time
    #[arg(long)]
    pub no_digest: bool,
    /// Refuse instants that the retention rule has thinned
    #[arg(long)]
    pub exact: bool,
}

/// `image salvage`
#[derive(Debug, Args)]
pub struct ImageSalvageArgs {
    #[command(flatten)]
    pub state: ImageStateArgs,
    /// The raw disk to write: a file or device
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
    /// List what could not be read here, as GNU ddrescue does
    #[arg(long, value_name = "FILE")]
    pub map: PathBuf,
    /// Write over files, or a device that holds data
    #[arg(long)]
    pub force: bool,
}

/// `image open`
#[derive(Debug, Args)]
pub struct ImageOpenArgs {
    #[command(flatten)]
    pub state: ImageStateArgs,
    /// Offer NBD here: unix:PATH, ADDRESS[:PORT] or [ADDRESS]:PORT; may be repeated
    #[arg(long, value_name = "ADDR")]
    pub nbd: Vec<String>,
    /// Take writes too, into a volume of the store that stands on the image
    #[arg(long, conflicts_with_all = ["anyone", "insecure_lan"])]
    pub rw: bool,
    /// Name of that volume; that of the image when absent
    #[arg(long, value_name = "VOL", requires = "rw")]
    pub name: Option<String>,
    /// Whoever reaches the address may read; else this user and root only
    #[arg(long)]
    pub anyone: bool,
    /// Allow plain TCP beyond this host
    #[arg(long)]
    pub insecure_lan: bool,
}

/// `image adopt`
#[derive(Debug, Args)]
pub struct ImageAdoptArgs {
    /// The image
    #[arg(value_name = "IMAGE", required_unless_present = "cancel")]
    pub image: Option<PathBuf>,
    /// The volume to make
    #[arg(value_name = "VOL", required_unless_present = "cancel")]
    pub volume: Option<String>,
    /// Its format
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    pub format: GivenFormat,
    /// Format of parents, where the images over them do not state it
    #[arg(long, value_name = "FORMAT")]
    pub parent_format: Option<ImageFormat>,
    /// Look for parents and parts here too; may be repeated
    #[arg(long, value_name = "DIR")]
    pub search: Vec<PathBuf>,
    /// Allow block devices, for the image and what it names
    #[arg(long)]
    pub devices: bool,
    /// An internal snapshot (name or id) in place of the present state
    #[arg(long, value_name = "NAME")]
    pub snapshot: Option<String>,
    /// Take all of it over in the background, after which it is needed no more
    #[arg(long)]
    pub fill: bool,
    /// Take over at most so many bytes a second
    #[arg(long, value_name = "SIZE", value_parser = size, requires = "fill")]
    pub rate: Option<u64>,
    /// Give an adoption up: its volume goes into the trash
    #[arg(long, value_name = "VOL", conflicts_with_all = ["image", "volume", "fill"])]
    pub cancel: Option<String>,
}

impl ImageAdoptArgs {
    /// The image, and which of its states is read.
    pub fn state(&self) -> Option<ImageStateArgs> {
        let of = ImageArgs {
            image: self.image.clone()?,
            format: self.format,
            parent_format: self.parent_format,
            search: self.search.clone(),
            devices: self.devices,
        };
        Some(ImageStateArgs { of, snapshot: self.snapshot.clone() })
    }
}

/// `image fill`
#[derive(Debug, Args)]
pub struct ImageFillArgs {
    /// The volume
    #[arg(value_name = "VOL")]
    pub volume: String,
    /// At most so many bytes a second; 0 for as many as can be
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub rate: Option<u64>,
    /// Take nothing more over
    #[arg(long, conflicts_with = "rate")]
    pub off: bool,
    /// The image is here now
    #[arg(long, value_name = "PATH")]
    pub image: Option<PathBuf>,
    /// Take the image for what was adopted, though its file looks otherwise
    #[arg(long)]
    pub accept: bool,
}

/// `image import`
#[derive(Debug, Args)]
pub struct ImageImportArgs {
    #[command(flatten)]
    pub state: ImageStateArgs,
    /// The volume to make
    #[arg(value_name = "VOL")]
    pub volume: String,
}

/// A format of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ImageFormat {
    /// The guest's bytes and nothing else
    Raw,
    /// QEMU
    Qcow2,
    /// Virtual PC, Hyper-V before 2012, Azure
    #[value(alias = "vpc")]
    Vhd,
    /// Hyper-V
    Vhdx,
    /// VMware
    Vmdk,
    /// VirtualBox
    Vdi,
}

/// A format as it is told, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GivenFormat {
    /// Found out from the file, and asked for where a guest could have written what decides
    Auto,
    /// The guest's bytes and nothing else
    Raw,
    /// QEMU
    Qcow2,
    /// Virtual PC, Hyper-V before 2012, Azure
    #[value(alias = "vpc")]
    Vhd,
    /// Hyper-V
    Vhdx,
    /// VMware
    Vmdk,
    /// VirtualBox
    Vdi,
}

/// A digest's algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DigestName {
    /// SHA-256 of all bytes
    Sha256,
    /// BLAKE3 of all bytes
    Blake3,
    /// MD5 of all bytes, for lists that have nothing else
    Md5,
    /// SHA-256 over the offset (8 bytes, little endian) and the bytes of each 64 KiB page that holds
    /// a byte other than zero: soon done for large disks that hold little
    Sha256Pages,
}
