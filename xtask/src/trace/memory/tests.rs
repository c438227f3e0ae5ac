use std::path::PathBuf;

use plat::trace::{Event, Groups, RINGS_AT, Ring as Place};

use super::ram::{HEADER_AT, MIB, Ram, THREADS_AT, record};
use super::*;

fn file(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("tryst-trace-{name}-{}", std::process::id()))
}

fn written(ram: &Ram, name: &str) -> PathBuf {
    let file = file(name);
    paths::write(&file, &ram.bytes).expect("a file");
    file
}

fn trace(ram: &Ram, name: &str) -> Result<Trace> {
    let file = written(ram, name);
    let trace = read(&file, u64::MAX);
    std::fs::remove_file(file).expect("it is there");
    trace
}

#[test]
fn each_cpu_has_its_records_and_each_thread_its_name() {
    let mut ram = Ram::new(3, &["boot", "", "exactly_16_bytes", "\u{e9}"]);
    let of = |time| Record { arguments: [time, 2], ..record(time, Event::IpiSend, 3) };
    for time in 0..5 {
        ram.write(0, &of(time).bytes());
        ram.write(2, &of(100 + time).bytes());
    }
    let trace = trace(&ram, "plain").expect("it is whole");
    let times = |cpu: usize| trace.cpus[cpu].records.iter().map(|record| record.time);
    assert_eq!(times(0).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert_eq!(times(1).count(), 0);
    assert_eq!(times(2).collect::<Vec<_>>(), [100, 101, 102, 103, 104]);
    assert_eq!(trace.cpus[2].records[4], of(104));
    assert_eq!(trace.cpus.iter().map(|cpu| cpu.apic_id).collect::<Vec<_>>(), [0, 2, 4]);
    assert!(trace.cpus.iter().all(|cpu| cpu.lost == 0 && cpu.dropped == 0));
    let names = trace.threads.iter().map(|thread| thread.as_ref().map(|t| t.name.as_str()));
    let names: Vec<_> = names.collect();
    assert_eq!(names, [Some("boot"), None, Some("exactly_16_bytes"), Some("\u{e9}")]);
    assert_eq!(trace.threads[2].as_ref().map(|thread| thread.address), Some(0x3000));
    assert_eq!((trace.frequency, trace.entry, trace.groups), (1_000_000_000, 1000, Groups::ALL));
}

/// At every number of records around the ring's length.
#[test]
fn a_full_ring_keeps_the_newest_and_counts_the_rest() {
    for extra in [0, 1, 2, 31, CAPACITY - 1, CAPACITY, CAPACITY + 3] {
        let mut ram = Ram::new(1, &[]);
        let count = CAPACITY + extra;
        for time in 0..count {
            ram.write(0, &record(time as u64, Event::Owed, 0).bytes());
        }
        let trace = trace(&ram, "full").expect("it is whole");
        let cpu = &trace.cpus[0];
        assert_eq!((cpu.lost, cpu.dropped, cpu.records.len()), (extra as u64, 0, CAPACITY));
        let times = cpu.records.iter().map(|record| record.time);
        assert!(times.eq(extra as u64..count as u64), "{extra}");
    }
}

/// An NMI between the time and the place of a record takes an earlier place at a later time.
#[test]
fn the_records_are_in_the_order_of_time() {
    let mut ram = Ram::new(1, &[]);
    for (time, event) in
        [(5, Event::NmiEntry), (5, Event::NmiExit), (3, Event::Owed), (5, Event::Paid)]
    {
        ram.write(0, &record(time, event, 0).bytes());
    }
    let trace = trace(&ram, "order").expect("it is whole");
    let events: Vec<Event> = trace.cpus[0].records.iter().map(|record| record.event).collect();
    assert_eq!(events, [Event::Owed, Event::NmiEntry, Event::NmiExit, Event::Paid]);
}

#[test]
fn what_is_no_record_is_counted_and_left_out() {
    let mut ram = Ram::new(1, &[]);
    let mut unknown = record(2, Event::Owed, 0).bytes();
    unknown[30..].copy_from_slice(&999_u16.to_le_bytes());
    let mut unfinished = unknown;
    unfinished[30..].fill(0);
    for bytes in [record(1, Event::Owed, 0).bytes(), unknown, unfinished] {
        ram.write(0, &bytes);
    }
    let trace = trace(&ram, "unknown").expect("the rest is whole");
    assert_eq!((trace.cpus[0].records.len(), trace.cpus[0].dropped), (1, 2));
}

/// The machine ended after the count was raised and before the record was written: its place still
/// has the record of one turn before.
#[test]
fn a_place_that_is_not_yet_overwritten_is_left_out() {
    let mut ram = Ram::new(1, &[]);
    for time in 0..CAPACITY as u64 + 10 {
        ram.write(0, &record(time, Event::Owed, 0).bytes());
    }
    let raised = (CAPACITY as u64 + 11) * RECORD as u64;
    ram.put(Ram::head(0), &raised.to_le_bytes());
    let trace = trace(&ram, "stale").expect("the rest is whole");
    let cpu = &trace.cpus[0];
    assert_eq!((cpu.lost, cpu.dropped), (11, 1));
    assert!(cpu.records.iter().map(|record| record.time).eq(11..CAPACITY as u64 + 10));
}

/// Only as many as the event has are written.
#[test]
fn an_argument_that_the_event_does_not_have_is_zero() {
    let mut ram = Ram::new(1, &[]);
    let left = |event| Record { arguments: [7, 8], ..record(1, event, 0) };
    for event in [Event::IrqEoi, Event::IrqEntry, Event::IpiSend] {
        ram.write(0, &left(event).bytes());
    }
    let trace = trace(&ram, "arguments").expect("it is whole");
    let arguments = trace.cpus[0].records.iter().map(|record| record.arguments);
    assert!(arguments.eq([[0, 0], [7, 0], [7, 8]]));
}

/// A copy of the header, such as one in the guest's image of the file, is none.
#[test]
fn the_header_is_the_one_that_is_where_it_says() {
    let mut ram = Ram::new(1, &[]);
    ram.write(0, &record(1, Event::Owed, 0).bytes());
    let header: Vec<u8> = ram.bytes[HEADER_AT..HEADER_AT + 256].to_vec();
    ram.put(MIB / 4, &header);
    assert_eq!(trace(&ram, "copy").expect("it is whole").cpus.len(), 1);
    ram.bytes[HEADER_AT..HEADER_AT + 256].fill(0);
    let error = trace(&ram, "only_a_copy").expect_err("there is only the copy");
    assert!(error.text().contains("there is no trace in this memory"), "{error}");
}

/// Above 4 GiB the addresses go on after a gap that the file does not have.
#[test]
fn memory_above_4_gib_is_where_the_machine_has_it() {
    let mut ram = Ram::new(1, &["boot"]);
    ram.write(0, &record(1, Event::Owed, 0).bytes());
    let (low, shift) = (MIB as u64 / 2, FOUR_GIB - MIB as u64 / 2);
    // The header, the threads and the ring are above; the ring's count begins there too.
    let address = HEADER_AT as u64 + shift;
    ram.put(HEADER_AT + 16, &address.to_le_bytes());
    ram.put(HEADER_AT + 72, &(THREADS_AT as u64 + shift).to_le_bytes());
    let ring = Place {
        records: Ram::ring(0) as u64 + shift,
        head: Ram::head(0) as u64 + shift,
        apic_id: 0,
    };
    ram.put(HEADER_AT + RINGS_AT, &ring.bytes());
    let file = written(&ram, "above");
    let trace = read(&file, low).expect("it is whole");
    assert_eq!(trace.cpus[0].records.len(), 1);
    assert!(trace.threads[0].is_some());
    // To a machine with all of it below, this header is a copy.
    assert!(read(&file, u64::MAX).is_err());
    std::fs::remove_file(file).expect("it is there");
}

#[test]
fn a_clock_that_was_not_measured_is_one_of_nanoseconds() {
    let mut ram = Ram::new(1, &[]);
    ram.put(HEADER_AT + plat::trace::FREQUENCY_AT, &[0; 8]);
    assert_eq!(trace(&ram, "clock").expect("it is whole").frequency, 1_000_000_000);
}

/// Cut anywhere, it is whole or refused with a hint; nothing panics.
#[test]
fn a_file_that_is_cut_off_is_refused() {
    let mut ram = Ram::new(2, &["boot"]);
    ram.write(1, &record(1, Event::Owed, 0).bytes());
    let cuts = [0, 1, 4096, MIB, MIB + 8, MIB + 100, MIB + RINGS_AT, MIB + RINGS_AT + 47];
    let file = written(&ram, "cut");
    for cut in cuts.into_iter().chain([2 * MIB, 4 * MIB, 4 * MIB + 31]) {
        paths::write(&file, &ram.bytes[..cut]).expect("a file");
        let error = read(&file, u64::MAX).expect_err("it is cut off");
        let text = error.shown();
        let said = if cut < MIB + RINGS_AT + 48 {
            "there is no trace in this memory\n  next: boot a kernel"
        } else {
            "has no cpu1's ring, which should be at physical address 0x400000"
        };
        assert!(text.contains(said) && text.contains("\n  next: "), "{cut}: {text}");
    }
    std::fs::remove_file(&file).expect("it is there");
    let error = read(&file, u64::MAX).expect_err("it is gone");
    assert!(error.text().contains("cannot read the machine's memory in "), "{error}");
}

/// Whatever a header says: the reading ends with a trace or an error.
#[test]
fn a_header_with_any_byte_changed_does_no_harm() {
    let mut ram = Ram::new(1, &["boot", "idle"]);
    ram.write(0, &record(1, Event::Owed, 0).bytes());
    let file = written(&ram, "changed");
    for at in (HEADER_AT..HEADER_AT + RINGS_AT + 24).chain(Ram::head(0)..Ram::head(0) + 8) {
        for flip in [0x01, 0x80, 0xff] {
            use std::io::Write;

            let mut changed = File::options().write(true).open(&file).expect("it is there");
            let mut set = |byte: u8| {
                changed.seek(SeekFrom::Start(at as u64)).expect("a place");
                changed.write_all(&[byte]).expect("it is ours");
            };
            set(ram.bytes[at] ^ flip);
            if let Ok(trace) = read(&file, u64::MAX) {
                assert!(trace.frequency > 0);
            }
            set(ram.bytes[at]);
        }
    }
    std::fs::remove_file(file).expect("it is there");
}

/// What one CPU writes, look by look.
struct Live {
    ram: Ram,
    file: PathBuf,
    rings: Rings,
}

impl Live {
    fn new(name: &str) -> Live {
        let ram = Ram::new(1, &[]);
        let file = written(&ram, name);
        let memory = Memory::open(&file, u64::MAX).expect("it is there");
        let rings = Rings::find(memory).expect("it is read").expect("there is a header");
        Live { ram, file, rings }
    }

    fn write(&mut self, times: std::ops::Range<u64>) {
        times.for_each(|time| self.ram.write(0, &record(time, Event::Owed, 0).bytes()));
    }

    fn look(&mut self) -> News {
        paths::write(&self.file, &self.ram.bytes).expect("a file");
        self.rings.news().expect("it is read").remove(0)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

#[test]
fn news_are_what_is_new_and_the_lost_are_counted() {
    let mut live = Live::new("live");
    let full = CAPACITY as u64;
    let mut last = 0;
    for count in [0, 3, 0, 1, full - IN_FLIGHT as u64, 17, 3 * full, 5] {
        live.write(last..last + count);
        let news = live.look();
        last += count;
        let got = news.records.len() as u64;
        assert_eq!(got + news.lost, count);
        assert!(news.records.iter().map(|record| record.time).eq(last - got..last));
        // A CPU may be overwriting the oldest.
        assert_eq!(news.lost, count.saturating_sub(full - IN_FLIGHT as u64));
        assert_eq!(news.dropped, 0);
    }
}

/// A record that is being written comes whole with the next look; one that stays incomplete while
/// others follow is counted.
#[test]
fn a_record_in_the_making_is_waited_for() {
    let mut live = Live::new("making");
    live.write(0..2);
    live.ram.write(0, &[0; RECORD]);
    assert_eq!(live.look().records.len(), 2);
    assert_eq!(live.look().records.len(), 0);
    live.ram.put(Ram::ring(0) + 2 * RECORD, &record(2, Event::Owed, 0).bytes());
    assert_eq!(live.look().records.len(), 1);
    live.ram.write(0, &[0; RECORD]);
    live.write(4..4 + IN_FLIGHT as u64);
    let news = live.look();
    assert_eq!((news.records.len(), news.dropped, news.lost), (IN_FLIGHT, 1, 0));
}
