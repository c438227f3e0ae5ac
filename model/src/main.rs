//! `cargo xtask model`: the explorer. It runs the heart's own source in every order of its steps,
//! and checks named properties.
//!
//! Read `engine` for the machine of a model, `port` for what the heart needs of it, `models` for
//! what runs there, `explore` for the search, and `trace` and `svg` for how a counterexample is
//! shown.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

mod bugs;
mod engine;
mod explore;
mod models;
mod port;
mod stack;
mod svg;
mod trace;
mod violation;

use bugs::{BUGS, Bug};
use explore::{End, Limits, Outcome};
use models::{MODELS, Model, Tier};
use violation::{Property, Violation};

const HELP: &str = "\
Explore every interleaving of the heart's own source, within stated bounds.

Usage: cargo xtask model [NAME] [--full] [--bug BUG] [--find MODEL] [--svg FILE]

  NAME                only the models whose name contains the word
      --full          the large models too (a minute more)
      --bug BUG       bring a mistake back and print how it goes wrong, in few steps
      --bugs          bring back every mistake, in short: each must be found
      --find MODEL    find what is wrong in this model after a change of the tree, and
                      print it as above (see `cargo xtask bugs`)
      --svg FILE      write the counterexample as a picture too
      --states N      give up a model at N states (default 30 million)
      --list          models, mistakes and properties; nothing is run

Without --bug all properties must hold in all models, and every mistake must be found. With
--bug the mistake must be found, and with --find something. Exit codes: 0 as expected, 1 not, 2 usage.";

struct Options {
    name: Option<String>,
    full: bool,
    bug: Option<(Bug, &'static str)>,
    bugs: bool,
    find: Option<&'static Model>,
    svg: Option<PathBuf>,
    states: usize,
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(Some(options)) => options,
        Ok(None) => return ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("error: {text}\n  next: see `cargo xtask model --help`");
            return ExitCode::from(2);
        }
    };
    catch_panics();
    let ok = match (options.bug, options.find) {
        (Some((bug, home)), _) => one_bug(bug, home, &options),
        (None, Some(model)) => find_and_show(None, model, &options),
        _ if options.bugs => all_bugs(),
        _ => all_models(&options) && (options.name.is_some() || all_bugs()),
    };
    ExitCode::from(u8::from(!ok))
}

fn options() -> Result<Option<Options>, String> {
    use lexopt::Arg::{Long, Short, Value};
    let mut options = Options {
        name: None,
        full: false,
        bug: None,
        bugs: false,
        find: None,
        svg: None,
        states: 30_000_000,
    };
    let mut parser = lexopt::Parser::from_env();
    let error = |error: lexopt::Error| error.to_string();
    let text = |value: std::ffi::OsString| value.to_string_lossy().into_owned();
    while let Some(word) = parser.next().map_err(error)? {
        match word {
            Long("help") | Short('h') => {
                println!("{HELP}");
                return Ok(None);
            }
            Long("list") => {
                list();
                return Ok(None);
            }
            // Understood everywhere; there is no colour here.
            Long("color") => {
                let when = text(parser.value().map_err(error)?);
                if !["auto", "always", "never"].contains(&&*when) {
                    return Err(format!("--color: {when:?} is not auto, always or never"));
                }
            }
            Long("full") => options.full = true,
            Long("bugs") => options.bugs = true,
            Long("find") => {
                let value = text(parser.value().map_err(error)?);
                options.find = model(&value);
                if options.find.is_none() {
                    return Err(format!("there is no model {value:?}"));
                }
            }
            Long("svg") => options.svg = Some(parser.value().map_err(error)?.into()),
            Long("states") => {
                let value = text(parser.value().map_err(error)?);
                let number = value
                    .parse()
                    .map_err(|_| format!("--states: {value:?} is no number"))?;
                options.states = number;
            }
            Long("bug") => {
                let name = text(parser.value().map_err(error)?);
                let row = BUGS.iter().find(|(_, known, ..)| *known == name);
                let names: Vec<_> = BUGS.iter().map(|(_, name, ..)| *name).collect();
                let row = row.ok_or_else(|| {
                    format!(
                        "there is no mistake {name:?}; there are {}",
                        names.join(", ")
                    )
                })?;
                options.bug = Some((row.0, row.2));
            }
            Value(name) if options.name.is_none() => options.name = Some(text(name)),
            other => return Err(other.unexpected().to_string()),
        }
    }
    if options.svg.is_some() && options.bug.is_none() && options.find.is_none() {
        return Err("--svg needs --bug or --find".into());
    }
    if let Some(file) = &options.svg {
        // Found out now, and not after the search.
        writable(file).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
    }
    if let Some(name) = &options.name
        && !MODELS
            .iter()
            .any(|model| model.name.contains(name.as_str()))
    {
        return Err(format!("no model's name contains {name:?}"));
    }
    Ok(Some(options))
}

