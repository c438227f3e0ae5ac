//! `xtask` as a person meets it: its message and exit code for a wrong command line or a wrong
//! file, with what to do next. Nothing here needs QEMU: where a test has one, it is a script.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output};

#[cfg(unix)]
mod fake;
#[cfg(unix)]
#[path = "../src/trace/memory/ram.rs"]
mod ram;

/// The exit code, and all that was printed.
fn xtask(words: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask")).args(words).output().expect("it runs");
    told(output)
}

fn told(output: Output) -> (Option<i32>, String) {
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into())
}

#[test]
fn a_wrong_command_line_is_told_with_the_next_step() {
    for (words, said, next) in [
        (&["boot"][..], "unrecognized subcommand 'boot'", "cargo xtask --help"),
        (&["run", "--frob"], "unexpected argument '--frob'", "cargo xtask run --help"),
        (&["run", "log=debug"], "pass words to the kernel by --append", "run --help"),
        (&["run", "--smp", "0"], "'0' for '--smp <N>': it is not a number of CPUs", "run --help"),
        (&["run", "--smp", "1,2"], "--smp takes one number here", "run --help"),
        (&["run", "--boot", "floppy"], "[possible values: pvh, bios, uefi]", "run --help"),
        (&["run", "--emulator", "simics"], "[possible values: qemu, bochs]", "run --help"),
        (
            &["test", "--emulator", "bochs", "--boot", "pvh"],
            "Bochs has no --boot pvh",
            "test --help",
        ),
        (
            &["run", "--emulator", "bochs", "--accel", "kvm"],
            "Bochs has no --accel kvm",
            "run --help",
        ),
        (&["gdb", "--emulator", "bochs"], "unexpected argument '--emulator'", "gdb --help"),
        (&["test", "--repeat", "0"], "invalid value '0' for '--repeat <N>'", "test --help"),
        (&["test", "--seed"], "a value is required for '--seed <N>'", "test --help"),
        (&["image"], "<--bios|--uefi>", "image --help"),
        (&["test", "--emulator", "bochs", "--core"], "Bochs has no --core", "test --help"),
        (&["run", "--core", "/dev/null/x"], "cannot create /dev/null", "run --help"),
        (&["gdb", "a::b", "--core", "x"], "cannot be used with", "gdb --help"),
        (&["gdb", "--boot", "bios"], "unexpected argument '--boot'", "gdb --help"),
        (&["profile", "--samples", "0"], "it is not a number of samples", "profile --help"),
        (&["profile", "--smp", "1,2"], "--smp takes one number here", "profile --help"),
        (&["profile", "-o", "/dev/null/x"], "cannot create /dev/null", "profile --help"),
        (&["doctor", "--frob"], "unexpected argument '--frob'", "doctor --help"),
        (&["coverage", "--frob"], "unexpected argument '--frob'", "coverage --help"),
        (&["miri", "--seeds", "0"], "it is not a number of seeds", "miri --help"),
        (&["tset"], "a similar subcommand exists: 'test'", "cargo xtask --help"),
        (&["help", "benhc"], "a similar subcommand exists: 'bench'", "cargo xtask --help"),
        (&["--colour"], "a similar argument exists: '--color'", "cargo xtask --help"),
        (&["test", "--sede", "1"], "a similar argument exists: '--seed'", "test --help"),
        (&["test", "--exact=yes"], "unexpected value 'yes' for '--exact'", "test --help"),
        (&["layers", "--color", "blue"], "[possible values: auto, always, never]", "layers --help"),
        (&["test", "--json", "."], "cannot write .: Is a directory", "test --help"),
        (&["test", "--junit=Cargo.toml/report.xml"], "cannot create Cargo.toml", "test --help"),
        (&["bench", "--json="], "the name of a file is missing", "bench --help"),
        (&["bench", "no_such_row"], "there are: calibration", "bench --help"),
        (&["bench", "--explain", "critical_pair", "--time"], "cannot be used with", "bench --help"),
        (&["image", "--bios", "-o", "/dev/null/x"], "cannot create /dev/null", "image --help"),
        (
            &["test", "--json", "/dev/null", "--junit", "/dev/../dev/null"],
            "name the same file",
            "test --help",
        ),
        (
            &["trace", "--groups", "irq,ipc"],
            "\"ipc\" is no group; there are: irq, ",
            "trace --help",
        ),
        (&["trace", "--svg", "/dev/null", "--around", "now"], "it is not a time", "trace --help"),
        (&["trace", "--around", "3"], "--svg <FILE>", "trace --help"),
        (&["demo", "r222943"], "no bug's name contains \"r222943\"", "cargo xtask demo --list"),
        (&["demo", "eoi"], "2 bugs have \"eoi\" in their names: eoi-after", "demo --list"),
        (&["trace", "--groups", "off"], "that is no group; there are: irq, ", "trace --help"),
        (&["trace", "--from", "x", "--smp", "2"], "cannot be used with", "trace --help"),
        (&["trace", "a::b", "--from", "x"], "cannot be used with", "trace --help"),
        (&["trace", "--from", "x", "--groups", "irq"], "cannot be used with", "trace --help"),
        (&["trace", "--emulator", "bochs"], "Bochs keeps no memory in a file", "trace --help"),
        (&["run", "--top", "--emulator", "bochs"], "Bochs keeps no memory in a file", "run --help"),
        (&["run", "--top", "--core", "x"], "cannot be used with", "run --help"),
        (&["trace", "--from", "x", "--top"], "cannot be used with", "trace --help"),
        (&["trace", "--smp", "1,2"], "--smp takes one number here", "trace --help"),
        (&["trace", "-o", "/dev/null/x"], "cannot create /dev/null", "trace --help"),
        (
            &["trace", "--save", "/dev/null", "-o", "/dev/../dev/null"],
            "--out and --save name the same file",
            "trace --help",
        ),
        (&["runner"], "not provided:\n  <ELF>", "runner --help"),
        (&["ci", "--", "-m", "64"], "unexpected argument '-m'", "ci --help"),
        (&["completions", "tcsh"], "[possible values: bash", "completions --help"),
    ] {
        let (code, text) = xtask(words);
        assert_eq!(code, Some(2), "{words:?}: {text}");
        assert!(text.contains(said), "{words:?}: {text}");
        let hint = text.lines().find_map(|line| line.strip_prefix("  next: "));
        assert!(hint.is_some_and(|hint| hint.contains(next)), "{words:?}: {text}");
    }
}

