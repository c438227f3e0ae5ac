//! Memory: frames, the kernel's page tables, its heap and its stacks.
//!
//! [`init`] runs once, on the loader's page tables, and builds those that replace them. From then
//! on physical memory is visible at `boot::PHYS_OFFSET` plus its address: usable RAM always, the
//! rest through [`firmware_table`] and [`device`].

pub mod heap;
pub mod kstack;

use core::{fmt, slice};

use heart::kassert;
use plat::frame::{FRAME_SIZE, Frame, FrameAllocator, Span, words_for};
use plat::memmap::{Kind, MemoryMap, Region};

use boot::PHYS_OFFSET;

use crate::arch::paging::{
    self, Access, MapError, PAGE_SIZE, PageTables, STACKS, physical_to_virtual,
};
use crate::arch::{cpu, tlb};
use crate::port::Spinlock;
use crate::probe;

/// Physical addresses below this are visible on every boot path even before the kernel's own tables
/// exist.
const BOOT_VISIBLE: u64 = 1 << 32;
const ONE_MIB: u64 = 1 << 20;
/// Physical memory is mapped only below this address. Higher up, the stacks take its place.
pub const PHYSICAL_WINDOW: u64 = STACKS - PHYS_OFFSET;

/// How many regions the memory map may have, usable and others. Neighbours of one kind are merged.
/// QEMU's map has about ten, that of a large server with UEFI some hundred.
pub const MAX_REGIONS: usize = 1024;

/// The memory map. The boot fills it while it is alone, and it never changes afterwards. Taken
/// before the free frames.
pub static MEMORY: Spinlock<MemoryMap<MAX_REGIONS>> = Spinlock::new(MemoryMap::new());
/// Free physical memory.
static FRAMES: Spinlock<Option<FrameAllocator<'static>>> = Spinlock::new(None);
/// The kernel's page tables. Taken before [`FRAMES`].
static SPACE: Spinlock<Option<PageTables>> = Spinlock::new(None);

/// Why memory could not be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryError {
    /// The memory map has no usable region between 1 MiB and 4 GiB that can hold this many bytes of
    /// bookkeeping.
    NoRoom(u64),
    /// A page table could not be made.
    Map(MapError),
}

impl core::error::Error for MemoryError {}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoom(bytes) => write!(
                f,
                "the memory map has no usable memory between 1 MiB and 4 GiB with room for the frame \
                 map, {bytes:#x} bytes"
            ),
            Self::Map(error) => error.fmt(f),
        }
    }
}

impl From<MapError> for MemoryError {
    fn from(error: MapError) -> Self {
        Self::Map(error)
    }
}

/// Sets up the frame allocator and builds the kernel's page tables. Returns the physical address of
/// their root. The tables are not in use yet. Call once, on the boot CPU.
///
/// # Errors
/// Returns a [`MemoryError`].
///
/// # Safety
/// [`MEMORY`] must tell the truth: nobody uses what it calls usable. None of that lies above
/// [`PHYSICAL_WINDOW`], or at addresses that this CPU does not have.
pub unsafe fn init() -> Result<u64, MemoryError> {
    let map = MEMORY.lock();
    // SAFETY: the caller's promise.
    let mut frames = unsafe { frame_allocator(&map)? };
    let root = visible_frame(&mut frames)
        .ok_or(MapError::OutOfFrames)?
        .start_address();
    // SAFETY: a fresh frame that the present tables map.
    let mut space = unsafe { PageTables::new(root) };
    // Page tables come from low memory: the present tables do not map the rest.
    let mut low = || visible_frame(&mut frames).map(Frame::start_address);
    space.map_image(&mut low)?;
    for region in map.iter() {
        let to = physical_to_virtual(region.start);
        // SAFETY: usable memory, as data, at its one address in the kernel.
        unsafe { space.map(to, region.start, region.bytes(), Access::Data, &mut low)? };
    }
    space.fill_kernel_half(&mut low)?;
    *FRAMES.lock() = Some(frames);
    *SPACE.lock() = Some(space);
    Ok(root)
}

/// Takes a frame that the present tables map: from 1 MiB up, while there are any. Frames below that
/// are scarce, and CPUs start there.
fn visible_frame(frames: &mut FrameAllocator<'_>) -> Option<Frame> {
    match frames.alloc() {
        Some(frame) if frame.start_address() < BOOT_VISIBLE => Some(frame),
        Some(frame) => {
            frames.free(frame).expect("just allocated");
            frames.alloc_below(BOOT_VISIBLE)
        }
        None => None,
    }
}

