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
mod tests;
