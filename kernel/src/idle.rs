//! What a CPU does without work: it looks for work elsewhere, and rests by MONITOR/MWAIT or by HLT.
//!
//! On its way to rest it polls ([`heart::ipi`]), so a CPU that has work for it only sets a bit.
//! Before HLT it stops polling, and work comes with an interrupt. It enters MWAIT polling: the
//! store of the bit wakes it, which saves the interrupt (FreeBSD's `cpu_idle_wakeup`,
//! sys/x86/x86/cpu_machdep.c; Linux's `TIF_POLLING_NRFLAG`).

use core::fmt;

use heart::cpu::{CpuId, CpuSet};
use heart::more::balance;
use heart::port::Port;
use heart::shim::{AtomicBool, Ordering, spin_loop};

use crate::arch::cpu;
use crate::pcpu::{self, Ipi, Pcpu, Presence};
use crate::port::{InterruptsOff, Machine, interrupts_off};
use crate::rendezvous::RENDEZVOUS;
use crate::{call, clock, probe, sched};

/// Whether idle CPUs rest by MWAIT: [`choose`]. Relaxed throughout.
pub static IDLE_BY_MWAIT: AtomicBool = AtomicBool::new(false);

/// How idle CPUs rest, and if by HLT, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// By MWAIT: a store of the boot CPU ended it on every other CPU.
    Mwait,
    /// By MWAIT: there is no other CPU to try it with, and none that would store.
    MwaitUntried,
    /// By HLT: `idle=hlt`.
    Asked,
    /// By HLT: CPUID has no MONITOR/MWAIT.
    NoMwait,
    /// By HLT: a hypervisor may have made MWAIT a no-op, as QEMU's TCG does.
    Hypervisor,
    /// By HLT: CPUID has MONITOR, but no line size for it to watch.
    NoLine,
    /// By HLT: a store of the boot CPU did not end this CPU's MWAIT.
    Deaf(CpuId),
}

impl Rest {
    fn is_mwait(self) -> bool {
        matches!(self, Self::Mwait | Self::MwaitUntried)
    }
}

impl fmt::Display for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mwait => f.write_str("MWAIT"),
            Self::MwaitUntried => f.write_str("MWAIT, not tried: there is no other CPU"),
            Self::Asked => f.write_str("HLT: idle=hlt"),
            Self::NoMwait => f.write_str("HLT: the CPU has no MONITOR/MWAIT"),
            Self::Hypervisor => f.write_str("HLT: there is a hypervisor"),
            Self::NoLine => f.write_str("HLT: by CPUID there is no line for MONITOR to watch"),
            Self::Deaf(cpu) => write!(f, "HLT: {}", NotEnded(*cpu)),
        }
    }
}

/// The CPU whose MWAIT a store did not end.
struct NotEnded(CpuId);

impl fmt::Display for NotEnded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the store of another CPU did not end the MWAIT of {}",
            self.0
        )
    }
}

/// Chooses how all CPUs rest for now. `asked` is `idle=` of the command line, `mwait` or `hlt`; the
/// default follows CPUID. Call on the boot CPU, before there are others. [`try_mwait`] makes the
/// final decision.
pub fn choose(asked: Option<&str>) -> Rest {
    let rest = match asked {
        Some("hlt") => Rest::Asked,
        Some("mwait") if cpu::has_mwait() => Rest::MwaitUntried,
        Some("mwait") => {
            log::warn!("idle=mwait: this CPU has no MONITOR/MWAIT; taking hlt");
            Rest::NoMwait
        }
        other => {
            if let Some(other) = other {
                log::warn!("idle={other}: there are mwait and hlt; taking what fits the CPU");
            }
            match cpu::has_mwait() {
                false => Rest::NoMwait,
                true if cpu::has_hypervisor() => Rest::Hypervisor,
                true if cpu::monitor_line() == 0 => Rest::NoLine,
                true => Rest::MwaitUntried,
            }
        }
    };
    // Relaxed: starting the other CPUs publishes it.
    IDLE_BY_MWAIT.store(rest.is_mwait(), Ordering::Relaxed);
    rest
}

/// How often to try MWAIT; how long before each store a CPU must have begun to wait; and how long
/// it may take to wake after it. In nanoseconds, and at least in turns of a loop that lets an
/// emulator run the next CPU.
const TRIES: u32 = 3;
const SETTLE: u64 = 100_000;
const PATIENCE: u64 = 100_000_000;
const TURNS: u32 = 10_000;

/// If `rest` relies on MWAIT, tries on all other CPUs, which idle, whether it works: a store of
/// this CPU to the other one's word, at the address that [`Pcpu::send_ipi`] uses, must end it. If
/// it does not (as in Bochs 2.7), all rest by HLT. The watchdog has to find an MWAIT that fails
/// only sometimes (as Intel's Goldmont may by erratum APL30). Call on the boot CPU, once, when the
/// others are online. Spins, for less than a millisecond if all is well.
pub fn try_mwait(rest: Rest) -> Rest {
    let others = pcpu::online().difference(&CpuSet::single(pcpu::this().id()));
    if !rest.is_mwait() || others.is_empty() {
        return rest;
    }
    for _ in 0..TRIES {
        if let Some(deaf) = find_deaf_mwait(&others) {
            // Relaxed: a CPU that does not see it yet rests once more, and is interrupted.
            IDLE_BY_MWAIT.store(false, Ordering::Relaxed);
            for block in others.iter().filter_map(pcpu::of) {
                let _off = InterruptsOff::enter();
                block.interrupt();
            }
            log::warn!("{}; taking hlt", NotEnded(deaf));
            return Rest::Deaf(deaf);
        }
    }
    Rest::Mwait
}

