use plat::trace::{Event, Groups, Record};

use super::*;
use crate::trace::{Cpu, Thread};

#[test]
fn the_table_has_a_line_for_each_cpu() {
    let record = |time, event, thread| Record { time, arguments: [0; 2], word: 1, thread, event };
    let records = vec![
        record(1_000_000, Event::Switch, 1),
        record(2_000_000, Event::CriticalEnter, 1),
        record(2_003_500, Event::CriticalExit, 1),
        record(3_000_000, Event::IrqEntry, 1),
        record(1_000_000_000, Event::IpiSend, 1),
    ];
    let cpu = Cpu { apic_id: 0, records, lost: 32763, dropped: 0 };
    let boot = Thread { address: 1, name: "boot".to_string() };
    let mut trace = Trace {
        cpus: vec![cpu, Cpu::default()],
        threads: vec![None, Some(boot)],
        frequency: 1_000_000_000,
        groups: Groups::parse("irq,sched", &mut |word| panic!("{word}")),
        ..Trace::default()
    };
    let expected = "\
CPU     records     lost  switches  interrupts  IPIs sent      longest  section of
cpu0          5    32763         1           1          1      3.50 us  boot
cpu1          0        0         0           0          0            -
32768 records of irq,sched in 1.000 s of the guest, 1.0 MiB/s
a ring keeps the last 65536 records; fewer --groups reach further back";
    assert_eq!(text(&trace), expected);
    trace.cpus[0].lost = 0;
    trace.cpus[1].dropped = 2;
    let text = text(&trace);
    assert!(text.ends_with("MiB/s; 2 incomplete or unknown"), "{text}");
}

#[test]
fn a_time_is_told_in_a_unit_of_its_size() {
    let times = [0, 3_456, 999_994, 1_000_000, 2_345_678_901].map(micros);
    assert_eq!(times, ["0.00 us", "3.46 us", "999.99 us", "1.00 ms", "2.35 s"]);
}
