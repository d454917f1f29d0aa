//! What the fuzz target `image` does, over a few inputs of each kind.

mod driver;

use proptest::prelude::*;

#[test]
fn images_that_are_as_they_were_made_or_cut_are_answered() {
    for which in 0..u8::try_from(driver::count()).expect("few") {
        for cut in [0, 1, 9, 100, 255] {
            for how in 0..4 {
                driver::check(&[which, how, cut]);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn images_that_were_changed_anywhere_are_answered(
        input in proptest::collection::vec(any::<u8>(), 3..200),
    ) {
        driver::check(&input);
    }
}
