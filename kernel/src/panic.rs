//! The panic: one CPU reports, and the others are stopped.
//!
//! The first CPU to panic wins ([`heart::more::stop::Stops::panics_first`]) and sends every other
//! online CPU an NMI, which reaches it whatever it does and whatever its interrupt flag says. Each
//! leaves its registers in its block and stops, as for any stop, but for good. So does one that is
//! already stopped, or waits to stop others. A CPU that panics second leaves its message there too,
//! and no NMI stops it before it has: of two simultaneous failures, the second to be reported is as
//! often the cause.
//!
//! From its panic on, a CPU is in a critical section, so that no lock for which the report
//! tries ends in a switch, and it waits for no lock that another CPU may hold. The winner prints
//! the registers and a backtrace of each CPU. The addresses are raw; `cargo xtask` turns them into
//! functions and lines, since the host has the symbols.
//!
//! A CPU formats its message before it asks whether it is the first. So a message that itself
//! panics is found before anything depends on it.
//!
//! Nothing here allocates or waits without a bound. All that it reads of another CPU is what that
//! CPU left in atomics.

use core::fmt::{self, Arguments};
use core::panic::{Location, PanicInfo};
use core::ptr;

use heart::KASSERT;
use heart::cpu::{AtomicCpuSet, CpuId, CpuSet, MAX_CPUS};
use heart::critical::CritWord;
use heart::more::stop::Means;
use heart::shim::trace::{self as trace_points, Event};
use heart::shim::{AtomicBool, Ordering};
use plat::line::Line;

use crate::arch::backtrace::{self, GENERAL, Snapshot};
use crate::arch::serial::Serial;
use crate::arch::{apic, cpu};
use crate::console;
use crate::end::{self, Verdict};
use crate::pcpu::{self, interrupts_off_anyhow};
use crate::smp::{self, STOPS};
use crate::{clock, hang, probe, trace};

/// The CPUs that panic. Each adds itself, once.
static PANICKED: AtomicCpuSet = AtomicCpuSet::new();
/// Whether a panic within a panic has been reported. Only the reporting CPU uses it.
static PANICKED_TWICE: AtomicBool = AtomicBool::new(false);

/// How long the other CPUs may take to stop, in nanoseconds.
const PATIENCE: u64 = 500_000_000;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let here = Snapshot::here();
    report(
        &here,
        info.location(),
        false,
        format_args!("{}", info.message()),
    )
}

/// Panics on behalf of interrupted code whose registers are in `snapshot`.
pub fn at(snapshot: &Snapshot, message: Arguments<'_>) -> ! {
    report(snapshot, None, false, message)
}

/// Reports and ends the machine. `from_outside`: whether nothing is wrong on this CPU but an NMI.
fn report(
    snapshot: &Snapshot,
    location: Option<&Location<'_>>,
    from_outside: bool,
    message: Arguments<'_>,
) -> ! {
    interrupts_off_anyhow();
    let this = pcpu::try_this();
    if this.is_none() {
        // This may come before `console::init`, and is harmless after it.
        Serial::COM1.init();
    }
    let me = this.map_or(CpuId::BOOT, pcpu::Pcpu::id);
    if this.and_then(pcpu::Pcpu::current).is_some() {
        trace_points::event_alone::<{ Event::Panic as u16 }>();
    }
    // The report's own records would be all that one sees of this CPU.
    let recorded = this.map_or(0, trace::count);
    let place = Place(location);
    if let Some(thread) = this.and_then(pcpu::Pcpu::current) {
        thread.crit.enter();
    }
    console::wait_no_more();
    if !PANICKED.insert(me) {
        again(me, snapshot, format_args!("{place}: {message}"));
    }
    let text = Line::of(message);
    if !STOPS.panics_first(me) {
        leave(snapshot, &Line::of(format_args!("{place}: {text}")));
    }
    stop_others(me);
    log::error!(target: "kernel::panic", "the kernel panicked on {me}; all CPUs are stopped");
    print(format_args!("panic on {me}{place}: {text}"));
    print_cpu(me, "", snapshot);
    if this.is_some() {
        probe::report(print);
    }
    for other in &others(me) {
        print_other(other);
    }
    trace::print_tail(recorded, print);
    let mut cpus = others(me);
    let alone = cpus.iter().all(smp::is_stopped);
    cpus.insert(me);
    let seen = |cpu| {
        if cpu == me {
            let pending = apic::pending();
            return Some(Snapshot {
                pending,
                ..*snapshot
            });
        }
        pcpu::of(cpu)?.stopped.read()
    };
    let panicked = match from_outside {
        true => CpuSet::EMPTY,
        false => PANICKED.snapshot(),
    };
    // SAFETY: interrupts are off for good, and a CPU that has stopped for a panic never goes on.
    unsafe { hang::report_at_the_end(cpus, seen, panicked, alone, print) };
    probe::panicked(location, format_args!("{text}"));
    end::exit(if text.as_str().starts_with(KASSERT) {
        Verdict::Assertion
    } else {
        Verdict::Panic
    })
}

