//! The trace: what is recorded, by whom, and in which order; and that recording changes nothing.

use alloc::vec::Vec;

use heart::cpu::CpuId;
use heart::critical::CritWord;
use heart::rendezvous::{IpiCtx, Phase};
use heart::sched::Reason;
use heart::shim::trace::{event, event_alone};
use heart::shim::{AtomicU64, Ordering};
use kernel::arch::vector;
use kernel::ktest::step;
use kernel::pcpu::Pcpu;
use kernel::port::{CriticalGuard, InterruptsOff};
use kernel::{ktest, pcpu, rendezvous, sched, trace};
use plat::trace::{CAPACITY, Event, RECORD, Record};

use crate::stepping::{better_thread, finish, wake};

/// How many records the CPU of `block` has written.
fn count(block: &Pcpu) -> usize {
    trace::count(block) as usize
}

/// The record with this number of that CPU; `None` if it is not complete.
fn record(block: &Pcpu, number: usize) -> Option<Record> {
    let ring = block.trace_ring.load(Ordering::Relaxed) as *const [u8; RECORD];
    let place = ring.wrapping_add(number % CAPACITY);
    // SAFETY: a ring has room for CAPACITY records and is never freed; this CPU writes it, or one
    // that has ended what is looked at.
    let bytes = unsafe { place.read_volatile() };
    Record::parse(&bytes)
}

/// Marks this moment in the trace of this CPU.
fn mark(number: u64) {
    let _off = InterruptsOff::enter();
    event::<{ Event::Mark as u16 }>(number, 0);
}

/// What this CPU records while `code` runs on it: without the marks before and after.
fn recorded(code: impl FnOnce()) -> Vec<Record> {
    sched::curthread().pin();
    let here = pcpu::this();
    let first = count(here);
    code();
    let last = count(here);
    sched::curthread().unpin();
    let records = (first..last).map(|number| record(here, number).expect("complete"));
    records.collect()
}

/// `records` without the interrupts of the timer, which come when they like, and what they do.
fn without_timer(records: impl IntoIterator<Item = Record>) -> Vec<Record> {
    let mut within = false;
    let is_another = |record: &Record| {
        within |=
            record.event == Event::IrqEntry && record.arguments[0] == u64::from(vector::TIMER);
        let is_another = !within;
        within &= record.event != Event::IrqExit;
        is_another
    };
    records.into_iter().filter(is_another).collect()
}

/// The events of `records`.
fn events(records: &[Record]) -> Vec<Event> {
    records.iter().map(|record| record.event).collect()
}

fn word(record: &Record) -> CritWord {
    CritWord::from_bits(record.word)
}

ktest! {
    /// Without `trace=` there are no rings, and no record is written.
    fn off() [] {
        assert!(!trace::is_on());
        drop(CriticalGuard::enter());
        mark(1);
        for cpu in &pcpu::online() {
            let block = pcpu::of(cpu).expect("it is online");
            assert_eq!((count(block), block.trace_ring.load(Ordering::Relaxed)), (0, 0), "{cpu}");
        }
    }
}

ktest! {
    /// Words that name nothing are reported, and the others count.
    fn words_of_the_command_line() [
        append = "trace=critical,lcok,mark", console = "trace=\"lcok\" names nothing to trace, ignored (known: irq,",
    ] {
        assert_eq!(events(&recorded(|| drop(CriticalGuard::enter()))), [Event::CriticalEnter, Event::CriticalExit]);
    }
}

ktest! {
    /// `trace=off` is as no word at all.
    fn turned_off() [append = "trace=off"] {
        assert!(!trace::is_on());
    }
}

ktest! {
    /// Only the outermost section is recorded, with the number of its thread and where it is in the
    /// code. Each record says what the thread held in it.
    fn a_section() [append = "trace=critical"] {
        ktest::take_timers();
        let records = recorded(|| {
            let outer = CriticalGuard::enter();
            drop(CriticalGuard::enter());
            drop(outer);
            drop(CriticalGuard::enter());
        });
        assert_eq!(events(&records), [
            Event::CriticalEnter, Event::CriticalExit, Event::CriticalEnter, Event::CriticalExit,
        ]);
        let code = a_section as fn() as usize as u64;
        for record in &records {
            assert_eq!(u32::from(record.thread), sched::curthread().index());
            assert_eq!((word(record).critnest(), word(record).owepreempt()), (1, false));
            assert!(record.arguments[0].abs_diff(code) < 1 << 20, "{record:x?}");
        }
        assert!(records.is_sorted_by_key(|record| record.time));
    }
}

