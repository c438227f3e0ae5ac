use super::*;

#[test]
fn versions_compare_by_number() {
    assert!(major_minor("10.0.2") > Some(TESTED));
    assert!(major_minor("4.1.50") < Some(OLDEST));
    assert_eq!(major_minor("7.2.22"), Some(TESTED));
    assert_eq!(major_minor("9.0-rc1"), Some((9, 0)));
    assert_eq!(major_minor("9"), Some((9, 0)));
    for none in ["", "v10.0", "x", "9.x"] {
        assert_eq!(major_minor(none), None, "{none}");
    }
}

/// As QEMU 7.2.22 says it on a nested KVM.
const ABORT: &str = "\
qemu-system-x86_64: -accel kvm: warning: Number of SMP cpus requested (4) exceeds (2)
qemu-system-x86_64: error: failed to set MSR 0x10a to 0x69
qemu-system-x86_64: ../../target/i386/kvm/kvm.c:3183: kvm_buf_set_msrs: Assertion failed.";

#[test]
fn the_reason_is_the_line_that_is_no_warning() {
    assert_eq!(reason(ABORT), "failed to set MSR 0x10a to 0x69");
    assert_eq!(advice(ABORT), Some("add -- -cpu max,-arch-capabilities"));
    let refused = "/usr/bin/qemu-system-x86_64: -frob: invalid option\n";
    assert_eq!(reason(refused), "-frob: invalid option");
    let denied = "Could not access KVM kernel module: Permission denied\n\
                  qemu-system-x86_64: -accel kvm: failed to initialize kvm";
    assert_eq!(reason(denied), denied.lines().next().expect("a line"));
    assert!(advice(denied).is_some_and(|help| help.contains("group")));
    assert_eq!(reason(""), "QEMU said nothing");
    assert_eq!(advice(refused), None);
}
