use plat::trace::{Event, Record};

use super::{View, chosen, picture};
use crate::trace::Trace;
use crate::trace::draw::tests::check_texts;
use crate::trace::timeline::tests::{Script, r222942, thread, word};
use crate::trace::timeline::{At, Timeline};

/// A machine with this many CPUs: CPU 0 calls all others, which wait at a barrier; then each CPU
/// works, and wakes a thread on the next one.
pub(crate) fn busy(cpus: u16) -> Trace {
    let names: Vec<String> = (0..3 * cpus)
        .map(|number| match number / cpus {
            0 => "idle".to_string(),
            1 => format!("worker {}", number % cpus),
            _ => format!("waiter {}", number % cpus),
        })
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut s = Script::new(u32::from(cpus), &names);
    let quiet = word(0, 0, false);
    let section = word(1, 0, false);
    let locked = word(1, 1, false);
    for round in 0..3 {
        s.time += 3_000_000;
        s.add(0, cpus, section, Event::CriticalEnter, [0, 0]);
        s.add(0, cpus, section, Event::Call, [0, 0x500]);
        s.add(0, cpus, section, Event::IpiSend, [0xc_00f3, 0]);
        for cpu in 1..cpus {
            s.add(usize::from(cpu), cpu, quiet, Event::IrqEntry, [0xf3, 0]);
            s.add(usize::from(cpu), cpu, section, Event::Wait, [1, 0x501]);
        }
        for cpu in 1..cpus {
            s.add(usize::from(cpu), cpu, section, Event::Run, [0x500, 0x501]);
            s.time += 100 * u64::from(cpu);
            s.add(usize::from(cpu), cpu, section, Event::Leave, [0x501, 0]);
            s.add(usize::from(cpu), cpu, quiet, Event::IrqEoi, [0, 0]);
            s.add(usize::from(cpu), cpu, quiet, Event::IrqExit, [0, 0]);
        }
        s.add(0, cpus, section, Event::Return, [0, 0]);
        s.add(0, cpus, section, Event::CriticalExit, [0, 0]);
        s.time += 200_000;
        let last = 2 * cpus + round;
        s.add(1, 1, section, Event::CriticalEnter, [0, 0]);
        s.add(0, cpus, section, Event::Wakeup, [1, thread(last)]);
        s.add(0, cpus, quiet, Event::IpiSend, [0xf2, 1 << 24]);
        s.add(1, 1, section, Event::IrqEntry, [0xf2, 0]);
        s.add(1, 1, section, Event::IrqEoi, [0, 0]);
        s.add(1, 1, word(1, 0, true), Event::Owed, [0, 0]);
        s.add(1, 1, word(1, 0, true), Event::IrqExit, [0, 0]);
        s.add(1, 1, word(1, 0, true), Event::CriticalExit, [0, 0]);
        s.add(1, 1, word(1, 0, true), Event::CriticalEnter, [0, 0]);
        s.add(1, 1, word(2, 1, false), Event::Paid, [0, 0]);
        s.add(1, last, locked, Event::Switch, [thread(1), 2]);
        s.add(1, last, locked, Event::LockWait, [7, 7]);
        s.time += 400;
        s.add(1, last, word(2, 2, false), Event::SpinlockEnter, [7, 7]);
        s.add(1, last, word(2, 2, false), Event::SpinlockExit, [7, 7]);
        s.add(1, 1, locked, Event::Switch, [thread(last), 0]);
        s.add(1, 1, locked, Event::SpinlockExit, [8, 8]);
    }
    s.trace
}

fn drawn(trace: &Trace) -> String {
    picture(trace, "a trace", View::default())
}

#[test]
fn it_is_readable_with_2_4_and_8_cpus() {
    for cpus in [2, 4, 8] {
        let svg = drawn(&busy(cpus));
        check_texts(&svg);
        for cpu in 0..cpus {
            assert!(svg.contains(&format!(">cpu{cpu}</text>")), "{cpu} of {cpus}");
        }
        for class in ["thread", "section", "window", "service", "phase", "wake"] {
            assert!(svg.contains(&format!("class=\"{class}")), "{class}");
        }
        assert!(svg.contains("url(#hatch)"));
    }
    for cured in [false, true] {
        check_texts(&drawn(&r222942(cured)));
    }
}

#[test]
fn mistakes_are_marked() {
    let svg = drawn(&r222942(false));
    assert!(svg.contains("✕ no EOI") && svg.contains("✕ switch in an interrupt"));
    assert!(svg.contains("alarm"));
    let svg = drawn(&r222942(true));
    assert!(!svg.contains("✕"));
}

/// Where nothing else is wrong, a panic is what the picture is about.
#[test]
fn a_panic_is_marked() {
    let mut trace = r222942(true);
    assert!(!drawn(&trace).contains("✕ panic"));
    let records = &mut trace.cpus[1].records;
    let last = *records.last().expect("a record");
    records.push(Record { event: Event::Panic, time: last.time + 1, ..last });
    assert!(drawn(&trace).contains("✕ panic"));
}

#[test]
fn a_picture_has_both_colour_schemes_and_needs_no_other_file() {
    let svg = drawn(&busy(2));
    assert!(svg.contains("prefers-color-scheme:dark"));
    let links = svg.replace("http://www.w3.org/2000/svg", "");
    for other in ["http", "href", "@import"] {
        assert!(!links.contains(other), "{other}");
    }
}

#[test]
fn it_shows_the_records_around_a_moment() {
    let trace = busy(4);
    let timeline = Timeline::new(&trace);
    let time = |at: &At| trace.at(*at).time;
    let all: Vec<u64> = timeline.order.iter().map(time).collect();
    for (around, middle) in [(0, 0), (all[60], 60), (u64::MAX, all.len())] {
        let shown = chosen(&trace, &timeline, View { around: Some(around), records: 20 });
        assert_eq!(shown.len(), 20);
        let first = middle.saturating_sub(10).min(all.len() - 20);
        assert_eq!(shown, &timeline.order[first..first + 20]);
    }
    // By default what is wrong is in sight.
    let mut trace = r222942(false);
    let end = trace.cpus[0].records.last().copied().expect("a record");
    let later = (1..200).map(|n| Record { time: end.time + n * 100, ..end });
    trace.cpus[0].records.extend(later);
    let timeline = Timeline::new(&trace);
    let shown = chosen(&trace, &timeline, View::default());
    let is_switch = |at: &At| trace.at(*at).event == Event::Switch;
    assert!(shown.iter().any(is_switch));
}

#[test]
fn odd_traces_are_drawn_too() {
    drawn(&Trace::default());
    drawn(&Script::new(3, &[]).trace);
    let mut trace = busy(2);
    trace.frequency = 0;
    trace.cpus[1].lost = 7;
    let svg = drawn(&trace);
    assert!(svg.contains(" ticks") && svg.contains("7 older records are lost"));
}
