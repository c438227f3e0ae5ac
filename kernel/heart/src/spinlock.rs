//! The spinlock: one word that names its holder, held with interrupts off and in a
//! critical section.
//!
//! [`spinlock_enter`] and [`spinlock_exit`] are the section without a lock. The thread's word
//! ([`crate::critical`]) counts a spinlock, which is also a critical section, and so records why
//! interrupts are off. An exit turns them on if nothing else keeps them off: another lock, an
//! interrupt, or the thread itself. It pays first, with interrupts off; the next thread turns them
//! on if its own word allows. Since the thread counts, and not the lock, locks may be released in
//! any order. (FreeBSD `sys/amd64/amd64/machdep.c`, `spinlock_enter`, keeps a count and the
//! interrupt flag from before the first lock.)
//!
//! A waiter leaves the section while it spins, so it takes interrupts if nothing else keeps them
//! off. Otherwise it could not answer an IPI of the holder, and both would wait forever (FreeBSD
//! `kern_mutex.c`, `_mtx_lock_spin_cookie`: "give interrupts a chance").
//!
//! This is why the lock has no queue of waiters. A handler may run on top of a waiter and take the
//! same lock. With tickets the handler's turn would come after the waiter's, and the waiter cannot
//! go on before the handler is done. Here a waiter has no place in a queue while interrupts are on,
//! and the handler just gets the lock. The price is that the machine decides the order of the
//! waiters.
//!
//! A lock records where it was made and where its holder took it. A CPU that waits longer than
//! [`Probe::SPIN_TOO_LONG`] panics with both places. One that waits noticeably long leaves them where
//! a report finds them ([`SpinSite`]). A test port passes them to [`crate::more::witness`].

use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::panic::Location;

use crate::cpu::CpuId;
use crate::port::Port;
use crate::probe::Probe;
use crate::shim::trace::{self, Event};
use crate::shim::{AtomicU32, Ordering, Turns};
use crate::site::{Line, Place, Site, Spin, SpinSite};
use crate::{KASSERT, kassert};

/// Turns interrupts off and enters a critical section. Any context.
#[track_caller]
#[inline]
pub fn spinlock_enter<P: Port>() {
    P::disable_interrupts();
    P::crit().lock();
    P::Probe::section_entered(Location::caller());
}

/// Undoes one [`spinlock_enter`]. The last exit pays what is owed, and only then turns interrupts
/// on again, if nothing else keeps them off.
///
/// # Panics
/// Panics if there is none to undo; the message names the caller's place.
#[track_caller]
#[inline]
pub fn spinlock_exit<P: Port>() {
    P::Probe::section_leaves();
    if P::crit().unlock::<P>() {
        P::enable_interrupts();
    }
}

/// As [`spinlock_exit`] without looking at what is owed. For the code that pays it, which looks
/// again itself.
#[inline]
pub fn spinlock_exit_unpaid<P: Port>() {
    P::Probe::section_leaves();
    if P::crit().unlock_unpaid() {
        P::enable_interrupts();
    }
}

/// After each time that it has turned this often, a waiter records for which lock it spins: after a
/// tenth of a millisecond at the latest. A shorter wait says nothing of a hang, and costs nothing.
const SPIN_RECORDED: u32 = 1 << 10;

/// No CPU holds the lock.
const FREE: u32 = u32::MAX;

/// A spinlock without its value. A trace finds the other fields by the address of the first.
#[repr(C)]
struct Raw<P: Port> {
    /// The holder's CPU index, or [`FREE`].
    owner: AtomicU32,
    /// Where the holder, or the last holder, took it.
    site: Site,
    /// Where the lock was made.
    class: Place,
    port: PhantomData<fn() -> P>,
}

