//! Page tables: the kernel's own, those of other spaces, and queries of those in use.
//!
//! The kernel half of the address space, in which nothing is both writable and
//! executable:
//!
//! | from | what | permission |
//! |---|---|---|
//! | `ffff_8000_0000_0000` | physical memory: usable RAM; device registers and firmware tables only on demand | RW or R, NX |
//! | `ffff_d000_0000_0000` | kernel stacks, as much unmapped below each as it has | RW, NX |
//! | `ffff_e000_0000_0000` | the kernel heap, if it is in pieces in physical memory | RW, NX |
//! | `ffff_ffff_8000_0000` | the kernel image, by sections | RX, R, RW |
//!
//! All of it is supervisor-only and global. It is the same in every address space, through entries
//! of the level 4 table that never change ([`PageTables::fill_kernel_half`]). The kernel's own
//! lower half is empty. CPUs start on tables with one page there ([`PageTables::starting`]), and
//! [`crate::vspace`] has other spaces.

use core::fmt;
use core::ptr::addr_of;

use boot::PHYS_OFFSET;
use heart::kassert;
use x86_64::registers::control::Cr3;
use x86_64::structures::paging::mapper::{MapToError, MapperFlush};
use x86_64::structures::paging::{
    FrameAllocator, Mapper, OffsetPageTable, Page, PageSize, PageTable, PageTableFlags, PhysFrame,
    Size2MiB, Size4KiB,
};
use x86_64::{PhysAddr, VirtAddr};

/// A page, in bytes.
pub const PAGE_SIZE: u64 = Size4KiB::SIZE;

/// Where kernel stacks are mapped.
pub const STACKS: u64 = 0xffff_d000_0000_0000;

/// Where the kernel heap is mapped if it is in pieces.
pub const HEAP: u64 = 0xffff_e000_0000_0000;

/// What a mapping allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read and execute.
    Code,
    /// Read.
    ReadOnly,
    /// Read and write.
    Data,
    /// Read and write, uncached: device registers.
    Device,
}

impl Access {
    /// The flags of a page at `address`. The kernel half is the same in every address
    /// space, so it is global.
    fn flags(self, address: u64) -> PageTableFlags {
        let access = match self {
            Self::Code => PageTableFlags::empty(),
            Self::ReadOnly => PageTableFlags::NO_EXECUTE,
            Self::Data => PageTableFlags::WRITABLE | PageTableFlags::NO_EXECUTE,
            Self::Device => {
                PageTableFlags::WRITABLE
                    | PageTableFlags::NO_EXECUTE
                    | PageTableFlags::NO_CACHE
                    | PageTableFlags::WRITE_THROUGH
            }
        };
        let mut flags = PageTableFlags::PRESENT | access;
        flags.set(PageTableFlags::GLOBAL, address >= PHYS_OFFSET);
        flags
    }
}

/// Why a page could not be mapped or unmapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// No frame was left for a page table.
    OutOfFrames,
    /// The kernel's heap had no room.
    OutOfHeap,
    /// The page at this virtual address is already mapped.
    AlreadyMapped(u64),
    /// The page is not mapped, or is part of a large page.
    NotMapped(u64),
    /// There can be no device registers at this physical address.
    NotADevice(u64),
}

impl core::error::Error for MapError {}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfFrames => f.write_str("no frame of memory is free"),
            Self::OutOfHeap => f.write_str("the kernel's heap is full"),
            Self::AlreadyMapped(address) => write!(f, "{address:#x} is mapped already"),
            Self::NotMapped(address) => write!(f, "{address:#x} is not mapped as a page of 4 KiB"),
            Self::NotADevice(address) => write!(
                f,
                "there can be no device registers at physical {address:#x}: the address is memory's, \
                 or too high"
            ),
        }
    }
}

/// The source of frames for page tables: physical addresses of zeroed or unzeroed frames, each in
/// memory that is visible at [`PHYS_OFFSET`].
pub type FrameSource<'a> = &'a mut dyn FnMut() -> Option<u64>;

struct Source<'a, 'b>(&'b mut FrameSource<'a>);

// SAFETY: the source has taken each frame out of use for us.
unsafe impl FrameAllocator<Size4KiB> for Source<'_, '_> {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        (self.0)().map(|address| PhysFrame::containing_address(PhysAddr::new(address)))
    }
}

