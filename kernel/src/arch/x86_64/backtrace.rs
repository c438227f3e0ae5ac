//! What a CPU was doing: its registers, and the calls that led there. For reports.

use heart::critical::CritWord;
use heart::shim::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::paging::is_mapped;
use super::trap::TrapFrame;
use super::{apic, cpu};

/// The deepest backtrace that is printed; a loop in a broken stack ends here.
pub const MAX_DEPTH: usize = 32;

/// The names of the registers that [`Snapshot::general`] holds, in its order.
pub const GENERAL: [&str; 14] = [
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
];

/// The registers that a report needs.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the registers' names say it all")]
pub struct Snapshot {
    pub rip: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub rflags: u64,
    pub cr2: u64,
    pub cr3: u64,
    /// The registers of [`GENERAL`], if the code was interrupted. In code that called, they are the
    /// compiler's and tell nothing.
    pub general: Option<[u64; GENERAL.len()]>,
    /// What the local APIC had pending when this was recorded by [`Registers::record`].
    pub pending: Option<apic::Pending>,
}

/// A [`Snapshot`] in words that another CPU may read.
#[derive(Debug)]
pub struct Registers {
    /// [`NOTHING`], [`CALLER`] or [`INTERRUPTED`].
    valid: AtomicU32,
    special: [AtomicU64; 6],
    general: [AtomicU64; GENERAL.len()],
    /// Whether the local APIC was read, and what it had pending.
    apic_read: AtomicBool,
    pending: [AtomicU32; apic::Pending::WORDS],
}

/// States of [`Registers`]: nothing recorded; all except the general registers; all.
const NOTHING: u32 = 0;
const CALLER: u32 = 1;
const INTERRUPTED: u32 = 2;

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
            general: Some([
                frame.rax, frame.rbx, frame.rcx, frame.rdx, frame.rsi, frame.rdi, frame.r8,
                frame.r9, frame.r10, frame.r11, frame.r12, frame.r13, frame.r14, frame.r15,
            ]),
            pending: None,
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
            general: None,
            pending: None,
        }
    }

    /// Whether the code had interrupts on.
    #[must_use]
    pub fn interrupts_enabled(&self) -> bool {
        self.rflags & 1 << 9 != 0
    }
}

impl Registers {
    /// Nothing recorded.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            valid: AtomicU32::new(NOTHING),
            special: [const { AtomicU64::new(0) }; 6],
            general: [const { AtomicU64::new(0) }; GENERAL.len()],
            apic_read: AtomicBool::new(false),
            pending: [const { AtomicU32::new(0) }; apic::Pending::WORDS],
        }
    }

    /// Publishes `snapshot`, what this CPU's local APIC has pending, and what the caller wrote
    /// before. Called by a CPU that stops, or that answers where it is.
    pub fn record(&self, snapshot: &Snapshot) {
        let &Snapshot {
            rip,
            rsp,
            rbp,
            rflags,
            cr2,
            cr3,
            general,
            pending: _,
        } = snapshot;
        let words = [rip, rsp, rbp, rflags, cr2, cr3].into_iter();
        let words = words.chain(general.unwrap_or_default());
        for (word, value) in self.special.iter().chain(&self.general).zip(words) {
            // Relaxed: published by the Release below.
            word.store(value, Ordering::Relaxed);
        }
        let pending = apic::pending();
        // Relaxed: as above.
        self.apic_read.store(pending.is_some(), Ordering::Relaxed);
        if let Some(apic::Pending(words)) = pending {
            for (word, value) in self.pending.iter().zip(words) {
                word.store(value, Ordering::Relaxed);
            }
        }
        let state = general.map_or(CALLER, |_| INTERRUPTED);
        // Release: pairs with the Acquire in `read`.
        self.valid.store(state, Ordering::Release);
    }

    /// Discards what is recorded, since the CPU goes on.
    pub fn forget(&self) {
        // Relaxed: the CPU does this before it is asked to stop again.
        self.valid.store(NOTHING, Ordering::Relaxed);
    }

    /// What was recorded, if anything was.
    #[must_use]
    pub fn read(&self) -> Option<Snapshot> {
        // Acquire: pairs with the Release in `record`.
        let state = self.valid.load(Ordering::Acquire);
        if state == NOTHING {
            return None;
        }
        // Relaxed: ordered by the Acquire above.
        let word = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let [rip, rsp, rbp, rflags, cr2, cr3] = self.special.each_ref().map(word);
        Some(Snapshot {
            rip,
            rsp,
            rbp,
            rflags,
            cr2,
            cr3,
            general: (state == INTERRUPTED).then(|| self.general.each_ref().map(word)),
            pending: self.apic_read.load(Ordering::Relaxed).then(|| {
                let word = |word: &AtomicU32| word.load(Ordering::Relaxed);
                apic::Pending(self.pending.each_ref().map(word))
            }),
        })
    }
}

