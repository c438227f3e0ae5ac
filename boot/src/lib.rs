//! How the kernel is entered: one ELF, three ways in.
//!
//! * **PVH**: `qemu -kernel` reads the Xen note of the ELF and jumps to
//!   `pvh_start` in 32-bit protected mode. [`pvh`] turns on long mode, writes
//!   a [`BootInfo`](bootloader_api::BootInfo) from what the hypervisor left in
//!   memory, and calls `_start`.
//! * **BIOS, UEFI**: rust-osdev's loader reads [`CONFIG`] from the section
//!   `.bootloader-config` and calls `_start` with a `BootInfo` of its own.
//!
//! Each way reaches `_start` in long mode with interrupts off, with all physical memory that
//! matters visible at [`PHYS_OFFSET`], and with the same structure to read. Only two things are
//! different, for which the kernel asks [`pvh::given`]: the command line, for which `BootInfo` has
//! no field (with an image the ramdisk holds it), and the memory map, which is where the hypervisor
//! left it and may be of any length.

#![no_std]

pub mod pvh;

use bootloader_api::BootloaderConfig;
use bootloader_api::config::Mapping;

/// Where physical address 0 is visible when `_start` is entered: the start of the upper half. The
/// kernel's own page tables keep it there.
pub const PHYS_OFFSET: u64 = 0xffff_8000_0000_0000;

/// Where the ELF is linked: virtual address minus this is its load address under PVH. Must equal
/// `KERNEL_VMA` in `kernel/link.ld`.
pub const KERNEL_VMA: u64 = 0xffff_ffff_8000_0000;

/// The size of the stack on which `_start` is entered, in bytes; with PVH that is the one in
/// `kernel/link.ld`. A release build uses 8 KiB of it, a debug build 15 (the test image measures
/// this: `stacks:` in any console log). Below it is an unmapped page.
pub const STACK_SIZE: u64 = 64 * 1024;

/// The request to rust-osdev's loader. Pass it to [`bootloader_api::entry_point!`].
pub const CONFIG: BootloaderConfig = {
    let mut config = BootloaderConfig::new_default();
    config.mappings.physical_memory = Some(Mapping::FixedAddress(PHYS_OFFSET));
    config.kernel_stack_size = STACK_SIZE;
    config
};
