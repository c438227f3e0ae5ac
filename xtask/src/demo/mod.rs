//! `cargo xtask demo`: shows a bug of kernel history as it happens in this kernel.
//!
//! r222942 is staged ([`r222942`]): booted without its cure and with it, traced, drawn, and told in
//! five sentences. Of every other bug the test that finds it is traced, with the bug and without: a
//! mistake that the test image can make when it is asked to ([`MISTAKES`]), or a patch of `bugs/`, in a
//! copy of the tree.

mod picture;
mod r222942;
mod stage;
mod story;

use std::path::{Path, PathBuf};

use crate::check::bugs::{self, Bug};
use crate::error::{Ours, Result, failed, usage};
use crate::trace::svg::View;
use crate::trace::{Trace, html, saved, svg};
use crate::{interrupt, paths, term};
use stage::{COLUMNS, Stage, written};

/// The command line of `cargo xtask demo`.
#[derive(clap::Args)]
#[command(after_help = "\
It writes NAME.svg, a picture, and NAME.html, a page to walk through both traces, with the bug and
without, for a browser; of other bugs than r222942 also NAME-without.svg, a picture without the bug.
A bug that is a patch of bugs/ is built in a copy of the tree, in target/bugs.
Exit codes: 0 shown, 1 the bug did not show, or its cure does not help, 2 usage, 3 something is
missing on this machine.")]
pub(crate) struct Options {
    /// The bug, or a part of its name that no other has (default: r222942).
    #[arg(value_name = "NAME", default_value = r222942::NAME, hide_default_value = true)]
    name: String,
    /// Print the bugs, show none.
    #[arg(long)]
    list: bool,
    /// The folder for the picture and the page (default: target/demo).
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// A mistake that the test image makes when its command line asks for it.
struct Mistake {
    name: &'static str,
    /// The test that finds it.
    test: &'static str,
    title: &'static str,
    story: &'static str,
}

/// Those whose trace shows something. `docs/bugs.md` has them all.
const MISTAKES: [Mistake; 6] = [
    Mistake {
        name: "regular-section",
        test: "stepping::regular_section_is_found",
        title: "A rendezvous action runs in a section whose exit pays",
        story: "The section around the action must be left without a look at owepreempt. With an \
                ordinary exit the bug of r222942 only moves: the switch comes at the end of the \
                action, and still before the EOI.",
    },
    Mistake {
        name: "eoi-after-switch",
        test: "stepping::eoi_after_switch_is_found",
        title: "An IPI is acknowledged after the preemption that it causes",
        story: "The handler pays what is owed and then writes the EOI. The thread that it switches \
                to runs while the vector is in service, and its CPU hears no interrupt of that class.",
    },
    Mistake {
        name: "early-eoi",
        test: "rendezvous::early_eoi_is_found",
        title: "A rendezvous is acknowledged before it is run, with interrupts on",
        story: "After the EOI the next rendezvous can interrupt the action of this one. The callbacks \
                run on top of each other, and the stack grows with each.",
    },
    Mistake {
        name: "leaked-level",
        test: "stepping::leaked_level_is_found",
        title: "A rendezvous leaves the level of its section behind",
        story: "The interrupt returns with critnest 1 instead of 0. The thread would never be \
                preempted again: the check at the end of the interrupt sees it at once.",
    },
    Mistake {
        name: "uncounted-nmi",
        test: "stepping::uncounted_nmi_is_found",
        title: "An NMI does not count as an interrupt, and a section in it pays",
        story: "An NMI comes anywhere, also into the window W. A section that its handler enters and \
                leaves would pay there: a switch in an NMI, whose end the CPU waits for before it \
                takes another one.",
    },
    Mistake {
        name: "act-then-clear",
        test: "call::act_then_clear_is_found",
        title: "The IPI's handler runs the calls before it clears the word that asked for them",
        story: "A call that comes in between finds the word set, and sends no interrupt. Then the \
                handler clears it: the call is lost.",
    },
];

/// What can be shown.
enum Show {
    R222942,
    Mistake(&'static Mistake),
    Patch(Bug),
}

impl Show {
    fn name(&self) -> &str {
        match self {
            Show::R222942 => r222942::NAME,
            Show::Mistake(mistake) => mistake.name,
            Show::Patch(bug) => &bug.name,
        }
    }

