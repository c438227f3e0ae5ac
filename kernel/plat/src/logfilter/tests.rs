use super::*;
use LevelFilter::{Debug, Error, Info, Off, Trace, Warn};

fn filter(text: &str) -> LogFilter {
    LogFilter::parse(text, &mut |complaint| panic!("{complaint}"))
}

/// The filter of a text with one mistake, and the complaint about it.
fn said(text: &str) -> (LogFilter, String) {
    let mut complaints = Vec::new();
    let filter = LogFilter::parse(text, &mut |complaint| {
        complaints.push(complaint.to_string());
    });
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    (filter, complaints.remove(0))
}

#[test]
fn nothing_means_info() {
    for text in ["", " ", ",", " , ,"] {
        assert_eq!(filter(text).level_for("kernel::smp"), Info);
    }
    assert_eq!(LogFilter::default().max_level(), Info);
}

#[test]
fn a_bare_level_is_the_default_wherever_it_stands() {
    assert_eq!(filter("warn").level_for("anything"), Warn);
    assert_eq!(filter("smp=trace, DEBUG").level_for("acpi"), Debug);
    assert_eq!(filter("warn,error").level_for("acpi"), Error);
}

#[test]
fn a_module_covers_itself_and_what_is_inside() {
    let filter = filter("info,smp=trace,acpi=off");
    for (target, level) in [
        ("smp", Trace),
        ("kernel::smp", Trace),
        ("kernel::smp::ipi", Trace),
        ("smp::ipi", Trace),
        ("acpi::aml", Off),
        ("smpx", Info),
        ("sm", Info),
        ("kernel::smp_call", Info),
        ("other::smp", Info),
        ("smp:", Info),
        ("kernel", Info),
        ("", Info),
    ] {
        assert_eq!(filter.level_for(target), level, "{target}");
    }
    assert_eq!(filter.max_level(), Trace);
}

#[test]
fn the_longest_path_wins_in_either_order() {
    for text in ["arch=warn,arch::lapic=trace", "arch::lapic=trace,arch=warn"] {
        assert_eq!(filter(text).level_for("kernel::arch::lapic::timer"), Trace);
        assert_eq!(filter(text).level_for("kernel::arch::gdt"), Warn);
    }
}

#[test]
fn the_later_of_the_same_path_wins() {
    let filter = filter("smp=trace,kernel::smp = error");
    assert_eq!(filter.level_for("smp"), Error);
    assert_eq!(filter.max_level(), Info);
}

#[test]
fn a_bare_module_means_all_of_it() {
    assert_eq!(filter("smp").level_for("kernel::smp"), Trace);
}

#[test]
fn mistakes_are_named_and_the_rest_counts() {
    let (filter, words) = said("smp=loud,acpi=warn");
    assert_eq!(
        words,
        "log filter: \"smp=loud\" ignored: the level is none of \
         off, error, warn, info, debug, trace"
    );
    assert_eq!(
        (filter.level_for("smp"), filter.level_for("acpi")),
        (Info, Warn)
    );
    assert_eq!(
        said("=warn").1,
        "log filter: \"=warn\" ignored: no module before the ="
    );
    assert!(said("smp=").1.contains("\"smp=\" ignored: the level"));
    assert!(said("a=b=c").1.contains("the level is none of"));
}

#[test]
fn paths_of_exactly_the_limit_fit() {
    let (fits, too_long) = ("m".repeat(MAX_PATH), "m".repeat(MAX_PATH + 1));
    assert_eq!(filter(&format!("{fits}=off")).level_for(&fits), Off);
    let (filter, words) = said(&too_long);
    assert!(
        words.ends_with("the module path is longer than 32 bytes"),
        "{words}"
    );
    assert_eq!(filter.level_for(&too_long), Info);
    assert_eq!(filter.max_level(), Info);
}

#[test]
fn the_seventeenth_module_is_refused_and_the_sixteenth_can_still_change() {
    let names: Vec<String> = (0..MAX_DIRECTIVES).map(|i| format!("m{i}=warn")).collect();
    let (filter, words) = said(&format!("{},one_more=off,m15=off", names.join(",")));
    assert_eq!(
        words,
        "log filter: \"one_more=off\" ignored: more than 16 modules"
    );
    assert_eq!(
        (filter.level_for("m15"), filter.level_for("one_more")),
        (Off, Info)
    );
}

#[test]
fn display_reads_back() {
    let text = "warn,smp=trace,acpi=off";
    assert_eq!(filter(text).to_string(), text);
}
