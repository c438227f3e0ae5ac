use std::fs;

use plat::trace::{Event, Groups, Record};

use super::{At, Band, Cause, Moment, Span, Timeline, VECTORS, vector};
use crate::paths;
use crate::trace::{Cpu, Thread, Trace};

/// A thread's word: sections, those of spinlocks among them, spinlocks, whether a preemption is owed.
pub(crate) const fn word(sections: u32, locks: u32, owes: bool) -> u32 {
    !owes as u32 | sections << 1 | locks << 11
}

/// A trace that is written record by record, ten ticks apart.
pub(crate) struct Script {
    pub(crate) trace: Trace,
    pub(crate) time: u64,
}

/// The address of the thread with this number.
pub(crate) const fn thread(number: u16) -> u64 {
    0xffff_8000_0010_0000 + number as u64 * 0x1000
}

impl Script {
    pub(crate) fn new(cpus: u32, threads: &[&str]) -> Self {
        let thread = |(number, name): (usize, &&str)| {
            Some(Thread { address: thread(number as u16), name: (*name).to_string() })
        };
        let cpu = |apic_id| Cpu { apic_id, ..Cpu::default() };
        let trace = Trace {
            cpus: (0..cpus).map(cpu).collect(),
            threads: threads.iter().enumerate().map(thread).collect(),
            frequency: 1_000_000_000,
            groups: Groups::ALL,
            ..Trace::default()
        };
        Self { trace, time: 1000 }
    }

    /// The next record: on this CPU, of this thread, whose word is `word`.
    pub(crate) fn add(&mut self, cpu: usize, thread: u16, word: u32, event: Event, of: [u64; 2]) {
        self.time += 10;
        let record = Record { time: self.time, arguments: of, word, thread, event };
        self.trace.cpus[cpu].records.push(record);
    }
}

/// What r222942 is about, as FreeBSD's order of an interrupt does it: CPU 0 calls CPU 1, which is in
/// the window W. Without the `cured` section the release of the lock switches threads.
pub(crate) fn r222942(cured: bool) -> Trace {
    const LOCK: u64 = 0xffff_8000_0000_1000;
    const RUNQ: u64 = 0xffff_8000_0000_2000;
    let mut s = Script::new(2, &["initiator", "worker", "better", "idle"]);
    let quiet = word(0, 0, false);
    let w = word(0, 0, true);
    let nested = u32::from(cured);
    s.add(1, 1, quiet, Event::Mark, [1, 0]);
    s.add(1, 1, word(1, 0, false), Event::CriticalEnter, [0, 0]);
    s.add(1, 1, word(1, 0, false), Event::Wakeup, [1, thread(2)]);
    s.add(1, 1, word(1, 0, true), Event::Owed, [0, 0]);
    s.add(1, 1, word(1, 0, true), Event::CriticalExit, [0, 0]);
    // CPU 1 asks for the call, and CPU 0 makes it.
    s.add(1, 1, w, Event::Mark, [3, 0]);
    s.add(0, 0, quiet, Event::Mark, [3, 0]);
    s.add(0, 0, word(1, 0, false), Event::Call, [0, 0x500]);
    s.add(0, 0, word(1, 0, false), Event::IpiSend, [0xf3, 1 << 24]);
    s.add(1, 1, w, Event::IrqEntry, [0xf3, 0]);
    s.add(1, 1, word(nested, 0, true), Event::Run, [0x500, 0x501]);
    s.add(1, 1, word(nested + 1, 1, true), Event::SpinlockEnter, [LOCK, LOCK]);
    s.add(1, 1, word(nested + 1, 1, true), Event::SpinlockExit, [LOCK, LOCK]);
    let pay = |s: &mut Script| {
        s.add(1, 1, word(1, 0, true), Event::CriticalEnter, [0, 0]);
        s.add(1, 1, word(2, 1, true), Event::SpinlockEnter, [RUNQ, RUNQ]);
        s.add(1, 1, word(1, 1, false), Event::Paid, [0, 0]);
        s.add(1, 2, word(1, 1, false), Event::Switch, [thread(1), 2]);
        s.add(1, 2, word(1, 1, false), Event::SpinlockExit, [RUNQ, RUNQ]);
    };
    if cured {
        s.add(1, 1, word(1, 0, true), Event::Leave, [0x501, 0]);
        s.add(0, 0, word(1, 0, false), Event::Return, [0, 0]);
        s.add(1, 1, w, Event::IrqEoi, [0, 0]);
        pay(&mut s);
    } else {
        pay(&mut s);
        // The timer of CPU 1 never comes again; that of CPU 0 does.
        s.add(0, 0, word(1, 0, false), Event::IrqEntry, [0xef, 0]);
        s.add(0, 0, word(1, 0, false), Event::IrqEoi, [0, 0]);
        s.add(0, 0, word(1, 0, false), Event::IrqExit, [0, 0]);
    }
    s.add(1, 2, quiet, Event::Mark, [2, 0]);
    s.trace
}

