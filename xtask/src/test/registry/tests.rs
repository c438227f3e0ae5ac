use super::*;

#[test]
fn records_are_read_with_padding_between_them() {
    let text = "smp::online|smp=2..=8|console=4 CPUs|console=ids\n\0\0\
                mem::low|qemu=-m 64 -initrd {root}/a|append=log=info|fill=3\n\0";
    let tests = parse(text).expect("both are well-formed");
    assert_eq!(tests[0].smp, 2..=8);
    assert_eq!(tests[0].console, ["4 CPUs", "ids"]);
    assert_eq!(tests[1].name, "mem::low");
    let file = paths::root().join("a");
    let words = ["-m", "64", "-initrd"].map(OsString::from);
    assert_eq!(tests[1].qemu[..3], words);
    assert_eq!(tests[1].qemu[3], file);
    assert_eq!(tests[1].append, "log=info xxx");
    assert_eq!(tests[1].expect, Kind::Pass);
}

#[test]
fn what_is_not_understood_is_named() {
    for (text, word) in [
        ("a|expect=fire\n", "expect=fire"),
        ("a|colour=red\n", "colour=red"),
        ("a|smp=x\n", "smp=x"),
        ("a|needs=luck\n", "needs=luck"),
        ("a\na\n", "two tests"),
        ("|expect=pass\n", "not a name"),
    ] {
        let error = parse(text).expect_err(text);
        assert!(error.text().contains(word), "{error}");
    }
}
