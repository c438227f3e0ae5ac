//! Trace points: places that can be made to write a record ([`plat::trace`]), and cost nothing
//! until they are.
//!
//! A trace point is an instruction that is there anyway (the addition that enters a section, the
//! store that releases a spinlock), of at least five bytes, with a second version of itself out of
//! line: that one also writes the record. A table, the section `.trace_sites`, has the addresses of
//! both. If the command line asks for the event's group, the boot puts a jump to the second version
//! in the place of the first (`kernel::trace`). Otherwise the kernel runs the instructions that it
//! would run without trace points. (Linux moves instructions aside like this for its optimised
//! kprobes, and has no-operations in such places for its static keys.) Where there is no such
//! instruction, [`event`] makes a no-operation: one instruction.
//!
//! A record goes into the ring of the CPU. One unlocked XADD reserves its place, so interrupts and
//! NMIs that also write records get places of their own. A trace point must be in a critical
//! section, or have interrupts off: the thread must not move to another CPU between two
//! instructions of it.
//!
//! On a host there is no ring, and the functions do only what they do besides.

use plat::trace::CAPACITY;

pub use plat::trace::{Event, RECORD};

use super::{AtomicPtr, AtomicU8, AtomicU64, LocalU32, Ordering};

/// Where in its per-CPU block a CPU finds the number of bytes that it has written into its ring, and
/// after that the ring's address.
pub const HEAD_AT: usize = 24;
/// The length of a ring in bytes, less one: a mask, since the length is a power of two.
pub const MASK: usize = CAPACITY * RECORD - 1;

/// The text of a trace point: the instruction `$insn`, and `$then`, which comes after it in any case.
/// `$pre` and `$post` are what the version out of line executes before and after the record, and one
/// of them has `$insn`; a jump to label 774 skips the record. `$push` pushes the event's arguments,
/// the last one first, and `$pop` stores them: RCX is the record then. Until then no register has
/// changed. `$event` is the event's number.
#[macro_export]
macro_rules! trace_text {
    ($insn:literal, $then:literal, $pre:literal, $post:literal, $push:literal, $pop:literal,
     $event:literal) => {
        concat!(
            "771: ",
            $insn,
            "\n",
            "772: ",
            $then,
            "
            .pushsection .trace.text, \"ax\", @progbits
            773: ",
            $pre,
            "
            push rcx
            push rax
            push rdx
            ",
            $push,
            "
            mov ecx, {trace_record}
            xadd qword ptr gs:[{trace_head}], rcx
            and ecx, {trace_mask}
            add rcx, qword ptr gs:[{trace_head} + 8]
            mov rax, qword ptr gs:[8]
            mov rax, qword ptr [rax]
            mov qword ptr [rcx + 24], rax
            ",
            $pop,
            "
            rdtsc
            mov dword ptr [rcx], eax
            mov dword ptr [rcx + 4], edx
            mov word ptr [rcx + 30], ",
            $event,
            "
            pop rdx
            pop rax
            pop rcx
            774: ",
            $post,
            "
            jmp 772b
            .popsection
            .pushsection .trace_sites, \"a\", @progbits
            .quad 771b, 773b
            .long ",
            $event,
            ", 772b - 771b
            .popsection"
        )
    };
}

/// An instruction as a trace point of `$event`: see [`trace_text`] for the other arguments.
///
/// # Safety
/// As for `asm!` with `$insn` and `$then`. They may not use the stack, nor a place relative to RIP.
/// The caller is in a section or has interrupts off, and has a current thread. The version out of
/// line restores every register but the flags, and writes only to the ring. Its pushes overwrite
/// nothing, since the kernel's target has no red zone; hence `nostack`.
#[macro_export]
macro_rules! trace_point {
    ($event:expr, $insn:literal, $then:literal, $pre:literal, $post:literal,
     [$push:literal, $pop:literal], $($operand:tt)*) => {
        core::arch::asm!(
            $crate::trace_text!($insn, $then, $pre, $post, $push, $pop, "{trace_event}"),
            $($operand)*
            trace_record = const $crate::shim::trace::RECORD,
            trace_head = const $crate::shim::trace::HEAD_AT,
            trace_mask = const $crate::shim::trace::MASK,
            trace_event = const $event,
            options(nostack)
        )
    };
}