/// A panic within a panic, from the message or from the report. Reports it with the least
/// machinery, and if that panics too, reports only that.
fn again(me: CpuId, snapshot: &Snapshot, message: Arguments<'_>) -> ! {
    if !STOPS.panics_first(me) {
        stop_this_cpu(snapshot);
    }
    // Relaxed: the first CPU only.
    if PANICKED_TWICE.swap(true, Ordering::Relaxed) {
        Serial::COM1.write(b"panic within a panic within a panic\n");
    } else {
        print(format_args!("panic on {me} within a panic{message}"));
        print_cpu(me, "", snapshot);
    }
    end::exit(Verdict::Panic)
}

/// Leaves `words` for the report and stops this CPU, which panicked second.
fn leave(snapshot: &Snapshot, words: &Line) -> ! {
    if let Some(block) = pcpu::try_this() {
        // Relaxed: the registers publish it.
        block
            .last_words
            .store(ptr::from_ref(words).cast_mut(), Ordering::Relaxed);
    }
    stop_this_cpu(snapshot)
}

/// Where a panic happened, if that is known: ` at FILE:LINE:COLUMN`.
struct Place<'a>(Option<&'a Location<'a>>);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .map_or(Ok(()), |location| write!(f, " at {location}"))
    }
}

fn print(text: Arguments<'_>) {
    console::write(Line::of(text).finish());
}

fn print_cpu(cpu: CpuId, how: &str, snapshot: &Snapshot) {
    let Snapshot {
        rip,
        rsp,
        rbp,
        rflags,
        cr2,
        cr3,
        general,
        pending,
    } = snapshot;
    print(format_args!(
        "{cpu}: {how}rip {rip:#x} rsp {rsp:#x} rbp {rbp:#x} rflags {rflags:#x} \
         cr2 {cr2:#x} cr3 {cr3:#x}"
    ));
    if let Some(values) = general {
        print_general(cpu, values);
    }
    if let Some(thread) = pcpu::of(cpu).and_then(pcpu::Pcpu::current) {
        let crit = thread.crit();
        // Leave out what the panic itself has added, or the NMI that stopped it. Relaxed: the CPU
        // stands.
        let nmi = pcpu::of(cpu).is_some_and(|block| block.in_nmi.load(Ordering::Relaxed));
        let panicked = PANICKED.contains(cpu);
        print(format_args!(
            "{cpu}: {thread}, critnest {}, owepreempt {}, interrupt depth {}, {} spinlocks",
            crit.critnest().saturating_sub(panicked.into()),
            crit.owepreempt(),
            crit.interrupt_depth().saturating_sub(nmi.into()),
            thread.spinlocks()
        ));
    }
    hang::waits_of(cpu, print);
    // The reporting CPU reads its own.
    let pending = pending.or_else(|| here(cpu).then(apic::pending).flatten());
    if let Some(pending) = pending.filter(|pending| !pending.is_empty()) {
        print(format_args!("{cpu}: {pending}"));
    }
    print(format_args!("  #0 {rip:#x}"));
    let mut depth = 0;
    backtrace::walk(*rbp, |address| {
        depth += 1;
        print(format_args!("  #{depth} {address:#x}"));
    });
}

