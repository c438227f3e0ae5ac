use super::{Ipis, POLLING};
use crate::shim::{AtomicU32, AtomicU64, Ordering};
use crate::tso::{self, Op};
use std::thread;

#[test]
fn the_end_of_polling_leaves_what_an_interrupt_is_on_its_way_for() {
    let ipis = Ipis::new();
    assert!(ipis.poll());
    assert!(!ipis.post(1));
    assert!(!ipis.post(4));
    assert_eq!(ipis.asked(), 5, "it has not looked");
    assert_eq!(ipis.end_polling(), 5);
    assert!(!ipis.is_polling());
    // An interrupt has already ended the polling, and a CPU has asked but not yet sent its
    // interrupt.
    assert!(ipis.poll());
    assert_eq!(ipis.take(), 0);
    assert!(ipis.post(2));
    assert_eq!(ipis.end_polling(), 0);
    assert!(!ipis.post(4), "two interrupts for one look");
    assert_eq!(ipis.take(), 6);
}

#[test]
fn one_interrupt_for_many_bits() {
    let ipis = Ipis::new();
    assert!(ipis.post(1));
    assert!(!ipis.post(2));
    assert!(!ipis.post(1));
    assert_eq!(ipis.asked(), 3);
    assert_eq!(ipis.take(), 3);
    assert_eq!(ipis.asked(), 0);
    assert_eq!(ipis.take(), 0);
    assert!(ipis.post(2), "after the step it takes another interrupt");
}

#[test]
fn who_polls_is_not_interrupted() {
    let ipis = Ipis::new();
    assert!(ipis.poll() && ipis.is_quiet() && ipis.is_polling());
    assert!(!ipis.post(2));
    assert!(ipis.is_polling() && !ipis.is_quiet());
    assert_eq!(ipis.take(), 2);
    assert!(!ipis.is_polling());
    assert!(ipis.post(1));
    assert!(!ipis.poll(), "an interrupt is on its way");
}

/// An idle CPU watches the whole word.
#[test]
fn the_address_is_the_words() {
    let ipis = Ipis::new();
    assert_eq!(ipis.address().cast(), &raw const ipis);
}

/// Three CPUs post while one takes: each bit is found together with its word, and no more
/// interrupts are sent than bits posted.
#[test]
fn no_bit_is_lost() {
    const ROUNDS: u64 = if cfg!(miri) { 50 } else { 20_000 };
    let (ipis, pending) = (Ipis::new(), AtomicU32::new(0));
    let seen = [const { AtomicU64::new(0) }; 3];
    let interrupts = AtomicU64::new(0);
    thread::scope(|scope| {
        for (number, seen) in seen.iter().enumerate() {
            let (ipis, pending, interrupts) = (&ipis, &pending, &interrupts);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    if ipis.post(1 << number) {
                        interrupts.fetch_add(1, Ordering::Relaxed);
                        pending.fetch_add(1, Ordering::SeqCst);
                    }
                    while seen.load(Ordering::Acquire) <= round {
                        thread::yield_now();
                    }
                }
            });
        }
        let mut left = 3 * ROUNDS;
        while left > 0 {
            if pending.swap(0, Ordering::SeqCst) == 0 {
                thread::yield_now();
                continue;
            }
            let bits = ipis.take();
            for (number, seen) in seen.iter().enumerate() {
                if bits & 1 << number != 0 {
                    seen.fetch_add(1, Ordering::Release);
                    left -= 1;
                }
            }
        }
    });
    assert!(interrupts.load(Ordering::Relaxed) <= 3 * ROUNDS);
}

/// Whether the idle CPU may halt, since the value it last found has none of `wake`, while the waker
/// does not interrupt it, since `interrupts` is false for the value that the waker last found.
fn sleeps_over(
    start: [u32; 2],
    programs: [&[Op]; 2],
    wake: u32,
    interrupts: fn(u32) -> bool,
) -> bool {
    tso::may_end(start, programs, |[idle, waker]| {
        idle & wake == 0 && !interrupts(waker)
    })
}

#[test]
fn in_two_words_both_need_the_fence() {
    const ASLEEP: usize = 0;
    const WORK: usize = 1;
    let idle = [Op::Store(ASLEEP, 1), Op::Fence, Op::Load(WORK)];
    let waker = [Op::Store(WORK, 1), Op::Fence, Op::Load(ASLEEP)];
    let without = |ops: [Op; 3]| [ops[0], ops[2]];
    let lost =
        |idle: &[Op], waker: &[Op]| sleeps_over([0, 0], [idle, waker], 1, |asleep| asleep != 0);
    assert!(!lost(&idle, &waker));
    assert!(lost(&without(idle), &waker), "idle without its fence");
    assert!(lost(&idle, &without(waker)), "waker without its fence");
    let [store, fence, load] = idle;
    assert!(
        lost(&[load, fence, store], &waker),
        "the look before the store"
    );
}

#[test]
fn in_one_word_no_wakeup_is_lost() {
    let take = [Op::Swap(0, 0)];
    let post = [Op::Or(0, 1)];
    let lost =
        |idle: &[Op], start| sleeps_over([start, 0], [idle, &post], !POLLING, |old| old == 0);
    // From polling to the halt; without polling, `STI; HLT` takes the interrupt.
    assert!(!lost(&take, POLLING));
    assert!(!lost(&take, 0));
    let look_first = [Op::Load(0), Op::Store(0, 0)];
    assert!(lost(&look_first, POLLING));
}