/// The bits of an entry that hold a physical address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The virtual address of physical `address`, if that is mapped.
#[must_use]
pub const fn physical_to_virtual(address: u64) -> u64 {
    PHYS_OFFSET + address
}

/// The tables at physical `root`, for reading and changing.
///
/// # Safety
/// A valid level 4 table must lie there, visible with all its lower tables at
/// [`PHYS_OFFSET`], and nobody else may be changing it.
unsafe fn tables_at(root: u64) -> OffsetPageTable<'static> {
    let table = physical_to_virtual(root) as *mut PageTable;
    // SAFETY: the caller's promise: a level 4 table that nobody else changes.
    let table = unsafe { &mut *table };
    // SAFETY: physical memory that matters is visible at PHYS_OFFSET.
    unsafe { OffsetPageTable::new(table, VirtAddr::new(PHYS_OFFSET)) }
}

/// The physical address that the tables in use give for virtual `address`. Any context: the walk
/// only loads, without a lock, so a panic can use it.
#[must_use]
pub fn translate(address: u64) -> Option<u64> {
    let mut table = Cr3::read().0.start_address().as_u64();
    for level in (1..=4).rev() {
        let shift = 12 + 9 * (level - 1);
        let index = (address >> shift) & 0x1ff;
        let entry = physical_to_virtual(table + 8 * index) as *const u64;
        // SAFETY: the tables in use lie in memory that is visible at PHYS_OFFSET,
        // and are never freed. Another CPU may change an entry meanwhile, in one
        // store: the volatile load sees either state.
        let entry = unsafe { entry.read_volatile() };
        let flags = PageTableFlags::from_bits_truncate(entry);
        if !flags.contains(PageTableFlags::PRESENT) {
            return None;
        }
        let physical = entry & 0x000f_ffff_ffff_f000;
        if level == 1 || flags.contains(PageTableFlags::HUGE_PAGE) {
            let within = (1 << shift) - 1;
            return Some((physical & !within) | (address & within));
        }
        table = physical;
    }
    None
}

/// Whether the tables in use map virtual `address`.
#[must_use]
pub fn is_mapped(address: u64) -> bool {
    translate(address).is_some()
}

/// Page tables: the kernel's, under the lock of `mem::SPACE`, or another space's.
#[derive(Debug)]
pub struct PageTables {
    root: u64,
}

impl PageTables {
    /// Empty tables whose level 4 table is the frame at `root`.
    ///
    /// # Safety
    /// The frame must be unused and visible at [`PHYS_OFFSET`].
    #[must_use]
    pub unsafe fn new(root: u64) -> Self {
        let table = physical_to_virtual(root) as *mut PageTable;
        // SAFETY: an unused, visible, page-aligned frame (the caller's promise). Zeroes
        // are a table with no entry; a `PageTable` by value would be on the stack.
        unsafe { table.write_bytes(0, 1) };
        Self { root }
    }

    /// The physical address of the level 4 table: what goes into CR3.
    #[must_use]
    pub fn root(&self) -> u64 {
        self.root
    }