/// How many bytes page tables and frame allocator may take: half of the largest region that can
/// hold them.
#[must_use]
pub fn bookkeeping_room(map: &MemoryMap<MAX_REGIONS>) -> u64 {
    let bytes = visible(map).map(|(start, end)| end.saturating_sub(start));
    bytes.max().unwrap_or(0) / 2
}

/// The start and end of the part of each usable region that the boot can see, from 1 MiB on. If
/// there is none, the end is below the start.
fn visible(map: &MemoryMap<MAX_REGIONS>) -> impl Iterator<Item = (u64, u64)> {
    map.iter()
        .map(|region| (region.start.max(ONE_MIB), region.end.min(BOOT_VISIBLE)))
}

/// Makes a frame allocator for all usable memory but its own bookkeeping.
///
/// # Safety
/// As [`init`].
unsafe fn frame_allocator(
    map: &MemoryMap<MAX_REGIONS>,
) -> Result<FrameAllocator<'static>, MemoryError> {
    let frame = Frame::containing;
    let runs = map.iter().map(|r| (frame(r.start), frame(r.end)));
    let count = runs.clone().count();
    let words = words_for(map.usable_bytes() / FRAME_SIZE);
    let bytes = (count * size_of::<Span>() + words * size_of::<u64>()) as u64;
    let bytes = bytes.next_multiple_of(PAGE_SIZE);
    let place = visible(map)
        .find(|(start, end)| start + bytes <= *end)
        .ok_or(MemoryError::NoRoom(bytes))?
        .0;
    let first = physical_to_virtual(place) as *mut Span;
    // SAFETY: usable, visible, page-aligned memory that nobody else has and nobody frees, since
    // `without` takes it out below. Any bits are a Span.
    let spans = unsafe { slice::from_raw_parts_mut(first, count) };
    let bitmap = first.wrapping_add(count).cast::<u64>();
    // SAFETY: the same for the memory after the spans. It is aligned, since a Span is.
    let bitmap = unsafe { slice::from_raw_parts_mut(bitmap, words) };
    let mut frames = FrameAllocator::new(spans, bitmap, runs);
    for region in map.iter() {
        for (start, end) in without(region, place, place + bytes) {
            if start < end {
                let count = (end - start) / FRAME_SIZE;
                frames
                    .free_range(Frame::containing(start), count)
                    .expect("the regions of a memory map do not overlap");
            }
        }
    }
    Ok(frames)
}

/// The parts of `region` below and above the hole, either of which may be empty.
fn without(region: Region, hole_start: u64, hole_end: u64) -> [(u64, u64); 2] {
    let Region { start, end, .. } = region;
    [
        (start, end.min(hole_start).max(start)),
        (start.max(hole_end).min(end), end),
    ]
}

/// Takes a frame and returns its physical address, or `None` if none is left. Its contents are
/// undefined. Any context that may take a spinlock.
#[must_use]
pub fn allocate_frame() -> Option<u64> {
    take_frames(|frames| frames.alloc())
}

/// Takes `count` contiguous frames and returns the physical address of the first.
#[must_use]
pub fn allocate_frames(count: u64) -> Option<u64> {
    take_frames(|frames| frames.alloc_contiguous(count, 1))
}

/// Takes a frame below physical `limit`.
#[must_use]
pub fn allocate_frame_below(limit: u64) -> Option<u64> {
    take_frames(|frames| frames.alloc_below(limit))
}

