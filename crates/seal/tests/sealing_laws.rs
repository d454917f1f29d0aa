//! Laws of sealing: what was sealed opens as it was, what was changed does not open, and others can
//! open it from `docs/format.md` alone (the constants were made with Python's `cryptography`).

use proptest::{collection::vec, prelude::*};
use seal::{CellKey, CellName, Damaged, Key, RecordKey, TagKey};
use units::{BLOCK, BranchId, CELL, Lba, Sequence};

fn name(lba: u64, branch: u32, sequence: u64) -> CellName {
    CellName {
        branch: BranchId(branch),
        lba: Lba::new(lba).expect("48 bits"),
        sequence: Sequence::new(sequence).expect("48 bits"),
    }
}

fn any_name() -> impl Strategy<Value = CellName> {
    (0..=Lba::MAX.number(), any::<u32>(), 0..=Sequence::MAX.number())
        .prop_map(|(lba, branch, sequence)| name(lba, branch, sequence))
}

fn cell_key() -> CellKey {
    let epoch_random = std::array::from_fn(|i| 100 + u8::try_from(i).expect("below 32"));
    CellKey::new(&Key::from_bytes(counting()), &epoch_random)
}

fn counting() -> [u8; 32] {
    std::array::from_fn(|i| u8::try_from(i).expect("below 32"))
}

fn block(fill: usize) -> Vec<u8> {
    (0..BLOCK).map(|i| u8::try_from((i * 7 + i / 256 + fill) % 256).expect("a byte")).collect()
}

fn sealed(key: &CellKey, name: CellName, plain: &[u8]) -> Vec<u8> {
    let mut cell = vec![0; CELL];
    key.seal(name, plain, &mut cell);
    cell
}

#[test]
fn a_known_cell_comes_out_as_in_python() {
    let cell =
        sealed(&cell_key(), name(0x0102_0304_0506, 0x0708_090a, 0x0b0c_0d0e_0f10), &block(0));
    assert_eq!(
        cell[..16],
        [
            0x13, 0x2a, 0x1c, 0x19, 0x66, 0x46, 0x20, 0xe9, 0xb3, 0x06, 0x1d, 0xcd, 0x3a, 0x16,
            0x6a, 0x89
        ]
    );
    assert_eq!(
        cell[BLOCK..],
        [
            6, 5, 4, 3, 2, 1, 0x0a, 9, 8, 7, 0x10, 0x0f, 0x0e, 0x0d, 0x0c, 0x0b, 0x45, 0x1e, 0x11,
            0x3e, 0x96, 0xe5, 0xf4, 0xfd, 0xee, 0x21, 0xc6, 0xcd, 0x84, 0x48, 0xba, 0x0d
        ]
    );
}

#[test]
fn known_tags_and_records_come_out_as_in_python() {
    let key = Key::from_bytes(counting())
        .derive("cells", &std::array::from_fn::<u8, 32, _>(|i| 100 + u8::try_from(i).expect("32")));
    let tag = TagKey::new(&key).tag([0xff; 12], &[&block(0)[..100], &block(0)[100..]]);
    assert_eq!(
        tag,
        [
            0xed, 0x37, 0x7d, 0xc3, 0xd5, 0xbd, 0x39, 0x2a, 0x16, 0xb2, 0x47, 0x08, 0x2e, 0x92,
            0x7f, 0x14
        ]
    );
    let mut bytes = b"abc".to_vec();
    RecordKey::new(&key).seal([1; 12], b"associated", &mut bytes);
    assert_eq!(
        bytes,
        [
            0x46, 0xda, 0x03, 0x03, 0xce, 0xde, 0x3a, 0x8a, 0xde, 0x16, 0x51, 0xb4, 0x6e, 0xf6,
            0xd6, 0xff, 0xe0, 0xb1, 0x07
        ]
    );
}

#[test]
fn every_byte_of_a_cell_is_guarded() {
    let key = cell_key();
    let mut cell = sealed(&key, name(9, 2, 77), &block(1));
    for at in 0..CELL {
        for bit in [0x01, 0x80] {
            cell[at] ^= bit;
            assert_eq!(key.verify(&cell), Err(Damaged), "byte {at} bit {bit:#x}");
            cell[at] ^= bit;
        }
    }
    assert_eq!(key.verify(&cell), Ok(()));
}

#[test]
fn other_volumes_and_epochs_open_nothing() {
    let key = Key::from_bytes([1; 32]);
    let cell = sealed(&CellKey::new(&key, &[5; 32]), name(1, 1, 1), &block(0));
    assert!(CellKey::new(&key, &[5; 32]).verify(&cell).is_ok());
    assert!(CellKey::new(&key, &[6; 32]).verify(&cell).is_err());
    assert!(CellKey::new(&Key::from_bytes([2; 32]), &[5; 32]).verify(&cell).is_err());
}

