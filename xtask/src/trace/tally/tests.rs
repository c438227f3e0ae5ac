use super::*;

fn take(tally: &mut Tally, time: u64, event: Event, thread: u16) {
    tally.take(&Record { time, arguments: [0; 2], word: 1, thread, event });
}

#[test]
fn each_thing_is_counted() {
    let mut tally = Tally::default();
    for (time, event, thread) in [
        (10, Event::IrqEntry, 1),
        (11, Event::IpiSend, 1),
        (12, Event::IrqExit, 1),
        (15, Event::Switch, 2),
        (16, Event::NmiEntry, 2),
        (17, Event::NmiExit, 2),
        (25, Event::Switch, 1),
        (26, Event::Owed, 1),
    ] {
        take(&mut tally, time, event, thread);
    }
    let counts = (tally.records, tally.switches, tally.interrupts, tally.ipis);
    assert_eq!(counts, (8, 2, 2, 1));
    // From the first record to the last; a switch is the new thread's.
    let ran = |ticks, switches| Ran { ticks, switches };
    assert_eq!(tally.threads, [(1, ran(6, 1)), (2, ran(10, 1))].into());
    assert_eq!(tally.current(), Some(1));
}

/// Sections of several threads overlap where one is switched out within one, which only a bug does;
/// an exit without its enter, which the ring has lost, is no section.
#[test]
fn the_longest_section_is_that_of_one_thread() {
    let mut tally = Tally::default();
    for (time, event, thread) in [
        (1, Event::CriticalExit, 1),
        (2, Event::CriticalEnter, 1),
        (3, Event::CriticalExit, 1),
        (10, Event::CriticalEnter, 1),
        (12, Event::CriticalEnter, 2),
        (17, Event::CriticalExit, 1),
        (18, Event::CriticalExit, 2),
    ] {
        take(&mut tally, time, event, thread);
    }
    assert_eq!(tally.longest, Some((7, 1)));
}

/// Sections and running threads go on across intervals; each interval has its own counts.
#[test]
fn an_interval_begins_where_the_last_one_ended() {
    let mut tally = Tally::default();
    take(&mut tally, 0, Event::Switch, 1);
    take(&mut tally, 4, Event::CriticalEnter, 1);
    tally.until(100);
    assert_eq!(tally.threads[&1], Ran { ticks: 100, switches: 1 });
    tally.restart();
    assert_eq!((tally.records, tally.switches, tally.longest), (0, 0, None));
    tally.until(150);
    // Late, but not back in time.
    take(&mut tally, 140, Event::CriticalExit, 1);
    tally.until(160);
    assert_eq!(tally.threads[&1], Ran { ticks: 60, switches: 0 });
    assert_eq!(tally.longest, Some((136, 1)));
}
