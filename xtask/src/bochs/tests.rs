use super::*;

/// As Bochs 2.7 writes it, shortened.
const TRIPLE_FAULT: &str = "\
00000000000e[IMG   ] something else
00087868610e[CPU0  ] interrupt(long mode): vector must be within IDT table limits, IDT.limit = 0x0
00087868610i[CPU0  ] CPU is in long mode (active)
00087868610i[CPU0  ] | RIP=ffffffff80284f52 (ffffffff80284f52)
00087868610p[CPU0  ] >>PANIC<< exception(): 3rd (13) exception with no resolution
";

#[test]
fn a_crash_is_told_with_what_led_to_it() {
    assert_eq!(
        complaints(TRIPLE_FAULT),
        [
            "cpu0: exception(): 3rd (13) exception with no resolution",
            "cpu0: interrupt(long mode): vector must be within IDT table limits, IDT.limit = 0x0",
        ]
    );
    assert!(complaints("00000000000e[IMG   ] something else\n").is_empty());
    assert_eq!(complaints("torn >>PANIC<<"), ["torn >>PANIC<<"]);
}

#[test]
fn the_cpus_are_found_by_their_registers() {
    let symbols = Symbols::none();
    assert_eq!(
        cpus(TRIPLE_FAULT, &symbols),
        ["cpu0: rip 0xffffffff80284f52"]
    );
}

fn test(qemu: &str, boot: BootPath) -> Test {
    Test {
        qemu: qemu.split_whitespace().map(OsString::from).collect(),
        boot,
        ..Test::named("a::b")
    }
}

#[test]
fn what_bochs_does_not_have_is_named() {
    let of = |qemu| memory(&test(qemu, BootPath::Pvh));
    assert_eq!(of(""), Ok(None));
    assert_eq!(of("-smp 8 -m 64"), Ok(Some(64)));
    assert_eq!(of("-cpu max,+monitor -m 512"), Ok(Some(512)));
    assert_eq!(of("-cpu max"), Ok(None));
    assert_eq!(of("-device isa-debug-exit,iobase=0x500"), Ok(None));
    for lacking in [
        "-smp 6,sockets=2,cores=3",
        "-smp 16",
        "-m 3072",
        "-cpu qemu64",
        "-cpu max,-x2apic",
        "-cpu maximum",
        "-device pvpanic",
        "-accel tcg,thread=multi",
    ] {
        let reason = format!("does not apply to Bochs: needs QEMU's {lacking}");
        assert_eq!(of(lacking), Err(reason));
    }
    assert!(of("-smp 2 -nographic").is_err());
    let monitor = Test {
        needs_qemu: true,
        ..test("", BootPath::Pvh)
    };
    assert!(memory(&monitor).is_err());
    let uefi = memory(&test("", BootPath::Uefi));
    assert_eq!(uefi, Err("does not apply to Bochs: boots by UEFI".into()));
}

#[test]
fn the_machine_is_described() {
    let machine = Machine {
        smp: 3,
        mem: 64,
        accel: String::new(),
        medium: Medium::Disk {
            image: "i".into(),
            firmware: None,
        },
        extra: Vec::new(),
    };
    let text = configuration(&machine);
    assert!(text.contains("\nmegs: 64\n"), "{text}");
    assert!(text.contains(", count=3, "), "{text}");
}
