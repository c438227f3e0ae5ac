//! Checks the documents against the tree: what they name exists, and they name what they must.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The pages, relative to the root.
fn pages() -> Vec<PathBuf> {
    let mut pages = vec!["README.md".into(), "CONTRIBUTING.md".into(), "CHANGELOG.md".into()];
    for folder in ["docs", "docs/decisions", "docs/log"] {
        let entries = fs::read_dir(root().join(folder)).expect("a folder");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        pages.extend(names.map(|name| Path::new(folder).join(name)));
    }
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    pages
}

/// The texts from each `open` to the next `close`.
fn between<'a>(text: &'a str, open: &str, close: char) -> Vec<&'a str> {
    let parts = text.split(open).skip(1);
    parts.filter_map(|part| Some(part.split_once(close)?.0)).collect()
}

#[test]
fn every_link_leads_somewhere() {
    for page in pages() {
        let folder = page.parent().expect("a page is in a folder");
        for link in between(&read(&page), "](", ')') {
            let file = link.split('#').next().unwrap_or(link);
            if !link.contains("://") && !file.is_empty() {
                assert!(root().join(folder).join(file).exists(), "{}: {link}", page.display());
            }
        }
    }
}

#[test]
fn the_summary_has_every_page() {
    let summary = read("docs/SUMMARY.md");
    let listed: BTreeSet<PathBuf> = between(&summary, "](", ')')
        .into_iter()
        .map(|link| match link.strip_prefix("../") {
            Some(above) => above.into(),
            None => Path::new("docs").join(link),
        })
        .collect();
    let mut all: BTreeSet<PathBuf> = pages().into_iter().collect();
    all.remove(Path::new("docs/SUMMARY.md"));
    assert_eq!(listed, all);
}

#[test]
fn the_reading_order_names_files_that_are_there() {
    let folders = [
        "", "boot/src", "kernel", "kernel/src", "kernel/plat/src", "kernel/heart/src",
        "kernel/heart/src/more", "kernel/src/mem", "kernel/src/smp", "kernel/src/arch/x86_64",
        "kernel/src/sched",
    ];
    let layout = read("docs/layout.md");
    let order = between(&layout, "## Reading order", '#')[0];
    let files: Vec<&str> = order.split('`').skip(1).step_by(2).collect();
    let files = files.iter().filter(|name| name.contains(".rs") || name.ends_with('/'));
    let mut count = 0;
    for file in files {
        count += 1;
        let is_there = |folder: &str| root().join(folder).join(file).exists();
        assert!(folders.iter().any(|folder| is_there(folder)), "{file}");
    }
    assert!(count > 60, "{count} files");
}

/// The README shows the bug that it is about as the test must see it, at the place where the test
/// sees it.
#[test]
fn the_readme_shows_r222942_as_it_is_seen() {
    let readme = read("README.md");
    let shown = between(&readme, "a failed assertion as expected:\n    ", '\n')[0];
    let tests = read("tests/src/stepping.rs");
    let (_, test) = tests.split_once("fn r222942_is_back").expect("the test");
    let text = between(test, "console = \"", '"')[0];
    assert!(shown.ends_with(text), "{shown}: {text}");
    let mut place = shown.split(':');
    let (file, line) = (place.next().expect("a file"), place.next().expect("a line"));
    let line: usize = line.parse().expect("a number");
    let source = read(file);
    let asserts = |text: &&str| text.contains("mi_switch") && text.contains("is in service");
    let at = source.lines().position(|line| asserts(&line)).map(|at| at + 1);
    assert_eq!(Some(line), at, "README.md shows a line of {file}");
}

#[test]
fn every_bug_is_documented_with_a_test_that_is_there() {
    let source = read("kernel/src/ktest/bugs.rs");
    let table = between(&source, "const BUGS", ';')[0];
    let names: BTreeSet<&str> = table.split('"').skip(1).step_by(4).collect();
    assert!(names.len() > 30 && names.contains("no-nested-section"), "{names:?}");
    let page = read("docs/bugs.md");
    let mut documented = BTreeSet::new();
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split(" | ").collect();
        let [name, _, tests] = cells[..] else {
            continue;
        };
        let name = name.trim_matches(['|', ' ', '`']);
        if !names.contains(name) {
            continue;
        }
        documented.insert(name);
        for test in tests.split('`').skip(1).step_by(2) {
            assert!(is_a_test(test), "{name}: no {test}");
        }
    }
    assert_eq!(documented, names);
}

/// Whether the test image has a test of that name.
fn is_a_test(name: &str) -> bool {
    let (module, function) = name.rsplit_once("::").expect("module and function");
    let file = format!("tests/src/{}.rs", module.replace("::", "/"));
    read(&file).contains(&format!("fn {function}("))
}

