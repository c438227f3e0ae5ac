//! The PVH entry: from 32-bit protected mode to `_start`.
//!
//! PVH (the Xen HVM direct boot ABI, `xen/include/public/arch-x86/hvm/start_info.h`) enters with
//! paging off, flat 32-bit segments, interrupts off, and the physical address of a `start_info` in
//! EBX. `pvh_start` builds page tables for the first 4 GiB (the RAM that the boot needs, and the
//! hole with the APICs), at three places: at 0, since it turns paging on while it runs there; at
//! [`PHYS_OFFSET`]; and the first 1 GiB once more at [`KERNEL_VMA`], where the image is linked.
//! They leave out the page below each of the boot's stacks. `pvh_main` then reads what start_info
//! points to, with [`plat::start_info`], and copies the command line before anything can hand out
//! its frames. The memory map stays there for the kernel ([`Given::memory_map`]).

use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::ptr::addr_of;

use bootloader_api::BootInfo;
use bootloader_api::info::{MemoryRegion, Optional};
use plat::cmdline::MAX_LENGTH;
use plat::memmap::Region;
use plat::start_info::{StartInfo, StartInfoError};

use crate::{KERNEL_VMA, PHYS_OFFSET};

/// A value that [`pvh_main`] writes, and that is afterwards only read or handed over.
struct Kept<T>(UnsafeCell<T>);

// SAFETY: pvh_main writes it before there is a second CPU or an interrupt. Afterwards GIVEN is only
// read, and BOOT_INFO is _start's alone.
unsafe impl<T> Sync for Kept<T> {}

static BOOT_INFO: Kept<Option<BootInfo>> = Kept(UnsafeCell::new(None));
/// The command line, and one byte more; `None` if the entry was not by PVH.
static GIVEN: Kept<([u8; MAX_LENGTH + 1], Option<Given>)> =
    Kept(UnsafeCell::new(([0; MAX_LENGTH + 1], None)));

/// What PVH passed that has no place in a `BootInfo`.
#[derive(Clone, Copy, Debug)]
pub struct Given {
    /// The command line (QEMU's `-append`), without its NUL. If it is too long, its first
    /// [`MAX_LENGTH`] bytes and one more, which tells [`plat::cmdline::parse`] so.
    pub command_line: &'static [u8],
    /// The rest.
    pub start_info: StartInfo,
}

impl Given {
    /// The hypervisor's memory map, as [`StartInfo::memory_map_entry`] returns it. It lists memory
    /// in use, the image and the first module, as usable. The iterator reads each entry when it
    /// comes to it.
    ///
    /// # Safety
    /// It must not be used once the entry's page tables are replaced, or memory is handed out.
    pub unsafe fn memory_map(&self) -> impl Iterator<Item = Region> + Clone + use<> {
        let info = self.start_info;
        (0..info.memory_map_entries()).map(move |number| {
            // SAFETY: the caller's promise.
            let read = &mut |address, buffer: &mut [u8]| unsafe { read_physical(address, buffer) };
            let entry = info.memory_map_entry(number, read);
            entry.expect("pvh_main has read it")
        })
    }
}