    fn tables(&mut self) -> OffsetPageTable<'_> {
        // SAFETY: root is a valid table since new, and &mut self keeps others out.
        unsafe { tables_at(self.root) }
    }

    /// Maps `length` bytes from virtual `to` to physical `from`, with 2 MiB pages where both are
    /// aligned for it. All three must be multiples of 4 KiB.
    ///
    /// # Errors
    /// Returns [`MapError::OutOfFrames`] or [`MapError::AlreadyMapped`]; what was mapped
    /// before the error stays.
    ///
    /// # Safety
    /// The memory must be intended for this access at this address: the mapping must not alias what
    /// Rust takes for unaliased.
    pub unsafe fn map(
        &mut self,
        to: u64,
        from: u64,
        length: u64,
        access: Access,
        mut frames: FrameSource<'_>,
    ) -> Result<(), MapError> {
        kassert!(
            (to | from | length).is_multiple_of(PAGE_SIZE),
            "mapping {to:#x} to {from:#x}, {length:#x} bytes: not whole pages"
        );
        let flags = access.flags(to);
        let mut tables = self.tables();
        let mut frames = Source(&mut frames);
        let mut done = 0;
        while done < length {
            let (to, from) = (to + done, from + done);
            let large =
                (to | from).is_multiple_of(Size2MiB::SIZE) && length - done >= Size2MiB::SIZE;
            if large {
                let page = Page::<Size2MiB>::containing_address(VirtAddr::new(to));
                let frame = PhysFrame::containing_address(PhysAddr::new(from));
                let flags = flags | PageTableFlags::HUGE_PAGE;
                // SAFETY: the caller answers for the memory.
                let result = unsafe { tables.map_to(page, frame, flags, &mut frames) };
                result
                    .map(MapperFlush::flush)
                    .map_err(|error| map_error(error, to))?;
                done += Size2MiB::SIZE;
            } else {
                let page = Page::<Size4KiB>::containing_address(VirtAddr::new(to));
                let frame = PhysFrame::containing_address(PhysAddr::new(from));
                // SAFETY: the caller answers for the memory.
                let result = unsafe { tables.map_to(page, frame, flags, &mut frames) };
                result
                    .map(MapperFlush::flush)
                    .map_err(|error| map_error(error, to))?;
                done += PAGE_SIZE;
            }
        }
        Ok(())
    }

    /// Changes the access of the 4 KiB page at `address`, and flushes it from this CPU's TLB only.
    /// For a page that no other CPU has touched.
    ///
    /// # Errors
    /// Returns [`MapError::NotMapped`].
    ///
    /// # Safety
    /// As [`Self::map`]; and the new access must be enough for all users of the page.
    pub unsafe fn restrict(&mut self, address: u64, access: Access) -> Result<(), MapError> {
        let page = Page::<Size4KiB>::containing_address(VirtAddr::new(address));
        // SAFETY: the caller's promise.
        let result = unsafe { self.tables().update_flags(page, access.flags(address)) };
        result
            .map(MapperFlush::flush)
            .map_err(|_error| MapError::NotMapped(address))
    }

    /// Makes the 4 KiB page at `address` unreachable, and keeps its frame's number in the
    /// entry for [`Self::take_hidden`]. Flushes nothing.
    ///
    /// # Errors
    /// Returns [`MapError::NotMapped`].
    ///
    /// # Safety
    /// Nobody may use the page any more.
    pub unsafe fn hide(&mut self, address: u64) -> Result<(), MapError> {
        let page = Page::<Size4KiB>::containing_address(VirtAddr::new(address));
        // Every flag except PRESENT is kept.
        let flags = PageTableFlags::GLOBAL | PageTableFlags::NO_EXECUTE;
        // SAFETY: the caller's promise.
        let result = unsafe { self.tables().update_flags(page, flags) };
        result
            .map(MapperFlush::ignore)
            .map_err(|_error| MapError::NotMapped(address))
    }

    /// Empties the entry of a hidden page. Returns the physical address of its frame.
    ///
    /// # Errors
    /// Returns [`MapError::NotMapped`] if the page was not hidden.
    pub fn take_hidden(&mut self, address: u64) -> Result<u64, MapError> {
        let entry = self.entry(address).ok_or(MapError::NotMapped(address))?;
        // SAFETY: an entry of the lowest level, of tables that are never freed and that the caller
        // has for itself. CPUs read entries by themselves, and see either state.
        let old = unsafe { entry.read_volatile() };
        let flags = PageTableFlags::from_bits_truncate(old);
        if flags.contains(PageTableFlags::PRESENT) || !flags.contains(PageTableFlags::GLOBAL) {
            return Err(MapError::NotMapped(address));
        }
        // SAFETY: as above.
        unsafe { entry.write_volatile(0) };
        Ok(old & ADDRESS)
    }

    /// Replaces the frame of the 4 KiB page at `address`, which stays mapped throughout, by the one
    /// at physical `frame`. Returns the old one. Flushes nothing.
    ///
    /// # Errors
    /// Returns [`MapError::NotMapped`].
    ///
    /// # Safety
    /// As [`Self::map`].
    pub unsafe fn exchange(
        &mut self,
        address: u64,
        frame: u64,
        access: Access,
    ) -> Result<u64, MapError> {
        let entry = self.entry(address).ok_or(MapError::NotMapped(address))?;
        // SAFETY: as in `take_hidden`.
        let old = unsafe { entry.read_volatile() };
        if !PageTableFlags::from_bits_truncate(old).contains(PageTableFlags::PRESENT) {
            return Err(MapError::NotMapped(address));
        }
        // SAFETY: as above. In one store, so CPUs that walk the table see either frame.
        unsafe { entry.write_volatile(frame | access.flags(address).bits()) };
        Ok(old & ADDRESS)
    }

    /// The address of the entry of the 4 KiB page at `address`.
    fn entry(&self, address: u64) -> Option<*mut u64> {
        let mut table = self.root;
        for level in (1..=4).rev() {
            let index = (address >> (12 + 9 * (level - 1))) & 0x1ff;
            let entry = physical_to_virtual(table + 8 * index) as *mut u64;
            if level == 1 {
                return Some(entry);
            }
            // SAFETY: the kernel's tables lie in memory that is visible at PHYS_OFFSET, and
            // are never freed.
            let value = unsafe { entry.read_volatile() };
            let flags = PageTableFlags::from_bits_truncate(value);
            if !flags.contains(PageTableFlags::PRESENT) || flags.contains(PageTableFlags::HUGE_PAGE)
            {
                return None;
            }
            table = value & ADDRESS;
        }
        None
    }

    /// Gives every entry of the kernel half of the level 4 table its table. The entries never
    /// change after that, so other spaces have a copy of them. Once, for the kernel's own tables.
    ///
    /// # Errors
    /// Returns [`MapError::OutOfFrames`].
    pub fn fill_kernel_half(&mut self, frames: FrameSource<'_>) -> Result<(), MapError> {
        for entry in self.tables().level_4_table_mut().iter_mut().skip(256) {
            if entry.is_unused() {
                let frame = frames().ok_or(MapError::OutOfFrames)?;
                // SAFETY: a fresh frame; zeroes are a table with no entry.
                unsafe { (physical_to_virtual(frame) as *mut PageTable).write_bytes(0, 1) };
                let flags = PageTableFlags::PRESENT | PageTableFlags::WRITABLE;
                entry.set_addr(PhysAddr::new(frame), flags);
            }
        }
        Ok(())
    }

    /// Makes tables at the frame `root` with the same kernel half as these, and no other page.
    ///
    /// # Safety
    /// As [`Self::new`].
    #[must_use]
    pub unsafe fn with_kernel_half(&mut self, root: u64) -> Self {
        // SAFETY: the caller's promise.
        let mut space = unsafe { Self::new(root) };
        let kernel = self.tables();
        let kernel_half = kernel.level_4_table().iter().skip(256);
        let mut tables = space.tables();
        let entries = tables.level_4_table_mut().iter_mut().skip(256);
        for (entry, kernel_entry) in entries.zip(kernel_half) {
            *entry = kernel_entry.clone();
        }
        space
    }

    /// Frees the frames of the lower half's tables and of the level 4 table, but not those of
    /// pages.
    ///
    /// # Safety
    /// No CPU may have the tables loaded, or start on them.
    pub unsafe fn free(self, free: &mut dyn FnMut(u64)) {
        for index in 0..256 {
            free_below(self.root + 8 * index, 3, free);
        }
        free(self.root);
    }

    /// Makes the frame at `root` the level 4 table on which a CPU starts: with the kernel half as
    /// it is now, and in the lower half the page at physical `page` at its own address, executable.
    /// The kernel's own tables never have that page.
    ///
    /// # Errors
    /// Returns [`MapError::OutOfFrames`].
    ///
    /// # Safety
    /// As [`Self::new`] for `root`. `page` must be a frame that nobody writes any more when a CPU
    /// starts.
    pub unsafe fn starting(
        &mut self,
        root: u64,
        page: u64,
        frames: FrameSource<'_>,
    ) -> Result<(), MapError> {
        // SAFETY: the caller's promise.
        let mut space = unsafe { self.with_kernel_half(root) };
        // SAFETY: the caller's promise; nothing else is in the lower half.
        unsafe { space.map(page, page, PAGE_SIZE, Access::Code, frames) }
    }

    /// Maps the kernel image, section by section, at its present addresses to wherever the loader
    /// put it, which the tables in use say.
    ///
    /// # Errors
    /// As [`Self::map`].
    pub fn map_image(&mut self, mut frames: FrameSource<'_>) -> Result<(), MapError> {
        for (start, end, access) in image_sections() {
            for page in (start..end).step_by(PAGE_SIZE as usize) {
                let frame = translate(page).ok_or(MapError::NotMapped(page))?;
                // SAFETY: the same memory at the same address as now, with no more access than the
                // linker script intends for it.
                unsafe { self.map(page, frame, PAGE_SIZE, access, &mut frames)? };
            }
        }
        Ok(())
    }
}

