//! This CPU: its interrupt flag, its features, its clock, its GS base.

use core::arch::asm;
use core::arch::x86_64::{__cpuid_count, _mm_lfence, _rdtsc, CpuidResult};

use heart::shim::spin_loop;
use heart::shim::trace::Event;
use heart::trace_point;
use plat::apic_id::Leaf;
use raw_cpuid::CpuId;
use x86_64::VirtAddr;
use x86_64::instructions::interrupts;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr2, Cr3, Cr4, Cr4Flags};
use x86_64::registers::model_specific::{Efer, EferFlags, GsBase};

use crate::arch::tlb;

/// The optional protections that this CPU has and [`protect`] turns on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protections {
    /// Supervisor-mode execution prevention: the kernel cannot run user pages.
    pub smep: bool,
    /// Supervisor-mode access prevention: the kernel cannot touch user pages outside STAC..CLAC.
    pub smap: bool,
    /// User-mode instruction prevention: SGDT and the like fault in user mode.
    pub umip: bool,
}

/// Sets the control registers with which every CPU runs: no-execute, and write protection for the
/// kernel too. In CR4 it sets exactly physical address extension (the paging of long mode), global
/// pages, machine checks, and those of SMEP, SMAP, UMIP and PCID that CPUID offers (SDM vol. 3,
/// 2.5, 4.6 and 4.10.1). Whatever else a loader may have left in CR4 is for units that the kernel
/// does not use (SSE, XSAVE, FSGSBASE, VMX) or does not expect (protection keys).
///
/// Call once on each CPU, interrupts off, with four-level page tables whose no-execute bits are
/// intended.
pub fn protect() -> Protections {
    let protections = protections_offered();
    // SAFETY: NXE gives bit 63 of a page-table entry its meaning; the tables in use set it only
    // where that is intended.
    unsafe { Efer::update(|flags| flags.insert(EferFlags::NO_EXECUTE_ENABLE)) };
    // SAFETY: all kernel data is mapped writable; caching stays on.
    unsafe { Cr0::update(|flags| flags.insert(Cr0Flags::WRITE_PROTECT)) };
    let mut wanted = Cr4Flags::PHYSICAL_ADDRESS_EXTENSION
        | Cr4Flags::PAGE_GLOBAL
        | Cr4Flags::MACHINE_CHECK_EXCEPTION;
    wanted.set(
        Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION,
        protections.smep,
    );
    wanted.set(
        Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION,
        protections.smap,
    );
    wanted.set(Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION, protections.umip);
    if has_pcid() {
        wanted.insert(Cr4Flags::PCID);
        tlb::tags_are_on();
    }
    // SAFETY: each bit was found in CPUID (PAE, PGE and MCE are part of every x86_64), the paging
    // mode stays, and the low bits of CR3, from now on the tag, are 0. No page of the kernel is a
    // user page, so SMEP and SMAP forbid nothing that it does, and it uses nothing of what is
    // turned off.
    unsafe { Cr4::write_raw(wanted.bits()) };
    protections
}

/// The protections that CPUID offers.
#[must_use]
pub fn protections_offered() -> Protections {
    let features = CpuId::new().get_extended_feature_info();
    Protections {
        smep: features
            .as_ref()
            .is_some_and(raw_cpuid::ExtendedFeatures::has_smep),
        smap: features
            .as_ref()
            .is_some_and(raw_cpuid::ExtendedFeatures::has_smap),
        umip: features
            .as_ref()
            .is_some_and(raw_cpuid::ExtendedFeatures::has_umip),
    }
}

/// Whether CPUID offers process-context identifiers: tags of TLB entries.
#[must_use]
pub fn has_pcid() -> bool {
    CpuId::new()
        .get_feature_info()
        .is_some_and(|info| info.has_pcid())
}

/// Whether CPUID says that this CPU has a local APIC (leaf 1, EDX bit 9). It does not if firmware
/// has turned the local APIC off (SDM vol. 3, 11.4.3).
#[must_use]
pub fn has_local_apic() -> bool {
    CpuId::new()
        .get_feature_info()
        .is_some_and(|info| info.has_apic())
}

/// Whether CPUID offers x2APIC mode.
#[must_use]
pub fn has_x2apic() -> bool {
    CpuId::new()
        .get_feature_info()
        .is_some_and(|info| info.has_x2apic())
}

