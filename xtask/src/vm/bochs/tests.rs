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
    assert_eq!(cpus(TRIPLE_FAULT, &symbols), ["cpu0: rip 0xffffffff80284f52"]);
}

#[test]
fn the_machine_is_described() {
    let machine = Machine {
        smp: 3,
        mem: 64,
        accel: String::new(),
        medium: Medium::Disk { image: "i".into(), firmware: None },
        extra: Vec::new(),
    };
    let text = configuration(&machine);
    assert!(text.contains("\nmegs: 64\n"), "{text}");
    assert!(text.contains(", count=3, "), "{text}");
}
