use super::{Finder, Kind, header};

const DIFFERENCE: &str = "\n--- a/kernel/a.rs\n+++ b/kernel/a.rs\n@@ -1 +1 @@\n-a\n+b\n";

fn parsed(text: &str) -> Result<(String, String, Vec<Finder>), String> {
    header(&format!("{text}{DIFFERENCE}"))
}

fn one(line: &str) -> Result<Finder, String> {
    parsed(&format!("A title\n\nA story.\n\n{line}\n")).map(|(.., mut finders)| finders.remove(0))
}

#[test]
fn a_title_and_who_must_find_it() {
    let (title, story, finders) = parsed(
        "Nobody waits\n\nIn 2011: somebody did not.\nNote: a colon.\n\n\
         Model: rendezvous-2 \"exactly once\"\n\
         Test: rendezvous::ten --smp 2 \"left: 1\"\n\
         Host: heart rendezvous::tests::ten \"a \"word\" of it\"\n",
    )
    .expect("as it must be");
    assert_eq!(title, "Nobody waits");
    assert_eq!(story, "In 2011: somebody did not. Note: a colon.");
    let shown: Vec<String> = finders.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        ["model rendezvous-2", "test rendezvous::ten --smp 2", "host heart rendezvous::tests::ten"]
    );
    let texts: Vec<&str> = finders.iter().map(|finder| &*finder.texts[0]).collect();
    assert_eq!(texts, ["exactly once", "left: 1", "a \"word\" of it"]);
}

#[test]
fn one_of_two_texts() {
    let finder = one("Test: stop::a \"spins too long\" or \"did not stop\"").expect("a finder");
    assert_eq!(finder.texts, ["spins too long", "did not stop"]);
    one("Test: stop::a \"spins too long\" or \"\"").expect_err("an empty text is in all");
}

#[test]
fn what_is_no_header() {
    let error = |text: &str| parsed(text).expect_err("wrong");
    assert_eq!(error("\nModel: a \"b\"\n"), "the first line is no title");
    assert_eq!(
        error("A title\n\nA story.\n"),
        "nobody must find it: no line Model:, Test: or Host:"
    );
    assert_eq!(
        header("A title\n\nModel: a \"b\"\n").expect_err("wrong"),
        "there is no difference, --- a/FILE"
    );
}

#[test]
fn what_is_no_finder() {
    for line in [
        "Model: idle",
        "Model: idle \"\"",
        "Model: \"words\"",
        "Model: idle more \"words\"",
        "Test: \"words\"",
        "Host: heart \"words\"",
        "Test: idle::a \"words\" more",
    ] {
        let error = one(line).expect_err(line);
        assert!(error.contains(line.split(' ').next().unwrap_or("")), "{error}");
        assert!(error.contains("NAME"), "{error}");
    }
    assert_eq!(one("Host: heart a \"b\"").map(|finder| finder.kind), Ok(Kind::Host));
}