#[test]
fn a_command_line_that_does_not_reach_the_kernel_is_refused() {
    // From 4,128 bytes on start_info is overwritten; from about 24 KiB on nothing is said any more.
    for bytes in [4096, 4128, 16 << 10, 32 << 10, 100_000] {
        let line = "x".repeat(bytes);
        for words in [
            &["run", "--append", &line][..],
            &["run", "--smp", "2", "--", "-append", &line],
            &["runner", "no-such-file", "--append", &line],
            &["gdb", "--append", &line],
        ] {
            let (code, text) = xtask(words);
            assert_eq!(code, Some(2), "{}: {text}", words[0]);
            let said = format!(
                "the kernel's command line has {bytes} bytes, and QEMU's -kernel carries 4095"
            );
            assert!(text.contains(&said) && text.contains("\n  next: leave words out"), "{text}");
        }
    }
    // One that it carries goes on to the next mistake, with a warning of what the kernel reads.
    let line = "x".repeat(4095);
    let (code, text) = xtask(&["runner", "no-such-file", "--append", &line]);
    assert_eq!(code, Some(3), "{text}");
    assert!(
        text.contains("warning: the kernel's command line has 4095 bytes; the kernel reads 2048"),
        "{text}"
    );
    let (_, text) = xtask(&["runner", "no-such-file", "--append", &line[..2048]]);
    assert!(!text.contains("warning"), "{text}");
    // A disk image carries any.
    let long = "x".repeat(100_000);
    let (code, text) = xtask(&["runner", "no-such-file", "--boot", "bios", "--append", &long]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("warning: the kernel's command line has 100000 bytes"), "{text}");
}

#[test]
fn a_wrong_kernel_has_a_verdict_of_its_own() {
    let this = env!("CARGO_BIN_EXE_xtask");
    for (file, said) in [
        (concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"), "it is no ELF file"),
        (this, "it has no PVH note (type 18, name Xen) (it has other notes)"),
        ("no-such-file", "cannot be read"),
    ] {
        let (code, text) = xtask(&["runner", file]);
        assert_eq!(code, Some(3), "{text}");
        assert!(text.contains(said) && text.contains("\n  next: build it"), "{text}");
    }
}

#[test]
fn every_command_has_its_help() {
    let (code, all) = xtask(&["--help"]);
    assert_eq!(code, Some(0));
    let (_, commands) = all.split_once("Commands:\n").expect("a list");
    let commands = commands.lines().take_while(|line| !line.is_empty());
    let commands: Vec<_> = commands.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.len() >= 10, "{commands:?}");
    for command in commands {
        let version = format!("xtask {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(xtask(&[command, "--version"]), (Some(0), version));
        // The explorer's help is its own, and has to be built.
        if command == "model" {
            continue;
        }
        let (code, text) = xtask(&[command, "--help"]);
        assert_eq!(code, Some(0), "{command}: {text}");
        assert!(text.contains(&format!("Usage: cargo xtask {command}")), "{text}");
        for words in [
            &["help", command][..],
            &[command, "-h"],
            &["--color", "never", command, "--color=always", "--help"],
        ] {
            assert_eq!(xtask(words), (code, text.clone()), "{words:?}");
        }
        // Behind an option that takes a value it is the value.
        if text.contains("--append") {
            let (code, text) = xtask(&[command, "--append", "--help", "--frob"]);
            assert_eq!(code, Some(2), "{text}");
        }
    }
    for words in [&["help"][..], &["-h"], &[]] {
        assert_eq!(xtask(words), (Some(0), all.clone()));
    }
    assert_eq!(xtask(&["-V"]), xtask(&["--version"]));
}

#[test]
fn the_demos_are_listed() {
    let (code, text) = xtask(&["demo", "--list"]);
    assert_eq!(code, Some(0), "{text}");
    let names: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names[0], "r222942");
    assert!(names.contains(&"eoi-after-switch") && names.contains(&"0003-deaf-initiator"));
    assert!(text.lines().all(|line| line.split_whitespace().count() > 3), "{text}");
}

#[test]
fn a_shell_is_told_the_options() {
    let (code, script) = xtask(&["completions", "bash"]);
    assert_eq!(code, Some(0));
    assert!(script.contains("--timeout-scale") && script.contains("completions"), "{script}");
}

/// A file's name is bytes. (macOS takes UTF-8 only.)
#[cfg(target_os = "linux")]
#[test]
fn qemu_is_told_names_that_are_not_utf8_as_they_are() {
    use std::ffi::{OsStr, OsString};
    use std::os::unix::ffi::{OsStrExt, OsStringExt};

    let fake = fake::Fake::new("names");
    fake.qemu("start; exit 33");
    let kernel = fake.kernel(OsStr::from_bytes(b"k\xff,"), "");
    let target = fake.dir.join(OsStr::from_bytes(b"t\xfe, 'x"));
    let initrd = OsString::from_vec(b"\xfd".to_vec());
    let words = ["runner".as_ref(), kernel.as_os_str(), "--".as_ref()];
    let words = [&words[..], &["-initrd".as_ref(), &initrd]].concat();
    let output = fake.xtask(&words).env("CARGO_TARGET_DIR", &target).output();
    let (code, text) = told(output.expect("it runs"));
    assert_eq!(code, Some(0), "{text}");

    let args = fake.qemu_args();
    let after = |option: &str| {
        let at = args.iter().rposition(|arg| arg == option.as_bytes());
        &args[at.expect("it is there") + 1]
    };
    assert_eq!(after("-initrd"), b"\xfd");
    let results = [b"file:", target.as_os_str().as_bytes(), b"/run/results.log"];
    assert_eq!(*after("-serial"), results.concat());
    // What is shown can be pasted into a shell, with the same name.
    let told = text.split_once("-kernel ").expect("the command is shown").1;
    let told = told.split_once(" -initrd").expect("it goes on").0;
    let printed = Command::new("bash").args(["-c", &format!("printf %s {told}")]).output();
    assert_eq!(*after("-kernel"), printed.expect("bash runs").stdout);
}