impl<P: Port> Raw<P> {
    /// Makes this CPU the holder if there is none. Interrupts are off, so the guard is made on the
    /// same CPU.
    #[inline]
    fn take(&self) -> bool {
        let me = P::cpu().index() as u32;
        // Acquire: pairs with the Release of the guard's drop.
        self.owner
            .compare_exchange(FREE, me, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Waits until this CPU is the holder. Takes interrupts meanwhile, if nothing else keeps them
    /// off.
    #[cold]
    #[track_caller]
    fn wait(&self) {
        let site = Location::caller();
        kassert!(
            !self.is_held_here(),
            "spinlock: {} on {} takes a lock that it holds: {self}, again at {}",
            P::thread(),
            P::cpu(),
            Line(site)
        );
        // The order of locks is reported before the wait, which a deadlock would never leave.
        P::Probe::lock_taken(self.class, site, true);
        P::Probe::lock_released(self.class);
        trace::event_of::<{ Event::LockWait as u16 }>(self.owner.as_ptr() as u64);
        let mut outer = None;
        let mut next_look = SPIN_RECORDED;
        let mut turns = Turns::new();
        loop {
            spinlock_exit::<P>();
            // Relaxed: a look that costs the holder no cache line; `take` decides.
            while self.owner.load(Ordering::Relaxed) != FREE {
                P::relax();
                let turns = turns.count();
                if turns >= next_look {
                    next_look = turns.saturating_add(SPIN_RECORDED);
                    outer.get_or_insert_with(|| P::spin_site().and_then(SpinSite::get));
                    self.spins_long(turns, site);
                }
            }
            P::Probe::spin_ends();
            spinlock_enter::<P>();
            if self.take() {
                if let (Some(outer), Some(record)) = (outer, P::spin_site()) {
                    record.set(outer);
                }
                return;
            }
        }
    }

    /// Records, for reports, that the current thread spins for this lock at `site`, and panics if it
    /// has done so for too long.
    #[cold]
    #[track_caller]
    fn spins_long(&self, turns: u32, site: Place) {
        if let Some(record) = P::spin_site()
            && let Some(owner) = self.owner()
        {
            record.set(Some(Spin {
                lock: self.class,
                at: site,
                owner,
                since: self.site.get(),
            }));
        }
        kassert!(
            turns < P::Probe::SPIN_TOO_LONG,
            "spinlock: {} on {} spins too long for {self}, at {}",
            P::thread(),
            P::cpu(),
            Line(site)
        );
    }

    /// The holder. For messages: a snapshot.
    fn owner(&self) -> Option<CpuId> {
        // Relaxed: a snapshot for people.
        CpuId::new(self.owner.load(Ordering::Relaxed) as usize)
    }

    /// Records where the lock was taken. Only the holder calls this.
    #[track_caller]
    #[inline]
    fn taken(&self, waits: bool) {
        self.site.set(Location::caller());
        P::Probe::lock_taken(self.class, Location::caller(), waits);
    }

    /// Frees the lock. Only the holder calls this.
    #[inline]
    fn release(&self) {
        P::Probe::lock_released(self.class);
        // Release: pairs with the Acquire in `take`.
        self.owner.store(FREE, Ordering::Release);
    }

    /// Whether the calling CPU is the holder.
    #[inline]
    fn is_held_here(&self) -> bool {
        // Relaxed: only this CPU stores its own index.
        self.owner.load(Ordering::Relaxed) == P::cpu().index() as u32
    }
}

/// Names the lock, its holder, and where the holder took it. For messages: a snapshot.
impl<P: Port> fmt::Display for Raw<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lock {}, ", Line(self.class))?;
        match self.owner() {
            Some(owner) => write!(f, "held by {owner} since {}", self.site),
            None => f.write_str("free"),
        }
    }
}

/// A value that only one CPU at a time can access, with interrupts off.
#[repr(C)]
pub struct Spinlock<T, P: Port> {
    raw: Raw<P>,
    value: UnsafeCell<T>,
}

// SAFETY: the lock gives the value to one CPU at a time. T itself moves between CPUs through the
// guard, so it must be Send.
unsafe impl<T: Send, P: Port> Sync for Spinlock<T, P> {}

// SAFETY: moving the lock moves the value and nothing else.
unsafe impl<T: Send, P: Port> Send for Spinlock<T, P> {}

impl<T, P: Port> Spinlock<T, P> {
    /// A free lock around `value`. The caller's place in the source names the lock in messages. All
    /// locks made there are one class in the lock order.
    #[track_caller]
    pub const fn new(value: T) -> Self {
        Self {
            raw: Raw {
                owner: AtomicU32::new(FREE),
                site: Site::new(),
                class: Location::caller(),
                port: PhantomData,
            },
            value: UnsafeCell::new(value),
        }
    }

