//! Page permissions, frames, heap and stacks.

use alloc::vec::Vec;
use core::hint::black_box;

use kernel::arch::cpu;
use kernel::arch::paging::{self, MapError, physical_to_virtual};
use kernel::{ktest, mem};
use plat::memmap::{Kind, LeftOut};

ktest! {
    /// Code cannot be written.
    fn text_is_not_writable() [expect = "panic", console = "#PF page fault: write to 0xffffffff80"] {
        let (start, ..) = paging::image_sections()[0];
        // SAFETY: unsound on purpose: the write must fault.
        unsafe { (start as *mut u8).write_volatile(0) };
    }
}

ktest! {
    /// Constants cannot be written.
    fn rodata_is_not_writable() [
        expect = "panic", console = "#PF page fault: write to 0xffffffff80",
        console = "(not permitted)",
    ] {
        let (start, ..) = paging::image_sections()[1];
        // SAFETY: unsound on purpose: the write must fault.
        unsafe { (start as *mut u8).write_volatile(0) };
    }
}

/// Calls the byte at `address`, a RET, as a function.
fn call(address: u64) {
    // SAFETY: unsound on purpose: a data pointer as a function, whose call must fault.
    let function = unsafe { core::mem::transmute::<u64, extern "C" fn()>(address) };
    function();
}

ktest! {
    /// Data cannot be executed, by any of its addresses.
    fn data_is_not_executable() [
        expect = "panic", console = "#PF page fault: instruction fetch from 0xffffffff80",
    ] {
        // Use its name: a static that nobody writes would end up among the constants.
        #[unsafe(link_section = ".data")]
        static RET: heart::shim::AtomicU32 = heart::shim::AtomicU32::new(0xc3);
        call(&raw const RET as u64);
    }
}

ktest! {
    /// The map of physical memory cannot be executed.
    fn physical_memory_is_not_executable() [
        expect = "panic", console = "#PF page fault: instruction fetch from 0xffff8",
    ] {
        let frame = mem::allocate_frame().expect("a frame");
        // SAFETY: our own frame.
        unsafe { (physical_to_virtual(frame) as *mut u8).write_volatile(0xc3) };
        call(physical_to_virtual(frame));
    }
}

ktest! {
    /// The kernel's own image is not also writable through the map of physical memory.
    fn no_writable_alias_of_the_image() [] {
        for (start, end, _access) in paging::image_sections() {
            for page in (start..end).step_by(4096) {
                let frame = paging::translate(page).expect("the image is mapped");
                assert_eq!(paging::translate(physical_to_virtual(frame)), None, "{page:#x}");
            }
        }
    }
}

ktest! {
    /// Null and everything near it cannot be read.
    fn null_is_not_mapped() [
        expect = "panic", console = "#PF page fault: read from 0x8 (not mapped)",
    ] {
        // SAFETY: unsound on purpose: the read must fault.
        unsafe { core::ptr::with_exposed_provenance::<u64>(black_box(8)).read_volatile() };
    }
}

#[expect(unconditional_recursion, reason = "the stack must overflow")]
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    recurse(depth + 1) + black_box(frame)[0]
}

ktest! {
    /// An overflowing stack hits its guard page; the double fault that follows has a stack of its
    /// own and says what happened.
    fn stack_overflow() [
        expect = "panic", console = "kernel stack overflow", console = "memory::recurse",
    ] {
        black_box(recurse(black_box(0)));
    }
}

ktest! {
    /// The same for the first stack of the boot, which is in the image.
    fn boot_stack_overflow() [
        append = "bug=boot-stack-overflow", expect = "panic",
        console = "kernel stack overflow: #DF double fault at 0xffffffff80205",
        console = "bugs::never_return",
    ] {}
}

ktest! {
    /// All memory can be taken, each frame once, and given back.
    fn all_frames_are_distinct() [qemu = "-m 64"] { take_all_frames(1); }
}

ktest! {
    /// The same by 4 MiB, with less than 4 GiB of which a part is above, after the hole
    /// of the devices.
    fn all_frames_are_distinct_3_gib() [qemu = "-m 3072", smp = "1..=4"] {
        assert!(take_all_frames(1024) > 4 << 30);
    }
}

ktest! {
    /// The same by 16 MiB, with memory above 4 GiB, which must be visible too.
    fn all_frames_are_distinct_8_gib() [qemu = "-m 8192", smp = "1..=4"] {
        assert!(take_all_frames(4096) > 4 << 30);
    }
}

