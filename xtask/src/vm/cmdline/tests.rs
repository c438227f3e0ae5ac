use clap::{Args, FromArgMatches};

use super::*;
use crate::error::Exit;
use crate::test::registry;

/// What is said about a line of so many bytes.
fn said(path: BootPath, bytes: usize, extra: &[&str]) -> Option<String> {
    let extra: Vec<OsString> = extra.iter().map(OsString::from).collect();
    let result = check("run", path, &"x".repeat(bytes), &extra);
    result.err().map(|error| error.shown())
}

#[test]
fn what_does_not_reach_the_kernel_is_refused() {
    assert_eq!(said(BootPath::Pvh, CARRIED, &[]), None);
    let error = said(BootPath::Pvh, CARRIED + 1, &[]).expect("it is too long");
    assert!(error.contains("4096 bytes, and QEMU's -kernel carries 4095"));
    assert!(error.contains("\n  next: leave words out: the kernel reads the first 2048 bytes"));
    for image in [BootPath::Bios, BootPath::Uefi] {
        assert_eq!(said(image, 1 << 20, &[]), None);
    }
}

#[test]
fn the_last_append_counts() {
    let long = "x".repeat(5000);
    let pvh = BootPath::Pvh;
    assert!(said(pvh, 0, &["-smp", "2", "-append", &long]).is_some());
    assert!(said(pvh, 0, &["--append", "a", "-append", &long]).is_some());
    assert_eq!(said(pvh, 0, &["-append", &long, "--append", "a"]), None);
    assert_eq!(said(pvh, 5000, &["-append", "a"]), None);
    assert!(said(pvh, 5000, &["-append"]).is_some());
}

#[test]
fn a_test_that_has_too_many_words_is_named() {
    let test = |record: &str| registry::parse_test(record).expect("it is well-formed");
    let options = |append: &str| {
        let line = clap::Command::new("test");
        let words = ["test", "--append", append];
        let matches = MachineOptions::augment_args(line).get_matches_from(words);
        MachineOptions::from_arg_matches(&matches).expect("it is right")
    };
    let check_test = |test: &Test, options: &MachineOptions| check_test(test, None, options);
    let long = test("smp::one|append=log=info|fill=4000");
    assert!(check_test(&long, &options("")).is_ok());
    let error = check_test(&long, &options(&"x".repeat(100))).expect_err("too long");
    assert_eq!(error.exit(), Exit::Usage);
    let text = error.shown();
    assert!(text.contains("smp::one: the kernel's command line has 4148 bytes"), "{text}");
    let longer = test("smp::one|fill=5000");
    assert!(check_test(&longer, &options("")).is_err());
    assert!(check_test(&test("smp::one|fill=5000|boot=uefi"), &options("")).is_ok());
}

#[test]
fn the_kernel_reads_as_much() {
    let kernel = include_str!("../../../../kernel/plat/src/cmdline.rs");
    assert!(kernel.contains(&format!("pub const MAX_LENGTH: usize = {READ};")));
}
