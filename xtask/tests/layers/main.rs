//! The layering rule: a file uses its own layer and lower ones.
//!
//! Three rules of the same kind go with it: instructions are written in
//! `kernel/src/arch` and `boot` only, and the heart names the atomics in `shim` only. And nobody
//! turns interrupts on or off but through `heart::port`, which counts it.
//!
//! A module is judged by the paths in its source that begin with `crate`,
//! `super`, `self`, `plat` or `heart`, unit tests left out.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use rust_source::Word;

mod rust_source;

/// The layer of every module, by the longest name here that it begins with.
const LAYERS: &[(u8, &str)] = &[
    // What computes, and races with nothing. Not in the heart's reach: it does not depend on it.
    (0, "plat"),
    // What the algorithms need of the machine.
    (0, "heart::shim"),
    (0, "heart::cpu"),
    (0, "heart::llist"),
    (0, "heart::site"),
    (0, "heart::tailq"),
    (0, "heart::wake"),
    // The algorithms: the first volume, and the second.
    (1, "heart"),
    (2, "heart::more"),
    // Where tests look in. It uses nothing.
    (0, "kernel::probe"),
    // Registers, instructions, devices.
    (2, "kernel::arch"),
    // The machine as the algorithms see it, and what the kernel owns.
    (3, "kernel::console"),
    (3, "kernel::globals"),
    (3, "kernel::mem"),
    (3, "kernel::pcpu"),
    (3, "kernel::port"),
    // The machine as a whole.
    (4, "kernel::acpi"),
    (4, "kernel::call"),
    (4, "kernel::clock"),
    (4, "kernel::end"),
    (4, "kernel::epoch"),
    (4, "kernel::fence"),
    (4, "kernel::idle"),
    (4, "kernel::sched"),
    (4, "kernel::shootdown"),
    (4, "kernel::smp"),
    (4, "kernel::sync"),
    (4, "kernel::thread"),
    (4, "kernel::vspace"),
    (4, "kernel::waitq"),
    // What ties them together.
    (5, "kernel::init"),
    (5, "kernel::ktest"),
    (5, "kernel::lib"),
    (5, "kernel::main"),
    (5, "kernel::panic"),
    (5, "kernel::trap"),
];

/// The upward edges that are meant: from, to, why.
const UPWARD: &[(&str, &str, &str)] = &[
    ("kernel::arch::x86_64::ap", "kernel::smp", "a started CPU goes on there"),
    ("kernel::arch::x86_64::trap", "kernel::trap", "every trap is handed over there"),
    ("kernel::console", "kernel::clock", "each record bears the time"),
    ("kernel::globals", "kernel::clock", "the type of a static"),
    ("kernel::globals", "kernel::init", "the type of a static"),
    ("kernel::port", "kernel::sched", "the end of a critical section may switch threads"),
    ("kernel::port", "kernel::smp", "a CPU that waits may be asked to stop"),
    ("kernel::pcpu", "kernel::sched", "the type of a field"),
    ("kernel::pcpu", "kernel::thread", "the type of a field"),
    ("kernel::globals", "kernel::thread", "the type of a static"),
    ("kernel::globals", "kernel::waitq", "the type of a static"),
    ("kernel::globals", "kernel::sync", "the type of a static"),
];

/// Where the layered packages are.
const PACKAGES: [(&str, &str); 3] =
    [("plat", "kernel/plat/src"), ("heart", "kernel/heart/src"), ("kernel", "kernel/src")];