/// docs/bugs.md has a row for each patch, as in its header; its finders exist.
#[test]
fn every_patch_is_documented_as_its_header_has_it() {
    let page = read("docs/bugs.md");
    let models = read("model/src/models.rs");
    let folder = fs::read_dir(root().join("bugs")).expect("the patches");
    let files = folder.map(|entry| entry.expect("a file").file_name().into_string());
    let mut names: Vec<String> = files.map(|name| name.expect("ASCII")).collect();
    names.retain(|name| name.ends_with(".patch"));
    names.sort();
    assert!(names.len() > 20, "{names:?}");
    let mut expected = Vec::new();
    for file in &names {
        let patch = read(format!("bugs/{file}"));
        let (header, _) = patch.split_once("\n--- a/").expect("a difference");
        let mut finders = Vec::new();
        for line in header.lines() {
            let kinds = ["Model", "Test", "Host"];
            let of_kind = |kind: &&str| line.starts_with(&format!("{kind}: "));
            let Some(kind) = kinds.iter().find(|kind| of_kind(kind)) else {
                continue;
            };
            let words = between(line, ": ", '"')[0].trim();
            finders.push(format!("{} `{words}`", kind.to_lowercase()));
            let first = words.split(' ').next().unwrap_or_default();
            match *kind {
                "Model" => assert!(models.contains(&format!("\"{first}\"")), "{file}: {first}"),
                "Test" => assert!(is_a_test(first), "{file}: {first}"),
                _ => {}
            }
        }
        let name = file.trim_end_matches(".patch");
        let title = header.lines().next().unwrap_or_default();
        expected.push(format!("| [{name}](../bugs/{file}) | {title} | {} |", finders.join(", ")));
    }
    let found: Vec<&str> = page.lines().filter(|line| line.starts_with("| [")).collect();
    assert_eq!(found, expected, "docs/bugs.md, to be:\n{}", expected.join("\n"));
}

/// Whether a file in one of the folders, at `path` without its last part, has a function of that
/// name.
fn is_there(folders: &[&str], path: &str) -> bool {
    let (module, function) = path.rsplit_once("::").expect("module and function");
    let module = module.replace("::", "/");
    let files = [format!("{module}.rs"), format!("{module}/tests.rs")];
    let mut places = folders
        .iter()
        .flat_map(|folder| files.iter().map(move |file| root().join(folder).join(file)));
    places.any(|place| {
        let text = fs::read_to_string(place).unwrap_or_default();
        ["(", "<"].iter().any(|open| text.contains(&format!("fn {function}{open}")))
    })
}

/// docs/models.md on the sets that are walked: the walks exist, and so does the test or model that
/// finds a lost member.
#[test]
fn every_set_that_is_walked_has_a_check_that_is_there() {
    let page = read("docs/models.md");
    let table = between(&page, "## Lost members\n", '#')[0];
    let models = read("model/src/models.rs");
    let walks_in = [
        "kernel/plat/src", "kernel/heart/src", "kernel/heart/src/more", "kernel/sync/src",
        "kernel/src",
    ];
    let tests_in = [
        "kernel/plat/src", "kernel/plat/tests", "kernel/heart/src", "kernel/heart/src/more",
        "kernel/heart/tests", "tests/src",
    ];
    let mut count = 0;
    for row in table.lines().filter(|line| line.contains('`')) {
        let cells: Vec<&str> = row.split(" | ").collect();
        let [_, walks, checks] = cells[..] else {
            continue;
        };
        count += 1;
        for walk in walks.split('`').skip(1).step_by(2) {
            assert!(is_there(&walks_in, walk), "{row}: no {walk}");
        }
        let checks: Vec<&str> = checks.split('`').skip(1).step_by(2).collect();
        assert!(!checks.is_empty(), "{row}: no check");
        for check in checks {
            let model = format!("name: \"{check}\"");
            let found = if check.contains("::") {
                is_there(&tests_in, check)
            } else {
                models.contains(&model)
            };
            assert!(found, "{row}: no {check}");
        }
    }
    assert!(count > 45, "{count} sets");
}

/// docs/trace.md has a row for each event, as `plat::trace` has it.
#[test]
fn the_trace_page_has_every_event() {
    let page = read("docs/trace.md");
    let table = page.split_once("## Events").expect("the section").1;
    let found: Vec<&str> = table.lines().filter(|line| line.starts_with("| `")).collect();
    let row = |event: &plat::trace::Event| {
        let arguments: Vec<String> =
            event.arguments().iter().map(|name| format!("`{name}`")).collect();
        let (name, group) = (event.name(), event.group().word());
        format!("| `{name}` | {group} | {} | {} |", arguments.join(", "), event.about())
    };
    let expected: Vec<String> = plat::trace::Event::ALL.iter().map(row).collect();
    assert_eq!(found, expected, "docs/trace.md, to be:\n{}", expected.join("\n"));
}
