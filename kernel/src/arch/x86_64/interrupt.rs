//! Exceptions raised by software, for tests of how the kernel handles them.

use core::arch::asm;

/// Raises #UD, with `mark` in R12.
pub fn invalid_opcode(mark: u64) -> ! {
    // SAFETY: UD2 faults, and the handler does not return to it.
    unsafe { asm!("ud2", in("r12") mark, options(noreturn)) };
}

/// Enters the machine check's gate as the exception does: that has no error code either.
pub fn machine_check() {
    // SAFETY: the handler returns to what follows, or does not return.
    unsafe { asm!("int 18") };
}

/// Empties the IDT of this CPU and faults. There is no handler and no double fault handler, so the
/// CPU shuts down: a triple fault.
pub fn triple_fault() -> ! {
    use x86_64::instructions::tables::lidt;
    use x86_64::structures::DescriptorTablePointer;
    let nothing = DescriptorTablePointer {
        limit: 0,
        base: x86_64::VirtAddr::zero(),
    };
    // SAFETY: it is not safe: this brings the machine down on purpose.
    unsafe { lidt(&nothing) };
    invalid_opcode(0)
}

/// Sets the trap flag: #DB after every instruction from the next but one on.
#[inline(always)]
pub fn set_trap_flag() {
    // SAFETY: changes only the trap flag; the test image handles #DB.
    unsafe { asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq") };
}

/// Clears the trap flag.
#[inline(always)]
pub fn clear_trap_flag() {
    // SAFETY: changes the trap flag and nothing else.
    unsafe { asm!("pushfq", "and qword ptr [rsp], ~0x100", "popfq") };
}
