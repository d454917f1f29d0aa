//! Instants as images, made as they are read.

use crate::house::{House, Place, owner, reference};
use api::{
    Chunk, Control as _, codes,
    verbs::{
        export::{Describe, Described, ImageFormat, Read},
        history::Rewind,
        mark::MarkAdd,
        vol::{VolRename, VolResize},
    },
};
use images::{
    Format, OpenOptions,
    form::Subformat,
    testing::{self, Folder},
};

const MIB: u64 = 1 << 20;

const FORMATS: [(ImageFormat, Format); 6] = [
    (ImageFormat::Raw, Format::Raw),
    (ImageFormat::Qcow2, Format::Qcow2),
    (ImageFormat::Vhd, Format::Vhd),
    (ImageFormat::Vhdx, Format::Vhdx),
    (ImageFormat::Vmdk, Format::Vmdk),
    (ImageFormat::Vdi, Format::Vdi),
];

fn wanted(instant: &str, format: ImageFormat) -> Describe {
    let name =
        format!("disk.{}", serde_json::to_value(format).expect("a word").as_str().expect("a word"));
    Describe { name: Some(name), ..Describe::of(reference(instant), format) }
}

fn bytes(house: &House, read: Read) -> Vec<u8> {
    let mut chunks = house.engine.export(&owner(), read).expect("begun");
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.next().expect("read") {
        match chunk {
            Chunk::Data(data) => bytes.extend(data),
            Chunk::Zeroes(length) => {
                let end = bytes.len() + usize::try_from(length).expect("small");
                bytes.resize(end, 0);
            }
        }
    }
    bytes
}

/// All files of an export, by name.
fn files(house: &House, wanted: &Describe) -> (Described, Vec<(String, Vec<u8>)>) {
    let described = house.ask(wanted.clone()).expect("described");
    let wanted = Describe { reference: described.reference.clone(), ..wanted.clone() };
    let read = |(number, file): (u32, &api::verbs::export::ExportFile)| {
        let bytes = bytes(house, wanted.clone().read(number));
        if let Some(length) = file.length {
            assert_eq!(bytes.len() as u64, length, "{}", file.name);
        }
        (file.name.clone(), bytes)
    };
    let files = (0..).zip(&described.files).map(read).collect();
    (described, files)
}

fn guest(files: &[(String, Vec<u8>)], name: &str, format: Format) -> Vec<u8> {
    let add = |folder: Folder, (name, bytes): &(String, Vec<u8>)| folder.with(name, bytes.clone());
    let folder = files.iter().fold(Folder::new(), add);
    let options = OpenOptions { format: Some(format), ..OpenOptions::default() };
    let mut chain = testing::open(&folder, name, options).expect("opens");
    testing::read_all(&folder, &mut chain).expect("reads")
}

fn mark(house: &House, name: &str) -> u64 {
    let add = MarkAdd {
        reference: reference("db"),
        name: name.parse().expect("a name"),
        keep_ns: None,
        pinned: false,
        note: None,
    };
    house.ask(add).expect("marked").seq
}

/// A disk as it should be, written beside the volume.
struct Model(Vec<u8>);

impl Model {
    fn write(&mut self, client: &mut crate::client::Client, offset: u64, bytes: &[u8]) {
        client.write(offset, bytes).expect("written");
        let start = usize::try_from(offset).expect("small");
        self.0[start..start + bytes.len()].copy_from_slice(bytes);
    }

    fn trim(&mut self, client: &mut crate::client::Client, offset: u64, length: u32) {
        client.trim(offset, length).expect("trimmed");
        let start = usize::try_from(offset).expect("small");
        self.0[start..start + usize::try_from(length).expect("small")].fill(0);
    }
}

#[test]
fn every_format_gives_the_instant_back() {
    let place = Place::new();
    let house = place.serve();
    let size = 40 * MIB + 512;
    house.create("db", size);
    let mut client = house.connect("db");
    let mut model = Model(vec![0; usize::try_from(size).expect("small")]);
    model.write(&mut client, 0, &[1; 8192]);
    model.write(&mut client, 3 * MIB + 100, &[2; 700]);
    model.write(&mut client, 20 * MIB, &vec![3; 900 << 10]);
    model.write(&mut client, 40 * MIB, &[4; 512]);
    model.trim(&mut client, 20 * MIB + 8192, 65_536);
    let seq = mark(&house, "then");
    let then = model.0.clone();
    model.write(&mut client, 0, &[9; 4096]);
    model.write(&mut client, 10 * MIB, &vec![9; 70_000]);
    client.end();
    for (format, plain) in FORMATS {
        for (word, subformat) in Subformat::of(plain) {
            let asked =
                Describe { subformat: Some((*word).to_owned()), ..wanted("db@mark:then", format) };
            if matches!(
                subformat,
                Subformat::Deflate | Subformat::Zstd | Subformat::StreamOptimized
            ) {
                continue;
            }
            let (described, made) = files(&house, &asked);
            assert_eq!(described.reference.to_string(), format!("db@seq:{seq}"));
            assert_eq!((described.size, described.subformat.as_str()), (size, *word));
            let found = guest(&made, &made[0].0, plain);
            let differs = found.iter().zip(&then).position(|(found, then)| found != then);
            assert_eq!(differs, None, "{plain} {word}");
            assert!(found.len() >= then.len(), "{plain} {word}");
            assert!(found[then.len()..].iter().all(|byte| *byte == 0));
            // The same again, in pieces, by whatever name the instant has.
            let fixed = Describe { reference: described.reference.clone(), ..asked };
            let again = house.ask(fixed.clone()).expect("described");
            assert_eq!(again.files, described.files);
            for (number, (name, whole)) in (0..).zip(&made) {
                let read = fixed.clone().read(number);
                for (from, length) in [(0, 1), (511, 70_000), (whole.len() as u64 - 1, 1)] {
                    let end = whole.len().min(usize::try_from(from + length).expect("small"));
                    let from_place = usize::try_from(from).expect("small").min(end);
                    let length = (end - from_place) as u64;
                    let part = bytes(&house, read.clone().range(from_place as u64, length));
                    assert!(part == whole[from_place..end], "{name} from {from} on");
                }
            }
        }
    }
    house.stop();
}