/// The stacks in the image as (start, end), each with an unmapped page below it: the boot CPU's for
/// NMI, double fault and machine check, until it has one for each, and the one on which PVH boots.
#[must_use]
pub fn early_stacks() -> [(u64, u64); 2] {
    unsafe extern "C" {
        safe static __early_stack_start: u8;
        safe static __early_stack_end: u8;
        safe static __boot_stack_start: u8;
        safe static __boot_stack_end: u8;
    }
    [
        (
            addr_of!(__early_stack_start) as u64,
            addr_of!(__early_stack_end) as u64,
        ),
        (
            addr_of!(__boot_stack_start) as u64,
            addr_of!(__boot_stack_end) as u64,
        ),
    ]
}

/// The image's sections as (start, end, access), page-aligned.
#[must_use]
pub fn image_sections() -> [(u64, u64, Access); 5] {
    unsafe extern "C" {
        safe static __text_start: u8;
        safe static __rodata_start: u8;
        safe static __data_start: u8;
        safe static __image_end: u8;
    }
    let text = addr_of!(__text_start) as u64;
    let rodata = addr_of!(__rodata_start) as u64;
    let data = addr_of!(__data_start) as u64;
    let end = addr_of!(__image_end) as u64;
    let [early, boot] = early_stacks();
    [
        (text, rodata, Access::Code),
        (rodata, data, Access::ReadOnly),
        (data, end, Access::Data),
        (early.0, early.1, Access::Data),
        (boot.0, boot.1, Access::Data),
    ]
}

