//! Deliberate faults of the machine, in the test image only: allocations that fail, IPIs that are
//! lost or doubled, late CPUs, endless NMIs and timer interrupts.
//!
//! `bug=fault-...` ([`super::bugs`]) switches on the continuous ones, so any test can run with
//! them. [`struck`] returns how often one has happened. Counters and switches of a test: relaxed
//! throughout.

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
use crate::{clock, pcpu, sched};

/// The thread whose allocation is to fail, or null.
static VICTIM: AtomicPtr<Thread> = AtomicPtr::new(ptr::null_mut());
/// How many allocations it may still make up to that one, inclusive. Only that thread writes it:
/// relaxed, as above.
static LEFT: AtomicU64 = AtomicU64::new(0);

/// Runs `body`, in which the `nth` allocation of this thread, counted from 1, fails: of a frame, of
/// several frames, or from the heap. Returns the result of `body`, and whether it made so many.
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

/// Returns whether the allocation that is about to be made is to fail.
pub(crate) fn allocation_fails() -> bool {
    let victim = VICTIM.load(Ordering::Relaxed);
    if victim.is_null() || !ptr::eq(victim, sched::curthread()) {
        return false;
    }
    let left = LEFT.load(Ordering::Relaxed);
    LEFT.store(left.saturating_sub(1), Ordering::Relaxed);
    left == 1
}

/// The vector whose IPIs are lost, times 2^32, and how many more to lose.
static LOSING: AtomicU64 = AtomicU64::new(0);
/// For each CPU the IPI that it is to send again: destination and command, or 0.
static LATE: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
/// How often a fault has happened.
static STRUCK: AtomicU64 = AtomicU64::new(0);

/// Loses the next `count` commands that send IPIs of `vector`, whichever CPU gives them.
pub fn lose(vector: u8, count: u32) {
    LOSING.store(
        u64::from(vector) << 32 | u64::from(count),
        Ordering::Relaxed,
    );
}

/// How many of the commands that [`lose`] announced are still to come.
pub fn left_to_lose() -> u64 {
    LOSING.load(Ordering::Relaxed) & 0xffff_ffff
}

/// The CPU that does not acknowledge its next rendezvous, as its number plus one, or 0.
static FORGETS: AtomicU64 = AtomicU64::new(0);

/// Makes `cpu` not acknowledge the next rendezvous interrupt that it takes.
pub fn forget_eoi(cpu: CpuId) {
    super::order::bind(vector::RENDEZVOUS);
    FORGETS.store(cpu.index() as u64 + 1, Ordering::Relaxed);
}

/// Returns whether `cpu` is not to acknowledge the rendezvous that it has taken.
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

/// Returns whether the command `low` to the CPU with APIC id `to` is lost. If every IPI is to come
/// twice, this stores it: sent at once, it would merge with the first, which has not been taken
/// yet.
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

/// This CPU's word in [`LATE`]; or another one's, harmlessly, if the thread has migrated.
fn late() -> &'static AtomicU64 {
    &LATE[Machine::cpu().index()]
}

/// Sends again what was sent before the last turn of a waiting loop, or before the next IPI.
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

/// In one of four cases, holds up this CPU, which has waited for another one, for up to 30
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

/// When a timer set to `deadline` is to interrupt.
#[inline]
pub(crate) fn deadline(deadline: u64) -> u64 {
    if active(Bug::FaultTimerStorm) {
        strikes();
        return cpu::tsc();
    }
    deadline
}

/// This CPU's next random number, which follows from the boot's seed.
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

/// Starts what has to run beside the test.
pub(super) fn begin() -> Option<JoinHandle> {
    let storm = || {
        while !CALM.load(Ordering::Relaxed) {
            let others = |cpu: &CpuId| *cpu != Machine::cpu();
            for block in pcpu::online().iter().filter(others).filter_map(pcpu::of) {
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

/// Ends what [`begin`] started.
pub(super) fn end(storm: Option<JoinHandle>) {
    CALM.store(true, Ordering::Relaxed);
    if let Some(storm) = storm {
        storm.join();
    }
}