/// rustc does not take such a name, and neither cargo nor rustc says so plainly.
#[cfg(target_os = "linux")]
#[test]
fn a_build_into_a_folder_that_is_not_utf8_says_so() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let fake = fake::Fake::new("build");
    fake.qemu("exit 1");
    for words in [&["run"][..], &["test", "--list"], &["image", "--bios"]] {
        let target = fake.dir.join(OsStr::from_bytes(b"t\xff"));
        let output = fake.xtask(words).env("CARGO_TARGET_DIR", target).output();
        let (code, text) = told(output.expect("it runs"));
        assert_eq!(code, Some(3), "{text}");
        assert!(text.contains("t\\xff': that is not UTF-8"), "{text}");
        assert!(text.contains("next: set CARGO_TARGET_DIR= to another target folder"), "{text}");
    }
}

/// A wrapper may print something of its own first. A program that is no QEMU is reported with its
/// own words.
#[cfg(unix)]
#[test]
fn a_program_that_is_no_qemu_is_told_with_its_words() {
    let fake = fake::Fake::new("no_qemu");
    let kernel = fake.kernel("kernel", "");
    let run = |script: &str| {
        let qemu = fake.program("wrapper", script);
        let output =
            fake.xtask(&["runner".as_ref(), kernel.as_os_str()]).env("QEMU", qemu).output();
        told(output.expect("it runs"))
    };
    fake.qemu("start; exit 33");
    let (code, text) =
        run("echo loading firmware; echo and more >&2; exec ${0%/*}/qemu-system-x86_64 \"$@\"");
    assert_eq!(code, Some(0), "{text}");
    for (script, said) in [
        ("echo 'qemu: no licence' >&2; exit 7", "exit status: 7 and says \"qemu: no licence\""),
        ("exit 0", "exit status: 0 and says nothing"),
        ("echo GNU bash, version 5.2", "says \"GNU bash, version 5.2\""),
        ("echo QEMU emulator version new", "version \"new\", which is not understood"),
        ("echo QEMU emulator version 4.1.0", "QEMU 4.1.0"),
    ] {
        let (code, text) = run(script);
        assert_eq!(code, Some(3), "{text}");
        assert!(text.contains(said) && text.contains("\n  next: "), "{text}");
    }
    let qemu = fake.dir.join("nothing");
    let output = fake.xtask(&["runner".as_ref(), kernel.as_os_str()]).env("QEMU", qemu).output();
    let (_, text) = told(output.expect("it runs"));
    assert!(text.contains("cannot be started: No such file"), "{text}");
}

/// The commands in Python go to a gdb that runs Python. Any other gets the plain ones, with a
/// message.
#[cfg(unix)]
#[test]
fn a_gdb_without_python_gets_the_plain_commands() {
    let fake = fake::Fake::new("gdb");
    fake.toolchain("", "exit 1");
    fake.qemu("sleep 60");
    let batch = fake.dir.join("batch");
    std::fs::write(&batch, "echo of the batch\n").expect("a file");
    for (configuration, python) in [("--without-python", false), ("--with-python=/usr", true)] {
        // It prints the commands that it is given.
        let script = format!("[ $1 = --configuration ] && echo {configuration} || cat \"$3\"");
        fake.program("gdb", &script);
        let output = fake.xtask(&["gdb", "--batch", "batch"]).output();
        let (code, text) = told(output.expect("it runs"));
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("define panics") && text.contains("\necho of the batch"), "{text}");
        assert_eq!(text.contains("class Threads(Ours)"), python, "{text}");
        assert_eq!(text.contains("has no Python: only `cpus` and `panics` are there"), !python);
        assert_eq!(text.contains("  next: install a gdb with Python"), !python, "{text}");
    }
    let (code, text) = told(fake.xtask(&["gdb", "--batch", "none"]).output().expect("it runs"));
    assert!(code == Some(3) && text.contains("cannot read none: No such file"), "{text}");
}

/// What is wrong with a core, or with the kernel beside it, and what to do.
#[cfg(unix)]
#[test]
fn a_core_that_cannot_be_opened_is_told_with_the_next_step() {
    let fake = fake::Fake::new("core");
    fake.program("gdb", "[ $1 = --configuration ] || echo gdb $*");
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(fake.dir.join(name), bytes).expect("a file");
    };
    let open = |core: &str| told(fake.xtask(&["gdb", "--core", core]).output().expect("it runs"));
    let whole = fake::core(fake::CODE);
    write("empty", b"");
    write("text", b"no core at all, but a file of more than sixty-four bytes of plain text");
    write("program", &std::fs::read(fake.kernel("kernel", "")).expect("it is there"));
    write("headers", &whole[..100]);
    write("cut", &whole[..whole.len() - 1]);
    write("arm", &[&whole[..18], &[183], &whole[19..]].concat());
    write("whole", &whole);
    write("other", &fake::core(b"its cold"));
    let make_one = "make one: cargo xtask test NAME --core, cargo xtask run --core FILE, or, while";
    let beside = "put the kernel that ran there beside it, as ";
    let wrong = |core: &str, said: &str, next: &str| {
        let (code, text) = open(core);
        assert_eq!(code, Some(3), "{text}");
        assert!(text.contains(said) && text.contains(&format!("  next: {next}")), "{core}: {text}");
    };
    wrong("nothing", "cannot read nothing: No such file", make_one);
    wrong(".", "cannot read .: Is a directory", make_one);
    wrong("empty", "empty is no core: it is no 64-bit ELF file", make_one);
    wrong("text", "text is no core: it is no 64-bit ELF file", make_one);
    wrong("program", "it is an ELF file of another kind (type 2, not 4)", make_one);
    wrong("arm", "it is a core of another kind of machine, not x86_64", make_one);
    wrong("headers", "headers is cut off: it ends after 100 bytes, within its headers", make_one);
    wrong("cut", "cut is cut off: it ends after 127 bytes of 128", make_one);
    wrong("whole", "there is no kernel for whole: no whole.elf, and none is built", beside);
    for core in ["whole", "other"] {
        fake.kernel(format!("{core}.elf"), "");
    }
    let said = "other is of another build: its code differs from other.elf, at 0xffffffff80200006";
    wrong("other", said, beside);
    let (code, text) = open("whole");
    assert!(code == Some(0) && text.contains("-core whole"), "{text}");
    // Of a machine that stopped before the kernel's page tables: the one that was kept.
    let early = [&whole[..64 + 16], &[0; 8], &whole[64 + 24..]].concat();
    write("early", &early);
    fake.kernel("early.elf", "");
    let (code, text) = open("early");
    assert!(code == Some(0) && text.contains("-core early"), "{text}");
    // Without one beside it, one that is built may be the kernel.
    std::fs::remove_file(fake.dir.join("whole.elf")).expect("it is there");
    let built = fake.dir.join("target/x86_64-unknown-none/release");
    std::fs::create_dir_all(&built).expect("a folder");
    std::fs::rename(fake.dir.join("kernel"), built.join("ktest")).expect("it is there");
    let (code, text) = open("whole");
    assert!(code == Some(0) && text.contains("-core whole"), "{text}");
    std::fs::remove_file(fake.dir.join("early.elf")).expect("it is there");
    wrong("early", "its code differs from target/x86_64-unknown-none/release/ktest, at 0x", beside);
}

