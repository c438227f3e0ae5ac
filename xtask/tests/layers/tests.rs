use super::*;

fn breaches(module: &str, source: &str) -> Vec<String> {
    let module: Vec<String> = module.split("::").map(String::from).collect();
    edges("f.rs", &module, &rust_source::words(source))
}

#[test]
fn files_are_modules() {
    let module = |file| module("kernel", "kernel/src", file).join("::");
    assert_eq!(module("kernel/src/lib.rs"), "kernel::lib");
    assert_eq!(module("kernel/src/mem/mod.rs"), "kernel::mem");
    assert_eq!(module("kernel/src/arch/x86_64/apic.rs"), "kernel::arch::x86_64::apic");
}

#[test]
fn a_lower_layer_may_be_used_and_a_higher_one_may_not() {
    assert!(breaches("kernel::smp", "use crate::{arch::apic, mem, clock};").is_empty());
    assert!(
        breaches("kernel::arch::x86_64::apic", "use super::vector; use heart::cpu;").is_empty()
    );
    let found = breaches("kernel::mem::heap", "\nuse crate::{port, smp::start};");
    assert_eq!(found, ["f.rs:2: kernel::mem::heap (layer 27) uses kernel::smp::start (layer 45)"]);
    assert_eq!(breaches("heart::cpu", "use crate::spinlock::Spinlock;").len(), 1);
    assert_eq!(breaches("kernel::pcpu", "fn f() { crate::start() }").len(), 1);
}

#[test]
fn the_layers_are_in_the_order_of_the_roots_headers() {
    for (package, root) in
        [("heart", "/../kernel/heart/src/lib.rs"), ("kernel", "/../kernel/src/lib.rs")]
    {
        let root = fs::read_to_string(format!("{}{root}", env!("CARGO_MANIFEST_DIR")));
        let root = root.expect("a source");
        let header = root.lines().take_while(|line| line.starts_with("//!")).collect::<String>();
        let names = header.split("[`").skip(1).filter_map(|rest| rest.split_once("`]"));
        let names = names.map(|(name, _)| name.trim_start_matches("mod@"));
        let names: Vec<&str> =
            names.filter(|name| !name.contains("::") && *name != "start").collect();
        assert!(names.len() > 20, "{names:?}");
        let prefix = format!("{package}::");
        let listed =
            LAYERS.iter().filter_map(|(layer, name)| Some((layer, name.strip_prefix(&prefix)?)));
        let listed: Vec<_> = listed.filter(|(_, name)| names.contains(name)).collect();
        assert_eq!(listed.iter().map(|(_, name)| *name).collect::<Vec<_>>(), names);
        assert!(listed.is_sorted_by(|a, b| a.0 < b.0), "each has a layer of its own: {listed:?}");
    }
}

#[test]
fn a_file_without_a_layer_is_named() {
    let found = breaches("kernel::novelty", "");
    assert!(found[0].contains("kernel::novelty has no layer"), "{found:?}");
}

#[test]
fn instructions_have_a_home() {
    let words = rust_source::words("fn f() { asm!(\"hlt\") } // asm!");
    assert_eq!(instructions("kernel/src/smp.rs", &words).len(), 1);
    assert!(instructions("kernel/src/arch/x86_64/cpu.rs", &words).is_empty());
}

#[test]
fn the_interrupt_flag_has_a_home() {
    let source = "fn f() { cpu::cli(); off.wait(cpu::sti_hlt); x86_64::instructions::interrupts::disable(); }";
    let words = rust_source::words(source);
    let found = |file| flag(file, &words).len();
    assert_eq!(found("tests/src/stop.rs"), 3);
    assert_eq!(found("kernel/src/machine.rs"), 2);
    assert_eq!(found("kernel/src/idle.rs"), 2);
    assert_eq!(found("kernel/src/arch/x86_64/cpu.rs"), 0);
    let words = rust_source::words("P::disable_interrupts(); let interrupts = 3;");
    assert_eq!(flag("kernel/heart/src/more/stop.rs", &words).len(), 1);
    assert!(flag("kernel/heart/src/spinlock.rs", &words).is_empty());
}

#[test]
fn atomics_have_a_home() {
    let words = rust_source::words("use core::sync::{atomic::{AtomicU32, Ordering}};");
    assert_eq!(atomics("kernel/heart/src/cpu.rs", &words).len(), 2);
    assert!(atomics(ATOMICS_HOMES[0], &words).is_empty());
}
