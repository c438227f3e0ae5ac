use super::{layout, models};

const LIST: &str = "models:\n  calls   3 CPUs, two post\n  large   9 CPUs (--full)\n  \
                    huge   99 CPUs (by its name only)\n\nmistakes, and the model:\n";
const EXPLORED: &str = "model states steps seconds  bounds\n\
    calls      1234567       9        1.5  3 CPUs, two post\n\
    1234567 states in 1.5 s: all properties hold in all of them\n\n\
    mistake                  model                 choices  found as\n\
    act-then-clear           calls                      62  no call lost: call 1\n\
    every mistake is found\n";
const STEPPED: &str = ".an_exit, Timer: 9 boundaries\nan_exit, Typed: 12 boundaries\n";
const LOOM: &str = "spinlock: 7 executions, at most 3 preemptions\n.";

/// A page with these states, this property, and these two counts.
fn page(calls: &str, found: &str, counts: [&str; 2], sum: &str) -> String {
    format!(
        "\n| Mistake | Model | Found as | Test |\n|---|---|---|---|\n\
         | act-then-clear | calls | {found} | `call::is_found` |\n\n\
         | Model | Bounds | States |\n|---|---|---|\n\
         | calls | 3 CPUs, two post | {calls} |\n| large | 9 CPUs | 5,000 |\n\n\
         The quick tier is {sum} states.\n\n\
         | In loom | Executions |\n|---|---|\n| spinlock | {} |\n\n\
         | Stepped | Boundaries |\n|---|---|\n| an exit (`an_exit`) | {} |\n",
        counts[0], counts[1]
    )
}

#[test]
fn what_is_printed_comes_into_the_tables() {
    let old = page("1", "nothing", ["1", "1"], "1");
    let new = models(&old, LIST, EXPLORED, STEPPED, LOOM).expect("all is there");
    let expected = page("1,234,567", "no call lost", ["7", "12"], "1,234,567");
    assert_eq!(new, expected);
    let again = models(&new, LIST, EXPLORED, STEPPED, LOOM).expect("all is there");
    assert_eq!(again, expected);
}

#[test]
fn what_is_missing_is_named() {
    let old = page("1", "nothing", ["1", "1"], "1");
    for (page, what) in [
        (old.replace("| large | 9 CPUs | 5,000 |\n", ""), "| large |"),
        (old.replace("act-then-clear", "act"), "| act-then-clear |"),
        (old.replace("spinlock", "ticket lock"), "ticket lock"),
        (old.replace("| Stepped", "| Walked"), "| Stepped |"),
        (old.replace("The quick tier", "The tier"), "The quick tier"),
    ] {
        let error = models(&page, LIST, EXPLORED, STEPPED, LOOM).expect_err(what);
        assert!(error.to_string().contains(what), "{error:?}");
    }
}

#[test]
fn a_table_does_not_become_empty() {
    let old = page("1", "nothing", ["1", "1"], "1");
    let silent = EXPLORED.replace("act-then-clear ", "");
    let error = models(&old, LIST, &silent, STEPPED, LOOM).expect_err("no mistake");
    assert!(error.to_string().contains("| Mistake |"), "{error:?}");
    let error = models(&old, "", EXPLORED, STEPPED, LOOM).expect_err("no model");
    assert!(error.to_string().contains("| Model |"), "{error:?}");
}

#[test]
fn the_count_of_lines_comes_into_its_block() {
    let text = "a\n```\npart  lines\nheart 1\n```\nb\n";
    let new = layout(text, "part  lines\nheart 2\nvolume one: 2\n").expect("a block");
    assert_eq!(new, "a\n```\npart  lines\nheart 2\n```\nb\n");
    assert!(layout("a\n", "part\nvolume one\n").is_err());
}