/// A gdb that is missing and cannot be installed.
#[cfg(unix)]
#[test]
fn a_missing_gdb_is_told_with_the_next_step() {
    let fake = fake::Fake::new("no_gdb");
    std::fs::write(fake.dir.join("core"), fake::core(fake::CODE)).expect("a file");
    fake.kernel("core.elf", "");
    // A system with a package manager that this user may not use.
    fake.program("id", "echo 1000");
    fake.program("apt-get", "exit 1");
    let bash = fake.program("bash.link", "").with_file_name("bash");
    std::os::unix::fs::symlink("/bin/bash", bash).expect("a link");
    let mut xtask = fake.xtask(&["gdb", "--core", "core"]);
    let (code, text) = told(xtask.env("PATH", &fake.dir).output().expect("it runs"));
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("missing on this system: gdb"), "{text}");
    assert!(text.contains("next: sudo apt-get update && sudo apt-get install"), "{text}");
}

/// The trace is read out of the memory of a machine that is gone, however it ended; and can be kept
/// and shown again.
#[cfg(unix)]
#[test]
fn a_trace_comes_from_the_memory_of_a_machine() {
    use plat::trace::Event;

    let fake = fake::Fake::new("trace");
    fake.toolchain("a::b\na::bc\nc::d|append=x=y\ne::f|qemu=-numa node\n", "exit 1");
    fake.qemu(fake::TRACING_GUEST);
    let mut memory = ram::Ram::new(2, &["boot", "idle"]);
    memory.write(1, &ram::record(5000, Event::Switch, 1).bytes());
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(fake.dir.join(name), bytes).expect("a file");
    };
    let run = |words: &[&str]| told(fake.xtask(words).output().expect("it runs"));
    write("code", b"33");

    // The kernel ended well, and there is nothing.
    let (code, text) = run(&["trace"]);
    assert_eq!(code, Some(3), "{text}");
    let said = "cannot read the machine's memory in target/trace/memory: No such file";
    assert!(text.contains(said), "{text}");
    write("ram", &memory.bytes[..ram::MIB]);
    let (code, text) = run(&["trace"]);
    assert_eq!(code, Some(3), "{text}");
    let said = "there is no trace in this memory\n  next: boot a kernel of this tree, with trace=";
    assert!(text.contains(said), "{text}");

    write("ram", &memory.bytes);
    let row = "\ncpu1          1        0         1           0          0            -\n";
    let args = || {
        let args = fake.qemu_args();
        args.iter().map(|arg| String::from_utf8_lossy(arg).into_owned()).collect::<Vec<_>>()
    };
    for (words, append) in [
        (&["trace"][..], "trace=irq,critical,sched,ipi,rendezvous,memory,cpu,mark"),
        (&["trace", "run", "--append", "p=q"], ",mark p=q"),
        (&["trace", "c::", "--groups", "irq", "--seed", "7"], "test=c::d seed=0x7 x=y trace=irq"),
        (&["trace", "a::b", "--groups=all,-lock,-irq"], "test=a::b seed=0x0 trace=critical,"),
    ] {
        let (code, text) = run(words);
        assert_eq!(code, Some(0), "{words:?}: {text}");
        assert!(text.contains(row), "{words:?}: {text}");
        let args = args();
        assert!(args.iter().any(|arg| arg.contains(append)), "{words:?}: {args:?}");
        let object = args.iter().find(|arg| arg.starts_with("memory-backend-file"));
        let size = "memory-backend-file,id=ram,size=536870912,share=on,mem-path=";
        assert!(object.is_some_and(|object| object.starts_with(size)), "{args:?}");
        assert!(!fake.dir.join("target/trace/memory").exists(), "it is as large as the machine's");
    }

    // A failure is traced too, and still one.
    for (exit, words, said) in [
        ("37", &["trace"][..], "the kernel: PANIC after "),
        ("35", &["trace", "c::d"], "c::d: FAILED after "),
        ("0", &["trace", "c::d"], "c::d: OFF after "),
    ] {
        write("code", exit.as_bytes());
        let (code, text) = run(words);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains(said) && text.contains(row), "{text}");
        assert!(text.contains("console log: target/trace/console.log"), "{text}");
    }
    write("code", b"33");

    for (words, said, next) in [
        (&["trace", "b"][..], "2 tests have b in their names", "name one of them:"),
        (&["trace", "z::"], "there is no test z::", "cargo xtask test --list shows them all"),
        (&["gdb", "a::"], "2 tests have a:: in their names", "name one of them:"),
        (&["trace", "e::f"], "cannot be read: its QEMU arguments say where", "trace --help"),
        (&["trace", "--", "-m", "some"], "cannot be read: its -m is not understood", "--help"),
    ] {
        fake.program("gdb", "[ $1 = --configuration ]");
        let (code, text) = run(words);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(said) && text.contains(next), "{words:?}: {text}");
    }

    // Kept, and shown again.
    let (code, text) = run(&["trace", "--save", "kept/trace", "-o", "kept/trace.json"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(!text.contains(row), "{text}");
    assert!(text.contains("kept/trace: show it by cargo xtask trace --from"), "{text}");
    assert!(text.contains("kept/trace.json: open it at https://ui.perfetto.dev"), "{text}");
    let (code, text) = run(&["trace", "--from", "kept/trace"]);
    assert!(code == Some(0) && text.contains(row), "{text}");
    let json = fake.dir.join("kept/trace.json");
    let first = std::fs::read(&json).expect("it is there");
    let (code, text) = run(&["trace", "--from", "kept/trace", "-o", "kept/trace.json"]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(first, std::fs::read(&json).expect("it is there"));

    let kept = std::fs::read(fake.dir.join("kept/trace")).expect("it is there");
    write("cut", &kept[..kept.len() - 1]);
    for (file, said) in [
        ("nothing", "cannot read nothing: No such file".to_string()),
        ("ram", "ram, byte 0: this is no saved trace".to_string()),
        ("cut", format!("cut, byte {}: the file is cut off here", kept.len() - 1)),
    ] {
        let (code, text) = run(&["trace", "--from", file]);
        assert_eq!(code, Some(3), "{text}");
        assert!(text.contains(&said) && text.contains("  next: save one by"), "{text}");
    }
}

/// A guest that leaves the file `ram` as its memory, and ends once the file `go` exists.
#[cfg(target_os = "linux")]
const WATCHED_GUEST: &str = r#"
start
memory=$(tr '\0' '\n' <$here/args | sed -n 's/.*mem-path=//p')
cp $here/ram "$memory.new" && mv "$memory.new" "$memory"
until [ -e $here/go ]; do sleep 0.01; done
exit 33
"#;

/// A machine for `--top`: its memory.
#[cfg(target_os = "linux")]
fn watched(name: &str) -> fake::Fake {
    use plat::trace::Event;

    let fake = fake::Fake::new(name);
    fake.toolchain("a::b\n", "exit 1");
    fake.qemu(WATCHED_GUEST);
    let mut memory = ram::Ram::new(2, &["boot", "idle", "idle", "a_worker"]);
    for time in [0, 1_000_000_000] {
        memory.write(0, &ram::record(time, Event::Mark, 3).bytes());
        memory.write(1, &ram::record(time, Event::Mark, 2).bytes());
    }
    std::fs::write(fake.dir.join("ram"), memory.bytes).expect("a file");
    fake
}

/// Ctrl-C ends the machine, and the trace until then is kept.
#[cfg(target_os = "linux")]
#[test]
fn a_trace_that_is_interrupted_is_kept() {
    let fake = watched("interrupted_trace");
    let mut xtask = fake.xtask(&["trace", "--save", "kept"]);
    let xtask = xtask.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let child = xtask.spawn().expect("it runs");
    wait_for(&fake.dir.join("target/trace/memory"));
    let line = format!("kill -s INT {}", child.id());
    let status = Command::new("sh").args(["-c", &line]).status().expect("it runs");
    assert!(status.success());
    let (code, text) = told(child.wait_with_output().expect("it ends"));
    assert_eq!(code, Some(130), "{text}");
    assert!(text.contains("kept: show it by cargo xtask trace --from"), "{text}");
    let (code, text) = told(fake.xtask(&["trace", "--from", "kept"]).output().expect("it runs"));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("\n4 records of irq"), "{text}");
}

/// The live view as it is printed to a file: a block each second, and what was in all.
#[cfg(target_os = "linux")]
#[test]
fn a_live_view_is_plain_lines_where_there_is_no_terminal() {
    let fake = watched("plain_top");
    let mut xtask = fake.xtask(&["run", "--top"]);
    let child = xtask.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = child.spawn().expect("it runs");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let mut lines = lines.by_ref().map(|line| line.expect("UTF-8"));
    let line = lines.find(|line| line.contains(" 3 a_worker")).expect("a block while it runs");
    assert_eq!(line, "     3 a_worker         100% cpu0           0");
    std::fs::write(fake.dir.join("go"), "").expect("a file");
    let rest: Vec<String> = lines.collect();
    let text = rest.join("\n");
    assert_eq!(child.wait().expect("it ends").code(), Some(0), "{text}");
    let (_, all) = text.split_once("the kernel, in all:\n").expect("the last block");
    assert!(all.contains("\ncpu1   idle          100%      0      0"), "{all}");
    assert!(all.contains("xtask: the kernel: ok after "), "{all}");
    assert!(!text.contains('\x1b'), "{text}");
    // The name of the file that it was kept in is gone with it.
    assert!(!fake.dir.join("target/run/memory").exists());
}

/// On a terminal it has a screen of its own; Ctrl-C, q and the machine's end leave the terminal as
/// it was, with the last block on it.
#[cfg(target_os = "linux")]
#[test]
fn a_live_view_leaves_the_terminal_as_it_was() {
    use std::io::{Read, Write};
    use std::process::Stdio;

    for (number, (typed, columns, code)) in
        [("\x03", 40, 130), ("q", 80, 130), ("", 30, 0)].into_iter().enumerate()
    {
        let fake = watched(&format!("top_{number}"));
        let xtask = env!("CARGO_BIN_EXE_xtask");
        let line = format!(
            "stty cols {columns} rows 9; stty -g; {xtask} trace run --top; echo code $?; stty -g"
        );
        // Its environment and folder, by another program.
        let like = fake.xtask(&[""; 0]);
        let mut script = Command::new("script");
        script.args(["-qec", &line, "/dev/null"]).current_dir(&fake.dir).env("TERM", "xterm");
        script.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
        script.env_remove("QEMU").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut script = script.spawn().expect("script of util-linux");
        let mut stdin = script.stdin.take().expect("it is piped");
        let mut stdout = script.stdout.take().expect("it is piped");
        let mut text = Vec::new();
        let mut buffer = [0; 4096];
        let mut is_told = false;
        loop {
            let count = stdout.read(&mut buffer).expect("it is read");
            if count == 0 {
                break;
            }
            text.extend_from_slice(&buffer[..count]);
            if !is_told && String::from_utf8_lossy(&text).contains("a_worker") {
                is_told = true;
                match typed {
                    "" => std::fs::write(fake.dir.join("go"), "").expect("a file"),
                    key => stdin.write_all(key.as_bytes()).expect("it is typed"),
                }
            }
        }
        script.wait().expect("it ends");
        let text = String::from_utf8_lossy(&text);
        let (before, rest) = text.split_once("\x1b[?1049h").expect("a screen of its own");
        let (screen, after) = rest.split_once("\x1b[?1049l").expect("and left");
        assert!(
            screen.contains("the kernel; q ends it") && screen.contains("a_worker"),
            "{text:?}"
        );
        // What goes by the terminal's last column would go on the next line.
        let drawn = screen.split("\x1b[K").map(|line| line.rsplit('H').next().unwrap_or(line));
        for line in drawn.filter(|line| !line.contains('\x1b')) {
            assert!(line.chars().count() <= columns, "{columns}: {line:?}");
        }
        assert!(screen.contains("\x1b[?25l"), "the cursor is hidden: {text:?}");
        assert!(screen.ends_with("\x1b[?25h"), "and shown again: {text:?}");
        assert!(after.contains("the kernel, in all:") && after.contains("a_worker"), "{text:?}");
        assert!(after.contains(&format!("code {code}")), "{text:?}");
        let settings = before.lines().next();
        assert_eq!(settings, after.trim_end().lines().last(), "{text:?}");
        assert!(settings.is_some_and(|settings| settings.contains(':')), "{text:?}");
    }
}

/// No machine, or none that answers.
#[cfg(unix)]
#[test]
fn a_dump_of_nothing_is_told_with_the_next_step() {
    let fake = fake::Fake::new("dump");
    std::fs::create_dir(fake.dir.join("logs")).expect("a folder");
    for words in [&["dump"][..], &["dump", "nowhere"], &["dump", "logs"]] {
        let (code, text) = told(fake.xtask(words).output().expect("it runs"));
        assert_eq!(code, Some(3), "{text}");
        assert!(text.contains("no machine answers in "), "{text}");
        assert!(text.contains("  next: start one by `cargo xtask run`, or name"), "{text}");
    }
    let left = std::fs::read_dir(fake.dir.join("logs")).expect("it is there").count();
    assert_eq!(left, 0, "the request is taken back");
}

/// A guest that ends well, as a test that passes, once the file `go` exists.
#[cfg(unix)]
const WAITING_GUEST: &str = r#"
start
touch $here/started
until [ -e $here/go ]; do sleep 0.01; done
test=${append#test=}
printf 'tryst-test 1\nok %s\nend passed=1 failed=0 skipped=0\n' "${test%% *}" >"$results"
exit 33
"#;

#[cfg(unix)]
fn wait_for(file: &std::path::Path) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(300);
    while !file.exists() {
        assert!(std::time::Instant::now() < end, "{}", file.display());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Two commands in one target folder do not disturb each other, even if the kernel is rebuilt
/// meanwhile; the first one's folder is free as soon as it has ended, in whatever way.
#[cfg(unix)]
#[test]
fn a_second_run_has_files_of_its_own() {
    use std::process::Stdio;

    for (command, folder, kernel) in [("run", "run", "tryst"), ("test", "ktest", "ktest")] {
        let fake = fake::Fake::new(&format!("second_{command}"));
        fake.toolchain("a::b\n", "exit 1");
        fake.qemu(WAITING_GUEST);
        let started = fake.dir.join("started");
        let start = || {
            let mut xtask = fake.xtask(&[command]);
            let child = xtask.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
            let child = child.expect("it runs");
            wait_for(&started);
            std::fs::remove_file(&started).expect("it is there");
            child
        };
        let kernel = |folder: &str| {
            let file = fake.dir.join("target").join(folder).join(kernel);
            std::fs::read(file).expect("it is there")
        };

        let first = start();
        let old = kernel(folder);
        fake.kernel("image", "a::b\nc::d\n");
        let mut second = start();
        assert_eq!(kernel(folder), old);
        assert_ne!(kernel(&format!("{folder}-2")), old);
        let go = fake.dir.join("go");
        std::fs::write(&go, "").expect("a file");
        let pid = first.id();
        for (child, counts) in [(first, "1 passed"), (second, "2 passed")] {
            let (code, text) = told(child.wait_with_output().expect("it ends"));
            assert_eq!(code, Some(0), "{text}");
            assert!(command == "run" || text.contains(counts), "{text}");
            let other = format!("another `cargo xtask {command}` (pid {pid}) is running");
            assert_eq!(text.contains(&other), counts == "2 passed", "{text}");
        }

        std::fs::remove_file(&go).expect("it is there");
        second = start();
        second.kill().expect("it runs");
        second.wait().expect("it is gone");
        std::fs::write(&go, "").expect("a file");
        let (code, text) = told(fake.xtask(&[command]).output().expect("it runs"));
        assert_eq!(code, Some(0), "{text}");
        assert!(!text.contains("another"), "{text}");
    }
}

/// If there is only one place, the second command waits and names the first.
#[cfg(unix)]
#[test]
fn what_cannot_be_had_twice_is_waited_for() {
    use std::process::Stdio;

    let fake = fake::Fake::new("twice");
    fake.toolchain(
        "",
        r#"
        [ "$2" = --version ] && exit
        touch $here/started
        until [ -e $here/go ]; do sleep 0.01; done
        "#,
    );
    fake.program("sysroot/lib/rustlib/host/bin/llvm-objcopy", "");
    let start = || {
        let mut xtask = fake.xtask(&["coverage"]);
        let child = xtask.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        child.expect("it runs")
    };
    let first = start();
    wait_for(&fake.dir.join("started"));
    let mut second = start();
    let mut line = String::new();
    let mut words = BufReader::new(second.stderr.take().expect("a pipe"));
    words.read_line(&mut line).expect("it says something");
    let expected = format!("waiting for another `cargo xtask coverage` (pid {})", first.id());
    assert!(line.starts_with(&expected), "{line}");
    std::fs::write(fake.dir.join("go"), "").expect("a file");
    for child in [first, second] {
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(0));
    }
}

/// Options that everybody knows from `cargo test`: names to skip, colours, reports, the console.
#[cfg(unix)]
#[test]
fn the_tests_take_the_usual_options() {
    let fake = fake::Fake::new("usual");
    fake.toolchain("a::b\nb::b\nb::bb\nc::d|qemu=-fail\n", "exit 1");
    let result = "tryst-test 1\\nok %s\\nend passed=1 failed=0 skipped=0\\n";
    fake.qemu(&format!(
        "start; echo hello; test=${{append#test=}}\n\
         printf '{result}' \"${{test%% *}}\" >\"$results\"\n\
         grep -q fail $here/args && exit 35; exit 33"
    ));
    let run = |words: &[&str]| {
        let mut xtask = fake.xtask(&[&["test", "--jobs=1"], words].concat());
        told(xtask.env("NO_COLOR", "1").output().expect("it runs"))
    };
    for (words, counts) in [
        (&["--skip", "c::"][..], "3 passed; 0 failed"),
        (&["--skip=bb", "--skip", "a::", "b"], "1 passed; 0 failed;"),
        (&["--exact", "--skip=b::b", "b::b", "a::b"], "1 passed; 0 failed;"),
        (&["-j2", "c"], "0 passed; 1 failed;"),
    ] {
        let (_, text) = run(words);
        assert!(text.contains(counts), "{words:?}: {text}");
        assert!(!text.contains('\x1b') && !text.contains("\nhello\n"), "{text}");
    }
    let (code, text) = run(&["--skip=:"]);
    assert!(code == Some(2) && text.contains("all tests are skipped"), "{text}");
    for option in ["--nocapture", "--no-capture"] {
        let (code, text) = run(&[option, "a", "--color", "always"]);
        assert_eq!(code, Some(0));
        assert!(text.contains("\nhello\n") && text.contains("\x1b[32mok\x1b[0m"), "{text}");
    }
    // Folders of reports are made; and what is there is there before the first boot.
    let (code, text) = run(&["c", "--junit", "new/a/r.xml", "--json=new/b/r.json"]);
    assert_eq!(code, Some(1), "{text}");
    let report = |name: &str| std::fs::read_to_string(fake.dir.join("new").join(name));
    assert!(report("a/r.xml").expect("it is there").contains("<failure"));
    assert!(report("b/r.json").expect("it is there").contains("\"failed\": 1"));
}

/// Ctrl-C ends the boots, and the terminal, the reports and the exit code tell what is known.
#[cfg(unix)]
#[test]
fn an_interrupted_run_tells_what_it_knows() {
    use std::process::Stdio;

    for (signal, exit) in [("INT", 130), ("TERM", 143)] {
        let fake = fake::Fake::new(&format!("interrupted_{signal}"));
        fake.toolchain("a::b\nb::b\nc::d\n", "exit 1");
        // The first one ends, the second one does not.
        let guest = WAITING_GUEST.replace("started", "${append:5:1}");
        fake.qemu(&format!("{guest}\n").replace("until", "[ ${append:5:1} = a ] || until"));
        let mut xtask = fake.xtask(&["test", "-j1", "--json", "r.json", "--junit", "r.xml"]);
        let child = xtask.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let child = child.expect("it runs");
        wait_for(&fake.dir.join("b"));
        let kill = format!("kill -s {signal} {}", child.id());
        let status = Command::new("sh").args(["-c", &kill]).status();
        assert!(status.expect("sh runs").success());
        let (code, text) = told(child.wait_with_output().expect("it ends"));
        assert_eq!(code, Some(exit), "{text}");
        for line in [
            "test a::b (smp 4) ... ok (",
            "test b::b (smp 4) ... interrupted\n",
            "test result: interrupted. 1 passed; 0 failed; 0 ignored; 2 not run;",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!fake.dir.join("c").exists());
        let report = |name: &str| std::fs::read_to_string(fake.dir.join(name));
        let json = report("r.json").expect("it is there");
        assert!(json.contains("\"not_run\": 2") && json.contains("\"passed\": 1"));
        assert!(report("r.xml").expect("it is there").contains("tests=\"1\""));
    }
}

/// A KVM on which QEMU aborts, unless the CPU lacks a register, as QEMU 7.2.22 does on a nested
/// KVM; and arguments that no QEMU takes.
#[cfg(unix)]
const ABORTS_ON_KVM: &str = r#"
said() { echo "qemu-system-x86_64: $1" >&2; }
has() { grep -zq -e "$1" $here/args; }
has ^-frob && { said "-frob: invalid option"; exit 1; }
has ^xyz && { said "-accel xyz: invalid accelerator xyz"; exit 1; }
if has ^kvm && ! has arch-capabilities; then
    said "-accel kvm: warning: Number of SMP cpus requested (4) exceeds (2)"
    said "error: failed to set MSR 0x10a to 0x69"
    ulimit -c 0
    kill -ABRT $$
fi
start
test=${append#test=}
printf 'tryst-test 1\nok %s\nend passed=1 failed=0 skipped=0\n' "${test%% *}" >"$results"
exit 33
"#;

/// The accelerator works here, or a message says what to add. If QEMU refuses its arguments, that
/// is a wrong command line, before the first boot.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[test]
fn an_accelerator_is_tried_and_a_refusal_is_told() {
    const MSR: &str = "KVM does not work here: failed to set MSR 0x10a to 0x69";
    const ADD: &str = "add -- -cpu max,-arch-capabilities";
    let cpu = &["--", "-cpu", "max,-arch-capabilities"];
    for command in ["run", "test"] {
        let fake = fake::Fake::new(&format!("accel_{command}"));
        fake.toolchain("a::b\n", "exit 1");
        fake.qemu(ABORTS_ON_KVM);
        let run = |words: &[&str]| {
            let words = [&[command], words].concat();
            let (code, text) = told(fake.xtask(&words).output().expect("it runs"));
            let args = fake.qemu_args().join(&b' ');
            (code, text, String::from_utf8_lossy(&args).into_owned())
        };
        let (code, text, args) = run(&["--accel", "auto"]);
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains(MSR) && text.contains("; going on with tcg"), "{text}");
        assert!(text.contains(ADD) && args.contains("-accel tcg"), "{text} {args}");
        for words in [&["--accel", "auto"], &["--accel", "kvm"]] {
            let (code, text, args) = run(&[&words[..], cpu].concat());
            assert_eq!(code, Some(0), "{text}");
            assert!(args.contains("-accel kvm") && !text.contains("not work"), "{args}");
        }
        let (code, text, _) = run(&["--accel", "kvm"]);
        assert_eq!(code, Some(3), "{text}");
        assert!(text.contains(MSR) && text.contains(&format!("next: {ADD}; or")), "{text}");
        for (words, said) in [
            (&["--", "-frob"][..], "-frob: invalid option"),
            (&["--accel", "auto", "--", "-frob"], "-frob: invalid option"),
            (&["--accel=xyz"], "-accel xyz: invalid accelerator xyz"),
        ] {
            let (code, text, _) = run(words);
            assert_eq!(code, Some(2), "{text}");
            assert!(text.contains(said) && !text.contains("a::b"), "{text}");
        }
        // By QEMU's own option it is the boot that fails; what helps is told all the same.
        let (code, text, _) = run(&["--", "-accel", "kvm"]);
        assert!(code != Some(0) && text.contains(&format!("next: {ADD}")), "{text}");
    }
}

/// As root on a system that it knows, xtask installs all that the boots need, and only that. One
/// failed installation does not stop the others; without the right to install, it says what to
/// type.
#[cfg(unix)]
#[test]
fn the_parts_of_images_are_installed_as_qemu_is() {
    const RUSTUP: &str = r#"
        echo "$*" >>${0%/*}/rustup.log
        [ -e ${0%/*}/broken ] && { echo "rustup: no network" >&2; exit 1; }
        lib=${0%/*}/sysroot/lib/rustlib
        case $3 in
            rust-src) mkdir -p $lib/src/rust/library/core ;;
            llvm-tools) touch $lib/host/bin/llvm-objcopy ;;
        esac
    "#;
    const BIOS: &str = "rust-src is missing; installing it by: rustup component add rust-src";
    const BY_HAND: &str = "rustup component add rust-src llvm-tools";
    for (id, broken, words, code, said, log) in [
        (0, false, &["test"][..], 0, &[BIOS, "3 passed;"][..], "rust-src llvm-tools"),
        (0, true, &["test"], 0, &["no network", "1 passed;", BY_HAND], "rust-src llvm-tools"),
        (1000, false, &["test"], 0, &["1 passed;", BY_HAND], ""),
        (0, false, &["test", "a::"], 0, &["1 passed;"], ""),
        (0, false, &["test", "u::"], 0, &["1 passed;"], "rust-src"),
        (0, false, &["run", "--boot=bios"], 0, &[BIOS], "rust-src llvm-tools"),
        (1000, false, &["run", "--boot=bios"], 3, &[BY_HAND], ""),
        (0, false, &["image", "--uefi"], 0, &[BIOS, "tryst-uefi.img"], "rust-src"),
        (0, true, &["image", "--uefi"], 3, &["no network"], "rust-src"),
    ] {
        let fake = fake::Fake::new("parts");
        fake.toolchain("a::pvh\nb::bios|boot=bios\nu::uefi|boot=uefi\n", "exit 1");
        // Which test it is stands in the image: all may pass as any.
        fake.qemu(
            r#"
            start
            for test in a::pvh b::bios u::uefi; do
                printf 'tryst-test 1\nok %s\nend passed=1 failed=0 skipped=0\n' $test
            done >"$results"
            exit 33"#,
        );
        fake.program("rustup", RUSTUP);
        fake.program("id", &format!("echo {id}"));
        fake.program("apt-get", "echo no network >&2; exit 1");
        let firmware = fake.dir.join("OVMF_CODE.fd");
        std::fs::write(&firmware, "").expect("a file");
        std::fs::write(fake.dir.join("OVMF_VARS.fd"), "").expect("a file");
        if broken {
            std::fs::write(fake.dir.join("broken"), "").expect("a file");
        }
        let mut xtask = fake.xtask(words);
        let (exit, text) = told(xtask.env("OVMF_CODE", firmware).output().expect("it runs"));
        assert_eq!(exit, Some(code), "{words:?}: {text}");
        for said in said {
            assert!(text.contains(said), "{words:?}: {said}: {text}");
        }
        let asked = std::fs::read_to_string(fake.dir.join("rustup.log")).unwrap_or_default();
        let asked: Vec<_> = asked.lines().map(|line| line.replace("component add ", "")).collect();
        assert_eq!(asked.join(" "), log, "{words:?}: {text}");
    }
}

/// A missing requirement has an exit code of its own; for what one command needs, the message says
/// how to get it.
#[cfg(unix)]
#[test]
fn the_doctor_tells_what_is_required_from_what_is_not() {
    let fake = fake::Fake::new("doctor");
    fake.toolchain("", "exit 1");
    fake.qemu("start; exit 33");
    fake.program("rustup", "exit 1");
    let line = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.unwrap_or_else(|| panic!("{name}: {text}")).to_string()
    };
    let (code, text) = told(fake.xtask(&["doctor"]).output().expect("it runs"));
    assert_eq!(code, Some(0), "{text}");
    assert!(line(&text, "QEMU ").contains(" ok "), "{text}");
    let source = line(&text, "rust-src ");
    assert!(source.contains(" missing  for making BIOS and UEFI images: "), "{text}");
    assert!(source.ends_with("rustup component add rust-src"), "{text}");
    let nothing = fake.dir.join("nothing");
    let (code, text) =
        told(fake.xtask(&["doctor"]).env("QEMU", nothing).output().expect("it runs"));
    assert_eq!(code, Some(3), "{text}");
    assert!(line(&text, "QEMU ").contains(" MISSING "), "{text}");
}
