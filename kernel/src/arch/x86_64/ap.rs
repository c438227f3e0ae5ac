//! The first steps of an application processor: from real mode to `ap_main`.
//!
//! A start-up IPI puts the CPU into real mode at the first byte of a page below 1 MiB. The page
//! holds a copy of `ap_trampoline`, which goes straight to long mode on the kernel's page tables
//! (they map the page at its own address while CPUs are being started). Then `ap_claim` runs in the
//! kernel image.
//!
//! Many CPUs start at once. Each has its own [`Mailbox`], which it finds in the list by its APIC
//! id. It takes the contents only by exchanging its APIC id (the local APIC's: CPUID's may be
//! wrong, see `plat::apic_id`) for "claimed", and parks if no mailbox has its id. The boot CPU
//! gives a CPU up by the opposite exchange. Whoever wins, both agree: a CPU that arrives after the
//! boot CPU gave it up takes nothing. (The obvious counter that each arriving CPU increments puts
//! two CPUs on one stack.) A CPU that took its stack in time may still be too late to come online:
//! `smp` decides that in the same way, by an exchange that one of the two wins.

use core::arch::global_asm;
use core::mem::offset_of;
use core::ptr::{self, addr_of, copy_nonoverlapping, null_mut};

use heart::shim::{AtomicPtr, AtomicU64, Ordering};

use super::apic::REGISTERS;
use super::cpu;
use super::paging::{PAGE_SIZE, physical_to_virtual};

/// The mailbox expects no CPU.
const NOBODY: u64 = u64::MAX;
/// The expected CPU has taken the contents.
const CLAIMED: u64 = u64::MAX - 1;

/// What the boot CPU leaves for one CPU that it starts.
#[derive(Debug)]
pub struct Mailbox {
    /// The APIC id of the expected CPU, or [`NOBODY`] or [`CLAIMED`].
    expected: AtomicU64,
    /// The top of its stack.
    stack: u64,
    /// The argument of `ap_main`.
    argument: AtomicU64,
    /// The next on the list.
    next: AtomicPtr<Mailbox>,
}

/// The list of all mailboxes, the newest first. It only grows; `ap_claim` walks it.
static MAILBOXES: AtomicPtr<Mailbox> = AtomicPtr::new(null_mut());

/// The physical address of the kernel's page tables; `ap_claim` reads it.
static ROOT: AtomicU64 = AtomicU64::new(0);

/// How many CPUs arrived too late, and are parked.
static LATE: AtomicU64 = AtomicU64::new(0);

impl Mailbox {
    /// The mailbox of a CPU whose stack ends at `stack`. It expects nobody yet.
    #[must_use]
    pub const fn new(stack: u64) -> Self {
        Self {
            expected: AtomicU64::new(NOBODY),
            stack,
            argument: AtomicU64::new(0),
            next: AtomicPtr::new(null_mut()),
        }
    }

    /// The top of the stack.
    #[must_use]
    pub fn stack(&self) -> u64 {
        self.stack
    }

    /// Puts it on the list, where starting CPUs look. Call once, on the boot CPU, before starting
    /// the CPU that it is for.
    pub fn publish(&'static self) {
        // Relaxed: only the boot CPU adds to the list.
        self.next
            .store(MAILBOXES.load(Ordering::Relaxed), Ordering::Relaxed);
        // Release: pairs with the load in ap_claim, which x86 does not reorder with later ones.
        MAILBOXES.store(ptr::from_ref(self).cast_mut(), Ordering::Release);
    }

    /// Expects the CPU with `apic_id`, which will call `ap_main(argument)` on the mailbox's stack.
    pub fn expect(&self, apic_id: u32, argument: u64) {
        // Relaxed: the Release below publishes it.
        self.argument.store(argument, Ordering::Relaxed);
        // Release: pairs with the locked exchange in ap_claim.
        self.expected.store(u64::from(apic_id), Ordering::Release);
    }

    /// Returns whether the expected CPU has taken its stack.
    #[must_use]
    pub fn is_claimed(&self) -> bool {
        // Acquire: pairs with the locked exchange in ap_claim.
        self.expected.load(Ordering::Acquire) == CLAIMED
    }