/// Returns the physical address of the frames that `take` takes.
fn take_frames(take: impl FnOnce(&mut FrameAllocator<'static>) -> Option<Frame>) -> Option<u64> {
    if probe::allocation_fails() {
        return None;
    }
    with_frames(take).map(Frame::start_address)
}

/// Frees `count` frames from physical `address` on.
///
/// # Panics
/// Panics if a frame is not in use, and names it.
///
/// # Safety
/// They came from the functions above, and nobody refers to their memory any more: whoever takes
/// them next has it alone.
pub unsafe fn free_frames(address: u64, count: u64) {
    let first = Frame::containing(address);
    if let Err(error) = with_frames(|frames| frames.free_contiguous(first, count)) {
        panic!("{error}");
    }
}

/// Calls `act` with the frame allocator.
///
/// # Panics
/// Panics before [`init`].
fn with_frames<T>(act: impl FnOnce(&mut FrameAllocator<'static>) -> T) -> T {
    act(FRAMES.lock().as_mut().expect("mem::init has run"))
}

fn with_space<T>(act: impl FnOnce(&mut PageTables) -> T) -> T {
    act(SPACE.lock().as_mut().expect("mem::init has run"))
}

/// The physical address of the kernel's page tables.
#[must_use]
pub fn page_table_root() -> u64 {
    with_space(|space| space.root())
}

/// Makes tables that have the kernel's half and no other page.
///
/// # Errors
/// Returns [`MapError::OutOfFrames`].
pub fn new_tables() -> Result<PageTables, MapError> {
    let root = allocate_frame().ok_or(MapError::OutOfFrames)?;
    // SAFETY: a fresh frame of usable memory, which is visible.
    Ok(with_space(|space| unsafe { space.with_kernel_half(root) }))
}

/// Makes the page tables that CPUs start on. They map the frame at `page`, to run code in it, at
/// its own address. Returns the physical address of their root, which is below 4 GiB.
///
/// # Errors
/// Returns a [`MapError`].
///
/// # Safety
/// The frame must be the caller's for good, and must go through [`write_protect`] before code runs
/// in it.
pub unsafe fn starting_tables(page: u64) -> Result<u64, MapError> {
    let root = with_frames(visible_frame).ok_or(MapError::OutOfFrames)?;
    let root = root.start_address();
    // SAFETY: a fresh, visible frame; the caller promises the rest about the page.
    with_space(|space| unsafe { space.starting(root, page, &mut allocate_frame) })?;
    Ok(root)
}

/// Makes the frame at physical `address` read-only in the mapping of physical memory.
///
/// # Errors
/// Returns [`MapError::NotMapped`] if no page of its own maps it there.
///
/// # Safety
/// The frame must be the caller's for good, and no other CPU may have touched it.
pub unsafe fn write_protect(address: u64) -> Result<(), MapError> {
    let page = physical_to_virtual(address);
    // SAFETY: the caller's promise.
    with_space(|space| unsafe { space.restrict(page, Access::ReadOnly) })
}

/// Maps memory into the kernel's page tables.
///
/// # Errors
/// Returns a [`MapError`].
///
/// # Safety
/// As [`PageTables::map`].
pub unsafe fn map(to: u64, from: u64, length: u64, access: Access) -> Result<(), MapError> {
    kassert!(to >= PHYS_OFFSET, "{to:#x} is not in the kernel half");
    // SAFETY: the caller's promise.
    with_space(|space| unsafe { space.map(to, from, length, access, &mut allocate_frame) })
}

/// Makes the kernel page at `address` unreachable. No CPU forgets it yet: see [`crate::shootdown`].
///
/// # Errors
/// Returns [`MapError::NotMapped`].
///
/// # Safety
/// As [`PageTables::hide`].
pub unsafe fn hide(address: u64) -> Result<(), MapError> {
    kassert!(
        address >= PHYS_OFFSET,
        "{address:#x} is not in the kernel half"
    );
    // SAFETY: the caller's promise.
    with_space(|space| unsafe { space.hide(address) })
}

/// Frees the frame of a hidden page, and makes its address free for another page.
///
/// # Errors
/// Returns [`MapError::NotMapped`] if it was not hidden.
///
/// # Safety
/// As [`free_frames`], and every CPU must have forgotten the page.
pub unsafe fn free_hidden(address: u64) -> Result<(), MapError> {
    let frame = with_space(|space| space.take_hidden(address))?;
    // SAFETY: the caller's promise.
    unsafe { free_frames(frame, 1) };
    Ok(())
}

/// Returns the bytes at physical `address`, on the loader's page tables. Returns `None` if the
/// memory map knows of no memory there (below 1 MiB it need not), or if these tables do not map it.
///
/// # Safety
/// The loader's page tables are in use, and nobody writes the bytes while they are used.
#[must_use]
pub unsafe fn boot_memory(address: u64, length: usize) -> Option<&'static [u8]> {
    let end = address.checked_add(length as u64)?;
    if end > BOOT_VISIBLE || !pages(address, end).all(is_memory) {
        return None;
    }
    // SAFETY: memory below 4 GiB, which every loader maps there. The caller promises the rest.
    Some(unsafe { slice::from_raw_parts(physical_to_virtual(address) as *const u8, length) })
}

/// Returns the bytes that firmware left at physical `address`, and maps them read-only if they were
/// not mapped; the mapping stays. Returns `None` if the memory map knows of no memory there (below
/// 1 MiB it need not), if it calls that memory free (it will be overwritten), or if no page table
/// could be made.
#[must_use]
pub fn firmware_table(address: u64, length: usize) -> Option<&'static [u8]> {
    let end = address.checked_add(length as u64)?;
    for page in pages(address, end) {
        if page >= physical_end() || !is_memory(page) || is_usable(page) {
            return None;
        }
        let to = physical_to_virtual(page);
        if !paging::is_mapped(to) {
            // SAFETY: firmware's memory, read-only, at the address of its physical memory. Rust
            // knows of no object in it.
            if let Err(error) = unsafe { map(to, page, PAGE_SIZE, Access::ReadOnly) } {
                log::error!("firmware's memory at {page:#x} cannot be mapped: {error}");
                return None;
            }
        }
    }
    // SAFETY: mapped above. Firmware's tables do not change after boot, and the kernel never writes
    // them.
    Some(unsafe { slice::from_raw_parts(physical_to_virtual(address) as *const u8, length) })
}
/// The pages from that of physical `address` up to `end`.
fn pages(address: u64, end: u64) -> impl Iterator<Item = u64> {
    (address / PAGE_SIZE * PAGE_SIZE..end).step_by(PAGE_SIZE as usize)
}