unsafe extern "C" {
    static __image_start: u8;
    static __image_end: u8;
    /// The time-stamp counter at the first instruction, 0 if not entered by PVH.
    static pvh_entry_tsc: u64;
    #[expect(improper_ctypes, reason = "one compiler builds both sides of the call")]
    fn _start(boot_info: &'static mut BootInfo) -> !;
}

/// What PVH passed; `None` if the kernel was not entered by PVH.
#[must_use]
pub fn given() -> Option<Given> {
    // SAFETY: only pvh_main writes it, which ran to its end on this CPU before _start, or never;
    // from then on there are only shared references.
    let (_, given) = unsafe { &*GIVEN.0.get() };
    *given
}

/// The time-stamp counter at the first instruction of the PVH entry; `None` if the kernel was not
/// entered by PVH.
#[must_use]
pub fn entry_tsc() -> Option<u64> {
    // SAFETY: pvh_start wrote it before any Rust code ran; constant since.
    let tsc = unsafe { pvh_entry_tsc };
    (tsc != 0).then_some(tsc)
}

/// Reads physical memory, if it lies below 4 GiB and outside the kernel's image, whose statics are
/// Rust's. Returns whether it does.
///
/// # Safety
/// The page tables must be those of the entry, and no memory may have been handed out. There is
/// then no second CPU.
unsafe fn read_physical(address: u64, buffer: &mut [u8]) -> bool {
    let end = address.saturating_add(buffer.len() as u64);
    let (image, image_end) = image();
    if end > 1 << 32 || (address < image_end && image < end) {
        return false;
    }
    let bytes = (PHYS_OFFSET + address) as *const u8;
    // SAFETY: the entry mapped the first 4 GiB at PHYS_OFFSET. No Rust object lies outside the
    // image; `buffer` (on the boot's stack, or a static) lies inside; and nothing else runs.
    // Reading an address without memory gives some bytes.
    unsafe { bytes.copy_to_nonoverlapping(buffer.as_mut_ptr(), buffer.len()) };
    true
}

/// The physical addresses of the image, if PVH loaded it: its first, and the first after it.
#[must_use]
pub fn image() -> (u64, u64) {
    let (start, end) = (addr_of!(__image_start) as u64, addr_of!(__image_end) as u64);
    (start - KERNEL_VMA, end - KERNEL_VMA)
}

/// Calls `_start` with what the start_info at physical `start_info` says. `pvh_start` calls this
/// once, on the stub's stack.
///
/// # Panics
/// Panics if the start_info is unusable. The console is not set up yet, but the panic handler
/// brings up a serial port by itself.
extern "C" fn pvh_main(start_info: u64) -> ! {
    let boot_info = match fill_boot_info(start_info) {
        Ok(boot_info) => boot_info,
        Err(error) => panic!("{error}"),
    };
    // SAFETY: _start is the entry of this very image (entry_point! defines it),
    // and boot_info lives in a static that nobody else touches.
    unsafe { _start(boot_info) }
}

/// Fills the `BootInfo`.
fn fill_boot_info(start_info: u64) -> Result<&'static mut BootInfo, StartInfoError> {
    // SAFETY: this is the entry.
    let read = &mut |address, buffer: &mut [u8]| unsafe { read_physical(address, buffer) };
    let start_info = StartInfo::read(start_info, read)?;
    // SAFETY: this runs once, before anything else can name the static.
    let (bytes, given) = unsafe { &mut *GIVEN.0.get() };
    let len = start_info.command_line(bytes, read)?;
    *given = Some(Given {
        command_line: &bytes[..len],
        start_info,
    });

    for number in 0..start_info.memory_map_entries() {
        start_info.memory_map_entry(number, read)?;
    }
    let (start, end) = image();
    // SAFETY: as above; _start alone gets the reference.
    let boot_info = unsafe { &mut *BOOT_INFO.0.get() };
    let in_given: &'static mut [MemoryRegion] = &mut [];
    let boot_info = boot_info.insert(BootInfo::new(in_given.into()));
    boot_info.physical_memory_offset = Optional::Some(PHYS_OFFSET);
    boot_info.rsdp_addr = start_info.rsdp.map_or(Optional::None, Optional::Some);
    boot_info.kernel_addr = start;
    boot_info.kernel_len = end - start;
    boot_info.kernel_image_offset = start + KERNEL_VMA;
    Ok(boot_info)
}

