//! Faults of the machine, made on purpose, in the test image only: allocations that fail, IPIs
//! that are lost or come twice, CPUs that are late, NMIs and timers without end.
//!
//! Those that go on all the time are switched on by `bug=fault-...` ([`super::bugs`]), so that
//! any test can be run with them. [`struck`] says how often one has happened. Counters and
//! switches of a test: relaxed throughout.

use core::ptr;

use heart::cpu::{CpuId, MAX_CPUS};
use heart::port::Port;
use heart::shim::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use super::bugs::{Bug, active};
use super::step::without_interrupts;
use crate::arch::{apic, cpu, vector};
use crate::kthread::{Builder, JoinHandle};
use crate::port::Machine;
use crate::thread::Thread;
use crate::{clock, pcpu, sched, smp};

/// Whose allocation is to fail; null: nobody's.
static VICTIM: AtomicPtr<Thread> = AtomicPtr::new(ptr::null_mut());
/// How many it may make before that, and the one. Its own: relaxed, as the above.
static LEFT: AtomicU64 = AtomicU64::new(0);

/// Runs `body`, in which the `nth` allocation of this thread, counted from 1, fails: of a
/// frame, of frames, or from the heap. What `body` gave, and whether it came so far.
pub fn failing<T>(nth: u64, body: impl FnOnce() -> T) -> (T, bool) {
    LEFT.store(nth, Ordering::Relaxed);
    VICTIM.store(
        ptr::from_ref(sched::curthread()).cast_mut(),
        Ordering::Relaxed,
    );
    let value = body();
    VICTIM.store(ptr::null_mut(), Ordering::Relaxed);
    (value, LEFT.load(Ordering::Relaxed) == 0)
}

/// Whether the allocation that is about to be made fails.
pub(crate) fn allocation_fails() -> bool {
    let victim = VICTIM.load(Ordering::Relaxed);
    if victim.is_null() || !ptr::eq(victim, sched::curthread()) {
        return false;
    }
    let left = LEFT.load(Ordering::Relaxed);
    LEFT.store(left.saturating_sub(1), Ordering::Relaxed);
    left == 1
}

/// Which vector's IPIs are lost, times 2^32, and how many more.
static LOSING: AtomicU64 = AtomicU64::new(0);
/// For each CPU what it has sent and sends again later: destination and command, 0 if nothing.
static LATE: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
/// How often a fault has happened.
static STRUCK: AtomicU64 = AtomicU64::new(0);

/// The next `count` commands that send IPIs of `vector` are lost, whoever gives them.
pub fn lose(vector: u8, count: u32) {
    LOSING.store(
        u64::from(vector) << 32 | u64::from(count),
        Ordering::Relaxed,
    );
}

/// How many of the commands of [`lose`] have not been given.
pub fn left_to_lose() -> u64 {
    LOSING.load(Ordering::Relaxed) & 0xffff_ffff
}

/// The CPU that does not acknowledge its next rendezvous, as its number plus one; 0: none.
static FORGETS: AtomicU64 = AtomicU64::new(0);

/// `cpu` does not acknowledge the next rendezvous interrupt that it takes.
pub fn forget_eoi(cpu: CpuId) {
    super::order::bind(vector::RENDEZVOUS);
    FORGETS.store(cpu.index() as u64 + 1, Ordering::Relaxed);
}

/// Whether `cpu` does not acknowledge the rendezvous that it has taken.
pub(crate) fn eoi_is_forgotten(cpu: CpuId) -> bool {
    let mark = cpu.index() as u64 + 1;
    let forgets = FORGETS.compare_exchange(mark, 0, Ordering::Relaxed, Ordering::Relaxed);
    forgets.is_ok()
}

/// How often a fault of `bug=fault-...` has happened.
pub fn struck() -> u64 {
    STRUCK.load(Ordering::Relaxed)
}

fn strikes() {
    STRUCK.fetch_add(1, Ordering::Relaxed);
}

/// Whether the command `low` to the CPU with APIC id `to` is lost. If every IPI is to come
/// twice, it is remembered: sent at once, it would be one with the first, which has not been
/// taken.
pub(crate) fn ipi_is_lost(to: u32, low: u32) -> bool {
    let number = low as u8;
    let lose = |losing: u64| {
        let this = losing >> 32 == number.into() && losing as u32 > 0;
        this.then(|| losing - 1)
    };
    let lost = LOSING.fetch_update(Ordering::Relaxed, Ordering::Relaxed, lose);
    let twice = matches!(number, vector::IPI | vector::RENDEZVOUS | vector::STOP)
        && active(Bug::FaultDoubleIpis);
    if twice {
        send_late();
        late().store(u64::from(to) << 32 | u64::from(low), Ordering::Relaxed);
    }
    lost.is_ok()
}

/// The word of this CPU in [`LATE`], or of another one, if the thread has moved: no matter.
fn late() -> &'static AtomicU64 {
    &LATE[Machine::cpu().index()]
}

/// Sends again what was sent before the last turn of a loop that waits, or before the next
/// IPI.
#[inline]
pub(crate) fn send_late() {
    if !active(Bug::FaultDoubleIpis) {
        return;
    }
    let again = late().swap(0, Ordering::Relaxed);
    if again != 0 {
        strikes();
        without_interrupts(|| apic::command((again >> 32) as u32, again as u32));
    }
}

/// Holds up this CPU, which has waited for another one, in one of four cases for up to 30
/// microseconds.
#[inline]
pub(crate) fn spin_ends() {
    if active(Bug::FaultSpinDelays) {
        let dice = random();
        if dice.is_multiple_of(4) {
            strikes();
            cpu::spin_ticks(clock::ticks_of((dice >> 16) % 30_000));
        }
    }
}

/// When the timer is to interrupt that is to do so at `deadline`.
#[inline]
pub(crate) fn deadline(deadline: u64) -> u64 {
    if active(Bug::FaultTimerStorm) {
        strikes();
        return cpu::tsc();
    }
    deadline
}

/// The next random number of this CPU, which follows from the boot's seed.
fn random() -> u64 {
    static STATES: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
    let me = Machine::cpu().index();
    let mut state = STATES[me].load(Ordering::Relaxed);
    if state == 0 {
        state = super::seed().wrapping_add((me as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1;
    }
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    STATES[me].store(state, Ordering::Relaxed);
    state
}

/// Ends the storm.
static CALM: AtomicBool = AtomicBool::new(false);

/// What has to run beside the test.
pub(super) fn begin() -> Option<JoinHandle> {
    let storm = || {
        while !CALM.load(Ordering::Relaxed) {
            let others = |cpu: &CpuId| *cpu != Machine::cpu();
            for block in smp::online().iter().filter(others).filter_map(pcpu::of) {
                strikes();
                block.send_nmi();
            }
            clock::delay(random() % 20_000);
            if random().is_multiple_of(4) {
                sched::sleep_for(random() % 200_000);
            }
        }
    };
    active(Bug::FaultNmiStorm).then(|| Builder::new("nmi storm").spawn(storm).expect("a thread"))
}

/// Ends that.
pub(super) fn end(storm: Option<JoinHandle>) {
    CALM.store(true, Ordering::Relaxed);
    if let Some(storm) = storm {
        storm.join();
    }
}