/// A trace point of its own: a no-operation while `E`, an [`Event`], is not traced. The caller is in a
/// section or has interrupts off; otherwise the record may mix two CPUs.
#[inline(always)]
pub fn event<const E: u16>(first: u64, second: u64) {
    const { assert!(Event::from_number(E).is_some(), "no such event") };
    #[cfg(target_os = "none")]
    // SAFETY: one no-operation, which uses neither the stack nor a place relative to RIP. The version
    // out of line restores every register but the flags; the kernel's targets have no red zone, so
    // its pushes overwrite nothing. It writes only to a ring, which only trace points write; all rings
    // have one length, so a thread that changed CPUs in the middle would still hit a record of one.
    // It is in use only after the CPU has a ring and a thread (`kernel::trace`).
    unsafe {
        trace_point!(E, "{{disp8}} nop dword ptr [rax + rax]", "", "", "",
            ["push {second}\n push {first}", "pop qword ptr [rcx + 8]\n pop qword ptr [rcx + 16]"],
            first = in(reg) first, second = in(reg) second,);
    }
    #[cfg(not(target_os = "none"))]
    let _ = (first, second);
}

/// As [`event`], for an event with one argument.
#[inline(always)]
pub fn event_of<const E: u16>(first: u64) {
    #[cfg(target_os = "none")]
    // SAFETY: as in `event`.
    unsafe {
        trace_point!(E, "{{disp8}} nop dword ptr [rax + rax]", "", "", "",
            ["push {first}", "pop qword ptr [rcx + 8]"], first = in(reg) first,);
    }
    #[cfg(not(target_os = "none"))]
    let _ = first;
}

/// As [`event`], for an event without arguments.
#[inline(always)]
pub fn event_alone<const E: u16>() {
    #[cfg(target_os = "none")]
    // SAFETY: as in `event`.
    unsafe {
        trace_point!(
            E,
            "{{disp8}} nop dword ptr [rax + rax]",
            "",
            "",
            "",
            ["", ""],
        );
    }
}

/// Changes of a word that are also trace points. Each is the same instruction as the function of
/// [`LocalU32`] that its name begins with.
pub trait TracedWord {
    /// As [`LocalU32::add`]: the event `E` with the instruction's address, if none of the bits `NOT` is
    /// set afterwards.
    fn add_traced<const N: u32, const E: u16, const NOT: u32>(&self);

    /// As [`LocalU32::sub`]: the event `E` with the instruction's address.
    fn sub_traced<const N: u32, const E: u16>(&self);

    /// As [`LocalU32::sub_and_test`]: the event `E` with the instruction's address, if none of the bits
    /// `NOT` is set before.
    fn sub_and_test_traced<const N: u32, const E: u16, const NOT: u32>(&self) -> bool;

    /// As [`LocalU32::set`]: the event `E`, if a bit of `N` is not set before.
    fn set_traced<const N: u32, const E: u16>(&self);

    /// As [`LocalU32::clear`]: the event `E`.
    fn clear_traced<const N: u32, const E: u16>(&self);
}

#[cfg(target_os = "none")]
impl TracedWord for LocalU32 {
    #[inline(always)]
    fn add_traced<const N: u32, const E: u16, const NOT: u32>(&self) {
        // SAFETY: as in `add`, and in `trace_point`.
        unsafe {
            trace_point!(E, "{{disp32}} add dword ptr [{word}], {n}", "",
                "add dword ptr [{word}], {n}
                 .if {not}
                 test dword ptr [{word}], {not}
                 jnz 772b
                 .endif", "", ["", "lea rax, [rip + 771b]\n mov qword ptr [rcx + 8], rax"],
                word = in(reg) self.0.as_ptr(), n = const N, not = const NOT,);
        }
    }

