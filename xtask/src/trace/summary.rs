//! A trace in a table, for a terminal.

use std::fmt::Write as _;

use plat::trace::RECORD;

use super::Trace;
use super::tally::Tally;

/// The table: a line for each CPU, and a line about the whole.
pub(crate) fn text(trace: &Trace) -> String {
    let times = || trace.cpus.iter().flat_map(|cpu| cpu.records.iter().map(|record| record.time));
    let end = times().max().unwrap_or(trace.entry);
    let mut text = String::new();
    let mut line = |cells: [&str; 8]| {
        let [cpu, records, lost, switches, interrupts, ipis, longest, of] = cells;
        let line = format!(
            "{cpu:<6} {records:>8} {lost:>8} {switches:>9} {interrupts:>11} {ipis:>10} {longest:>12}  {of}"
        );
        let _ = writeln!(text, "{}", line.trim_end());
    };
    line([
        "CPU", "records", "lost", "switches", "interrupts", "IPIs sent", "longest", "section of",
    ]);
    let (mut written, mut dropped) = (0, 0);
    for (number, cpu) in trace.cpus.iter().enumerate() {
        let mut tally = Tally::default();
        cpu.records.iter().for_each(|record| tally.take(record));
        written += tally.records + cpu.lost + cpu.dropped;
        dropped += cpu.dropped;
        let (longest, of) = match tally.longest {
            None => ("-".to_string(), String::new()),
            Some((ticks, thread)) => (micros(trace.nanos(ticks)), trace.thread_name(thread)),
        };
        let counts = [tally.records, cpu.lost, tally.switches, tally.interrupts, tally.ipis];
        let [records, lost, switches, interrupts, ipis] = counts.map(|count| count.to_string());
        let name = format!("cpu{number}");
        line([&name, &records, &lost, &switches, &interrupts, &ipis, &longest, &of]);
    }
    let seconds = trace.nanos(end.saturating_sub(trace.entry)) as f64 / 1e9;
    let mib = (written * RECORD as u64) as f64 / f64::from(1 << 20);
    let rate = mib / seconds.max(1e-9);
    let _ = write!(
        text,
        "{written} records of {} in {seconds:.3} s of the guest, {rate:.1} MiB/s",
        trace.groups
    );
    if dropped > 0 {
        let _ = write!(text, "; {dropped} incomplete or unknown");
    }
    if trace.cpus.iter().any(|cpu| cpu.lost > 0) {
        let _ = write!(
            text,
            "\na ring keeps the last {} records; fewer --groups reach further back",
            plat::trace::CAPACITY
        );
    }
    text
}

/// A time for a person.
pub(crate) fn micros(nanos: u64) -> String {
    match nanos {
        ..1_000_000 => format!("{:.2} us", nanos as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} ms", nanos as f64 / 1e6),
        _ => format!("{:.2} s", nanos as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests;
