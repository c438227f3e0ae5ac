use std::collections::{BTreeMap, BTreeSet};

use plat::trace::{Event, Groups};

use super::*;
use crate::trace::{Cpu, Thread};

/// Two CPUs; the second begins a little later. What `record` makes.
fn trace(cpus: [Vec<Record>; 2]) -> Trace {
    let thread = |(number, name): (u64, &str)| {
        Some(Thread { address: 0x1000 * number, name: name.to_string() })
    };
    let names = [(1, "boot"), (2, "idle"), (3, "a \"b\"\\")];
    Trace {
        cpus: cpus
            .into_iter()
            .enumerate()
            .map(|(cpu, records)| Cpu { apic_id: cpu as u32, records, ..Cpu::default() })
            .collect(),
        threads: names.into_iter().map(thread).collect(),
        frequency: 2_000_000_000,
        entry: 1000,
        groups: Groups::ALL,
        names: [(0xffff_ffff_8020_0000, "kernel/src/init.rs:7".to_string())].into(),
    }
}

fn record(time: u64, event: Event, arguments: [u64; 2], thread: u16) -> Record {
    Record { time, arguments, word: 1, thread, event }
}

/// The events of a file.
fn events(trace: &Trace) -> Vec<Value> {
    let mut file: Value = serde_json::from_str(&json(trace)).expect("it is JSON");
    serde_json::from_value(file["traceEvents"].take()).expect("a list")
}

fn of<'a>(events: &'a [Value], phase: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["ph"] == phase).collect()
}

/// What Perfetto would drop in silence: a number of a track that means another one, slices of a
/// track that overlap, arrows without both ends.
fn check(events: &[Value]) {
    let key = |event: &Value| (event["pid"].as_u64(), event["tid"].as_u64());
    let mut open: BTreeMap<_, Vec<u64>> = BTreeMap::new();
    let mut last = BTreeMap::new();
    for event in of(events, "X") {
        let (pid, tid) = key(event);
        assert!(tid != Some(0) && tid != pid, "{event}");
        let nanos = |field: &str| (event[field].as_f64().expect("a time") * 1e3).round() as u64;
        let time = nanos("ts");
        let until = time + nanos("dur");
        assert!(last.insert(key(event), time).is_none_or(|last| last <= time), "{event}");
        let open = open.entry(key(event)).or_default();
        while open.pop_if(|end| *end <= time).is_some() {}
        assert!(open.last().is_none_or(|end| until <= *end), "{event}");
        open.push(until);
    }
    let named: BTreeSet<_> = of(events, "M").into_iter().map(key).collect();
    let tracks: Vec<_> = events.iter().filter(|event| event["ph"] != "C").map(key).collect();
    assert!(tracks.iter().all(|track| named.contains(track)));
    let ends = |phase| -> Vec<_> {
        let ends = of(events, phase).into_iter();
        let mut ends: Vec<_> = ends
            .map(|end| (end["id"].as_u64(), end["name"].to_string(), end["cat"].to_string()))
            .collect();
        ends.sort();
        ends
    };
    assert_eq!(ends("s"), ends("f"));
    let ids: BTreeSet<_> = ends("s").into_iter().map(|(id, ..)| id).collect();
    assert_eq!(ids.len(), ends("s").len(), "the numbers of arrows are unique");
    assert!(of(events, "f").iter().all(|end| end["bp"] == "e"));
}

#[test]
fn a_trace_of_nothing_is_a_file() {
    for cpus in [Vec::new(), vec![Cpu::default()]] {
        let trace = Trace { cpus, frequency: 1, ..Trace::default() };
        check(&events(&trace));
    }
}

/// With the names of the arguments, of threads, of places; times in microseconds since the entry.
#[test]
fn a_record_is_told_with_its_fields() {
    let place = 0xffff_ffff_8020_0000;
    let trace = trace([
        vec![
            record(3000, Event::Call, [place, 1 << 40], 0),
            record(3003, Event::Leave, [8, 0], 0),
            record(3004, Event::Switch, [0x1000, 2], 2),
        ],
        vec![record(1000, Event::IrqEntry, [0x31, 0], 9)],
    ]);
    let events = events(&trace);
    check(&events);
    let told: Vec<String> = of(&events, "i")
        .iter()
        .map(|event| {
            format!("{} {} {} {}", event["ts"], event["name"], event["cat"], event["args"])
        })
        .collect();
    let counts =
        |words: &str, thread: &str| format!("{{{words}\"critnest\":0,\"owepreempt\":0,{thread}}}");
    let same = |told: &str, head: &str, args: &str| {
        let args: Value = serde_json::from_str(args).expect("JSON");
        assert_eq!(told, format!("{head} {args}"));
    };
    let call = "\"place\":\"kernel/src/init.rs:7\",\"slot\":\"0x10000000000\",";
    same(&told[0], "1.0 \"call\" \"rendezvous\"", &counts(call, "\"thread\":\"boot\""));
    same(&told[1], "1.001 \"leave\" \"rendezvous\"", &counts("\"slot\":8,", "\"thread\":\"boot\""));
    let switch = "\"from\":\"boot\",\"reason\":\"preempted\",";
    let thread = r#""thread":"a \"b\"\\""#;
    same(&told[2], "1.002 \"switch\" \"sched\"", &counts(switch, thread));
    let irq = "\"vector\":\"vector 0x31\",";
    same(&told[3], "0.0 \"irq_entry\" \"irq\"", &counts(irq, "\"thread\":\"thread 9\""));
}

