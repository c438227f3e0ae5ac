//! The trace: what the CPUs do, in records that somebody else reads.
//!
//! `trace=GROUPS` on the command line turns it on at boot, for the groups that it names
//! ([`plat::trace::Group`]). Then each CPU has a ring of records, and the trace points of these
//! groups ([`heart::shim::trace`]) write to it. Without the word there are no rings, and the trace
//! points cost nothing. `cargo xtask trace` reads the rings out of the machine's memory, through the
//! header that [`init`] makes ([`plat::trace::Header`]). The kernel itself prints only the last
//! records, in a panic (`print_tail`).
//!
//! The rings lie in memory that is never freed. A ring that is full begins again: the header's
//! reader learns from the count how much it has lost.

use core::fmt;
use core::ptr;

use heart::cpu::{CpuId, MAX_CPUS};
use heart::critical::CritWord;
use heart::shim::{AtomicPtr, Ordering};
use plat::frame::FRAME_SIZE;
use plat::trace::{
    CAPACITY, Event, FREQUENCY_AT, Groups, Header, RECORD, RING, RINGS_AT, RINGS_COUNT_AT, Record,
    Ring, ThreadEntry,
};

use crate::arch::paging::{physical_to_virtual, translate};
use crate::arch::patch;
use crate::pcpu::{self, Pcpu};
use crate::thread::Thread;
use crate::{clock, mem, thread};

/// The header's address, or null while nothing is traced. The boot sets it while it is alone.
static HEADER: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
/// The address of the table of threads. Set like [`HEADER`].
static NAMES: AtomicPtr<[u8; ThreadEntry::BYTES]> = AtomicPtr::new(ptr::null_mut());

/// The length of a header for all CPUs.
const HEADER_BYTES: usize = RINGS_AT + MAX_CPUS * RING;

/// One trace point, as `heart::shim::trace` writes it into the section `.trace_sites`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Point {
    /// The address of its instruction.
    site: u64,
    /// The address of the version that writes a record.
    traced: u64,
    /// The event's number.
    event: u32,
    /// The length of the instruction.
    length: u32,
}

/// Every trace point of the image.
fn points() -> &'static [Point] {
    unsafe extern "C" {
        safe static __trace_sites_start: Point;
        safe static __trace_sites_end: Point;
    }
    let (start, end) = (&raw const __trace_sites_start, &raw const __trace_sites_end);
    let count = (end.addr() - start.addr()) / size_of::<Point>();
    // SAFETY: the linker script puts both around the section and aligns it to 8 bytes; its entries
    // have this layout, and it is a part of the image that nobody writes.
    unsafe { core::slice::from_raw_parts(start, count) }
}

/// Why there is no trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceError {
    /// There is no room for this many bytes in one piece.
    NoRoom(u64),
    /// The instruction at this address is too short for a jump.
    Short(u64),
}

impl core::error::Error for TraceError {}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoom(bytes) => write!(f, "no memory for {bytes} bytes in one piece"),
            Self::Short(site) => write!(f, "the trace point at {site:#x} has no room for a jump"),
        }
    }
}

/// Makes the header, the table of threads and the ring of `boot`, and turns the trace points of
/// `groups` on. The boot calls this on the boot CPU, whose block `boot` is, once it has threads and
/// before other CPUs run, with interrupts off.
///
/// # Errors
/// Returns a [`TraceError`]. Nothing is traced then.
pub fn init(groups: Groups, boot: &Pcpu) -> Result<(), TraceError> {
    let (at, header) = room(HEADER_BYTES)?;
    let capacity = thread::capacity();
    let (threads, names) = room(capacity * ThreadEntry::BYTES)?;
    let ring = make_ring(boot)?;
    if let Some(short) = points().iter().find(|point| point.length < patch::LENGTH) {
        return Err(TraceError::Short(short.site));
    }
    let fixed = Header {
        address: at,
        entry: clock::entry(),
        groups,
        threads,
        capacity: capacity as u32,
        root: mem::page_table_root(),
        ..Header::default()
    };
    // SAFETY: room for a header, which nobody else knows yet.
    unsafe { header.cast::<[u8; RINGS_AT]>().write(fixed.bytes()) };
    HEADER.store(header, Ordering::Relaxed);
    NAMES.store(names.cast(), Ordering::Relaxed);
    publish(0, ring);
    thread::all().for_each(name);
    let traced = |point: &&Point| {
        let event = Event::from_number(point.event as u16);
        event.is_some_and(|event| groups.has(event.group()))
    };
    let pairs = points().iter().filter(traced);
    // SAFETY: the boot CPU is alone, with interrupts off, and nobody sends NMIs yet. Each of these
    // instructions is at least five bytes long, as was just checked, and none is in `jumps`. Each has
    // a version that does the same and continues after it (`trace_point`). This CPU has its ring,
    // and every other one gets it before it starts (`add`).
    unsafe { patch::jumps(pairs.map(|point| (point.site, point.traced))) };
    Ok(())
}

/// Makes the ring of `block`, the CPU with that index, before the CPU starts. Does nothing if
/// nothing is traced.
///
/// # Errors
/// Returns [`TraceError::NoRoom`]. The CPU must not start then: its trace points would write to
/// address 0.
pub fn add(block: &Pcpu) -> Result<(), TraceError> {
    if is_on() && block.trace_ring.load(Ordering::Relaxed) == 0 {
        publish(block.id().index(), make_ring(block)?);
    }
    Ok(())
}