/// Frees the table of `level` to which the entry at physical `entry` points, and those below it.
/// For tables that nobody uses.
fn free_below(entry: u64, level: u32, free: &mut dyn FnMut(u64)) {
    let entry = physical_to_virtual(entry) as *const u64;
    // SAFETY: an entry of a table in memory that is visible at PHYS_OFFSET.
    let value = unsafe { entry.read_volatile() };
    let flags = PageTableFlags::from_bits_truncate(value);
    if !flags.contains(PageTableFlags::PRESENT) || flags.contains(PageTableFlags::HUGE_PAGE) {
        return;
    }
    let table = value & ADDRESS;
    if level > 1 {
        (0..512).for_each(|index| free_below(table + 8 * index, level - 1, free));
    }
    free(table);
}

fn map_error<S: PageSize>(error: MapToError<S>, address: u64) -> MapError {
    match error {
        MapToError::FrameAllocationFailed => MapError::OutOfFrames,
        MapToError::ParentEntryHugePage | MapToError::PageAlreadyMapped(_) => {
            MapError::AlreadyMapped(address)
        }
    }
}

/// Switches to the page tables at `root` and to the stack that ends at `stack_top`, and calls
/// `then`, which never returns. All in one step, since the old stack may exist only in the old
/// tables.
///
/// # Safety
/// `root` must map the kernel image as it runs now, and a large enough stack below `stack_top`,
/// which must be 16-aligned. Nothing may refer to the old stack from now on.
pub unsafe fn switch_to(root: u64, stack_top: u64, then: extern "C" fn() -> !) -> ! {
    // SAFETY: the caller's promise; RBP 0 ends the backtrace, and CALL leaves
    // RSP as the ABI wants it at a function's entry.
    unsafe {
        core::arch::asm!(
            "mov cr3, {root}",
            "mov rsp, {stack}",
            "xor ebp, ebp",
            "call {then}",
            "ud2",
            root = in(reg) root,
            stack = in(reg) stack_top,
            then = in(reg) then,
            options(noreturn),
        )
    }
}