/// Returns the first CPU of `others` whose MWAIT goes on after a store to its word.
fn find_deaf_mwait(others: &CpuSet) -> Option<CpuId> {
    let blocks = || others.iter().filter_map(pcpu::of);
    let in_time = |done: &dyn Fn() -> bool| {
        let turn = |_| {
            spin_loop();
            done()
        };
        clock::wait_until(PATIENCE, done) || (0..TURNS).any(turn)
    };
    let _idle = in_time(&|| blocks().all(|block| block.ipis.is_polling()));
    clock::delay(SETTLE);
    for block in blocks() {
        let _off = InterruptsOff::enter();
        block.send_ipi(Ipi::Ast);
    }
    let deaf = || blocks().find(|block| block.ipis.asked() != 0);
    if in_time(&|| deaf().is_none()) {
        return None;
    }
    deaf().map(Pcpu::id)
}

/// The body of a CPU's idle thread, forever. The timer is armed only for sleepers, so nothing wakes
/// an idle CPU without any.
pub fn idle() -> ! {
    // The idle thread does not migrate.
    let here = pcpu::this();
    loop {
        sched::assert_may_sleep(0);
        if here.presence() == Presence::Leaving {
            halt(here);
        }
        probe::idle_begins();
        let before = events(here);
        if balance::steal::<Machine>() {
            // A thread queued here is better than the idle one: the lock's release paid for it.
            probe::idle_ends();
            continue;
        }
        let mut off = InterruptsOff::enter();
        // If there was an event, it may have meant work: look again at the other CPUs. An interrupt
        // that brings no work, such as another CPU's rendezvous, causes no such look: with many
        // idle CPUs the looks would cost the square of their number.
        while events(here) == before && here.ipis.poll() {
            let found = rest(here, off);
            probe::idle_ends();
            off = InterruptsOff::enter();
            if found {
                break;
            }
        }
        drop(off);
        // A CPU that found us polling has sent no interrupt.
        if !here.calls.is_empty() {
            call::run_outside_interrupt(here);
        }
        heart::sched::run_best_instead_of_idle::<Machine>();
        probe::idle_ends();
    }
}

/// How many interrupts that may bring work this CPU has had, plus its switches: while another
/// thread ran, CPUs with work for idle ones passed this one over.
fn events(here: &Pcpu) -> u64 {
    // Relaxed, all of them: this CPU counts them.
    let switches = here.counters.switches.iter();
    let switches = switches.map(|count| count.load(Ordering::Relaxed));
    here.ipis_taken.load(Ordering::Relaxed)
        + here.timer_interrupts.load(Ordering::Relaxed)
        + switches.sum::<u64>()
}

/// Waits until there may be something to do, and returns whether there is. The CPU polls when this
/// is called. At the end it no longer polls, and interrupts are on. This does not act on what was
/// asked for meanwhile, since the idle loop looks everywhere next.
fn rest(here: &Pcpu, off: InterruptsOff) -> bool {
    if !here.sched.runq.lock().queue.is_empty() {
        here.ipis.take();
        return true;
    }
    // Relaxed: constant since the boot.
    if IDLE_BY_MWAIT.load(Ordering::Relaxed) {
        cpu::monitor(here.ipis.address());
        // If a bit is set after the MONITOR, the MWAIT returns at once.
        if here.ipis.is_quiet() {
            off.wait(mwait);
        }
        return here.ipis.end_polling() != 0;
    }
    // One step looks for the last time and ends the polling. Otherwise a bit set between the two
    // would be overwritten, and no interrupt would come for it.
    if here.ipis.take() != 0 {
        return true;
    }
    // Interrupts are off, so the interrupt of a bit set now cannot come between the look and the
    // halt: STI lets it in only after HLT.
    off.wait(cpu::sti_hlt);
    false
}

/// Rests by MWAIT.
fn mwait() {
    if probe::mwait_is_deaf() {
        return cpu::sti_hlt();
    }
    cpu::sti_mwait();
}

/// Ends a CPU's time online, in its idle thread: halts until it is started again.
fn halt(here: &Pcpu) -> ! {
    // Nobody sends any more. Interrupts that were sent arrive while interrupts are on.
    let arrived = || {
        // Relaxed: counters. An IPI that arrived twice was taken more often than sent.
        here.ipis_sent.load(Ordering::Relaxed) <= here.ipis_taken.load(Ordering::Relaxed)
            && !RENDEZVOUS.is_called(here.id())
    };
    while !arrived() {
        Machine::relax();
    }
    sched::assert_may_sleep(0);
    interrupts_off();
    clock::stop_timer();
    clock::disarmed();
    here.set_presence(Presence::Halted);
    cpu::halt_forever()
}
