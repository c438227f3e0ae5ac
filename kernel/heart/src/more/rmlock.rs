//! `rmlock`: a readers-writer lock for what is read all the time and hardly ever written.
//!
//! A reader writes nothing that another CPU reads, and executes no locked instruction and no fence.
//! It puts a `Tracker`, which is on its stack, on top of its thread's list, and checks whether its
//! CPU has a *token* for the lock:
//!
//! ```text
//! reader                                  writer
//! fill in the tracker                     keep other writers out
//! top of the thread's list := tracker     take the tokens of all CPUs
//! has this CPU a token? ── no: slow       interrupt those that had one: what of this lock
//!   ... read ...                          is on the list of the thread that runs there
//! top of the list := the one below        is *counted*
//! was it counted? ── yes: slow            wait until no reader is counted
//! ```
//!
//! The interrupt is the fence that readers lack. If it comes before the reader's store to the list,
//! the token that the reader checks next is gone. If it comes after, its handler finds the tracker.
//! So the program order of each pair is load-bearing; the compiler must keep it, and an interrupt
//! always falls between two instructions. On the way out it is the same: first the tracker leaves
//! the list, then the reader checks whether it was counted. In the opposite order, an interrupt in
//! between would count a reader that never uncounts itself, and the writer would wait forever
//! (FreeBSD D28821, where a compiler had swapped the two; here
//! `bugs/0007-flag-before-unlink.patch`, found by `sync::rmlock::at_every_boundary`).
//!
//! An interrupt finds only the thread that runs on its CPU, so a switch counts the readers of the
//! thread that it takes off the CPU ([`Reads::count_all`]). Hence a tracker that is not counted
//! belongs to a thread that runs on a CPU with a token, or to a reader that has not checked yet and
//! will find none. A reader may be preempted, may migrate, and may sleep.
//!
//! FreeBSD (`sys/kern/kern_rmlock.c`) has a list per CPU, with the readers of all threads that were
//! on it. So it opens a critical section around each of the two changes, and pins the reader.
//! Decision 8 says why Tryst differs.
//!
//! A reader that already reads the same lock gets in although a writer waits: otherwise it would
//! wait for itself. Readers lend priority to nobody, and a writer lends none to readers.

use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::ptr;

use crate::cpu::{CpuId, CpuSet, MAX_CPUS};
use crate::kassert;
use crate::port::{InterruptsOff, Port};
use crate::rendezvous::{Callback, IpiCtx};
use crate::shim::{AtomicBool, AtomicPtr, AtomicU32, LowBit, Ordering, compiler_fence};

/// A port whose threads can read.
pub trait Reader: Port {
    /// The reads of the current thread. As [`Port::crit`], they move with the thread.
    fn reads() -> &'static Reads;
}

/// How readers and writers of a lock wait for each other.
pub trait Gate {
    /// The caller is inside the gate: nobody else gets in until this is dropped.
    type Pass<'a>
    where
        Self: 'a;

    /// Waits until the caller may enter. For writers, and for readers without a token.
    #[track_caller]
    fn enter(&self) -> Self::Pass<'_>;

    /// As [`Self::enter`], but returns `None` if it would have to wait.
    #[track_caller]
    fn try_enter(&self) -> Option<Self::Pass<'_>>;

    /// Waits until `drained` returns true. Called from inside the gate.
    fn wait(&self, drained: &dyn Fn() -> bool);

    /// Wakes [`Self::wait`], whose condition may have come true.
    fn wake(&self);

