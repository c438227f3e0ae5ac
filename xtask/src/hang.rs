//! What every CPU of a hung guest is doing, asked of QEMU.

use serde_json::{Value, json};

use crate::qmp::Qmp;
use crate::symbols::Symbols;

/// Where each CPU stands, one line each: `cpu0: rip 0x... FUNCTION at FILE:LINE`.
pub(crate) fn report(qmp: &mut Qmp, symbols: &Symbols) -> Vec<String> {
    let cpus = qmp.execute("query-cpus-fast", &json!({}));
    let count = cpus.as_ref().and_then(Value::as_array).map_or(0, Vec::len);
    let Some(registers) = qmp.human("info registers -a") else {
        return vec!["QEMU's monitor does not answer".to_string()];
    };
    let mut lines: Vec<String> = parse(&registers)
        .into_iter()
        .map(|cpu| {
            let function = symbols
                .line(cpu.ip)
                .map_or(String::new(), |at| format!(" {at}"));
            let halted = if cpu.halted { " (halted)" } else { "" };
            format!("cpu{}: rip {:#x}{halted}{function}", cpu.number, cpu.ip)
        })
        .collect();
    if lines.len() != count {
        lines.push(format!(
            "QEMU names {count} CPUs and shows the registers of {}",
            lines.len()
        ));
    }
    lines
}

#[derive(Debug, PartialEq, Eq)]
struct Cpu {
    number: u32,
    ip: u64,
    halted: bool,
}

/// The CPUs out of what `info registers -a` prints: a blank line, `CPU#N`, registers.
fn parse(registers: &str) -> Vec<Cpu> {
    let mut cpus: Vec<Cpu> = Vec::new();
    for word in registers.split_whitespace() {
        if let Some(number) = word.strip_prefix("CPU#") {
            cpus.push(Cpu {
                number: number.parse().unwrap_or(0),
                ip: 0,
                halted: false,
            });
        }
        let Some(cpu) = cpus.last_mut() else { continue };
        if let Some(ip) = word
            .strip_prefix("RIP=")
            .or_else(|| word.strip_prefix("EIP="))
        {
            cpu.ip = u64::from_str_radix(ip, 16).unwrap_or(0);
        }
        if word == "HLT=1" {
            cpu.halted = true;
        }
    }
    cpus
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_read_cpu_by_cpu() {
        let text = "\r\nCPU#0\r\nRAX=1 RBX=2\r\nRIP=ffffffff80201234 RFL=00000246 [---Z-P-] CPL=0 \
                    II=0 A20=1 SMM=0 HLT=0\r\n\r\nCPU#1\r\nEIP=000fd0a5 EFL=2 HLT=1\r\n";
        let expected = [
            Cpu {
                number: 0,
                ip: 0xffff_ffff_8020_1234,
                halted: false,
            },
            Cpu {
                number: 1,
                ip: 0xfd0a5,
                halted: true,
            },
        ];
        assert_eq!(parse(text), expected);
    }
}
