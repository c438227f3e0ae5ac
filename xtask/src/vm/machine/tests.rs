use super::*;

fn machine(extra: &[&str]) -> Machine {
    Machine {
        smp: 4,
        mem: 512,
        accel: "tcg".to_string(),
        medium: Medium::Kernel { elf: "k".into(), append: "log=info seed=1".to_string() },
        extra: extra.iter().map(OsString::from).collect(),
    }
}

#[test]
fn an_extra_argument_takes_the_place_of_the_default() {
    let args = machine(&["-smp", "6,sockets=2,cores=3"]).args();
    assert_eq!(args.iter().filter(|arg| *arg == "-smp").count(), 1);
    assert!(args.windows(2).any(|pair| pair == ["-smp", "6,sockets=2,cores=3"]));
    assert!(args.windows(2).any(|pair| pair == ["-m", "512"]));
}

#[test]
fn the_device_for_the_exit_code_is_there_once() {
    let of = |extra: &[&str]| {
        let args = machine(extra).args();
        args.into_iter().filter(|word| is_debug_exit(word)).collect::<Vec<_>>()
    };
    assert_eq!(of(&[]), ["isa-debug-exit,iobase=0xf4,iosize=4"]);
    let elsewhere = "isa-debug-exit,iobase=0x500";
    assert_eq!(of(&["-device", elsewhere]), [elsewhere]);
}

#[test]
fn the_shown_command_can_be_pasted() {
    let line = machine(&[]).command_line(Path::new("qemu-system-x86_64"));
    assert!(line.contains("-append 'log=info seed=1' -serial stdio"), "{line}");
    assert_eq!(paths::quoted("it's"), r"'it'\''s'");
    let name = paths::os_string(b"/t/it's \xff\\".to_vec());
    assert_eq!(paths::quoted(name), r"$'/t/it\'s \xff\\'");
}

#[test]
fn only_an_emulated_cpu_logs_its_exceptions() {
    assert!(machine(&[]).emulates());
    assert!(!machine(&["-accel", "kvm"]).emulates());
    assert!(!machine(&["-enable-kvm"]).emulates());
}

/// Where each byte of the memory is in its file depends on how much there is, and on the machine.
#[test]
fn the_memory_goes_into_a_file_of_its_size() {
    const MIB: u64 = 1 << 20;
    for (extra, bytes, low) in [
        (&[][..], 512 * MIB, 512 * MIB),
        (&["-m", "64"], 64 * MIB, 64 * MIB),
        (&["-m", "1G,slots=2,maxmem=2G"], 1024 * MIB, 1024 * MIB),
        (&["-m", "size=2815M"], 2815 * MIB, 2815 * MIB),
        (&["-m", "2816"], 2816 * MIB, 2048 * MIB),
        (&["-m", "64", "-m", "8192"], 8192 * MIB, 2048 * MIB),
        (&["-m", "2816", "-machine", "pc"], 2816 * MIB, 2816 * MIB),
        (&["-m", "8192", "-machine", "pc,hpet=off"], 8192 * MIB, 3072 * MIB),
        (&["-m", "8192", "-machine", "hpet=off"], 8192 * MIB, 2048 * MIB),
    ] {
        let machine = machine(extra);
        let [_, object, ..] = machine.memory_in(Path::new("a,b")).expect("it can be");
        let wanted = format!("memory-backend-file,id=ram,size={bytes},share=on,mem-path=a,,b");
        assert_eq!(object, *wanted, "{extra:?}");
        assert_eq!(machine.low_memory(), low, "{extra:?}");
    }
    for extra in [
        &["-m", "much"][..],
        &["-m", "1Q"],
        &["-m", "99999999999999999T"],
        &["-object", "memory-backend-ram,id=ram,size=1G", "-machine", "q35,memory-backend=ram"],
        &["-numa", "node"],
    ] {
        assert!(machine(extra).memory_in(Path::new("a")).is_err(), "{extra:?}");
    }
}