fn spans(timeline: &Timeline, cpu: usize, band: Band) -> Vec<(u64, Option<u64>)> {
    let of = |span: &&Span| span.band == band;
    timeline.lanes[cpu].iter().filter(of).map(|span| (span.from, span.until)).collect()
}

fn time(trace: &Trace, cpu: usize, event: Event, nth: usize) -> u64 {
    let mut records = trace.cpus[cpu].records.iter().filter(|record| record.event == event);
    records.nth(nth).expect("a record").time
}

fn place(trace: &Trace, cpu: usize, event: Event) -> At {
    let records = &trace.cpus[cpu].records;
    let index = records.iter().position(|record| record.event == event).expect("a record");
    At { cpu, index }
}

#[test]
fn vectors_have_the_kernels_numbers() {
    let source = fs::read_to_string(paths::root().join("kernel/src/arch/x86_64/vector.rs"));
    let source = source.expect("the list of vectors");
    for (number, name) in VECTORS {
        let constant = name.to_uppercase().replace(' ', "_");
        let line = format!("pub const {constant}: u8 = {number:#x};");
        assert!(source.contains(&line), "{line}");
    }
    assert_eq!(vector(0x31), "vector 0x31");
}

#[test]
fn the_window_opens_at_the_exit_and_the_interrupt_hits_it() {
    for cured in [false, true] {
        let trace = r222942(cured);
        let timeline = Timeline::new(&trace);
        let window = spans(&timeline, 1, Band::Window);
        let exit = time(&trace, 1, Event::CriticalExit, 0);
        let entry = time(&trace, 1, Event::IrqEntry, 0);
        assert_eq!(window[0], (exit, Some(entry)));
        let hit = (Moment::HitsWindow, place(&trace, 1, Event::IrqEntry));
        assert!(timeline.marks.contains(&hit), "{:?}", timeline.marks);
        // Without the cure, the release of the lock opens it again, inside the interrupt.
        assert_eq!(window.len(), if cured { 1 } else { 2 });
        assert_eq!(spans(&timeline, 0, Band::Window), []);
    }
}

#[test]
fn the_uncured_cpu_switches_in_service_and_never_acknowledges() {
    let trace = r222942(false);
    let timeline = Timeline::new(&trace);
    let entry = place(&trace, 1, Event::IrqEntry);
    let switch = place(&trace, 1, Event::Switch);
    assert!(timeline.marks.contains(&(Moment::NoEoi(0xf3), entry)));
    assert!(timeline.marks.contains(&(Moment::SwitchInService(0xf3), switch)));
    assert_eq!(spans(&timeline, 1, Band::Service(0xf3)), [(trace.at(entry).time, None)]);
    // The interrupt's frame and its phase are on the stack of a thread that does not run.
    let end = Some(trace.at(switch).time);
    assert_eq!(spans(&timeline, 1, Band::Interrupt(0xf3)), [(trace.at(entry).time, end)]);
    assert_eq!(spans(&timeline, 1, Band::Phase), [(time(&trace, 1, Event::Run, 0), end)]);
    let call = time(&trace, 0, Event::Call, 0);
    assert_eq!(spans(&timeline, 0, Band::Call), [(call, None)]);
    assert_eq!(timeline.calls.len(), 1);
    assert_eq!(timeline.calls[0].end, None);
    // The other CPU acknowledges its timer.
    assert_eq!(spans(&timeline, 0, Band::Service(0xef)).len(), 1);
    assert!(spans(&timeline, 0, Band::Service(0xef))[0].1.is_some());
}

#[test]
fn the_cured_cpu_acknowledges_and_then_switches() {
    let trace = r222942(true);
    let timeline = Timeline::new(&trace);
    let bad = |moment: &Moment| {
        matches!(moment, Moment::NoEoi(_) | Moment::SwitchInService(_) | Moment::StrayEoi)
    };
    assert!(!timeline.marks.iter().any(|(moment, _)| bad(moment)), "{:?}", timeline.marks);
    let (entry, eoi) = (time(&trace, 1, Event::IrqEntry, 0), time(&trace, 1, Event::IrqEoi, 0));
    assert_eq!(spans(&timeline, 1, Band::Service(0xf3)), [(entry, Some(eoi))]);
    assert!(time(&trace, 1, Event::Switch, 0) > eoi);
    assert_eq!(timeline.calls[0].end, Some(place(&trace, 0, Event::Return)));
    assert_eq!(timeline.calls[0].ran, [place(&trace, 1, Event::Run)]);
}

