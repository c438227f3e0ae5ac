use super::*;

const LAST: usize = MAX_CPUS - 1;
/// The first CPU of the second word, if there is one.
const NEXT: usize = if WORDS > 1 { 64 } else { 40 };

fn set(cpus: &[usize]) -> CpuSet {
    cpus.iter().map(|&i| CpuId::new(i).unwrap()).collect()
}

#[test]
fn an_id_is_checked_and_named() {
    assert_eq!(CpuId::new(0), Some(CpuId::BOOT));
    assert_eq!(CpuId::new(LAST).unwrap().index(), LAST);
    assert_eq!(CpuId::new(MAX_CPUS), None);
    assert_eq!(CpuId::new(usize::MAX), None);
    assert_eq!(CpuId::new(2).unwrap().to_string(), "cpu2");
}

#[test]
fn an_id_may_change() {
    let id = AtomicCpuId::new(CpuId::BOOT);
    assert_eq!(id.get(), CpuId::BOOT);
    let last = CpuId::new(LAST).unwrap();
    id.set(last);
    assert_eq!(id.get(), last);
}

#[test]
fn one_cpu_comes_first_and_only_once() {
    const ROUNDS: usize = if cfg!(miri) { 3 } else { 100 };
    for _ in 0..ROUNDS {
        let first = FirstCpu::new();
        assert_eq!(first.get(), None);
        let claim = |index| {
            let me = CpuId::new(index).unwrap();
            // A second claim of the same CPU: an NMI, or a fault, on top of the first.
            [first.claim(me), first.claim(me)].map(|won| won.then_some(me))
        };
        let winners: Vec<CpuId> = std::thread::scope(|scope| {
            let claims = [0, 1, LAST - 1, LAST].map(|index| scope.spawn(move || claim(index)));
            let claims = claims.map(|claim| claim.join().unwrap());
            claims.into_iter().flatten().flatten().collect()
        });
        assert_eq!(winners.len(), 1);
        assert_eq!(first.get(), Some(winners[0]));
    }
}

#[test]
fn first_n_at_the_word_boundaries() {
    const ALL: CpuSet = CpuSet::first_n(MAX_CPUS);
    for n in [0, 1, 63, 64, 65, 128, LAST]
        .into_iter()
        .filter(|&n| n <= LAST)
    {
        let set = CpuSet::first_n(n);
        assert_eq!(set.len(), n);
        assert!(set.iter().map(CpuId::index).eq(0..n));
        assert!(set.is_subset(&ALL) && !ALL.is_subset(&set));
    }
    assert_eq!(ALL.len(), MAX_CPUS);
}

#[test]
#[should_panic(expected = "more CPUs than MAX_CPUS")]
fn first_n_beyond_the_end_panics() {
    let _ = CpuSet::first_n(MAX_CPUS + 1);
}

#[test]
fn insert_and_remove_say_whether_they_changed_the_set() {
    let mut some = CpuSet::single(CpuId::new(NEXT).unwrap());
    assert!(!some.insert(CpuId::new(NEXT).unwrap()));
    assert!(some.insert(CpuId::new(LAST).unwrap()));
    assert!(some.remove(CpuId::new(NEXT).unwrap()));
    assert!(!some.remove(CpuId::new(NEXT).unwrap()));
    assert_eq!(some, set(&[LAST]));
}

#[test]
fn algebra() {
    let (a, b) = (set(&[0, 1, NEXT, LAST]), set(&[1, NEXT + 1, LAST]));
    assert_eq!(a.intersection(&b), set(&[1, LAST]));
    assert_eq!(a.difference(&b), set(&[0, NEXT]));
    assert!(a.difference(&a).is_empty());
}

#[test]
fn the_only_one() {
    for (cpus, only) in [(&[][..], None), (&[LAST], Some(LAST)), (&[0], Some(0))] {
        assert_eq!(set(cpus).only().map(CpuId::index), only);
    }
    for cpus in [[0, LAST], [0, 1], [NEXT - 1, NEXT]] {
        assert_eq!(set(&cpus).only(), None);
    }
    assert_eq!(CpuSet::first_n(MAX_CPUS).only(), None);
}

