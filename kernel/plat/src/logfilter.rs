//! Which log records are printed: `info,smp=trace,acpi=off`, the syntax of env_logger.
//!
//! A directive is `LEVEL`, for everything that no other directive names; `MODULE=LEVEL`, for a
//! module and what is inside it; or `MODULE`, which means all its records. The directive with the
//! longest module path wins; of two with the same path, the later one. Levels are `off error warn
//! info debug trace`, in upper or lower case.
//!
//! A filter has a fixed size and owns its module paths, so that the logger can keep it after the
//! command line's memory is gone.

#![forbid(unsafe_code)]

use crate::list::{Full, List};
use core::fmt;
use log::LevelFilter;

/// How many modules one filter can name.
pub const MAX_DIRECTIVES: usize = 16;

/// The longest module path a directive can have, in bytes.
pub const MAX_PATH: usize = 32;

/// Module paths in the kernel's own crate omit the crate's name.
const OWN_CRATE: &str = "kernel::";

/// For each module, the most verbose level that is printed.
#[derive(Clone, Copy, Debug)]
pub struct LogFilter {
    default: LevelFilter,
    directives: List<Directive, MAX_DIRECTIVES>,
}

#[derive(Clone, Copy, Debug)]
struct Directive {
    path: [u8; MAX_PATH],
    path_len: usize,
    level: LevelFilter,
}

impl Directive {
    const UNUSED: Self = Self {
        path: [0; MAX_PATH],
        path_len: 0,
        level: LevelFilter::Off,
    };

    fn path(&self) -> &[u8] {
        &self.path[..self.path_len]
    }

    /// Whether `target` is this directive's module or inside it.
    fn covers(&self, target: &str) -> bool {
        target
            .as_bytes()
            .strip_prefix(self.path())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"::"))
    }
}

/// A directive that the filter ignores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Complaint<'a> {
    /// The directive as it was written, without blanks around it.
    pub directive: &'a str,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What can be wrong with a directive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    /// The text after the `=` is not a level.
    BadLevel,
    /// The text before the `=` is empty.
    NoModule,
    /// The module path has more than [`MAX_PATH`] bytes.
    PathTooLong,
    /// The filter already holds [`MAX_DIRECTIVES`] modules.
    TooMany,
}

/// One sentence, for a warning line.
impl fmt::Display for Complaint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "log filter: {:?} ignored: ", self.directive)?;
        match self.problem {
            Problem::BadLevel => {
                f.write_str("the level is none of off, error, warn, info, debug, trace")
            }
            Problem::NoModule => f.write_str("no module before the ="),
            Problem::PathTooLong => write!(f, "the module path is longer than {MAX_PATH} bytes"),
            Problem::TooMany => write!(f, "more than {MAX_DIRECTIVES} modules"),
        }
    }
}

impl LogFilter {
    /// The filter that prints `level` and worse for every module.
    #[must_use]
    pub const fn new(level: LevelFilter) -> Self {
        Self {
            default: level,
            directives: List::new(Directive::UNUSED),
        }
    }

    /// Parses a filter. A module that no directive names has the level `info`. A directive that is
    /// wrong or does not fit goes to `complain` and has no effect.
    pub fn parse<'a>(text: &'a str, complain: &mut dyn FnMut(Complaint<'a>)) -> Self {
        let mut filter = Self::new(LevelFilter::Info);
        for directive in text
            .split(',')
            .map(str::trim)
            .filter(|text| !text.is_empty())
        {
            if let Err(problem) = filter.take(directive) {
                complain(Complaint { directive, problem });
            }
        }
        filter
    }

    fn take(&mut self, directive: &str) -> Result<(), Problem> {
        let (path, level) = match directive.split_once('=') {
            Some((path, level)) => (
                path.trim(),
                level.trim().parse().map_err(|_| Problem::BadLevel)?,
            ),
            None => match directive.parse() {
                Ok(level) => {
                    self.default = level;
                    return Ok(());
                }
                Err(_) => (directive, LevelFilter::Trace),
            },
        };
        let path = path.strip_prefix(OWN_CRATE).unwrap_or(path);
        if path.is_empty() {
            return Err(Problem::NoModule);
        }
        self.set(path, level)
    }

    fn set(&mut self, path: &str, level: LevelFilter) -> Result<(), Problem> {
        if let Some(known) = self
            .directives
            .iter_mut()
            .find(|d| d.path() == path.as_bytes())
        {
            known.level = level;
            return Ok(());
        }
        let mut directive = Directive {
            path_len: path.len(),
            level,
            ..Directive::UNUSED
        };
        let place = directive
            .path
            .get_mut(..path.len())
            .ok_or(Problem::PathTooLong)?;
        place.copy_from_slice(path.as_bytes());
        self.directives
            .push(directive)
            .map_err(|Full| Problem::TooMany)
    }

    /// The level at which records of `target`, a module path, are printed.
    #[must_use]
    pub fn level_for(&self, target: &str) -> LevelFilter {
        let target = target.strip_prefix(OWN_CRATE).unwrap_or(target);
        self.directives
            .iter()
            .filter(|directive| directive.covers(target))
            .max_by_key(|directive| directive.path_len)
            .map_or(self.default, |directive| directive.level)
    }

    /// The most verbose level of any module, for `log::set_max_level`.
    #[must_use]
    pub fn max_level(&self) -> LevelFilter {
        self.directives
            .iter()
            .map(|d| d.level)
            .fold(self.default, Ord::max)
    }
}

/// The default filter: `info`.
impl Default for LogFilter {
    fn default() -> Self {
        Self::new(LevelFilter::Info)
    }
}

/// The filter in its own syntax, the default first.
impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_level(f, self.default)?;
        for directive in self.directives.iter() {
            let path = str::from_utf8(directive.path()).unwrap_or_default();
            write!(f, ",{path}=")?;
            write_level(f, directive.level)?;
        }
        Ok(())
    }
}

/// Writes a level in lower case, as it is typed.
fn write_level(f: &mut fmt::Formatter<'_>, level: LevelFilter) -> fmt::Result {
    level
        .as_str()
        .chars()
        .try_for_each(|c| write!(f, "{}", c.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests;