    fn title(&self) -> &str {
        match self {
            Show::R222942 => r222942::TITLE,
            Show::Mistake(mistake) => mistake.title,
            Show::Patch(bug) => &bug.title,
        }
    }
}

/// All of them, in the order of `--list`. A patch that only a model or a host test finds has no
/// machine to trace.
fn all() -> Result<Vec<Show>> {
    let mut shows = vec![Show::R222942];
    shows.extend(MISTAKES.iter().map(Show::Mistake));
    let patches = bugs::chosen(&[])?.into_iter();
    shows.extend(patches.filter(|bug| bug.test().is_some()).map(Show::Patch));
    Ok(shows)
}

/// `cargo xtask demo`.
///
/// # Errors
/// If no bug has this name, something cannot be built or booted, or it does not go as it must.
pub(crate) fn command(options: &Options) -> Result<()> {
    let shows = all()?;
    if options.list {
        for show in &shows {
            say!("{:<30} {}", show.name(), show.title());
        }
        return Ok(());
    }
    let show = chosen(shows, &options.name)?;
    let out = options.out.clone().unwrap_or_else(|| paths::target_dir().join("demo"));
    paths::create_dir(&out)?;
    interrupt::watch()?;
    match &show {
        Show::R222942 => r222942::play(&out),
        Show::Mistake(mistake) => {
            let stage = Stage::new(&[])?;
            let scene = stage.play(mistake.test, true)?;
            let right = stage.without_bug(mistake.test)?;
            tell(&show, mistake.story, &scene.ending.line());
            write(&out, &show, &scene.trace.expect("it is traced"), &right)
        }
        Show::Patch(bug) => {
            let kept = out.join(format!("{}.trace", bug.name));
            let found = bugs::traced(bug, &kept)?;
            let name = paths::shown(&kept);
            let trace = saved::parse(&paths::read(&kept)?, &name)?;
            let _ = std::fs::remove_file(&kept);
            let test = bug.test().and_then(|finder| finder.test_name());
            let test = test.ok_or_else(|| failed("no test in QEMU finds it"))?;
            let right = Stage::new(&[])?.without_bug(test)?;
            tell(&show, &bug.story, &found);
            write(&out, &show, &trace, &right)
        }
    }
}

/// The one that is meant.
fn chosen(shows: Vec<Show>, name: &str) -> Result<Show> {
    let (exact, mut others): (Vec<_>, Vec<_>) =
        shows.into_iter().partition(|show| show.name() == name);
    others.retain(|show| show.name().contains(name));
    let list = "cargo xtask demo --list shows them all";
    match (exact.into_iter().next(), others.len()) {
        (Some(show), _) => Ok(show),
        (None, 1) => Ok(others.remove(0)),
        (None, 0) => Err(usage("demo", format!("no bug's name contains {name:?}")).hint(list)),
        (None, count) => {
            let names: Vec<&str> = others.iter().map(Show::name).collect();
            let text = format!("{count} bugs have {name:?} in their names: {}", names.join(", "));
            Err(usage("demo", text).hint(list))
        }
    }
}

/// Tells what is wrong, the story, and how it was found.
fn tell(show: &Show, story: &str, found: &str) {
    say!("{}: {}\n", show.name(), show.title());
    term::wrapped(story, term::width().min(COLUMNS)).iter().for_each(|line| term::say(line));
    say!("\nfound as: {found}");
}

/// Writes the pictures of two traces, of a test with the bug and without it, and the page of both.
fn write(out: &Path, show: &Show, wrong: &Trace, right: &Trace) -> Result<()> {
    let title = format!("{}: {}", show.name(), show.title());
    let picture = svg::picture(wrong, &title, View::default());
    let panels = [
        html::Panel { title: "with the bug", trace: wrong },
        html::Panel { title: "the same test without it", trace: right },
    ];
    written(out, show.name(), &picture, &html::page(&title, "", &panels))?;
    let file = out.join(format!("{}-without.svg", show.name()));
    let title = format!("{}: the same test without the bug", show.name());
    paths::write(&file, svg::picture(right, &title, View::default()))?;
    say!("picture without the bug: {}", paths::shown(&file));
    Ok(())
}