/// Where the rule on instructions is checked besides.
const MORE_SOURCES: [&str; 2] = ["tests/src", "bench/src"];
/// Where instructions may be written.
const ASM_HOME: &str = "kernel/src/arch/";
/// The stubs of the vectors that the test image handles itself.
const TEST_STUBS: &str = "kernel/src/ktest/order.rs";
/// The words of one CPU, changed in one instruction: decision 4.
const LOCAL_WORDS: &str = "kernel/heart/src/shim.rs";
/// What turns interrupts on or off without a word to the thread ([decision
/// 13](../../docs/decisions/0013-interrupt-flag.md)), and where it may be named besides
/// [`ASM_HOME`]: where the thread's word is changed with it, and in the test image's mistakes.
const FLAG: &[(&[&str], &[&str])] = &[
    (
        &["cli", "sti"],
        &["kernel/src/port.rs", "kernel/src/ktest/order.rs", "kernel/src/ktest/step.rs"],
    ),
    (&["sti_hlt", "sti_mwait"], &["kernel/src/idle.rs"]),
    (
        &["disable_interrupts", "enable_interrupts"],
        &[
            "kernel/heart/src/port.rs",
            "kernel/heart/src/spinlock.rs",
            "kernel/heart/src/testing.rs",
            "kernel/src/port.rs",
        ],
    ),
    (
        &["interrupts_off_anyhow"],
        &[
            "kernel/src/end.rs", "kernel/src/init.rs", "kernel/src/panic.rs", "kernel/src/port.rs",
            "kernel/src/trap.rs",
        ],
    ),
];
/// The files of the heart that may name the atomics: the shim, and the unit tests' threads, which
/// are not part of what is checked.
const ATOMICS_HOMES: [&str; 2] = ["kernel/heart/src/shim.rs", "kernel/heart/src/testing.rs"];

#[test]
fn every_file_uses_lower_layers_only() {
    let (files, breaches) = check();
    println!("{files} files, {} breaches of the layering", breaches.len());
    assert!(files > 100 && breaches.is_empty(), "\n{}", breaches.join("\n"));
}

/// Checks the tree: the number of files and a line for each breach.
fn check() -> (usize, Vec<String>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (mut files, mut breaches) = (0, Vec::new());
    let mut used = BTreeSet::new();
    let sources = PACKAGES.map(|(package, dir)| (Some(package), dir));
    let sources = sources.into_iter().chain(MORE_SOURCES.map(|dir| (None, dir)));
    for (package, dir) in sources {
        for file in rust_source::files(&root.join(dir)) {
            let text = fs::read_to_string(&file).expect("a source");
            let name = file.strip_prefix(&root).expect("it is below").display();
            let name = name.to_string().replace('\\', "/");
            let words = rust_source::words(&text);
            if package == Some("heart") {
                breaches.extend(atomics(&name, &words));
            }
            if is_test(&name) {
                continue;
            }
            breaches.extend(instructions(&name, &words));
            breaches.extend(flag(&name, &words));
            if let Some(package) = package {
                let module = module(package, dir, &name);
                breaches.extend(edges(&name, &module, &words, &mut used));
            }
            files += 1;
        }
    }
    for (from, to, _) in UPWARD.iter().filter(|(from, to, _)| !used.contains(&(*from, *to))) {
        breaches.push(format!(
            "xtask/tests/layers/main.rs: the listed upward edge {from} -> {to} is not there any more; remove it"
        ));
    }
    (files, breaches)
}

/// Whether a file is of unit tests.
fn is_test(name: &str) -> bool {
    const OF_TESTS: [&str; 4] =
        ["/tests.rs", "/steps.rs", "heart/src/testing.rs", "heart/src/tso.rs"];
    OF_TESTS.iter().any(|end| name.ends_with(end))
}

/// The module that a file is: `kernel/src/mem/mod.rs` is `kernel::mem`.
fn module(package: &str, dir: &str, file: &str) -> Vec<String> {
    let inside = file.strip_prefix(dir).unwrap_or(file).trim_start_matches('/');
    let inside = inside.strip_suffix(".rs").unwrap_or(inside);
    let inside = inside.strip_suffix("/mod").unwrap_or(inside);
    std::iter::once(package).chain(inside.split('/')).map(String::from).collect()
}

/// The longest module of the table that this path lies in, and its layer.
fn layer(path: &[String]) -> Option<(u8, &'static str)> {
    let inside = |name: &str| {
        let names: Vec<&str> = name.split("::").collect();
        path.len() >= names.len() && names.iter().zip(path).all(|(a, b)| a == b)
    };
    let fitting = LAYERS.iter().filter(|(_, name)| inside(name));
    fitting.max_by_key(|(_, name)| name.len()).copied()
}

