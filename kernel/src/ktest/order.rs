//! Vectors that the test image handles itself.
//!
//! Its own vector, single steps, and NMIs that a test expects; and, where the command line asks for
//! another heart or for a mistake in the order of an interrupt, all interrupts, by the orders of
//! [`wrong_order`]. Such a vector's gate leads to a stub here, which saves all registers.

use core::arch::global_asm;

use wrong_order::{Around, Heart};

use super::bugs::{Bug, active};
use super::{faults, heart, spans, stacks, step};
use crate::arch::backtrace::Snapshot;
use crate::arch::trap::TrapFrame;
use crate::arch::{apic, cpu, descriptor, vector};
use crate::pcpu::{self, Ipi};
use crate::port::Machine;
use crate::{call, trap};

/// The size of a stub, in bytes.
const STUB_SIZE: u64 = 16;

/// Binds what the test image handles. On the boot CPU, before interrupts come.
pub(super) fn bind_all() {
    bind_each(&[
        vector::DEBUG,
        vector::NMI,
        vector::MACHINE_CHECK,
        vector::TEST,
    ]);
    let mistakes = [
        Bug::EoiAfterSwitch,
        Bug::ActThenClear,
        Bug::EarlyEoi,
        Bug::NoNestedSection,
        Bug::RegularSection,
        Bug::LeakedLevel,
    ];
    if heart() == Heart::Freebsd || mistakes.into_iter().any(active) {
        bind_each(&[vector::TIMER, vector::IPI, vector::RENDEZVOUS, vector::STOP]);
        (vector::IO_APIC_BASE..=vector::IO_APIC_LAST).for_each(bind);
    }
}

fn bind_each(vectors: &[u8]) {
    vectors.iter().copied().for_each(bind);
}

/// Lets `vector` lead here from now on.
pub(super) fn bind(vector: u8) {
    unsafe extern "C" {
        safe static ktest_stubs: u8;
    }
    let entry = (&raw const ktest_stubs) as u64 + u64::from(vector) * STUB_SIZE;
    // SAFETY: the vector's stub, in the image.
    unsafe { descriptor::bind(vector, entry) };
}

/// What the stubs call.
///
/// # Safety
/// `frame` must point to the frame that the stub built on this stack.
unsafe extern "C" fn ktest_entry(frame: *mut TrapFrame) {
    // SAFETY: the stub passes the frame it has just built; nobody else knows of it until it
    // returns.
    handle(unsafe { &mut *frame });
}

fn handle(frame: &mut TrapFrame) {
    let heart = heart();
    match frame.vector as u8 {
        vector::NMI | vector::MACHINE_CHECK if stacks::takes(frame) => {}
        vector::DEBUG => spans::uncounted(|| step::trapped(frame)),
        vector::NMI if active(Bug::UncountedNmi) => uncounted_nmi(&Snapshot::of_frame(frame)),
        vector::TEST => wrong_order::interrupt::<Machine>(heart, step::test_interrupt),
        vector::TIMER => wrong_order::interrupt::<Machine>(heart, trap::timer),
        vector::IPI if active(Bug::EoiAfterSwitch) => {
            wrong_order::eoi_after_switch::<Machine>(heart, trap::ipis);
        }
        vector::IPI if active(Bug::ActThenClear) => {
            wrong_order::interrupt::<Machine>(heart, calls_and_then_the_others);
        }
        vector::IPI => wrong_order::interrupt::<Machine>(heart, trap::ipis),
        vector::RENDEZVOUS => rendezvous(heart),
        vector::STOP => {
            let snapshot = Snapshot::of_frame(frame);
            wrong_order::interrupt::<Machine>(heart, || trap::stop(&snapshot));
        }
        vector::IO_APIC_BASE..=vector::IO_APIC_LAST => {
            wrong_order::interrupt::<Machine>(heart, trap::device);
        }
        _ => trap::dispatch(frame),
    }
}

fn rendezvous(heart: Heart) {
    if active(Bug::EarlyEoi) {
        return wrong_order::early_eoi::<Machine>(heart, trap::take_part);
    }
    let around = if active(Bug::NoNestedSection) {
        Around::Nothing
    } else if active(Bug::RegularSection) {
        Around::Regular
    } else if active(Bug::LeakedLevel) {
        Around::Leaked
    } else {
        Around::Nested
    };
    let eoi = if faults::eoi_is_forgotten(pcpu::this().id()) {
        || ()
    } else {
        apic::end_of_interrupt
    };
    wrong_order::rendezvous::<Machine>(heart, around, trap::take_part, eoi);
}

/// What IPIs ask for, if the word is taken after the calls have run.
fn calls_and_then_the_others() {
    let this = pcpu::this();
    call::run_here(this);
    trap::act_on(this.ipis.take() & !(Ipi::Call as u32), this);
}

fn uncounted_nmi(snapshot: &Snapshot) {
    if let Some((this, found)) = trap::found_by_nmi() {
        wrong_order::uncounted_nmi::<Machine>(|| trap::in_nmi(this, snapshot, found));
    }
}

impl wrong_order::Machine for Machine {
    fn uncounted(begins: bool) {
        if begins {
            spans::begin_uncounted();
        } else {
            spans::end_uncounted();
        }
    }

    fn set_flag(on: bool) {
        if on { cpu::sti() } else { cpu::cli() }
    }
}

// As `trap_common` of arch/x86_64/trap.rs: 7 words of CPU and stub, 15 registers, and 2 words for
// the backtrace leave RSP 16-aligned at the call.
global_asm!(
    r#"
    .text
    .global ktest_stubs
    .balign 16
ktest_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if vector >= 32 || ((1 << vector) & 0x60227d00) == 0
    push    0
    .endif
    push    vector
    jmp     ktest_common
    .set vector, vector + 1
    .endr

    .balign 16
ktest_common:
    .irp    register, rbp, rax, rbx, rcx, rdx, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15
    push    \register
    .endr
    mov     rdi, rsp
    push    qword ptr [rdi + 17 * 8]
    push    rbp
    mov     rbp, rsp
    cld
    call    {entry}
    add     rsp, 2 * 8
    .irp    register, r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rdx, rcx, rbx, rax, rbp
    pop     \register
    .endr
    add     rsp, 2 * 8
    iretq
    "#,
    entry = sym ktest_entry,
);
