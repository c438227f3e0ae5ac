//! A machine of which it is known where its CPUs spend their time. `xtask/tests/profile.rs` looks
//! at it by `cargo xtask profile`.

use core::hint::black_box;

use heart::cpu::CpuId;
use heart::shim::spin_loop;
use kernel::kthread::Builder;
use kernel::{clock, ktest};

/// Computes, for most of the time.
#[inline(never)]
fn computes() -> u64 {
    (0..200_000_000_u64).fold(1, |sum, number| black_box(sum ^ number.rotate_left(7)))
}

/// Calls [`computes`].
#[inline(never)]
fn calls() {
    black_box(computes());
}

/// Waits, for a small part of it.
#[inline(never)]
fn waits() {
    let until = clock::since_entry() + 50_000_000;
    while clock::since_entry() < until {
        spin_loop();
    }
}

ktest! {
    /// cpu0 computes, cpu1 waits for a moment, and the others are idle.
    fn known_shares() [smp = "2..=8"] {
        let other = Builder::new("waits").on(CpuId::new(1).unwrap()).spawn(waits);
        calls();
        other.expect("a thread").join();
    }
}
