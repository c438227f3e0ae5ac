//! The page in a real browser: Chromium, without a window, by the DevTools protocol over a pipe.
//!
//! `cargo xtask ci` runs these tests where Chromium is installed or can be.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use super::{Panel, page};
use crate::trace::Trace;
use crate::trace::svg::tests::busy;
use crate::trace::timeline::tests::r222942;
use crate::{paths, tools};

/// A browser with one page.
struct Browser {
    chromium: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// The number of the last command.
    last: u64,
    session: Option<String>,
    /// What the page's scripts threw.
    errors: Vec<String>,
    dir: PathBuf,
}

impl Browser {
    /// Opens `page` in a browser with this colour scheme.
    fn open(name: &str, page: &str, scheme: &str) -> Self {
        let dir = paths::target_dir().join("browser").join(name);
        fs::create_dir_all(&dir).expect("a folder");
        let file = dir.join("page.html");
        fs::write(&file, page).expect("the page");
        let program = tools::chromium().expect("Chromium");
        // It reads its commands from descriptor 3, and answers on 4.
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null"]).arg(program);
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]);
        command.args(["--no-first-run", "--disable-extensions", "--window-size=1300,900"]);
        command.arg(paths::joined("--user-data-dir=", dir.join("profile")));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut chromium = command.spawn().expect("sh");
        let (input, output) = (chromium.stdin.take(), chromium.stdout.take());
        let mut browser = Self {
            chromium,
            input: input.expect("it is piped"),
            output: BufReader::new(output.expect("it is piped")),
            last: 0,
            session: None,
            errors: Vec::new(),
            dir,
        };
        let target = browser.call("Target.createTarget", &json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", &attach);
        browser.session = session["sessionId"].as_str().map(String::from);
        browser.call("Runtime.enable", &json!({}));
        browser.call("Page.enable", &json!({}));
        let feature = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        browser.call("Emulation.setEmulatedMedia", &json!({ "features": feature }));
        browser.call("Page.navigate", &json!({ "url": format!("file://{}", file.display()) }));
        while browser.evaluate("document.readyState") != "complete" {}
        browser
    }

    /// A command of the protocol, and its result.
    fn call(&mut self, method: &str, params: &Value) -> Value {
        self.last += 1;
        let mut message = json!({ "id": self.last, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        write!(self.input, "{message}\0").expect("the browser reads");
        loop {
            let mut answer = Vec::new();
            self.output.read_until(0, &mut answer).expect("the browser answers");
            answer.pop();
            let answer: Value = serde_json::from_slice(&answer).expect("JSON");
            if answer["method"] == "Runtime.exceptionThrown" {
                self.errors.push(answer["params"]["exceptionDetails"].to_string());
            }
            if answer["id"] == self.last {
                assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return answer["result"].clone();
            }
        }
    }

    /// The value of an expression in the page.
    fn evaluate(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true });
        let result = self.call("Runtime.evaluate", &params);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Presses a key; `shift` is held down.
    fn press(&mut self, key: &str, shift: bool) {
        for kind in ["keyDown", "keyUp"] {
            let modifiers = if shift { 8 } else { 0 };
            let params = json!({ "type": kind, "key": key, "modifiers": modifiers });
            self.call("Input.dispatchKeyEvent", &params);
        }
    }

    /// The record that is selected in the first panel: CPU, index, event.
    fn selected(&mut self) -> (usize, usize, String) {
        let data = self.evaluate("({ ...document.querySelector('.panel').dataset })");
        let number = |name: &str| data[name].as_str().and_then(|text| text.parse().ok());
        let of = |name: &str| number(name).unwrap_or_else(|| panic!("no {name}: {data}"));
        (of("cpu"), of("index"), data["event"].as_str().unwrap_or_default().to_string())
    }

    /// Keeps a picture of the page.
    fn screenshot(&mut self, name: &str) {
        let result = self.call("Page.captureScreenshot", &json!({ "format": "png" }));
        let file = self.dir.join(name);
        let text = result["data"].as_str().expect("a picture");
        // Whoever wants to see it decodes it: `base64 -d`.
        fs::write(file, text).expect("the picture");
    }

    /// Ends it. No script may have thrown anything.
    fn close(mut self) {
        assert_eq!(self.errors, Vec::<String>::new());
        assert_eq!(self.evaluate("document.getElementById('error').hidden"), true);
        self.call("Browser.close", &json!({}));
        self.chromium.wait().expect("it ends");
    }
}