#[test]
fn arrows_lead_from_ipis_and_wakeups_to_what_they_cause() {
    let trace = r222942(true);
    let timeline = Timeline::new(&trace);
    let arrow = |cause| timeline.arrows.iter().find(|arrow| arrow.cause == cause).expect("one");
    let ipi = arrow(Cause::Ipi(0xf3));
    assert_eq!(ipi.from, place(&trace, 0, Event::IpiSend));
    assert_eq!(ipi.to, place(&trace, 1, Event::IrqEntry));
    let wakeup = arrow(Cause::Wakeup);
    assert_eq!(wakeup.from, place(&trace, 1, Event::Wakeup));
    assert_eq!(wakeup.to, place(&trace, 1, Event::Switch));
    assert_eq!(timeline.arrows.len(), 2);
}

#[test]
fn a_command_reaches_the_cpus_that_its_shorthand_names() {
    let quiet = word(0, 0, false);
    // By APIC id; itself; all; all but itself; an NMI; a start-up IPI, which interrupts nobody.
    let cases: [(u64, u64, &[usize]); 6] = [
        (0xf2, 6, &[3]),
        (0x4_00f2, 0, &[1]),
        (0x8_00f2, 0, &[0, 1, 2, 3]),
        (0xc_00f2, 0, &[0, 2, 3]),
        (0x400, 4, &[2]),
        (0x608, 4, &[]),
    ];
    for (command, apic_id, expected) in cases {
        let mut s = Script::new(4, &["idle"; 4]);
        for (cpu, of) in s.trace.cpus.iter_mut().enumerate() {
            of.apic_id = cpu as u32 * 2;
        }
        s.add(1, 1, quiet, Event::IpiSend, [command, apic_id << 24]);
        for cpu in 0..4 {
            let thread = cpu as u16;
            s.add(cpu, thread, quiet, Event::IrqEntry, [0xf2, 0]);
            s.add(cpu, thread, quiet, Event::NmiEntry, [0, 0]);
        }
        let timeline = Timeline::new(&s.trace);
        let reached: Vec<usize> = timeline.arrows.iter().map(|arrow| arrow.to.cpu).collect();
        assert_eq!(reached, expected, "{command:#x}");
    }
}

#[test]
fn an_eoi_on_another_cpu_acknowledges_nothing_there() {
    let mut s = Script::new(2, &["worker", "better", "idle"]);
    let quiet = word(0, 0, false);
    let switch = word(1, 1, false);
    s.add(1, 2, quiet, Event::Mark, [0, 0]);
    s.add(0, 0, word(0, 0, true), Event::IrqEntry, [0xf3, 0]);
    s.add(0, 1, switch, Event::Switch, [thread(0), 2]);
    s.add(1, 0, switch, Event::Switch, [thread(2), 4]);
    s.add(1, 0, quiet, Event::IrqEoi, [0, 0]);
    s.add(1, 0, quiet, Event::IrqExit, [0, 0]);
    let timeline = Timeline::new(&s.trace);
    let stray = (Moment::StrayEoi, place(&s.trace, 1, Event::IrqEoi));
    assert!(timeline.marks.contains(&stray), "{:?}", timeline.marks);
    let entry = place(&s.trace, 0, Event::IrqEntry);
    assert!(timeline.marks.contains(&(Moment::NoEoi(0xf3), entry)));
    // The interrupt goes on with the thread.
    assert_eq!(spans(&timeline, 0, Band::Interrupt(0xf3)), [(1020, Some(1030))]);
    assert_eq!(spans(&timeline, 1, Band::Interrupt(0xf3)), [(1040, Some(1060))]);
    assert_eq!(spans(&timeline, 1, Band::Thread), [(1010, Some(1040)), (1040, None)]);
}