/// Whether this CPU takes maskable interrupts (RFLAGS.IF). The kernel asks the thread's word; tests
/// compare that with this.
#[must_use]
pub fn interrupts_enabled() -> bool {
    interrupts::are_enabled()
}

/// Lets this CPU take maskable interrupts. For [`crate::port`] only.
#[inline]
pub fn sti() {
    // SAFETY: sets only RFLAGS.IF. Without `nomem`, so that nothing moves out of the part where
    // interrupts are off. (The crate's version has a NOP after it.)
    unsafe { asm!("sti", options(preserves_flags, nostack)) };
}

/// Keeps maskable interrupts from this CPU. For [`crate::port`] only.
#[inline]
pub fn cli() {
    interrupts::disable();
}

/// Enables interrupts and halts until one comes. STI takes effect after the next instruction, so no
/// interrupt can come between the two and be missed. Only [`heart::port::InterruptsOff::wait`]
/// calls this.
#[inline]
pub fn sti_hlt() {
    interrupts::enable_and_hlt();
}

/// Whether this CPU has MONITOR and MWAIT (CPUID leaf 1).
#[must_use]
pub fn has_mwait() -> bool {
    CpuId::new()
        .get_feature_info()
        .is_some_and(|info| info.has_monitor_mwait())
}

/// The most bytes that MONITOR watches, by CPUID leaf 5; 0 if MWAIT has nothing to wait for.
#[must_use]
pub fn monitor_line() -> u16 {
    CpuId::new()
        .get_monitor_mwait_info()
        .map_or(0, |info| info.largest_monitor_line())
}

/// Whether CPUID says that the CPU runs under a hypervisor.
#[must_use]
pub fn has_hypervisor() -> bool {
    CpuId::new()
        .get_feature_info()
        .is_some_and(|info| info.has_hypervisor())
}

/// Watches the line of `word` from now on: see [`sti_mwait`]. Only if [`has_mwait`].
#[inline]
pub fn monitor(word: *const u32) {
    // SAFETY: MONITOR loads one byte there, as a hint; an unmapped word faults as with a load.
    // Without `nomem`, so that no look at the word moves before it.
    unsafe {
        asm!("monitor", in("rax") word, in("ecx") 0, in("edx") 0,
            options(nostack, preserves_flags));
    };
}

/// Enables interrupts and waits until one comes, or another CPU stores into the line that
/// [`monitor`] watches, or for no reason. STI takes effect after the MWAIT. C1, no extensions:
/// every CPU with MWAIT has that.
#[inline]
pub fn sti_mwait() {
    // SAFETY: as in `sti`; MWAIT changes no register.
    unsafe {
        asm!("sti", "mwait", in("eax") 0, in("ecx") 0, options(nostack, preserves_flags));
    };
}

/// Stops this CPU for good: turns interrupts off and halts, again after each NMI.
pub fn halt_forever() -> ! {
    loop {
        interrupts::disable();
        x86_64::instructions::hlt();
    }
}

/// The time-stamp counter, in ticks of [`crate::clock`]'s frequency. Not ordered
/// with the instructions around it.
#[must_use]
#[inline]
pub fn tsc() -> u64 {
    // SAFETY: every x86_64 has RDTSC, and CR4.TSD is never set.
    unsafe { _rdtsc() }
}

/// [`tsc`], ordered after everything before it and before everything after it (SDM vol. 2, RDTSC:
/// an LFENCE on each side).
#[must_use]
pub fn tsc_in_order() -> u64 {
    // SAFETY: orders loads and touches nothing; every x86_64 has it.
    unsafe { _mm_lfence() };
    let ticks = tsc();
    // SAFETY: the same.
    unsafe { _mm_lfence() };
    ticks
}

/// Spins for about `ticks` of the time-stamp counter. For waits before there is a clock, and for
/// delays that hardware requires.
pub fn spin_ticks(ticks: u64) {
    let start = tsc();
    while tsc().wrapping_sub(start) < ticks {
        spin_loop();
    }
}

/// This CPU's APIC id by CPUID ([`plat::apic_id`]). The id that counts is [`super::apic::id`].
#[must_use]
pub fn apic_id_by_cpuid() -> u32 {
    plat::apic_id::by_cpuid(|leaf| {
        let CpuidResult { eax, ebx, edx, .. } = __cpuid_count(leaf, 0);
        Leaf { eax, ebx, edx }
    })
}

