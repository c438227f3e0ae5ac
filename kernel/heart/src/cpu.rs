//! CPU ids and sets of CPUs.
//!
//! A [`CpuId`] is the kernel's own dense number, 0 for the boot CPU and counting up
//! in the order CPUs are taken from the MADT. It indexes arrays; the APIC id, which
//! may be sparse, stays in the interrupt code. Every `CpuId` is below [`MAX_CPUS`].
//!
//! [`CpuSet`] is a value to compute with; [`AtomicCpuSet`] is shared between CPUs. [`FirstCpu`]
//! chooses, once, the CPU that does something for all.

#![forbid(unsafe_code)]

use crate::shim::trace::Traced;
use crate::shim::{self, AtomicU8, AtomicU32, AtomicU64, Ordering};
use core::fmt;
use core::iter::FusedIterator;
use core::num::NonZeroU64;

/// The most CPUs the kernel can use. It sizes every per-CPU array.
pub const MAX_CPUS: usize = shim::MAX_CPUS;

const WORDS: usize = MAX_CPUS.div_ceil(64);

/// The kernel's number of a CPU: dense from 0, always below [`MAX_CPUS`].
///
/// The compiler knows that every index of an array of [`MAX_CPUS`] is in bounds ([`Self::index`]).
/// Otherwise each look-up would have a useless comparison and jump.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CpuId(u8);

const _: () = assert!(MAX_CPUS <= 1 << u8::BITS, "a CpuId holds every number");

impl CpuId {
    /// The CPU the machine started on.
    pub const BOOT: Self = Self(0);

    /// The id with this index, or `None` from [`MAX_CPUS`] on.
    #[must_use]
    pub const fn new(index: usize) -> Option<Self> {
        // MAX_CPUS fits, so the cast loses nothing.
        if index < MAX_CPUS {
            Some(Self(index as u8))
        } else {
            None
        }
    }

    /// The id as an array index, below [`MAX_CPUS`].
    #[must_use]
    pub const fn index(self) -> usize {
        // The remainder changes nothing; MAX_CPUS is a power of two, so it is one AND.
        self.0 as usize % MAX_CPUS
    }

    /// Which word of a set holds this CPU, and the bit in it.
    const fn place(self) -> (usize, u64) {
        (self.index() / 64, 1 << (self.index() % 64))
    }
}

/// `cpu2`.
impl fmt::Display for CpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cpu{}", self.0)
    }
}

/// A CPU number that may change while others read it.
#[derive(Debug)]
#[repr(transparent)]
pub struct AtomicCpuId(AtomicU8);

impl AtomicCpuId {
    /// This one.
    #[must_use]
    pub const fn new(cpu: CpuId) -> Self {
        Self(AtomicU8::new(cpu.0))
    }

    /// The CPU at this moment.
    #[must_use]
    #[inline]
    pub fn get(&self) -> CpuId {
        // Relaxed: exact under the lock that orders its changes.
        CpuId(self.0.load(Ordering::Relaxed))
    }

    /// Changes it.
    #[inline]
    pub fn set(&self, cpu: CpuId) {
        // Relaxed: as in `get`.
        self.0.store(cpu.0, Ordering::Relaxed);
    }
}

impl Traced for AtomicCpuId {
    type Value = CpuId;

    #[inline(always)]
    fn store_traced<const E: u16, const AT: usize, S>(
        &self,
        value: CpuId,
        of: &S,
        order: Ordering,
    ) {
        self.0.store_traced::<E, AT, S>(value.0, of, order);
    }
}

/// The CPU that came first: decided once, and permanently.
#[derive(Debug)]
pub struct FirstCpu(AtomicU32);