/// Makes the folder of a file, and the file if there is none.
fn writable(file: &Path) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let file = std::fs::File::options()
        .append(true)
        .create(true)
        .open(file);
    file.map(drop)
}

fn list() {
    println!("models:");
    for model in MODELS {
        let tier = match model.tier {
            Tier::Quick => "",
            Tier::Full => " (--full)",
            Tier::ByName => " (by its name only)",
        };
        println!("  {:<22} {}{tier}", model.name, model.about);
    }
    println!("\nmistakes, and the model that finds each:");
    for (_, name, home, about) in BUGS {
        println!("  {name:<24} {home:<20} {about}");
    }
    println!("\nproperties:");
    for (_, name, about) in Property::ALL {
        println!("  {name:<34} {about}");
    }
}

/// A panic of the heart is a property that does not hold: the run ends there. Its stack is not
/// unwound; each exploration has an OS thread of its own, so that one is all there is.
fn catch_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if engine::is_inside() {
            let text = info.payload_as_str().unwrap_or("a panic").to_string();
            engine::fail(Property::Assertion, text);
        }
        usual(info);
    }));
}

/// Runs `work` on an OS thread of its own.
fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(16 << 20);
        let thread = thread.spawn_scoped(scope, work).expect("a thread");
        thread.join().expect("an explorer does not panic")
    })
}

fn explore(model: &Model, phases: [models::Kind; 3], bug: Option<Bug>, limits: Limits) -> Outcome {
    apart(|| {
        port::configure(model.config(bug));
        models::choose_phases(phases);
        explore::explore(model.setup(), limits)
    })
}

/// All explorations of a model, added up; the first that does not end well is the last.
fn explore_all(model: &Model, bug: Option<Bug>, limits: Limits) -> (Outcome, [models::Kind; 3]) {
    let mut sum: Option<Outcome> = None;
    let mut last = model.phases[0];
    for &phases in model.phases {
        last = phases;
        let one = explore(model, phases, bug, limits);
        let (states, steps, time) = sum.map_or((0, 0, std::time::Duration::ZERO), |sum| {
            (sum.states, sum.steps, sum.time)
        });
        let ends = !matches!(one.end, End::Exhausted);
        sum = Some(Outcome {
            states: states + one.states,
            steps: steps + one.steps,
            time: time + one.time,
            end: one.end,
        });
        if ends {
            break;
        }
    }
    (sum.expect("a model has phases"), last)
}