    #[inline(always)]
    fn sub_traced<const N: u32, const E: u16>(&self) {
        // SAFETY: as in `sub`, and in `trace_point`.
        unsafe {
            trace_point!(E, "{{disp32}} sub dword ptr [{word}], {n}", "",
                "", "sub dword ptr [{word}], {n}",
                ["", "lea rax, [rip + 771b]\n mov qword ptr [rcx + 8], rax"],
                word = in(reg) self.0.as_ptr(), n = const N,);
        }
    }

    #[inline(always)]
    fn sub_and_test_traced<const N: u32, const E: u16, const NOT: u32>(&self) -> bool {
        // SAFETY: as in `sub_and_test`, and in `trace_point`.
        unsafe {
            trace_point!(E, "{{disp32}} sub dword ptr [{word}], {n}", "jbe {low}",
                ".if {not}
                 test dword ptr [{word}], {not}
                 jnz 774f
                 .endif", "sub dword ptr [{word}], {n}",
                ["", "lea rax, [rip + 771b]\n mov qword ptr [rcx + 8], rax"],
                word = in(reg) self.0.as_ptr(), n = const N, not = const NOT,
                low = label { return true },);
        }
        false
    }

    #[inline(always)]
    fn set_traced<const N: u32, const E: u16>(&self) {
        // SAFETY: as in `set`, and in `trace_point`.
        unsafe {
            trace_point!(E, "{{disp32}} or dword ptr [{word}], {n}", "",
                "test dword ptr [{word}], {n}
                 jnz 774f", "or dword ptr [{word}], {n}", ["", ""],
                word = in(reg) self.0.as_ptr(), n = const N,);
        }
    }

    #[inline(always)]
    fn clear_traced<const N: u32, const E: u16>(&self) {
        // SAFETY: as in `clear`, and in `trace_point`.
        unsafe {
            trace_point!(E, "{{disp32}} and dword ptr [{word}], {n}", "",
                "and dword ptr [{word}], {n}", "", ["", ""],
                word = in(reg) self.0.as_ptr(), n = const !N,);
        }
    }
}

#[cfg(not(target_os = "none"))]
impl TracedWord for LocalU32 {
    #[inline(always)]
    fn add_traced<const N: u32, const E: u16, const NOT: u32>(&self) {
        self.add::<N>();
    }

    #[inline(always)]
    fn sub_traced<const N: u32, const E: u16>(&self) {
        self.sub::<N>();
    }

    #[inline(always)]
    fn sub_and_test_traced<const N: u32, const E: u16, const NOT: u32>(&self) -> bool {
        self.sub_and_test::<N>()
    }

    #[inline(always)]
    fn set_traced<const N: u32, const E: u16>(&self) {
        self.set::<N>();
    }

    #[inline(always)]
    fn clear_traced<const N: u32, const E: u16>(&self) {
        self.clear::<N>();
    }
}

/// Stores that are also trace points. The event `E` has the value as its first argument,
/// and the address of `of` as its second.
pub trait Traced {
    /// What is stored.
    type Value;

    /// Stores `value` in this field of `of`, which is `AT` bytes from its start: so the instruction
    /// needs no register for the field's own address.
    ///
    /// # Panics
    /// Panics if this is another place. The compiler sees where it is, and leaves the check out.
    fn store_traced<const E: u16, const AT: usize, S>(
        &self,
        value: Self::Value,
        of: &S,
        order: Ordering,
    );
}