/// The number of bits of a physical address on this CPU (CPUID leaf 0x8000_0008; SDM vol. 2). 36 if
/// CPUID does not say; otherwise at least 32, and at most the 52 that page tables have room for.
#[must_use]
pub fn physical_address_bits() -> u8 {
    CpuId::new()
        .get_processor_capacity_feature_info()
        .map_or(36, |info| info.physical_address_bits().clamp(32, 52))
}

/// Sets this CPU's GS base to `base`, where [`gs_self`] reads.
///
/// # Safety
/// A block must lie there permanently whose first word is its own address.
pub unsafe fn set_gs_base(base: u64) {
    GsBase::write(VirtAddr::new(base));
}

/// The first word of this CPU's per-CPU block: the block's own address, or
/// garbage before [`set_gs_base`].
#[must_use]
#[inline]
pub fn gs_self() -> *const () {
    let block: *const ();
    // SAFETY: once set_gs_base ran, GS:0 is mapped and constant, so the load may be repeated or
    // left out (pure, readonly). It touches no stack or flag.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) block, options(pure, readonly, nostack, preserves_flags));
    };
    block
}

/// The second word of this CPU's per-CPU block: the thread that runs. One load, so it is right even
/// if the thread moves to another CPU before the result is used.
#[must_use]
#[inline]
pub fn gs_curthread() -> *const () {
    let thread: *const ();
    // SAFETY: once set_gs_base ran, GS:8 is mapped. A running thread always finds itself there, on
    // whatever CPU, so the load may be repeated, left out, or moved over any other access (pure,
    // nomem).
    unsafe {
        asm!("mov {}, gs:[8]", out(reg) thread, options(pure, nomem, nostack, preserves_flags));
    };
    thread
}

/// Makes `thread` the one that runs on this CPU, in the place of `from`, for the reason with the
/// number `why`: the switch, and its trace point.
///
/// # Safety
/// [`set_gs_base`] ran, interrupts are off, and the thread's word (`heart::critical`) is at
/// `thread`.
#[inline(always)]
pub unsafe fn set_curthread<T>(thread: *const (), from: &T, why: u64) {
    // SAFETY: one store to the second word of this CPU's block. As a trace point it has interrupts
    // off, and a current thread before and after.
    unsafe {
        trace_point!(Event::Switch as u16, "mov qword ptr gs:[8], {thread}", "",
            "mov qword ptr gs:[8], {thread}", "",
            ["push {why}\n push {from}", "pop qword ptr [rcx + 8]\n pop qword ptr [rcx + 16]"],
            thread = in(reg) thread, from = in(reg) core::ptr::from_ref(from), why = in(reg) why,);
    }
}

/// The kernel's number of this CPU: the third word of its per-CPU block.
#[must_use]
#[inline]
pub fn gs_cpu() -> u64 {
    // The whole register: the compiler does not know that the upper half is zero, and would clear
    // it again.
    let cpu: u64;
    // SAFETY: once set_gs_base ran, GS:16 is mapped, and constant on this CPU (pure,
    // readonly).
    unsafe {
        asm!("movzx {:e}, byte ptr gs:[16]", out(reg) cpu,
            options(pure, readonly, nostack, preserves_flags));
    };
    cpu
}

/// Whether [`set_gs_base`] ran on this CPU: a kernel address is in GS base.
#[must_use]
pub fn gs_is_set() -> bool {
    GsBase::read().as_u64() >> 63 == 1
}

/// The page-fault address, CR2.
#[must_use]
pub fn fault_address() -> u64 {
    Cr2::read_raw()
}

/// The physical address of the page tables in use, CR3.
#[must_use]
pub fn page_table_root() -> u64 {
    Cr3::read().0.start_address().as_u64()
}

/// The registers from which a backtrace of the caller starts: (rip, rsp, rbp).
#[must_use]
#[inline(always)]
pub fn here() -> (u64, u64, u64) {
    let (rip, rsp, rbp): (u64, u64, u64);
    // SAFETY: reads three registers and writes none but its outputs.
    unsafe {
        asm!(
            "lea {}, [rip]", "mov {}, rsp", "mov {}, rbp",
            out(reg) rip, out(reg) rsp, out(reg) rbp,
            options(nomem, nostack, preserves_flags),
        );
    };
    (rip, rsp, rbp)
}