ktest! {
    /// The same by 1 GiB, with 16 MiB below 4 GiB, where page tables and frame map must be: they
    /// have no room for the last of 200 GiB. (QEMU's host gives memory when it is touched.)
    fn all_frames_are_distinct_200_gib() [
        qemu = "-m 200G -object memory-backend-ram,id=ram,size=200G,reserve=off -machine q35,memory-backend=ram,max-ram-below-4g=16M",
        smp = "1..=4", console = " left out: page tables and frame map would take more than ",
    ] {
        assert!(take_all_frames(1 << 18) > 150 << 30);
    }
}

ktest! {
    /// The same with 300 holes of 4 KiB. They are not mapped, so none was handed out. The heap's
    /// sixteenth of this memory is nowhere contiguous, so it comes in pieces.
    fn all_frames_are_distinct_300_holes() [
        append = "bug=memory-holes", smp = "1..=4", qemu = "-m 330",
    ] {
        take_all_frames(1);
        assert_holes(300, 1 << 20);
        assert_eq!(mem::MEMORY.lock().left_out(), LeftOut::default());
        let (usable, _free) = mem::usage();
        let (heap, _used) = mem::heap::HEAP.usage();
        assert_eq!(heap as u64, usable / 16 / 4096 * 4096);
        let ones = alloc::vec![1_u8; heap / 2];
        assert_eq!(ones.iter().map(|&one| usize::from(one)).sum::<usize>(), heap / 2);
        let within = ones.as_ptr() as u64 - paging::HEAP;
        assert!(within < heap as u64 / 2, "{within:#x}");
    }
}

ktest! {
    /// The same if a BIOS says so.
    fn all_frames_are_distinct_300_holes_bios() [boot = "bios", append = "bug=memory-holes"] {
        take_all_frames(1);
        assert_holes(300, 1 << 20);
    }
}

ktest! {
    /// With more holes than the map has room for, the smallest regions are left out, and counted.
    fn all_frames_are_distinct_2000_holes() [
        append = "bug=many-memory-holes", smp = "1..=4", qemu = "-m 160",
        console = "KiB) left out: the smallest, since the map has more than 1024 regions",
    ] {
        take_all_frames(1);
        assert_holes(2000, 64 << 10);
        let left_out = mem::MEMORY.lock().left_out();
        assert!(left_out.regions > 1400 && left_out.bytes > 80 << 20, "{left_out:?}");
    }
}

/// Checks that the holes that a bug has made in the memory map are mapped nowhere.
fn assert_holes(holes: u64, apart: u64) {
    for number in 0..holes {
        let hole = ktest::bugs::FIRST_HOLE + number * apart;
        assert_eq!(
            paging::translate(physical_to_virtual(hole)),
            None,
            "hole {hole:#x}"
        );
    }
}

ktest! {
    /// The kernel names impossible entries of a memory map, and the boot goes on with the rest.
    fn odd_map() [
        append = "bug=odd-memory-map",
        console = "entries: 1 end below their start, 1 overlap one of the other kind; for example 0xffffffffffff0000-0x1000 usable",
        console = "memory 0x100000000000-0x10000000000000 (3 regions, 12 KiB) left out: this CPU has 40 physical address bits",
        console = "memory 0xa0000-0x100000 left out, of which the map calls 0x10000 bytes usable: video memory",
        console = "memory 0xfee00000-0xfee01000 left out, of which the map calls 0x1000 bytes usable: the local APIC",
    ] {
        let map = mem::MEMORY.lock();
        assert!(map.usable_bytes() > 500 << 20);
        let usable = [0xa_0000, 0xfee0_0000, 0x100_0000, 1 << 44].map(|at| map.kind(at) == Some(Kind::Usable));
        assert_eq!(usable, [false; 4]);
    }
}

