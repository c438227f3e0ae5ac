//! `cargo xtask bench --explain ROW`: shows where the instructions of one operation go, by CPU,
//! function and source line.

use std::collections::{BTreeMap, HashMap};

use symbols::Symbols;

use crate::Measured;
use crate::trace::{Count, Sample};

/// What the lines of one function cost.
#[derive(Default)]
struct Function {
    total: Count,
    lines: BTreeMap<String, Count>,
}

/// Prints where the instructions of `row` go.
pub(crate) fn print(row: &Measured, sample: &Sample, symbols: &Symbols) {
    let each = |count: u64| count as f64 / row.operations as f64;
    let total = sample.total();
    println!(
        "{}: {:.1} instructions of all CPUs for one operation, its loop included;\n\
         {:.1} on the critical path, {:.1} locked, {:.1} moves of a cache line",
        row.name,
        each(total.executed),
        each(sample.path),
        each(total.locked),
        each(total.moves)
    );
    for (cpus, counts) in alike(sample, row.operations) {
        let functions = by_function(counts, symbols);
        let total = sum(counts.values());
        println!(
            "\n{cpus}: {:.1} instructions, {:.1} locked, {:.1} moves",
            each(total.executed),
            each(total.locked),
            each(total.moves)
        );
        let mut functions: Vec<_> = functions.into_iter().collect();
        functions.sort_by(|(a, x), (b, y)| (y.total.executed, a).cmp(&(x.total.executed, b)));
        // Something that happens once a sample rounds to nothing.
        let counts = |count: &Count| each(count.executed) >= 0.05;
        functions.retain(|(_, function)| counts(&function.total));
        for (name, function) in functions {
            println!("{}  {name}", figures(function.total, each));
            for (place, count) in function.lines.into_iter().filter(|(_, c)| counts(c)) {
                println!("{}      {place}", figures(count, each));
            }
        }
    }
}

/// Three columns; zeros are left blank.
fn figures(count: Count, each: impl Fn(u64) -> f64) -> String {
    let column = |width, count, unit: &str| match count {
        0 => " ".repeat(width),
        _ => format!("{:>1$.1}{unit}", each(count), width - unit.len()),
    };
    format!(
        "{}{}{}",
        column(9, count.executed, ""),
        column(9, count.locked, " lock"),
        column(11, count.moves, " moves")
    )
}

fn sum<'c>(counts: impl Iterator<Item = &'c Count>) -> Count {
    counts.fold(Count::default(), |mut sum, count| {
        sum += *count;
        sum
    })
}

/// Groups CPUs that did the same, up to half an instruction at each address.
fn alike(sample: &Sample, operations: u64) -> Vec<(String, &HashMap<u64, Count>)> {
    let shape = |counts: &HashMap<u64, Count>| -> BTreeMap<u64, u64> {
        let rounded = |count: &Count| (count.executed + operations / 2) / operations;
        let counts = counts
            .iter()
            .map(|(address, count)| (*address, rounded(count)));
        counts.filter(|(_, count)| *count > 0).collect()
    };
    let mut groups: Vec<(BTreeMap<u64, u64>, Vec<usize>)> = Vec::new();
    for (cpu, counts) in sample.cpus.iter().enumerate() {
        let shape = shape(counts);
        match groups.iter_mut().find(|(other, _)| *other == shape) {
            Some((_, cpus)) => cpus.push(cpu),
            None => groups.push((shape, vec![cpu])),
        }
    }
    let named = |(_, cpus): (_, Vec<usize>)| {
        let names: Vec<_> = cpus.iter().map(|cpu| format!("cpu{cpu}")).collect();
        let each = if cpus.len() > 1 { ", each" } else { "" };
        (format!("{}{each}", names.join(", ")), &sample.cpus[cpus[0]])
    };
    groups.into_iter().map(named).collect()
}

/// The innermost function of this tree at each address, and its line: code inlined into it from the
/// library counts as its own.
fn by_function(counts: &HashMap<u64, Count>, symbols: &Symbols) -> BTreeMap<String, Function> {
    let mut functions: BTreeMap<String, Function> = BTreeMap::new();
    for (address, count) in counts {
        let frames = symbols.frames(*address);
        let ours = |frame: &&String| {
            [" at kernel/", " at boot/", " at bench/"]
                .iter()
                .any(|place| frame.contains(place))
        };
        let frame = frames.iter().find(ours).or(frames.first()).cloned();
        let frame = frame.unwrap_or_else(|| format!("{address:#x}"));
        let (name, place) = frame.rsplit_once(" at ").unwrap_or((&frame, ""));
        let function = functions.entry(name.to_string()).or_default();
        function.total += *count;
        if !place.is_empty() {
            *function.lines.entry(place.to_string()).or_default() += *count;
        }
    }
    functions
}

#[cfg(test)]
mod tests;