/// In every word of the set.
#[test]
fn the_first_that_is_missing_is_named() {
    let wanted = set(&[0, NEXT - 1, NEXT, LAST]);
    let shared = AtomicCpuSet::new();
    shared.assign(&wanted);
    assert_eq!(shared.first_missing(&wanted), None);
    for missing in [LAST, NEXT, NEXT - 1, 0] {
        shared.remove(CpuId::new(missing).unwrap());
        let first = shared.first_missing(&wanted);
        assert_eq!(first.map(CpuId::index), Some(missing));
    }
    assert_eq!(shared.first_missing(&CpuSet::EMPTY), None);
}

/// The first CPU in its word since the last look must tell the reader.
#[test]
fn who_is_put_in_first_is_told() {
    let shared = AtomicCpuSet::new();
    let put_in = |cpu| shared.put_in(CpuId::new(cpu).unwrap());
    assert_eq!([0, 1, LAST].map(put_in), [true, false, WORDS > 1]);
    assert_eq!(shared.take(), set(&[0, 1, LAST]));
    assert!(shared.is_empty() && put_in(1));
}

#[test]
fn iteration_is_ascending_and_counts_down() {
    let some = set(&[LAST, 3, NEXT, NEXT - 1]);
    assert!(some.iter().map(CpuId::index).eq([3, NEXT - 1, NEXT, LAST]));
    let mut cpus = some.iter();
    assert_eq!(cpus.len(), 4);
    cpus.next();
    assert_eq!(cpus.len(), 3);
}

#[test]
fn display_joins_neighbours() {
    assert_eq!(CpuSet::EMPTY.to_string(), "none");
    assert_eq!(set(&[5]).to_string(), "5");
    assert_eq!(set(&[0, 1, 2, 3, 7]).to_string(), "0-3,7");
    assert_eq!(set(&[0, 2, 30, 31, 40]).to_string(), "0,2,30-31,40");
    let across = set(&[NEXT - 1, NEXT]).to_string();
    assert_eq!(across, format!("{}-{NEXT}", NEXT - 1));
    assert_eq!(CpuSet::first_n(MAX_CPUS).to_string(), format!("0-{LAST}"));
}

#[test]
fn every_insert_into_a_shared_set_changes_it_once() {
    const CPUS: usize = if WORDS > 1 { 70 } else { 50 };
    let shared = AtomicCpuSet::new();
    let changes = std::thread::scope(|scope| {
        let threads = [(); 4].map(|()| {
            scope.spawn(|| {
                CpuSet::first_n(CPUS)
                    .iter()
                    .filter(|&c| shared.insert(c))
                    .count()
            })
        });
        threads
            .map(|thread| thread.join().unwrap())
            .iter()
            .sum::<usize>()
    });
    assert_eq!(changes, CPUS);
    assert_eq!(shared.snapshot(), CpuSet::first_n(CPUS));
    assert!(shared.contains(CpuId::BOOT) && shared.remove(CpuId::BOOT));
    assert!(!shared.contains(CpuId::BOOT) && !shared.remove(CpuId::BOOT));
}

#[test]
fn a_shared_set_is_what_was_assigned() {
    let (some, other) = (set(&[0, NEXT - 1, NEXT, LAST]), set(&[0, NEXT - 1, NEXT]));
    let shared = AtomicCpuSet::new();
    assert!(shared.is_empty() && shared.is(&CpuSet::EMPTY));
    shared.assign(&some);
    assert!(shared.is(&some) && !shared.is(&other) && !shared.is_empty());
    assert_eq!(
        shared.find(|cpu| cpu.index() >= NEXT).map(CpuId::index),
        Some(NEXT)
    );
    assert_eq!(shared.find(|cpu| cpu.index() == 1), None);
    assert_eq!(shared.take(), some);
    assert!(shared.is_empty());
    let mut each = Vec::new();
    some.each(|cpu| each.push(cpu.index()));
    assert_eq!(each, [0, NEXT - 1, NEXT, LAST]);
}