/// Takes all memory by pieces of `frames` frames, each linked to the one before and marked with its
/// own address; checks the marks and gives all back. Returns the highest address.
fn take_all_frames(frames: u64) -> u64 {
    let (_usable, free) = mem::usage();
    let take = || {
        if frames == 1 {
            mem::allocate_frame()
        } else {
            mem::allocate_frames(frames)
        }
    };
    let (mut last, mut count, mut highest) = (0, 0, 0);
    while let Some(address) = take() {
        assert_ne!(address, 0, "the page of the BIOS was given out");
        let link = physical_to_virtual(address) as *mut u64;
        let mark = physical_to_virtual(address + 8) as *mut u64;
        // SAFETY: our own memory.
        unsafe { link.write(last) };
        // SAFETY: its second word.
        unsafe { mark.write(!address) };
        last = address;
        highest = highest.max(address);
        count += frames;
    }
    // A piece may be left over at the end of each region.
    assert!(count * 4096 <= free && free - count * 4096 < frames * 4096 * 4);
    while last != 0 {
        let link = physical_to_virtual(last) as *const u64;
        let mark = physical_to_virtual(last + 8) as *const u64;
        // SAFETY: as above.
        let mark = unsafe { mark.read() };
        assert_eq!(mark, !last, "frame {last:#x} was given out twice");
        // SAFETY: as above.
        let next = unsafe { link.read() };
        // SAFETY: as it was taken, and its memory is not used again.
        unsafe { mem::free_frames(last, frames) };
        last = next;
    }
    assert_eq!(mem::usage().1, free);
    highest
}

ktest! {
    /// Mapping a device register is refused if no address of this CPU reaches it, or the kernel has
    /// no place for it: it would fault, or be something else.
    fn no_device_beyond_the_physical_addresses() [] {
        let ends = [1 << cpu::physical_address_bits(), mem::PHYSICAL_WINDOW, 1 << 52, u64::MAX - 4095];
        for end in ends {
            assert_eq!(mem::device(end), Err(MapError::NotADevice(end)), "{end:#x}");
        }
    }
}

ktest! {
    /// Freeing a frame twice is found, and the frame is named.
    fn double_free() [expect = "panic", console = "kernel::mem::free_frames at kernel/src/mem/mod.rs:"] {
        let frame = mem::allocate_frame().expect("a frame");
        for _ in 0..2 {
            // SAFETY: sound the first time only; the kernel must find the second.
            unsafe { mem::free_frames(frame, 1) };
        }
    }
}

ktest! {
    /// Allocations of random sizes keep their contents and are all given back.
    fn heap() [] {
        let (_size, used) = mem::heap::HEAP.usage();
        let mut random = ktest::seed() | 1;
        let mut kept: Vec<Vec<u8>> = Vec::new();
        for round in 0..2000_u32 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            if random.is_multiple_of(3) && !kept.is_empty() {
                let gone = kept.swap_remove(random as usize % kept.len());
                let expected = gone.len() as u8;
                assert!(gone.iter().all(|&byte| byte == expected), "round {round}");
            } else {
                let len = (random >> 32) as usize % 2000;
                kept.push(alloc::vec![len as u8; len]);
            }
        }
        drop(kept);
        assert_eq!(mem::heap::HEAP.usage().1, used);
    }
}

ktest! {
    /// No memory left is a panic that says so, not a hang.
    fn heap_exhaustion() [expect = "panic", console = "memory allocation of "] {
        let mut kept: Vec<Vec<u8>> = Vec::new();
        loop {
            kept.push(alloc::vec![1; 1 << 20]);
        }
    }
}

ktest! {
    /// On a machine that is too small, a message says what there is no memory for.
    fn too_small_a_machine() [
        append = "bug=little-memory", expect = "panic",
        console = "no memory for the heap: no frame of memory is free",
    ] {}
}

ktest! {
    /// SMEP, SMAP and UMIP are on, on every CPU, where CPUID has them.
    fn protections_are_on() [] {
        protections();
        assert!(cpu::protections_offered().smep, "QEMU's max has SMEP");
    }
}

/// CR4 of every CPU is what the kernel makes it, whatever the loader left in it.
pub(crate) fn protections() {
    use x86_64::registers::control::Cr4;
    let look = |context: &heart::rendezvous::IpiCtx| {
        let offered = cpu::protections_offered();
        let expected = 1 << 5 // physical address extension
            | 1 << 6 // machine check
            | 1 << 7 // global pages
            | u64::from(offered.umip) << 11
            | u64::from(cpu::has_pcid()) << 17
            | u64::from(offered.smep) << 20
            | u64::from(offered.smap) << 21;
        assert_eq!(Cr4::read_raw(), expected, "CR4 of {}", context.cpu());
    };
    let (none, look) = (
        heart::rendezvous::Phase::NoBarrier,
        heart::rendezvous::Phase::Run(&look),
    );
    kernel::rendezvous::smp_rendezvous(none, look, none).unwrap();
}
