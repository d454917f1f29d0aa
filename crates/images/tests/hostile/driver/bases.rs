//! Images to begin from: of each format the kinds that are read by code of their own.

use images::{
    Algorithm, Format,
    layout::{Held, ImageFile, ParentPlan, Plan},
    qcow2::{self, pack::Packer, write::Qcow2Options},
    testing,
    vdi::{self, write::VdiKind, write::VdiOptions},
    vhd::{self, write::VhdKind, write::VhdOptions},
    vhdx::{self, write::Allocation, write::VhdxOptions},
    vmdk::{
        self,
        stream::{Stream, pack_grain},
        write::{Adapter, VmdkKind, VmdkOptions},
    },
};

/// Bytes of each disk.
pub const DISK_BYTES: u64 = 3 << 20;

/// An image, and what lies beside it.
pub struct Base {
    /// Name of the file that is opened, and edited.
    pub name: &'static str,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Files that it names, or that a child of it would.
    pub beside: Vec<(&'static str, Vec<u8>)>,
}

/// The bases of a format.
pub fn of(format: Format) -> Vec<Base> {
    match format {
        Format::Raw => Vec::new(),
        Format::Qcow2 => qcow2_bases(),
        Format::Vhd => vhd_bases(),
        Format::Vhdx => vhdx_bases(),
        Format::Vmdk => vmdk_bases(),
        Format::Vdi => vdi_bases(),
    }
}

fn plan() -> Plan {
    let held = |start, len, zero| Held { start, len, zero };
    let held = vec![held(0, 65536, false), held(1 << 20, 65536, true), held(2 << 20, 512, false)];
    Plan { virtual_size: DISK_BYTES, held, parent: None, seed: [7; 32], made_s: 1 << 30 }
}

/// A plan of a child of what `parent` makes.
fn child(name: &str, format: Format, identity: images::Identity) -> Plan {
    let parent = ParentPlan { name: name.to_owned(), format, identity, virtual_size: DISK_BYTES };
    Plan { parent: Some(parent), seed: [8; 32], ..plan() }
}

fn rendered(file: &ImageFile) -> Vec<u8> {
    testing::render(&*file.layout, &vec![0x5a; 3 << 20], u64::MAX)
}

fn alone(name: &'static str, files: &[ImageFile]) -> Base {
    Base { name, bytes: rendered(&files[0]), beside: Vec::new() }
}

fn over(name: &'static str, files: &[ImageFile], parent: &Base) -> Base {
    let beside = vec![(parent.name, parent.bytes.clone())];
    Base { name, bytes: rendered(&files[0]), beside }
}

fn qcow2_bases() -> Vec<Base> {
    let options = Qcow2Options { cluster_bits: 12, ..Qcow2Options::default() };
    let write = |plan: &Plan| qcow2::write::layout(plan, &options).expect("a plan that fits");
    let whole = alone("whole.qcow2", &write(&plan()));
    let differing = child("whole.qcow2", Format::Qcow2, images::Identity::None);
    let differing = over("child.qcow2", &write(&differing), &whole);
    let packed = [("deflate.qcow2", Algorithm::Deflate12), ("zstd.qcow2", Algorithm::Zstd)];
    let packed = packed.map(|(name, algorithm)| {
        let mut packer = Packer::new(plan(), options.clone(), algorithm).expect("a plan that fits");
        let mut bytes = packer.start();
        while packer.wanted().is_some() {
            bytes.extend(packer.push(&[0x5a; 4096]));
        }
        let finish = packer.finish().expect("a plan that fits");
        bytes.extend(finish.tables);
        bytes[..finish.header.len()].copy_from_slice(&finish.header);
        Base { name, bytes, beside: Vec::new() }
    });
    [whole, differing].into_iter().chain(packed).collect()
}

fn vhd_bases() -> Vec<Base> {
    let write = |plan: &Plan, kind| {
        let options = VhdOptions { kind, block_bytes: 1 << 16 };
        vhd::write::layout(plan, &options).expect("a plan that fits")
    };
    let whole = alone("whole.vhd", &write(&plan(), VhdKind::Dynamic));
    let differing = child("whole.vhd", Format::Vhd, vhd::write::identity(&plan()));
    let differing = over("child.vhd", &write(&differing, VhdKind::Dynamic), &whole);
    vec![whole, differing, alone("fixed.vhd", &write(&plan(), VhdKind::Fixed))]
}

fn vdi_bases() -> Vec<Base> {
    let write = |plan: &Plan, kind| {
        vdi::write::layout(plan, &VdiOptions { kind }).expect("a plan that fits")
    };
    let whole = alone("whole.vdi", &write(&plan(), VdiKind::Dynamic));
    let differing = child("", Format::Vdi, vdi::write::identity(&plan()));
    let differing = over("child.vdi", &write(&differing, VdiKind::Dynamic), &whole);
    vec![whole, differing, alone("static.vdi", &write(&plan(), VdiKind::Static))]
}

fn vhdx_bases() -> Vec<Base> {
    let write = |plan: &Plan, allocation| {
        let options = VhdxOptions { allocation, ..VhdxOptions::default() };
        vhdx::write::layout(plan, &options).expect("a plan that fits")
    };
    let whole = alone("whole.vhdx", &write(&plan(), Allocation::Dynamic));
    let differing = child("whole.vhdx", Format::Vhdx, vhdx::write::identity(&plan().seed));
    let differing = over("child.vhdx", &write(&differing, Allocation::Dynamic), &whole);
    let logged = Base { name: "logged.vhdx", bytes: logged(&whole.bytes), beside: Vec::new() };
    vec![whole, differing, logged]
}

/// The image with a log of one entry, which writes a page and zeroes another (MS-VHDX 2.3).
fn logged(image: &[u8]) -> Vec<u8> {
    let mut bytes = image.to_vec();
    let log = usize::try_from(u64::from_le_bytes(
        bytes[0x10000 + 72..0x10000 + 80].try_into().expect("eight bytes"),
    ));
    let (log, len) = (log.expect("a small image"), bytes.len() as u64);
    for header in [0x10000, 0x20000] {
        bytes[header + 48..header + 64].fill(9);
    }
    let mut entry = b"loge\0\0\0\0".to_vec();
    for field in [3 * 4096_u32, 0] {
        entry.extend(field.to_le_bytes());
    }
    entry.extend(1_u64.to_le_bytes());
    entry.extend(2_u64.to_le_bytes());
    entry.extend([9; 16]);
    entry.extend([len.to_le_bytes(), len.to_le_bytes()].concat());
    let page = len - (1 << 20);
    entry.extend(b"desc\x11\x11\x11\x11");
    entry.extend([0x11; 8]);
    entry.extend([page.to_le_bytes(), 1_u64.to_le_bytes()].concat());
    entry.extend(b"zero\0\0\0\0");
    entry.extend([4096_u64, page + 4096, 1].map(u64::to_le_bytes).concat());
    entry.resize(4096, 0);
    entry.extend(b"data\0\0\0\0");
    entry.extend([0x11; 4084]);
    entry.extend(1_u32.to_le_bytes());
    entry.resize(3 * 4096, 0);
    entry[8..12].copy_from_slice(&(2 * 4096_u32).to_le_bytes());
    bytes[log..log + 2 * 4096].copy_from_slice(&entry[..2 * 4096]);
    super::reseal(Format::Vhdx, &mut bytes);
    bytes
}

fn vmdk_bases() -> Vec<Base> {
    let options =
        |kind, name: &str| VmdkOptions { kind, name: name.to_owned(), adapter: Adapter::default() };
    let write = |plan: &Plan, kind, name: &str| {
        vmdk::write::layout(plan, &options(kind, name)).expect("a plan that fits")
    };
    let whole = alone("whole.vmdk", &write(&plan(), VmdkKind::Sparse, "whole.vmdk"));
    let content = vmdk::write::content_id(&plan());
    let differing = child("whole.vmdk", Format::Vmdk, images::Identity::Vmdk { content });
    let differing = write(&differing, VmdkKind::Sparse, "child.vmdk");
    let differing = over("child.vmdk", &differing, &whole);
    let flat = write(&plan(), VmdkKind::Flat, "flat.vmdk");
    let flat = Base {
        name: "flat.vmdk",
        bytes: rendered(&flat[0]),
        beside: vec![("flat-flat.vmdk", rendered(&flat[1]))],
    };
    let mut stream = Stream::new(&plan(), "s.vmdk", Adapter::default()).expect("a plan that fits");
    let mut bytes = stream.begin();
    for number in [0, 9, 32] {
        let grain = pack_grain(&vec![0x5a; 65536], 6);
        bytes.extend(stream.grain(number, &grain).expect("a grain that fits"));
    }
    bytes.extend(stream.finish().expect("a stream that fits"));
    let stream = Base { name: "stream.vmdk", bytes, beside: Vec::new() };
    let names = |kind: &str, extent: &str| {
        let line = format!("RW 128 {extent} \"e\"");
        format!(
            "# Disk DescriptorFile\nversion=1\nCID=00000001\nparentCID=ffffffff\n\
             createType=\"{kind}\"\n{line}\nddb.adapterType = \"ide\"\n"
        )
        .into_bytes()
    };
    let descriptor = |name, kind, extent, bytes| Base {
        name,
        bytes: names(kind, extent),
        beside: vec![("e", bytes)],
    };
    // Edits meet the extent too where it is the file that is opened by its own name.
    vec![
        whole,
        differing,
        flat,
        stream,
        descriptor("esx.vmdk", "vmfsSparse", "VMFSSPARSE", cowd()),
        descriptor("se.vmdk", "seSparse", "SESPARSE", se_sparse()),
        Base {
            name: "e",
            bytes: cowd(),
            beside: vec![("d.vmdk", names("vmfsSparse", "VMFSSPARSE"))],
        },
        Base {
            name: "e",
            bytes: se_sparse(),
            beside: vec![("d.vmdk", names("seSparse", "SESPARSE"))],
        },
    ]
}

/// A COWD extent of 64 KiB with one grain of a sector (VMware Virtual Disk Format 1.1).
fn cowd() -> Vec<u8> {
    let mut bytes = b"COWD".to_vec();
    for field in [1_u32, 3, 128, 1, 4, 1, 38] {
        bytes.extend(field.to_le_bytes());
    }
    bytes.resize(37 * 512, 0);
    bytes[4 * 512..4 * 512 + 4].copy_from_slice(&5_u32.to_le_bytes());
    bytes[5 * 512 + 8..5 * 512 + 12].copy_from_slice(&37_u32.to_le_bytes());
    bytes.extend([7; 512]);
    bytes
}

/// An SEsparse extent of 64 KiB: one grain held, one unmapped, one zero.
fn se_sparse() -> Vec<u8> {
    let mut fields = [0_u64; 26];
    fields[..5].copy_from_slice(&[0xcafe_babe, 0x2_0000_0001, 128, 8, 64]);
    fields[10..12].copy_from_slice(&[1, 1]);
    fields[16..20].copy_from_slice(&[2, 1, 3, 64]);
    fields[24..].copy_from_slice(&[72, 8]);
    let mut bytes: Vec<u8> = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
    bytes.resize(72 * 512, 0);
    let mut put = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    put(512, 0xcafe_cafe);
    put(1024, 1 << 60);
    put(1544, 3 << 60);
    put(1552, 1 << 60);
    put(1560, 2 << 60);
    bytes.extend([9; 4096]);
    bytes
}
