//! A CPU's APIC id as CPUID tells it.
//!
//! Leaf 1 has 8 bits for it, and above 255 CPUs not even these are right: QEMU 10 writes the
//! number of CPUs in the package, of 256 the low byte, beside the id, and what does not fit
//! gives the boot CPU the id 1. The topology leaves have all 32 bits. Whatever CPUID says, the
//! id by which interrupts are sent is that in the local APIC's own register.
//!
//! Source: SDM vol. 3, 10.9 (the topology leaves), vol. 2, CPUID.

#![forbid(unsafe_code)]

/// What a leaf of CPUID answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaf {
    /// In leaf 0 the highest leaf there is.
    pub eax: u32,
    /// In a topology leaf the CPUs of this level in the low half, in leaf 1 an APIC id on top.
    pub ebx: u32,
    /// In a topology leaf the APIC id.
    pub edx: u32,
}

/// The topology leaves, the one to be preferred first.
const TOPOLOGY: [u32; 2] = [0x1f, 0xb];

/// The APIC id of the CPU that `cpuid` asks, by subleaf 0 of each leaf.
///
/// A leaf above the highest is not asked: CPUs answer with another one's data there. A
/// topology leaf that has no CPUs at its first level is empty.
pub fn by_cpuid(cpuid: impl Fn(u32) -> Leaf) -> u32 {
    let highest = cpuid(0).eax;
    TOPOLOGY
        .into_iter()
        .filter(|&leaf| leaf <= highest)
        .map(&cpuid)
        .find(|level| level.ebx & 0xffff != 0)
        .map_or_else(|| cpuid(1).ebx >> 24, |level| level.edx)
}

#[cfg(test)]
mod tests {
    use super::{Leaf, by_cpuid};

    /// A CPU with these leaves, which above the highest answers as for `highest`, as Intel's
    /// and QEMU's do.
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
        // Ids that 8 bits do not hold.
        assert_eq!(
            id(0xd, &[leaf_1(0x0100_0800), (0xb, topology(2, 257))]),
            257
        );
    }

    #[test]
    fn leaf_1f_comes_before_leaf_b() {
        let both = [(0xb, topology(1, 7)), (0x1f, topology(1, 9)), leaf_1(0)];
        assert_eq!(id(0x1f, &both), 9);
        // It is above the highest, and would answer as that does.
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
}
