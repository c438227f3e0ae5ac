use super::*;

/// A trace with something of everything.
fn sample() -> Trace {
    let record = |time, event: Event, arguments: [u64; 2]| Record {
        time,
        arguments,
        word: u32::MAX - 7,
        thread: 300,
        event,
    };
    let every = Event::ALL.iter().enumerate().map(|(at, event)| {
        let mut arguments = [u64::MAX, at as u64];
        arguments[event.arguments().len()..].fill(0);
        record(1 << at, *event, arguments)
    });
    let backwards = [u64::MAX, 0, 5].map(|time| record(time, Event::Owed, [0, 0]));
    let threads = ["boot", "", "\u{e9}"].map(|name| {
        (!name.is_empty()).then(|| Thread { address: u64::MAX, name: name.to_string() })
    });
    let cpu = |apic_id, records| Cpu { apic_id, records, lost: 1 << 40, dropped: 3 };
    Trace {
        cpus: vec![cpu(0, every.collect()), cpu(u32::MAX, backwards.into()), Cpu::default()],
        threads: threads.into(),
        frequency: 1_000_000_007,
        entry: 42,
        groups: Groups::ALL,
        names: [(7, "a.rs:1".to_string()), (u64::MAX, String::new())].into(),
    }
}

fn refused(bytes: &[u8]) -> String {
    parse(bytes, "FILE").expect_err("it is bad").shown()
}

#[test]
fn what_is_saved_is_read_again() {
    for trace in [sample(), Trace { frequency: 1, ..Trace::default() }] {
        assert_eq!(parse(&bytes(&trace), "FILE").expect("it is whole"), trace);
    }
}

/// With the byte at which it is bad, the reason, and what to do.
#[test]
fn a_bad_file_is_refused_with_the_byte_and_the_reason() {
    let good = bytes(&sample());
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let length = good.len();
    for (bytes, said) in [
        (&b""[..], "FILE, byte 0: the file is cut off here".to_string()),
        (b"\x7fELF and more", "FILE, byte 0: this is no saved trace".to_string()),
        (&with(8, 9), "byte 8: the trace is of version 9, and this xtask reads 1".to_string()),
        (&good[..100], format!("byte 100: the file is cut off here; it had {length} bytes")),
        (&[&good[..], b"!"].concat(), format!("byte {length}: there are more bytes than")),
        (
            &with(70, good[70] ^ 4),
            format!("byte {}: the bytes before do not add up", length - HASH),
        ),
    ] {
        let text = refused(bytes);
        assert!(text.contains(&said), "{text}");
        assert!(text.contains("\n  next: save one by `cargo xtask trace"), "{text}");
    }
}

#[test]
fn every_cut_and_every_flipped_bit_is_noticed() {
    let good = bytes(&sample());
    for cut in 0..good.len() {
        assert!(refused(&good[..cut]).contains(&format!("byte {cut}: the file is cut off")));
    }
    let mut bytes = good.clone();
    for bit in 0..8 * good.len() {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(parse(&bytes, "FILE").is_err(), "bit {bit}");
        bytes[bit / 8] = good[bit / 8];
    }
}

/// The hash keeps most of what is wrong from the reader of numbers. Here it does not: every byte in
/// turn is changed to others and the hash is renewed.
#[test]
fn no_bytes_with_a_right_hash_do_harm() {
    let good = bytes(&sample());
    let body = good.len() - HASH;
    let mut bad = 0;
    for at in HEAD..body {
        for byte in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = byte;
            let sum = hash(&bytes[..body]);
            bytes[body..].copy_from_slice(&sum.to_le_bytes());
            bad += usize::from(parse(&bytes, "FILE").is_err());
        }
    }
    assert!(bad > 100, "{bad} were refused");
    // And cut, with length and hash renewed.
    for cut in HEAD..body {
        let mut bytes = good[..cut].to_vec();
        bytes[16..24].copy_from_slice(&((cut + HASH) as u64).to_le_bytes());
        bytes.extend(hash(&bytes).to_le_bytes());
        let text = refused(&bytes);
        assert!(text.starts_with("error: FILE, byte "), "{text}");
    }
}

#[test]
fn a_saved_trace_is_much_smaller_than_the_rings() {
    let record = |time: u64| Record {
        time: 1_000_000 + 700 * time,
        arguments: [0xf3, 0],
        word: 3,
        thread: 5,
        event: Event::IrqEntry,
    };
    let records: Vec<Record> = (0..1000).map(record).collect();
    let cpus = vec![Cpu { records, ..Cpu::default() }];
    let saved = bytes(&Trace { cpus, frequency: 1, ..Trace::default() });
    assert!(saved.len() < 1000 * 8, "{}", saved.len());
}
