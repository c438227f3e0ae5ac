//! The PVH entry: from 32-bit protected mode to `_start`.
//!
//! PVH (the Xen HVM direct boot ABI, `xen/include/public/arch-x86/hvm/start_info.h`) enters
//! with paging off, flat 32-bit segments, interrupts off and in EBX the physical address of a
//! `start_info`. `pvh_start` builds page tables for the first 4 GiB (RAM the boot needs, and
//! the hole with the APICs), at three places: at 0 because paging is turned on while running
//! there, at [`PHYS_OFFSET`], and the first 1 GiB once more at [`KERNEL_VMA`], where the image
//! is linked; the page below each of the boot's stacks is in none. `pvh_main` then copies what
//! start_info points to, before anything can hand out the frames that it lies in.
//!
//! The memory map marks neither the kernel image nor the module as in use, so
//! they are carved out of it here.

use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::mem::size_of;
use core::ptr::addr_of;

use bootloader_api::BootInfo;
use bootloader_api::info::{MemoryRegion, MemoryRegionKind, Optional};
use kcore::memmap::{Kind, MemoryMap};

use crate::{KERNEL_VMA, MAX_COMMAND_LINE, MAX_REGIONS, PHYS_OFFSET};

const START_INFO_MAGIC: u32 = 0x336e_c578;

/// `hvm_start_info`, version 1.
#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    module_count: u32,
    modules: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

/// `hvm_modlist_entry`.
#[repr(C)]
struct Module {
    address: u64,
    size: u64,
    command_line: u64,
    reserved: u64,
}

/// `hvm_memmap_table_entry`; `kind` as in the ACPI address map, 1 is RAM.
#[repr(C)]
struct MapEntry {
    address: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

/// What [`pvh_main`] writes, and only reads or hands over afterwards.
struct Kept<T>(UnsafeCell<T>);

// SAFETY: written by pvh_main, before there is a second CPU or an interrupt. Then
// the command line is only read, and the other two are _start's alone.
unsafe impl<T> Sync for Kept<T> {}

static REGIONS: Kept<[MemoryRegion; MAX_REGIONS]> =
    Kept(UnsafeCell::new([MemoryRegion::empty(); MAX_REGIONS]));
static BOOT_INFO: Kept<Option<BootInfo>> = Kept(UnsafeCell::new(None));
/// The command line and its length, which is `None` if the entry was not by PVH.
static COMMAND_LINE: Kept<([u8; MAX_COMMAND_LINE + 1], Option<usize>)> =
    Kept(UnsafeCell::new(([0; MAX_COMMAND_LINE + 1], None)));

unsafe extern "C" {
    static __image_start: u8;
    static __image_end: u8;
    /// The time-stamp counter at the first instruction, 0 if not entered by PVH.
    static pvh_entry_tsc: u64;
    #[expect(improper_ctypes, reason = "one compiler builds both sides of the call")]
    fn _start(boot_info: &'static mut BootInfo) -> !;
}

/// The command line that PVH passed (QEMU's `-append`), without its NUL, or the first
/// [`MAX_COMMAND_LINE`] bytes and one, from which the kernel sees that it is longer;
/// `None` if the kernel was not entered by PVH.
#[must_use]
pub fn command_line() -> Option<&'static [u8]> {
    // SAFETY: written only by pvh_main, which ran to its end on this CPU before
    // _start, or never; from then on there are shared references only.
    let (bytes, len) = unsafe { &*COMMAND_LINE.0.get() };
    len.map(|len| &bytes[..len])
}

/// The time-stamp counter at the first instruction of the PVH entry; `None` if
/// the kernel was not entered by PVH.
#[must_use]
pub fn entry_tsc() -> Option<u64> {
    // SAFETY: written by pvh_start before any Rust code ran, constant since.
    let tsc = unsafe { pvh_entry_tsc };
    (tsc != 0).then_some(tsc)
}

/// Reads `T` at physical address `address`.
///
/// # Safety
/// A valid `T` must lie there, in the first 4 GiB, and nothing may write it.
unsafe fn read_physical<T>(address: u64) -> T {
    // SAFETY: the entry mapped the first 4 GiB at PHYS_OFFSET; the caller
    // answers for the contents. Unaligned, since the ABI promises nothing.
    unsafe { ((PHYS_OFFSET + address) as *const T).read_unaligned() }
}

/// Goes to `_start` with what the start_info at physical `start_info` says. Called
/// once, by `pvh_start`, on the stub's stack.
extern "C" fn pvh_main(start_info: u64) -> ! {
    let boot_info = fill_boot_info(start_info);
    // SAFETY: _start is the entry of this very image (entry_point! defines it),
    // and boot_info lives in a static that nobody else touches.
    unsafe { _start(boot_info) }
}

/// Fills the `BootInfo`. By itself, so that its memory maps are off the stack when the
/// kernel goes on.
///
/// # Panics
/// If start_info has not its magic number, no memory map (version 0), or a map
/// with more than 128 regions. The console is not set up yet, but the panic
/// handler brings up a serial port by itself.
#[inline(never)]
fn fill_boot_info(start_info: u64) -> &'static mut BootInfo {
    // SAFETY: PVH passes the address of a start_info in low memory.
    let info: StartInfo = unsafe { read_physical(start_info) };
    assert!(
        info.magic == START_INFO_MAGIC,
        "PVH: start_info has magic {:#x}",
        info.magic
    );
    assert!(
        info.version >= 1 && info.memory_map_entries > 0,
        "PVH: start_info version {} has no memory map",
        info.version
    );
    // SAFETY: this runs once, before anything else can name the static, and does
    // not keep the reference.
    let (bytes, len) = unsafe { &mut *COMMAND_LINE.0.get() };
    *len = Some(copy_command_line(info.command_line, bytes));

