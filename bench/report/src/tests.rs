use super::*;

fn options(words: &str) -> Options {
    let words = format!("report results elf --smp 4 {words}");
    Options::try_parse_from(words.split_whitespace()).expect("it is right")
}

const LOG: &str = "tryst-bench 1\nclock 1000006000\nrow critical_pair 4.00 4.00 4.01 501 1000\n\
                   row call_all_busy 700.00 690.00 800.00 501 20 3.00\n\
                   skip wake_oneway_idle it takes two CPUs\nend rows=2\n";

#[test]
fn a_whole_log_is_read() {
    let (rows, skipped) = read(LOG, false).expect("it is whole");
    let expected = Measured {
        name: "critical_pair".to_string(),
        p50: 4.0,
        min: 4.0,
        max: 4.01,
        operations: 1000,
        ..Measured::default()
    };
    assert_eq!(rows[0], expected);
    assert_eq!((rows.len(), rows[1].ipis), (2, Some(3.0)));
    assert_eq!(skipped, ["wake_oneway_idle it takes two CPUs"]);
    let wanted = options("");
    let json = document(&rows, &wanted);
    assert!(json.contains("\"p50\": 4.0") && json.contains("\"ipis\": 3.0"));
}

#[test]
fn time_is_in_nanoseconds() {
    let log = LOG.replace("1000006000", "2000000000");
    let (rows, _) = read(&log, true).expect("any clock will do");
    assert!((rows[0].p50, rows[1].p50) == (2.0, 350.0));
}

#[test]
fn what_was_recorded_is_net_of_the_loop() {
    let mut row = Measured {
        p50: 10.0,
        operations: 100,
        ..Measured::default()
    };
    let count = trace::Count {
        executed: 1200,
        locked: 300,
        moves: 0,
    };
    row.record(&trace::Sample {
        cpus: vec![std::iter::once((1, count)).collect()],
        path: 900,
    });
    assert_eq!(row.recorded, Some((7.0, 3.0)));
}

/// The calibration's sample is one operation in a loop, so it includes the loop and the reading of
/// the clock: 5,018 instructions. One more matches none of these, and one fewer than were counted
/// is another sample.
#[test]
fn a_row_that_was_recorded_wrongly_is_found() {
    let disagrees = |executed| {
        let mut row = Measured {
            p50: 5007.0,
            min: 5007.0,
            max: 5007.0,
            operations: 1,
            ..Measured::default()
        };
        let count = trace::Count {
            executed,
            ..trace::Count::default()
        };
        row.record(&trace::Sample {
            cpus: vec![std::iter::once((1, count)).collect()],
            path: executed,
        });
        row.disagrees
    };
    assert_eq!(
        [5006, 5007, 5018, 5019].map(disagrees),
        [true, false, false, true]
    );
}

#[test]
fn a_torn_log_or_another_clock_is_an_error() {
    for (wrong, why) in [
        (LOG.replace("end rows=2", ""), "the last line is missing"),
        (
            LOG.replace("rows=2", "rows=1"),
            "2 rows, and the last line says 1",
        ),
        (
            LOG.replace("rows=2", "rows=two"),
            "\"end rows=two\" is not understood",
        ),
        (LOG.replace("700.00", "7e"), "\"row call_all_busy 7e 690"),
        (
            LOG.replace("1000006000", "fast"),
            "\"clock fast\" is not understood",
        ),
        (
            LOG.replace("1000006000", "2400000000"),
            "clock has 2400000000 Hz",
        ),
    ] {
        let error = read(&wrong, false).expect_err(&wrong);
        assert!(format!("{error:#}").contains(why), "{error:?}");
    }
}
