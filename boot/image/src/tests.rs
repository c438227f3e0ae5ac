use super::{Firmware, Request, boot_config, parse};

fn parsed(line: &str) -> Result<Request, String> {
    parse(lexopt::Parser::from_args(line.split_whitespace())).map_err(|error| error.to_string())
}

#[test]
fn arguments_may_come_in_any_order() {
    let request = Request {
        firmware: Firmware::Uefi,
        out: "o".into(),
        kernel: "k".into(),
        cmdline: "c".into(),
    };
    assert_eq!(parsed("--kernel k --uefi o --cmdline=c"), Ok(request));
}

#[test]
fn what_is_missing_or_unknown_is_named() {
    for (line, word) in [
        ("--kernel k --cmdline c", "--bios"),
        ("--bios o --cmdline c", "--kernel"),
        ("--bios o --kernel k", "--cmdline"),
        ("--bios o --size 3", "--size"),
    ] {
        let error = parsed(line).expect_err("must be refused");
        assert!(error.contains(word), "{line}: {error}");
    }
}

#[test]
fn the_loader_reports_only_errors() {
    let config = boot_config();
    assert!(config.serial_logging && !config.frame_buffer_logging);
    assert!(config.log_level == bootloader_boot_config::LevelFilter::Error);
}
