//! What a CPU does that has nothing to do: it looks for work elsewhere, and rests, by
//! MONITOR/MWAIT or by HLT.
//!
//! While it is on its way to rest it polls ([`kcore::ipi`]), and who has work for it only
//! sets a bit. Before HLT it ends that, and is interrupted. MWAIT it enters polling: the
//! store of the bit is what wakes it, and saves the interrupt (FreeBSD's
//! `cpu_idle_wakeup`, sys/x86/x86/cpu_machdep.c; Linux's `TIF_POLLING_NRFLAG`).

use kcore::shim::Ordering;

use crate::arch::cpu;
#[cfg(feature = "ktest")]
use crate::ktest::{
    bugs::{Bug, active},
    step,
};
use crate::pcpu::{self, Pcpu, Presence};
use crate::{call, globals, sched, smp};

/// Chooses how all CPUs rest: `asked` is `idle=` of the command line, `mwait` or `hlt`.
/// By default as CPUID says ([`cpu::mwait_waits`]). The boot CPU, once.
pub fn choose(asked: Option<&str>) {
    let mwait = match asked {
        Some("hlt") => false,
        Some("mwait") if cpu::has_mwait() => true,
        Some("mwait") => {
            log::warn!("idle=mwait: this CPU has no MONITOR/MWAIT; taking hlt");
            false
        }
        other => {
            if let Some(other) = other {
                log::warn!("idle={other}: there are mwait and hlt; taking what fits the CPU");
            }
            cpu::mwait_waits()
        }
    };
    // Relaxed: starting the other CPUs publishes it.
    globals::IDLE_BY_MWAIT.store(mwait, Ordering::Relaxed);
    log::debug!("idle by {}", if mwait { "mwait" } else { "hlt" });
}

/// What a CPU's idle thread does, for ever. The timer is armed only for sleepers, so an
/// idle CPU with none is left alone.
pub fn idle() -> ! {
    // The idle thread does not move.
    let here = pcpu::this();
    loop {
        sched::assert_may_sleep(0);
        if here.presence() == Presence::Leaving {
            smp::halt(here);
        }
        #[cfg(feature = "ktest")]
        step::idle_begins();
        let before = events(here);
        if sched::steal() {
            // Queued here, and better than idling: paid when the lock was released.
            #[cfg(feature = "ktest")]
            step::idle_ends();
            continue;
        }
        cpu::disable_interrupts();
        // An event since may have meant: look again at what waits elsewhere. An interrupt that
        // is none, such as another CPU's rendezvous, sends nobody on a look at all CPUs: with
        // many idle ones that would cost the square of their number.
        while events(here) == before && here.ipis.poll() {
            let found = rest(here);
            #[cfg(feature = "ktest")]
            step::idle_ends();
            if found {
                break;
            }
            cpu::disable_interrupts();
        }
        // Who found us polling has sent no interrupt.
        if !here.calls.is_empty() {
            call::run_outside_interrupt(here);
        }
        cpu::enable_interrupts();
        sched::switch_from_idle();
        #[cfg(feature = "ktest")]
        step::idle_ends();
    }
}

/// How many interrupts this CPU has had that may bring work, and how often it has switched
/// threads: while another one ran, whoever had work for idle CPUs passed this one over.
fn events(here: &Pcpu) -> u64 {
    // Relaxed, all of them: counted on this CPU.
    let switches = here.sched.switches.iter();
    let switches = switches.map(|count| count.load(Ordering::Relaxed));
    here.ipis_taken.load(Ordering::Relaxed)
        + here.timer_interrupts.load(Ordering::Relaxed)
        + switches.sum::<u64>()
}

/// Waits until there may be something to do; whether there is. Interrupts off and polling
/// when called; the polling is over at the end, and interrupts may be on. What was asked for
/// meanwhile is not acted on, since the idle loop looks everywhere next.
fn rest(here: &Pcpu) -> bool {
    if !here.runq.lock().is_empty() {
        here.ipis.take();
        return true;
    }
    // Relaxed: constant since the boot.
    if globals::IDLE_BY_MWAIT.load(Ordering::Relaxed) {
        cpu::monitor(here.ipis.address());
        // A bit that is set from the MONITOR on makes the MWAIT return at once.
        if here.ipis.is_quiet() {
            cpu::wait_for_store_or_interrupt();
        }
        return here.ipis.end_polling() != 0;
    }
    if end_polling(here) != 0 {
        return true;
    }
    // With interrupts off the interrupt that a bit comes with now cannot come between
    // the look and the halt: STI lets it in only behind HLT.
    cpu::wait_for_interrupt();
    false
}

/// The last look before the halt. In one step with the end of the polling: else a bit in
/// between is overwritten, and nobody is interrupted for it.
fn end_polling(here: &Pcpu) -> u32 {
    #[cfg(feature = "ktest")]
    if active(Bug::IdleFence) {
        return here.ipis.take_look_first(|| ());
    }
    here.ipis.take()
}
