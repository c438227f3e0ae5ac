//! Memory: frames, the kernel's page tables, its heap and its stacks.
//!
//! [`init`] runs once, on the page tables of whoever loaded the kernel, and
//! builds what replaces them. From then on physical memory is visible at
//! `boot::PHYS_OFFSET` plus its address: usable RAM always, the rest by
//! [`firmware_table`] and [`device`].

pub mod heap;
pub mod kstack;

use core::{fmt, slice};

use heart::kassert;
use plat::frame::{FRAME_SIZE, Frame, FrameAllocator, Span, words_for};
use plat::memmap::{Kind, MemoryMap, Region};

use boot::PHYS_OFFSET;

use crate::arch::cpu;
use crate::arch::paging::{
    self, Access, MapError, PAGE_SIZE, PageTables, STACKS, physical_to_virtual,
};
use crate::port::Spinlock;
use crate::probe;

/// Physical addresses below this are visible on every boot path before the
/// kernel's own tables are.
const BOOT_VISIBLE: u64 = 1 << 32;
const ONE_MIB: u64 = 1 << 20;
/// Physical memory is mapped only below this address: from there on its place is the stacks'.
pub const PHYSICAL_WINDOW: u64 = STACKS - PHYS_OFFSET;

/// How many regions the memory map can have, usable and other; neighbours of a kind are one.
/// QEMU's has about ten, and that of a large server with UEFI some hundred.
pub const MAX_REGIONS: usize = 1024;

/// The memory map. The boot fills it, while it is alone, and then it stays as it is. Taken
/// before the free frames.
pub static MEMORY: Spinlock<MemoryMap<MAX_REGIONS>> = Spinlock::new(MemoryMap::new());
/// Free physical memory.
static FRAMES: Spinlock<Option<FrameAllocator<'static>>> = Spinlock::new(None);
/// The kernel's page tables. Taken before [`FRAMES`].
static SPACE: Spinlock<Option<PageTables>> = Spinlock::new(None);

/// Why memory could not be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryError {
    /// The memory map has no usable region between 1 MiB and 4 GiB that holds
    /// so many bytes of bookkeeping.
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

/// Sets up the frame allocator and builds the kernel's page tables; gives back
/// the physical address of their root. The tables are not in use yet. Once, on
/// the boot CPU.
///
/// # Errors
/// [`MemoryError`].
///
/// # Safety
/// [`MEMORY`] must tell the truth: what it calls usable, nobody uses. Of that nothing
/// may lie above [`PHYSICAL_WINDOW`], or where this CPU has no physical addresses.
pub unsafe fn init() -> Result<u64, MemoryError> {
    let map = MEMORY.lock();
    // SAFETY: the caller's promise.
    let mut frames = unsafe { frame_allocator(&map)? };
    let root = visible_frame(&mut frames)
        .ok_or(MapError::OutOfFrames)?
        .start_address();
    // SAFETY: a fresh frame that the present tables show.
    let mut space = unsafe { PageTables::new(root) };
    // Page tables come from low memory: the present tables do not show the rest.
    let mut low = || visible_frame(&mut frames).map(Frame::start_address);
    space.map_image(&mut low)?;
    for region in map.iter() {
        let to = physical_to_virtual(region.start);
        // SAFETY: usable memory, as data, at the address it always has here.
        unsafe { space.map(to, region.start, region.bytes(), Access::Data, &mut low)? };
    }
    space.fill_kernel_half(&mut low)?;
    *FRAMES.lock() = Some(frames);
    *SPACE.lock() = Some(space);
    Ok(root)
}

/// A frame that the present tables show: from 1 MiB up, as long as there are such. What
/// lies below is scarce, and CPUs start there.
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

/// How many bytes page tables and frame allocator may take: half of the largest region that
/// they can be in.
#[must_use]
pub fn bookkeeping_room(map: &MemoryMap<MAX_REGIONS>) -> u64 {
    let bytes = visible(map).map(|(start, end)| end.saturating_sub(start));
    bytes.max().unwrap_or(0) / 2
}

/// The part of each usable region that the boot can see, from 1 MiB on: start and end. There
/// may be none: the end is below the start then.
fn visible(map: &MemoryMap<MAX_REGIONS>) -> impl Iterator<Item = (u64, u64)> {
    map.iter()
        .map(|region| (region.start.max(ONE_MIB), region.end.min(BOOT_VISIBLE)))
}

