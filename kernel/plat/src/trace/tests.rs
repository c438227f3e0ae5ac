use super::*;

fn record() -> Record {
    Record {
        time: 0x0102_0304_0506_0708,
        arguments: [0xf3, u64::MAX],
        word: 3,
        thread: 65_535,
        event: Event::IrqEntry,
    }
}

#[test]
fn a_record_there_and_back() {
    for &event in Event::ALL {
        let record = Record { event, ..record() };
        assert_eq!(Record::parse(&record.bytes()), Some(record));
        assert!(event.arguments().len() <= 2);
        assert_eq!(Event::from_number(event as u16), Some(event));
    }
}

/// A slot that has never been written, one that is being written, and one of a later version.
#[test]
fn what_is_no_record() {
    assert_eq!(Record::parse(&[0; RECORD]), None);
    let mut bytes = record().bytes();
    bytes[30..].copy_from_slice(&[0, 0]);
    assert_eq!(Record::parse(&bytes), None);
    bytes[30..].copy_from_slice(&[0xff, 0xff]);
    assert_eq!(Record::parse(&bytes), None);
}

#[test]
fn events_and_groups_have_names_of_their_own() {
    let mut names: Vec<_> = Event::ALL.iter().map(|event| event.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Event::ALL.len());
    for (bit, group) in Group::ALL.iter().enumerate() {
        assert_eq!(*group as usize, bit);
        assert!(Event::ALL.iter().any(|event| event.group() == *group));
    }
}

#[test]
fn a_header_there_and_back() {
    let header = Header {
        address: 0x1000,
        entry: 5,
        groups: Groups::ALL,
        frequency: 1_000_000_000,
        threads: 0x20_0000,
        capacity: 1024,
        root: 0x7000,
        rings: vec![
            Ring {
                records: 0x40_0000,
                head: 0x3000,
                apic_id: 0,
            },
            Ring {
                records: 0x60_0000,
                head: 0x5000,
                apic_id: 9,
            },
        ],
    };
    let mut bytes = header.bytes().to_vec();
    bytes.extend(header.rings.iter().flat_map(Ring::bytes));
    // Not counted yet.
    assert_eq!(
        Header::parse(&bytes).map(|header| header.rings),
        Some(vec![])
    );
    bytes[RINGS_COUNT_AT] = 2;
    assert_eq!(Header::parse(&bytes).as_ref(), Some(&header));
    bytes.push(0);
    assert_eq!(Header::parse(&bytes).as_ref(), Some(&header));
    for length in 0..bytes.len() - 1 {
        assert_eq!(Header::parse(&bytes[..length]), None, "{length} bytes");
    }
    for wrong in [0, 8, 12] {
        let mut bytes = bytes.clone();
        bytes[wrong] ^= 1;
        assert_eq!(Header::parse(&bytes), None, "byte {wrong}");
    }
}

#[test]
fn a_thread_there_and_back() {
    let entry = ThreadEntry {
        address: 0xffff_8000_0000_1000,
        name: *b"console\0\0\0\0\0\0\0\0\0",
    };
    assert_eq!(ThreadEntry::parse(&entry.bytes()), Some(entry));
    assert_eq!(ThreadEntry::parse(&entry.bytes()[..23]), None);
}

#[test]
fn the_words_of_the_command_line() {
    let parse = |text| {
        let mut wrong = Vec::new();
        let groups = Groups::parse(text, &mut |word| wrong.push(word));
        (groups.to_string(), wrong)
    };
    let good = |text, expected: &str| assert_eq!(parse(text), (expected.to_string(), vec![]));
    good("irq,sched", "irq,sched");
    good("sched,irq", "irq,sched");
    good("off", "off");
    good("all,off", "off");
    good(
        "all,-lock,-critical",
        "irq,sched,ipi,rendezvous,memory,cpu,mark",
    );
    assert_eq!(parse("irq,lcok,"), ("irq".to_string(), vec!["lcok", ""]));
}
