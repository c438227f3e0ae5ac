//! A list linked through its elements, in the order in which they came: FreeBSD's TAILQ.
//!
//! Through each of its [`Link`]s an element is in at most one list; `Via` says which link. The list
//! costs its element only the link, and neither push nor removal can fail.
//!
//! Nothing here is atomic. The caller's lock protects a list and the links of its elements. Whoever
//! declares the elements `Sync` must ensure that.
//!
//! Source: FreeBSD `sys/sys/queue.h`.

#![forbid(unsafe_code)]

use core::cell::Cell;
use core::fmt;
use core::iter::successors;
use core::marker::PhantomData;
use core::ptr;

/// The neighbours of an element that is in at most one list.
pub struct Link<T: 'static> {
    next: Cell<Option<&'static T>>,
    previous: Cell<Option<&'static T>>,
}

impl<T> Link<T> {
    /// The link of an element that is in no list.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            next: Cell::new(None),
            previous: Cell::new(None),
        }
    }
}

impl<T> Default for Link<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// An element that can be in a list through its link `Via`.
pub trait Linked<Via>: Sized + 'static {
    /// The link `Via`.
    fn link(&self) -> &Link<Self>;
}

/// The list: first and last element.
pub struct TailQueue<T: 'static, Via> {
    first: Option<&'static T>,
    last: Option<&'static T>,
    via: PhantomData<fn() -> Via>,
}

impl<T: Linked<Via>, Via> TailQueue<T, Via> {
    /// The empty list.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            first: None,
            last: None,
            via: PhantomData,
        }
    }

    /// The first element.
    #[must_use]
    pub const fn first(&self) -> Option<&'static T> {
        self.first
    }

    /// Whether nothing is in the list.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Adds `element`, which is in no list, at the end.
    #[inline]
    pub fn push_back(&mut self, element: &'static T) {
        element.link().next.set(None);
        element.link().previous.set(self.last);
        match self.last {
            None => self.first = Some(element),
            Some(last) => last.link().next.set(Some(element)),
        }
        self.last = Some(element);
    }

    /// Adds `element`, which is in no list, at the beginning.
    #[inline]
    pub fn push_front(&mut self, element: &'static T) {
        element.link().next.set(self.first);
        element.link().previous.set(None);
        match self.first {
            None => self.last = Some(element),
            Some(first) => first.link().previous.set(Some(element)),
        }
        self.first = Some(element);
    }

    /// Takes out the first element.
    #[inline]
    pub fn pop_front(&mut self) -> Option<&'static T> {
        let first = self.first?;
        self.first = first.link().next.get();
        match self.first {
            None => self.last = None,
            Some(next) => next.link().previous.set(None),
        }
        Some(first)
    }

    /// As [`Self::push_back`] of `element` and then [`Self::pop_front`], if the list is not empty.
    /// On an empty list, does nothing and returns `None`.
    #[inline]
    pub fn rotate(&mut self, element: &'static T) -> Option<&'static T> {
        let first = self.first?;
        match first.link().next.get() {
            None => {
                element.link().next.set(None);
                element.link().previous.set(None);
                (self.first, self.last) = (Some(element), Some(element));
            }
            Some(second) => {
                second.link().previous.set(None);
                self.first = Some(second);
                self.push_back(element);
            }
        }
        Some(first)
    }

    /// Takes out `element`, which is in this list.
    #[inline]
    pub fn remove(&mut self, element: &'static T) {
        let (next, previous) = (element.link().next.get(), element.link().previous.get());
        match previous {
            None => self.first = next,
            Some(previous) => previous.link().next.set(next),
        }
        match next {
            None => self.last = previous,
            Some(next) => next.link().previous.set(previous),
        }
    }

    /// The elements from the first to the last.
    pub fn iter(&self) -> impl Iterator<Item = &'static T> + use<T, Via> {
        successors(self.first, |element| element.link().next.get())
    }

    /// Whether `element` is in this list. Looks through the whole list.
    #[must_use]
    pub fn contains(&self, element: &T) -> bool {
        self.iter().any(|one| ptr::eq(one, element))
    }
}

impl<T: Linked<Via>, Via> Default for TailQueue<T, Via> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Linked<Via> + fmt::Debug, Via> fmt::Debug for TailQueue<T, Via> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests;
