//! A CPU's APIC id, read from CPUID.
//!
//! Leaf 1 has only 8 bits for it, and above 255 CPUs they may be wrong. QEMU 10 writes the low byte
//! of the package's CPU count beside the id, and with 256 CPUs the overflow gives the boot CPU the
//! id 1. The topology leaves have all 32 bits. Whatever CPUID says, interrupts are sent to the id
//! in the local APIC's own register.
//!
//! Source: SDM vol. 3, 10.9 (the topology leaves), vol. 2, CPUID.

#![forbid(unsafe_code)]

/// The answer of a CPUID leaf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaf {
    /// In leaf 0: the highest leaf.
    pub eax: u32,
    /// In a topology leaf: the CPUs of this level, in the low half. In leaf 1: an APIC id in the
    /// top byte.
    pub ebx: u32,
    /// In a topology leaf: the APIC id.
    pub edx: u32,
}

/// The topology leaves, the preferred one first.
const TOPOLOGY: [u32; 2] = [0x1f, 0xb];

/// Returns the APIC id of the CPU whose leaves `cpuid` reads (subleaf 0).
///
/// It reads no leaf above the highest: CPUs answer with another leaf's data there. A topology leaf
/// without CPUs at its first level is empty.
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
mod tests;