    /// Runs `action` on those of `cpus` that run threads, and waits until it has run: a
    /// rendezvous without barriers.
    #[track_caller]
    fn interrupt(&self, cpus: &CpuSet, action: Callback<'_>);
}

/// The bit of [`Tracker::lock`] that says that the reader is counted.
const COUNTED: usize = 1;

/// One read of one lock, on the reader's stack. Only its thread, interrupts on top of it, and the
/// switch away from it touch it: all accesses are relaxed.
#[derive(Debug)]
struct Tracker {
    /// The lock's address, and [`COUNTED`].
    lock: AtomicPtr<Core>,
    /// The next on the thread's list. Constant.
    next: AtomicPtr<Tracker>,
}

impl Tracker {
    fn is_of(&self, core: &Core) -> bool {
        let lock = self.lock.load(Ordering::Relaxed);
        ptr::eq(lock.map_addr(|address| address & !COUNTED), core)
    }

    /// Counts this reader, if it is not counted yet. Call with interrupts off.
    fn count(&self) {
        let lock = self.lock.load(Ordering::Relaxed);
        if lock.addr() & COUNTED == 0 {
            let counted = lock.map_addr(|address| address | COUNTED);
            self.lock.store(counted, Ordering::Relaxed);
            // SAFETY: without the bit this is the address of a lock. The reader borrows it as long
            // as its tracker is on its list, and it still is.
            let core = unsafe { &*lock };
            // Relaxed: the end of the writer's rendezvous, in which this CPU took part after this,
            // orders it before the writer's look at the count.
            core.readers.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The trackers of one thread, the newest first.
#[derive(Debug)]
pub struct Reads(AtomicPtr<Tracker>);

impl Reads {
    /// For a thread that reads nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// Returns whether the thread reads nothing.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        // Relaxed: only this thread uses it.
        self.0.load(Ordering::Relaxed).is_null()
    }

    /// Counts all reads of a thread that is about to leave its CPU, where interrupts no longer find
    /// them. The switch calls this with interrupts off.
    #[cold]
    pub fn count_all(&self) {
        self.each(|tracker| {
            tracker.count();
            true
        });
    }

    /// Calls `each` for the trackers until it returns false. Returns whether it never did.
    fn each(&self, mut each: impl FnMut(&Tracker) -> bool) -> bool {
        let mut at = self.0.load(Ordering::Relaxed);
        // SAFETY: null, or a tracker on the list, and so on the thread's stack: a tracker leaves
        // the list before it goes out of scope.
        while let Some(tracker) = unsafe { at.as_ref() } {
            if !each(tracker) {
                return false;
            }
            at = tracker.next.load(Ordering::Relaxed);
        }
        true
    }

    /// Returns whether the thread reads `core`, not counting `but`.
    fn has(&self, core: &Core, but: Option<&Tracker>) -> bool {
        let is_but = |tracker: &Tracker| but.is_some_and(|but| ptr::eq(but, tracker));
        !self.each(|tracker| !tracker.is_of(core) || is_but(tracker))
    }
}

impl Default for Reads {
    fn default() -> Self {
        Self::new()
    }
}

/// What trackers point to: the part of a lock without its value.
#[derive(Debug)]
struct Core {
    /// Whether each CPU has a token. Writers take them away. A reader inside the gate gives one to
    /// its own CPU.
    tokens: [AtomicBool; MAX_CPUS],
    /// The number of counted readers.
    readers: AtomicU32,
}

/// A value that many threads may read at once, each at the cost of a few plain instructions. One at
/// a time may write, at the cost of an interrupt to each CPU that has read since the last write.
pub struct RmLock<T, R: Reader, G: Gate> {
    core: Core,
    gate: G,
    value: UnsafeCell<T>,
    port: PhantomData<fn() -> R>,
}

// SAFETY: readers share the value between threads (Sync). A writer has it alone, on any thread
// (Send).
unsafe impl<T: Send + Sync, R: Reader, G: Gate + Sync> Sync for RmLock<T, R, G> {}

impl<T, R: Reader, G: Gate> RmLock<T, R, G> {
    /// A free lock, whose readers and writers wait at `gate`.
    #[must_use]
    pub const fn with_gate(value: T, gate: G) -> Self {
        Self {
            core: Core {
                tokens: [const { AtomicBool::new(false) }; MAX_CPUS],
                readers: AtomicU32::new(0),
            },
            gate,
            value: UnsafeCell::new(value),
            port: PhantomData,
        }
    }

    /// Reads: runs `body` while nobody writes. `body` may be preempted, migrate and sleep, and may
    /// read this lock again. Thread context, outside critical sections, since it may have to wait
    /// for a writer.
    #[track_caller]
    #[inline]
    pub fn read<V>(&self, body: impl FnOnce(&T) -> V) -> V {
        let below = R::reads().0.load(Ordering::Relaxed);
        let tracker = self.tracker(below);
        let _reading = self.begin(&tracker, below);
        if !self.has_token() {
            let admitted = self.slow(&tracker, below, |gate| Some(gate.enter()));
            kassert!(admitted, "a reader waited and was not let in");
        }
        // SAFETY: a writer waits until `_reading` is over.
        body(unsafe { &*self.value.get() })
    }

    /// As [`Self::read`], but returns `None` if it would have to wait. Any context but NMI.
    #[track_caller]
    #[inline]
    pub fn try_read<V>(&self, body: impl FnOnce(&T) -> V) -> Option<V> {
        let below = R::reads().0.load(Ordering::Relaxed);
        let tracker = self.tracker(below);
        let reading = self.begin(&tracker, below);
        if !self.has_token() && !self.slow(&tracker, below, Gate::try_enter) {
            core::mem::forget(reading);
            return None;
        }
        // SAFETY: a writer waits until `reading` is over.
        Some(body(unsafe { &*self.value.get() }))
    }

    /// Writes: runs `body` while nobody reads or writes. Thread context, interrupts on,
    /// outside critical sections.
    ///
    /// # Panics
    /// Panics if the calling thread reads the lock: it would wait for itself.
    #[track_caller]
    pub fn write<V>(&self, body: impl FnOnce(&mut T) -> V) -> V {
        kassert!(
            !R::reads().has(&self.core, None),
            "{} writes a lock that it reads",
            R::thread()
        );
        let _pass = self.gate.enter();
        self.revoke();
        // Acquire: pairs with the Release of the last reader in `leave`.
        self.gate
            .wait(&|| self.core.readers.load(Ordering::Acquire) == 0);
        // SAFETY: no reader is counted, and none can read without a token. Nobody gives a token
        // while we are inside the gate, and no other writer is there.
        body(unsafe { &mut *self.value.get() })
    }

    /// Takes away all tokens, and makes the CPUs that had one count their readers.
    #[track_caller]
    fn revoke(&self) {
        let mut cpus = CpuSet::EMPTY;
        for (index, token) in self.core.tokens.iter().enumerate() {
            // Relaxed, both: the rendezvous publishes it, and only the CPU inside the gate writes
            // it.
            if token.load(Ordering::Relaxed) {
                token.store(false, Ordering::Relaxed);
                CpuId::new(index).map(|cpu| cpus.insert(cpu));
            }
        }
        if cpus.is_empty() {
            return;
        }
        let core = &self.core;
        let count = |_: &IpiCtx| {
            R::reads().each(|tracker| {
                if tracker.is_of(core) {
                    tracker.count();
                }
                true
            });
        };
        self.gate.interrupt(&cpus, &count);
    }

    /// Returns the CPUs that have a token. A snapshot, for tests and reports.
    #[must_use]
    pub fn tokens(&self) -> CpuSet {
        let tokens = self.core.tokens.iter().enumerate();
        // Relaxed: a snapshot.
        let given = tokens.filter(|(_, token)| token.load(Ordering::Relaxed));
        given.filter_map(|(index, _)| CpuId::new(index)).collect()
    }

    #[inline(always)]
    fn tracker(&self, below: *mut Tracker) -> Tracker {
        Tracker {
            lock: AtomicPtr::new(ptr::from_ref(&self.core).cast_mut()),
            next: AtomicPtr::new(below),
        }
    }

    #[inline(always)]
    fn begin<'a>(&'a self, tracker: &'a Tracker, below: *mut Tracker) -> Reading<'a, T, R, G> {
        link::<R>(tracker);
        Reading {
            lock: self,
            tracker,
            below,
        }
    }

    /// Returns whether this CPU has a token. Called after `link`, so if the thread migrates in
    /// between, the switch has counted it.
    #[inline(always)]
    fn has_token(&self) -> bool {
        // Acquire: pairs with the Release in `slow`: a reader with the token sees what the last
        // writer wrote.
        self.core.tokens[R::cpu().index()].low_bit()
    }

    /// Ends a read.
    #[inline(always)]
    fn leave(&self, tracker: &Tracker, below: *mut Tracker) {
        // The compiler moves no read of the value below this. The CPU keeps loads before later
        // stores anyway.
        compiler_fence(Ordering::SeqCst);
        R::reads().0.store(below, Ordering::Relaxed);
        // Check for the count only after the store: see the module's header.
        compiler_fence(Ordering::SeqCst);
        if tracker.lock.low_bit() {
            self.uncount();
        }
    }

    #[cold]
    fn uncount(&self) {
        // Release: pairs with the Acquire in `write`: the reader's loads come before it.
        if self.core.readers.fetch_sub(1, Ordering::Release) == 1 {
            self.gate.wake();
        }
    }

    /// Without a token: waits inside the gate to get one. Returns false if `enter` does not let it
    /// in; the tracker is then off the list.
    #[cold]
    #[track_caller]
    fn slow<'a>(
        &'a self,
        tracker: &Tracker,
        below: *mut Tracker,
        enter: impl FnOnce(&'a G) -> Option<G::Pass<'a>>,
    ) -> bool {
        if R::reads().has(&self.core, Some(tracker)) {
            // The writer cannot get in before the thread's other read ends.
            let _off = InterruptsOff::<R>::enter();
            tracker.count();
            return true;
        }
        // The writer must not wait for this reader while this waits for the writer.
        self.leave(tracker, below);
        let Some(_pass) = enter(&self.gate) else {
            return false;
        };
        let core = ptr::from_ref(&self.core).cast_mut();
        tracker.lock.store(core, Ordering::Relaxed);
        link::<R>(tracker);
        // No writer is inside. If the thread has migrated since `link`, it is counted, and giving a
        // token to a CPU without readers costs only an interrupt. Release: pairs with the Acquire
        // in `has_token`.
        self.core.tokens[R::cpu().index()].store(true, Ordering::Release);
        true
    }
}

/// Puts a tracker, already filled in, on top of the calling thread's list.
#[inline(always)]
fn link<R: Reader>(tracker: &Tracker) {
    // An interrupt that finds the tracker finds it filled in.
    compiler_fence(Ordering::SeqCst);
    let tracker = ptr::from_ref(tracker).cast_mut();
    R::reads().0.store(tracker, Ordering::Relaxed);
    // An interrupt from here on finds the tracker. The check for the token notices one that came
    // before.
    compiler_fence(Ordering::SeqCst);
}

impl<T: fmt::Debug, R: Reader, G: Gate> fmt::Debug for RmLock<T, R, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RmLock")
            .field("tokens", &self.tokens())
            // Relaxed: a snapshot.
            .field("readers", &self.core.readers.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}

/// A tracker on the list of the calling thread, until this is dropped.
struct Reading<'a, T, R: Reader, G: Gate> {
    lock: &'a RmLock<T, R, G>,
    tracker: &'a Tracker,
    /// The tracker's `next`, in a register. Only the top of a list changes.
    below: *mut Tracker,
}

impl<T, R: Reader, G: Gate> Drop for Reading<'_, T, R, G> {
    #[inline(always)]
    fn drop(&mut self) {
        self.lock.leave(self.tracker, self.below);
    }
}

#[cfg(test)]
mod tests;