    let mut map = read_memory_map(&info);
    let (start, end) = (addr_of!(__image_start) as u64, addr_of!(__image_end) as u64);
    map.carve(start - KERNEL_VMA, end - KERNEL_VMA)
        .expect("PVH: memory map too fragmented");
    let module = (info.module_count > 0).then(|| {
        // SAFETY: module_count says that there is an entry at `modules`.
        unsafe { read_physical::<Module>(info.modules) }
    });
    if let Some(module) = &module {
        let end = module.address.saturating_add(module.size);
        map.carve(module.address, end)
            .expect("PVH: memory map too fragmented");
    }

    // SAFETY: as above, and nothing else ever names this static.
    let regions: &'static mut [MemoryRegion] = unsafe { &mut *REGIONS.0.get() };
    for (kept, region) in regions.iter_mut().zip(map.regions()) {
        let kind = match region.kind {
            Kind::Usable => MemoryRegionKind::Usable,
            Kind::Reserved => MemoryRegionKind::UnknownBios(2),
        };
        *kept = MemoryRegion {
            start: region.start,
            end: region.end,
            kind,
        };
    }
    let regions = &mut regions[..map.regions().len()];
    // SAFETY: as above; _start alone gets the reference.
    let boot_info = unsafe { &mut *BOOT_INFO.0.get() };
    let boot_info = boot_info.insert(BootInfo::new(regions.into()));
    boot_info.physical_memory_offset = Optional::Some(PHYS_OFFSET);
    boot_info.rsdp_addr = match info.rsdp {
        0 => Optional::None,
        address => Optional::Some(address),
    };
    if let Some(module) = module {
        boot_info.ramdisk_addr = Optional::Some(PHYS_OFFSET + module.address);
        boot_info.ramdisk_len = module.size;
    }
    boot_info.kernel_addr = start - KERNEL_VMA;
    boot_info.kernel_len = end - start;
    boot_info.kernel_image_offset = start;
    boot_info
}

/// The memory map of `info`, sorted and without overlaps.
fn read_memory_map(info: &StartInfo) -> MemoryMap<MAX_REGIONS> {
    let mut map = MemoryMap::new();
    for i in 0..u64::from(info.memory_map_entries) {
        let address = info.memory_map + i * size_of::<MapEntry>() as u64;
        // SAFETY: i is below the number of entries that start_info gives.
        let entry: MapEntry = unsafe { read_physical(address) };
        let kind = if entry.kind == 1 {
            Kind::Usable
        } else {
            Kind::Reserved
        };
        let end = entry.address.saturating_add(entry.size);
        map.insert(entry.address, end, kind)
            .expect("PVH: more than 128 memory regions");
    }
    map
}

/// Copies the NUL-terminated string at physical `address` (0: there is none)
/// and returns its length. What does not fit is cut off.
fn copy_command_line(address: u64, buffer: &mut [u8]) -> usize {
    if address == 0 {
        return 0;
    }
    for (i, byte) in buffer.iter_mut().enumerate() {
        // SAFETY: PVH passes a NUL-terminated string; i has not passed the NUL.
        *byte = unsafe { read_physical(address + i as u64) };
        if *byte == 0 {
            return i;
        }
    }
    buffer.len()
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