/// Runs the models, two at a time. Returns whether all properties hold.
fn all_models(options: &Options) -> bool {
    let wanted = |model: &&Model| {
        let named = options.name.as_ref();
        named.map_or(
            model.tier == Tier::Quick || options.full && model.tier == Tier::Full,
            |name| model.name.contains(name.as_str()),
        )
    };
    let queue = Mutex::new(MODELS.iter().filter(wanted));
    let results = Mutex::new((true, 0_usize));
    let started = Instant::now();
    println!(
        "{:<22} {:>12} {:>13} {:>8}  bounds",
        "model", "states", "steps", "seconds"
    );
    let worker = || {
        loop {
            let Some(model) = queue.lock().expect("no panic").next() else {
                break;
            };
            let limits = Limits {
                states: options.states,
                deviations: model.deviations,
            };
            let (outcome, phases) = explore_all(model, None, limits);
            let mut results = results.lock().expect("no panic");
            results.1 += outcome.states;
            println!(
                "{:<22} {:>12} {:>13} {:>8.1}  {}",
                model.name,
                outcome.states,
                outcome.steps,
                outcome.time.as_secs_f64(),
                model.about
            );
            match outcome.end {
                End::Exhausted => {}
                End::TooMany => {
                    println!("  not exhausted: more states than allowed");
                    results.0 = false;
                }
                End::Violated(violation, choices, owners) => {
                    println!("  {violation}");
                    results.0 = false;
                    let (violation, choices, owners) =
                        shortest(model, phases, None).unwrap_or((violation, choices, owners));
                    show(
                        model,
                        phases,
                        None,
                        &violation,
                        &choices,
                        owners,
                        options.svg.as_deref(),
                    );
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let cores = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(2);
        (0..cores).for_each(|_| drop(scope.spawn(worker)));
    });
    let (ok, states) = results.into_inner().expect("no panic");
    println!(
        "{states} states in {:.1} s: {}",
        started.elapsed().as_secs_f64(),
        if ok {
            "all properties hold in all of them"
        } else {
            "NOT all well"
        }
    );
    ok
}

type Found = (Violation, Vec<u8>, Vec<u8>);

/// The counterexample with the fewest deviations.
fn shortest(model: &Model, phases: [models::Kind; 3], bug: Option<Bug>) -> Option<Found> {
    for deviations in 0..=8 {
        let limits = Limits {
            states: 300_000,
            deviations: Some(deviations),
        };
        if let End::Violated(violation, choices, owners) = explore(model, phases, bug, limits).end {
            return Some((violation, choices, owners));
        }
    }
    None
}

/// Finds what is wrong in a model, with a mistake brought back or without.
fn find(bug: Option<Bug>, model: &Model) -> Option<([models::Kind; 3], Found)> {
    for &phases in model.phases.iter().rev() {
        if let Some(found) = shortest(model, phases, bug) {
            return Some((phases, found));
        }
    }
    // Some properties are of all states together.
    for &phases in model.phases.iter().rev() {
        let limits = Limits {
            states: 3_000_000,
            deviations: None,
        };
        if let End::Violated(violation, choices, owners) = explore(model, phases, bug, limits).end {
            return Some((phases, (violation, choices, owners)));
        }
    }
    None
}

fn one_bug(bug: Bug, home: &'static str, options: &Options) -> bool {
    let home = options.name.as_deref().unwrap_or(home);
    let Some(model) = model(home) else {
        println!("{}: NOT found: there is no model {home}", bug.name());
        return false;
    };
    find_and_show(Some(bug), model, options)
}

/// The model of this name.
fn model(name: &str) -> Option<&'static Model> {
    MODELS.iter().find(|model| model.name == name)
}

/// Finds what is wrong in a model, and prints it. Returns whether something is wrong.
fn find_and_show(bug: Option<Bug>, model: &Model, options: &Options) -> bool {
    let Some((phases, (violation, choices, owners))) = find(bug, model) else {
        match bug {
            Some(bug) => println!("{}: NOT found by the model {}", bug.name(), model.name),
            None => println!("nothing is wrong in the model {}", model.name),
        }
        return false;
    };
    show(
        model,
        phases,
        bug,
        &violation,
        &choices,
        owners,
        options.svg.as_deref(),
    )
}

/// Finds every mistake.
fn all_bugs() -> bool {
    println!(
        "\n{:<24} {:<20} {:>8}  found as",
        "mistake", "model", "choices"
    );
    let mut ok = true;
    for (bug, name, home, _) in BUGS {
        match model(home).and_then(|model| find(Some(*bug), model)) {
            Some((_, (violation, choices, _))) => {
                println!("{name:<24} {home:<20} {:>8}  {violation}", choices.len());
            }
            None => {
                println!("{name:<24} {home:<20} {:>8}  NOT FOUND", "");
                ok = false;
            }
        }
    }
    println!(
        "{}",
        if ok {
            "every mistake is found"
        } else {
            "NOT every mistake is found"
        }
    );
    ok
}

/// Prints a counterexample, and draws it; false if it cannot be written.
fn show(
    model: &Model,
    phases: [models::Kind; 3],
    bug: Option<Bug>,
    violation: &Violation,
    choices: &[u8],
    owners: Vec<u8>,
    file: Option<&Path>,
) -> bool {
    let rows = apart(|| {
        port::configure(model.config(bug));
        models::choose_phases(phases);
        trace::rows(explore::replay(model.setup(), choices, owners))
    });
    let title = match bug {
        Some(bug) => format!("bug={} in the model {}", bug.name(), model.name),
        None => format!("a counterexample in the model {}", model.name),
    };
    println!("{title} ({})\n", model.about);
    print!("{}", trace::table(&rows, model.cpus));
    println!("\n✗ {violation}");
    let Some(file) = file else {
        return true;
    };
    let about = bug.and_then(|bug| BUGS.iter().find(|row| row.0 == bug));
    let subtitle = about.map_or(model.about, |row| row.3);
    let picture = svg::timeline(&title, subtitle, &violation.to_string(), &rows, model.cpus);
    match std::fs::write(file, picture) {
        Ok(()) => {
            println!("{}: written", file.display());
            true
        }
        Err(error) => {
            eprintln!("error: cannot write {}: {error}", file.display());
            false
        }
    }
}
