//! Asks QEMU what every CPU of a hung guest is doing.

use serde_json::json;

use crate::error::{Ours, Result};
use crate::vm::qmp::Qmp;
use crate::vm::registers::{self, Cpu};
use symbols::Symbols;

/// Where each CPU is, one line each: `cpu0: rip 0x... FUNCTION at FILE:LINE`.
pub(crate) fn report(qmp: &mut Qmp, symbols: &Symbols) -> Vec<String> {
    asked(qmp, symbols).unwrap_or_else(|why| vec![why.one_line()])
}

fn asked(qmp: &mut Qmp, symbols: &Symbols) -> Result<Vec<String>> {
    let cpus = qmp.execute("query-cpus-fast", &json!({}))?;
    let count = cpus.as_array().map_or(0, Vec::len);
    let cpus = registers::read(qmp)?;
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
