//! A list in an array: what a `Vec` is elsewhere, with a capacity that is part of
//! the type and a push that can say no.
//!
//! It reads as a slice. The places from `len` on hold the filler and mean nothing.

#![forbid(unsafe_code)]

use core::fmt;
use core::ops::{Deref, DerefMut};

/// Up to `N` values of `T` in a row.
#[derive(Clone, Copy)]
pub struct List<T, const N: usize> {
    slots: [T; N],
    len: usize,
}

/// A list had no room; it is unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

impl<T: Copy, const N: usize> List<T, N> {
    /// The empty list. `filler` is what its unused places hold; it is never read.
    #[must_use]
    pub const fn new(filler: T) -> Self {
        Self {
            slots: [filler; N],
            len: 0,
        }
    }

    /// Adds `value` at the end.
    ///
    /// # Errors
    /// [`Full`] if the list has `N` values already.
    pub fn push(&mut self, value: T) -> Result<(), Full> {
        *self.slots.get_mut(self.len).ok_or(Full)? = value;
        self.len += 1;
        Ok(())
    }

    /// Puts `value` at `index` and moves those from there on up by one.
    ///
    /// # Errors
    /// [`Full`] if the list has `N` values already.
    ///
    /// # Panics
    /// If `index` is beyond the end.
    pub fn insert(&mut self, index: usize, value: T) -> Result<(), Full> {
        assert!(index <= self.len, "place {index} of {}", self.len);
        self.push(value)?;
        self[index..].rotate_right(1);
        Ok(())
    }

    /// Takes out the value at `index` and moves those after it down by one.
    ///
    /// # Panics
    /// If there is no value at `index`.
    pub fn remove(&mut self, index: usize) -> T {
        let value = self[index];
        self.slots.copy_within(index + 1..self.len, index);
        self.len -= 1;
        value
    }
}

impl<T, const N: usize> Deref for List<T, N> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.slots[..self.len]
    }
}

impl<T, const N: usize> DerefMut for List<T, N> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.slots[..self.len]
    }
}

impl<T: fmt::Debug, const N: usize> fmt::Debug for List<T, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<T: PartialEq, const N: usize> PartialEq for List<T, N> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Eq, const N: usize> Eq for List<T, N> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn push_until_full_and_remove() {
        let mut list = List::<u8, 3>::new(9);
        assert!(list.is_empty());
        for value in 1..=3 {
            assert_eq!(list.push(value), Ok(()));
        }
        assert_eq!(list.push(4), Err(Full));
        assert_eq!(list.insert(0, 4), Err(Full));
        assert_eq!(*list, [1, 2, 3]);
        assert_eq!(list.remove(0), 1);
        assert_eq!(list.remove(1), 3);
        assert_eq!(*list, [2]);
        assert_eq!(list.insert(0, 5), Ok(()));
        assert_eq!(list.insert(2, 6), Ok(()));
        assert_eq!(*list, [5, 2, 6]);
    }

    #[test]
    fn equality_ignores_unused_places() {
        let (mut a, b) = (List::<u8, 2>::new(0), List::<u8, 2>::new(7));
        assert_eq!(a.push(1), Ok(()));
        assert_ne!(a, b);
        a.remove(0);
        assert_eq!(a, b);
    }

    #[test]
    fn what_is_shown_is_what_is_in_it() {
        let mut list = List::<u8, 4>::new(0);
        list.push(1).unwrap();
        list.push(2).unwrap();
        assert_eq!(format!("{list:?}"), "[1, 2]");
    }
}
