//! What a CPU was doing: its registers, and the calls that led there.

use kcore::shim::{AtomicBool, AtomicU64, Ordering};

use super::cpu;
use super::paging::is_mapped;
use super::trap::TrapFrame;

/// The deepest backtrace that is printed; a loop in a broken stack ends here.
pub const MAX_DEPTH: usize = 32;

/// The registers that a report needs, in words that another CPU may read.
#[derive(Debug)]
pub struct Registers {
    valid: AtomicBool,
    rip: AtomicU64,
    rsp: AtomicU64,
    rbp: AtomicU64,
    rflags: AtomicU64,
    cr2: AtomicU64,
    cr3: AtomicU64,
}

/// The same by value.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the registers' names say it all")]
pub struct Snapshot {
    pub rip: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub rflags: u64,
    pub cr2: u64,
    pub cr3: u64,
}

impl Snapshot {
    /// The registers of the code that `frame` interrupted.
    #[must_use]
    pub fn of_frame(frame: &TrapFrame) -> Self {
        Self {
            rip: frame.rip,
            rsp: frame.rsp,
            rbp: frame.rbp,
            rflags: frame.rflags,
            cr2: cpu::fault_address(),
            cr3: cpu::page_table_root(),
        }
    }

    /// The registers of the caller.
    #[must_use]
    #[inline(always)]
    pub fn here() -> Self {
        let (rip, rsp, rbp) = cpu::here();
        Self {
            rip,
            rsp,
            rbp,
            rflags: x86_64::registers::rflags::read_raw(),
            cr2: cpu::fault_address(),
            cr3: cpu::page_table_root(),
        }
    }
}

impl Registers {
    /// Nothing recorded.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            valid: AtomicBool::new(false),
            rip: AtomicU64::new(0),
            rsp: AtomicU64::new(0),
            rbp: AtomicU64::new(0),
            rflags: AtomicU64::new(0),
            cr2: AtomicU64::new(0),
            cr3: AtomicU64::new(0),
        }
    }

    /// Publishes `snapshot`, and what the caller wrote before. Once, by a CPU that stops.
    pub fn record(&self, snapshot: &Snapshot) {
        let words = [
            (&self.rip, snapshot.rip),
            (&self.rsp, snapshot.rsp),
            (&self.rbp, snapshot.rbp),
            (&self.rflags, snapshot.rflags),
            (&self.cr2, snapshot.cr2),
            (&self.cr3, snapshot.cr3),
        ];
        for (word, value) in words {
            // Relaxed: published by the Release below.
            word.store(value, Ordering::Relaxed);
        }
        // Release: pairs with the Acquire in `read`.
        self.valid.store(true, Ordering::Release);
    }

    /// What was recorded, if anything was.
    #[must_use]
    pub fn read(&self) -> Option<Snapshot> {
        // Acquire: pairs with the Release in `record`.
        if !self.valid.load(Ordering::Acquire) {
            return None;
        }
        // Relaxed: ordered by the Acquire above.
        Some(Snapshot {
            rip: self.rip.load(Ordering::Relaxed),
            rsp: self.rsp.load(Ordering::Relaxed),
            rbp: self.rbp.load(Ordering::Relaxed),
            rflags: self.rflags.load(Ordering::Relaxed),
            cr2: self.cr2.load(Ordering::Relaxed),
            cr3: self.cr3.load(Ordering::Relaxed),
        })
    }
}

impl Default for Registers {
    fn default() -> Self {
        Self::new()
    }
}

/// Calls `each` with the return addresses found by following `rbp`, innermost
/// first. Reads only addresses that the page tables in use map, so a broken chain
/// ends the walk instead of faulting, and a loop ends at [`MAX_DEPTH`]. (The chain
/// need not go upward: an interrupt may have changed stacks.) Any context.
pub fn walk(rbp: u64, mut each: impl FnMut(u64)) {
    let mut frame = rbp;
    for _ in 0..MAX_DEPTH {
        let kernel = frame >> 47 == 0x1_ffff && frame.is_multiple_of(8);
        // Checked: the last 8 bytes of the address space are aligned, too.
        let Some(above) = frame.checked_add(8).filter(|_| kernel) else {
            return;
        };
        if !is_mapped(frame) || !is_mapped(above) {
            return;
        }
        // SAFETY: aligned and mapped, checked above; whatever is there is only read.
        let next = unsafe { (frame as *const u64).read_volatile() };
        // SAFETY: the same for the word above it.
        let address = unsafe { (above as *const u64).read_volatile() };
        if address == 0 {
            return;
        }
        each(address);
        frame = next;
    }
}
