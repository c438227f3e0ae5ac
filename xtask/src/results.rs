//! What a test image says over its results port (COM2), line by line.
//!
//! `tryst-test 1`, `start NAME seed=0x..`, `beat N`, then one of `ok NAME`,
//! `fail NAME FILE:LINE MESSAGE`, `skip NAME REASON`, and at last
//! `end passed=P failed=F skipped=S`.

/// The version of the protocol that this tool understands.
const HELLO: &str = "tryst-test 1";

/// What was said about one test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// It passed.
    Ok,
    /// It failed: where, and why.
    Fail(String, String),
    /// It cannot run on this machine: why.
    Skip(String),
}

/// The results port's log, read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Results {
    /// The protocol's first line is there.
    pub(crate) hello: bool,
    /// What was said about the test.
    pub(crate) said: Option<Said>,
    /// The counts of the end line: passed, failed, skipped.
    pub(crate) end: Option<(u32, u32, u32)>,
}

impl Results {
    /// Reads the log for the test of this name. Lines about other tests and
    /// lines that are not understood count for nothing.
    pub(crate) fn parse(log: &str, name: &str) -> Results {
        let mut results = Results::default();
        // What firmware writes to the port before the kernel has it is not ours.
        let log = log.find(HELLO).map_or(log, |at| &log[at..]);
        for line in log.lines().map(str::trim_end) {
            let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
            let (subject, text) = rest.split_once(' ').unwrap_or((rest, ""));
            let ours = subject == name;
            match verb {
                "ok" if ours => results.said = Some(Said::Ok),
                "skip" if ours => results.said = Some(Said::Skip(text.to_string())),
                "fail" if ours => {
                    let (place, message) = text.split_once(' ').unwrap_or((text, ""));
                    results.said = Some(Said::Fail(place.to_string(), message.to_string()));
                }
                "end" => results.end = counts(rest),
                _ => results.hello |= line == HELLO,
            }
        }
        results
    }
}

/// `passed=P failed=F skipped=S`.
fn counts(text: &str) -> Option<(u32, u32, u32)> {
    let count = |key: &str| {
        text.split(' ')
            .find_map(|word| word.strip_prefix(key)?.parse().ok())
    };
    Some((count("passed=")?, count("failed=")?, count("skipped=")?))
}

#[cfg(test)]
mod tests;
