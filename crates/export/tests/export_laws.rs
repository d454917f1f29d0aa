//! Laws of exports: what identifies a state, what the bytes depend on, and that they say the disk.

use export::{Base, Export, Ranges, State, Unfit, Walk};
use images::{
    Form, Format, Identity, OpenOptions,
    form::{Made, Subformat},
    layout::{Content, Held},
    testing::{self, Folder},
};
use proptest::{collection::vec, prelude::*};
use std::{fmt::Write as _, sync::Arc};

const BLOCK: u64 = 4096;
const BLOCKS: u64 = 800;
const SIZE: u64 = BLOCKS * BLOCK;

fn state(sequence: u64) -> State {
    State {
        store: *b"a store's own id",
        branch: 7,
        sequence,
        time_s: 1_763_800_000 + sequence,
        size_bytes: SIZE,
        sector_bytes: 512,
    }
}

fn form(format: Format, word: &str) -> Form {
    Form::new(format, Some(word)).expect("a kind of the format")
}

/// Every form whose bytes follow from the plan.
fn laid_out() -> Vec<Form> {
    let forms = Format::ALL
        .into_iter()
        .flat_map(|format| Subformat::of(format).iter().map(move |(word, _)| form(format, word)));
    forms.filter(|form| form.is_laid_out()).collect()
}

fn export(sequence: u64, form: Form, base: Option<u64>) -> Export {
    let base = base.map(|base| Base { state: state(base), name: base_name(form) });
    Export::new(state(sequence), form, &format!("disk.{}", form.format()), base).expect("fits")
}

fn base_name(form: Form) -> String {
    format!("base.{}", form.format())
}

/// Files of an image with a guest's bytes, by name.
fn files(export: &Export, held: &[Held], guest: &[u8], window: u64) -> Vec<(String, Vec<u8>)> {
    let Made::Files(files) = export.make(held.to_vec()).expect("can be written") else {
        panic!("{:?} is packed", export.form());
    };
    let name = |suffix: &str| format!("disk{suffix}.{}", export.form().format());
    let render = |file: &images::layout::ImageFile| {
        (name(&file.suffix), testing::render(&*file.layout, guest, window))
    };
    files.iter().map(render).collect()
}

/// A disk after some writes and trims of blocks: its bytes, and which blocks are data.
#[derive(Clone, Debug)]
struct Disk {
    bytes: Vec<u8>,
    data: Vec<bool>,
}

impl Disk {
    fn new() -> Self {
        let blocks = usize::try_from(BLOCKS).expect("small");
        Self { bytes: vec![0; blocks * 4096], data: vec![false; blocks] }
    }

    fn after(mut self, writes: &[(usize, usize, u8)]) -> Self {
        for &(first, count, fill) in writes {
            for block in first..(first + count).min(self.data.len()) {
                self.bytes[block * 4096..][..4096].fill(fill);
                self.data[block] = fill != 0;
            }
        }
        self
    }

    /// What an image of it holds; over a base, what differs.
    fn held(&self, base: Option<&Self>) -> Vec<Held> {
        let mut ranges = Ranges::new(SIZE);
        for (block, is_data) in self.data.iter().enumerate() {
            let at = block as u64 * BLOCK;
            match base {
                None if *is_data => ranges.add(at, BLOCK, false),
                Some(base) if self.block(block) != base.block(block) => {
                    ranges.add(at, BLOCK, !is_data);
                }
                _ => {}
            }
        }
        ranges.into_held()
    }

    fn block(&self, block: usize) -> &[u8] {
        &self.bytes[block * 4096..][..4096]
    }
}

fn any_writes() -> impl Strategy<Value = Vec<(usize, usize, u8)>> {
    vec((0..800_usize, 1..60_usize, prop_oneof![Just(0), any::<u8>()]), 0..12)
}

