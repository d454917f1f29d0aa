use images::Format;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{Id, Scope, Summary};

fn seal(size: u64, content: bool) -> Seal {
    let witness = Witness { format: Format::Raw, virtual_size: size, id: Id::None, files: vec![] };
    let summary =
        Summary { scope: Scope::All, size, root: Digest([7; 32]), cover: Digest([8; 32]) };
    Seal::new(5, witness, content.then_some(summary)).expect("nobody writes it")
}

fn links() -> impl Strategy<Value = Link> {
    let texts = ("\\PC{0,20}", "\\PC{0,20}", "\\PC{0,20}");
    let marks = any::<(u64, u64, Option<i64>, [u8; 32], bool)>();
    (any::<(u64, u64)>(), texts, marks, 1..4_usize, any::<(bool, bool)>()).prop_map(
        |((sequence, size), (path, parent_path, reason), mark, depth, (tree, edges))| {
            let (device, inode, born_ns, digest, telling) = mark;
            Link {
                sequence,
                child: ChildMark {
                    path,
                    format: Format::Qcow2,
                    size,
                    file: FileMark { device, inode, born_ns },
                    print: Print { digest: Digest(digest), telling },
                },
                parent_path,
                seals: (0..depth).map(|place| seal(size, tree && place == 0)).collect(),
                tree: tree.then_some(Digest([1; 32])),
                edges: (tree && edges).then_some(Digest([2; 32])),
                reason,
            }
        },
    )
}

proptest! {
    #[test]
    fn a_link_comes_back_and_no_other_bytes_do(link in links(), at in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let bytes = link.encode();
        let again = Link::parse(&bytes);
        prop_assert_eq!(again.as_ref(), Ok(&link));
        let mut other = bytes.clone();
        other[at.index(bytes.len())] ^= 1_u8 << bit;
        prop_assert!(Link::parse(&other).is_err());
        prop_assert!(Link::parse(&bytes[..at.index(bytes.len())]).is_err());
    }

    #[test]
    fn bytes_of_others_never_panic(noise in vec(any::<u8>(), 0..300)) {
        prop_assert!(Link::parse(&noise).is_err());
        let mut form = crate::wire::Writer::new(MAGIC, VERSION);
        form.put(&noise);
        let _ = Link::parse(&form.seal()); // well formed outside, anything inside
    }
}

#[test]
fn a_file_is_known_by_inode_and_birth_whatever_its_device_is_called() {
    let mark = |device, inode, born_ns| FileMark { device, inode, born_ns };
    let one = mark(1, 7, Some(50));
    assert!(one.is(&mark(2, 7, Some(50))), "a device that was renumbered");
    assert_eq!(one.digest(), mark(2, 7, Some(50)).digest());
    assert!(!one.is(&mark(1, 7, Some(51))), "an inode that was used again");
    assert!(!one.is(&mark(1, 8, Some(50))) && !one.is(&mark(1, 7, None)));
    assert!(mark(1, 7, None).is(&mark(1, 7, None)) && !mark(1, 7, None).is(&mark(2, 7, None)));
    assert_ne!(mark(1, 7, None).digest(), mark(2, 7, None).digest());
}

#[test]
fn a_print_is_of_what_is_held() {
    let held: Ranges = std::iter::once(512..1024).collect();
    let print = Print::new(Format::Qcow2, 4096, &held, &[1; 512]);
    assert!(print.telling);
    assert_eq!(print, Print::new(Format::Qcow2, 4096, &held, &[1; 512]));
    assert_ne!(print, Print::new(Format::Qcow2, 4096, &held, &[2; 512]));
    assert_ne!(print, Print::new(Format::Qcow2, 8192, &held, &[1; 512]));
    assert_ne!(print, Print::new(Format::Vhdx, 4096, &held, &[1; 512]));
    let elsewhere: Ranges = std::iter::once(1024..1536).collect();
    assert_ne!(print, Print::new(Format::Qcow2, 4096, &elsewhere, &[1; 512]));
    assert!(!Print::new(Format::Qcow2, 4096, &Ranges::new(), &[]).telling);
    assert!(!Print::new(Format::Qcow2, 4096, &held, &[0; 512]).telling);
}

#[test]
fn long_texts_are_cut_at_a_character() {
    let mut link = Link {
        sequence: 1,
        child: ChildMark {
            path: "ä".repeat(TEXT_BYTES_MAX),
            format: Format::Raw,
            size: 1,
            file: FileMark { device: 1, inode: 2, born_ns: None },
            print: Print::new(Format::Raw, 1, &Ranges::new(), &[]),
        },
        parent_path: "x".repeat(TEXT_BYTES_MAX + 1),
        seals: vec![seal(1, false)],
        tree: None,
        edges: None,
        reason: String::new(),
    };
    let cut = Link::parse(&link.encode()).expect("fits");
    link.child.path.truncate(TEXT_BYTES_MAX);
    link.parent_path.truncate(TEXT_BYTES_MAX);
    assert_eq!(cut, link);
}