/// A frame allocator with all usable memory but its own bookkeeping.
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
    // SAFETY: usable memory that nobody else has, visible, page-aligned, and any bits are a
    // Span; it is not freed below.
    let spans = unsafe { slice::from_raw_parts_mut(first, count) };
    let bitmap = first.wrapping_add(count).cast::<u64>();
    // SAFETY: the same for what lies after the spans; it is aligned, since a Span is.
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

/// Takes a frame; its physical address, or `None` if there is none left. The
/// contents are whatever they were. Any context that may take a spinlock.
#[must_use]
pub fn allocate_frame() -> Option<u64> {
    take_frames(|frames| frames.alloc())
}

/// Takes `count` frames in a row; the physical address of the first.
#[must_use]
pub fn allocate_frames(count: u64) -> Option<u64> {
    take_frames(|frames| frames.alloc_contiguous(count, 1))
}

/// Takes a frame below physical `limit`.
#[must_use]
pub fn allocate_frame_below(limit: u64) -> Option<u64> {
    take_frames(|frames| frames.alloc_below(limit))
}

/// The physical address of the frames that `take` takes.
fn take_frames(take: impl FnOnce(&mut FrameAllocator<'static>) -> Option<Frame>) -> Option<u64> {
    if probe::allocation_fails() {
        return None;
    }
    with_frames(take).map(Frame::start_address)
}

/// Gives back `count` frames from physical `address` on.
///
/// # Panics
/// If one is not in use, naming it.
///
/// # Safety
/// They were taken by the functions above and nobody refers to their memory any more:
/// whoever takes them next has it alone.
pub unsafe fn free_frames(address: u64, count: u64) {
    let first = Frame::containing(address);
    if let Err(error) = with_frames(|frames| frames.free_contiguous(first, count)) {
        panic!("{error}");
    }
}

/// Does something with the frame allocator.
///
/// # Panics
/// Before [`init`].
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

/// Tables that have the kernel's half and no other page.
///
/// # Errors
/// [`MapError::OutOfFrames`].
pub fn new_tables() -> Result<PageTables, MapError> {
    let root = allocate_frame().ok_or(MapError::OutOfFrames)?;
    // SAFETY: a fresh frame of usable memory, which is visible.
    Ok(with_space(|space| unsafe { space.with_kernel_half(root) }))
}

/// Makes the page tables that CPUs start on, with the frame at `page` to be run at its
/// own address; gives back the physical address of their root, which is below 4 GiB.
///
/// # Errors
/// [`MapError`].
///
/// # Safety
/// The frame must be the caller's for good, and go through [`write_protect`] before it
/// is run.
pub unsafe fn starting_tables(page: u64) -> Result<u64, MapError> {
    let root = with_frames(visible_frame).ok_or(MapError::OutOfFrames)?;
    let root = root.start_address();
    // SAFETY: a fresh frame that is visible; the page as the caller promises.
    with_space(|space| unsafe { space.starting(root, page, &mut allocate_frame) })?;
    Ok(root)
}

/// Makes the frame at physical `address` read-only where physical memory is mapped.
///
/// # Errors
/// [`MapError::NotMapped`] if it is not there in a page of its own.
///
/// # Safety
/// The frame must be the caller's for good, and no other CPU has touched it.
pub unsafe fn write_protect(address: u64) -> Result<(), MapError> {
    let page = physical_to_virtual(address);
    // SAFETY: the caller's promise.
    with_space(|space| unsafe { space.restrict(page, Access::ReadOnly) })
}

/// Maps memory into the kernel's page tables.
///
/// # Errors
/// [`MapError`].
///
/// # Safety
/// As [`PageTables::map`].
pub unsafe fn map(to: u64, from: u64, length: u64, access: Access) -> Result<(), MapError> {
    kassert!(to >= PHYS_OFFSET, "{to:#x} is not in the kernel half");
    // SAFETY: the caller's promise.
    with_space(|space| unsafe { space.map(to, from, length, access, &mut allocate_frame) })
}

/// Makes the kernel page at `address` unreachable. It is forgotten by no CPU yet:
/// [`crate::shootdown`].
///
/// # Errors
/// [`MapError::NotMapped`].
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

/// Frees the frame of a page that was hidden, and the page for another one.
///
/// # Errors
/// [`MapError::NotMapped`] if it was not hidden.
///
/// # Safety
/// As [`free_frames`], and every CPU has forgotten the page.
pub unsafe fn free_hidden(address: u64) -> Result<(), MapError> {
    let frame = with_space(|space| space.take_hidden(address))?;
    // SAFETY: the caller's promise.
    unsafe { free_frames(frame, 1) };
    Ok(())
}

/// The bytes at physical `address`, on the loader's page tables; `None` if the memory map knows
/// of no memory there (below 1 MiB it need not), or if these tables do not show it.
///
/// # Safety
/// The loader's page tables are in use, and as long as the bytes are used nobody writes them.
#[must_use]
pub unsafe fn boot_memory(address: u64, length: usize) -> Option<&'static [u8]> {
    let end = address.checked_add(length as u64)?;
    if end > BOOT_VISIBLE || !pages(address, end).all(is_memory) {
        return None;
    }
    // SAFETY: memory below 4 GiB, which every loader shows there; else the caller's promise.
    Some(unsafe { slice::from_raw_parts(physical_to_virtual(address) as *const u8, length) })
}

