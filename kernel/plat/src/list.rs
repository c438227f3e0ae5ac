//! A list in an array: a `Vec` whose capacity is part of the type and whose push can fail.
//!
//! It derefs to a slice. The slots from `len` on hold the filler and mean nothing.

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
    /// The empty list. Its unused slots hold `filler`, which is never read.
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
    /// Returns [`Full`] if the list already has `N` values.
    pub fn push(&mut self, value: T) -> Result<(), Full> {
        *self.slots.get_mut(self.len).ok_or(Full)? = value;
        self.len += 1;
        Ok(())
    }

    /// Puts `value` at `index` and moves those from there on up by one.
    ///
    /// # Errors
    /// Returns [`Full`] if the list already has `N` values.
    ///
    /// # Panics
    /// Panics if `index` is beyond the end.
    pub fn insert(&mut self, index: usize, value: T) -> Result<(), Full> {
        assert!(index <= self.len, "place {index} of {}", self.len);
        self.push(value)?;
        self[index..].rotate_right(1);
        Ok(())
    }

    /// Takes out the value at `index` and moves those after it down by one.
    ///
    /// # Panics
    /// Panics if there is no value at `index`.
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
mod tests;
