use super::*;

/// A word of the file, as the plugin writes it.
fn word(kind: u64, cpu: u64, value: u64) -> u64 {
    kind << 62 | cpu << 56 | value & ((1 << 56) - 1)
}

#[test]
fn words_are_read_as_the_plugin_writes_them() {
    let address = 0xffff_ffff_8020_1311;
    let read = [
        Event::of(word(0, 3, address)),
        Event::of(word(1, 0, 0x1000)),
        Event::of(word(2, 63, address)),
        Event::of(word(3, 0, 0)),
        Event::of(word(3, 0, 1)),
        Event::of(word(3, 0, 2)),
    ];
    let expected = [
        Event::Execute { cpu: 3, address },
        Event::Load {
            cpu: 0,
            address: 0x1000,
        },
        Event::Store { cpu: 63, address },
        Event::Row,
        Event::Begin,
        Event::End,
    ];
    assert_eq!(read, expected);
}

const PLAIN: Kind = Kind {
    locked: false,
    pause: false,
    clock: false,
    wrmsr: false,
};
const PAUSE: Kind = Kind {
    pause: true,
    ..PLAIN
};

#[test]
fn a_load_of_anothers_store_lifts_the_clock_and_moves_the_line_once() {
    let (mut writer, mut reader) = (Walk::default(), Walk::default());
    let mut shared = Shared::default();
    for address in 0..100 {
        writer.execute(address, PLAIN, false, 0, &shared);
    }
    assert!(!writer.access(0x2000, true, 0, &mut shared));
    reader.execute(1, PLAIN, false, 1, &shared);
    assert!(reader.access(0x2000, false, 1, &mut shared));
    assert_eq!(reader.clock, 101);
    assert!(
        !reader.access(0x2008, false, 1, &mut shared),
        "the line is there"
    );
    assert!(
        !writer.access(0x2000, false, 0, &mut shared),
        "nobody else wrote it"
    );
}

#[test]
fn a_turn_that_only_waits_costs_nothing() {
    let (mut walk, shared) = (Walk::default(), Shared::default());
    for _ in 0..5 {
        for (address, kind) in [(1, PAUSE), (2, PLAIN), (3, PLAIN)] {
            walk.execute(address, kind, false, 0, &shared);
        }
    }
    assert_eq!(walk.clock, 3);
}

#[test]
fn a_turn_that_stores_counts() {
    let (mut walk, mut shared) = (Walk::default(), Shared::default());
    for _ in 0..5 {
        walk.execute(1, PAUSE, false, 0, &shared);
        walk.execute(2, PLAIN, false, 0, &shared);
        walk.access(0x3000, true, 0, &mut shared);
    }
    assert_eq!(walk.clock, 10);
}

#[test]
fn an_interrupt_comes_no_earlier_than_its_command() {
    let (mut sender, mut target) = (Walk::default(), Walk::default());
    let mut shared = Shared::default();
    for address in 0..50 {
        sender.execute(address, PLAIN, false, 0, &shared);
    }
    sender.access(COMMAND, true, 0, &mut shared);
    target.execute(7, PLAIN, true, 1, &shared);
    assert_eq!(target.clock, 51);
    sender.execute(7, PLAIN, true, 0, &shared);
    assert_eq!(sender.clock, 51, "its own command lifts nothing");
}
