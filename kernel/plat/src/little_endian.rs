//! Numbers as firmware and hypervisors leave them in memory: little-endian, at any alignment.

#![forbid(unsafe_code)]

/// The `N` bytes at `offset`.
///
/// # Panics
/// Panics if they are not all in `bytes`; the caller must have checked.
pub(crate) fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    core::array::from_fn(|i| bytes[offset + i])
}

/// The number in the four bytes at `offset`.
///
/// # Panics
/// As [`array_at`].
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, offset))
}

/// The number in the eight bytes at `offset`.
///
/// # Panics
/// As [`array_at`].
pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, offset))
}

#[cfg(test)]
mod tests;
