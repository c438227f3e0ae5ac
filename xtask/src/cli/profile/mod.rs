//! `cargo xtask profile`: where the CPUs spend their time, as a flame graph and a list.
//!
//! A sampler stops the machine again and again, for a moment that the guest does not see, and notes
//! each CPU's call chain ([`sampler`]). [`shares`] names the functions, sets idle CPUs apart, and
//! adds up. The crate `inferno` draws.

mod paging;
mod sampler;
mod shares;

use std::cell::RefCell;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cargo::{KERNEL, KTEST};
use crate::cli::args::{CPUS, MachineOptions, number, output};
use crate::error::{Context, Ours, Result, anyhow, failed, usage};
use crate::test::{limits, registry};
use crate::vm::boot::{Boot, MemoryFile};
use crate::vm::budget::{LIMITS, Limits};
use crate::vm::emulator::Emulator;
use crate::vm::ending::Kind;
use crate::vm::machine::{BootPath, Machine, Medium};
use crate::vm::process::Echo;
use crate::vm::{accel, cmdline, image};
use crate::{interrupt, lock, paths, term, tools};
use paging::Paging;
use sampler::Sampler;
use shares::Profile;
use symbols::Symbols;

/// What to give in place of a test's name.
const KERNEL_ITSELF: &str = "run";
/// With fewer samples than this, a share of one percent is a guess.
const FEW: u64 = 100;
/// What helps if there is too little to see.
const LONGER: &str = "profile a test that works for longer, such as stress::short, or let it repeat \
                      its work; cargo xtask test --list shows the tests";

/// The command line of `cargo xtask profile`.
#[derive(clap::Args)]
#[command(after_help = "\
QEMU stops all CPUs some hundred times a second; their registers and, in the guest's memory, their
frame pointers give the call chains. The guest's clocks stand still meanwhile, and CPUs with
interrupts off are seen like any. What to keep in mind:
  - Under TCG a stop comes at the beginning of a translated block: a sample names the function, but
    not the exact instruction.
  - Time is the emulator's. TCG has no caches, and all instructions cost about the same: `bench`
    counts them exactly.
  - In a function's first and last instructions its caller is missing from the chain.
  - CPUs that halt or wait in MWAIT count as idle and are left out of the picture.
The folded stacks are one line each, `outer;inner COUNT`, for any flame graph tool.")]
pub(crate) struct Options {
    /// Profile this test, by any part of its name that no other has, or `run`: the kernel itself
    /// (default).
    #[arg(value_name = "TEST", default_value = KERNEL_ITSELF, hide_default_value = true)]
    test: String,
    /// Write the flame graph into FILE (default profile.svg beside the console log).
    #[arg(short, long, value_name = "FILE", value_parser = output())]
    output: Option<PathBuf>,
    /// Write the folded stacks into FILE (default profile.folded there).
    #[arg(long, value_name = "FILE", value_parser = output())]
    folded: Option<PathBuf>,
    /// End the machine after N samples of each CPU (default: when it ends by itself).
    #[arg(long, value_name = "N", value_parser = samples)]
    samples: Option<u64>,
    #[command(flatten)]
    machine: MachineOptions,
    /// The test's seed.
    #[arg(long, value_name = "N", default_value = "0", value_parser = number)]
    seed: u64,
}

fn samples(text: &str) -> std::result::Result<u64, &'static str> {
    let samples = text.parse().ok().filter(|samples| *samples > 0);
    samples.ok_or("it is not a number of samples")
}

/// `cargo xtask profile`.
///
/// # Errors
/// If something is missing, the machine does not start, or there are no samples.
pub(crate) fn command(options: &Options) -> Result<()> {
    let asked = &options.machine;
    let smp = asked.one_smp("profile")?;
    let emulator = Emulator::Qemu(tools::qemu()?);
    interrupt::watch()?;
    let own = lock::folder("profile", "profile")?;
    let dir = &own.dir;
    let image = if options.test == KERNEL_ITSELF { KERNEL } else { KTEST };
    let elf = image::built_into(dir, image, asked.debug)?;
    let Target { name, append, extra, cpus, limits } = target(&elf, options)?;
    let mut machine = Machine {
        smp: smp.unwrap_or(cpus),
        mem: asked.mem,
        // On one thread a CPU that waits for another would wait for that one's turn.
        accel: "tcg,thread=multi".to_string(),
        medium: Medium::Kernel { elf: elf.clone(), append },
        extra,
    };
    let accel = asked.accel.as_deref();
    accel::settle("profile", &emulator, &mut machine, accel, asked.ask(), dir)?;
    let symbols = Arc::new(Symbols::new(&elf, &paths::root()));
    machine.memory_in(Path::new("")).map_err(|why| {
        usage("profile", format!("the memory of this machine cannot be read: {why}"))
    })?;
    let memory = MemoryFile::new(dir);
    let paging = Paging::new(memory.to_path_buf(), machine.low_memory());
    let sampler = RefCell::new(Sampler::new(paging, options.samples));
    let boot = Boot {
        emulator: &emulator,
        machine: &machine,
        dir,
        symbols: &symbols,
        echo: Echo::Off,
        limits,
        timeout_scale: 1.0,
        core: None,
        memory: Some(&memory),
        watcher: Some(&|qmp| sampler.borrow_mut().sample(qmp)),
    };
    let ended = boot.run()?;
    if ended.ending.kind == Kind::Setup {
        return Err(anyhow!("{}", ended.ending.text));
    }
    let sampler = sampler.into_inner();
    let enough = sampler.is_full();
    let samples = sampler.finish()?;
    let console = paths::shown(&dir.join("console.log"));
    if !enough {
        let (word, text) = (ended.ending.kind.word(), &ended.ending.text);
        say!("{name}: {word} after {:.2} s: {text}", ended.time.as_secs_f64());
    }
    let profile = Profile::new(&samples, &symbols);
    if profile.busy() == 0 {
        let none = format!(
            "no samples of {name}: it ended after {:.2} s, in which the machine was stopped {} times \
             and no CPU was found in the kernel and at work ({console} has its console)",
            ended.time.as_secs_f64(),
            samples.rounds
        );
        let next = if enough { "take more --samples: the firmware comes first" } else { LONGER };
        return Err(failed(none).hint(next));
    }
    write(options, dir, &name, &profile)
}

