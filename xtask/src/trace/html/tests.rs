use serde_json::Value;

use super::{Packed, Panel, page};
use crate::trace::Trace;
use crate::trace::svg::tests::busy;
use crate::trace::timeline::tests::r222942;

mod browser;

/// The data in a page.
fn data(page: &str) -> Value {
    let (_, data) = page.split_once("id=\"data\">").expect("the data");
    let (data, _) = data.split_once("</script>").expect("its end");
    serde_json::from_str(data).expect("JSON")
}

#[test]
fn a_page_is_one_file() {
    let trace = r222942(false);
    let page = page("A & B", "<p>first</p>", &[Panel { title: "<b>", trace: &trace }]);
    assert!(page.contains("<title>A &amp; B</title>") && page.contains("<p>first</p>"));
    for left in ["@TITLE@", "@STYLE@", "@INTRO@", "@DATA@", "@SCRIPT@"] {
        assert!(!page.contains(left), "{left}");
    }
    for other in ["http:", "https:", "src=", "href=", "@import", "url("] {
        assert!(!page.contains(other), "{other}");
    }
    assert_eq!(data(&page)["panels"][0]["title"], "<b>");
}

/// A thread's name comes from the guest.
#[test]
fn no_name_ends_the_script() {
    let mut trace = r222942(false);
    let name = "</script>@SCRIPT@";
    trace.threads[1].as_mut().expect("a thread").name = name.to_string();
    let page = page("t", "", &[Panel { title: "t", trace: &trace }]);
    assert_eq!(data(&page)["panels"][0]["threads"][1], name);
}

#[test]
fn an_empty_trace_is_a_page_too() {
    let trace = Trace::default();
    let page = page("t", "", &[Panel { title: "t", trace: &trace }]);
    assert_eq!(data(&page)["panels"][0]["cpus"], Value::Array(vec![]));
}

#[test]
fn numbers_are_packed_by_seven_bits() {
    let mut packed = Packed::default();
    for number in [0, 0x7f, 0x80, 0x4000, u64::MAX] {
        packed.number(number);
    }
    let bytes = [0, 0x7f, 0x80, 1, 0x80, 0x80, 1];
    assert_eq!(packed.0[..7], bytes);
    assert_eq!(packed.0[7..], [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]);
}

#[test]
fn bytes_are_in_base_64() {
    // RFC 4648, 10.
    for (bytes, text) in
        [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
    {
        assert_eq!(Packed(bytes.into()).text(), text);
    }
}

/// A trace may have hundreds of thousands of records.
#[test]
fn a_record_takes_few_characters() {
    let trace = busy(8);
    let one = page("t", "", &[Panel { title: "t", trace: &trace }]).len();
    let two = [(); 2].map(|()| Panel { title: "t", trace: &trace });
    let more = page("t", "", &two).len() - one;
    let records: usize = trace.cpus.iter().map(|cpu| cpu.records.len()).sum();
    assert!(more / records < 60, "{} characters each", more / records);
}
