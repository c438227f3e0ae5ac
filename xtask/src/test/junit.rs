//! The run of the tests as JUnit XML.

use super::Done;
use super::judge::Outcome;

/// The document: one suite, one case for each boot.
pub(super) fn document(done: &[Done], seconds: f64) -> String {
    let failed = done
        .iter()
        .filter(|done| done.outcome.failure().is_some())
        .count();
    let ignored = done
        .iter()
        .filter(|done| matches!(done.outcome, Outcome::Ignored(_)))
        .count();
    let counts = format!(
        "tests=\"{}\" failures=\"{failed}\" errors=\"0\" skipped=\"{ignored}\" time=\"{seconds:.3}\"",
        done.len()
    );
    let mut xml = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_string();
    xml.push_str(&format!(
        "<testsuites {counts}>\n<testsuite name=\"ktest\" {counts}>\n"
    ));
    done.iter().for_each(|done| xml.push_str(&case(done)));
    xml.push_str("</testsuite>\n</testsuites>\n");
    xml
}

fn case(done: &Done) -> String {
    let title = done.job.title();
    let (class, name) = title.split_once("::").unwrap_or(("ktest", &title));
    let run = if done.job.run == 0 {
        String::new()
    } else {
        format!(" run {}", done.job.run + 1)
    };
    let (class, name) = (escaped(class), escaped(&format!("{name}{run}")));
    let head = format!(
        "<testcase classname=\"{class}\" name=\"{name}\" time=\"{:.3}\"",
        done.seconds
    );
    match &done.outcome {
        Outcome::Passed(None) => format!("{head}/>\n"),
        Outcome::Passed(Some(saw)) => format!(
            "{head}><system-out>{}</system-out></testcase>\n",
            escaped(&saw.message)
        ),
        Outcome::Ignored(reason) => {
            format!(
                "{head}><skipped message=\"{}\"/></testcase>\n",
                escaped(reason)
            )
        }
        Outcome::Failed(failure) => {
            let place = failure
                .place
                .as_ref()
                .map_or(String::new(), |at| format!("at {at}\n"));
            let text = format!("{place}seed {:#x}", done.job.seed);
            format!(
                "{head}><failure message=\"{}\">{}</failure>\n<system-out>{}</system-out></testcase>\n",
                escaped(&failure.message),
                escaped(&text),
                escaped(&done.console),
            )
        }
    }
}

/// Text as XML takes it: no markup, and none of the characters that XML forbids.
fn escaped(text: &str) -> String {
    let mut xml = String::new();
    for c in text.chars() {
        match c {
            '&' => xml.push_str("&amp;"),
            '<' => xml.push_str("&lt;"),
            '>' => xml.push_str("&gt;"),
            '"' => xml.push_str("&quot;"),
            '\n' | '\t' => xml.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => xml.push('\u{fffd}'),
            c => xml.push(c),
        }
    }
    xml
}

#[cfg(test)]
mod tests;