/// Whether anything is traced.
#[must_use]
pub fn is_on() -> bool {
    // Relaxed: set before other CPUs run.
    !HEADER.load(Ordering::Relaxed).is_null()
}

/// Tells the trace's readers how many ticks of the time-stamp counter a second has.
pub fn set_frequency(ticks: u64) {
    write(FREQUENCY_AT, ticks.to_le_bytes());
}

/// Tells the trace's readers the name of `thread`, which its maker has set.
#[inline]
pub fn name(thread: &Thread) {
    // Relaxed: set before other CPUs run.
    let names = NAMES.load(Ordering::Relaxed);
    if !names.is_null() {
        enter_name(names, thread);
    }
}

#[cold]
fn enter_name(names: *mut [u8; ThreadEntry::BYTES], thread: &Thread) {
    let entry = ThreadEntry {
        address: ptr::from_ref(thread) as u64,
        name: thread.name().bytes(),
    };
    let place = names.wrapping_add(thread.index() as usize);
    // SAFETY: the table has a place for every number of a thread, and only the thread's maker writes
    // it.
    unsafe { place.write_volatile(entry.bytes()) };
}

/// How many records the CPU of `block` has written.
#[must_use]
pub fn count(block: &Pcpu) -> u64 {
    // Relaxed: only that CPU writes it.
    block.trace_head.load(Ordering::Relaxed) / RECORD as u64
}

/// Prints the last records of every CPU, oldest first, if anything is traced. For a report: the
/// other CPUs are stopped, or may overwrite what this prints. Of the calling CPU it prints those
/// before the record with the number `own`.
pub(crate) fn print_tail(own: u64, print: impl Fn(fmt::Arguments<'_>)) {
    const LAST: u64 = 12;
    if !is_on() {
        return;
    }
    for block in (0..MAX_CPUS).filter_map(CpuId::new).filter_map(pcpu::of) {
        // Relaxed: a snapshot.
        let ring = block.trace_ring.load(Ordering::Relaxed) as *const [u8; RECORD];
        let count = if block.id() == pcpu::this_cpu() {
            own
        } else {
            count(block)
        };
        if ring.is_null() || count == 0 {
            continue;
        }
        print(format_args!("{}: the last of {count} records:", block.id()));
        for number in count.saturating_sub(LAST)..count {
            let place = ring.wrapping_add(number as usize % CAPACITY);
            // SAFETY: the ring has that many places and is never freed. Whatever its CPU writes
            // meanwhile, the bytes are bytes.
            let bytes = unsafe { place.read_volatile() };
            match Record::parse(&bytes) {
                Some(record) => print(format_args!("  {}", Shown(&record))),
                None => print(format_args!("  one that is not complete")),
            }
        }
    }
}

/// A record as one line of a report.
struct Shown<'a>(&'a Record);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.0;
        let since = record.time.wrapping_sub(clock::entry());
        let microseconds = clock::nanoseconds_of(since) / 1000;
        let word = CritWord::from_bits(record.word);
        write!(
            f,
            "{microseconds} us: thread{}, {word}: {}",
            record.thread,
            record.event.name()
        )?;
        for (name, value) in record.event.arguments().iter().zip(record.arguments) {
            write!(f, " {name} {value:#x}")?;
        }
        Ok(())
    }
}

/// Takes memory for `bytes` bytes, zeroed, and returns its physical and its virtual address.
fn room(bytes: usize) -> Result<(u64, *mut u8), TraceError> {
    let bytes = (bytes as u64).next_multiple_of(FRAME_SIZE);
    let at = mem::allocate_frames(bytes / FRAME_SIZE).ok_or(TraceError::NoRoom(bytes))?;
    let memory = physical_to_virtual(at) as *mut u8;
    // SAFETY: usable memory, which is visible there, and which nobody else has.
    unsafe { memory.write_bytes(0, bytes as usize) };
    Ok((at, memory))
}

/// Makes a ring, and gives it to the CPU of `block`.
fn make_ring(block: &Pcpu) -> Result<Ring, TraceError> {
    let (records, memory) = room(CAPACITY * RECORD)?;
    // Relaxed, both: that CPU does not run yet, or it is this one.
    block.trace_ring.store(memory as u64, Ordering::Relaxed);
    let head = translate((&raw const block.trace_head) as u64).expect("a block is mapped");
    Ok(Ring {
        records,
        head,
        apic_id: block.apic_id(),
    })
}

/// Enters the ring of the CPU with this index, which is one more than the last.
fn publish(index: usize, ring: Ring) {
    write(RINGS_AT + index * RING, ring.bytes());
    write(RINGS_COUNT_AT, (index as u32 + 1).to_le_bytes());
}

/// Writes into the header, if there is one.
fn write<const N: usize>(at: usize, bytes: [u8; N]) {
    let header = HEADER.load(Ordering::Relaxed);
    if !header.is_null() {
        let place = header.wrapping_add(at).cast::<[u8; N]>();
        // SAFETY: the constants that `at` is made of lie within the header. Only the boot CPU
        // writes it, and readers outside the machine see it.
        unsafe { place.write_volatile(bytes) };
    }
}
