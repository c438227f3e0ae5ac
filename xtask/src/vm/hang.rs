//! Asks QEMU what every CPU of a hung guest is doing.

use serde_json::json;

use crate::error::{Ours, Result};
use crate::vm::qmp::Qmp;
use symbols::Symbols;

/// Where each CPU is, one line each: `cpu0: rip 0x... FUNCTION at FILE:LINE`.
pub(crate) fn report(qmp: &mut Qmp, symbols: &Symbols) -> Vec<String> {
    asked(qmp, symbols).unwrap_or_else(|why| vec![why.one_line()])
}

fn asked(qmp: &mut Qmp, symbols: &Symbols) -> Result<Vec<String>> {
    let cpus = qmp.execute("query-cpus-fast", &json!({}))?;
    let count = cpus.as_array().map_or(0, Vec::len);
    let cpus = parse(&qmp.human("info registers -a")?);
    let line = |cpu: &Cpu| {
        let halted = if cpu.halted { " (halted)" } else { "" };
        let Some(ip) = cpu.ip else {
            return format!("cpu{}: its rip is unknown{halted}", cpu.number);
        };
        let at = symbols.line(ip).map_or(String::new(), |at| format!(" {at}"));
        format!("cpu{}: rip {ip:#x}{halted}{at}", cpu.number)
    };
    let mut lines: Vec<String> = cpus.iter().map(line).collect();
    if lines.len() != count {
        lines.push(format!("QEMU names {count} CPUs and shows the registers of {}", lines.len()));
    }
    Ok(lines)
}

#[derive(Debug, PartialEq, Eq)]
struct Cpu {
    number: String,
    ip: Option<u64>,
    halted: bool,
}

/// The CPUs, from the output of `info registers -a`: a blank line, `CPU#N`, registers.
fn parse(registers: &str) -> Vec<Cpu> {
    let mut cpus: Vec<Cpu> = Vec::new();
    for word in registers.split_whitespace() {
        if let Some(number) = word.strip_prefix("CPU#") {
            cpus.push(Cpu { number: number.to_string(), ip: None, halted: false });
        }
        let Some(cpu) = cpus.last_mut() else { continue };
        if let Some(ip) = word.strip_prefix("RIP=").or_else(|| word.strip_prefix("EIP=")) {
            cpu.ip = u64::from_str_radix(ip, 16).ok();
        }
        if word == "HLT=1" {
            cpu.halted = true;
        }
    }
    cpus
}

#[cfg(test)]
mod tests;