impl FirstCpu {
    /// No CPU has come yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Returns whether `me`, the calling CPU, comes first. Returns true once: it returns false to
    /// every other CPU, and to the first one when it asks again.
    #[must_use]
    pub fn claim(&self, me: CpuId) -> bool {
        let mark = u32::from(me.0) + 1;
        // AcqRel: one CPU wins. Pairs with the same exchange on another CPU, and with the load in
        // `get`.
        self.0
            .compare_exchange(0, mark, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// The CPU that came first.
    #[must_use]
    #[inline]
    pub fn get(&self) -> Option<CpuId> {
        // Acquire: pairs with the exchange in `claim`.
        let mark = self.0.load(Ordering::Acquire);
        (mark as usize).checked_sub(1).and_then(CpuId::new)
    }
}

impl Default for FirstCpu {
    fn default() -> Self {
        Self::new()
    }
}

/// A set of CPUs by value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct CpuSet([u64; WORDS]);

impl CpuSet {
    /// The empty set.
    pub const EMPTY: Self = Self([0; WORDS]);

    /// The set of one CPU.
    #[must_use]
    pub const fn single(cpu: CpuId) -> Self {
        let mut set = Self::EMPTY;
        let (word, bit) = cpu.place();
        set.0[word] = bit;
        set
    }

    /// The CPUs 0 to `n - 1`.
    ///
    /// # Panics
    /// Panics if `n` is above [`MAX_CPUS`].
    #[must_use]
    pub const fn first_n(n: usize) -> Self {
        assert!(n <= MAX_CPUS, "more CPUs than MAX_CPUS");
        let mut set = Self::EMPTY;
        let mut word = 0;
        while word < n / 64 {
            set.0[word] = u64::MAX;
            word += 1;
        }
        if !n.is_multiple_of(64) {
            set.0[word] = (1 << (n % 64)) - 1;
        }
        set
    }

    /// Adds `cpu`. Returns whether it was not in the set.
    pub const fn insert(&mut self, cpu: CpuId) -> bool {
        let (word, bit) = cpu.place();
        let changed = self.0[word] & bit == 0;
        self.0[word] |= bit;
        changed
    }

    /// Takes `cpu` out. Returns whether it was in the set.
    pub const fn remove(&mut self, cpu: CpuId) -> bool {
        let (word, bit) = cpu.place();
        let changed = self.0[word] & bit != 0;
        self.0[word] &= !bit;
        changed
    }

    /// Whether `cpu` is in the set.
    #[must_use]
    pub const fn contains(&self, cpu: CpuId) -> bool {
        let (word, bit) = cpu.place();
        self.0[word] & bit != 0
    }

    /// How many CPUs are in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether no CPU is in the set.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        // Not with ==, which would call memcmp.
        self.0.iter().all(|&word| word == 0)
    }

    /// The only CPU in the set, or `None` if the set does not have exactly one.
    #[must_use]
    #[inline]
    pub fn only(&self) -> Option<CpuId> {
        let mut only = None;
        for (word, &bits) in self.0.iter().enumerate() {
            match NonZeroU64::new(bits) {
                None => {}
                Some(bit) if bit.is_power_of_two() && only.is_none() => only = first(word, bit),
                Some(_) => return None,
            }
        }
        only
    }

    /// Whether every CPU of this set is in `other`.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.difference(other).is_empty()
    }

    /// The CPUs in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self(core::array::from_fn(|i| self.0[i] & other.0[i]))
    }

    /// The CPUs in this set and not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        Self(core::array::from_fn(|i| self.0[i] & !other.0[i]))
    }

    /// Calls `each` for the CPUs in ascending order. Cheaper than [`Self::iter`].
    #[inline]
    pub fn each(&self, mut each: impl FnMut(CpuId)) {
        for (word, &bits) in self.0.iter().enumerate() {
            each_of(word, bits, &mut each);
        }
    }

    /// The CPUs in ascending order.
    #[must_use]
    #[inline]
    pub fn iter(&self) -> Iter {
        Iter {
            left: *self,
            word: 0,
        }
    }
}

