use super::{Call, CallQueue, CallState, Refused};
use crate::action::IpiCtx;
use crate::shim::{AtomicU32, Ordering};
use crate::testing::HostPort;

/// A call that multiplies by ten and adds: the result tells the order.
fn digit(into: &'static AtomicU32, digit: u32) -> &'static Call {
    let action = move |_: &IpiCtx| {
        into.store(into.load(Ordering::Relaxed) * 10 + digit, Ordering::Relaxed);
    };
    Box::leak(Box::new(Call::new(Box::leak(Box::new(action)))))
}

fn word() -> &'static AtomicU32 {
    Box::leak(Box::new(AtomicU32::new(0)))
}

#[test]
fn calls_run_once_in_order() {
    HostPort::become_cpu(0);
    let (queue, order) = (CallQueue::closed(), word());
    queue.open();
    let calls = [1, 2, 3].map(|n| digit(order, n));
    assert!(queue.is_empty() && queue.newest().is_none());
    assert_eq!(queue.post(calls[0]), Ok(true));
    let name = queue.newest().expect("a call");
    assert!(
        name.starts_with("heart::more::call::tests::digit"),
        "{name}"
    );
    assert!(!queue.is_empty());
    let text = format!("{:?}", calls[0]);
    assert!(
        text.starts_with("Call(heart::more::call::tests::digit") && text.ends_with(", Queued)"),
        "{text}"
    );
    assert_eq!(queue.post(calls[1]), Ok(false));
    assert_eq!(queue.post(calls[2]), Ok(false));
    assert_eq!(queue.post(calls[1]), Err(Refused::Busy));
    let text = Refused::Busy.to_string();
    assert_eq!(text, "call: it is queued already");
    assert_eq!(calls[2].state(), CallState::Queued);
    queue.run::<HostPort>();
    queue.run::<HostPort>();
    assert_eq!(order.load(Ordering::Relaxed), 123);
    assert!(calls.iter().all(|call| call.state() == CallState::Done));
    assert_eq!(queue.post(calls[1]), Ok(true), "it may be used again");
    queue.run::<HostPort>();
    assert_eq!(order.load(Ordering::Relaxed), 1232);
}

#[test]
fn what_a_call_queues_runs_too() {
    HostPort::become_cpu(0);
    let queue: &'static CallQueue = Box::leak(Box::new(CallQueue::closed()));
    queue.open();
    let order = word();
    let (first, second) = (digit(order, 1), digit(order, 2));
    let both = move |context: &IpiCtx| {
        first.action.run(context);
        assert_eq!(queue.post(second), Ok(true));
    };
    let call = Box::leak(Box::new(Call::new(Box::leak(Box::new(both)))));
    assert_eq!(queue.post(call), Ok(true));
    queue.run::<HostPort>();
    assert_eq!(order.load(Ordering::Relaxed), 12);
}

#[test]
fn who_goes_offline_runs_refuses_or_cancels() {
    HostPort::become_cpu(0);
    let (queue, order) = (CallQueue::closed(), word());
    let calls = [1, 2, 3, 4].map(|n| digit(order, n));
    assert_eq!(queue.post(calls[0]), Err(Refused::Offline));
    assert_eq!(calls[0].state(), CallState::Idle);
    queue.open();
    assert_eq!(queue.post(calls[0]), Ok(true));
    queue.close::<HostPort>();
    assert_eq!(calls[0].state(), CallState::Done);
    assert_eq!(queue.post(calls[1]), Err(Refused::Offline));
    queue.open();
    assert_eq!(queue.post(calls[1]), Ok(true));
    assert_eq!(queue.post(calls[2]), Ok(false));
    assert_eq!(queue.post(calls[3]), Ok(false));
    assert_eq!(queue.cancel(), 3);
    assert!(
        calls[1..]
            .iter()
            .all(|call| call.state() == CallState::Cancelled)
    );
    queue.run::<HostPort>();
    assert_eq!(order.load(Ordering::Relaxed), 1);
    assert_eq!(queue.post(calls[1]), Err(Refused::Offline));
}