/// The bytes that firmware left at physical `address`, mapped read-only if they
/// were not; `None` if the memory map knows of no memory there (below 1 MiB it
/// need not), if it says that the memory is free (it will be overwritten), or if no page
/// table could be made. The mapping stays.
#[must_use]
pub fn firmware_table(address: u64, length: usize) -> Option<&'static [u8]> {
    let end = address.checked_add(length as u64)?;
    for page in pages(address, end) {
        if page >= physical_end() || !is_memory(page) || is_usable(page) {
            return None;
        }
        let to = physical_to_virtual(page);
        if !paging::is_mapped(to) {
            // SAFETY: firmware's memory, read-only, at the address physical memory
            // has here; Rust knows of no object in it.
            if let Err(error) = unsafe { map(to, page, PAGE_SIZE, Access::ReadOnly) } {
                log::error!("firmware's memory at {page:#x} cannot be mapped: {error}");
                return None;
            }
        }
    }
    // SAFETY: mapped above; firmware's tables do not change after boot, and the
    // kernel never writes them.
    Some(unsafe { slice::from_raw_parts(physical_to_virtual(address) as *const u8, length) })
}
/// The pages from the one with physical `address` on, up to `end`.
fn pages(address: u64, end: u64) -> impl Iterator<Item = u64> {
    (address / PAGE_SIZE * PAGE_SIZE..end).step_by(PAGE_SIZE as usize)
}

/// Whether the memory map has anything but a hole at physical `address`.
fn is_memory(address: u64) -> bool {
    address < ONE_MIB || MEMORY.lock().kind(address).is_some()
}

/// The first physical address that the kernel cannot map, or that this CPU does not have.
fn physical_end() -> u64 {
    PHYSICAL_WINDOW.min(1 << cpu::physical_address_bits())
}

/// The virtual address of the device registers in the page at physical `address`,
/// mapped uncached.
///
/// # Errors
/// [`MapError::NotADevice`] below 1 MiB, if there is RAM or the kernel's image, or if no
/// physical address can be so high; [`MapError::OutOfFrames`]; [`MapError::AlreadyMapped`] if
/// the page was mapped already.
pub fn device(address: u64) -> Result<u64, MapError> {
    let page = address / PAGE_SIZE * PAGE_SIZE;
    if page < ONE_MIB || page >= physical_end() || is_usable(page) || is_image(page) {
        return Err(MapError::NotADevice(address));
    }
    // SAFETY: neither RAM nor the image, checked above: nothing that Rust knows of.
    unsafe { map(physical_to_virtual(page), page, PAGE_SIZE, Access::Device)? };
    Ok(physical_to_virtual(address))
}

/// Unmaps the page of the registers at virtual `registers`, which [`device`] mapped.
///
/// # Panics
/// If it is not mapped.
///
/// # Safety
/// Nobody uses them any more, and no other CPU has.
pub unsafe fn unmap_device(registers: u64) {
    let page = registers / PAGE_SIZE * PAGE_SIZE;
    // SAFETY: the caller's promise.
    unsafe { hide(page) }.expect("mapped by `device`");
    with_space(|space| space.take_hidden(page)).expect("hidden just now");
    paging::forget(page);
}

/// Whether the memory map calls the page at physical `address` usable.
fn is_usable(address: u64) -> bool {
    MEMORY.lock().kind(address) == Some(Kind::Usable)
}

/// Whether the page at physical `address` holds a page of the kernel's image.
fn is_image(address: u64) -> bool {
    paging::image_sections()
        .iter()
        .any(|&(start, end, _access)| {
            (start..end)
                .step_by(PAGE_SIZE as usize)
                .any(|page| paging::translate(page) == Some(address))
        })
}

/// Bytes of usable memory as the memory map has it, and how many are free now.
#[must_use]
pub fn usage() -> (u64, u64) {
    let usable = MEMORY.lock().usable_bytes();
    (
        usable,
        with_frames(|frames| frames.free_frames()) * FRAME_SIZE,
    )
}
