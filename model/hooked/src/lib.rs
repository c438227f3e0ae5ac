//! Atomics for a model checker, with the names of `core`'s.
//!
//! Each operation goes to a hook of the thread that does it. The hook may let other threads run
//! first, and returns what the operation finds. Without a hook the operation happens at once, so
//! unit tests run on these types too. The words have the layout of `core`'s. With the feature
//! `model`, `heart::shim` takes its atomics from here.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic as core_atomic;

pub use std::sync::atomic::Ordering;

/// What an operation does to a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "named after the operations of `core`'s atomics"
)]
pub enum Operation {
    Load,
    Store(u64),
    Swap(u64),
    CompareExchange {
        current: u64,
        new: u64,
    },
    Add(u64),
    Sub(u64),
    And(u64),
    Or(u64),
    Xor(u64),
    Max(u64),
    Min(u64),
    /// A fence of the CPU, without a word.
    Fence,
    /// A turn of a loop that waits, without a word: how many were there ([`Turns`])?
    Turns,
}

impl Operation {
    /// What a word of `bits` bits holds after the operation has found `old`.
    #[must_use]
    pub fn result(self, old: u64, bits: u32) -> u64 {
        let new = match self {
            Self::Store(value) | Self::Swap(value) => value,
            Self::CompareExchange { current, new } if current == old => new,
            Self::Load | Self::Fence | Self::Turns | Self::CompareExchange { .. } => old,
            Self::Add(value) => old.wrapping_add(value),
            Self::Sub(value) => old.wrapping_sub(value),
            Self::And(value) => old & value,
            Self::Or(value) => old | value,
            Self::Xor(value) => old ^ value,
            Self::Max(value) => old.max(value),
            Self::Min(value) => old.min(value),
        };
        new & u64::MAX >> (64 - bits)
    }
}

/// One operation on one word.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// Where the word is.
    pub address: usize,
    /// Its size: 8, 32 or 64 bits.
    pub bits: u32,
    /// The action.
    pub operation: Operation,
    /// Its ordering.
    pub ordering: Ordering,
    /// Whether the word is private to one CPU ([`LocalU32`]), which changes it in one instruction,
    /// not a locked one.
    pub local: bool,
}

impl Access {
    /// What the word holds.
    #[must_use]
    pub fn value(&self) -> u64 {
        const SC: Ordering = Ordering::SeqCst;
        match self.bits {
            8 => self.byte().load(SC).into(),
            32 => self.word().load(SC).into(),
            _ => self.long().load(SC),
        }
    }

    fn byte(&self) -> &core_atomic::AtomicU8 {
        // SAFETY: the address of a live word of this size, in `ask`'s callers.
        unsafe { core_atomic::AtomicU8::from_ptr(self.address as *mut u8) }
    }

    fn word(&self) -> &core_atomic::AtomicU32 {
        // SAFETY: as in `byte`.
        unsafe { core_atomic::AtomicU32::from_ptr(self.address as *mut u32) }
    }

    fn long(&self) -> &core_atomic::AtomicU64 {
        // SAFETY: as in `byte`.
        unsafe { core_atomic::AtomicU64::from_ptr(self.address as *mut u64) }
    }

    /// Does the operation, as the machine's current one; returns what it found.
    pub fn perform(&self) -> u64 {
        if matches!(self.operation, Operation::Fence | Operation::Turns) {
            return 0;
        }
        loop {
            let old = self.value();
            if self.replace(old, self.operation.result(old, self.bits)) {
                return old;
            }
        }
    }

    /// Makes the word `new` if it is `old`; returns whether it was.
    pub fn replace(&self, old: u64, new: u64) -> bool {
        const SC: Ordering = Ordering::SeqCst;
        // The casts truncate nothing: see `Operation::result`.
        match self.bits {
            8 => self
                .byte()
                .compare_exchange(old as u8, new as u8, SC, SC)
                .is_ok(),
            32 => self
                .word()
                .compare_exchange(old as u32, new as u32, SC, SC)
                .is_ok(),
            _ => self.long().compare_exchange(old, new, SC, SC).is_ok(),
        }
    }
}

