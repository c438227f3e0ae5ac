//! GDT, TSS and IDT.
//!
//! Each CPU has a [`Descriptors`] in its per-CPU block, whose TSS names its own stacks. All CPUs
//! share one IDT, since a handler finds its CPU through GS.
//!
//! NMI, double fault and machine check run on stacks of their own (IST), since each may come while
//! the stack pointer cannot be trusted. A handler on an IST stack may not switch threads, since the
//! next one would overwrite it.

use core::cell::UnsafeCell;
use core::mem::size_of;
use core::ptr::addr_of;

use x86_64::instructions::tables::{lgdt, lidt, load_tss};
use x86_64::registers::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::{Descriptor, SegmentSelector};
use x86_64::structures::tss::TaskStateSegment;
use x86_64::{PrivilegeLevel, VirtAddr};

use super::trap::{STUB_SIZE, trap_stubs};
use super::vector;

/// The kernel's code segment.
pub const KERNEL_CODE: SegmentSelector = SegmentSelector::new(1, PrivilegeLevel::Ring0);
const KERNEL_DATA: SegmentSelector = SegmentSelector::new(2, PrivilegeLevel::Ring0);
const TASK_STATE: SegmentSelector = SegmentSelector::new(5, PrivilegeLevel::Ring0);

/// The stacks to which the TSS switches, whatever the stack pointer was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Ist {
    /// For the NMI.
    Nmi = 0,
    /// For the double fault.
    DoubleFault = 1,
    /// For the machine check.
    MachineCheck = 2,
}

/// The GDT and TSS of one CPU. Must not move once loaded.
#[derive(Debug)]
#[repr(C)]
pub struct Descriptors {
    tss: TaskStateSegment,
    gdt: [u64; 7],
}

impl Descriptors {
    /// Tables not loaded yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            tss: TaskStateSegment::new(),
            gdt: [0; 7],
        }
    }

    /// Sets the stack (its top, 16-aligned) to which an IST entry switches. May be called again
    /// later: the CPU reads the TSS anew at each such entry.
    pub fn set_ist(&mut self, ist: Ist, top: u64) {
        self.tss.interrupt_stack_table[ist as usize] = VirtAddr::new(top);
    }

    /// Fills the GDT and loads GDT, TSS and IDT on this CPU. Does not touch the GS base.
    ///
    /// # Safety
    /// `this` must point to the tables of this CPU and of no other, writable and permanently in
    /// place. Interrupts must be off, and [`init_idt`] must have run.
    pub unsafe fn load(this: *mut Self) {
        // SAFETY: the caller's promise: valid, and this CPU's alone.
        let tables = unsafe { &mut *this };
        let bits = |descriptor| match descriptor {
            Descriptor::UserSegment(bits) | Descriptor::SystemSegment(bits, _) => bits,
        };
        // SAFETY: the TSS stays where it is (the caller's promise).
        let tss = unsafe { Descriptor::tss_segment_unchecked(addr_of!(tables.tss)) };
        let Descriptor::SystemSegment(tss_low, tss_high) = tss else {
            unreachable!()
        };
        tables.gdt = [
            0,
            bits(Descriptor::kernel_code_segment()),
            bits(Descriptor::kernel_data_segment()),
            bits(Descriptor::user_data_segment()),
            bits(Descriptor::user_code_segment()),
            tss_low,
            tss_high,
        ];
        let gdt = table_pointer(addr_of!(tables.gdt), size_of::<[u64; 7]>());
        // SAFETY: a GDT of valid descriptors that stays there.
        unsafe { lgdt(&gdt) };
        // SAFETY: entry 1 is a 64-bit ring 0 code segment.
        unsafe { CS::set_reg(KERNEL_CODE) };
        // SAFETY: entry 2 is a ring 0 data segment.
        unsafe { SS::set_reg(KERNEL_DATA) };
        // SAFETY: in 64-bit mode a null DS is as good as any.
        unsafe { DS::set_reg(SegmentSelector::NULL) };
        // SAFETY: the same for ES.
        unsafe { ES::set_reg(SegmentSelector::NULL) };
        // SAFETY: entries 5 and 6 are an available TSS that stays there.
        unsafe { load_tss(TASK_STATE) };
        let idt = table_pointer(IDT.0.get().cast_const(), size_of::<[Gate; 256]>());
        // SAFETY: the caller ran init_idt; the table is a static.
        unsafe { lidt(&idt) };
    }
}

