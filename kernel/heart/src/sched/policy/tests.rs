use super::{Resched, is_unbalanced, maybe_preempt, place, slice_left};
use crate::cpu::{AtomicCpuSet, CpuId};
use crate::thread::Priority;

fn cpu(index: usize) -> CpuId {
    CpuId::new(index).unwrap()
}

#[test]
fn only_a_better_thread_preempts() {
    let (high, low) = (Priority::HIGHEST, Priority::LOWEST);
    assert_eq!(maybe_preempt(high, low, cpu(1), || cpu(1)), Resched::Local);
    assert_eq!(
        maybe_preempt(high, low, cpu(2), || cpu(1)),
        Resched::Remote(cpu(2))
    );
    assert_eq!(maybe_preempt(low, low, cpu(1), || cpu(1)), Resched::None);
    assert_eq!(maybe_preempt(low, high, cpu(2), || cpu(1)), Resched::None);
    assert_eq!(
        maybe_preempt(low, Priority::IDLE, cpu(2), || cpu(1)),
        Resched::Remote(cpu(2))
    );
}

#[test]
fn who_is_preempted_keeps_the_rest_of_the_slice() {
    assert_eq!(slice_left(1000, 400), 600);
    assert_eq!(slice_left(1000, 1000), 0);
    assert_eq!(slice_left(1000, 1001), 0);
}

#[test]
fn placement() {
    let set = |cpus: &[usize]| {
        let set = AtomicCpuSet::new();
        cpus.iter().for_each(|&index| {
            set.insert(cpu(index));
        });
        set
    };
    let online = set(&[0, 1, 2, 3, 8]);
    let normal = Priority::NORMAL;
    let place = |last, pinned, here, idle: &[usize], current| {
        place(
            normal,
            cpu(last),
            pinned,
            cpu(here),
            &online,
            &set(idle),
            current,
        )
        .index()
    };
    assert_eq!(place(1, false, 0, &[1, 2], Priority::IDLE), 1);
    assert_eq!(place(1, true, 0, &[2, 3], normal), 1);
    assert_eq!(place(1, false, 0, &[2, 3], normal), 2);
    assert_eq!(place(1, false, 3, &[2, 3], normal), 3);
    assert_eq!(place(1, false, 0, &[2, 3], Priority::LOWEST), 1);
    assert_eq!(place(1, false, 0, &[], normal), 1);
    assert_eq!(place(9, true, 2, &[0], normal), 2);
    // A CPU that goes offline gets no thread.
    assert_eq!(place(1, false, 0, &[7], normal), 1);
    assert_eq!(place(1, false, 0, &[7, 8], normal), 8);
}

/// In whatever order the CPUs balance, in the end no CPU has two threads more than another, and
/// nothing moves any more.
#[test]
fn balancing_comes_to_an_end() {
    let mut queued = [0, 9, 1, 5];
    let mut moves = 0;
    while let Some((mine, theirs)) = (0..16)
        .map(|pair| (pair / 4, pair % 4))
        .find(|&(mine, theirs)| is_unbalanced(queued[mine], queued[theirs]))
    {
        queued[mine] += 1;
        queued[theirs] -= 1;
        moves += 1;
        assert!(moves < 100, "threads go round: {queued:?}");
    }
    let (least, most) = (queued.iter().min(), queued.iter().max());
    assert!(most.unwrap() - least.unwrap() <= 1, "{queued:?}");
}
