use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    machine: MachineOptions,
    #[command(flatten)]
    boot: BootOptions,
}

fn line(words: &[&str]) -> std::result::Result<Line, clap::Error> {
    Line::try_parse_from([&["run"], words].concat())
}

#[test]
fn what_follows_two_dashes_is_set_aside() {
    let line = line(&["--smp=1,2,2", "--", "-smp", "6", "--help"]).expect("it is right");
    assert_eq!(line.machine.cpus(), Some(&[1, 2][..]));
    assert_eq!(line.machine.extra(), ["-smp", "6", "--help"]);
    assert!(line.machine.one_smp("run").is_err());
}

#[test]
fn a_topology_goes_to_qemu() {
    let line = line(&["--smp", "6,sockets=2,cores=3", "--", "-m", "64"]).expect("it is right");
    assert_eq!(line.machine.one_smp("run").expect("it is one"), Some(6));
    let expected = ["-smp", "6,sockets=2,cores=3", "-m", "64"];
    assert_eq!(line.machine.extra(), expected);
}

#[test]
fn bochs_boots_by_its_bios_and_nothing_else() {
    let settled = |words: &[&str]| {
        let mut line = line(&[&["--emulator", "bochs"], words].concat()).expect("it is right");
        line.boot.settle(&line.machine, "run", false)?;
        Result::<_>::Ok(line.boot.boot)
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
fn a_wrong_value_is_named() {
    for words in [
        ["--smp", "0"],
        ["--smp", "1,2,cores=2"],
        ["--smp", "cores=2"],
        ["--boot", "floppy"],
        ["--timeout-scale", "-1"],
        ["--timeout-scale", "inf"],
    ] {
        let error = line(&words).expect_err("it is wrong").to_string();
        let named = format!("invalid value '{}' for '{} <", words[1], words[0]);
        assert!(error.contains(&named), "{error}");
    }
}

#[test]
fn numbers_may_be_hexadecimal() {
    assert_eq!(number("0xff"), Ok(255));
    assert_eq!(number("17"), Ok(17));
    assert!(number("seed").is_err());
}
