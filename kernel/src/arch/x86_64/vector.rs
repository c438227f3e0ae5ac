//! Every interrupt vector, and when it is acknowledged.
//!
//! | vector | what | end of interrupt |
//! |---|---|---|
//! | 0-31 | exceptions, NMI (2), machine check (18) | none: not the local APIC's |
//! | 0x20-0x2f | the legacy PICs, masked: only their spurious ones | none, unless firmware left one in service |
//! | 0x30-0x47 | I/O APIC inputs 0-23 | before the handler |
//! | 0xe0 | the test image's own | before the handler |
//! | 0xef | local APIC timer | before the handler |
//! | 0xf2 | the IPIs that share a vector (`pcpu::Ipi`) | before the handler |
//! | 0xf3 | rendezvous | after the handler |
//! | 0xf4 | stop | before the handler, which may last |
//! | 0xfe | local APIC error | before the panic |
//! | 0xff | spurious | none (SDM vol. 3, 11.9) |
//! | others | nothing: a panic, or left by firmware until a CPU is online | none, or at once |
//!
//! The rendezvous keeps FreeBSD's order, action first: until its last counter a CPU uses the
//! initiator's stack, and a second rendezvous must not nest on it.

/// The first vector that is not the CPU's own.
pub const FIRST_EXTERNAL: u8 = 32;
/// Where the legacy PICs are moved before they are masked.
pub const PIC_BASE: u8 = 0x20;
/// The last vector of the two PICs.
pub const PIC_LAST: u8 = PIC_BASE + 15;
/// The first vector of the I/O APIC inputs.
pub const IO_APIC_BASE: u8 = 0x30;
/// The last one.
pub const IO_APIC_LAST: u8 = IO_APIC_BASE + 23;
/// For tests that need an interrupt of their own.
pub const TEST: u8 = 0xe0;
/// The local APIC timer.
pub const TIMER: u8 = 0xef;
/// The IPIs that share a vector; a word of the per-CPU block says which they are.
pub const IPI: u8 = 0xf2;
/// The rendezvous IPI. Its class is 15; only stops and errors are above it.
pub const RENDEZVOUS: u8 = 0xf3;
/// Stops a CPU until it is let go.
pub const STOP: u8 = 0xf4;
/// The local APIC's error interrupt.
pub const APIC_ERROR: u8 = 0xfe;
/// The spurious vector; its low four bits are ones, as old APICs demand.
pub const SPURIOUS: u8 = 0xff;

/// Exception 1: a step under the trap flag.
pub const DEBUG: u8 = 1;
/// Exception 2: not maskable; sent on purpose to stop CPUs, or from outside.
pub const NMI: u8 = 2;
/// Exception 8: a fault while delivering a fault.
pub const DOUBLE_FAULT: u8 = 8;
/// Exception 14.
pub const PAGE_FAULT: u8 = 14;
/// Exception 18.
pub const MACHINE_CHECK: u8 = 18;

/// The name of an exception, as in the SDM (vol. 3, table 6-1).
#[must_use]
pub fn exception_name(vector: u8) -> &'static str {
    const NAMES: [&str; 22] = [
        "#DE divide error",
        "#DB debug",
        "NMI",
        "#BP breakpoint",
        "#OF overflow",
        "#BR bound range",
        "#UD invalid opcode",
        "#NM no FPU",
        "#DF double fault",
        "coprocessor overrun",
        "#TS invalid TSS",
        "#NP segment not present",
        "#SS stack fault",
        "#GP general protection",
        "#PF page fault",
        "reserved",
        "#MF FPU error",
        "#AC alignment check",
        "#MC machine check",
        "#XM SIMD error",
        "#VE virtualization",
        "#CP control protection",
    ];
    NAMES
        .get(usize::from(vector))
        .copied()
        .unwrap_or("reserved exception")
}
