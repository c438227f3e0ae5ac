//! Ctrl-C and `kill`: the command ends what runs and reports what is known so far.
//!
//! Only a command that has something to report watches for them. A second signal ends it at once.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

use crate::error::{Context, Exit, Result};

/// The exit code of the signal that has arrived; 0 until then.
static CODE: OnceLock<Arc<AtomicUsize>> = OnceLock::new();

/// From here on, Ctrl-C does not end this process but makes [`requested`] return an exit code.
///
/// # Errors
/// If the operating system refuses.
pub(crate) fn watch() -> Result<()> {
    if CODE.get().is_some() {
        return Ok(());
    }
    let code = CODE.get_or_init(Arc::default);
    let again = Arc::new(AtomicBool::new(false));
    for (signal, exit) in [(SIGINT, Exit::Interrupted), (SIGTERM, Exit::Terminated)] {
        // These run in order: the first signal finds `again` unset.
        flag::register_conditional_shutdown(signal, exit as i32, again.clone())
            .and_then(|_| flag::register(signal, again.clone()))
            .and_then(|_| flag::register_usize(signal, code.clone(), exit as usize))
            .context("cannot watch for Ctrl-C")?;
    }
    Ok(())
}

/// Does what Ctrl-C does, where the terminal sends a key in its place.
pub(crate) fn request() {
    let _ = low_level::raise(SIGINT);
}

/// The exit code to end with, if a signal has arrived.
pub(crate) fn requested() -> Option<Exit> {
    // Relaxed: it publishes nothing else.
    let code = CODE.get()?.load(Ordering::Relaxed);
    [Exit::Interrupted, Exit::Terminated].into_iter().find(|exit| *exit as usize == code)
}
