//! `rmlock`: a lock for what is read all the time and hardly ever written.
//!
//! A reader writes nothing that another CPU reads, and executes no locked instruction and
//! no fence. It puts a `Tracker`, which lies on its stack, on top of the list of its
//! thread, and looks whether its CPU has a *token* for the lock:
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
//! The interrupt is the fence that readers do not have. It comes before the reader's store
//! to the list, and then the token that the reader looks at next is gone; or after, and
//! then the handler finds the tracker. So each of the two orders is load-bearing, to the
//! compiler: the CPU itself is interrupted between instructions. On the way out the same:
//! first the tracker leaves the list, then the reader looks whether it was counted. The
//! other way round an interrupt in between counts a reader that never takes itself off the
//! count, and the writer waits forever (FreeBSD D28821, where a compiler had swapped them;
//! here `bugs/0007-flag-before-unlink.patch`, found by `sync::rmlock::at_every_boundary`).
//!
//! Only the thread that runs on a CPU can be found by an interrupt there, so the switch
//! counts the readers that it takes off the CPU ([`Reads::count_all`]). Hence a tracker that
//! is not counted belongs to a thread that runs, on a CPU that has a token, or whose reader
//! has not looked yet and will find none. A reader may be preempted, may move to another
//! CPU, and may sleep.
//!
//! FreeBSD (`sys/kern/kern_rmlock.c`) has a list to each CPU, with the readers of all the
//! threads that were on it; so it opens a critical section around each of the two changes,
//! and pins the reader. Decision 8 says why this is different.
//!
//! A reader that already reads the same lock gets in although a writer waits: it would wait
//! for itself. Readers lend no priority to anybody, nor does a writer to readers.

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
    /// What the current thread reads. As [`Port::crit`], it moves with the thread.
    fn reads() -> &'static Reads;
}

/// How readers and writers of a lock wait for each other.
pub trait Gate {
    /// Somebody is inside: nobody else gets in until it is dropped.
    type Pass<'a>
    where
        Self: 'a;

    /// Waits until the caller may go in: writers, and readers without a token.
    #[track_caller]
    fn enter(&self) -> Self::Pass<'_>;

    /// As [`Self::enter`], or `None` if it would have to wait.
    #[track_caller]
    fn try_enter(&self) -> Option<Self::Pass<'_>>;

    /// Waits until `drained`. By the one who is inside.
    fn wait(&self, drained: &dyn Fn() -> bool);

    /// What [`Self::wait`] waits for may have come true.
    fn wake(&self);

    /// Runs `action` on those of `cpus` that run threads, and waits until it has run: a
    /// rendezvous without barriers.
    #[track_caller]
    fn interrupt(&self, cpus: &CpuSet, action: Callback<'_>);
}

/// In [`Tracker::lock`]: the reader is counted.
const COUNTED: usize = 1;

/// One read of one lock, on the stack of the reader. Touched by its thread, the interrupts
/// on top of it, and the switch away from it: relaxed throughout.
#[derive(Debug)]
struct Tracker {
    /// Which lock, and [`COUNTED`].
    lock: AtomicPtr<Core>,
    /// The one below on the thread's list: the same for as long as the tracker exists.
    next: AtomicPtr<Tracker>,
}

impl Tracker {
    fn is_of(&self, core: &Core) -> bool {
        let lock = self.lock.load(Ordering::Relaxed);
        ptr::eq(lock.map_addr(|address| address & !COUNTED), core)
    }

