use super::*;

#[test]
fn a_boot_replays_with_the_seed_it_reports() {
    let seed = nth(7, 3);
    assert_ne!(seed, nth(7, 4));
    assert_eq!(nth(seed, 0), seed);
}

#[test]
fn splitmix_matches_its_reference() {
    assert_eq!(splitmix64(0), 0xe220_a839_7b1d_cdaf);
}