global_asm!(
    r#"
    .section .note.Xen, "a", @note
    .balign 4
    .long 4                                 # length of the name
    .long 4                                 # length of the descriptor
    .long 18                                # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long pvh_start - {vma}

    .section .boot.text, "ax", @progbits
    .code32
    .global pvh_start
pvh_start:
    cli
    cld
    mov     esp, offset __boot_stack_end - {vma}
    mov     esi, ebx                        # start_info; CPUID overwrites EBX
    rdtsc
    mov     dword ptr [pvh_entry_tsc - {vma}], eax
    mov     dword ptr [pvh_entry_tsc + 4 - {vma}], edx

    mov     eax, 0x80000000                 # long mode there?
    cpuid
    cmp     eax, 0x80000001
    jb      2f
    mov     eax, 0x80000001
    cpuid
    test    edx, 1 << 29
    jz      2f
    test    edx, 1 << 20                    # and the no-execute bit?
    jnz     4f

2:  mov     esi, offset boot_no_long_mode - {vma}
    mov     edx, 0x3f8
3:  lodsb
    test    al, al
    jz      9f
    out     dx, al
    jmp     3b
9:  mov     eax, 0x12                       # isa-debug-exit: panic
    out     0xf4, eax
    hlt
    jmp     9b

4:  mov     edi, offset boot_pd - {vma}     # 4 page directories: 2048 pages of 2 MiB
    mov     eax, 0x83                       # present, writable, large
    xor     ecx, ecx
5:  mov     dword ptr [edi + ecx * 8], eax
    add     eax, 0x200000
    inc     ecx
    cmp     ecx, 2048
    jb      5b

    mov     eax, offset boot_pd - {vma} + 3
    mov     edi, offset boot_pdpt_low - {vma}
    mov     dword ptr [boot_pdpt_high + 510 * 8 - {vma}], eax
    xor     ecx, ecx
6:  mov     dword ptr [edi + ecx * 8], eax
    add     eax, 0x1000
    inc     ecx
    cmp     ecx, 4
    jb      6b

    # The first large page of the image by small ones, without the page below each of
    # its two stacks: an overflow faults.
    mov     edi, offset boot_pt - {vma}
    mov     eax, offset __image_start - {vma} + 3
    xor     ecx, ecx
7:  mov     dword ptr [edi + ecx * 8], eax
    add     eax, 0x1000
    inc     ecx
    cmp     ecx, 512
    jb      7b
    mov     eax, offset __early_stack_start - {vma} - 4096
    shr     eax, 9                          # 8 bytes for each 4 KiB
    and     eax, 511 * 8
    mov     dword ptr [edi + eax], 0
    mov     eax, offset __boot_stack_start - {vma} - 4096
    shr     eax, 9
    and     eax, 511 * 8
    mov     dword ptr [edi + eax], 0
    mov     eax, offset __image_start - {vma}
    shr     eax, 18                         # 8 bytes for each 2 MiB
    add     edi, 3
    mov     dword ptr [boot_pd + eax - {vma}], edi

    mov     eax, offset boot_pdpt_low - {vma} + 3
    mov     dword ptr [boot_pml4 - {vma}], eax
    mov     dword ptr [boot_pml4 + 256 * 8 - {vma}], eax
    mov     eax, offset boot_pdpt_high - {vma} + 3
    mov     dword ptr [boot_pml4 + 511 * 8 - {vma}], eax

    mov     eax, offset boot_pml4 - {vma}
    mov     cr3, eax
    mov     eax, cr4
    or      eax, 1 << 5                     # PAE
    mov     cr4, eax
    mov     ecx, 0xc0000080                 # EFER
    rdmsr
    or      eax, 1 << 8 | 1 << 11           # LME, NXE
    wrmsr
    mov     eax, cr0
    or      eax, 1 << 31 | 1 << 16          # PG, WP
    mov     cr0, eax

    lgdt    [boot_gdt_pointer - {vma}]
    push    0x08
    mov     eax, offset boot_64 - {vma}
    push    eax
    retf

    .code64
boot_64:
    xor     eax, eax
    mov     ds, eax
    mov     es, eax
    mov     ss, eax
    mov     fs, eax
    mov     gs, eax
    movabs  rsp, offset __boot_stack_end
    xor     ebp, ebp                        # the backtrace ends here
    mov     edi, esi
    movabs  rax, offset {main}
    call    rax
    ud2

    .section .rodata.boot, "a", @progbits
boot_no_long_mode:
    .asciz "Tryst needs a CPU with long mode and the no-execute bit; try QEMU's -cpu max\n"
    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff                # 64-bit code, accessed
boot_gdt_pointer:
    .word 15
    .long boot_gdt - {vma}

    .section .data.boot, "aw", @progbits
    .balign 8
    .global pvh_entry_tsc
pvh_entry_tsc:
    .quad 0

    .section .bss.boot, "aw", @nobits
    .balign 4096
boot_pml4:      .skip 4096
boot_pdpt_low:  .skip 4096
boot_pdpt_high: .skip 4096
boot_pd:        .skip 4 * 4096
boot_pt:        .skip 4096
"#,
    vma = const KERNEL_VMA,
    main = sym pvh_main,
);
