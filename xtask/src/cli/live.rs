//! The live view: `--top` of `run` and `trace`.
//!
//! On a terminal it has a screen of its own, and leaves the terminal as it was, also if this
//! program panics. Elsewhere it prints a block of lines each second. What the machine did in all
//! stays as the last block.

use std::io::{Write, stdout};
use std::panic;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::style::{Attribute, Print, SetAttribute};
use crossterm::terminal::{self, ClearType, EnterAlternateScreen, LeaveAlternateScreen};
use crossterm::{cursor, execute, queue};

use crate::error::{Context, Ours, Result};
use crate::trace::top::Watcher;
use crate::{interrupt, term};

/// How often the screen is renewed.
const REFRESH: Duration = Duration::from_millis(500);
/// How often a block is printed where there is no screen.
const BLOCK: Duration = Duration::from_secs(1);
/// How soon a key, or the end, is noticed.
const TICK: Duration = Duration::from_millis(20);
/// The width of what is printed elsewhere than on a screen.
const WIDTH: usize = 80;

/// Shows what the machine does while `work` runs it, on a thread of its own; `title` says which it
/// is. The keys q and Ctrl-C are a Ctrl-C for `work`.
///
/// # Errors
/// If the terminal cannot be used.
pub(crate) fn show<T: Send>(
    title: &str,
    mut watcher: Watcher,
    work: impl FnOnce() -> T + Send,
) -> Result<T> {
    let mut screen = if term::has_screen() { Some(Screen::enter()?) } else { None };
    let (done, wrong) = thread::scope(|scope| {
        let work = scope.spawn(work);
        let mut wrong = None;
        let mut last = Instant::now();
        loop {
            let is_last = work.is_finished();
            let every = if screen.is_some() { REFRESH } else { BLOCK };
            if (is_last || last.elapsed() >= every) && wrong.is_none() {
                let passed = last.elapsed();
                last = Instant::now();
                match (watcher.look(passed), &mut screen) {
                    (Err(error), _) => wrong = Some(error),
                    (Ok(view), Some(screen)) => {
                        screen.draw(title, |width, height| {
                            view.map_or(Vec::new(), |view| view.lines(width, Some(height)))
                        });
                    }
                    // What came in the last moment is in the block of all.
                    (Ok(Some(view)), None) if !is_last => print(&view.lines(WIDTH, None)),
                    (Ok(_), None) => {}
                }
            }
            if is_last {
                break;
            }
            match &mut screen {
                Some(screen) => screen.keys(TICK),
                None => thread::sleep(TICK),
            }
        }
        // A panic of the other thread has ended the process.
        (work.join().unwrap_or_else(|panic| panic::resume_unwind(panic)), wrong)
    });
    drop(screen);
    if let Some(wrong) = wrong {
        eprintln!("warning: the view stopped: {}", wrong.one_line());
    }
    match watcher.in_all() {
        Some(view) => {
            say!("{title}, in all:");
            print(&view.lines(WIDTH, None));
        }
        None => say!("{title}: it ended before it began to trace"),
    }
    Ok(done)
}

fn print(lines: &[String]) {
    lines.iter().for_each(|line| term::say(line));
    term::say("");
}

/// Whether the terminal is ours.
static ENTERED: AtomicBool = AtomicBool::new(false);

/// The terminal, as a screen.
struct Screen;

impl Screen {
    fn enter() -> Result<Screen> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = panic::take_hook();
            panic::set_hook(Box::new(move |panic| {
                leave();
                before(panic);
            }));
        });
        terminal::enable_raw_mode().context("the terminal cannot be used as a screen")?;
        // Relaxed: it guards no other memory, and the terminal has one user.
        ENTERED.store(true, Ordering::Relaxed);
        let screen = Screen;
        execute!(stdout(), EnterAlternateScreen, cursor::Hide)
            .context("the terminal cannot be used as a screen")?;
        Ok(screen)
    }

    /// Draws a title and lines, which are made for the size that is left for them.
    fn draw(&mut self, title: &str, lines: impl FnOnce(usize, usize) -> Vec<String>) {
        // A terminal may say that it has no columns.
        let size = terminal::size().ok().filter(|(width, height)| *width > 0 && *height > 0);
        let (width, height) = size.unwrap_or((WIDTH as u16, 24));
        let (width, height) = (usize::from(width), usize::from(height));
        let title: String = format!("{title}; q ends it").chars().take(width).collect();
        // A terminal that is gone is noticed by whoever runs the machine.
        let _ = put(&title, &lines(width, height.saturating_sub(1)));
    }

    /// Waits for so long, or until a key says that it is enough.
    fn keys(&mut self, limit: Duration) {
        if !event::poll(limit).unwrap_or(false) {
            return;
        }
        if let Ok(Event::Key(key)) = event::read()
            && is_end(&key)
            && interrupt::requested().is_none()
        {
            interrupt::request();
        }
    }
}

/// Whether this key ends the machine.
fn is_end(key: &KeyEvent) -> bool {
    let is_ctrl_c = key.code == KeyCode::Char('c') && key.modifiers == KeyModifiers::CONTROL;
    key.kind == KeyEventKind::Press && (is_ctrl_c || key.code == KeyCode::Char('q'))
}

/// Draws a title and lines from the top. Each line is cleared after its end, not before it is
/// drawn, so nothing flickers.
fn put(title: &str, lines: &[String]) -> std::io::Result<()> {
    let mut out = stdout().lock();
    let bold = if term::paints() { Attribute::Bold } else { Attribute::Reset };
    queue!(
        out,
        cursor::MoveTo(0, 0),
        SetAttribute(bold),
        Print(title),
        SetAttribute(Attribute::Reset)
    )?;
    queue!(out, terminal::Clear(ClearType::UntilNewLine))?;
    for (row, line) in (1..).zip(lines) {
        queue!(out, cursor::MoveTo(0, row), Print(line), terminal::Clear(ClearType::UntilNewLine))?;
    }
    queue!(out, terminal::Clear(ClearType::FromCursorDown))?;
    out.flush()
}

/// Leaves the terminal as it was before [`Screen::enter`].
fn leave() {
    // Relaxed: as in `enter`.
    if ENTERED.swap(false, Ordering::Relaxed) {
        let _ = execute!(stdout(), cursor::Show, LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

#[cfg(test)]
mod tests;
