use std::path::Path;

use quick_xml::Reader;
use quick_xml::events::Event;

use super::shares::Hot;
use super::*;

fn profile() -> Profile {
    Profile::of(&[
        (&[&["main"], &["work", "work::inlined"]], 60),
        (&[&["main"], &["work"], &["spin", "pause"]], 30),
        (&[&["main"], &["work"], &["work"]], 9),
        (&[&["<[u64; 4] as Debug>::fmt"]], 1),
    ])
}

#[test]
fn folded_stacks_have_what_is_inlined_and_no_other_semicolons() {
    let mut lines: Vec<String> = profile().folded().lines().map(String::from).collect();
    lines.sort();
    assert_eq!(
        lines,
        [
            "<[u64, 4] as Debug>::fmt 1",
            "main;work;spin;pause 30",
            "main;work;work 9",
            "main;work;work::inlined 60"
        ]
    );
}

#[test]
fn the_hottest_function_is_the_one_that_holds_the_code() {
    let profile = profile();
    assert_eq!((profile.busy(), profile.all()), (100, 104));
    let hot = |function: &str, own, total| Hot { function: function.to_string(), own, total };
    assert_eq!(
        profile.hottest(),
        [
            hot("work", 69, 99),
            hot("spin", 30, 30),
            hot("<[u64, 4] as Debug>::fmt", 1, 1),
            hot("main", 0, 99),
        ]
    );
}

/// The code of a closure is in a function of the library, which tells nothing.
#[test]
fn a_closure_is_not_called_by_the_name_of_the_library() {
    let profile = Profile::of(&[
        (&[&["core::ops::function::FnOnce::call_once", "kernel::work", "kernel::inlined"]], 2),
        (&[&["<core::fmt::Arguments as Display>::fmt"]], 1),
    ]);
    let names: Vec<_> = profile.hottest().into_iter().map(|hot| hot.function).collect();
    assert_eq!(names, ["kernel::work", "<core::fmt::Arguments as Display>::fmt"]);
}

/// Every element of the picture is closed, and no name breaks it.
#[test]
fn the_picture_is_well_formed() {
    let svg = draw(&profile().folded(), "a test & <more>", &profile()).expect("it is drawn");
    let svg = String::from_utf8(svg).expect("text");
    assert!(svg.contains("Tryst, a test &amp; &lt;more&gt;"), "{svg}");
    assert!(svg.contains("&lt;[u64, 4] as Debug&gt;::fmt (1 samples, 1.00%)"), "{svg}");
    assert!(svg.contains("100 samples in the kernel; 3 idle ones are left out"), "{svg}");
    let mut reader = Reader::from_str(&svg);
    let (mut elements, mut depth) = (0, 0);
    loop {
        match reader.read_event().expect("well-formed") {
            Event::Start(element) | Event::Empty(element) if depth == 0 && elements > 0 => {
                panic!("a second root: {element:?}")
            }
            Event::Start(element) => {
                (elements, depth) = (elements + 1, depth + 1);
                element.attributes().for_each(|attribute| drop(attribute.expect("an attribute")));
            }
            Event::Empty(element) => {
                elements += 1;
                element.attributes().for_each(|attribute| drop(attribute.expect("an attribute")));
            }
            Event::End(_) => depth -= 1,
            Event::Eof => break,
            _ => {}
        }
    }
    assert!(depth == 0 && elements > 20, "{elements} elements, {depth} of them open");
}

#[test]
fn who_rests_is_idle_and_addresses_without_a_name_have_one() {
    let mut samples =
        sampler::Samples { halted: 2, outside: 4, rounds: 3, cpus: 3, ..Default::default() };
    samples.chains.insert(vec![0x10, 0x20], 3);
    let none = Symbols::new(Path::new("/nonexistent"), Path::new("/"));
    let profile = Profile::new(&samples, &none);
    assert_eq!(profile.folded(), "(unknown);(unknown) 3\n");
    assert_eq!((profile.idle, profile.outside, profile.all()), (2, 4, 9));
}