fn one(trace: &Trace) -> String {
    page("A trace", "", &[Panel { title: "r222942", trace }])
}

/// Each key leads to the right record, one after the other, by real key events.
#[test]
#[ignore = "needs Chromium: cargo xtask ci runs it"]
fn keys_jump_to_the_right_records() {
    let trace = r222942(false);
    for scheme in ["light", "dark"] {
        let mut browser = Browser::open(&format!("keys-{scheme}"), &one(&trace), scheme);
        // The events of CPU 1, by what the key means.
        let steps = [
            ("w", false, "critical_exit"),
            ("w", false, "spinlock_exit"),
            ("w", true, "critical_exit"),
            ("i", false, "ipi_send"),
            ("s", false, "switch"),
            ("e", false, "irq_entry"),
            ("ArrowRight", false, "run"),
            ("ArrowRight", true, "spinlock_enter"),
            ("ArrowLeft", false, "run"),
            ("ArrowUp", false, "ipi_send"),
            ("ArrowDown", false, "irq_entry"),
            ("Home", false, "mark"),
            ("+", false, "mark"),
            ("a", false, "mark"),
        ];
        for (key, shift, event) in steps {
            browser.press(key, shift);
            let (cpu, index, seen) = browser.selected();
            assert_eq!(seen, event, "{scheme}: {key}");
            assert_eq!(trace.cpus[cpu].records[index].event.name(), event);
        }
        browser.press("w", false);
        let exits = "the thread is about to leave its outermost critical section";
        let told = browser.evaluate("document.querySelector('.record').textContent");
        assert!(told.as_str().is_some_and(|text| text.contains(exits)), "{told}");
        let focus = browser.evaluate("document.activeElement.tagName");
        assert_eq!(focus, "CANVAS", "the keyboard works without a click");
        browser.screenshot("window.png.base64");
        browser.close();
    }
}

/// The buttons do what the keys do, and the address can name a key.
#[test]
#[ignore = "needs Chromium: cargo xtask ci runs it"]
fn buttons_and_addresses_jump_too() {
    let trace = r222942(false);
    let mut browser = Browser::open("buttons", &one(&trace), "light");
    browser.evaluate("document.querySelector('button[data-key=w]').click()");
    assert_eq!(browser.selected().2, "critical_exit");
    browser.evaluate("location.hash = 's'; location.reload()");
    while browser.evaluate("document.readyState") != "complete" {}
    while browser.evaluate("document.querySelector('.panel')?.dataset.event ?? ''") != "switch" {}
    browser.close();
}

/// A step in a trace of hundreds of thousands of records takes less than a thousandth of them.
#[test]
#[ignore = "needs Chromium: cargo xtask ci runs it"]
fn hundreds_of_thousands_of_records_stay_usable() {
    let mut trace = busy(8);
    let length = trace.cpus.iter().flat_map(|cpu| &cpu.records).map(|r| r.time).max().unwrap_or(0);
    for cpu in &mut trace.cpus {
        let once = cpu.records.clone();
        for round in 1..1_700 {
            cpu.records.extend(once.iter().map(|record| {
                let mut record = *record;
                record.time += round * length;
                record
            }));
        }
    }
    let records: usize = trace.cpus.iter().map(|cpu| cpu.records.len()).sum();
    assert!(records > 300_000, "{records}");
    let mut browser = Browser::open("many", &one(&trace), "light");
    browser.press("End", false);
    browser.press("w", true);
    assert_eq!(browser.selected().2, "critical_exit");
    // Ratios, not times: what is drawn is what is in sight.
    let count = "panels[0].visible(panels[0].cpus[1], panels[0].from, panels[0].to).length";
    let near = browser.evaluate(count).as_u64().expect("a number");
    assert!(near < records as u64 / 1_000, "{near} spans are looked at");
    browser.press("a", false);
    browser.screenshot("all.png.base64");
    browser.close();
}