/// The lost ones are told where they are missing.
#[test]
fn lost_records_are_shown() {
    let mut trace = trace([vec![record(5000, Event::Owed, [0, 0], 0)], Vec::new()]);
    (trace.cpus[0].lost, trace.cpus[1].dropped) = (7, 2);
    let events = events(&trace);
    check(&events);
    let lost: Vec<String> = of(&events, "i")
        .iter()
        .filter(|event| event["name"] == "lost records")
        .map(|event| format!("{} {}", event["ts"], event["args"]))
        .collect();
    assert_eq!(
        lost,
        [
            r#"2.0 {"incomplete or unknown":0,"overwritten":7}"#,
            r#"0.0 {"incomplete or unknown":2,"overwritten":0}"#,
        ]
    );
}

fn slice(from: u64, until: u64) -> Slice {
    let at = At { cpu: 0, index: 0 };
    Slice { from, until, name: String::new(), thread: 0, at, arrows: Vec::new() }
}

#[test]
fn what_does_not_nest_has_a_lane_of_its_own() {
    let shown = |slices: &[(u64, u64)]| -> Vec<Vec<(u64, u64)>> {
        let slices = slices.iter().map(|&(from, until)| slice(from, until)).collect();
        let lane = |lane: Vec<Slice>| lane.iter().map(|one| (one.from, one.until)).collect();
        lanes(slices).into_iter().map(lane).collect()
    };
    assert_eq!(shown(&[]), Vec::<Vec<_>>::new());
    let nests = [(0, 10), (0, 4), (1, 3), (4, 10), (5, 5), (10, 12)];
    assert_eq!(shown(&nests), [nests.to_vec()]);
    assert_eq!(shown(&[(2, 8), (0, 5), (6, 9)]), [vec![(0, 5), (6, 9)], vec![(2, 8)]]);
    assert_eq!(shown(&[(0, 5), (1, 6), (2, 7)]), [vec![(0, 5)], vec![(1, 6)], vec![(2, 7)]]);
}

/// On one CPU a thread runs a moment before the other one says that it has left.
#[test]
fn a_thread_runs_on_one_cpu_at_a_time() {
    let trace = trace([
        vec![
            record(2000, Event::Mark, [0, 0], 2),
            record(2400, Event::Switch, [0x3000, 2], 0),
            record(9000, Event::Mark, [0, 0], 0),
        ],
        vec![
            record(2000, Event::Mark, [0, 0], 1),
            record(2300, Event::Switch, [0x2000, 4], 2),
            record(3000, Event::Switch, [0x3000, 0], 1),
            record(4000, Event::Wakeup, [1, 0x3000], 1),
            record(5000, Event::Switch, [0x2000, 4], 2),
        ],
    ]);
    let timeline = Timeline::new(&trace);
    let threads = threads::slices(&trace, &timeline, 9000);
    let mut slices: Vec<(u64, u64, &str)> =
        threads[&2].iter().map(|one| (one.from, one.until, one.name.as_str())).collect();
    slices.sort_unstable();
    assert_eq!(
        slices,
        [
            (2000, 2300, "on cpu0"),
            (2300, 3000, "on cpu1"),
            (3000, 4000, "sleeping"),
            (4000, 5000, "runnable"),
            (5000, 9000, "on cpu1"),
        ]
    );
    check(&events(&trace));
}

/// Whatever the records say, the file is one that Perfetto takes whole.
#[test]
fn no_records_make_a_bad_file() {
    let mut seed = 1_u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for _ in 0..40 {
        let mut cpus = [Vec::new(), Vec::new()];
        for records in &mut cpus {
            let mut time = 0;
            for _ in 0..60 {
                time += random(3) * random(500);
                let event = Event::ALL[random(Event::ALL.len() as u64) as usize];
                let arguments = [random(8) << (8 * random(5)), 0x1000 * random(5)];
                let word = random(1 << 32) as u32;
                let thread = random(4) as u16;
                records.push(Record { time, arguments, word, thread, event });
            }
        }
        check(&events(&trace(cpus)));
    }
}
