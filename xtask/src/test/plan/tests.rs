use clap::Parser;

use super::*;

fn planned(test: &Arc<Test>, words: &str) -> Vec<Job> {
    let words = format!("test {words}");
    let options = Options::try_parse_from(words.split_whitespace()).expect("it is right");
    plan(std::slice::from_ref(test), &options, 7, Path::new("d"))
}

fn test(qemu: &[&str], boot: BootPath) -> Arc<Test> {
    Arc::new(Test {
        smp: 2..=8,
        qemu: qemu.iter().map(OsString::from).collect(),
        boot,
        ..Test::named("a::b")
    })
}

fn jobs(test: Arc<Test>, repeat: u32) -> Vec<Job> {
    planned(&test, &format!("--smp 1,2,4 --repeat {repeat}"))
}

/// The numbers of CPUs with which a test that can run with `range` is run if `--smp` is
/// `asked`, and why it is not.
fn boots(range: std::ops::RangeInclusive<u32>, asked: Option<&str>) -> (Vec<u32>, Option<String>) {
    let mut test = test(&[], BootPath::Pvh);
    Arc::make_mut(&mut test).smp = range;
    let smp = asked.map_or(String::new(), |asked| format!("--smp {asked}"));
    let jobs = planned(&test, &smp);
    let ignored = jobs.iter().find_map(|job| job.ignored.clone());
    (jobs.iter().map(|job| job.smp).collect(), ignored)
}

#[test]
fn a_test_runs_with_each_number_of_cpus_it_can() {
    let jobs = jobs(test(&[], BootPath::Pvh), 1);
    assert_eq!(jobs.iter().map(|job| job.smp).collect::<Vec<_>>(), [2, 4]);
    assert!(jobs.iter().all(|job| job.ignored.is_none()));
    assert_eq!(jobs[1].dir, Path::new("d/a.b-smp4"));
    assert_eq!(jobs[1].title(), "a::b (smp 4)");
}

#[test]
fn a_plain_run_leaves_no_number_of_cpus_out() {
    for (range, smp) in
        [(1..=u32::MAX, 4), (4..=4, 4), (2..=2, 2), (1..=2, 2), (8..=u32::MAX, 8), (5..=6, 5)]
    {
        assert_eq!(boots(range, None), (vec![smp], None));
    }
}

#[test]
fn what_is_asked_for_is_meant() {
    assert_eq!(boots(2..=2, Some("1,2,4")), (vec![2], None));
    assert_eq!(boots(3..=8, Some("4,8")), (vec![4, 8], None));
    let reason = |text: &str| Some(text.to_string());
    let two = reason("needs 2 CPUs, which --smp does not name");
    assert_eq!(boots(2..=2, Some("4")), (vec![4], two));
    let more = reason("needs 3 to 8 CPUs, which --smp does not name");
    assert_eq!(boots(3..=8, Some("1,2")), (vec![1], more));
    let many = reason("needs at least 9 CPUs, which --smp does not name");
    assert_eq!(boots(9..=u32::MAX, Some("4")), (vec![4], many));
}

#[test]
fn what_is_ignored_is_said_once_however_often_it_is_repeated() {
    let mut nine = test(&[], BootPath::Pvh);
    Arc::make_mut(&mut nine).smp = 9..=9;
    for (test, runs) in [(test(&[], BootPath::Pvh), 3), (nine, 1)] {
        let smps = if runs == 3 { &[2, 4][..] } else { &[1] };
        let expected: Vec<_> =
            (0..runs).flat_map(|run| smps.iter().map(move |&smp| (smp, run))).collect();
        let jobs = jobs(test, 3);
        let found: Vec<_> = jobs.iter().map(|job| (job.smp, job.run)).collect();
        assert_eq!(found, expected);
        assert!(jobs.iter().all(|job| job.ignored.is_some() == (runs == 1)));
    }
}

#[test]
fn a_test_that_takes_long_runs_if_it_is_named() {
    let mut long = test(&["-smp", "8"], BootPath::Pvh);
    Arc::make_mut(&mut long).long = true;
    let named = |name: &str| planned(&long, name);
    assert!(named("a::").iter().all(|job| job.ignored.is_some()));
    assert!(named("a::b").iter().all(|job| job.ignored.is_none()));
}

#[test]
fn a_test_with_its_own_machine_runs_once() {
    let own = jobs(test(&["-smp", "6,sockets=2,cores=3"], BootPath::Pvh), 1);
    assert_eq!(own.iter().map(|job| job.smp).collect::<Vec<_>>(), [6]);
    let image = jobs(test(&[], BootPath::Bios), 1);
    assert_eq!(image.iter().map(Job::title).collect::<Vec<_>>(), ["a::b (smp 4, bios)"]);
}

#[test]
fn repetitions_have_seeds_and_folders_of_their_own() {
    let jobs = jobs(test(&["-smp", "2"], BootPath::Pvh), 2);
    assert_eq!(jobs[0].seed, 7);
    assert_ne!(jobs[1].seed, 7);
    assert_eq!(jobs[1].dir, Path::new("d/a.b-smp2-run2"));
}

#[test]
fn a_boot_replays_with_the_seed_it_reports() {
    let seed = nth(7, 3);
    assert_ne!(seed, nth(7, 4));
    assert_eq!(nth(seed, 0), seed);
}

#[test]
fn splitmix_matches_its_reference() {
    assert_eq!(splitmix64(0), 0xe220_a839_7b1d_cdaf);
}

fn test_of(qemu: &str, boot: BootPath) -> Test {
    Test {
        qemu: qemu.split_whitespace().map(OsString::from).collect(),
        boot,
        ..Test::named("a::b")
    }
}

#[test]
fn what_bochs_does_not_have_is_named() {
    let of = |qemu| bochs_memory(&test_of(qemu, BootPath::Pvh));
    assert_eq!(of(""), Ok(None));
    assert_eq!(of("-smp 8 -m 64"), Ok(Some(64)));
    assert_eq!(of("-cpu max,+monitor -m 512"), Ok(Some(512)));
    assert_eq!(of("-cpu max"), Ok(None));
    assert_eq!(of("-device isa-debug-exit,iobase=0x500"), Ok(None));
    for lacking in [
        "-smp 6,sockets=2,cores=3",
        "-smp 16",
        "-m 3072",
        "-cpu qemu64",
        "-cpu max,-x2apic",
        "-cpu maximum",
        "-device pvpanic",
        "-accel tcg,thread=multi",
    ] {
        let reason = format!("does not apply to Bochs: needs QEMU's {lacking}");
        assert_eq!(of(lacking), Err(reason));
    }
    assert!(of("-smp 2 -nographic").is_err());
    let monitor = Test { needs_qemu: true, ..test_of("", BootPath::Pvh) };
    assert!(bochs_memory(&monitor).is_err());
    let uefi = bochs_memory(&test_of("", BootPath::Uefi));
    assert_eq!(uefi, Err("does not apply to Bochs: boots by UEFI".into()));
}