/// What runs.
struct Target {
    /// The test's name, or `run`.
    name: String,
    /// The kernel's command line.
    append: String,
    /// More arguments for QEMU.
    extra: Vec<OsString>,
    /// The number of CPUs, if the command line names none.
    cpus: u32,
    /// The guest's limits.
    limits: Limits,
}

/// What the command line asks for: the kernel, or a test of the image `elf`.
fn target(elf: &Path, options: &Options) -> Result<Target> {
    let asked = &options.machine;
    if options.test == KERNEL_ITSELF {
        let (append, extra) = (asked.append.clone(), asked.extra());
        cmdline::check("profile", BootPath::Pvh, &append, &extra)?;
        let name = options.test.clone();
        return Ok(Target { name, append, extra, cpus: CPUS, limits: LIMITS });
    }
    let test = registry::find(registry::read(&paths::read(elf)?)?, &options.test, "profile")?;
    cmdline::check_test(&test, Some(BootPath::Pvh), asked)?;
    Ok(Target {
        append: test.command_line(options.seed, &asked.append),
        cpus: test.nearest(CPUS),
        limits: limits(&test),
        name: test.name,
        extra: test.qemu.into_iter().chain(asked.extra()).collect(),
    })
}

/// Writes the files and the report.
fn write(options: &Options, dir: &Path, name: &str, profile: &Profile) -> Result<()> {
    let file = |given: &Option<PathBuf>, own: &str| given.clone().unwrap_or_else(|| dir.join(own));
    let svg = file(&options.output, "profile.svg");
    let folded = file(&options.folded, "profile.folded");
    let lines = profile.folded();
    paths::write(&folded, &lines)?;
    paths::write(&svg, draw(&lines, name, profile)?)?;
    report(name, profile);
    say!("flame graph: {}", paths::shown(&svg));
    say!("folded stacks: {}", paths::shown(&folded));
    Ok(())
}

/// The flame graph as an SVG.
fn draw(folded: &str, name: &str, profile: &Profile) -> Result<Vec<u8>> {
    let mut options = inferno::flamegraph::Options::default();
    options.title = format!("Tryst, {name}");
    options.subtitle = Some(format!(
        "{} samples in the kernel; {} idle ones are left out",
        profile.busy(),
        profile.idle
    ));
    options.deterministic = true;
    let mut svg = Vec::new();
    inferno::flamegraph::from_lines(&mut options, folded.lines(), &mut svg)
        .context("the flame graph cannot be drawn")?;
    Ok(svg)
}

/// Says how the samples are spread, and which functions are hot.
fn report(name: &str, profile: &Profile) {
    const SHOWN: usize = 12;
    let (all, busy) = (profile.all(), profile.busy());
    let percent = |part: u64, of: u64| 100.0 * part as f64 / of.max(1) as f64;
    say!(
        "profile of {name}: {all} samples of {} CPUs, at {} moments: {:.1} % idle, {:.1} % before the \
         kernel, {busy} in its functions:",
        profile.cpus,
        profile.rounds,
        percent(profile.idle, all),
        percent(profile.outside, all),
    );
    term::say("   self  with callees  function");
    for hot in profile.hottest().into_iter().take(SHOWN) {
        say!(
            "{:>5.1} % {:>12.1} %  {}",
            percent(hot.own, busy),
            percent(hot.total, busy),
            hot.function
        );
    }
    if busy < FEW {
        say!("Only {busy} samples: the shares are rough. For more, {LONGER}.");
    }
}

#[cfg(test)]
mod tests;
