use super::*;

#[test]
fn registers_are_read_cpu_by_cpu() {
    let text = "\r\nCPU#0\r\nRAX=1 RBX=2\r\nRSI=0 RBP=ffffd00000001fb0 RSP=0\r\nCR2=0 CR3=0000000000104000\r\nRIP=ffffffff80201234 RFL=00000246 [---Z-P-] CPL=0 \
                II=0 A20=1 SMM=0 HLT=0\r\n\r\nCPU#1\r\nEIP=000fd0a5 EFL=2 HLT=1\r\n\
                CPU#2\r\nRIP=torn";
    let cpu = |number: &str| Cpu { number: number.to_string(), ..Cpu::default() };
    let expected = [
        Cpu {
            ip: Some(0xffff_ffff_8020_1234),
            rbp: 0xffff_d000_0000_1fb0,
            cr3: 0x104000,
            ..cpu("0")
        },
        Cpu { ip: Some(0xfd0a5), halted: true, ..cpu("1") },
        cpu("2"),
    ];
    assert_eq!(parse(text), expected);
}
