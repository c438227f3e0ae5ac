use super::*;

#[test]
fn every_manager_names_every_tool() {
    for (manager, name) in MANAGERS {
        let line = manager.install_line(&[Tool::Qemu, Tool::Gdb]);
        assert!(
            line.contains(name) && line.contains("qemu") || name == "winget",
            "{line}"
        );
    }
}

#[test]
fn what_a_manager_does_not_have_is_said() {
    let line = Manager::Winget.install_line(&[Tool::Bochs]);
    assert_eq!(line, "Bochs and Xvfb: not packaged here");
    let commands = Manager::Apt.commands(&[Tool::Bochs]);
    assert_eq!(
        commands[1][4..],
        ["bochs-x", "bochsbios", "vgabios", "xvfb"]
    );
}

#[test]
fn apt_updates_its_lists_first() {
    let commands = Manager::Apt.commands(&[Tool::Qemu, Tool::Ovmf]);
    assert_eq!(commands[0], ["apt-get", "update"]);
    assert_eq!(commands[1][4..], ["qemu-system-x86", "ovmf"]);
}