    /// Counts this reader, if it is not. Interrupts off.
    fn count(&self) {
        let lock = self.lock.load(Ordering::Relaxed);
        if lock.addr() & COUNTED == 0 {
            let counted = lock.map_addr(|address| address | COUNTED);
            self.lock.store(counted, Ordering::Relaxed);
            // SAFETY: not counted, it is the address of a lock that the reader, whose
            // tracker is still on its list, has borrowed.
            let core = unsafe { &*lock };
            // Relaxed: what makes the writer look at the count orders it: the end of its
            // rendezvous, in which this CPU took part after this.
            core.readers.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The trackers of one thread, the last one first.
#[derive(Debug)]
pub struct Reads(AtomicPtr<Tracker>);

impl Reads {
    /// Of a thread that reads nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// Whether the thread reads nothing.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        // Relaxed: the thread's own.
        self.0.load(Ordering::Relaxed).is_null()
    }

    /// Counts all that the thread reads: it is going to be off its CPU, where no interrupt
    /// finds it. By the switch, interrupts off.
    #[cold]
    pub fn count_all(&self) {
        self.each(|tracker| {
            tracker.count();
            true
        });
    }

    /// Calls `each` for the trackers until it returns false; whether it never did.
    fn each(&self, mut each: impl FnMut(&Tracker) -> bool) -> bool {
        let mut at = self.0.load(Ordering::Relaxed);
        // SAFETY: null, or a tracker that is on the list, and so on the stack of the thread:
        // one leaves the list before it goes out of scope.
        while let Some(tracker) = unsafe { at.as_ref() } {
            if !each(tracker) {
                return false;
            }
            at = tracker.next.load(Ordering::Relaxed);
        }
        true
    }

    /// Whether the thread reads `core`, `but` not counting.
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

/// What trackers point to.
#[derive(Debug)]
struct Core {
    /// Whether a CPU has a token. Taken by writers; given to its own CPU by a reader that
    /// is inside the gate.
    tokens: [AtomicBool; MAX_CPUS],
    /// How many readers are counted.
    readers: AtomicU32,
}

/// A value that many threads may read at once, each by some plain instructions, and one at
/// a time may write, at the cost of an interrupt to each CPU that has read since.
pub struct RmLock<T, R: Reader, G: Gate> {
    core: Core,
    gate: G,
    value: UnsafeCell<T>,
    port: PhantomData<fn() -> R>,
}

// SAFETY: readers share the value between threads (Sync), and a writer has it alone, on
// whatever thread (Send).
unsafe impl<T: Send + Sync, R: Reader, G: Gate + Sync> Sync for RmLock<T, R, G> {}

impl<T, R: Reader, G: Gate> RmLock<T, R, G> {
    /// A lock that nobody has, whose readers and writers wait at `gate`.
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

    /// Reads: runs `body` while nobody writes. It may be preempted, move and sleep, and may
    /// read this lock again. Thread context, outside critical sections, since it may have to
    /// wait for a writer.
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

    /// As [`Self::read`], or `None` if it would have to wait. Any context but NMI.
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
    /// If the calling thread reads the lock: it would wait for itself.
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
        // SAFETY: no reader is counted, none can be without a token, and no token is given
        // while we are inside the gate, where there is no other writer.
        body(unsafe { &mut *self.value.get() })
    }

    /// Takes all tokens, and lets the CPUs that had one count their readers.
    #[track_caller]
    fn revoke(&self) {
        let mut cpus = CpuSet::EMPTY;
        for (index, token) in self.core.tokens.iter().enumerate() {
            // Relaxed, both: the rendezvous makes it known, and only who is inside the gate
            // writes it.
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

    /// Which CPUs have a token. For tests and reports: a snapshot.
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

    /// Whether this CPU has a token. Which CPU that is, is asked after `link`: a thread that
    /// moves in between is counted.
    #[inline(always)]
    fn has_token(&self) -> bool {
        // Acquire: pairs with the Release in `slow`: who has the token sees what the last
        // writer wrote.
        self.core.tokens[R::cpu().index()].low_bit()
    }

    /// The end of a read.
    #[inline(always)]
    fn leave(&self, tracker: &Tracker, below: *mut Tracker) {
        // No read of the value sinks below, for the compiler; the CPU keeps loads before
        // later stores by itself.
        compiler_fence(Ordering::SeqCst);
        R::reads().0.store(below, Ordering::Relaxed);
        // Only now the look: see the module.
        compiler_fence(Ordering::SeqCst);
        if tracker.lock.low_bit() {
            self.uncount();
        }
    }

    #[cold]
    fn uncount(&self) {
        // Release: pairs with the Acquire in `write`: what was read, was read before.
        if self.core.readers.fetch_sub(1, Ordering::Release) == 1 {
            self.gate.wake();
        }
    }

    /// Without a token: waits inside the gate for one, unless `enter` does not let it in:
    /// false then, and the tracker is off the list.
    #[cold]
    #[track_caller]
    fn slow<'a>(
        &'a self,
        tracker: &Tracker,
        below: *mut Tracker,
        enter: impl FnOnce(&'a G) -> Option<G::Pass<'a>>,
    ) -> bool {
        if R::reads().has(&self.core, Some(tracker)) {
            // The writer cannot be in before the thread's other read is over.
            let _off = InterruptsOff::<R>::enter();
            tracker.count();
            return true;
        }
        // While it waits the writer must not wait for it.
        self.leave(tracker, below);
        let Some(_pass) = enter(&self.gate) else {
            return false;
        };
        let core = ptr::from_ref(&self.core).cast_mut();
        tracker.lock.store(core, Ordering::Relaxed);
        link::<R>(tracker);
        // No writer is inside. If the thread has moved since `link`, it is counted, and the
        // token of a CPU without readers costs an interrupt. Release: pairs with the Acquire
        // in `has_token`.
        self.core.tokens[R::cpu().index()].store(true, Ordering::Release);
        true
    }
}

/// Puts a tracker that is filled in on top of the list of the calling thread.
#[inline(always)]
fn link<R: Reader>(tracker: &Tracker) {
    // An interrupt that finds the tracker finds it filled in.
    compiler_fence(Ordering::SeqCst);
    let tracker = ptr::from_ref(tracker).cast_mut();
    R::reads().0.store(tracker, Ordering::Relaxed);
    // What comes from here on finds the tracker; what came before is seen by the look at the
    // token.
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
    /// The tracker's `next`, in a register: a list is changed at its top only.
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
