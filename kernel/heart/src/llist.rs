//! A list that any CPU adds to without a lock, and one CPU takes all of (Linux's `llist`).
//!
//! The links are in the elements, so adding needs no memory and cannot fail for want of it.
//! To add is one compare-and-exchange of the head, in any context, NMI too: an interrupted
//! attempt holds up nobody. To take is one exchange, which leaves the list empty; so there
//! is no element whose neighbour changes, and no ABA. What was taken comes oldest first.
//!
//! The one CPU may close the list. The step that closes it also takes what is there: an
//! element is either taken, or its [`LockLessList::push`] is refused; none is lost.

use core::fmt;

use crate::shim::{AtomicPtr, Ordering};

/// What can be in a [`LockLessList`], one at a time.
pub trait Element: Sync + Sized + 'static {
    /// The link to the element that was added before. The list's own while it is in one.
    fn next(&self) -> &AtomicPtr<Self>;
}

/// Elements that are linked through themselves. See the module.
pub struct LockLessList<T: Element>(AtomicPtr<T>);

/// The list is closed; the element is not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

/// What the head of a closed list points at: no element, since it is nowhere.
fn closed<T>() -> *mut T {
    core::ptr::dangling_mut()
}

impl<T: Element> LockLessList<T> {
    /// The empty list.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicPtr::new(core::ptr::null_mut()))
    }

    /// A list that is closed.
    #[must_use]
    pub const fn new_closed() -> Self {
        Self(AtomicPtr::new(core::ptr::dangling_mut()))
    }

    /// Adds `element`, which must be in no list; whether it is the first, so that whoever
    /// takes must be told. Any CPU, any context.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn push(&self, element: &'static T) -> Result<bool, Closed> {
        let new = core::ptr::from_ref(element).cast_mut();
        // Relaxed: the exchange decides.
        let mut head = self.0.load(Ordering::Relaxed);
        loop {
            if head == closed() {
                return Err(Closed);
            }
            // Relaxed: published by the exchange.
            element.next().store(head, Ordering::Relaxed);
            // Release: pairs with the Acquire in `take`: who finds the element sees its
            // link and what was written into it before. Relaxed: tried again.
            match self
                .0
                .compare_exchange_weak(head, new, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return Ok(head.is_null()),
                Err(now) => head = now,
            }
        }
    }

    /// Whether there was nothing to take at the moment of the load.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        // Relaxed: `take` decides.
        let head = self.0.load(Ordering::Relaxed);
        head.is_null() || head == closed()
    }

    /// Takes all there is, oldest first. By one CPU only, not by two interrupts of it on top
    /// of each other. An element is out of the list once the iterator has given it.
    pub fn take(&self) -> Taken<T> {
        if self.is_empty() {
            return Taken(core::ptr::null_mut());
        }
        // Acquire: pairs with the Release in `push`. It is not closed: only we do that.
        Taken::oldest_first(self.0.swap(core::ptr::null_mut(), Ordering::Acquire))
    }

    /// Closes the list, and takes all there is. As [`Self::take`].
    pub fn close(&self) -> Taken<T> {
        // Acquire: as in `take`.
        Taken::oldest_first(self.0.swap(closed(), Ordering::Acquire))
    }

    /// Opens a list that is closed. By the CPU that takes.
    pub fn open(&self) {
        // Relaxed: whoever adds finds nothing through it.
        let _ = self.0.compare_exchange(
            closed(),
            core::ptr::null_mut(),
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }
}

impl<T: Element> Default for LockLessList<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Element> fmt::Debug for LockLessList<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Relaxed: for messages.
        f.write_str(match self.0.load(Ordering::Relaxed) {
            head if head.is_null() => "empty",
            head if head == closed() => "closed",
            _ => "not empty",
        })
    }
}

/// What was taken out of a list.
#[derive(Debug)]
#[must_use = "what was taken is in no list any more"]
pub struct Taken<T: Element>(*mut T);

impl<T: Element> Taken<T> {
    /// Turns the links round: the list has them newest first.
    fn oldest_first(mut from: *mut T) -> Self {
        let mut first = core::ptr::null_mut();
        if from == closed() {
            return Self(first);
        }
        // SAFETY: null or made of a 'static reference in `push`, which was published to us.
        while let Some(element) = unsafe { from.as_ref() } {
            // Relaxed here and below: it is ours now.
            let older = element.next().load(Ordering::Relaxed);
            element.next().store(first, Ordering::Relaxed);
            (first, from) = (from, older);
        }
        Self(first)
    }
}

impl<T: Element> Iterator for Taken<T> {
    type Item = &'static T;

    fn next(&mut self) -> Option<&'static T> {
        // SAFETY: as in `oldest_first`.
        let element = unsafe { self.0.as_ref() }?;
        // Before it is given away: it may be added again at once. Relaxed: ours till then.
        self.0 = element.next().load(Ordering::Relaxed);
        Some(element)
    }
}

#[cfg(test)]
mod tests;
