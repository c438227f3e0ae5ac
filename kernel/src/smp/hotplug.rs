//! CPUs that go offline, and come back.
//!
//! A CPU goes by its own hand, step by step, each of which closes a way in:
//!
//! 1. Its run queue is closed, by a thread of the best priority that runs there: what
//!    becomes runnable goes elsewhere, and what waits there is moved. A thread that is
//!    pinned there cannot move: the CPU stays, and the thread is named.
//! 2. It leaves [`ONLINE`] and [`IDLE`], and waits until every other CPU
//!    has left the critical section that it was in ([`heart::more::hotplug`]). Until then others
//!    may call it, and it answers; from then on nobody does.
//!    Its queue of calls ([`heart::more::call`]) is closed, in one step with taking what is in it,
//!    which it runs.
//! 3. That thread ends. The idle thread, which is all that is left, takes what interrupts
//!    are on their way, and halts with interrupts off.
//! 4. Its sleepers' timers go to the CPU of whoever asked for all this.
//!
//! It comes back by INIT and start-up IPI, like the first time, on the same stack, and so
//! with nothing in its TLB, its control registers and its local APIC but what it is given
//! anew. It is in the set before it forgets its TLB once more: what others shot down before
//! they could see it there, it has not been told.
//!
//! The boot CPU stays: it has the PIT's and the firmware's interrupts, and somebody must be
//! there to take over from the others.

use core::fmt;

use heart::cpu::{CpuId, CpuSet};
use heart::more::balance;
use heart::shim::Ordering;
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

/// Who takes a CPU offline, or brings one back.
static HOTPLUG: Mutex<()> = Mutex::new(());

/// How long a CPU may take to go, in nanoseconds, once nothing keeps it.
const PATIENCE: u64 = 2_000_000_000;

/// Why a CPU did not go, or did not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HotplugError {
    /// There is no such CPU, or it was never online.
    Absent(CpuId),
    /// It is offline.
    NotOnline(CpuId),
    /// It is online.
    Online(CpuId),
    /// It is the boot CPU, which stays.
    BootCpu,
    /// This thread is pinned to it.
    Pinned(CpuId, ThreadId),
    /// There is no thread to take it down with.
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

/// Takes `cpu` offline: it runs no threads, takes part in nothing, and is halted when this
/// returns. Its threads go on elsewhere, the calling one too. Calls that had it in their set
/// come to their end with it; later ones are refused. Thread context, interrupts on; may
/// sleep, and allocates. One CPU goes or comes at a time.
///
/// # Errors
/// [`HotplugError`]; it is online then as before. But for [`HotplugError::Silent`]: it is
/// offline, does something still, which is in the log, and cannot be brought back.
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

/// Brings `cpu` back. Thread context, interrupts on; may sleep. One CPU goes or comes at
/// a time.
///
/// # Errors
/// [`HotplugError`]; it is offline then as before.
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

/// What the thread does that takes its CPU offline; it returns with the CPU online if another
/// thread is pinned there.
fn leave() {
    let here = pcpu::this();
    {
        // Nobody else runs here until it is known who must.
        let _alone = CriticalGuard::enter();
        balance::close::<Machine>(here);
        let kept_by = thread::all().find(|thread| stays(thread, here));
        if let Some(thread) = kept_by {
            // Relaxed: read when this thread has ended.
            here.kept_by.store(thread.index(), Ordering::Relaxed);
            return balance::open::<Machine>(here);
        }
    }
    // No thread that runs here from now on has a space, and no space has this CPU.
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
    drop(off);
    here.wakes.run();
}

/// Whether `thread` cannot leave the CPU of `here`.
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