impl Default for Descriptors {
    fn default() -> Self {
        Self::new()
    }
}

fn table_pointer<T>(table: *const T, size: usize) -> DescriptorTablePointer {
    DescriptorTablePointer {
        limit: (size - 1) as u16,
        base: VirtAddr::from_ptr(table),
    }
}

/// An interrupt gate of the IDT (SDM vol. 3, figure 6-8).
#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Gate {
    offset_low: u16,
    selector: u16,
    ist: u8,
    kind: u8,
    offset_middle: u16,
    offset_high: u32,
    reserved: u32,
}

impl Gate {
    const ABSENT: Self = Self {
        offset_low: 0,
        selector: 0,
        ist: 0,
        kind: 0,
        offset_middle: 0,
        offset_high: 0,
        reserved: 0,
    };

    /// A present interrupt gate (IF is cleared on entry) for ring 0.
    const fn new(handler: u64, ist: u8) -> Self {
        Self {
            offset_low: handler as u16,
            selector: KERNEL_CODE.0,
            ist,
            kind: 0x8e,
            offset_middle: (handler >> 16) as u16,
            offset_high: (handler >> 32) as u32,
            reserved: 0,
        }
    }

    /// The first half, which contains the lower 32 bits of the handler's address.
    const fn first_word(self) -> u64 {
        self.offset_low as u64
            | (self.selector as u64) << 16
            | (self.ist as u64) << 32
            | (self.kind as u64) << 40
            | (self.offset_middle as u64) << 48
    }
}

/// Written by [`init_idt`] on the boot CPU before any CPU loads it; constant since, except for
/// [`bind`].
static IDT: Idt = Idt(UnsafeCell::new([Gate::ABSENT; 256]));

struct Idt(UnsafeCell<[Gate; 256]>);

// SAFETY: written by init_idt only, which runs once before any CPU reads it.
unsafe impl Sync for Idt {}

/// Makes `vector` lead to `entry` from now on, on all CPUs. For a test image that handles an
/// interrupt in its own way; the product kernel never calls it.
///
/// # Safety
/// `entry` must be the code of an interrupt gate of this vector, in the kernel's image.
pub unsafe fn bind(vector: u8, entry: u64) {
    let idt = IDT.0.get().cast::<Gate>();
    // SAFETY: within the table, which has a gate for each vector.
    let gate = unsafe { idt.add(vector.into()) };
    // SAFETY: only the boot CPU writes it: in `init_idt`, and here.
    let old = unsafe { gate.read() };
    let new = Gate::new(entry, old.ist);
    // SAFETY: a gate is two aligned words. Two entries in the image differ only in the first, so a
    // CPU that takes the interrupt meanwhile finds one or the other.
    unsafe { gate.cast::<u64>().write_volatile(new.first_word()) };
}

/// Fills the IDT: every vector leads to its stub in `trap.rs`.
///
/// # Safety
/// Call once, on the boot CPU, before any [`Descriptors::load`].
pub unsafe fn init_idt() {
    // SAFETY: nobody else uses IDT yet (the caller's promise).
    let idt = unsafe { &mut *IDT.0.get() };
    for (number, gate) in idt.iter_mut().enumerate() {
        let ist = match number as u8 {
            vector::NMI => Ist::Nmi as u8 + 1,
            vector::DOUBLE_FAULT => Ist::DoubleFault as u8 + 1,
            vector::MACHINE_CHECK => Ist::MachineCheck as u8 + 1,
            _ => 0,
        };
        *gate = Gate::new(trap_stubs() + number as u64 * STUB_SIZE, ist);
    }
}
