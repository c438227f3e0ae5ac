//! `cargo xtask trace`: boots a kernel that traces, and reads the trace out of its memory.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plat::trace::{Group, Groups};

use crate::cargo::{KERNEL, KTEST};
use crate::cli::args::{BootOptions, CPUS, MachineOptions, number, output};
use crate::cli::live;
use crate::error::{Exit, Ours, Result, reported, usage};
use crate::test::registry::{self, Test};
use crate::test::{judge, limits};
use crate::trace::svg::View;
use crate::trace::top::Watcher;
use crate::trace::{Trace, html, names, perfetto, saved, summary, svg};
use crate::vm::boot::{Boot, Ended, MemoryFile};
use crate::vm::budget::LIMITS;
use crate::vm::emulator::{Emulator, Kind};
use crate::vm::ending::{self, Ending};
use crate::vm::machine::{BootPath, Machine};
use crate::vm::process::Echo;
use crate::vm::{accel, cmdline, image};
use crate::{interrupt, lock, paths, term, tools};
use symbols::Symbols;

/// What is traced by default: all but what fills the rings soonest.
const GROUPS: &str = "all,-lock";

/// What traces the kernel itself.
const RUN: &str = "run";

/// The command line of `cargo xtask trace`.
#[derive(clap::Args)]
#[command(mut_arg("append", |append| append.help("More words for the kernel's command line")))]
#[command(mut_arg("emulator", |emulator| emulator.hide(true)))]
#[command(after_help = after_help())]
pub(crate) struct Options {
    /// The test to trace, or a part of its name that no other has;
    /// or `run`, the kernel itself (the default)
    #[arg(value_name = "TEST | run", verbatim_doc_comment)]
    what: Option<String>,
    /// Write JSON for Perfetto, which is at ui.perfetto.dev.
    #[arg(short, long, value_name = "FILE", value_parser = output())]
    out: Option<PathBuf>,
    /// Keep the trace itself, for --from.
    #[arg(long, value_name = "FILE", value_parser = output())]
    save: Option<PathBuf>,
    /// Draw a timeline of some of it: SVG, for a browser.
    #[arg(long, value_name = "FILE", value_parser = output())]
    svg: Option<PathBuf>,
    /// With --svg: around this time, in milliseconds after the kernel's entry (default: what looks
    /// wrong, or the last of what is remarkable).
    #[arg(long, value_name = "MS", value_parser = milliseconds, requires = "svg")]
    around: Option<u64>,
    /// Write a page to walk through it, for a browser.
    #[arg(long, value_name = "FILE", value_parser = output())]
    html: Option<PathBuf>,
    /// Boot nothing: show a trace that --save has kept.
    #[arg(long, value_name = "FILE")]
    #[arg(conflicts_with_all = ["what", "groups", "seed", "smp", "append", "mem", "accel"])]
    #[arg(conflicts_with_all = ["debug", "extra", "emulator", "boot", "timeout_scale", "top"])]
    from: Option<PathBuf>,
    /// Show what each CPU does while it runs.
    #[arg(long)]
    top: bool,
    /// What to trace.
    #[arg(long, value_name = "GROUPS", default_value = GROUPS)]
    #[arg(allow_hyphen_values = true, value_parser = parsed_groups)]
    groups: Groups,
    /// The test's seed.
    #[arg(long, value_name = "N", default_value = "0", value_parser = number)]
    seed: u64,
    #[command(flatten)]
    machine: MachineOptions,
    #[command(flatten)]
    boot: BootOptions,
}

fn after_help() -> String {
    let line = |group: &Group| format!("  {:<12} {}", group.word(), group.about());
    let groups = Group::ALL.iter().map(line).collect::<Vec<_>>().join("\n");
    format!(
        "\
Without an option that names a file it prints a table. Each CPU keeps its last {} records.
GROUPS are `all` or words separated by commas; -WORD leaves one out:
{groups}
Ctrl-C, or q with --top, ends the machine; the trace until then is written all the same. The console is in
target/trace/console.log. Exit codes: as those of `run`; for a TEST 1 if it fails.",
        plat::trace::CAPACITY
    )
}

fn parsed_groups(text: &str) -> std::result::Result<Groups, String> {
    let mut wrong = None;
    let groups = Groups::parse(text, &mut |word| {
        wrong.get_or_insert(word);
    });
    let words = || Group::ALL.iter().map(|group| group.word()).collect::<Vec<_>>().join(", ");
    match wrong {
        Some(word) => Err(format!("{word:?} is no group; there are: {}, all", words())),
        None if groups.is_empty() => Err(format!("that is no group; there are: {}, all", words())),
        None => Ok(groups),
    }
}

