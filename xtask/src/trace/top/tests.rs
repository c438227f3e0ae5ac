use super::*;
use crate::paths;
use crate::trace::memory::ram::Ram;

/// A second of the guest.
const SECOND: u64 = 1_000_000_000;
/// The addresses of the threads.
const BOOT: u64 = 0x1000;
const IDLE0: u64 = 0x2000;
const WORKER: u64 = 0x4000;

/// A machine of two CPUs that a test lets write, and its watcher.
struct Machine {
    ram: Ram,
    file: PathBuf,
    watcher: Watcher,
}

impl Machine {
    fn new(name: &str) -> Machine {
        let file = std::env::temp_dir().join(format!("tryst-top-{name}-{}", std::process::id()));
        let ram = Ram::new(2, &["boot", "idle", "idle", "worker"]);
        let watcher = Watcher::new(&file, u64::MAX);
        Machine { ram, file, watcher }
    }

    fn write(&mut self, cpu: usize, time: u64, event: Event, arguments: [u64; 2], thread: u16) {
        let record = Record { time, arguments, word: 1, thread, event };
        self.ram.write(cpu, &record.bytes());
    }

    fn look(&mut self) -> View {
        paths::write(&self.file, &self.ram.bytes).expect("a file");
        let view = self.watcher.look(Duration::from_secs(1)).expect("it is read");
        view.expect("there is a header")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

fn sleep() -> u64 {
    Reason::Sleep as u64
}

/// boot runs on cpu0 for a quarter of a second, then the worker for a half, which wakes nobody and
/// sleeps; cpu1 is idle but for three interrupts.
fn one_second(machine: &mut Machine, from: u64) {
    machine.write(0, from, Event::Mark, [0, 0], 0);
    machine.write(0, from + SECOND / 8, Event::Wakeup, [0, WORKER], 0);
    machine.write(0, from + SECOND / 8, Event::IpiSend, [0xf2, 0], 0);
    machine.write(0, from + SECOND / 4, Event::Switch, [BOOT, sleep()], 3);
    machine.write(0, from + SECOND / 2, Event::CriticalEnter, [0, 0], 3);
    machine.write(0, from + SECOND / 2 + 2500, Event::CriticalExit, [0, 0], 3);
    machine.write(0, from + 3 * SECOND / 4, Event::Switch, [WORKER, sleep()], 1);
    for tick in 0..3 {
        machine.write(1, from + tick * SECOND / 2, Event::IrqEntry, [0xef, 0], 2);
    }
}

#[test]
fn the_numbers_are_those_of_the_records() {
    let mut machine = Machine::new("numbers");
    one_second(&mut machine, 5 * SECOND);
    let view = machine.look();
    assert_eq!((view.seconds, view.uptime, view.records, view.lost), (1.0, 1.0, 10, 0));
    let cpu = |thread: &str, idle, switches, interrupts, ipis, longest| CpuRow {
        thread: thread.to_string(),
        idle,
        switches,
        interrupts,
        ipis,
        longest,
        lost: 0,
    };
    assert_eq!(
        view.cpus,
        [cpu("idle", 0.25, 2.0, 0.0, 1.0, Some(2500)), cpu("idle", 1.0, 0.0, 3.0, 0.0, None)]
    );
    let thread = |number, name: &str, state: &str, share, switches| ThreadRow {
        number,
        name: name.to_string(),
        state: state.to_string(),
        share,
        switches,
    };
    assert_eq!(
        view.threads,
        [thread(3, "worker", "sleeping", 0.5, 1.0), thread(0, "boot", "sleeping", 0.25, 0.0)]
    );

    // For two seconds boot runs on cpu1, and is preempted.
    machine.write(1, 6 * SECOND, Event::Switch, [0x3000, Reason::Idle as u64], 0);
    machine.write(1, 8 * SECOND, Event::Switch, [BOOT, Reason::Preempted as u64], 2);
    let view = machine.look();
    assert_eq!((view.seconds, view.uptime, view.records), (2.0, 3.0, 2));
    assert_eq!(
        view.cpus,
        [cpu("idle", 1.0, 0.0, 0.0, 0.0, None), cpu("idle", 0.0, 1.0, 0.0, 0.0, None)]
    );
    assert_eq!(
        view.threads,
        [thread(0, "boot", "runnable", 1.0, 0.5), thread(3, "worker", "sleeping", 0.0, 0.0)]
    );
    let all = machine.watcher.in_all().expect("there is something");
    assert_eq!((all.seconds, all.uptime, all.records), (3.0, 3.0, 12));
    assert_eq!(all.cpus[0].longest, Some(2500));
    assert_eq!(all.threads[0].share, 0.75);

    // The guest is silent: the clock goes on, and who runs, runs.
    machine.write(1, 8 * SECOND, Event::Switch, [IDLE0, Reason::Idle as u64], 0);
    machine.look();
    let view = machine.look();
    assert_eq!((view.seconds, view.records), (1.0, 0));
    assert_eq!(view.cpus[1], cpu("boot", 0.0, 0.0, 0.0, 0.0, None));
    assert_eq!(view.threads[0], thread(0, "boot", "cpu1", 1.0, 0.0));

    // A thread that has ended is gone.
    machine.write(1, 10 * SECOND, Event::Switch, [BOOT, Reason::Exit as u64], 2);
    let view = machine.look();
    assert!(view.threads.iter().all(|thread| thread.name != "boot"), "{view:?}");
}

/// More records than a ring holds, between two looks.
#[test]
fn what_was_overwritten_is_shown() {
    let mut machine = Machine::new("lost");
    machine.write(0, SECOND, Event::Mark, [0, 0], 0);
    machine.look();
    for time in 0..plat::trace::CAPACITY as u64 + 1000 {
        machine.write(0, SECOND + time, Event::Owed, [0, 0], 0);
    }
    let view = machine.look();
    assert!(view.lost >= 1000 && view.cpus[0].lost == view.lost && view.cpus[1].lost == 0);
    assert_eq!(view.lost + view.records, plat::trace::CAPACITY as u64 + 1000);
    let lines = view.lines(40, None);
    assert!(lines[0].contains(" LOST, "), "{lines:?}");
    assert!(machine.look().lost == 0);
    let all = machine.watcher.in_all().expect("there is something");
    assert_eq!(all.lost, view.lost);
}

#[test]
fn before_there_is_a_trace_there_is_nothing_to_see() {
    let mut machine = Machine::new("nothing");
    let look = |machine: &mut Machine| machine.watcher.look(Duration::ZERO).expect("no error");
    assert_eq!(look(&mut machine), None, "no file");
    paths::write(&machine.file, [0; 5000]).expect("a file");
    assert_eq!(look(&mut machine), None, "no header");
    assert_eq!(machine.watcher.in_all(), None);
    let view = machine.look();
    assert_eq!((view.seconds, view.records, view.cpus.len()), (0.0, 0, 2));
    assert_eq!(machine.watcher.in_all(), None);
    assert!(view.lines(40, None).iter().all(|line| !line.contains("NaN")));
}

#[test]
fn the_view_fits_any_terminal() {
    let mut machine = Machine::new("fits");
    one_second(&mut machine, SECOND);
    let view = machine.look();
    let wide = "\
1.00 s: 10 records, 0.0 MiB/s
CPU    thread        idle   sw/s  irq/s   longest  IPI/s   lost
cpu0   idle           25%      2      0   2.50 us      1      0
cpu1   idle          100%      0      3         -      0      0

thread name              CPU state       sw/s
     3 worker            50% sleeping       1
     0 boot              25% sleeping       0";
    assert_eq!(view.lines(80, None).join("\n"), wide);
    let narrow = "\
1.00 s: 10 records, 0.0 MiB/s
CPU    thread        idle   sw/s  irq/s
cpu0   idle           25%      2      0
cpu1   idle          100%      0      3

thread name              CPU state
     3 worker            50% sleeping
     0 boot              25% sleeping";
    assert_eq!(view.lines(40, Some(8)).join("\n"), narrow);
    let low = view.lines(40, Some(4));
    assert_eq!(low[2..], ["cpu0   idle           25%      2      0", "... 5 more"]);
    for (width, height) in (0..90).flat_map(|width| (1..10).map(move |height| (width, height))) {
        let lines = view.lines(width, Some(height));
        assert!(lines.len() <= height, "{width} {height}: {lines:?}");
        assert!(lines.iter().all(|line| line.chars().count() <= width), "{width}: {lines:?}");
    }
}

#[test]
fn a_number_takes_five_characters_at_most() {
    let told =
        [0.0, 0.4, 7.0, 999.4, 999.6, 1000.0, 9_949.0, 99_500.0, 123_456.0, 2.5e6, 7e9, 8e11];
    let expected =
        ["0", "0", "7", "999", "1.0k", "1.0k", "9.9k", "100k", "123k", "2.5M", "7.0G", "800G"];
    assert_eq!(told.map(compact), expected);
}
