use super::*;

const S: Duration = Duration::from_secs(1);

fn clock(seconds: u32) -> Option<String> {
    Some(format!("no output for {seconds} s"))
}

fn cpu(seconds: u32) -> Option<String> {
    Some(format!("no output for {seconds} s of the emulator's CPU time"))
}

fn total(seconds: u32) -> Option<String> {
    Some(format!("not finished after {seconds} s of the emulator's CPU time"))
}

#[test]
fn a_busy_host_is_not_the_guests_fault() {
    let start = Instant::now();
    let mut budget = Budget::new(1.0, LIMITS, start);
    assert_eq!(budget.check(1, Some(S), start + 50 * S), None);
    assert_eq!(budget.check(1, Some(2 * S), start + 109 * S), None);
    assert_eq!(budget.check(1, Some(2 * S), start + 111 * S), clock(60));
}

/// A test that expects to hang need not wait a minute.
#[test]
fn who_has_less_patience_waits_less_for_an_idle_guest() {
    let start = Instant::now();
    let mut budget = Budget::new(1.0, Limits { quiet: S, total: 300 * S }, start);
    assert_eq!(budget.check(1, Some(S), start), None);
    assert_eq!(budget.check(1, Some(S + S / 2), start + 5 * S), None, "at work");
    assert_eq!(budget.check(1, Some(S + S / 2), start + 10 * S), None);
    assert_eq!(budget.check(1, Some(S + S / 2), start + 12 * S), clock(6));
    let mut budget = Budget::new(1.0, Limits { quiet: 60 * S, total: 300 * S }, start);
    assert_eq!(budget.check(1, Some(S), start), None);
    assert_eq!(budget.check(1, Some(S), start + 61 * S), clock(60), "never longer");
}

#[test]
fn who_is_at_work_in_silence_is_not_idle_and_who_was_is() {
    let start = Instant::now();
    let mut budget = Budget::new(1.0, LIMITS, start);
    assert_eq!(budget.check(1, Some(S), start), None);
    assert_eq!(budget.check(1, Some(4 * S), start + 59 * S), None);
    assert_eq!(budget.check(1, Some(7 * S), start + 118 * S), None);
    assert_eq!(budget.check(1, Some(8 * S), start + 177 * S), None);
    assert_eq!(budget.check(1, Some(8 * S), start + 179 * S), clock(60));
    assert_eq!(budget.check(1, Some(12 * S), start + 180 * S), cpu(10));
}

#[test]
fn a_spinning_guest_is_found_by_its_cpu_time() {
    let start = Instant::now();
    let mut budget = Budget::new(2.0, LIMITS, start);
    assert_eq!(budget.check(5, Some(30 * S), start), None);
    assert_eq!(budget.check(5, Some(49 * S), start), None);
    assert_eq!(budget.check(5, Some(51 * S), start), cpu(20));
    assert_eq!(budget.check(6, Some(51 * S), start), None);
    assert_eq!(budget.check(9, Some(601 * S), start), total(600));
}

#[test]
fn without_cpu_times_the_clock_decides() {
    let start = Instant::now();
    let mut budget = Budget::new(1.0, LIMITS, start);
    assert_eq!(budget.check(0, None, start + 9 * S), None);
    assert_eq!(budget.check(0, None, start + 11 * S), clock(10));
    assert_eq!(Budget::new(0.0, LIMITS, start).check(0, None, start + 999 * S), None);
}

#[test]
fn a_process_name_may_hold_blanks_and_brackets() {
    let stat = "12 (qemu) x (y) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0";
    assert_eq!(parse_stat(stat), Some(2 * S));
}
