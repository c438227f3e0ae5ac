//! What a CPU does that has nothing to do: it looks for work elsewhere, and rests, by
//! MONITOR/MWAIT or by HLT.
//!
//! While it is on its way to rest it polls ([`heart::ipi`]), and who has work for it only
//! sets a bit. Before HLT it ends that, and is interrupted. MWAIT it enters polling: the
//! store of the bit is what wakes it, and saves the interrupt (FreeBSD's
//! `cpu_idle_wakeup`, sys/x86/x86/cpu_machdep.c; Linux's `TIF_POLLING_NRFLAG`).

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

/// How CPUs rest that have nothing to do, and why not by MWAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// By MWAIT: every other CPU's was ended by a store of the boot CPU.
    Mwait,
    /// By MWAIT: there is no CPU to try it with, and none that would store.
    MwaitUntried,
    /// By HLT: `idle=hlt`.
    Asked,
    /// By HLT: CPUID has no MONITOR/MWAIT.
    NoMwait,
    /// By HLT: a hypervisor may have made MWAIT wait for nothing, as QEMU's TCG has.
    Hypervisor,
    /// By HLT: CPUID has MONITOR, and no line for it to watch.
    NoLine,
    /// By HLT: the MWAIT of this CPU was not ended by a store of the boot CPU.
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

/// What was found out about the MWAIT of a CPU.
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

/// Chooses how all CPUs rest for now: `asked` is `idle=` of the command line, `mwait` or
/// `hlt`. By default as CPUID says. On the boot CPU, before there are others; [`try_mwait`] has
/// the last word.
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

/// How often MWAIT is tried, how long before each a CPU has to come to wait by it, and how
/// long after that it may take to go on, in nanoseconds and at least in turns of a loop that
/// lets an emulator go on with the next CPU.
const TRIES: u32 = 3;
const SETTLE: u64 = 100_000;
const PATIENCE: u64 = 100_000_000;
const TURNS: u32 = 10_000;

/// Tries on all other CPUs, which idle, what `rest` relies on, if that is MWAIT: that it ends
/// when this CPU stores to the word of the other one, by the address that [`Pcpu::send_ipi`]
/// uses. Where it does not (as in Bochs 2.7) all rest by HLT. What fails but now and then (as
/// Intel's Goldmont may by erratum APL30) is for the watchdog to find. On the boot CPU, once,
/// when the others are online; spins, for less than a millisecond if all is well.
pub fn try_mwait(rest: Rest) -> Rest {
    let others = pcpu::online().difference(&CpuSet::single(pcpu::this().id()));
    if !rest.is_mwait() || others.is_empty() {
        return rest;
    }
    for _ in 0..TRIES {
        if let Some(deaf) = find_deaf_mwait(&others) {
            // Relaxed: whoever does not see it yet rests once more, and is interrupted.
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

/// The first CPU of `others` that goes on waiting when its word is stored to.
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

/// What a CPU's idle thread does, forever. The timer is armed only for sleepers, so an
/// idle CPU with none is left alone.
pub fn idle() -> ! {
    // The idle thread does not move.
    let here = pcpu::this();
    loop {
        sched::assert_may_sleep(0);
        if here.presence() == Presence::Leaving {
            halt(here);
        }
        probe::idle_begins();
        let before = events(here);
        if balance::steal::<Machine>() {
            // Queued here, and better than idling: paid when the lock was released.
            probe::idle_ends();
            continue;
        }
        let mut off = InterruptsOff::enter();
        // An event since may have meant: look again at what waits elsewhere. An interrupt that
        // is none, such as another CPU's rendezvous, sends nobody on a look at all CPUs: with
        // many idle ones that would cost the square of their number.
        while events(here) == before && here.ipis.poll() {
            let found = rest(here, off);
            probe::idle_ends();
            off = InterruptsOff::enter();
            if found {
                break;
            }
        }
        drop(off);
        // Who found us polling has sent no interrupt.
        if !here.calls.is_empty() {
            call::run_outside_interrupt(here);
        }
        heart::sched::run_best_instead_of_idle::<Machine>();
        probe::idle_ends();
    }
}

/// How many interrupts this CPU has had that may bring work, and how often it has switched
/// threads: while another one ran, whoever had work for idle CPUs passed this one over.
fn events(here: &Pcpu) -> u64 {
    // Relaxed, all of them: counted on this CPU.
    let switches = here.counters.switches.iter();
    let switches = switches.map(|count| count.load(Ordering::Relaxed));
    here.ipis_taken.load(Ordering::Relaxed)
        + here.timer_interrupts.load(Ordering::Relaxed)
        + switches.sum::<u64>()
}

/// Waits until there may be something to do; whether there is. Polling when called; the
/// polling is over at the end, and interrupts are on. What was asked for meanwhile is not acted
/// on, since the idle loop looks everywhere next.
fn rest(here: &Pcpu, off: InterruptsOff) -> bool {
    if !here.sched.runq.lock().queue.is_empty() {
        here.ipis.take();
        return true;
    }
    // Relaxed: constant since the boot.
    if IDLE_BY_MWAIT.load(Ordering::Relaxed) {
        cpu::monitor(here.ipis.address());
        // A bit that is set from the MONITOR on makes the MWAIT return at once.
        if here.ipis.is_quiet() {
            off.wait(mwait);
        }
        return here.ipis.end_polling() != 0;
    }
    // The last look, in one step with the end of the polling: else a bit in between is
    // overwritten, and nobody is interrupted for it.
    if here.ipis.take() != 0 {
        return true;
    }
    // With interrupts off the interrupt that a bit comes with now cannot come between
    // the look and the halt: STI lets it in only after HLT.
    off.wait(cpu::sti_hlt);
    false
}

/// MWAIT.
fn mwait() {
    if probe::mwait_is_deaf() {
        return cpu::sti_hlt();
    }
    cpu::sti_mwait();
}

/// The end of a CPU's time online, in its idle thread: halts until it is started again.
fn halt(here: &Pcpu) -> ! {
    // Nobody sends any more; what has been sent comes while interrupts are on.
    let arrived = || {
        // Relaxed: counters. One that came twice was taken more often than sent.
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
