use super::*;

#[test]
fn the_two_forms_of_line_are_found() {
    assert_eq!(address("  #0 0xffffffff80201311"), Some(0xffff_ffff_8020_1311));
    assert_eq!(address("  #1 0xffffffff8020aa00"), Some(0xffff_ffff_8020_a9ff));
    let record = "[    0.551729][cpu0][ERROR] smp:   #0 0xffffffff80201311";
    assert_eq!(address(record), Some(0xffff_ffff_8020_1311));
    assert_eq!(address("cpu2: rip 0x10 rsp 0x20"), Some(0x10));
    assert_eq!(address("cpu0: stopped by NMI: rip 0x30"), Some(0x30));
    for other in ["  # 0x10", "#1 x", "#1 0x0", "a trip 0x10", "cpu3: did not answer the NMI"] {
        assert_eq!(address(other), None, "{other}");
    }
}

#[test]
fn escape_sequences_and_carriage_returns_are_taken_out() {
    let mut lines = Lines::default();
    let mut seen = Vec::new();
    lines.push(b"\x1b[2J\x1b[01;01Hone\r\ntw", |line| {
        seen.push(line.to_string());
    });
    lines.push(b"o\n\x1b=three", |line| seen.push(line.to_string()));
    assert_eq!(seen, ["one", "two"]);
    assert_eq!(lines.finish().as_deref(), Some("three"));
    assert_eq!(lines.finish(), None);
}