/// Returns whether this CPU is `cpu`.
fn here(cpu: CpuId) -> bool {
    pcpu::try_this().is_some_and(|this| this.id() == cpu)
}

/// Prints two lines of registers.
fn print_general(cpu: CpuId, values: &[u64; GENERAL.len()]) {
    for (names, values) in GENERAL.chunks(7).zip(values.chunks(7)) {
        let mut line = Line::of(format_args!("{cpu}:"));
        for (name, value) in names.iter().zip(values) {
            line.append(format_args!(" {name} {value:#x}"));
        }
        console::write(line.finish());
    }
}

fn print_other(cpu: CpuId) {
    let block = pcpu::of(cpu);
    let Some((block, snapshot)) = block.and_then(|block| Some((block, block.stopped.read()?)))
    else {
        return print(format_args!("{cpu}: did not answer the NMI"));
    };
    // Relaxed: the read of the registers orders it.
    let words = block.last_words.load(Ordering::Relaxed);
    // SAFETY: null, or on the stack of a CPU that `leave` has halted for good.
    match unsafe { words.as_ref() } {
        Some(words) => {
            print(format_args!("{cpu}: panicked too{words}"));
            print_cpu(cpu, "", &snapshot);
        }
        None => print_cpu(cpu, "stopped by NMI: ", &snapshot),
    }
}

/// The running CPUs but `me`: those online, starting or leaving.
fn others(me: CpuId) -> CpuSet {
    let runs = |block: &&pcpu::Pcpu| {
        matches!(
            block.presence(),
            pcpu::Presence::Online | pcpu::Presence::Leaving
        )
    };
    let all = (0..MAX_CPUS).filter_map(CpuId::new).filter_map(pcpu::of);
    let running: CpuSet = all.filter(runs).map(pcpu::Pcpu::id).collect();
    running.difference(&CpuSet::single(me))
}

/// Sends the others an NMI and waits, with a bound, until they have stopped.
fn stop_others(me: CpuId) {
    let others = others(me);
    for block in others.iter().filter_map(pcpu::of) {
        block.send_last_nmi();
    }
    // The report says of each CPU whether it stopped.
    let _ = clock::wait_until(PATIENCE, || others.iter().all(smp::is_stopped));
}

/// Decides what an NMI means. If a CPU sent it, that one asks where this CPU is, or stops it, for a
/// time or, in a panic, for good. If nobody sent it, it comes from outside (a person's
/// `inject-nmi`, a watchdog, a hardware error) and is a panic. On a CPU that already panics or
/// gives the verdict it means nothing: that CPU reports, is about to leave its last words and stop,
/// or ends the machine. `thread` is the interrupted thread's number and word.
pub fn nmi(snapshot: &Snapshot, thread: Option<(u32, CritWord)>) {
    if end::is_here() {
        return;
    }
    if let Some(this) = pcpu::try_this() {
        if PANICKED.contains(this.id()) {
            return;
        }
        let sent = this.take_nmi();
        let asked = this.trace.answer(snapshot, thread);
        // A CPU in the middle of `Pcpu::send_nmi` finishes that first, and then looks whether it
        // has to stop. A panic is not put off: nobody counts on that NMI any more. Relaxed: only
        // this CPU writes it.
        let sends = this.sends_nmi.load(Ordering::Relaxed);
        let stops = !sends || STOPS.panicking().is_some();
        let stopped = stops && smp::stop_here(Means::Nmi, snapshot);
        probe::nmi();
        if sent || asked || stopped {
            return;
        }
    } else if STOPS.panicking().is_some() {
        cpu::halt_forever();
    }
    report(snapshot, None, true, format_args!("NMI from outside"));
}

/// Leaves `snapshot` for the report and halts this CPU for good.
fn stop_this_cpu(snapshot: &Snapshot) -> ! {
    if let Some(block) = pcpu::try_this() {
        block.stopped.record(snapshot);
        let _stands = STOPS.for_good(block.id());
    }
    cpu::halt_forever()
}
