use std::panic::Location;

use plat::trace::{Event, Record};

use super::*;
use crate::trace::Cpu;

/// The layout is the compiler's own business: this compares what is read with what it is.
#[test]
fn a_place_is_read_as_the_compiler_lays_it_out() {
    let here = Location::caller();
    // SAFETY: a Location is 24 bytes without padding, which the assertion below checks in part, and
    // this one is a constant.
    let bytes = unsafe { *std::ptr::from_ref(here).cast::<[u8; 24]>() };
    assert_eq!(size_of_val(here), bytes.len());
    let address = std::ptr::from_ref(here) as u64;
    let file = here.file();
    let sections = vec![(address, &bytes[..]), (file.as_ptr() as u64, file.as_bytes())];
    let kernel = Kernel { sections, symbols: BTreeMap::new(), code: 0..0 };
    let name = format!("{}:{}", here.file(), here.line());
    assert_eq!(kernel.place(address), Some(name));
    // What is none: other bytes, and what is not there.
    assert_eq!(kernel.place(address + 1), None);
    assert_eq!(kernel.place(file.as_ptr() as u64), None);
    assert_eq!(kernel.place(u64::MAX), None);
}

#[test]
fn an_address_within_a_symbol_has_its_name() {
    let at = KERNEL_BASE + 0x20_0000;
    let symbols = [(at, (0x20, "_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE"))];
    let kernel = Kernel { sections: Vec::new(), symbols: symbols.into(), code: at + 2..at + 3 };
    assert_eq!(kernel.symbol(at).as_deref(), Some("core::fmt::Write::write_fmt"));
    assert_eq!(kernel.symbol(at + 0x1f).as_deref(), Some("core::fmt::Write::write_fmt+0x1f"));
    assert_eq!(kernel.symbol(at + 0x20), None);
    assert_eq!(kernel.symbol(at - 1), None);
    // Only arguments that the events have, and none that is just a number.
    let record = |event, arguments| Record { time: 0, arguments, word: 0, thread: 0, event };
    let records = vec![
        record(Event::LockWait, [at, at + 1]),
        record(Event::Call, [at + 2, at + 3]),
        record(Event::LockWait, [at + 2, 0]),
        record(Event::IrqEntry, [0xf3, 0]),
    ];
    let cpus = vec![Cpu { records, ..Cpu::default() }];
    let names = of(&Trace { cpus, ..Trace::default() }, &kernel, &|address| {
        assert_eq!(address, at + 2);
        Some("a line".to_string())
    });
    assert!(names.keys().eq(&[at, at + 2, at + 3]), "{names:?}");
}

#[test]
fn a_place_in_code_is_that_of_the_one_who_enters_or_leaves() {
    let frames = |names: &[&str]| line(names.iter().map(|name| (*name).to_string()).collect());
    let exit = "add_traced at kernel/heart/src/shim/trace.rs:200";
    let guard = "drop_in_place<CriticalGuard> at core/src/ptr/mod.rs:805";
    let user = "kernel::idle::rest at kernel/src/idle.rs:234";
    assert_eq!(
        frames(&[exit, guard, user, "outer at kernel/src/init.rs:1"]).as_deref(),
        Some(user)
    );
    assert_eq!(frames(&[exit, guard]).as_deref(), Some(guard));
    assert_eq!(frames(&[]), None);
}
