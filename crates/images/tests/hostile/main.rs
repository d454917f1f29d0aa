//! What the fuzz targets `image_*` do, over a few inputs of each kind.

mod driver;

use proptest::prelude::*;

#[test]
fn images_that_are_as_they_were_made_are_opened_and_cut_ones_answered() {
    for format in driver::FORMATS {
        for which in 0..u8::try_from(driver::bases(format).len()).expect("few") {
            for how in 0..4 {
                assert!(driver::check(format, &[which, how, 0]), "{format} {which} {how}");
                for cut in [1, 9, 100, 255] {
                    driver::check(format, &[which, how, cut]);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn images_that_were_changed_anywhere_are_answered(
        format in 0..driver::FORMATS.len(),
        input in proptest::collection::vec(any::<u8>(), 3..200),
    ) {
        driver::check(driver::FORMATS[format], &input);
    }
}