#[test]
fn a_copy_of_the_store_gives_the_same_bytes_after_a_restart() {
    let place = Place::new();
    let house = place.serve();
    house.create("db", 16 * MIB);
    let mut client = house.connect("db");
    for round in 0..20_u8 {
        client.write(u64::from(round) * 300_000, &vec![round + 1; 30_000]).expect("written");
    }
    let seq = mark(&house, "then");
    client.write(0, &[99; 4096]).expect("written");
    client.end();
    let asked: Vec<Describe> =
        FORMATS.iter().map(|(format, _)| wanted(&format!("db@seq:{seq}"), *format)).collect();
    let before: Vec<_> = asked.iter().map(|asked| files(&house, asked)).collect();
    house.wait_until_free("db");
    house.stop();
    let house = place.serve();
    let to = "db2".parse().expect("a name");
    for (asked, before) in asked.iter().zip(&before) {
        assert_eq!(&files(&house, asked), before);
    }
    // Nor does what becomes of the volume change them.
    let name = "db".parse().expect("a name");
    house.ask(VolResize { name, size: 64 * MIB, shrink: false }).expect("resized");
    let back = reference(&format!("db@seq:{}", seq + 1));
    let rewind = Rewind { reference: back, detach: false, dry_run: false, exact: false };
    house.ask(rewind).expect("gone back");
    let name = "db".parse().expect("a name");
    house.ask(VolRename { name, to }).expect("renamed");
    for (asked, (_, before)) in asked.iter().zip(&before) {
        let asked = Describe { reference: reference(&format!("db2@seq:{seq}")), ..asked.clone() };
        assert_eq!(&files(&house, &asked).1, before);
    }
    house.stop();
}

#[test]
fn a_difference_stands_on_the_image_of_its_base() {
    let place = Place::new();
    let house = place.serve();
    let size = 24 * MIB;
    house.create("db", size);
    let mut client = house.connect("db");
    let mut model = Model(vec![0; usize::try_from(size).expect("small")]);
    model.write(&mut client, 0, &vec![1; 2 << 20]);
    model.write(&mut client, 9 * MIB, &[2; 5000]);
    let base = mark(&house, "base");
    let then = model.0.clone();
    model.write(&mut client, 4096, &[7; 512]);
    model.trim(&mut client, MIB, 1 << 19);
    model.write(&mut client, 23 * MIB, &[8; 4096]);
    mark(&house, "after");
    client.end();
    for (format, plain) in FORMATS.into_iter().skip(1) {
        let name = format!("base.{plain}");
        let over = Describe {
            base: Some(reference("db@mark:base")),
            base_name: Some(name.clone()),
            ..wanted("db@mark:after", format)
        };
        let (described, mut chain) = files(&house, &over);
        let found = described.base.expect("a base");
        assert_eq!(found.seq, base);
        let stated = (plain != Format::Vdi).then(|| name.clone());
        assert_eq!(found.name, stated);
        let whole = Describe { name: Some(name.clone()), ..wanted("db@mark:base", format) };
        chain.extend(files(&house, &whole).1);
        assert!(guest(&chain, &format!("disk.{plain}"), plain) == model.0, "{plain}");
        assert!(guest(&chain, &name, plain) == then, "{plain}");
        if matches!(plain, Format::Qcow2 | Format::Vmdk) {
            assert!(chain[0].1.len() < chain[1].1.len(), "{plain}: what is equal is left out");
        }
    }
    let raw = Describe { base: Some(reference("db@mark:base")), ..wanted("db", ImageFormat::Raw) };
    assert_eq!(house.refusal(raw), codes::IMAGE_UNWRITABLE);
    let own = reference(&format!("db@seq:{base}"));
    let itself = Describe { base: Some(own), ..wanted("db@mark:base", ImageFormat::Qcow2) };
    assert_eq!(house.refusal(itself), codes::USAGE);
    house.stop();
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let place = Place::new();
    let house = place.serve();
    house.create("db", MIB);
    let mut client = house.connect("db");
    client.write(0, &[1; 4096]).expect("written");
    client.end();
    let qcow2 = wanted("db", ImageFormat::Qcow2);
    let round = Describe { subformat: Some("round".to_owned()), ..qcow2.clone() };
    assert_eq!(house.refusal(round), codes::IMAGE_UNWRITABLE);
    assert_eq!(house.refusal(wanted("no", ImageFormat::Raw)), codes::NO_VOLUME);
    let vague = Describe { base: Some(reference("db")), ..qcow2.clone() };
    assert_eq!(house.refusal(vague), codes::INSTANT_WANTED);
    let refused = |read: Read| house.engine.export(&owner(), read).err().expect("refused").code;
    let length = house.ask(qcow2.clone()).expect("described").files[0].length.expect("known");
    assert_eq!(refused(qcow2.clone().read(1)), codes::USAGE);
    assert_eq!(refused(qcow2.clone().read(0).range(length, 1)), codes::USAGE);
    assert_eq!(refused(qcow2.clone().read(0).range(u64::MAX, 2)), codes::USAGE);
    assert_eq!(bytes(&house, qcow2.read(0).range(length, 0)), Vec::<u8>::new());
    let stranger = api::Caller { uid: 65_533, gid: 65_533, pid: None };
    let asked = wanted("db", ImageFormat::Raw);
    let failure = house.engine.export(&stranger, asked.read(0)).err().expect("refused");
    assert_eq!(failure.code, codes::NOT_ALLOWED);
    house.stop();
}