    /// Gives up waiting for the CPU with `apic_id`, which then parks whenever it arrives. Returns
    /// false if it arrived in this very moment; the caller must then wait for it.
    pub fn give_up(&self, apic_id: u32) -> bool {
        // AcqRel: pairs with the exchange in ap_claim. One of the two wins.
        let exchange = self.expected.compare_exchange(
            u64::from(apic_id),
            NOBODY,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        exchange.is_ok()
    }
}

/// How many CPUs arrived after the boot CPU had given them up. They are parked for good.
#[must_use]
pub fn late() -> u64 {
    // Acquire: pairs with the locked increment in ap_claim, and the Release in `park`.
    LATE.load(Ordering::Acquire)
}

/// Parks this CPU, which arrived too late, for good. Call with interrupts off.
pub fn park() -> ! {
    // Release: pairs with the Acquire in `late`.
    LATE.fetch_add(1, Ordering::Release);
    cpu::halt_forever()
}

/// The page that CPUs start in.
#[derive(Clone, Copy, Debug)]
pub struct Trampoline {
    /// Its physical address, below 1 MiB.
    pub page: u64,
    /// The physical address, below 4 GiB, of the page tables that it turns on.
    pub tables: u64,
}

/// Copies the trampoline to its page at physical `page`, and patches in its own address and that of
/// the page tables. `root` is the address of the kernel's page tables, to which the CPU then
/// switches.
///
/// # Safety
/// The page must be a mapped frame that we own. Both tables must map the kernel, and the
/// trampoline's tables its page at its own address.
pub unsafe fn install(trampoline: Trampoline, root: u64) {
    let Trampoline { page, tables } = trampoline;
    // Relaxed: the first mailbox publishes it.
    ROOT.store(root, Ordering::Relaxed);
    let start = addr_of!(ap_trampoline) as usize;
    let offset = |symbol: *const u8| symbol as usize - start;
    let copy = physical_to_virtual(page) as *mut u8;
    let size = offset(addr_of!(ap_trampoline_end));
    assert!(size as u64 <= PAGE_SIZE, "the trampoline has {size} bytes");
    // SAFETY: less than a page, into a frame that we own, which does not overlap.
    unsafe { copy_nonoverlapping(addr_of!(ap_trampoline), copy, size) };
    let patch = |symbol: *const u8, value: u32| {
        // SAFETY: a symbol of the trampoline names four bytes in it, so its offset is within the
        // copy.
        let place = unsafe { copy.add(offset(symbol)) }.cast::<u32>();
        // SAFETY: those four bytes, unaligned, as the linker left them.
        unsafe { place.write_unaligned(value) };
    };
    patch(addr_of!(ap_root), tables as u32);
    patch(
        addr_of!(ap_gdt_base),
        page as u32 + offset(addr_of!(ap_gdt)) as u32,
    );
    patch(
        addr_of!(ap_long_mode_pointer),
        page as u32 + offset(addr_of!(ap_long_mode)) as u32,
    );
}

unsafe extern "C" {
    safe static ap_trampoline: u8;
    safe static ap_trampoline_end: u8;
    safe static ap_root: u8;
    safe static ap_gdt: u8;
    safe static ap_gdt_base: u8;
    safe static ap_long_mode: u8;
    safe static ap_long_mode_pointer: u8;
}

global_asm!(
    r#"
    .section .rodata.ap, "a", @progbits
    .global ap_trampoline, ap_trampoline_end, ap_root
    .global ap_gdt, ap_gdt_base, ap_long_mode, ap_long_mode_pointer
    .code16
ap_trampoline:
    cli
    cld
    mov     ax, cs                          # the page, as a segment
    mov     ds, ax
    mov     eax, 1 << 5 | 1 << 7            # PAE, PGE
    mov     cr4, eax
    mov     eax, dword ptr [AP_ROOT]
    mov     cr3, eax
    mov     ecx, 0xc0000080                 # EFER
    rdmsr
    or      eax, 1 << 8 | 1 << 11           # LME, NXE
    wrmsr
    lgdt    [AP_GDT_POINTER]
    mov     eax, cr0
    and     eax, 0x9fffffff                 # caches on: CD and NW are set by INIT
    or      eax, 1 << 31 | 1 << 16 | 1      # PG, WP, PE: long mode at once
    mov     cr0, eax
    jmp     fword ptr [AP_LONG_MODE_POINTER]

    .code64
ap_long_mode:
    movabs  rax, offset ap_claim
    jmp     rax

    .balign 8
ap_gdt:
    .quad 0
    # 64-bit code, marked as accessed: the page is read-only by the time the far jump
    # loads it, and a CPU (not QEMU's TCG) that has to set the mark itself faults.
    .quad 0x00af9b000000ffff
ap_gdt_pointer:
    .word 15
ap_gdt_base:
    .long 0
ap_root:
    .long 0
ap_long_mode_pointer:
    .long 0
    .word 8
ap_trampoline_end:
    .set AP_ROOT, ap_root - ap_trampoline   # offsets in the page, in DS
    .set AP_GDT_POINTER, ap_gdt_pointer - ap_trampoline
    .set AP_LONG_MODE_POINTER, ap_long_mode_pointer - ap_trampoline

    .text
ap_claim:
    mov     rax, qword ptr [rip + {root}]
    mov     cr3, rax                        # the kernel's: here ends the trampoline's page
    xor     eax, eax
    mov     ds, eax
    mov     es, eax
    mov     ss, eax
    mov     fs, eax
    mov     gs, eax
    mov     rax, qword ptr [rip + {registers}]
    test    rax, rax                        # this CPU's APIC id, as apic::id
    jz      2f
    mov     eax, dword ptr [rax + 0x20]
    shr     eax, 24
    jmp     3f
2:  mov     ecx, 0x1b                       # the mode is x2APIC, as apic::init turns it on
    rdmsr
    or      eax, 3 << 10
    wrmsr
    mov     ecx, 0x802
    rdmsr
3:  mov     r8d, eax
    mov     rcx, {claimed}
    lea     rdx, [rip + {mailboxes} - {next}]
4:  mov     rdx, qword ptr [rdx + {next}]   # first that of the list itself
    test    rdx, rdx
    jz      5f
    cmp     qword ptr [rdx + {expected}], r8 # a look, which fetches no line of another's
    jne     4b
    mov     rax, r8
    lock cmpxchg qword ptr [rdx + {expected}], rcx
    jne     4b
    mov     rsp, qword ptr [rdx + {stack}]
    mov     rdi, qword ptr [rdx + {argument}]
    xor     ebp, ebp                        # the backtrace ends here
    call    ap_main
5:  lock inc qword ptr [rip + {late}]       # late: nobody expects this CPU any more
6:  cli
    hlt
    jmp     6b
"#,
    claimed = const CLAIMED as i64,
    expected = const offset_of!(Mailbox, expected),
    stack = const offset_of!(Mailbox, stack),
    argument = const offset_of!(Mailbox, argument),
    next = const offset_of!(Mailbox, next),
    mailboxes = sym MAILBOXES,
    root = sym ROOT,
    late = sym LATE,
    registers = sym REGISTERS,
);
