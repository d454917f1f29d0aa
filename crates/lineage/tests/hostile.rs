//! Bytes from outside: a form that is taken is the one form of its content, and none panics.

use images::Format;
use lineage::{
    Digest, Id, Label, LabelState, ParentLabel, Ranges, Scope, Seal, Stat, Summary, Tree, Witness,
    label::COPY_BYTES,
};
use proptest::{collection::vec, prelude::*};

fn summary(scope: Scope, size: u64) -> Summary {
    Summary { scope, size, root: Digest([5; 32]), cover: Digest([6; 32]) }
}

fn ids() -> impl Strategy<Value = Id> {
    prop_oneof![
        Just(Id::None),
        any::<([u8; 16], u32)>().prop_map(|(id, time)| Id::Vhd { id, time }),
        any::<[[u8; 16]; 2]>()
            .prop_map(|[file_write, data_write]| Id::Vhdx { file_write, data_write }),
        any::<u32>().prop_map(|content| Id::Vmdk { content }),
        any::<[[u8; 16]; 2]>().prop_map(|[id, modified]| Id::Vdi { id, modified }),
        any::<[u8; 16]>().prop_map(|generation| Id::Labelled {
            generation,
            is_open: false,
            is_intact: true
        }),
    ]
}

fn stats() -> impl Strategy<Value = Stat> {
    any::<(u64, i64, i64, u64, u64, Option<i64>)>().prop_map(
        |(len, modified_ns, changed_ns, inode, device, born_ns)| Stat {
            len,
            modified_ns,
            changed_ns,
            inode,
            device,
            born_ns,
        },
    )
}

fn contents(size: u64) -> impl Strategy<Value = Option<Summary>> {
    prop_oneof![
        Just(None),
        Just(Some(summary(Scope::Needed, size))),
        Just(Some(summary(Scope::All, size)))
    ]
}

fn seals() -> impl Strategy<Value = Seal> {
    let formats = prop::sample::select(Format::ALL.to_vec());
    (any::<(i64, u64)>(), formats, ids(), vec(stats(), 0..5)).prop_flat_map(
        |((made_ns, virtual_size), format, id, files)| {
            let witness = Witness { format, virtual_size, id, files };
            contents(virtual_size).prop_map(move |content| {
                Seal::new(made_ns, witness.clone(), content).expect("nobody writes it")
            })
        },
    )
}

fn labels() -> impl Strategy<Value = Label> {
    let parent = prop::option::of((any::<([u8; 16], u64)>(), any::<bool>()));
    (1..u64::MAX, any::<bool>(), any::<[[u8; 16]; 2]>(), any::<u64>(), any::<bool>(), parent)
        .prop_map(|(sequence, is_open, [generation, was], size, has_content, parent)| Label {
            sequence,
            state: if is_open { LabelState::Open } else { LabelState::Closed },
            generation,
            was,
            size,
            content: has_content.then(|| summary(Scope::All, size)),
            parent: parent.map(|((generation, size), has_content)| ParentLabel {
                generation,
                size,
                content: has_content.then(|| summary(Scope::Needed, size)),
            }),
        })
}

proptest! {
    #[test]
    fn a_seal_is_read_as_it_was_written(seal in seals()) {
        prop_assert_eq!(Seal::parse(&seal.encode()), Ok(seal));
    }

    #[test]
    fn a_label_is_read_as_it_was_written(label in labels()) {
        prop_assert_eq!(Label::parse(&label.encode()), Ok(label));
    }

    #[test]
    fn no_changed_or_cut_byte_is_taken(
        seal in seals(), label in labels(), at in any::<prop::sample::Index>(), bit in 0..8_u8,
    ) {
        let flip = |bytes: &mut [u8]| bytes[at.index(bytes.len())] ^= 1 << bit;
        let mut bytes = seal.encode();
        prop_assert!(Seal::parse(&bytes[..at.index(bytes.len())]).is_err());
        flip(&mut bytes);
        prop_assert!(Seal::parse(&bytes).is_err());
        let mut copy = label.encode();
        flip(&mut copy);
        prop_assert!(Label::parse(&copy).is_err());
        let mut tree = Tree::needed(1 << 20, std::iter::once(0..70_000).collect::<Ranges>());
        tree.put(3, &vec![at.index(255).to_le_bytes()[0]; 65536]);
        let mut bytes = tree.encode();
        prop_assert!(Tree::parse(&bytes[..at.index(bytes.len())]).is_err());
        flip(&mut bytes);
        prop_assert!(Tree::parse(&bytes).is_err());
    }

    /// Behind a right checksum, as a forger makes it: fields of any value.
    #[test]
    fn forged_fields_are_refused_or_have_one_form(
        seal in seals(), label in labels(),
        edits in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let forge = |mut bytes: Vec<u8>| {
            let end = bytes.len() - 16;
            for (at, value) in &edits {
                bytes[at.index(end)] = *value;
            }
            let sum = blake3::hash(&bytes[..end]);
            bytes[end..].copy_from_slice(&sum.as_bytes()[..16]);
            bytes
        };
        let bytes = forge(seal.encode());
        if let Ok(seal) = Seal::parse(&bytes) {
            prop_assert_eq!(seal.encode(), bytes);
        }
        let mut copy = [0; COPY_BYTES];
        copy[..230].copy_from_slice(&forge(label.encode()[..230].to_vec()));
        if let Ok(label) = Label::parse(&copy) {
            prop_assert_eq!(label.encode(), copy);
        }
        let mut tree = Tree::needed(1 << 22, [3..70_000, 400_000..800_000].into_iter().collect::<Ranges>());
        tree.put(3, &vec![9; 65536]);
        tree.put_zero(20..30);
        let bytes = forge(tree.encode());
        if let Ok(tree) = Tree::parse(&bytes) {
            prop_assert_eq!(tree.encode(), bytes);
        }
    }

    #[test]
    fn any_bytes_end_in_an_answer(bytes in vec(any::<u8>(), 0..1500)) {
        let _ = (Seal::parse(&bytes), Tree::parse(&bytes), Label::newest(&bytes));
    }
}
