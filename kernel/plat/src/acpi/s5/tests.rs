use super::sleep_types;
use std::vec::Vec;

const HEADER: [u8; 36] = [0; 36];

fn dsdt(aml: &[u8]) -> Vec<u8> {
    [&HEADER, aml].concat()
}

/// `Name (_S5_, Package () {5, 5, 0, 0})`.
const S5: &[u8] = b"\x08_S5_\x12\x08\x04\x0a\x05\x0a\x05\x00\x00";

#[test]
fn those_of_qemus_machines_are_found() {
    // As captured: q35 and pc have 0, microvm has 5.
    let read = |name: &str| {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/dsdt-");
        std::fs::read(format!("{dir}{name}.bin")).expect("it is in the repository")
    };
    assert_eq!(sleep_types(&read("q35")), Some([0, 0]));
    assert_eq!(sleep_types(&read("pc")), Some([0, 0]));
    assert_eq!(sleep_types(&read("microvm")), Some([5, 0]));
    // Cut anywhere, it has both or none.
    for name in ["q35", "pc", "microvm"] {
        let whole = read(name);
        let types = sleep_types(&whole);
        for end in 0..whole.len() {
            let found = sleep_types(&whole[..end]);
            assert!(found.is_none() || found == types, "{name} cut at {end}");
        }
    }
}

#[test]
fn every_way_to_write_them_is_understood() {
    for (aml, types) in [
        (S5, [5, 5]),
        (b"\x08\\_S5_\x12\x08\x04\x0a\x05\x0a\x05\x00\x00", [5, 5]),
        (b"\x08_S5_\x12\x06\x04\x00\x01\x00\x00", [0, 1]),
        (b"\x08_S5_\x12\x07\x02\x0b\x07\x00\x0a\x03", [7, 3]),
        (b"\x08_S5_\x12\x08\x02\x0c\x07\x00\x00\x00\x01", [7, 1]),
        (b"\x08_S5_\x12\x05\x01\x0b\x05\x06", [5, 6]),
        (b"\x08_S5_\x12\x48\x00\x02\x0a\x02\x0a\x03\x00", [2, 3]),
        // An external declaration of the name, and a use of it, come before.
        (
            b"_S5_\x00_S5_\x12\x06\x04\x01\x01\x00\x00\x08_S5_\x12\x06\x04\x00\x00\x00\x00",
            [0, 0],
        ),
    ] {
        assert_eq!(sleep_types(&dsdt(aml)), Some(types), "{aml:x?}");
    }
}

#[test]
fn what_is_no_such_package_is_passed_over() {
    let wrong: [&[u8]; 10] = [
        b"",
        b"_S5_\x12\x06\x04\x00\x00\x00\x00",
        b"\x08_S4_\x12\x06\x04\x00\x00\x00\x00",
        b"\x08_S5_\x11\x06\x04\x00\x00\x00\x00",
        b"\x08_S5_\x12\x06\x00\x00\x00\x00\x00",
        b"\x08_S5_\x12\x3f\x04\x00\x00\x00\x00",
        b"\x08_S5_\x12\xc6\xff\xff\xff\x04\x00\x00",
        b"\x08_S5_\x12\x06\x04\x0a\x08\x00\x00",
        b"\x08_S5_\x12\x02\x04\x00\x00\x00\x00",
        b"\x08_S5_\x12\x04\x02Zx\x00",
    ];
    for aml in wrong {
        assert_eq!(sleep_types(&dsdt(aml)), None, "{aml:x?}");
    }
}
