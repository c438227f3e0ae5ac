//! The registers of each CPU, as QEMU's monitor prints them.

use crate::error::Result;
use crate::vm::qmp::Qmp;

/// One CPU.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Cpu {
    /// QEMU's number for it.
    pub(crate) number: String,
    /// The instruction pointer; `None` if QEMU shows none.
    pub(crate) ip: Option<u64>,
    /// The frame pointer.
    pub(crate) rbp: u64,
    /// The root of the page tables.
    pub(crate) cr3: u64,
    /// Whether it has executed HLT and waits for an interrupt.
    pub(crate) halted: bool,
}

/// The CPUs of the machine.
///
/// # Errors
/// If QEMU does not answer.
pub(crate) fn read(qmp: &mut Qmp) -> Result<Vec<Cpu>> {
    qmp.human("info registers -a").map(|text| parse(&text))
}

/// The CPUs, from the output of `info registers -a`: a blank line, `CPU#N`, registers.
fn parse(registers: &str) -> Vec<Cpu> {
    let mut cpus: Vec<Cpu> = Vec::new();
    for word in registers.split_whitespace() {
        if let Some(number) = word.strip_prefix("CPU#") {
            cpus.push(Cpu { number: number.to_string(), ..Cpu::default() });
        }
        let (Some(cpu), Some((name, value))) = (cpus.last_mut(), word.split_once('=')) else {
            continue;
        };
        let value = u64::from_str_radix(value, 16).ok();
        match name {
            "RIP" | "EIP" => cpu.ip = value,
            "RBP" => cpu.rbp = value.unwrap_or(0),
            "CR3" => cpu.cr3 = value.unwrap_or(0),
            "HLT" => cpu.halted = value == Some(1),
            _ => {}
        }
    }
    cpus
}

#[cfg(test)]
mod tests;