    /// Waits for the lock, and holds it until the guard is dropped, in a critical section with
    /// interrupts off. Any context but NMI (there, use [`Self::try_lock`]). The holder must not
    /// sleep.
    ///
    /// # Panics
    /// Panics if this CPU already holds the lock, or has waited for [`Probe::SPIN_TOO_LONG`].
    #[track_caller]
    #[inline]
    pub fn lock(&self) -> SpinlockGuard<'_, T, P> {
        spinlock_enter::<P>();
        if !self.raw.take() {
            self.raw.wait();
        }
        self.guard(true)
    }

    /// Makes the guard of the lock that this CPU has just taken.
    #[track_caller]
    #[inline]
    fn guard(&self, waits: bool) -> SpinlockGuard<'_, T, P> {
        self.raw.taken(waits);
        SpinlockGuard {
            lock: self,
            not_send: PhantomData,
        }
    }

    /// Takes the lock that `find` returns, which belongs to the CPU that runs `find`. The caller
    /// cannot move to another CPU between finding the lock and holding it.
    ///
    /// # Panics
    /// As [`Self::lock`].
    #[track_caller]
    #[inline]
    pub fn lock_here<'a>(find: impl Fn() -> &'a Self) -> SpinlockGuard<'a, T, P> {
        spinlock_enter::<P>();
        let lock = find();
        if lock.raw.take() {
            return lock.guard(true);
        }
        Self::wait_here(find)
    }

    /// The slow path of [`Self::lock_here`], in the section, when another CPU holds the lock.
    #[cold]
    #[track_caller]
    fn wait_here<'a>(find: impl Fn() -> &'a Self) -> SpinlockGuard<'a, T, P> {
        loop {
            let lock = find();
            // Takes interrupts, so the thread may move to another CPU.
            lock.raw.wait();
            let guard = lock.guard(true);
            if core::ptr::eq(lock, find()) {
                return guard;
            }
            drop(guard);
            spinlock_enter::<P>();
        }
    }

    /// As [`Self::lock`], for a thread that already holds `outer`: the compiler then knows that
    /// interrupts are off and a section is entered.
    ///
    /// # Panics
    /// As [`Self::lock`].
    #[track_caller]
    #[inline]
    pub fn lock_within<U>(&self, outer: &SpinlockGuard<'_, U, P>) -> SpinlockGuard<'_, T, P> {
        let _ = outer;
        P::crit().lock();
        if !self.raw.take() {
            self.raw.wait();
        }
        self.guard(true)
    }

    /// Takes the lock if it is free at this moment. Any context, including NMI.
    #[track_caller]
    pub fn try_lock(&self) -> Option<SpinlockGuard<'_, T, P>> {
        spinlock_enter::<P>();
        if self.raw.take() {
            return Some(self.guard(false));
        }
        spinlock_exit::<P>();
        None
    }

    /// Releases the lock that another context took on this CPU and handed over: the run-queue lock,
    /// which is held across a switch. With `pay`, pays what is owed at the end; without it, the
    /// caller must look.
    ///
    /// # Panics
    /// Panics if this CPU does not hold it.
    ///
    /// # Safety
    /// This CPU must hold the lock, its guard must have been forgotten, and no
    /// reference to the value may be in use.
    #[track_caller]
    #[inline(always)]
    pub unsafe fn unlock_handed_over(&self, pay: bool) {
        if !self.is_held_here() {
            self.not_held_here();
        }
        self.raw.release();
        if pay {
            spinlock_exit::<P>();
        } else {
            spinlock_exit_unpaid::<P>();
        }
    }

    #[cold]
    #[track_caller]
    fn not_held_here(&self) -> ! {
        panic!(
            "{KASSERT}spinlock: {} on {} lets go of a lock that it does not hold: {}",
            P::thread(),
            P::cpu(),
            &self.raw
        );
    }

    /// Where the lock was made.
    pub const fn class(&self) -> Place {
        self.raw.class
    }

    /// Whether the calling CPU holds the lock. For code that must not wait for itself, such as an
    /// NMI handler.
    pub fn is_held_here(&self) -> bool {
        self.raw.is_held_here()
    }

    /// Returns the value without locking, since no other reference to it can exist.
    pub const fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

impl<T, P: Port> fmt::Debug for Spinlock<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spinlock({})", self.raw)
    }
}

/// The value of a locked [`Spinlock`]. Dropping it unlocks, and turns interrupts on again if
/// nothing else keeps them off.
#[must_use = "the lock is released at once if the guard is not kept"]
pub struct SpinlockGuard<'a, T, P: Port> {
    lock: &'a Spinlock<T, P>,
    /// A guard stays with its thread, since that thread's word counts it.
    not_send: PhantomData<*const ()>,
}

impl<T: fmt::Debug, P: Port> fmt::Debug for SpinlockGuard<'_, T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T, P: Port> Deref for SpinlockGuard<'_, T, P> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the guard holds the lock, so nobody else has a reference.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T, P: Port> DerefMut for SpinlockGuard<'_, T, P> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and &mut self is the only way here.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T, P: Port> Drop for SpinlockGuard<'_, T, P> {
    #[inline]
    fn drop(&mut self) {
        self.lock.raw.release();
        spinlock_exit::<P>();
    }
}

#[cfg(test)]
mod tests;
