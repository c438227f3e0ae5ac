//! `bug=NAME[,NAME]`: mistakes brought back on purpose, in the test image only.
//!
//! Here: what broken firmware does. [`damage_table`] is between physical memory
//! and the parsers, and hands them a damaged copy of a table.

use alloc::boxed::Box;
use alloc::vec::Vec;

/// Every bug there is, and what it does.
pub const BUGS: [(&str, &str); 8] = [
    ("acpi-rsdp-checksum", "the root pointer's checksum is wrong"),
    (
        "acpi-root-checksum",
        "the RSDT's or XSDT's checksum is wrong",
    ),
    ("acpi-madt-missing", "the root table lists no MADT"),
    ("acpi-madt-checksum", "the MADT's checksum is wrong"),
    (
        "acpi-madt-zero-length",
        "the MADT's first entry has length 0",
    ),
    (
        "acpi-madt-truncated",
        "the MADT ends in the middle of its last entry",
    ),
    (
        "acpi-madt-duplicate",
        "the MADT's second CPU has the first one's APIC id",
    ),
    (
        "acpi-madt-silent-cpu",
        "the MADT's last CPU has an APIC id that nothing answers to",
    ),
];

/// Whether the command line asks for the bug `name`, which must be in [`BUGS`].
#[must_use]
pub fn active(name: &str) -> bool {
    debug_assert!(
        BUGS.iter().any(|(bug, _)| *bug == name),
        "{name} is not in BUGS"
    );
    super::command_line()
        .bug
        .is_some_and(|bugs| bugs.split(',').any(|bug| bug == name))
}

/// Warns of names in `bug=` that are not in [`BUGS`].
pub fn report_unknown() {
    for bug in super::command_line()
        .bug
        .unwrap_or("")
        .split(',')
        .filter(|bug| !bug.is_empty())
    {
        match BUGS.iter().find(|(name, _)| *name == bug) {
            Some((name, text)) => log::warn!("bug={name}: {text}"),
            None => log::warn!("bug={bug}: there is no such bug"),
        }
    }
}

/// Where a MADT's entries start.
const MADT_ENTRIES: usize = 44;

/// `bytes` of physical memory as they are or, if a bug says so, a damaged copy.
#[must_use]
pub fn damage_table(bytes: &'static [u8]) -> &'static [u8] {
    let damage: fn(&mut [u8]) = match bytes {
        [b'R', b'S', b'D', b' ', ..] if active("acpi-rsdp-checksum") => |table| table[8] ^= 1,
        [b'R' | b'X', b'S', b'D', b'T', ..] if active("acpi-root-checksum") => {
            |table| table[9] ^= 1
        }
        [b'A', b'P', b'I', b'C', ..] if active("acpi-madt-missing") => |table| table[0] = b'Z',
        [b'A', b'P', b'I', b'C', ..] if active("acpi-madt-checksum") => |table| table[9] ^= 1,
        [b'A', b'P', b'I', b'C', ..] if active("acpi-madt-truncated") => |table| {
            table[4] -= 3;
            seal(table);
        },
        [b'A', b'P', b'I', b'C', ..] if bytes.len() > MADT_ENTRIES => {
            if active("acpi-madt-zero-length") {
                |table| {
                    table[MADT_ENTRIES + 1] = 0;
                    seal(table);
                }
            } else if active("acpi-madt-duplicate") {
                |table| {
                    table[MADT_ENTRIES + 8 + 3] = table[MADT_ENTRIES + 3];
                    seal(table);
                }
            } else if active("acpi-madt-silent-cpu") {
                |table| {
                    let last = (MADT_ENTRIES..table.len())
                        .step_by(8)
                        .take_while(|&entry| table[entry] == 0)
                        .last();
                    table[last.expect("a MADT lists a CPU") + 3] = 63;
                    seal(table);
                }
            } else {
                return bytes;
            }
        }
        _ => return bytes,
    };
    let mut copy = Vec::from(bytes);
    damage(&mut copy);
    Box::leak(copy.into_boxed_slice())
}

/// Makes the checksum right again.
fn seal(table: &mut [u8]) {
    table[9] = 0;
    let sum = table.iter().fold(0_u8, |sum, &byte| sum.wrapping_add(byte));
    table[9] = 0_u8.wrapping_sub(sum);
}
