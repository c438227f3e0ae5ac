use super::{Leaf, by_cpuid};

/// A CPU with these leaves. Above the highest it answers as for `highest`, like Intel's and QEMU's.
fn id(highest: u32, leaves: &[(u32, Leaf)]) -> u32 {
    by_cpuid(|asked| {
        if asked == 0 {
            return Leaf {
                eax: highest,
                ..Leaf::default()
            };
        }
        let leaf = asked.min(highest);
        let found = leaves.iter().find(|(number, _)| *number == leaf);
        found.map_or_else(Leaf::default, |(_, leaf)| *leaf)
    })
}

fn topology(ebx: u32, id: u32) -> Leaf {
    Leaf {
        ebx,
        edx: id,
        ..Leaf::default()
    }
}

fn leaf_1(ebx: u32) -> (u32, Leaf) {
    (
        1,
        Leaf {
            ebx,
            ..Leaf::default()
        },
    )
}

#[test]
fn the_topology_leaf_is_right_where_leaf_1_lies() {
    // QEMU 10.0.2, -smp 256: the boot CPU.
    let lie = leaf_1(0x0100_0800);
    assert_eq!(id(0xd, &[lie, (0xb, topology(1, 0))]), 0);
    // The last one.
    assert_eq!(
        id(0xd, &[leaf_1(0xff00_0800), (0xb, topology(1, 255))]),
        255
    );
    // Ids that do not fit 8 bits.
    assert_eq!(
        id(0xd, &[leaf_1(0x0100_0800), (0xb, topology(2, 257))]),
        257
    );
}

#[test]
fn leaf_1f_comes_before_leaf_b() {
    let both = [(0xb, topology(1, 7)), (0x1f, topology(1, 9)), leaf_1(0)];
    assert_eq!(id(0x1f, &both), 9);
    // Leaf 0x1f is above the highest, and would answer as that does.
    assert_eq!(id(0x1e, &both), 7);
}

#[test]
fn what_is_empty_or_missing_is_passed_over() {
    let one = leaf_1(0x0500_0800);
    assert_eq!(
        id(0x1f, &[one, (0x1f, topology(0, 9)), (0xb, topology(1, 7))]),
        7
    );
    assert_eq!(
        id(0x1f, &[one, (0x1f, topology(0, 9)), (0xb, topology(0, 7))]),
        5
    );
    // The other half of EBX is reserved.
    assert_eq!(id(0xb, &[one, (0xb, topology(0x1_0000, 7))]), 5);
    // Below leaf 0xb the answers are those of the highest leaf, here with EBX not 0.
    assert_eq!(id(4, &[one, (4, topology(0x1c0_003f, 0))]), 5);
    assert_eq!(id(1, &[one]), 5);
}