/// Calls `each` for the CPUs whose bits are set in the word with index `word`.
#[inline]
fn each_of(word: usize, mut bits: u64, each: &mut impl FnMut(CpuId)) {
    while let Some(left) = NonZeroU64::new(bits) {
        first(word, left).map(&mut *each);
        bits &= bits - 1;
    }
}

/// The first CPU whose bit is set in the word with index `word`. (For a zero the count of trailing
/// zeros would be a special case, at the price of one instruction.)
#[inline]
fn first(word: usize, bits: NonZeroU64) -> Option<CpuId> {
    CpuId::new(word * 64 + bits.trailing_zeros() as usize)
}

/// Ranges and single indices, ascending: `0-3,7`. The empty set is `none`.
impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_ranges(f, self.iter().map(|cpu| u32::from(cpu.0)))
    }
}

/// Writes `numbers`, with consecutive ones as ranges: `0-3,7`. Writes `none` if there are none.
///
/// # Errors
/// Returns the error of `f`.
pub fn write_ranges(f: &mut fmt::Formatter<'_>, numbers: impl Iterator<Item = u32>) -> fmt::Result {
    let mut numbers = numbers.peekable();
    if numbers.peek().is_none() {
        return f.write_str("none");
    }
    let mut separator = "";
    while let Some(first) = numbers.next() {
        let mut last = first;
        while let Some(next) = numbers.next_if(|&next| Some(next) == last.checked_add(1)) {
            last = next;
        }
        write!(f, "{separator}{first}")?;
        if last > first {
            write!(f, "-{last}")?;
        }
        separator = ",";
    }
    Ok(())
}

impl FromIterator<CpuId> for CpuSet {
    fn from_iter<I: IntoIterator<Item = CpuId>>(cpus: I) -> Self {
        let mut set = Self::EMPTY;
        for cpu in cpus {
            set.insert(cpu);
        }
        set
    }
}

impl IntoIterator for &CpuSet {
    type Item = CpuId;
    type IntoIter = Iter;

    fn into_iter(self) -> Iter {
        self.iter()
    }
}

/// The CPUs of a [`CpuSet`] in ascending order.
#[derive(Clone, Debug)]
pub struct Iter {
    left: CpuSet,
    /// The first word that may have a CPU left.
    word: usize,
}

impl Iterator for Iter {
    type Item = CpuId;

    #[inline]
    fn next(&mut self) -> Option<CpuId> {
        while let Some(bits) = self.left.0.get_mut(self.word) {
            if *bits != 0 {
                let cpu = CpuId::new(self.word * 64 + bits.trailing_zeros() as usize);
                *bits &= *bits - 1;
                return cpu;
            }
            self.word += 1;
        }
        None
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left.len(), Some(self.left.len()))
    }
}

impl ExactSizeIterator for Iter {}
impl FusedIterator for Iter {}

/// A set of CPUs that any CPU may change and read at any time.
///
/// A reader that sees a change of the set also sees what the CPU that made the change wrote before
/// it. A CPU may, for instance, set up its data and then put itself into
/// the online set.
#[derive(Debug, Default)]
pub struct AtomicCpuSet([AtomicU64; WORDS]);