/// Bytes that do not get shorter by packing.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[test]
fn packed_images_are_streams_of_the_same_bytes() {
    let place = Place::new();
    let house = place.serve();
    let size = 48 * MIB;
    house.create("db", size);
    let mut client = house.connect("db");
    let mut model = Model(vec![0; usize::try_from(size).expect("small")]);
    model.write(&mut client, 5000, &vec![1; 3 << 20]);
    model.write(&mut client, 30 * MIB, &noise(1 << 20));
    mark(&house, "small");
    let small = model.0.clone();
    // Too much to be kept from the first pass.
    for at in 0..34 {
        model.write(&mut client, 8 * MIB + at * MIB, &noise(1 << 20));
    }
    model.trim(&mut client, MIB + 4096, 1 << 20);
    mark(&house, "large");
    client.end();
    let (qcow2, vmdk) = (ImageFormat::Qcow2, ImageFormat::Vmdk);
    for (format, plain, word) in [
        (qcow2, Format::Qcow2, "zlib"),
        (qcow2, Format::Qcow2, "zstd"),
        (vmdk, Format::Vmdk, "streamOptimized"),
    ] {
        let both = [("small", &small), ("large", &model.0)];
        // One algorithm is enough for what is packed in two passes.
        for (at, then) in both.into_iter().take(if word == "zlib" { 2 } else { 1 }) {
            let packed = |instant: &str| Describe {
                subformat: Some(word.to_owned()),
                ..wanted(instant, format)
            };
            let asked = packed(&format!("db@mark:{at}"));
            let (described, made) = files(&house, &asked);
            assert_eq!(described.files[0].length, None);
            let name = made[0].0.clone();
            assert!(guest(&made, &name, plain) == *then, "{word} of {at}");
            if at == "small" {
                assert_eq!(files(&house, &asked).1, made, "the same again");
            }
            let part = asked.clone().read(0).range(0, 10);
            assert_eq!(
                house.engine.export(&owner(), part).err().expect("refused").code,
                codes::USAGE
            );
            if plain != Format::Qcow2 {
                continue;
            }
            let turned = bytes(&house, Read { head_last: true, ..asked.read(0) });
            let head = usize::try_from(Read::HEAD_BYTES).expect("small");
            let whole = &made[0].1;
            assert!(turned[..head].iter().all(|byte| *byte == 0));
            assert!(turned[head..whole.len()] == whole[head..], "{word} of {at}");
            assert!(turned[whole.len()..] == whole[..head], "{word} of {at}");
        }
        if plain == Format::Qcow2 {
            let over = Describe {
                subformat: Some(word.to_owned()),
                base: Some(reference("db@mark:small")),
                base_name: Some("base.qcow2".to_owned()),
                ..wanted("db@mark:large", format)
            };
            let mut chain = files(&house, &over).1;
            let base = files(&house, &wanted("db@mark:small", format)).1;
            chain.push(("base.qcow2".to_owned(), base[0].1.clone()));
            assert!(guest(&chain, "disk.qcow2", plain) == model.0, "{word} over a base");
        }
    }
    // Who leaves ends the packing.
    let large = Describe { subformat: Some("zlib".to_owned()), ..wanted("db@mark:large", qcow2) };
    drop(house.engine.export(&owner(), large.read(0)).expect("begun"));
    house.stop();
}
