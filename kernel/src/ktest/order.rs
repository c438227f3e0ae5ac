//! The vectors that the test image handles itself.
//!
//! These are its own vector, single steps, and NMIs that a test expects. If the command line asks
//! for another heart or for a mistake in the order of an interrupt, they are all interrupts, in the
//! orders of [`wrong_order`]. The gate of such an interrupt leads to a stub here, and so to
//! `trap_common`, which saves all registers. `trap_entry` offers each vector to [`takes`].

use core::arch::global_asm;

use wrong_order::{Around, Heart};

use super::bugs::{Bug, active};
use super::{faults, heart, spans, stacks, step};
use crate::arch::backtrace::Snapshot;
use crate::arch::trap::TrapFrame;
use crate::arch::vector::FIRST_EXTERNAL;
use crate::arch::{apic, cpu, descriptor, vector};
use crate::pcpu::{self, Ipi};
use crate::port::Machine;
use crate::{call, trap};

/// The size of a stub, in bytes.
const STUB_SIZE: u64 = 16;

/// Binds the vectors that the test image handles. Runs on the boot CPU, before interrupts come.
pub(super) fn bind_all() {
    bind(vector::TEST);
    let mistakes = [
        Bug::EoiAfterSwitch,
        Bug::ActThenClear,
        Bug::EarlyEoi,
        Bug::NoNestedSection,
        Bug::RegularSection,
        Bug::LeakedLevel,
    ];
    if heart() == Heart::Freebsd || mistakes.into_iter().any(active) {
        [vector::TIMER, vector::IPI, vector::RENDEZVOUS]
            .into_iter()
            .chain(vector::IO_APIC_BASE..=vector::IO_APIC_LAST)
            .for_each(bind);
    }
}

/// Makes the gate of `vector`, an interrupt's, lead here from now on.
pub(super) fn bind(vector: u8) {
    unsafe extern "C" {
        safe static ktest_stubs: u8;
    }
    let number = vector - FIRST_EXTERNAL;
    let entry = (&raw const ktest_stubs) as u64 + u64::from(number) * STUB_SIZE;
    // SAFETY: the vector's stub, which is in the image.
    unsafe { descriptor::bind(vector, entry) };
}

/// Handles the vector of `frame` if the test image does. Returns whether it did.
pub(crate) fn takes(frame: &mut TrapFrame) -> bool {
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
        _ => return false,
    }
    true
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

/// Does what IPIs ask for, but runs the calls before it takes the word.
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

global_asm!(
    r#"
    .text
    .global ktest_stubs
    .balign 16
ktest_stubs:
    .set vector, {first}
    .rept 256 - {first}
    .balign 16
    push    0
    push    vector
    jmp     trap_common
    .set vector, vector + 1
    .endr
    "#,
    first = const FIRST_EXTERNAL,
);
