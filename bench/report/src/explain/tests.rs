use super::*;

fn counts(of: &[(u64, u64)]) -> HashMap<u64, Count> {
    let count = |executed| Count {
        executed,
        ..Count::default()
    };
    of.iter()
        .map(|&(address, executed)| (address, count(executed)))
        .collect()
}

#[test]
fn cpus_that_did_the_same_are_told_together() {
    let cpus = vec![
        counts(&[(1, 20)]),
        counts(&[(2, 20), (3, 1)]),
        counts(&[(2, 21)]),
    ];
    let sample = Sample { cpus, path: 0 };
    let groups: Vec<String> = alike(&sample, 20)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(groups, ["cpu0", "cpu1, cpu2, each"]);
}

#[test]
fn what_is_nothing_is_blank() {
    let count = Count {
        executed: 30,
        locked: 0,
        moves: 10,
    };
    let each = |count| count as f64 / 20.0;
    assert_eq!(figures(count, each), "      1.5           0.5 moves");
}
