//! The machine as a type, and the heart's types for it. `machine.rs` implements what the heart
//! needs.

/// This machine.
#[derive(Debug)]
pub struct Machine;

/// The kernel's spinlock.
pub type Spinlock<T> = heart::spinlock::Spinlock<T, Machine>;

/// A critical section of the current thread.
pub type CriticalGuard = heart::port::CriticalGuard<Machine>;

/// Keeps interrupts off on this CPU until it is dropped.
pub type InterruptsOff = heart::port::InterruptsOff<Machine>;

/// Turns interrupts off on this CPU until [`interrupts_on`]. For use where another function turns
/// them on again.
#[track_caller]
pub fn interrupts_off() {
    heart::port::interrupts_off::<Machine>();
}

/// Undoes one [`interrupts_off`].
#[track_caller]
pub fn interrupts_on() {
    heart::port::interrupts_on::<Machine>();
}