/// Adds one to a counter that only this CPU writes, with interrupts off: the field of `of` that is
/// `AT` bytes from its start. The event `E` has `argument`.
///
/// # Panics
/// As [`Traced::store_traced`].
#[inline(always)]
pub fn count_traced<const E: u16, const AT: usize, S>(counter: &AtomicU64, of: &S, argument: u32) {
    is_at::<AT, _, _>(counter, of);
    #[cfg(target_os = "none")]
    // SAFETY: one addition to this live atomic, which no other CPU writes; the rest as in
    // `trace_point`.
    unsafe {
        trace_point!(E, "{{disp32}} inc qword ptr [{of} + {at}]", "",
            "inc qword ptr [{of} + {at}]", "", ["push {argument:r}", "pop qword ptr [rcx + 8]"],
            of = in(reg) core::ptr::from_ref(of), at = const AT, argument = in(reg) argument,);
    }
    #[cfg(not(target_os = "none"))]
    {
        let _ = (of, argument);
        // Relaxed: a statistic, which only this CPU writes.
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

/// Checks that `field` is `AT` bytes from the start of `of`.
#[inline(always)]
fn is_at<const AT: usize, F, S>(field: &F, of: &S) {
    let expected = core::ptr::from_ref(of).cast::<u8>().wrapping_add(AT);
    assert!(
        core::ptr::eq(expected, core::ptr::from_ref(field).cast()),
        "another field of it"
    );
}

/// Checks the same, and that a plain store is enough for `order`.
#[inline(always)]
fn may_store<const AT: usize, F, S>(field: &F, of: &S, order: Ordering) {
    is_at::<AT, _, _>(field, of);
    assert!(
        order != Ordering::SeqCst,
        "a plain store is no more than a Release"
    );
}

impl Traced for AtomicU8 {
    type Value = u8;

    #[inline(always)]
    fn store_traced<const E: u16, const AT: usize, S>(&self, value: u8, of: &S, order: Ordering) {
        may_store::<AT, _, _>(self, of, order);
        #[cfg(target_os = "none")]
        // SAFETY: one store to this live atomic, which on x86 is a Release; the rest as in
        // `trace_point`.
        unsafe {
            trace_point!(E, "{{disp32}} mov byte ptr [{of} + {at}], {value}", "",
                "mov byte ptr [{of} + {at}], {value}", "",
                ["push {of}\n movzx eax, {value}\n push rax",
                 "pop qword ptr [rcx + 8]\n pop qword ptr [rcx + 16]"],
                of = in(reg) core::ptr::from_ref(of), at = const AT,
                value = in(reg_byte) value,);
        }
        #[cfg(not(target_os = "none"))]
        {
            let _ = of;
            self.store(value, order);
        }
    }
}

/// Stores null, as [`Traced::store_traced`] does, but the event `E` has only the address of `of`.
#[inline(always)]
pub fn clear_traced<const E: u16, const AT: usize, S, T>(
    field: &AtomicPtr<T>,
    of: &S,
    order: Ordering,
) {
    may_store::<AT, _, _>(field, of, order);
    #[cfg(target_os = "none")]
    // SAFETY: as in `store_traced`.
    unsafe {
        trace_point!(E, "{{disp32}} mov qword ptr [{of} + {at}], 0", "",
            "mov qword ptr [{of} + {at}], 0", "",
            ["push {of}", "pop qword ptr [rcx + 8]"],
            of = in(reg) core::ptr::from_ref(of), at = const AT,);
    }
    #[cfg(not(target_os = "none"))]
    {
        let _ = of;
        field.store(core::ptr::null_mut(), order);
    }
}

impl<T> Traced for AtomicPtr<T> {
    type Value = *mut T;

    #[inline(always)]
    fn store_traced<const E: u16, const AT: usize, S>(
        &self,
        value: *mut T,
        of: &S,
        order: Ordering,
    ) {
        may_store::<AT, _, _>(self, of, order);
        #[cfg(target_os = "none")]
        // SAFETY: one store to this live atomic, which on x86 is a Release; the rest as in
        // `trace_point`.
        unsafe {
            trace_point!(E, "{{disp32}} mov qword ptr [{of} + {at}], {value}", "",
                "mov qword ptr [{of} + {at}], {value}", "",
                ["push {of}\n push {value}",
                 "pop qword ptr [rcx + 8]\n pop qword ptr [rcx + 16]"],
                of = in(reg) core::ptr::from_ref(of), at = const AT, value = in(reg) value,);
        }
        #[cfg(not(target_os = "none"))]
        {
            let _ = of;
            self.store(value, order);
        }
    }
}