/// The upward edges of one file that are not listed. Listed ones go into `used`.
fn edges(
    file: &str,
    module: &[String],
    words: &[Word],
    used: &mut BTreeSet<(&'static str, &'static str)>,
) -> Vec<String> {
    let Some((own, _)) = layer(module) else {
        let name = module.join("::");
        return vec![format!(
            "{file}: {name} has no layer; give it one in xtask/tests/layers/main.rs"
        )];
    };
    let mut breaches = Vec::new();
    for path in rust_source::paths(words, &["crate", "super", "self", "plat", "heart"]) {
        // A field or a variable of such a name is no path.
        if path.names.len() < 2 {
            continue;
        }
        let target = absolute(module, &path.names);
        let Some((other, to)) = layer(&target).or_else(|| at_root(&target)) else {
            continue;
        };
        if other <= own {
            continue;
        }
        let name = module.join("::");
        match UPWARD.iter().find(|(from, upward, _)| *from == name && *upward == to) {
            Some((from, upward, _)) => {
                used.insert((*from, *upward));
            }
            None => breaches.push(format!(
                "{file}:{}: {name} (layer {own}) uses {} (layer {other})",
                path.line,
                target.join("::"),
            )),
        }
    }
    breaches
}

/// What the kernel's root offers belongs to the root, which is the top.
fn at_root(target: &[String]) -> Option<(u8, &'static str)> {
    let named = target.len() == 2 && target[0] == "kernel";
    named.then(|| layer(&["kernel".to_string(), "lib".to_string()])).flatten()
}

/// A path from its package down.
fn absolute(module: &[String], path: &[String]) -> Vec<String> {
    let package = &module[..1];
    let mut base = match path[0].as_str() {
        "plat" | "heart" => vec![path[0].clone()],
        "crate" => package.to_vec(),
        "super" => module[..module.len() - 1].to_vec(),
        _ => module.to_vec(),
    };
    for name in &path[1..] {
        match name.as_str() {
            "super" if base.len() > 1 => drop(base.pop()),
            "self" | "*" => {}
            _ => base.push(name.clone()),
        }
    }
    base
}

/// Macros that write instructions, outside of their home.
fn instructions(file: &str, words: &[Word]) -> Vec<String> {
    const MACROS: [&str; 3] = ["asm", "global_asm", "naked_asm"];
    if file.starts_with(ASM_HOME) || [LOCAL_WORDS, TEST_STUBS].contains(&file) {
        return Vec::new();
    }
    let calls = words
        .windows(2)
        .filter(|pair| MACROS.contains(&pair[0].text.as_str()) && pair[1].text == "!");
    calls
        .map(|pair| {
            let (line, name) = (pair[0].line, &pair[0].text);
            format!("{file}:{line}: {name}! belongs under {ASM_HOME} or boot/")
        })
        .collect()
}

/// What turns interrupts on or off, outside of its home: by these names, as a function or a
/// path, or by the x86_64 crate.
fn flag(file: &str, words: &[Word]) -> Vec<String> {
    if file.starts_with(ASM_HOME) {
        return Vec::new();
    }
    let is_named = |pair: &&[Word]| {
        let rule = FLAG.iter().find(|rule| rule.0.contains(&pair[0].text.as_str()));
        let is_used = ["(", ")", ","].contains(&pair[1].text.as_str());
        is_used && rule.is_some_and(|rule| !rule.1.contains(&file))
    };
    let named = words.windows(2).filter(is_named);
    let named = named.map(|pair| (pair[0].line, pair[0].text.clone()));
    let paths = rust_source::paths(words, &["x86_64"]);
    let of_crate = paths
        .into_iter()
        .filter(|path| path.names.iter().any(|name| name == "interrupts"))
        .map(|path| (path.line, path.names.join("::")));
    named
        .chain(of_crate)
        .map(|(line, name)| {
            format!("{file}:{line}: {name}: heart::port turns interrupts on and off, and counts it")
        })
        .collect()
}

/// Atomics that the heart takes from elsewhere than its shim, unit tests included.
fn atomics(file: &str, words: &[Word]) -> Vec<String> {
    if ATOMICS_HOMES.contains(&file) {
        return Vec::new();
    }
    let paths = rust_source::paths(words, &["core", "std"]);
    let atomic = paths.iter().filter(|path| {
        path.names.get(1).is_some_and(|name| name == "sync")
            && path.names.get(2).is_some_and(|name| name == "atomic")
    });
    atomic.map(|path| format!("{file}:{}: take the atomics from heart::shim", path.line)).collect()
}

#[cfg(test)]
mod tests;
