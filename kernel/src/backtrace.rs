//! Where unresponsive CPUs are. This asks by NMI, which reaches a CPU whatever it does.

use heart::cpu::{CpuId, CpuSet};
use heart::critical::CritWord;

use crate::arch::backtrace::Snapshot;
use crate::pcpu::{self, Pcpu};
use crate::{clock, thread};

/// How long a CPU may take to answer an NMI, in nanoseconds.
const PATIENCE: u64 = 500_000_000;

/// Asks each CPU of `cpus` by NMI where it is, and prints the answers: thread, registers, what its
/// local APIC has in service and requested, and the call chain. This CPU is not among them. All are
/// asked at once, so many silent CPUs take no longer than one. Any context but NMI that may write
/// to the console; spins.
pub fn backtraces(cpus: &CpuSet) {
    let ask = |cpu: &CpuId| pcpu::of(*cpu).is_some_and(|block| block.trace.ask());
    let asked: CpuSet = cpus.iter().filter(ask).collect();
    let blocks = || asked.iter().filter_map(pcpu::of);
    blocks().for_each(Pcpu::send_nmi);
    let answered = || blocks().all(|block| block.trace.has_answer());
    // CPUs that have not answered by then are reported below.
    let _all = clock::wait_until(PATIENCE, answered);
    for cpu in cpus {
        match pcpu::of(cpu) {
            None => log::error!("{cpu}: has never been started"),
            Some(_) if !asked.contains(cpu) => {
                log::error!("{cpu}: another CPU asks where it is");
            }
            Some(block) if !block.trace.has_answer() && block.trace.withdraw() => {
                log::error!(
                    "{cpu}: does not answer an NMI within {} ms",
                    PATIENCE / 1_000_000
                );
            }
            Some(block) => print(block),
        }
    }
}

/// Prints the answer of the CPU of `block`.
fn print(block: &Pcpu) {
    let cpu = block.id();
    if let Some(registers) = block.trace.registers() {
        print_state(cpu, &registers, block.trace.thread());
    }
    let line = |depth, address| log::error!("  #{depth} {address:#x}");
    block.trace.take(line);
}

/// Prints what `cpu` was doing when the NMI came, and in which thread.
fn print_state(cpu: CpuId, registers: &Snapshot, thread: Option<(u32, CritWord)>) {
    let enabled = registers.interrupts_enabled();
    let (rip, on) = (registers.rip, if enabled { "on" } else { "off" });
    match thread {
        Some((number, crit)) => log::error!(
            "{cpu}: interrupted by NMI, {}: rip {rip:#x}, interrupts {on}, {crit}",
            thread::at(number)
        ),
        None => log::error!("{cpu}: interrupted by NMI, no thread: rip {rip:#x}, interrupts {on}"),
    }
    if let Some(pending) = registers.pending {
        log::error!("{cpu}: {pending}");
        if enabled && pending.has_in_service() {
            log::error!("{cpu}: deaf: interrupts are on, and what is in service keeps them out");
        }
    }
}