impl AtomicCpuSet {
    /// The empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; WORDS])
    }

    /// Adds `cpu`. Returns whether this call changed the set.
    pub fn insert(&self, cpu: CpuId) -> bool {
        let (word, bit) = cpu.place();
        // Release: pairs with the Acquire in `contains` and `snapshot`.
        self.0[word].fetch_or(bit, Ordering::Release) & bit == 0
    }

    /// Takes `cpu` out. Returns whether this call changed the set. Whoever takes a CPU out also
    /// sees what the one that put it in had written.
    pub fn remove(&self, cpu: CpuId) -> bool {
        let (word, bit) = cpu.place();
        // AcqRel: pairs with the Acquire in `contains` and `snapshot`, and with the
        // Release in `insert`.
        self.0[word].fetch_and(!bit, Ordering::AcqRel) & bit != 0
    }

    /// Makes this set equal to `set`. Nobody else may change it meanwhile.
    pub fn assign(&self, set: &CpuSet) {
        for (word, &bits) in self.0.iter().zip(&set.0) {
            // Relaxed: the caller publishes it.
            word.store(bits, Ordering::Relaxed);
        }
    }

    /// Adds `cpu`, which is not in the set. Returns true if its word (the CPUs whose numbers differ
    /// only in the lowest six bits) was empty, so no CPU in it has been added since the last
    /// [`Self::take`]. The caller must then notify whoever takes.
    #[inline]
    pub fn put_in(&self, cpu: CpuId) -> bool {
        let (word, bit) = cpu.place();
        // AcqRel: pairs with the swap in `take`. Either it sees what we have written, or we see
        // that it has looked. An addition, since x86 has one that returns the old value.
        let before = self.0[word].fetch_add(bit, Ordering::AcqRel);
        debug_assert!(before & bit == 0, "{cpu} is in the set");
        before == 0
    }

    /// Takes all CPUs out. With more than 64 CPUs, one that is put in meanwhile may stay.
    #[inline]
    pub fn take(&self) -> CpuSet {
        // AcqRel: pairs with `put_in`, with the Release in `insert`, and as in `remove`.
        CpuSet(core::array::from_fn(|i| {
            self.0[i].swap(0, Ordering::AcqRel)
        }))
    }

    /// The first CPU of `set` that was not in this one at the moment of the loads.
    #[must_use]
    #[inline]
    pub fn first_missing(&self, set: &CpuSet) -> Option<CpuId> {
        for (word, (bits, wanted)) in self.0.iter().zip(&set.0).enumerate() {
            // Acquire: pairs with the Release in `insert` and `remove`.
            let missing = wanted & !bits.load(Ordering::Acquire);
            if missing != 0 {
                return CpuId::new(word * 64 + missing.trailing_zeros() as usize);
            }
        }
        None
    }

    /// Whether the set was `set` at the moment of the loads.
    #[must_use]
    #[inline]
    pub fn is(&self, set: &CpuSet) -> bool {
        // Acquire: pairs with the Release in `insert` and `remove`.
        let same = |(word, bits): (&AtomicU64, &u64)| word.load(Ordering::Acquire) == *bits;
        self.0.iter().zip(&set.0).all(same)
    }

    /// Whether no CPU was in the set at the moment of the loads.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        // Acquire: pairs with the Release in `insert` and `remove`.
        self.0.iter().all(|word| word.load(Ordering::Acquire) == 0)
    }

    /// The first CPU in the set that `wanted` accepts. Asks for each in turn.
    #[inline]
    pub fn find(&self, wanted: impl Fn(CpuId) -> bool) -> Option<CpuId> {
        for (word, bits) in self.0.iter().enumerate() {
            // Acquire: pairs with the Release in `insert` and `remove`.
            let mut left = bits.load(Ordering::Acquire);
            while left != 0 {
                let cpu = CpuId::new(word * 64 + left.trailing_zeros() as usize)?;
                if wanted(cpu) {
                    return Some(cpu);
                }
                left &= left - 1;
            }
        }
        None
    }

    /// Whether `cpu` was in the set at the moment of the load.
    #[must_use]
    pub fn contains(&self, cpu: CpuId) -> bool {
        let (word, bit) = cpu.place();
        // Acquire: pairs with the Release in `insert` and `remove`.
        self.0[word].load(Ordering::Acquire) & bit != 0
    }

    /// The set as it was read, 64 CPUs at a time. A change during the call may show in part, but
    /// each CPU is shown as it was at some moment of the call.
    #[must_use]
    pub fn snapshot(&self) -> CpuSet {
        // Acquire: pairs with the Release in `insert` and `remove`.
        CpuSet(core::array::from_fn(|i| self.0[i].load(Ordering::Acquire)))
    }
}

#[cfg(test)]
mod tests;