/// A time in milliseconds, as nanoseconds.
fn milliseconds(text: &str) -> std::result::Result<u64, &'static str> {
    let time = text.parse().ok().filter(|time: &f64| (0.0..1e12).contains(time));
    time.map(|time| (time * 1e6) as u64).ok_or("it is not a time, such as 12.5")
}

/// `cargo xtask trace`.
///
/// # Errors
/// If something cannot be set up or built, the kernel does not end well, or a file is bad.
pub(crate) fn command(options: Options) -> Result<()> {
    options.check()?;
    let (trace, verdict) = match &options.from {
        Some(file) => {
            let bytes = paths::read(file).map_err(|error| error.hint(saved::MAKE_ONE))?;
            (saved::parse(&bytes, &paths::shown(file))?, Ok(()))
        }
        None => traced(&Request {
            command: "trace",
            test: options.what.as_deref().filter(|what| *what != RUN),
            groups: options.groups,
            seed: options.seed,
            machine: &options.machine,
            boot: &options.boot,
            top: options.top,
        })?,
    };
    options.write(&trace)?;
    verdict
}

/// `cargo xtask run --top`: boots the kernel and shows what each CPU does.
///
/// # Errors
/// As [`command`].
pub(crate) fn watch(machine: &MachineOptions, boot: &BootOptions) -> Result<()> {
    let groups = parsed_groups(GROUPS).map_err(|text| usage("run", text))?;
    let request = Request { command: "run", test: None, groups, seed: 0, machine, boot, top: true };
    request.check()?;
    traced(&request)?.1
}

/// What to boot.
struct Request<'a> {
    /// The command that asks for it.
    command: &'static str,
    test: Option<&'a str>,
    groups: Groups,
    seed: u64,
    machine: &'a MachineOptions,
    boot: &'a BootOptions,
    top: bool,
}

impl Request<'_> {
    fn check(&self) -> Result<()> {
        if self.boot.emulator == Kind::Bochs {
            return Err(usage(self.command, "Bochs keeps no memory in a file: trace in QEMU"));
        }
        self.machine.one_smp(self.command).map(drop)
    }
}

impl Options {
    /// The files to write, with the options that name them.
    fn files(&self) -> Vec<(&'static str, &PathBuf)> {
        let drawn = [("--svg", &self.svg), ("--html", &self.html)];
        let files = [("--out", &self.out), ("--save", &self.save)].into_iter().chain(drawn);
        files.filter_map(|(option, file)| Some((option, file.as_ref()?))).collect()
    }

    /// Checks the names of files together.
    fn check(&self) -> Result<()> {
        let files = self.files();
        for (at, (option, file)) in files.iter().enumerate() {
            if let Some((other, _)) = files[..at].iter().find(|(_, other)| paths::same(file, other))
            {
                return Err(usage("trace", format!("{other} and {option} name the same file")));
            }
        }
        Ok(())
    }

    /// Writes what is asked for.
    fn write(&self, trace: &Trace) -> Result<()> {
        let title = self.what.as_deref().unwrap_or("A trace");
        if let Some(file) = &self.svg {
            let view = View { around: self.around, ..View::default() };
            paths::write(file, svg::picture(trace, title, view))?;
            say!("{}: open it in a browser", paths::shown(file));
        }
        if let Some(file) = &self.html {
            let panel = html::Panel { title: "All records", trace };
            paths::write(file, html::page(title, "", &[panel]))?;
            say!("{}: open it in a browser", paths::shown(file));
        }
        if let Some(file) = &self.out {
            paths::write(file, perfetto::json(trace))?;
            say!("{}: open it at https://ui.perfetto.dev", paths::shown(file));
        }
        if let Some(file) = &self.save {
            paths::write(file, saved::bytes(trace))?;
            say!("{}: show it by cargo xtask trace --from", paths::shown(file));
        }
        if self.files().is_empty() && !self.top {
            term::say(&summary::text(trace));
        }
        Ok(())
    }
}

/// What is booted.
struct Guest {
    elf: PathBuf,
    test: Option<Test>,
    machine: Machine,
}

impl Guest {
    fn name(&self) -> &str {
        self.test.as_ref().map_or("the kernel", |test| &test.name)
    }
}

