use clap::Parser;

use super::*;

fn options(words: &str) -> std::result::Result<Options, clap::Error> {
    Options::try_parse_from(format!("bench {words}").split_whitespace())
}

#[test]
fn a_filter_that_fits_nothing_is_a_usage_error() {
    for wrong in [
        "nonesuch",
        "--explain nonesuch",
        "--explain boot_all_cpus",
        "--explain spinlock_pair --time",
        "--explain spinlock_pair call",
    ] {
        assert!(options(wrong).is_err(), "{wrong}");
    }
    let wanted = options("switch,wake --smp 2 -- -m 64").expect("it is right");
    assert_eq!((wanted.smp, wanted.extra.len()), (2, 2));
}
