use super::*;

#[test]
fn every_tool_has_a_source_and_a_purpose() {
    for tool in TOOLS {
        assert!(!tool.purpose.is_empty() && !tool.remedy().is_empty(), "{}", tool.name);
        match tool.source {
            Rustup(args) => assert!(args.len() > 1, "{}", tool.name),
            Debian(packages, elsewhere) => {
                assert!(!packages.is_empty() && !elsewhere.is_empty(), "{}", tool.name);
            }
        }
    }
}

#[test]
fn packages_are_installed_together() {
    assert_eq!(packages(&[&QEMU, &RUST_SRC, &OVMF]), ["qemu-system-x86", "ovmf"]);
    assert_eq!(packages(&[&BOCHS]), ["bochs-x", "bochsbios", "vgabios", "xvfb"]);
}

#[test]
fn what_a_boot_lacks_is_what_it_needs() {
    let names = |path| of_images(path).iter().map(|tool| tool.name).collect::<Vec<_>>();
    assert_eq!(names(BootPath::Bios), ["rust-src", "llvm-tools"]);
    assert_eq!(names(BootPath::Uefi), ["rust-src"]);
    assert!(names(BootPath::Pvh).is_empty());
}
