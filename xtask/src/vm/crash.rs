//! Reads the exception chain behind a triple fault from QEMU's log.
//!
//! A triple fault under `-no-reboot` ends QEMU silently. The same machine then runs again with
//! `-d int,cpu_reset`, and the log's last exceptions tell what happened: each exception of the
//! chain was raised while the one before it was delivered, so all of them name the same
//! instruction.

use symbols::Symbols;

/// QEMU's arguments that make it log exceptions and resets to its standard error.
pub(crate) const LOG_ARGS: [&str; 2] = ["-d", "int,cpu_reset"];

/// A chain cannot be longer: the third failure in a row resets the CPU. One
/// more is kept for a fault whose handler failed at its first instruction.
const LONGEST: usize = 4;

/// One exception that QEMU delivered, or tried to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Exception {
    vector: u8,
    error: u64,
    ip: u64,
    sp: u64,
    cr2: Option<u64>,
}

/// The lines of a crash report: the chain in one line, then each exception
/// with where it was raised. Empty if the log shows no triple fault.
pub(crate) fn report(log: &str, symbols: &Symbols) -> Vec<String> {
    let chain = chain(log);
    if chain.is_empty() {
        return Vec::new();
    }
    let names = chain.iter().map(|e| format!("v={:02x} {}", e.vector, names(e.vector).0));
    let names = names.chain(["Triple fault".to_string()]).collect::<Vec<_>>();
    let mut lines = vec![names.join(" -> ")];
    for exception in &chain {
        let cr2 = exception.cr2.map_or(String::new(), |cr2| format!(" cr2 {cr2:#x}"));
        let function = symbols.line(exception.ip).map_or(String::new(), |at| format!(" {at}"));
        let Exception { error, sp, ip, .. } = exception;
        let (short, long) = self::names(exception.vector);
        let place = format!("error code {error:#x}{cr2}, rsp {sp:#x}, rip {ip:#x}{function}");
        lines.push(format!("  {short} {long}, {place}"));
    }
    lines
}

/// The exceptions that led to the log's last triple fault, the first one first.
fn chain(log: &str) -> Vec<Exception> {
    let Some((before, _)) = log.rsplit_once("Triple fault") else {
        return Vec::new();
    };
    let mut chain: Vec<Exception> = Vec::new();
    for exception in before.lines().rev().filter_map(parse) {
        let related =
            chain.last().is_none_or(|last| (last.ip, last.sp) == (exception.ip, exception.sp));
        // Other CPUs write into the same log: skip their lines.
        if related {
            chain.push(exception);
        }
        if chain.len() == LONGEST || (!related && chain.len() > 1) {
            break;
        }
    }
    chain.reverse();
    chain
}

/// An exception, from a line such as
/// `  1: v=0e e=0002 i=0 cpl=0 IP=0008:ffffffff80201234 pc=... SP=0010:... CR2=...`.
/// Interrupts and system calls are not exceptions.
fn parse(line: &str) -> Option<Exception> {
    let field = |name: &str| line.split_whitespace().find_map(|word| word.strip_prefix(name));
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let far = |name: &str| hex(field(name)?.split_once(':')?.1);
    let vector = u8::try_from(hex(field("v=")?)?).ok().filter(|vector| *vector < 32)?;
    field("i=").filter(|software| *software == "0")?;
    Some(Exception {
        vector,
        error: hex(field("e=")?)?,
        ip: far("IP=")?,
        sp: far("SP=")?,
        cr2: field("CR2=").and_then(hex),
    })
}

/// The exceptions, with mnemonic and name (Intel SDM volume 3, table 6-1).
#[rustfmt::skip]
const EXCEPTIONS: [(u8, &str, &str); 19] = [
    (0, "#DE", "divide error"), (1, "#DB", "debug"), (2, "NMI", "non-maskable interrupt"),
    (3, "#BP", "breakpoint"), (4, "#OF", "overflow"), (5, "#BR", "bound range"),
    (6, "#UD", "invalid opcode"), (7, "#NM", "device not available"), (8, "#DF", "double fault"),
    (10, "#TS", "invalid TSS"), (11, "#NP", "segment not present"), (12, "#SS", "stack fault"),
    (13, "#GP", "general protection"), (14, "#PF", "page fault"), (16, "#MF", "x87 error"),
    (17, "#AC", "alignment check"), (18, "#MC", "machine check"), (19, "#XM", "SIMD error"),
    (21, "#CP", "control protection"),
];

fn names(vector: u8) -> (&'static str, &'static str) {
    let known = EXCEPTIONS.iter().find(|(known, ..)| *known == vector);
    known.map_or(("#??", "reserved exception"), |(_, short, long)| (*short, *long))
}

#[cfg(test)]
mod tests;