/// A hook does each operation, and returns what it found.
pub type Hook = fn(&Access) -> u64;

thread_local! {
    static HOOK: Cell<Option<Hook>> = const { Cell::new(None) };
}

/// Hands all operations of this thread to `hook`, or to nobody.
pub fn set_hook(hook: Option<Hook>) {
    HOOK.set(hook);
}

fn ask(access: &Access) -> u64 {
    match HOOK.get() {
        Some(hook) => hook(access),
        None => access.perform(),
    }
}

/// A fence of the CPU.
pub fn fence(ordering: Ordering) {
    ask(&Access {
        address: 0,
        bits: 64,
        operation: Operation::Fence,
        ordering,
        local: false,
    });
}

/// The effect of a compiler fence is invisible here: nothing is reordered.
pub fn compiler_fence(_: Ordering) {}

macro_rules! integer {
    ($name:ident, $int:ty, $wide:expr) => {
        #[doc = concat!("`core::sync::atomic::", stringify!($name), "`, hooked.")]
        #[repr(transparent)]
        #[derive(Default)]
        pub struct $name(core_atomic::$name);

        #[expect(missing_docs, reason = "those of `core`")]
        impl $name {
            #[must_use]
            pub const fn new(value: $int) -> Self {
                Self(core_atomic::$name::new(value))
            }

            fn access(&self, operation: Operation, ordering: Ordering, local: bool) -> $int {
                ask(&Access {
                    address: self.0.as_ptr() as usize,
                    bits: <$int>::BITS,
                    operation,
                    ordering,
                    local,
                }) as $int
            }

            fn shared(&self, operation: Operation, ordering: Ordering) -> $int {
                self.access(operation, ordering, false)
            }

            pub fn load(&self, ordering: Ordering) -> $int {
                self.shared(Operation::Load, ordering)
            }

            pub fn store(&self, value: $int, ordering: Ordering) {
                self.shared(Operation::Store($wide(value)), ordering);
            }

            pub fn swap(&self, value: $int, ordering: Ordering) -> $int {
                self.shared(Operation::Swap($wide(value)), ordering)
            }

            /// Both orders are `success`: a failure counts as the stronger one.
            #[expect(clippy::missing_errors_doc, reason = "those of `core`")]
            pub fn compare_exchange(
                &self,
                current: $int,
                new: $int,
                success: Ordering,
                _failure: Ordering,
            ) -> Result<$int, $int> {
                let operation = Operation::CompareExchange {
                    current: $wide(current),
                    new: $wide(new),
                };
                let old = self.shared(operation, success);
                if old == current { Ok(old) } else { Err(old) }
            }

            /// Never fails spuriously.
            #[expect(clippy::missing_errors_doc, reason = "those of `core`")]
            pub fn compare_exchange_weak(
                &self,
                current: $int,
                new: $int,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$int, $int> {
                self.compare_exchange(current, new, success, failure)
            }

            #[expect(clippy::missing_errors_doc, reason = "those of `core`")]
            pub fn fetch_update(
                &self,
                set: Ordering,
                fetch: Ordering,
                mut change: impl FnMut($int) -> Option<$int>,
            ) -> Result<$int, $int> {
                let mut old = self.load(fetch);
                while let Some(new) = change(old) {
                    match self.compare_exchange(old, new, set, fetch) {
                        Ok(old) => return Ok(old),
                        Err(now) => old = now,
                    }
                }
                Err(old)
            }

            pub fn fetch_add(&self, value: $int, ordering: Ordering) -> $int {
                self.shared(Operation::Add($wide(value)), ordering)
            }

            pub fn fetch_sub(&self, value: $int, ordering: Ordering) -> $int {
                self.shared(Operation::Sub($wide(value)), ordering)
            }

            pub fn fetch_and(&self, value: $int, ordering: Ordering) -> $int {
                self.shared(Operation::And($wide(value)), ordering)
            }

            pub fn fetch_or(&self, value: $int, ordering: Ordering) -> $int {
                self.shared(Operation::Or($wide(value)), ordering)
            }

            pub fn fetch_xor(&self, value: $int, ordering: Ordering) -> $int {
                self.shared(Operation::Xor($wide(value)), ordering)
            }

            pub fn fetch_max(&self, value: $int, ordering: Ordering) -> $int {
                self.shared(Operation::Max($wide(value)), ordering)
            }

            pub fn fetch_min(&self, value: $int, ordering: Ordering) -> $int {
                self.shared(Operation::Min($wide(value)), ordering)
            }

            #[must_use]
            pub const fn as_ptr(&self) -> *mut $int {
                self.0.as_ptr()
            }

            pub fn get_mut(&mut self) -> &mut $int {
                self.0.get_mut()
            }

            #[must_use]
            pub const fn into_inner(self) -> $int {
                self.0.into_inner()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$int> for $name {
            fn from(value: $int) -> Self {
                Self::new(value)
            }
        }
    };
}

integer!(AtomicU8, u8, u64::from);
integer!(AtomicU32, u32, u64::from);
integer!(AtomicU64, u64, std::convert::identity);
integer!(AtomicUsize, usize, (|value| value as u64));

/// `core::sync::atomic::AtomicBool`, hooked.
#[repr(transparent)]
#[derive(Default)]
pub struct AtomicBool(AtomicU8);

#[expect(missing_docs, reason = "those of `core`")]
impl AtomicBool {
    #[must_use]
    pub const fn new(value: bool) -> Self {
        Self(AtomicU8::new(value as u8))
    }

    pub fn load(&self, ordering: Ordering) -> bool {
        self.0.load(ordering) != 0
    }

    pub fn store(&self, value: bool, ordering: Ordering) {
        self.0.store(value.into(), ordering);
    }

    pub fn swap(&self, value: bool, ordering: Ordering) -> bool {
        self.0.swap(value.into(), ordering) != 0
    }

    #[expect(clippy::missing_errors_doc, reason = "those of `core`")]
    pub fn compare_exchange(
        &self,
        current: bool,
        new: bool,
        success: Ordering,
        failure: Ordering,
    ) -> Result<bool, bool> {
        let (current, new) = (current.into(), new.into());
        match self.0.compare_exchange(current, new, success, failure) {
            Ok(old) => Ok(old != 0),
            Err(old) => Err(old != 0),
        }
    }

    pub fn fetch_and(&self, value: bool, ordering: Ordering) -> bool {
        self.0.fetch_and(value.into(), ordering) != 0
    }

    pub fn fetch_or(&self, value: bool, ordering: Ordering) -> bool {
        self.0.fetch_or(value.into(), ordering) != 0
    }

    #[must_use]
    pub const fn as_ptr(&self) -> *mut bool {
        self.0.as_ptr().cast()
    }

    #[must_use]
    pub const fn into_inner(self) -> bool {
        self.0.into_inner() != 0
    }
}

impl fmt::Debug for AtomicBool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `core::sync::atomic::AtomicPtr`, hooked.
#[repr(transparent)]
pub struct AtomicPtr<T> {
    word: core_atomic::AtomicPtr<()>,
    to: PhantomData<*mut T>,
}

// SAFETY: as `core`'s: the pointer is data, and following it is the user's affair.
unsafe impl<T> Send for AtomicPtr<T> {}

// SAFETY: as above.
unsafe impl<T> Sync for AtomicPtr<T> {}

#[expect(missing_docs, reason = "those of `core`")]
impl<T> AtomicPtr<T> {
    #[must_use]
    pub const fn new(pointer: *mut T) -> Self {
        Self {
            word: core_atomic::AtomicPtr::new(pointer.cast()),
            to: PhantomData,
        }
    }

    fn access(&self, operation: Operation, ordering: Ordering) -> *mut T {
        ask(&Access {
            address: self.word.as_ptr() as usize,
            bits: 64,
            operation,
            ordering,
            local: false,
        }) as *mut T
    }

    pub fn load(&self, ordering: Ordering) -> *mut T {
        self.access(Operation::Load, ordering)
    }

    pub fn store(&self, pointer: *mut T, ordering: Ordering) {
        self.access(Operation::Store(pointer as u64), ordering);
    }

    pub fn swap(&self, pointer: *mut T, ordering: Ordering) -> *mut T {
        self.access(Operation::Swap(pointer as u64), ordering)
    }

    #[expect(clippy::missing_errors_doc, reason = "those of `core`")]
    pub fn compare_exchange(
        &self,
        current: *mut T,
        new: *mut T,
        success: Ordering,
        _failure: Ordering,
    ) -> Result<*mut T, *mut T> {
        let operation = Operation::CompareExchange {
            current: current as u64,
            new: new as u64,
        };
        let old = self.access(operation, success);
        if old == current { Ok(old) } else { Err(old) }
    }

    #[expect(clippy::missing_errors_doc, reason = "those of `core`")]
    pub fn compare_exchange_weak(
        &self,
        current: *mut T,
        new: *mut T,
        success: Ordering,
        failure: Ordering,
    ) -> Result<*mut T, *mut T> {
        self.compare_exchange(current, new, success, failure)
    }

    #[must_use]
    pub const fn as_ptr(&self) -> *mut *mut T {
        self.word.as_ptr().cast()
    }

    #[must_use]
    pub fn into_inner(self) -> *mut T {
        self.word.into_inner().cast()
    }
}

impl<T> fmt::Debug for AtomicPtr<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.word.fmt(f)
    }
}

impl<T> Default for AtomicPtr<T> {
    fn default() -> Self {
        Self::new(std::ptr::null_mut())
    }
}

/// `heart::shim::LocalU32`, hooked: each change is one step.
#[derive(Debug)]
#[repr(transparent)]
pub struct LocalU32(AtomicU32);

#[expect(missing_docs, reason = "those of the machine's")]
impl LocalU32 {
    #[must_use]
    pub const fn new(value: u32) -> Self {
        Self(AtomicU32::new(value))
    }

    fn access(&self, operation: Operation) -> u32 {
        self.0.access(operation, Ordering::Relaxed, true)
    }

    #[must_use]
    pub fn load(&self) -> u32 {
        self.access(Operation::Load)
    }

    pub fn store(&self, value: u32) {
        self.access(Operation::Store(value.into()));
    }

    pub fn add<const N: u32>(&self) {
        self.access(Operation::Add(N.into()));
    }

    pub fn sub<const N: u32>(&self) {
        self.access(Operation::Sub(N.into()));
    }

    pub fn sub_and_test<const N: u32>(&self) -> bool {
        self.access(Operation::Sub(N.into())) <= N
    }

    pub fn has_none_of<const N: u32>(&self) -> bool {
        self.load() & N == 0
    }

    pub fn set<const N: u32>(&self) {
        self.access(Operation::Or(N.into()));
    }

    pub fn clear<const N: u32>(&self) {
        self.access(Operation::And((!N).into()));
    }
}

/// Counts the turns of a loop that waits. Here they are not counted, so a turn in which nothing has
/// changed ends in the state where it began. The hook says how many there were.
#[derive(Debug, Default)]
pub struct Turns;

impl Turns {
    /// None so far.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }

    /// Adds one; returns how many, if the hook knows, else none.
    pub fn count(&mut self) -> u32 {
        let access = Access {
            address: 0,
            bits: 64,
            operation: Operation::Turns,
            ordering: Ordering::Relaxed,
            local: true,
        };
        ask(&access) as u32
    }
}
