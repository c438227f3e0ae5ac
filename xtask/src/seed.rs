//! Seeds for the tests: one number from which a whole run follows.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

/// A seed that nobody chose, from the operating system's random numbers.
pub(crate) fn random() -> u64 {
    // Every RandomState has keys of its own, made from the system's.
    RandomState::new().build_hasher().finish()
}

/// The seed of the `run`-th repetition: the base seed itself for the first, so
/// that the seed a boot reports is the one that `--seed` replays.
pub(crate) fn nth(base: u64, run: u32) -> u64 {
    if run == 0 {
        base
    } else {
        splitmix64(base.wrapping_add(u64::from(run)))
    }
}

/// One step of SplitMix64 (Steele, Lea, Flood 2014): spreads neighbours apart.
fn splitmix64(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