ktest! {
    /// A better thread becomes runnable within a section: the thread owes, leaves the section, is in
    /// the window, enters again, pays, and is switched out and in.
    fn a_deferred_preemption() [append = "trace=critical,sched,irq"] {
        ktest::take_timers();
        let better = better_thread();
        let records = recorded(|| {
            let section = CriticalGuard::enter();
            wake();
            drop(section);
        });
        let records = without_timer(records);
        let me = sched::curthread().index() as u16;
        let (mine, others): (Vec<_>, Vec<_>) =
            records.iter().partition(|record| record.thread == me);
        let mine: Vec<Record> = mine.into_iter().copied().collect();
        assert_eq!(events(&mine), [
            Event::CriticalEnter, Event::Wakeup, Event::Owed, Event::CriticalExit,
            Event::CriticalEnter, Event::Paid, Event::Switch,
        ]);
        let owes: Vec<bool> = mine.iter().map(|record| word(record).owepreempt()).collect();
        assert_eq!(owes, [false, false, true, true, true, true, false]);
        assert_eq!(mine[1].arguments[0], pcpu::this().id().index() as u64);
        let first = others.first().expect("the other thread ran");
        assert_eq!((first.event, first.arguments[1]), (Event::Switch, Reason::Preempted as u64));
        assert_eq!(first.arguments[0], core::ptr::from_ref(sched::curthread()) as u64);
        assert_eq!(mine[6].arguments[1], Reason::Sleep as u64);
        finish(better);
    }
}

ktest! {
    /// A rendezvous of two CPUs: the command, the interrupt, the phases, the acknowledgement, in the
    /// order of time across both CPUs.
    fn a_rendezvous() [smp = "2..=8", append = "trace=irq,ipi,rendezvous"] {
        ktest::take_timers();
        let cpu1 = CpuId::new(1).unwrap();
        let there = pcpu::of(cpu1).expect("it is online");
        let set = [pcpu::this().id(), cpu1].into_iter().collect();
        let before = count(there);
        let nothing = |_: &IpiCtx| ();
        let here = recorded(|| {
            let run = Phase::Run(&nothing);
            rendezvous::smp_rendezvous_cpus(&set, run, run, Phase::NoBarrier).expect("it answers");
        });
        let here = without_timer(here);
        // It returns from the interrupt after the call has ended.
        let there = loop {
            let records = (before..count(there)).map_while(|number| record(there, number));
            let mut records = without_timer(records);
            if records.len() >= 6 {
                records.truncate(6);
                break records;
            }
            core::hint::spin_loop();
        };
        assert_eq!(events(&here), [
            Event::Call, Event::IpiSend, Event::Run, Event::Leave, Event::Open, Event::Run,
            Event::Leave, Event::Return,
        ]);
        assert_eq!(events(&there), [
            Event::IrqEntry, Event::Run, Event::Wait, Event::Leave, Event::IrqEoi, Event::IrqExit,
        ]);
        assert_eq!(there[0].arguments[0], u64::from(vector::RENDEZVOUS));
        assert_eq!(here[1].arguments[0] as u8, vector::RENDEZVOUS);
        let [_, slot] = there[2].arguments;
        assert_eq!(there[3].arguments[0], slot, "it leaves where it has waited");
        let depths: Vec<u32> = there.iter().map(|record| word(record).interrupt_depth()).collect();
        assert_eq!(depths, [0, 1, 1, 1, 1, 0]);
        // The command precedes the interrupt, and the opening the phase that it opens.
        assert!(here[1].time <= there[0].time && here[4].time <= there[3].time);
        assert!(there[3].time <= here[7].time);
    }
}

ktest! {
    /// A ring that is full begins again. The count goes on.
    fn a_full_ring() [append = "trace=mark"] {
        const MORE: usize = 100;
        sched::curthread().pin();
        let here = pcpu::this();
        for number in 0..CAPACITY + MORE {
            mark(number as u64);
        }
        assert_eq!(count(here), CAPACITY + MORE);
        let kept = (MORE..CAPACITY + MORE).map(|number| record(here, number).expect("complete"));
        assert!(kept.enumerate().all(|(index, record)| record.arguments[0] == (MORE + index) as u64));
    }
}

/// How many NMIs have written a record.
static NMIS: AtomicU64 = AtomicU64::new(0);

ktest! {
    /// An NMI at every instruction boundary of a trace point, of which each also writes records: all
    /// are complete, and none is lost or overwritten.
    fn an_nmi_at_every_boundary() [append = "trace=critical,mark,irq"] {
        sched::curthread().pin();
        step::on_nmi(|| {
            event_alone::<{ Event::Mark as u16 }>();
            NMIS.fetch_add(1, Ordering::Relaxed);
        });
        let inject = || pcpu::this().send_last_nmi();
        let section = || drop(CriticalGuard::enter());
        for at in 0.. {
            let before = NMIS.load(Ordering::Relaxed);
            let mut boundaries = 0;
            let records = recorded(|| boundaries = step::run(section, at, inject));
            if boundaries <= at {
                assert!(at > 30, "{at}: not stepped through the trace points");
                return;
            }
            assert_eq!(NMIS.load(Ordering::Relaxed), before + 1, "boundary {at}");
            let number = |event| records.iter().filter(|record| record.event == event).count();
            let numbers = [Event::Mark, Event::CriticalEnter, Event::CriticalExit].map(number);
            assert_eq!(numbers, [1, 1, 1], "boundary {at}: {:?}", events(&records));
        }
    }
}

ktest! {
    /// A panic's report has the last records of each CPU: what was before the panic, and not
    /// the report's own spinlocks.
    fn a_panic_prints_the_tail() [
        append = "trace=mark,lock,cpu", expect = "panic", console = "cpu0: the last of ",
        console = "owepreempt false, interrupts off: panic",
        console = "owepreempt false, interrupts off: mark number 0x2a value 0x0",
    ] {
        sched::curthread().pin();
        mark(42);
        panic!("and its tail");
    }
}
