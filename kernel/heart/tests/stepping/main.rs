//! The heart's way out of a section, a spinlock and an interrupt as machine code: an interrupt, with
//! the heart's own handler, at every instruction.
//!
//! The CPU single-steps (RFLAGS.TF), and Linux makes a SIGTRAP of every trap: its handler runs
//! between two instructions, on top of the interrupted code, as an interrupt does. So it is one
//! here, wherever this CPU would take interrupts; where it would not, it comes as soon as it
//! may. Each run lets one come a boundary later, until the code is through.
//!
//! What only this sees is what the compiler has made of the source: a section that it has
//! deleted or moved, a decrement in two instructions. The explorer (`model/`) sees the source,
//! with a call at every atomic. So optimised code is stepped: `Cargo.toml` of the workspace has
//! the heart optimised in the profile `test` too. (Unoptimised, these tests take a quarter of an hour.)
//!
//! One CPU, one interrupt at a time; the other thread runs on the stack of the first.

#[cfg(all(
    target_arch = "x86_64",
    target_os = "linux",
    not(miri),
    not(feature = "model")
))]
mod x86;

/// Stands for all tests of this file where they cannot run, so that they are counted as left out.
#[cfg(not(all(
    target_arch = "x86_64",
    target_os = "linux",
    not(miri),
    not(feature = "model")
)))]
#[test]
#[ignore = "needs the trap flag of an x86_64 CPU, Linux's SIGTRAP, and the heart as machine code"]
fn the_heart_is_stepped() {}
