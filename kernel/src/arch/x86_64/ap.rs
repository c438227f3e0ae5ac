//! The first steps of an application processor: real mode to `ap_main`.
//!
//! A start-up IPI puts the CPU into real mode at the first byte of a page below
//! 1 MiB. The page holds a copy of `ap_trampoline`, which goes straight to long
//! mode on the kernel's page tables (they map the page at its own address for
//! as long as CPUs are being started). `ap_claim` then runs in the image proper.
//!
//! CPUs are started one at a time through one [`Mailbox`]. A CPU that is late,
//! after the boot CPU gave it up and wrote the next one's id, must not take the
//! next one's stack: so a CPU takes what is in the mailbox only by exchanging
//! its own APIC id (its local APIC's: CPUID's may be wrong, see `kcore::apic_id`) for
//! "claimed", and parks if that fails. The boot CPU gives up
//! by the same exchange the other way; whoever wins, both agree. (The obvious
//! counter that each arriving CPU increments puts two CPUs on one stack.) A CPU that took
//! its stack in time may still be too late to come online: `smp` decides that in the
//! same way, by an exchange that one of the two wins.

use core::arch::global_asm;
use core::ptr::{addr_of, copy_nonoverlapping};

use kcore::shim::{AtomicU64, Ordering};

use super::apic::REGISTERS;
use super::cpu;
use super::paging::{PAGE_SIZE, physical_to_virtual};

/// No CPU is expected.
const NOBODY: u64 = u64::MAX;
/// The expected CPU has taken the contents.
const CLAIMED: u64 = u64::MAX - 1;

/// What the boot CPU leaves for the CPU it starts.
#[repr(C)]
pub struct Mailbox {
    /// The APIC id of the CPU that is meant, [`NOBODY`] or [`CLAIMED`].
    expected: AtomicU64,
    /// The top of its stack.
    stack: AtomicU64,
    /// The argument of `ap_main`.
    argument: AtomicU64,
    /// The physical address of the kernel's page tables.
    root: AtomicU64,
}

/// The one mailbox; `ap_claim` reads it by this name.
static MAILBOX: Mailbox = Mailbox {
    expected: AtomicU64::new(NOBODY),
    stack: AtomicU64::new(0),
    argument: AtomicU64::new(0),
    root: AtomicU64::new(0),
};

/// How many CPUs came too late, and are parked.
static LATE: AtomicU64 = AtomicU64::new(0);

/// Expects the CPU with `apic_id`: it will call `ap_main(argument)` on the stack
/// that ends at `stack`.
pub fn expect(apic_id: u32, stack: u64, argument: u64) {
    // Relaxed: published by the Release below.
    MAILBOX.stack.store(stack, Ordering::Relaxed);
    MAILBOX.argument.store(argument, Ordering::Relaxed);
    // Release: pairs with the locked exchange in ap_claim.
    MAILBOX
        .expected
        .store(u64::from(apic_id), Ordering::Release);
}

/// Whether the expected CPU has taken its stack.
#[must_use]
pub fn claimed() -> bool {
    // Acquire: pairs with the locked exchange in ap_claim.
    MAILBOX.expected.load(Ordering::Acquire) == CLAIMED
}

/// Gives up waiting for the CPU with `apic_id`; false if it came in this very
/// moment, and must be waited for. After true it parks whenever it comes.
pub fn give_up(apic_id: u32) -> bool {
    // AcqRel: against the exchange in ap_claim; one of the two wins.
    let exchange = MAILBOX.expected.compare_exchange(
        u64::from(apic_id),
        NOBODY,
        Ordering::AcqRel,
        Ordering::Acquire,
    );
    exchange.is_ok()
}

/// How many CPUs came after the boot CPU had given them up. They are parked for good.
#[must_use]
pub fn late() -> u64 {
    // Acquire: pairs with the locked increment in ap_claim, and the Release in `park`.
    LATE.load(Ordering::Acquire)
}

/// Parks this CPU, which came too late, for good. Interrupts off.
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
    /// The physical address of the page tables that it turns on, below 4 GiB.
    pub tables: u64,
}

/// Copies the trampoline to its page at physical `page` and patches in what it
/// cannot know: its own address and that of the page tables. `root` is where the kernel's
/// are, which the CPU goes over to.
///
/// # Safety
/// The page must be a frame of ours that is visible; both tables must map the kernel,
/// and the trampoline's its page at its own address.
pub unsafe fn install(trampoline: Trampoline, root: u64) {
    let Trampoline { page, tables } = trampoline;
    // Relaxed: published with the first CPU that is expected.
    MAILBOX.root.store(root, Ordering::Relaxed);
    let start = addr_of!(ap_trampoline) as usize;
    let offset = |symbol: *const u8| symbol as usize - start;
    let copy = physical_to_virtual(page) as *mut u8;
    let size = offset(addr_of!(ap_trampoline_end));
    assert!(size as u64 <= PAGE_SIZE, "the trampoline has {size} bytes");
    // SAFETY: less than a page, into a frame that is ours and elsewhere.
    unsafe { copy_nonoverlapping(addr_of!(ap_trampoline), copy, size) };
    let patch = |symbol: *const u8, value: u32| {
        // SAFETY: a symbol of the trampoline names four bytes, so its offset is
        // within the copy.
        let place = unsafe { copy.add(offset(symbol)) }.cast::<u32>();
        // SAFETY: those four bytes; unaligned, as the linker left them.
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

/// What `ap_claim` calls.
///
/// # Safety
/// `argument` must be what [`expect`] was given for this CPU.
unsafe extern "C" fn ap_entry(argument: u64) -> ! {
    // SAFETY: the mailbox hands each argument to exactly one CPU.
    unsafe { crate::smp::ap_main(argument) }
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
    mov     rax, qword ptr [rip + {mailbox} + 24]
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
3:  mov     rcx, {claimed}
    lea     rdx, [rip + {mailbox}]
    mov     rsi, qword ptr [rdx + 8]        # before the claim, after which the boot CPU
    mov     rdi, qword ptr [rdx + 16]       # may give up and write what is the next one's
    lock cmpxchg qword ptr [rdx], rcx
    jne     4f
    mov     rsp, rsi
    xor     ebp, ebp                        # the backtrace ends here
    call    {entry}
4:  lock inc qword ptr [rip + {late}]       # late: another CPU is expected by now
5:  cli
    hlt
    jmp     5b
"#,
    claimed = const CLAIMED as i64,
    mailbox = sym MAILBOX,
    late = sym LATE,
    registers = sym REGISTERS,
    entry = sym ap_entry,
);
