use super::{interrupt, nmi, rendezvous, stray};
use crate::port::Port;
use crate::shim::{AtomicU32, Ordering};
use crate::testing::HostPort;
use crate::wake::DeferredWake;

/// An interrupt is acknowledged before its handler, a rendezvous after its action. The wakeups that
/// either notes are carried out after that, and what they owe is paid at the end.
#[test]
fn what_is_noted_is_done_after_the_acknowledgement_and_paid() {
    static EOIS: AtomicU32 = AtomicU32::new(0);
    static WAKE: DeferredWake = DeferredWake::new(&|| {
        EOIS.store(HostPort::eois(), Ordering::Relaxed);
        HostPort::crit().owe();
    });
    HostPort::become_cpu(0);
    let (crit, before) = (HostPort::crit(), HostPort::eois());
    let note = |eois, critnest| {
        assert_eq!(HostPort::eois(), before + eois);
        assert_eq!((crit.interrupt_depth(), crit.critnest()), (1, critnest));
        HostPort::wakes().note(&WAKE);
    };
    let ended = |eois| {
        assert_eq!(EOIS.swap(0, Ordering::Relaxed), before + eois);
        assert!(crit.now().is_only_locks(0) && !crit.owepreempt());
    };
    interrupt::<HostPort>(|| note(1, 0));
    ended(1);
    rendezvous::<HostPort>(|| note(1, 1));
    ended(2);
    // `stray` acknowledges by itself, or not at all.
    stray::<HostPort>(|| note(2, 0));
    ended(2);
}

#[test]
fn an_nmi_counts_and_leaves_what_is_owed() {
    HostPort::become_cpu(0);
    let crit = HostPort::crit();
    crit.enter();
    crit.owe();
    let before = crit.now();
    let mut depth = 0;
    nmi::<HostPort>(|| depth = crit.interrupt_depth());
    assert_eq!((depth, crit.now()), (1, before));
    crit.exit::<HostPort>();
}
