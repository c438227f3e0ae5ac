//! The end: one CPU reports, the others are stopped.
//!
//! The first CPU to panic wins ([`globals::PANICKING`]) and sends every other
//! online CPU an NMI, which reaches it whatever it does and whatever its interrupt
//! flag says. Each leaves its registers in its block and halts. A CPU that panics
//! second leaves its registers and halts too. The winner prints the registers and
//! a backtrace of each CPU: raw addresses, which `cargo xtask` turns into
//! functions and lines, since the host has the symbols.
//!
//! Nothing here allocates or waits without a bound, and all that is read of
//! another CPU is what it left in atomics.

use core::fmt::Arguments;
use core::panic::PanicInfo;

use kcore::KASSERT;
use kcore::cpu::{CpuId, CpuSet};
use kcore::shim::Ordering;

use crate::arch::backtrace::{self, Snapshot};
use crate::arch::qemu::{self, Exit};
use crate::arch::{apic, cpu};
use crate::console::{self, Line};
use crate::{clock, globals, pcpu};

/// How long the other CPUs may take to stop, in nanoseconds.
const PATIENCE: u64 = 500_000_000;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let here = Snapshot::here();
    match info.location() {
        Some(location) => report(&here, Some(location), format_args!("{}", info.message())),
        None => report(&here, None, format_args!("{}", info.message())),
    }
}

/// Panics on behalf of interrupted code with the registers in `snapshot`.
pub fn at(snapshot: &Snapshot, message: Arguments<'_>) -> ! {
    report(snapshot, None, message)
}

fn report(
    snapshot: &Snapshot,
    location: Option<&core::panic::Location<'_>>,
    message: Arguments<'_>,
) -> ! {
    cpu::disable_interrupts();
    let me = pcpu::try_this().map_or(CpuId::BOOT, pcpu::Pcpu::id);
    let mark = me.index() as u32 + 1;
    // AcqRel: one CPU wins; the partner is the same exchange on another CPU.
    let first = globals::PANICKING.compare_exchange(0, mark, Ordering::AcqRel, Ordering::Acquire);
    match first {
        Ok(_) => {}
        Err(winner) if winner == mark => {
            // The report itself panicked: say so with the least machinery, and if that
            // panics too, say nothing.
            // Relaxed: this CPU only.
            if globals::PANICKED_TWICE.swap(true, Ordering::Relaxed) {
                qemu::exit(Exit::Panic);
            }
            print(format_args!("panic within the panic report: {message}"));
            qemu::exit(Exit::Panic);
        }
        Err(_) => stop_this_cpu(snapshot),
    }
    stop_others(me);
    log::error!(target: "kernel::panic", "the kernel panicked on {me}; all CPUs are stopped");
    match location {
        Some(location) => print(format_args!("panic on {me} at {location}: {message}")),
        None => print(format_args!("panic on {me}: {message}")),
    }
    print_cpu(me, "", snapshot);
    for other in &others(me) {
        match pcpu::of(other).and_then(|block| block.stopped.read()) {
            Some(snapshot) => print_cpu(other, "stopped by NMI: ", &snapshot),
            None => print(format_args!("{other}: did not answer the NMI")),
        }
    }
    let assertion = Line::of(message).finish().starts_with(KASSERT.as_bytes());
    #[cfg(feature = "ktest")]
    crate::ktest::panicked(location, message);
    qemu::exit(if assertion {
        Exit::Assertion
    } else {
        Exit::Panic
    })
}

fn print(text: Arguments<'_>) {
    console::write(Line::of(text).finish());
}

fn print_cpu(cpu: CpuId, how: &str, snapshot: &Snapshot) {
    let Snapshot {
        rip,
        rsp,
        rbp,
        rflags,
        cr2,
        cr3,
    } = snapshot;
    print(format_args!(
        "{cpu}: {how}rip {rip:#x} rsp {rsp:#x} rbp {rbp:#x} rflags {rflags:#x} \
         cr2 {cr2:#x} cr3 {cr3:#x}"
    ));
    print(format_args!("  #0 {rip:#x}"));
    let mut depth = 0;
    backtrace::walk(*rbp, |address| {
        depth += 1;
        print(format_args!("  #{depth} {address:#x}"));
    });
}

/// The online CPUs but `me`.
fn others(me: CpuId) -> CpuSet {
    globals::ONLINE.snapshot().difference(&CpuSet::single(me))
}

/// Sends the others an NMI and waits, not for ever, until they have stopped.
fn stop_others(me: CpuId) {
    let others = others(me);
    for block in others.iter().filter_map(pcpu::of) {
        apic::send_nmi(block.apic_id());
    }
    let stopped = |cpu| pcpu::of(cpu).is_some_and(|block| block.stopped.read().is_some());
    // What a CPU that did not stop means is said per CPU by the report.
    let _ = clock::wait_until(PATIENCE, || others.iter().all(stopped));
}

/// The CPU that panics, if one does: what an NMI means depends on it.
#[must_use]
pub fn winner() -> Option<CpuId> {
    // Acquire: pairs with the exchange in `report`.
    let mark = globals::PANICKING.load(Ordering::Acquire);
    CpuId::new((mark as usize).checked_sub(1)?)
}

/// Leaves `snapshot` for the report and halts this CPU for good.
pub fn stop_this_cpu(snapshot: &Snapshot) -> ! {
    if let Some(block) = pcpu::try_this() {
        block.stopped.record(snapshot);
    }
    cpu::halt_forever()
}
