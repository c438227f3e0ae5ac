//! The way from an interrupt to `kernel::trap` and back: the frame and the stubs.
//!
//! Vector n enters at `trap_stubs + 16 n`. The stubs of exceptions and the NMI make their frames
//! alike: they push a zero where the CPU pushes no error code, then the number. `trap_common` saves
//! all registers, for handlers that report or change them. It also pushes a return address and RBP,
//! as a function does, so that a backtrace walks from the handler into the interrupted code.
//!
//! Interrupts are frequent, and apart from the stop interrupt no handler looks at their registers.
//! So `interrupt_common` saves only those that a call may change; whoever uses the others saves
//! them. Here RBP, pushed first, and RIP, which the CPU pushed last, are the frame to walk through.
//! The rendezvous, which other CPUs wait for, has its own path, which need not tell vectors apart.

use core::arch::global_asm;

use heart::shim::trace::Event;
use heart::trace_text;

/// The registers of the code that an exception or NMI interrupted, as `trap_common` and the CPU
/// pushed them.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[expect(missing_docs, reason = "the registers' names say it all")]
pub struct TrapFrame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    pub rbp: u64,
    /// The vector, 0 to 255.
    pub vector: u64,
    /// The CPU's error code, or 0 if the vector has none.
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// The distance between the entries of two vectors, in bytes.
pub(super) const STUB_SIZE: u64 = 16;

/// The address of vector 0's entry.
pub(super) fn trap_stubs() -> u64 {
    unsafe extern "C" {
        safe static trap_stubs: u8;
    }
    core::ptr::addr_of!(trap_stubs) as u64
}

// The stubs call `trap_entry`, `interrupt_entry` and `rendezvous_entry` by name, since these are in
// `kernel::trap`, a higher module, which uses this one.
//
// The CPU aligned RSP to 16 before it pushed 5 words. The stub makes it 7; trap_common adds 15
// registers (22, even) and 2 words for the backtrace (24); interrupt_common adds 8 registers and
// one word of padding (16). So RSP is 16-aligned at the call, as the ABI demands.
global_asm!(
    r#"
    .text
    .global trap_stubs
    .balign 16
trap_stubs:
    .set vector, 0
    .rept 32
    .balign 16
    # 8, 10 to 14, 17, 21, 29 and 30 come with an error code (SDM vol. 3, table 6-1)
    .if ((1 << vector) & 0x60227d00) == 0
    push    0
    .endif
    push    vector
    jmp     trap_common
    .set vector, vector + 1
    .endr
    .rept 256 - 32
    .balign 16
    .if vector == {stop}
    push    0                               # reports the registers too
    push    vector
    jmp     trap_common
    .elseif vector == {rendezvous}
    push    rbp
    mov     rbp, rsp                        # a frame to walk through
    push    rdi
    jmp     rendezvous_common
    .else
    push    rbp
    mov     rbp, rsp
    push    rdi
    mov     edi, vector
    jmp     interrupt_common
    .endif
    .set vector, vector + 1
    .endr

    # The .cfi directives tell a debugger how to go on from a stub to the interrupted code: where
    # its registers are. CFA is the end of what the CPU pushed: ss, rsp, rflags, cs, rip.
    .cfi_sections .debug_frame

    .macro  interrupted above               # `above` bytes were pushed after rip
    .cfi_startproc simple
    .cfi_signal_frame
    .cfi_def_cfa rsp, 40 + \above
    .cfi_offset rip, -40
    .cfi_offset rsp, -16
    .endm

    .macro  save registers:vararg
    .irp    register, \registers
    push    \register
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset \register, 0
    .endr
    .endm

    .macro  restore registers:vararg
    .irp    register, \registers
    pop     \register
    .cfi_adjust_cfa_offset -8
    .cfi_restore \register
    .endr
    .endm

    # The entry and the exit of an interrupt are trace points: the two instructions that keep RSP
    # aligned, in an encoding with room for a jump.
    .macro  interrupt_calls function, vector
    interrupted 16                          # rbp, rdi
    .cfi_offset rbp, -48
    .cfi_offset rdi, -56
    save    rax, rcx, rdx, rsi, r8, r9, r10, r11
    "#,
    trace_text!("{{disp32}} lea rsp, [rsp - 8]", "", "lea rsp, [rsp - 8]", "",
        "push \\vector", "pop qword ptr [rcx + 8]", "{irq_entry}"),
    r#"
    .cfi_adjust_cfa_offset 8
    cld
    call    \function
    "#,
    trace_text!("{{disp32}} lea rsp, [rsp + 8]", "", "", "lea rsp, [rsp + 8]",
        "", "", "{irq_exit}"),
    r#"
    .cfi_adjust_cfa_offset -8
    restore r11, r10, r9, r8, rsi, rdx, rcx, rax, rdi, rbp
    iretq
    .cfi_endproc
    .endm

    .balign 16
interrupt_common:
    interrupt_calls interrupt_entry, rdi

    .balign 16
rendezvous_common:
    interrupt_calls rendezvous_entry, {rendezvous}

    .global trap_common
    .balign 16
trap_common:
    interrupted 16                          # vector, error code
    save    rbp, rax, rbx, rcx, rdx, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15
    mov     rdi, rsp
    push    qword ptr [rdi + 17 * 8]        # rip of the interrupted code
    push    rbp                             # and its frame pointer:
    mov     rbp, rsp                        # a frame to walk through
    .cfi_adjust_cfa_offset 16
    cld
    call    trap_entry
    add     rsp, 2 * 8
    .cfi_adjust_cfa_offset -16
    restore r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rdx, rcx, rbx, rax, rbp
    add     rsp, 2 * 8                      # vector and error code
    iretq
    .cfi_endproc
"#,
    trace_record = const heart::shim::trace::RECORD,
    trace_head = const heart::shim::trace::HEAD_AT,
    trace_mask = const heart::shim::trace::MASK,
    irq_entry = const Event::IrqEntry as u16,
    irq_exit = const Event::IrqExit as u16,
    rendezvous = const super::vector::RENDEZVOUS,
    stop = const super::vector::STOP,
);
