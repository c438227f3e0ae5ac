//! Software-made exceptions, for the tests that ask how the kernel takes them.

use core::arch::asm;

/// Raises #UD, with `mark` in R12.
pub fn invalid_opcode(mark: u64) -> ! {
    // SAFETY: UD2 faults, and the handler does not return to it.
    unsafe { asm!("ud2", in("r12") mark, options(noreturn)) };
}

/// Enters the machine check's gate, as the exception does: it has no error code either.
pub fn machine_check() {
    // SAFETY: the handler returns to what follows, or does not return.
    unsafe { asm!("int 18") };
}

/// Empties the IDT of this CPU and faults: no handler, no double fault handler,
/// so the CPU shuts down. What a triple fault looks like from outside.
pub fn triple_fault() -> ! {
    use x86_64::instructions::tables::lidt;
    use x86_64::structures::DescriptorTablePointer;
    let nothing = DescriptorTablePointer {
        limit: 0,
        base: x86_64::VirtAddr::zero(),
    };
    // SAFETY: it is not: this is how the machine is brought down on purpose.
    unsafe { lidt(&nothing) };
    invalid_opcode(0)
}

/// Sets the trap flag: #DB after every instruction from the next but one.
#[inline(always)]
pub fn set_trap_flag() {
    // SAFETY: changes the trap flag and nothing else; the test image handles #DB.
    unsafe { asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq") };
}

/// Clears the trap flag.
#[inline(always)]
pub fn clear_trap_flag() {
    // SAFETY: changes the trap flag and nothing else.
    unsafe { asm!("pushfq", "and qword ptr [rsp], ~0x100", "popfq") };
}
