//! The console in bad moments: NMIs, panics, records that are too long.

use heart::shim::{AtomicBool, Ordering, spin_loop};
use kernel::{arch, console, ktest};
use plat::line::Line;

ktest! {
    /// An NMI arrives while this CPU holds the console: its report still comes out.
    fn nmi_while_printing() [
        expect = "panic", console = "panic on cpu0: NMI from outside",
        console = "console::nmi_while_printing",
    ] {
        let _held = console::CONSOLE.lock();
        ktest::without_interrupts(|| arch::apic::send_nmi(arch::apic::id()));
        kernel::clock::delay(1_000_000_000);
    }
}

ktest! {
    /// A panic while another CPU, which is stopped, holds the console.
    fn panic_while_another_prints() [
        smp = "2..=64", expect = "panic", console = "the one who speaks",
        console = "cpu1: stopped by NMI: rip ",
    ] {
        let held = alloc::sync::Arc::new(AtomicBool::new(false));
        let seen = alloc::sync::Arc::clone(&held);
        let cpu1 = heart::cpu::CpuId::new(1).unwrap();
        let holder = kernel::kthread::Builder::new("holder").on(cpu1).spawn(move || {
            let _held = console::CONSOLE.lock();
            // Relaxed: only its arrival matters.
            seen.store(true, Ordering::Relaxed);
            loop {
                spin_loop();
            }
        });
        holder.unwrap();
        while !held.load(Ordering::Relaxed) {
            spin_loop();
        }
        panic!("the one who speaks");
    }
}

ktest! {
    /// A record that is too long is cut, and says so.
    fn long_record() [console = "xxxxxxxxxxxxxxxx [cut]"] {
        let text = alloc::string::String::from_utf8(alloc::vec![b'x'; 2000]).unwrap();
        log::info!("{text}");
    }
}

ktest! {
    /// The cut is between letters, wherever they lie.
    fn long_record_of_long_letters() [console = "→→→ [cut]"] {
        let arrows = "→".repeat(1000);
        log::info!("{arrows}");
        for pad in 0..3 {
            let mut line = Line::of(format_args!("{:pad$}{arrows}", ""));
            let text = core::str::from_utf8(line.finish()).expect("whole letters");
            assert!(text.ends_with("→ [cut]\n"), "{text}");
        }
    }
}

ktest! {
    /// A module's level can be set by itself.
    fn log_filter() [append = "log=warn,ktest=debug", console = "DEBUG] ktest::console: heard"] {
        log::debug!("heard");
        log::info!(target: "kernel::smp", "unheard");
        assert!(!log::log_enabled!(target: "kernel::smp", log::Level::Info));
    }
}
