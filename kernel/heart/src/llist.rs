//! A list to which any CPU adds without a lock, and from which one CPU takes all (Linux's `llist`).
//!
//! The links are in the elements, so adding needs no memory and cannot fail for lack of it. Adding
//! is one compare-and-exchange of the head, in any context, including NMI: an interrupted attempt
//! delays nobody. Taking is one exchange, which leaves the list empty. So no element's neighbour
//! changes, and there is no ABA problem. The elements come out oldest first.
//!
//! The CPU that takes may also close the list. The step that closes it takes what is there, so an
//! element is either taken or its [`LockLessList::push`] is refused; none is lost.

use core::fmt;

use crate::shim::{AtomicPtr, Ordering};

/// An element of a [`LockLessList`], in at most one at a time.
pub trait Element: Sync + Sized + 'static {
    /// The link to the element added before it. It belongs to the list while the element is in one.
    fn next(&self) -> &AtomicPtr<Self>;
}

/// Elements that are linked through themselves. See the module.
pub struct LockLessList<T: Element>(AtomicPtr<T>);

/// The list is closed; the element is not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

/// The head of a closed list: a dangling pointer, which no element has.
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

    /// Adds `element`, which must be in no list. Returns whether it is the first, so that whoever
    /// takes must be notified. Any CPU, any context.
    ///
    /// # Errors
    /// Returns [`Closed`] if the list is closed.
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
            // Release: pairs with the Acquire in `take`. Whoever finds the element sees its link
            // and what was written into it before. Relaxed: tried again.
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

    /// Returns the element that was added last, if any, and leaves it in the list. For messages:
    /// meanwhile it may be taken.
    #[must_use]
    pub fn newest(&self) -> Option<&'static T> {
        // Acquire: pairs with the Release in `push`.
        let head = self.0.load(Ordering::Acquire);
        if head == closed() {
            return None;
        }
        // SAFETY: null, or made from a 'static reference in `push`.
        unsafe { head.as_ref() }
    }

    /// Takes all elements, oldest first. Only one CPU may call this, and not from two interrupts on
    /// top of each other. An element is out of the list once the iterator has returned it.
    pub fn take(&self) -> Taken<T> {
        if self.is_empty() {
            return Taken(core::ptr::null_mut());
        }
        // Acquire: pairs with the Release in `push`. It is not closed: only we do that.
        Taken::oldest_first(self.0.swap(core::ptr::null_mut(), Ordering::Acquire))
    }

    /// Closes the list, and takes all elements as [`Self::take`] does.
    pub fn close(&self) -> Taken<T> {
        // Acquire: as in `take`.
        Taken::oldest_first(self.0.swap(closed(), Ordering::Acquire))
    }

    /// Opens a closed list. Only the CPU that takes may call this.
    pub fn open(&self) {
        // Relaxed: whoever adds reads nothing through it.
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

/// The elements taken out of a list.
#[derive(Debug)]
#[must_use = "what was taken is in no list any more"]
pub struct Taken<T: Element>(*mut T);

impl<T: Element> Taken<T> {
    /// Reverses the links: the list has its elements newest first.
    fn oldest_first(mut from: *mut T) -> Self {
        let mut first = core::ptr::null_mut();
        if from == closed() {
            return Self(first);
        }
        // SAFETY: null, or made from a 'static reference in `push`, which was published to us.
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
        // Before the element is returned, since it may be added again at once. Relaxed: ours until
        // then.
        self.0 = element.next().load(Ordering::Relaxed);
        Some(element)
    }
}

#[cfg(test)]
mod tests;