#[test]
fn interrupts_nest_and_the_newest_ends_first() {
    let mut s = Script::new(1, &["worker"]);
    let quiet = word(0, 0, false);
    for (event, vector) in [
        (Event::IrqEntry, 0xef),
        (Event::IrqEntry, 0xf3),
        (Event::IrqEoi, 0),
        (Event::IrqExit, 0),
        (Event::IrqEoi, 0),
        (Event::IrqExit, 0),
        // Ends that began before the trace.
        (Event::IrqEoi, 0),
        (Event::IrqExit, 0),
        (Event::CpuGo, 0),
        (Event::Return, 7),
        // Not in service at all.
        (Event::IrqEntry, 0xff),
        (Event::IrqExit, 0),
    ] {
        s.add(0, 0, quiet, event, [vector, 0]);
    }
    let timeline = Timeline::new(&s.trace);
    assert_eq!(spans(&timeline, 0, Band::Service(0xef)), [(1010, Some(1050))]);
    assert_eq!(spans(&timeline, 0, Band::Service(0xf3)), [(1020, Some(1030))]);
    assert_eq!(spans(&timeline, 0, Band::Interrupt(0xff)), [(1110, Some(1120))]);
    let bad = timeline.marks.iter().filter(|(moment, _)| *moment != Moment::Eoi);
    assert_eq!(bad.count(), 0, "{:?}", timeline.marks);
}

#[test]
fn a_forgotten_eoi_is_marked_once_the_interrupt_has_returned() {
    let mut s = Script::new(1, &["worker"]);
    s.add(0, 0, word(0, 0, false), Event::IrqEntry, [0xf3, 0]);
    assert_eq!(Timeline::new(&s.trace).marks, [], "it may still come");
    s.add(0, 0, word(0, 0, false), Event::IrqExit, [0, 0]);
    let entry = At { cpu: 0, index: 0 };
    assert_eq!(Timeline::new(&s.trace).marks, [(Moment::NoEoi(0xf3), entry)]);
}

#[test]
fn sections_locks_and_stops_have_spans() {
    let mut s = Script::new(1, &["worker"]);
    let quiet = word(0, 0, false);
    s.add(0, 0, word(1, 0, false), Event::CriticalEnter, [0, 0]);
    s.add(0, 0, word(1, 0, false), Event::LockWait, [9, 9]);
    s.add(0, 0, word(2, 1, false), Event::SpinlockEnter, [9, 9]);
    s.add(0, 0, word(2, 1, false), Event::SpinlockExit, [9, 9]);
    s.add(0, 0, word(1, 0, false), Event::CriticalExit, [0, 0]);
    s.add(0, 0, quiet, Event::NmiEntry, [0, 0]);
    s.add(0, 0, quiet, Event::CpuStop, [0, 0]);
    s.add(0, 0, quiet, Event::CpuGo, [0, 0]);
    s.add(0, 0, quiet, Event::NmiExit, [0, 0]);
    let timeline = Timeline::new(&s.trace);
    assert_eq!(spans(&timeline, 0, Band::Section), [(1010, Some(1050))]);
    assert_eq!(spans(&timeline, 0, Band::Spin), [(1020, Some(1030))]);
    assert_eq!(spans(&timeline, 0, Band::Nmi), [(1060, Some(1090))]);
    assert_eq!(spans(&timeline, 0, Band::Stopped), [(1070, Some(1080))]);
    assert_eq!(spans(&timeline, 0, Band::Window), []);
}

#[test]
fn an_empty_trace_shows_nothing() {
    assert_eq!(Timeline::new(&Trace::default()), Timeline::default());
    let timeline = Timeline::new(&Script::new(2, &[]).trace);
    assert_eq!(timeline.lanes, [vec![], vec![]]);
}

#[test]
fn a_cpu_runs_the_next_phase_once_it_is_open() {
    let mut s = Script::new(3, &["initiator", "one", "two"]);
    let quiet = word(0, 0, false);
    s.add(0, 0, quiet, Event::Call, [0, 0x500]);
    // Each CPU has a slot; that of the initiator says which call it is.
    s.add(1, 1, quiet, Event::Run, [0x500, 0x501]);
    s.add(1, 1, quiet, Event::Wait, [1, 0x501]);
    s.add(2, 2, quiet, Event::Run, [0x900, 0x502]);
    s.add(2, 2, quiet, Event::Wait, [1, 0x502]);
    s.add(0, 0, quiet, Event::Open, [2, 0x500]);
    s.add(1, 1, quiet, Event::Leave, [0x501, 0]);
    s.add(0, 0, quiet, Event::Return, [0, 0]);
    let timeline = Timeline::new(&s.trace);
    assert_eq!(spans(&timeline, 1, Band::Barrier), [(1030, Some(1060))]);
    assert_eq!(spans(&timeline, 1, Band::Phase), [(1020, Some(1030)), (1060, Some(1070))]);
    assert_eq!(spans(&timeline, 2, Band::Barrier), [(1050, None)]);
    let call = &timeline.calls[0];
    assert_eq!((call.ran.len(), call.left.len(), call.end.is_some()), (1, 1, true));
}
