use super::*;

#[test]
fn registers_are_read_cpu_by_cpu() {
    let text = "\r\nCPU#0\r\nRAX=1 RBX=2\r\nRIP=ffffffff80201234 RFL=00000246 [---Z-P-] CPL=0 \
                II=0 A20=1 SMM=0 HLT=0\r\n\r\nCPU#1\r\nEIP=000fd0a5 EFL=2 HLT=1\r\n\
                CPU#2\r\nRIP=torn";
    let expected = [
        Cpu { number: "0".to_string(), ip: Some(0xffff_ffff_8020_1234), halted: false },
        Cpu { number: "1".to_string(), ip: Some(0xfd0a5), halted: true },
        Cpu { number: "2".to_string(), ip: None, halted: false },
    ];
    assert_eq!(parse(text), expected);
}