/// Boots what is asked for. Returns the trace, and whether the boot went well.
fn traced(request: &Request<'_>) -> Result<(Trace, Result<()>)> {
    request.check()?;
    let emulator = tools::emulator(Kind::Qemu)?;
    let own = lock::folder(request.command, request.command)?;
    let guest = guest(request, &emulator, &own.dir)?;
    let memory = MemoryFile::new(&own.dir);
    interrupt::watch()?;
    say!("$ {}", emulator.command_line(&guest.machine, &own.dir));
    let ended = boot(request, &emulator, &guest, &own.dir, &memory);
    let trace = match &ended {
        Err(error) if interrupt::requested().is_none() => Err(error.copied()),
        _ => names::read(&memory, guest.machine.low_memory(), &guest.elf),
    };
    let verdict = match ended {
        Ok(ended) => verdict(&guest, &ended, &own.dir, request.machine.ask()),
        Err(interrupted) => Err(interrupted),
    };
    match (trace, verdict) {
        (Ok(trace), verdict) => Ok((trace, verdict)),
        (Err(_), Err(verdict)) if interrupt::requested().is_some() => Err(verdict),
        (Err(error), _) => Err(error),
    }
}

/// Builds what is asked for, and its machine.
fn guest(request: &Request<'_>, emulator: &Emulator, dir: &Path) -> Result<Guest> {
    let (command, asked) = (request.command, request.machine);
    let kernel = request.test.map_or(KERNEL, |_| KTEST);
    let elf = image::built_into(dir, kernel, asked.debug)?;
    let test = match request.test {
        Some(name) => Some(registry::find(registry::read(&paths::read(&elf)?)?, name, command)?),
        None => None,
    };
    let more = format!("trace={} {}", request.groups, asked.append);
    let more = more.trim_end();
    let append = match &test {
        Some(test) => test.command_line(request.seed, more),
        None => more.to_string(),
    };
    let of_test = test.iter().flat_map(|test| test.qemu.iter().cloned());
    let extra: Vec<OsString> = of_test.chain(asked.extra()).collect();
    let path = request.boot.boot.or(test.as_ref().map(|test| test.boot)).unwrap_or(BootPath::Pvh);
    cmdline::check(command, path, &append, &extra)?;
    tools::images(&[path], true);
    let medium = image::medium(emulator, path, &elf, &append, dir, || {
        let image = dir.join(format!("{}.img", path.name()));
        image::make(path, &elf, &append, &image).map(|()| image)
    })?;
    let smp = asked.one_smp(command)?.unwrap_or(CPUS);
    let mut machine = Machine {
        smp: test.as_ref().map_or(smp, |test| test.nearest(smp)),
        mem: asked.mem,
        accel: if test.is_some() { "tcg,thread=single" } else { "tcg" }.to_string(),
        medium,
        extra,
    };
    accel::settle(command, emulator, &mut machine, asked.accel.as_deref(), asked.ask(), dir)?;
    machine.memory_in(Path::new("")).map_err(|why| {
        usage(command, format!("the memory of this machine cannot be read: {why}"))
    })?;
    Ok(Guest { elf, test, machine })
}

fn boot(
    request: &Request<'_>,
    emulator: &Emulator,
    guest: &Guest,
    dir: &Path,
    memory: &Path,
) -> Result<Ended> {
    let symbols = Arc::new(Symbols::new(&guest.elf, &paths::root()));
    let run = || {
        let boot = Boot {
            emulator,
            machine: &guest.machine,
            dir,
            symbols: &symbols,
            echo: Echo::Off,
            limits: guest.test.as_ref().map_or(LIMITS, limits),
            timeout_scale: request.boot.timeout_scale,
            core: None,
            memory: Some(memory),
            watcher: None,
        };
        boot.run()
    };
    if !request.top {
        return run();
    }
    let watcher = Watcher::new(memory, guest.machine.low_memory());
    live::show(guest.name(), watcher, run)?
}

/// Says how the boot ended; an error if it did not end well.
fn verdict(guest: &Guest, ended: &Ended, dir: &Path, asked: bool) -> Result<()> {
    let ending = match &guest.test {
        Some(test) => judge(test, ended),
        None => ended.ending.clone(),
    };
    let expected = guest.test.as_ref().map_or(ending::Kind::Pass, |test| test.expect);
    let is_good = ending.kind == expected || ending.kind == ending::Kind::Ignored;
    let exit = if is_good { None } else { ending.exit(asked).or(Some(Exit::Failed)) };
    let what = guest.name();
    let Ending { kind, text, .. } = &ending;
    let word = if is_good { term::green("ok") } else { term::red(kind.word()) };
    say!("xtask: {what}: {word} after {:.2} s: {text}", ended.time.as_secs_f64());
    let Some(exit) = exit else { return Ok(()) };
    say!("xtask: console log: {}", paths::shown(&dir.join("console.log")));
    Err(reported(exit))
}
