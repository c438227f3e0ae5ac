use super::{InterruptsOff, Port};
use crate::testing::HostPort;

/// The wait turns interrupts on in the same step, so nothing else may keep them off in the word.
#[test]
fn a_wait_for_an_interrupt_ends_the_guard() {
    HostPort::become_cpu(0);
    let off = InterruptsOff::<HostPort>::enter();
    let mut waited = false;
    off.wait(|| {
        assert!(HostPort::crit().is_open() && !HostPort::interrupts_enabled());
        waited = true;
    });
    assert!(waited && HostPort::crit().is_open());
}

#[test]
#[should_panic(
    expected = "a wait for an interrupt that cannot come: critnest 0, interrupt depth 0"
)]
fn a_wait_that_another_guard_would_make_endless_is_found() {
    HostPort::become_cpu(0);
    let _outer = InterruptsOff::<HostPort>::enter();
    InterruptsOff::<HostPort>::enter().wait(|| ());
}