proptest! {
    #[test]
    fn a_cell_opens_as_it_was_sealed(name in any_name(), fill in 0..256_usize) {
        let (key, plain) = (cell_key(), block(fill));
        let cell = sealed(&key, name, &plain);
        prop_assert_eq!(CellName::of(&cell), name);
        prop_assert_eq!(CellName::of(&cell[BLOCK..]), name);
        prop_assert_eq!(&name.to_trailer()[..], &cell[BLOCK..BLOCK + 16]);
        let mut opened = vec![0; BLOCK];
        prop_assert_eq!(key.open(&cell, &mut opened), Ok(()));
        prop_assert_eq!(opened, plain);
    }

    #[test]
    fn a_changed_cell_leaves_no_text(name in any_name(), at in 0..CELL, bit in 0..8_u32) {
        let key = cell_key();
        let mut cell = sealed(&key, name, &block(3));
        cell[at] ^= 1 << bit;
        let mut opened = vec![0xee; BLOCK];
        prop_assert_eq!(key.open(&cell, &mut opened), Err(Damaged));
        prop_assert!(opened.iter().all(|&byte| byte == 0));
    }

    #[test]
    fn a_swapped_trailer_does_not_open(one in any_name(), other in any_name()) {
        prop_assume!(one != other);
        let key = cell_key();
        let mut cell = sealed(&key, one, &block(3));
        let stranger = sealed(&key, other, &block(3));
        cell[BLOCK..].copy_from_slice(&stranger[BLOCK..]);
        prop_assert_eq!(key.verify(&cell), Err(Damaged));
        cell[BLOCK..].copy_from_slice(&sealed(&key, one, &block(3))[BLOCK..]);
        cell[BLOCK..BLOCK + 16].copy_from_slice(&other.to_trailer());
        prop_assert_eq!(key.verify(&cell), Err(Damaged));
    }

    #[test]
    fn a_tag_sees_the_parts_as_one(bytes in vec(any::<u8>(), 1..300), cut in 0..300_usize, nonce: [u8; 12]) {
        let key = TagKey::new(&Key::from_bytes([3; 32]));
        let (front, back) = bytes.split_at(cut.min(bytes.len()));
        let tag = key.tag(nonce, &[&bytes]);
        prop_assert_eq!(key.tag(nonce, &[front, back]), tag);
        prop_assert!(key.verify(nonce, &[front, &[], back], &tag));
        let mut changed = bytes.clone();
        changed[cut % bytes.len()] ^= 4;
        prop_assert!(!key.verify(nonce, &[&changed], &tag));
        let mut other_nonce = nonce;
        other_nonce[cut % 12] ^= 1;
        prop_assert!(!key.verify(other_nonce, &[&bytes], &tag));
    }

    #[test]
    fn a_record_opens_as_it_was_or_not_at_all(
        plain in vec(any::<u8>(), 0..300), associated in vec(any::<u8>(), 0..40), nonce: [u8; 12],
        at in any::<proptest::sample::Index>(), bit in 0..8_u32,
    ) {
        let key = RecordKey::new(&Key::from_bytes([3; 32]));
        let mut sealed = plain.clone();
        key.seal(nonce, &associated, &mut sealed);
        let mut page = vec![0; plain.len() + seal::TAG];
        key.seal_into(nonce, &associated, &plain, &mut page);
        prop_assert_eq!(&page, &sealed);
        let mut opened = sealed.clone();
        prop_assert_eq!(key.open(nonce, &associated, &mut opened), Ok(()));
        prop_assert_eq!(&opened, &plain);
        let mut text = vec![0; plain.len()];
        prop_assert_eq!(key.open_into(nonce, &associated, &page, &mut text), Ok(()));
        prop_assert_eq!(&text, &plain);

        let mut other = associated.clone();
        other.push(0);
        let mut opened = sealed.clone();
        prop_assert_eq!(key.open(nonce, &other, &mut opened), Err(Damaged));
        let at = at.index(sealed.len());
        let mut cut = sealed[..at].to_vec();
        prop_assert_eq!(key.open(nonce, &associated, &mut cut), Err(Damaged));
        prop_assert!(cut.is_empty());
        sealed[at] ^= 1 << bit;
        prop_assert_eq!(key.open_into(nonce, &associated, &sealed, &mut text), Err(Damaged));
        prop_assert!(text.iter().all(|&byte| byte == 0));
        prop_assert_eq!(key.open(nonce, &associated, &mut sealed), Err(Damaged));
        prop_assert!(sealed.is_empty());
    }
}
