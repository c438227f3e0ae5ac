//! The layering rule: a file uses its own layer and lower ones.
//!
//! Three rules of the same kind go with it. Instructions are written only in `kernel/src/arch`,
//! `boot`, the heart's `shim` and the test image's stubs. The heart names the atomics only in `shim`
//! and in the unit tests' machine. Only `heart::port`, which counts it, turns interrupts on or off.
//!
//! A module is judged by the paths in its source that begin with `crate`,
//! `super`, `self`, `plat`, `heart` or `sync`, unit tests left out.

use std::fs;
use std::path::Path;

use rust_source::Word;

mod rust_source;

/// The layer of every module, by the longest name here that it begins with. Those of the heart and of
/// the kernel are in the order of their roots' headers, each a layer of its own, so that none is
/// part of a circle.
const LAYERS: &[(u8, &str)] = &[
    // What computes, and races with nothing. The heart depends on it for the trace's format only.
    (0, "plat"),
    (1, "heart::shim"),
    (2, "heart::cpu"),
    (3, "heart::site"),
    (4, "heart::critical"),
    (5, "heart::tailq"),
    (6, "heart::llist"),
    (7, "heart::wake"),
    (8, "heart::probe"),
    (9, "heart::port"),
    (10, "heart::intr"),
    (11, "heart::spinlock"),
    (12, "heart::action"),
    (13, "heart::ipi"),
    (14, "heart::rendezvous"),
    (15, "heart::shootdown"),
    (16, "heart::thread"),
    (17, "heart::runq"),
    (18, "heart::timerq"),
    (19, "heart::sched"),
    (20, "heart::waitq"),
    // Its root has the assertion, which all use.
    (0, "heart"),
    (21, "heart::more"),
    // The sleeping locks.
    (22, "sync"),
    // The machine and the wiring.
    (23, "kernel::probe"),
    (24, "kernel::arch"),
    (25, "kernel::port"),
    (26, "kernel::sync"),
    (27, "kernel::mem"),
    (28, "kernel::acpi"),
    (29, "kernel::epoch"),
    (30, "kernel::thread"),
    (31, "kernel::pcpu"),
    (32, "kernel::clock"),
    (33, "kernel::trace"),
    (34, "kernel::console"),
    (35, "kernel::backtrace"),
    (36, "kernel::rendezvous"),
    (37, "kernel::fence"),
    (38, "kernel::shootdown"),
    (39, "kernel::vspace"),
    (40, "kernel::call"),
    (41, "kernel::sched"),
    (42, "kernel::kthread"),
    (43, "kernel::idle"),
    (44, "kernel::hang"),
    (45, "kernel::smp"),
    (46, "kernel::end"),
    (47, "kernel::panic"),
    (48, "kernel::trap"),
    (49, "kernel::init"),
    (50, "kernel::machine"),
    (51, "kernel::lib"),
    (52, "kernel::ktest"),
    (52, "kernel::main"),
];

/// Where the layered packages are.
const PACKAGES: [(&str, &str); 4] = [
    ("plat", "kernel/plat/src"),
    ("heart", "kernel/heart/src"),
    ("sync", "kernel/sync/src"),
    ("kernel", "kernel/src"),
];
/// Where the rule on instructions is checked besides.
const MORE_SOURCES: [&str; 2] = ["tests/src", "bench/src"];
/// Where instructions may be written.
const ASM_HOME: &str = "kernel/src/arch/";
/// The stubs of the vectors that the test image handles itself.
const TEST_STUBS: &str = "kernel/src/ktest/order.rs";
/// The words of one CPU, changed in one instruction: decision 4.
const SHIM: [&str; 2] = ["kernel/heart/src/shim.rs", "kernel/heart/src/shim/trace.rs"];
/// What turns interrupts on or off without a word to the thread ([decision
/// 13](../../docs/decisions/0013-interrupt-flag.md)), and where it may be named besides
/// [`ASM_HOME`]: where the thread's word is changed with it, and in the test image's mistakes.
const FLAG: &[(&[&str], &[&str])] = &[
    (
        &["cli", "sti"],
        &[
            "kernel/src/machine.rs",
            "kernel/src/pcpu.rs",
            "kernel/src/ktest/order.rs",
            "kernel/src/ktest/step.rs",
        ],
    ),
    (&["sti_hlt", "sti_mwait"], &["kernel/src/idle.rs"]),
    (
        &["disable_interrupts", "enable_interrupts"],
        &[
            "kernel/heart/src/port.rs",
            "kernel/heart/src/spinlock.rs",
            "kernel/heart/src/testing.rs",
            "kernel/src/machine.rs",
        ],
    ),
    (
        &["interrupts_off_anyhow"],
        &[
            "kernel/src/end.rs", "kernel/src/init.rs", "kernel/src/panic.rs", "kernel/src/pcpu.rs",
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
                breaches.extend(edges(&name, &module, &words));
            }
            files += 1;
        }
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

/// The upward edges of one file.
fn edges(file: &str, module: &[String], words: &[Word]) -> Vec<String> {
    let Some((own, _)) = layer(module) else {
        let name = module.join("::");
        return vec![format!(
            "{file}: {name} has no layer; give it one in xtask/tests/layers/main.rs"
        )];
    };
    let mut breaches = Vec::new();
    for path in rust_source::paths(words, &["crate", "super", "self", "plat", "heart", "sync"]) {
        // A field or a variable of such a name is no path.
        if path.names.len() < 2 {
            continue;
        }
        let target = absolute(module, &path.names);
        let Some((other, _)) = layer(&target).or_else(|| at_root(&target)) else {
            continue;
        };
        if other > own {
            breaches.push(format!(
                "{file}:{}: {} (layer {own}) uses {} (layer {other})",
                path.line,
                module.join("::"),
                target.join("::"),
            ));
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
        "plat" | "heart" | "sync" => vec![path[0].clone()],
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
    if file.starts_with(ASM_HOME) || SHIM.contains(&file) || file == TEST_STUBS {
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
