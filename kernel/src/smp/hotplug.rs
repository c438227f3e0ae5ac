//! Taking CPUs offline, and bringing them back.
//!
//! A CPU goes offline by its own code, in steps that each close a way in:
//!
//! 1. A thread of the best priority on that CPU closes its run queue: threads that become runnable
//!    go elsewhere, and queued threads are moved. A thread that is pinned there cannot move; then
//!    the CPU stays, and the error names the thread.
//! 2. The CPU leaves [`ONLINE`] and [`IDLE`], and waits until every other CPU has left the critical
//!    section that it was in ([`heart::more::hotplug`]). Until then others may call it, and it
//!    answers; from then on nobody does. In one step it closes its queue of calls
//!    ([`heart::more::call`]) and takes what is in it, which it then runs.
//! 3. That thread ends. Only the idle thread is left. It takes the interrupts that are on their
//!    way, and halts with interrupts off.
//! 4. The CPU that asked for all this takes over the timers of the sleepers.
//!
//! It comes back by INIT and start-up IPI, as at first, on the same stack. Its TLB, control
//! registers and local APIC then hold only what it is given anew. It joins the set before it
//! flushes its TLB once more, since nobody told it of shootdowns before others could see it there.
//!
//! The boot CPU stays: it has the PIT's and the firmware's interrupts, and some CPU must be there
//! to take over from the others.

use core::fmt;

use heart::cpu::{CpuId, CpuSet};
use heart::more::balance;
use heart::shim::Ordering;
use heart::shim::trace::{self, Event};
use heart::thread::{Priority, ThreadId};

use super::{Reason, quiesce_all_critical, start};
use crate::backtrace::backtraces;
use crate::kthread::{Builder, SpawnError};
use crate::pcpu::{self, ONLINE, Pcpu, Presence};
use crate::port::{CriticalGuard, InterruptsOff, Machine};
use crate::rendezvous::RENDEZVOUS;
use crate::sched::{self, IDLE};
use crate::sync::Mutex;
use crate::{clock, thread, vspace};

/// Held by a thread that takes a CPU offline or brings one back.
static HOTPLUG: Mutex<()> = Mutex::new(());

/// How long a CPU may take to go offline once nothing keeps it, in nanoseconds.
const PATIENCE: u64 = 2_000_000_000;

/// Why a CPU did not go offline or come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HotplugError {
    /// There is no such CPU, or it was never online.
    Absent(CpuId),
    /// It is offline.
    NotOnline(CpuId),
    /// It is online.
    Online(CpuId),
    /// It is the boot CPU, which cannot go.
    BootCpu,
    /// This thread is pinned to it.
    Pinned(CpuId, ThreadId),
    /// No thread could be made to take it down.
    NoThread(SpawnError),
    /// It did not halt in time.
    Silent(CpuId),
    /// It did not come online again.
    NotStarted(CpuId, Reason),
}

impl fmt::Display for HotplugError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(cpu) => write!(f, "{cpu} does not exist, or was never online"),
            Self::NotOnline(cpu) => write!(f, "{cpu} is offline"),
            Self::Online(cpu) => write!(f, "{cpu} is online"),
            Self::BootCpu => f.write_str("the boot CPU stays online"),
            Self::Pinned(cpu, thread) => write!(f, "{thread} is pinned to {cpu}"),
            Self::NoThread(error) => write!(f, "no thread to take the CPU down with: {error}"),
            Self::Silent(cpu) => {
                write!(f, "{cpu} did not halt within {} ms", PATIENCE / 1_000_000)
            }
            Self::NotStarted(cpu, reason) => write!(f, "{cpu} did not come back: {reason}"),
        }
    }
}

impl core::error::Error for HotplugError {}

