//! The fuzz target's driver over each form of a reference, with each byte of it changed.

mod driver;

#[test]
fn whatever_is_typed_is_read_or_refused() {
    for seed in driver::seeds() {
        driver::check(&seed);
        for at in 0..seed.len() {
            for byte in (0..=0x7f).chain([0xc3]) {
                let mut changed = seed.clone();
                changed[at] = byte;
                driver::check(&changed);
            }
            driver::check(&[&seed[..at], &seed].concat());
        }
    }
}

#[test]
fn each_form_is_read() {
    let zone = api::Zone::named("Europe/Paris", units::Timestamp(1_792_888_200_000_000_000));
    let zone = zone.expect("a known zone");
    for seed in driver::seeds() {
        let text = std::str::from_utf8(&seed[1..]).expect("text");
        let reference = text.contains('@') && api::Reference::parse(text, &zone).is_ok();
        let amount = api::amounts::parse_size(text).is_ok()
            || api::amounts::parse_duration(text.trim_start_matches('-')).is_ok();
        assert!(reference || amount || text == "ssh:h/db@02:30", "{text}");
    }
}