impl Default for Registers {
    fn default() -> Self {
        Self::new()
    }
}

/// Calls `each` with the return addresses found by following `rbp`, innermost first. Reads only
/// addresses that the page tables in use map, so a broken chain ends the walk instead of faulting,
/// and a loop ends at [`MAX_DEPTH`]. (The chain need not go upward: an interrupt may have changed
/// stacks.) Any context.
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
        // SAFETY: aligned and mapped, as checked above; the contents are only read.
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

/// The depth of a [`Trace`].
const TRACE: usize = 16;

/// Where a CPU was when another one asked with an NMI. The CPU itself fills it, in the NMI. One CPU
/// asks at a time.
#[derive(Debug)]
pub struct Trace {
    state: AtomicU32,
    registers: Registers,
    /// The interrupted thread, as its number plus one, or 0.
    thread: AtomicU32,
    /// The word of its critical sections.
    crit: AtomicU32,
    addresses: [AtomicU64; TRACE],
}

/// States of a [`Trace`].
const IDLE: u32 = 0;
const ASKED: u32 = 1;
const ANSWERED: u32 = 2;

impl Trace {
    /// A trace for which nobody asks.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            state: AtomicU32::new(IDLE),
            registers: Registers::new(),
            thread: AtomicU32::new(0),
            crit: AtomicU32::new(0),
            addresses: [const { AtomicU64::new(0) }; TRACE],
        }
    }

    /// Asks: the next NMI, which the caller sends, is for this. Returns false if another CPU
    /// already asks.
    #[must_use]
    pub fn ask(&self) -> bool {
        self.change(IDLE, ASKED)
    }

    /// Withdraws the question, and forgets the answer to the one before. Returns false if it has
    /// been answered.
    #[must_use]
    pub fn withdraw(&self) -> bool {
        let withdrawn = self.change(ASKED, IDLE);
        if withdrawn {
            self.registers.forget();
        }
        withdrawn
    }

    fn change(&self, from: u32, to: u32) -> bool {
        // AcqRel: pairs with itself on another CPU, and with the Acquire in `answer`.
        let changed = self
            .state
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed);
        changed.is_ok()
    }

    /// Answers if somebody asks. Returns whether somebody did. In an NMI on top of `thread`: its
    /// number, and its word.
    pub fn answer(&self, snapshot: &Snapshot, thread: Option<(u32, CritWord)>) -> bool {
        // Acquire: pairs with the exchange in `ask`.
        if self.state.load(Ordering::Acquire) != ASKED {
            return false;
        }
        let mut slots = self.addresses.iter();
        let mut put = |address| {
            if let Some(slot) = slots.next() {
                // Relaxed: published by the state.
                slot.store(address, Ordering::Relaxed);
            }
        };
        self.registers.record(snapshot);
        let (number, crit) = thread.map_or((0, 0), |(number, crit)| (number + 1, crit.bits()));
        // Relaxed, both: published by the state.
        self.thread.store(number, Ordering::Relaxed);
        self.crit.store(crit, Ordering::Relaxed);
        put(snapshot.rip);
        walk(snapshot.rbp, &mut put);
        slots.for_each(|slot| slot.store(0, Ordering::Relaxed));
        // Release: pairs with the Acquire in `has_answer`.
        self.state.store(ANSWERED, Ordering::Release);
        true
    }

    /// Whether the answer is there.
    #[must_use]
    pub fn has_answer(&self) -> bool {
        // Acquire: pairs with the Release in `answer`.
        self.state.load(Ordering::Acquire) == ANSWERED
    }

    /// The registers in the answer.
    #[must_use]
    pub fn registers(&self) -> Option<Snapshot> {
        self.registers.read()
    }

    /// The thread in the answer: its number, and its word.
    #[must_use]
    pub fn thread(&self) -> Option<(u32, CritWord)> {
        // Relaxed, both: ordered by `has_answer`.
        let number = self.thread.load(Ordering::Relaxed).checked_sub(1)?;
        let crit = CritWord::from_bits(self.crit.load(Ordering::Relaxed));
        Some((number, crit))
    }

    /// Passes the addresses to `see`, innermost first.
    pub fn take(&self, mut see: impl FnMut(usize, u64)) {
        // Relaxed: ordered by `has_answer`.
        let addresses = self
            .addresses
            .iter()
            .map(|slot| slot.load(Ordering::Relaxed));
        addresses
            .take_while(|&address| address != 0)
            .enumerate()
            .for_each(|(depth, address)| see(depth, address));
        self.state.store(IDLE, Ordering::Relaxed);
    }
}

impl Default for Trace {
    fn default() -> Self {
        Self::new()
    }
}