/// Returns whether the memory map has anything but a hole at physical `address`.
fn is_memory(address: u64) -> bool {
    address < ONE_MIB || MEMORY.lock().kind(address).is_some()
}

/// The lowest physical address that the kernel cannot map or this CPU does not have.
fn physical_end() -> u64 {
    PHYSICAL_WINDOW.min(1 << cpu::physical_address_bits())
}

/// Maps the device registers in the page at physical `address`, uncached, and returns their virtual
/// address.
///
/// # Errors
/// Returns [`MapError::NotADevice`] if the address is below 1 MiB, in RAM, in the kernel's image,
/// or higher than a physical address can be; [`MapError::OutOfFrames`]; or
/// [`MapError::AlreadyMapped`] if the page is already mapped.
pub fn device(address: u64) -> Result<u64, MapError> {
    let page = address / PAGE_SIZE * PAGE_SIZE;
    if page < ONE_MIB || page >= physical_end() || is_usable(page) || is_image(page) {
        return Err(MapError::NotADevice(address));
    }
    // SAFETY: neither RAM nor the image, as checked above, so nothing that Rust knows of.
    unsafe { map(physical_to_virtual(page), page, PAGE_SIZE, Access::Device)? };
    Ok(physical_to_virtual(address))
}

/// Unmaps the page of the registers at virtual `registers`, which [`device`] mapped.
///
/// # Panics
/// Panics if it is not mapped.
///
/// # Safety
/// Nobody uses them any more, and no other CPU has.
pub unsafe fn unmap_device(registers: u64) {
    let page = registers / PAGE_SIZE * PAGE_SIZE;
    // SAFETY: the caller's promise.
    unsafe { hide(page) }.expect("mapped by `device`");
    with_space(|space| space.take_hidden(page)).expect("hidden just now");
    tlb::forget(page);
}

/// Returns whether the memory map calls the page at physical `address` usable.
fn is_usable(address: u64) -> bool {
    MEMORY.lock().kind(address) == Some(Kind::Usable)
}

/// Returns whether the page at physical `address` belongs to the kernel's image.
fn is_image(address: u64) -> bool {
    paging::image_sections()
        .iter()
        .any(|&(start, end, _access)| {
            (start..end)
                .step_by(PAGE_SIZE as usize)
                .any(|page| paging::translate(page) == Some(address))
        })
}

/// The bytes of usable memory in the memory map, and how many of them are free now.
#[must_use]
pub fn usage() -> (u64, u64) {
    let usable = MEMORY.lock().usable_bytes();
    (
        usable,
        with_frames(|frames| frames.free_frames()) * FRAME_SIZE,
    )
}