/// Takes `cpu` offline: it runs no threads, takes part in nothing, and is halted when this returns.
/// Its threads, even the calling one, go on elsewhere. Calls that had it in their set end with it;
/// later ones are refused. Thread context, interrupts on; may sleep, and allocates. Only one CPU
/// goes or comes at a time.
///
/// # Errors
/// Returns a [`HotplugError`]. The CPU is online as before, except after [`HotplugError::Silent`]:
/// then it is offline, still does something, which the log shows, and cannot be brought back.
pub fn take_offline(cpu: CpuId) -> Result<(), HotplugError> {
    let _one = HOTPLUG.lock();
    if cpu == CpuId::BOOT {
        return Err(HotplugError::BootCpu);
    }
    let block = pcpu::of(cpu).ok_or(HotplugError::Absent(cpu))?;
    if !ONLINE.contains(cpu) {
        return Err(HotplugError::NotOnline(cpu));
    }
    let leaver = Builder::new("offline").priority(Priority::HIGHEST).on(cpu);
    let leaver = leaver.spawn(leave).map_err(HotplugError::NoThread)?;
    leaver.join();
    if block.presence() == Presence::Online {
        // Relaxed: written before the thread ended.
        let pinned = block.kept_by.load(Ordering::Relaxed);
        return Err(HotplugError::Pinned(cpu, thread::at(pinned).id()));
    }
    let halted = || block.presence() == Presence::Halted;
    if !clock::wait_until(PATIENCE, halted) {
        backtraces(&CpuSet::single(cpu));
        return Err(HotplugError::Silent(cpu));
    }
    sched::take_over_timers(block);
    Ok(())
}

/// Brings `cpu` back. Thread context, interrupts on; may sleep. Only one CPU goes or comes at a
/// time.
///
/// # Errors
/// Returns a [`HotplugError`]. The CPU is offline as before.
pub fn bring_online(cpu: CpuId) -> Result<(), HotplugError> {
    let _one = HOTPLUG.lock();
    let block = pcpu::of(cpu).ok_or(HotplugError::Absent(cpu))?;
    match block.presence() {
        Presence::Online => Err(HotplugError::Online(cpu)),
        Presence::Leaving => Err(HotplugError::Silent(cpu)),
        Presence::Absent => Err(HotplugError::Absent(cpu)),
        Presence::Halted => {
            start::again(cpu).map_err(|reason| HotplugError::NotStarted(cpu, reason))
        }
    }
}

/// The body of the thread that takes its CPU offline. Returns with the CPU still online if another
/// thread is pinned there.
fn leave() {
    let here = pcpu::this();
    {
        // No other thread runs here until it is known which ones must.
        let _alone = CriticalGuard::enter();
        balance::close::<Machine>(here);
        let kept_by = thread::all().find(|thread| stays(thread, here));
        if let Some(thread) = kept_by {
            // Relaxed: read when this thread has ended.
            here.kept_by.store(thread.index(), Ordering::Relaxed);
            return balance::open::<Machine>(here);
        }
    }
    // From here on no thread that runs here has a space, and no space has this CPU.
    vspace::leave();
    IDLE.remove(here.id());
    heart::more::hotplug::leave::<Machine>(&ONLINE, here.id(), quiesce_all_critical, || {
        RENDEZVOUS.is_called(here.id())
    });
    close_calls(here);
    here.set_presence(Presence::Leaving);
}

/// Refuses calls from now on, and runs those that wait.
fn close_calls(here: &Pcpu) {
    let _section = CriticalGuard::enter();
    let off = InterruptsOff::enter();
    here.calls.close::<Machine>();
    trace::event_alone::<{ Event::CpuOffline as u16 }>();
    drop(off);
    here.wakes.run();
}

/// Returns whether `thread` cannot leave the CPU of `here`.
fn stays(thread: &thread::Thread, here: &Pcpu) -> bool {
    use heart::thread::ThreadState::{Dead, Free};
    let own = [sched::curthread(), here.sched.idle()]
        .iter()
        .any(|own| core::ptr::eq(*own, thread));
    thread.is_pinned()
        && thread.cpu() == here.id()
        && !matches!(thread.state(), Dead | Free)
        && !own
}