fn read_back(files: &[(String, Vec<u8>)], name: &str, format: Format) -> Vec<u8> {
    let folder =
        files.iter().fold(Folder::new(), |folder, (name, bytes)| folder.with(name, bytes.clone()));
    let options = OpenOptions { format: Some(format), ..OpenOptions::default() };
    let mut chain = testing::open(&folder, name, options).expect("opens");
    testing::read_all(&folder, &mut chain).expect("reads")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_form_says_the_disk(writes in any_writes(), window in 1000..300_000_u64) {
        let disk = Disk::new().after(&writes);
        for form in laid_out() {
            let export = export(9, form, None);
            let whole = files(&export, &disk.held(None), &disk.bytes, u64::MAX);
            prop_assert_eq!(&whole, &files(&export, &disk.held(None), &disk.bytes, window));
            let name = &whole[0].0;
            prop_assert_eq!(read_back(&whole, name, form.format()), disk.bytes.clone(), "{:?}", form);
        }
    }

    #[test]
    fn a_difference_opens_over_any_image_of_its_base(
        first in any_writes(),
        second in any_writes(),
        third in any_writes(),
    ) {
        let base = Disk::new().after(&first);
        let middle = base.clone().after(&second);
        let last = middle.clone().after(&third);
        for form in laid_out() {
            let is_child = matches!(form.subformat(), Subformat::Clusters | Subformat::Sparse)
                || form.subformat() == Subformat::Dynamic;
            if !is_child {
                continue;
            }
            let format = form.format();
            let renamed = |files: Vec<(String, Vec<u8>)>, name: &str| {
                (name.to_owned(), files[0].1.clone())
            };
            // Over the whole image of the base, and over a difference that ends there.
            let whole = files(&export(5, form, None), &base.held(None), &base.bytes, u64::MAX);
            let over = |at, base_at, held: Vec<Held>, disk: &Disk, base_name: &str| {
                let base = Base { state: state(base_at), name: base_name.to_owned() };
                let export = Export::new(state(at), form, "disk", Some(base)).expect("fits");
                let Made::Files(files) = export.make(held).expect("can be written") else {
                    panic!("packed");
                };
                testing::render(&*files[0].layout, &disk.bytes, u64::MAX)
            };
            let extension = format.word();
            let (one, two, three) =
                (format!("1.{extension}"), format!("2.{extension}"), format!("3.{extension}"));
            let chain = vec![
                renamed(whole, &one),
                (two.clone(), over(6, 5, middle.held(Some(&base)), &middle, &one)),
                (three.clone(), over(8, 6, last.held(Some(&middle)), &last, &two)),
            ];
            prop_assert_eq!(read_back(&chain, &two, format), middle.bytes.clone(), "{:?}", form);
            prop_assert_eq!(read_back(&chain, &three, format), last.bytes.clone(), "{:?}", form);
        }
    }

    #[test]
    fn ranges_stay_few_and_cover_what_was_added(
        list in vec((0..40_u64, 1..40_u64, any::<bool>()), 0..120),
        max in 2..30_usize,
    ) {
        let mut ranges = Ranges::bounded(1 << 30, max);
        let (mut at, mut added) = (0, Vec::new());
        for (gap, blocks, zero) in list {
            at += gap * BLOCK;
            ranges.add(at, blocks * BLOCK, zero);
            added.push(Held { start: at, len: blocks * BLOCK, zero });
            at += blocks * BLOCK;
        }
        let held = ranges.into_held();
        prop_assert!(held.len() <= max, "{} of {max}", held.len());
        let in_order = held.windows(2).all(|two| two[0].start + two[0].len <= two[1].start);
        prop_assert!(in_order && held.iter().all(|held| held.len > 0));
        let touches = |a: &Held, b: &Held| a.start < b.start + b.len && b.start < a.start + a.len;
        for add in &added {
            let covered: u64 = held.iter().filter(|held| touches(held, add)).map(|held| {
                (held.start + held.len).min(add.start + add.len) - held.start.max(add.start)
            }).sum();
            prop_assert_eq!(covered, add.len, "all of it is held");
        }
        // What is said to be zero was said so.
        for zero in held.iter().filter(|held| held.zero) {
            let said: u64 = added.iter().filter(|add| add.zero && touches(zero, add)).map(|add| {
                (zero.start + zero.len).min(add.start + add.len) - zero.start.max(add.start)
            }).sum();
            prop_assert_eq!(said, zero.len);
        }
    }

    #[test]
    fn a_walk_gives_each_byte_of_its_range_once(
        writes in any_writes(),
        from in 0..SIZE,
        len in 0..SIZE,
    ) {
        let disk = Disk::new().after(&writes);
        for form in laid_out() {
            let export = export(9, form, None);
            let whole = files(&export, &disk.held(None), &disk.bytes, u64::MAX);
            let Made::Files(made) = export.make(disk.held(None)).expect("can be written") else {
                panic!("packed");
            };
            for (file, (_, whole)) in made.into_iter().zip(whole) {
                let layout: Arc<dyn images::layout::Layout> = Arc::from(file.layout);
                let end = from.saturating_add(len).min(layout.len());
                let start = from.min(end);
                let mut bytes = Vec::new();
                for piece in Walk::new(layout, start, end) {
                    match piece.content {
                        Content::Table(table) => bytes.extend(table),
                        Content::Zero => bytes.extend((0..piece.len).map(|_| 0)),
                        Content::Guest(from) => bytes.extend((from..from + piece.len).map(|at| {
                            usize::try_from(at).ok().and_then(|at| disk.bytes.get(at)).unwrap_or(&0)
                        })),
                    }
                }
                let (start, end) = (usize::try_from(start), usize::try_from(end));
                prop_assert_eq!(&bytes, &whole[start.expect("small")..end.expect("small")]);
            }
        }
    }
}

