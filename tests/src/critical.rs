//! Sections that do not balance.

use kernel::ktest;
use kernel::port::Machine;
use kernel::sched;

ktest! {
    /// One exit more than enters.
    fn exit_below_zero() [expect = "assert", console = "critical_exit below zero"] {
        sched::curthread().crit().exit::<Machine>();
    }
}

ktest! {
    /// The section in the spinlock finds it.
    fn spinlock_exit_below_zero() [expect = "assert", console = "critical_exit below zero"] {
        kcore::spinlock::spinlock_exit::<Machine>();
    }
}
