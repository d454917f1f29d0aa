//! Bytes that no honest tool wrote: everything ends, in an answer or an error, and within bounds.

#[path = "hostile/driver.rs"]
mod driver;

use proptest::{collection::vec, prelude::*};

/// A change: a sector, a byte of it, what stands there, what the byte after it is changed by.
fn edits() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(0), Just(1), Just(0x7f), Just(0x80), Just(0xff), any::<u8>()];
    let edit = (any::<u16>(), any::<u16>(), byte, any::<u8>());
    vec(edit, 1..6).prop_map(|edits| {
        let bytes = edits.into_iter().flat_map(|(sector, at, value, next)| {
            [sector.to_le_bytes(), at.to_le_bytes(), [value, next]].concat()
        });
        bytes.collect()
    })
}

#[test]
fn honest_disks_tell_all_their_names() {
    for (number, (name, _)) in driver::DISKS.iter().enumerate() {
        let told = driver::ask(driver::Sectors::of(number));
        assert!((150..1000).contains(&told), "{name}: {told} names");
    }
}

#[test]
fn every_byte_of_the_first_sectors_may_be_wrong() {
    for which in 0..driver::DISKS.len() {
        for byte in 0..1024_u16 {
            for value in [0, 0xff] {
                let mut disk = driver::Sectors::of(which);
                disk.edit(byte / 512, byte % 512, value, 0);
                if byte % 8 == u16::from(value & 7) || byte < 512 {
                    driver::ask_little(disk);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn changed_disks_end_in_an_answer_or_an_error(which in any::<u8>(), edits in edits()) {
        driver::check(&[&[which], &edits[..]].concat());
    }
}