#[test]
fn an_identity_names_a_state_in_a_format() {
    for format in [Format::Vhd, Format::Vhdx, Format::Vmdk, Format::Vdi] {
        let of = |sequence, word: &str, base| export(sequence, form(format, word), base).identity();
        let words: Vec<&str> = Subformat::of(format).iter().map(|(word, _)| *word).collect();
        let own = of(9, words[0], None);
        assert_ne!(own, Identity::None);
        assert!(words.iter().all(|word| of(9, word, None) == own), "{format}: the kind is no part");
        assert_eq!(of(9, words[0], Some(4)), own, "{format}: nor is the base");
        assert_ne!(of(10, words[0], None), own, "{format}: another instant is another disk");
    }
    let seeds: Vec<_> = Format::ALL.iter().map(|format| state(9).seed(*format)).collect();
    assert!((1..seeds.len()).all(|n| !seeds[..n].contains(&seeds[n])), "a format each");
}

#[test]
fn a_tag_covers_all_that_the_bytes_depend_on() {
    let plain = |format| form(format, Subformat::of(format)[0].0);
    let named = |name: &str, form, base: Option<(u64, &str)>, state| {
        let base = base.map(|(at, name)| Base { state: self::state(at), name: name.to_owned() });
        Export::new(state, form, name, base).expect("fits").tag()
    };
    let vmdk = plain(Format::Vmdk);
    let own = named("a", vmdk, None, state(9));
    assert_eq!(own, named("a", vmdk, None, state(9)));
    let grown = State { size_bytes: SIZE + 512, ..state(9) };
    let others = [
        named("b", vmdk, None, state(9)),
        named("a", form(Format::Vmdk, "flat"), None, state(9)),
        named("a", plain(Format::Vdi), None, state(9)),
        named("a", vmdk, None, state(10)),
        named("a", vmdk, None, grown),
        named("a", vmdk, None, State { time_s: 1, ..state(9) }),
        named("a", vmdk, None, State { sector_bytes: 4096, ..state(9) }),
        named("a", vmdk, None, State { store: [0; 16], ..state(9) }),
        named("a", vmdk, None, State { branch: 8, ..state(9) }),
        named("a", vmdk, Some((4, "x")), state(9)),
        named("a", vmdk, Some((4, "y")), state(9)),
        named("a", vmdk, Some((5, "x")), state(9)),
    ];
    assert!(others.iter().all(|other| *other != own));
    let all = (1..others.len()).all(|n| !others[..n].contains(&others[n]));
    assert!(all, "each differs from the others");
    // Formats that carry no name do not depend on it.
    let qcow2 = plain(Format::Qcow2);
    assert_eq!(named("a", qcow2, None, state(9)), named("b", qcow2, None, state(9)));
    let vdi = plain(Format::Vdi);
    assert_eq!(
        named("a", vdi, Some((4, "x")), state(9)),
        named("a", vdi, Some((4, "y")), state(9))
    );
}

#[test]
fn a_state_is_no_base_of_itself() {
    let qcow2 = form(Format::Qcow2, "plain");
    let over = |base| {
        let base = Some(Base { state: base, name: "b".to_owned() });
        Export::new(state(9), qcow2, "a", base).map(|_| ())
    };
    assert_eq!(over(state(9)), Err(Unfit::SameState));
    assert_eq!(over(State { store: [1; 16], ..state(4) }), Err(Unfit::OtherStore));
    assert_eq!(over(state(10)), Ok(()), "the future is a base, too");
}

/// Whoever changes the bytes of an export raises `WRITER` in `lib.rs` and these.
#[test]
fn bytes_are_those_of_every_release() {
    let disk = Disk::new().after(&[(0, 3, 1), (40, 200, 2), (100, 20, 0), (799, 1, 3)]);
    let newer = disk.clone().after(&[(1, 1, 0), (300, 5, 9)]);
    let mut told = String::new();
    for form in laid_out() {
        for base in [None, Some(5)] {
            let (disk, held) = match base {
                None => (&disk, disk.held(None)),
                Some(_) => (&newer, newer.held(Some(&disk))),
            };
            let export = export(9, form, base);
            let Ok(Made::Files(_)) = export.make(held.clone()) else { continue };
            for (name, bytes) in files(&export, &held, &disk.bytes, u64::MAX) {
                let digest = blake3::hash(&bytes).to_hex();
                let (len, word) = (bytes.len(), form.word());
                let over = if base.is_some() { " over a base" } else { "" };
                writeln!(told, "{name} {word}{over} {len} {}", &digest[..16]).expect("text grows");
            }
        }
    }
    assert_eq!(told, include_str!("bytes.txt"), "\n{told}");
}
