use super::*;

fn args(words: &[&str]) -> Args {
    Args::new("run", &words.iter().map(OsString::from).collect::<Vec<_>>())
}

#[test]
fn what_follows_two_dashes_is_set_aside() {
    let mut args = args(&["--smp=1,2,2", "x", "--", "-smp", "6", "--help"]);
    let mut options = Options::default();
    let word = args.next().expect("it is text").expect("there is one");
    assert!(options.take(&word, &mut args).expect("it is right"));
    assert_eq!(options.smp.as_deref(), Some(&[1, 2][..]));
    assert_eq!(
        args.next().expect("it is text"),
        Some(Word::Value("x".to_string()))
    );
    assert_eq!(args.next().expect("it is text"), None);
    assert_eq!(args.after, ["-smp", "6", "--help"]);
    assert!(options.one_smp(&args).is_err());
}

#[test]
fn a_topology_goes_to_qemu() {
    let mut args = args(&["--smp", "6,sockets=2,cores=3", "--", "-m", "64"]);
    let mut options = Options::default();
    let word = args.next().expect("it is text").expect("there is one");
    assert!(options.take(&word, &mut args).expect("it is right"));
    assert_eq!(options.one_smp(&args).expect("it is one"), Some(6));
    assert_eq!(args.after, ["-smp", "6,sockets=2,cores=3", "-m", "64"]);
}

#[test]
fn bochs_boots_by_its_bios_and_nothing_else() {
    let settled = |words: &[&str]| {
        let words = [&["--emulator", "bochs"], words].concat();
        let mut args = args(&words);
        let mut options = Options::default();
        while let Some(word) = args.next().expect("it is text") {
            assert!(options.take(&word, &mut args).expect("it is right"));
        }
        options.settle(&args).map(|()| options.boot)
    };
    assert_eq!(settled(&[]).expect("it is right"), Some(BootPath::Bios));
    assert!(settled(&["--boot", "bios"]).is_ok());
    for words in [
        &["--boot", "pvh"][..],
        &["--boot", "uefi"],
        &["--accel", "kvm"],
        &["--smp", "6,sockets=2,cores=3"],
    ] {
        assert!(settled(words).is_err(), "{words:?}");
    }
}

#[test]
fn the_help_texts_stand_in_columns() {
    for line in OPTIONS_HELP
        .lines()
        .take_while(|line| line.starts_with("   "))
    {
        assert!(
            line.starts_with("  ") && line.as_bytes()[24..26] == *b"  ",
            "{line}"
        );
        assert_ne!(line.as_bytes()[26], b' ', "{line}");
    }
}

#[test]
fn a_wrong_value_is_a_usage_error() {
    for words in [
        ["--smp", "0"],
        ["--smp", "1,2,cores=2"],
        ["--smp", "cores=2"],
        ["--boot", "floppy"],
        ["--timeout-scale", "-1"],
    ] {
        let mut args = args(&words);
        let word = args.next().expect("it is text").expect("there is one");
        let error = Options::default()
            .take(&word, &mut args)
            .expect_err("it is wrong");
        assert_eq!(error.exit, crate::error::Exit::Usage);
    }
}

#[test]
fn what_was_meant_is_guessed_if_it_is_near() {
    let near = |word| did_you_mean(word, ["--seed", "--smp", "--repeat", "test"].into_iter());
    assert_eq!(near("--sede"), "; did you mean --seed?");
    assert_eq!(near("--rep"), "; did you mean --repeat?");
    assert_eq!(near("tets"), "; did you mean test?");
    for far in ["--frob", "-x", "", "boot"] {
        assert_eq!(near(far), "", "{far}");
    }
}

#[test]
fn numbers_may_be_hexadecimal() {
    assert_eq!(number("0xff"), Some(255));
    assert_eq!(number("17"), Some(17));
    assert_eq!(number("seed"), None);
}
