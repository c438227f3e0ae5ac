use super::*;

/// As QEMU 7.2 writes it, registers left out: a timer interrupt and another
/// CPU's page fault come before and between.
const LOG: &str = "\
 3: v=20 e=0000 i=0 cpl=0 IP=0008:ffffffff80200000 pc=ffffffff80200000 SP=0010:ffff800000001000 env->regs[R_EAX]=0
check_exception old: 0xffffffff new 0xe
 4: v=0e e=0002 i=0 cpl=0 IP=0008:ffffffff80201234 pc=ffffffff80201234 SP=0010:ffff800000000ff8 CR2=ffff800000000ff0
RAX=0000000000000000 RBX=0000000000000000
 5: v=0e e=0000 i=0 cpl=0 IP=0008:ffffffff80209999 pc=ffffffff80209999 SP=0010:ffff800000009000 CR2=0000000000001000
check_exception old: 0xe new 0xe
 6: v=08 e=0000 i=0 cpl=0 IP=0008:ffffffff80201234 pc=ffffffff80201234 SP=0010:ffff800000000ff8 env->regs[R_EAX]=0
check_exception old: 0x8 new 0xe
Triple fault
CPU Reset (CPU 0)
";

#[test]
fn the_chain_is_the_exceptions_of_one_instruction() {
    let chain = chain(LOG);
    assert_eq!(chain.iter().map(|e| e.vector).collect::<Vec<_>>(), [14, 8]);
    assert_eq!(chain[0].cr2, Some(0xffff_8000_0000_0ff0));
    assert_eq!(chain[0].ip, 0xffff_ffff_8020_1234);
}

#[test]
fn the_report_names_the_exceptions() {
    let lines = report(LOG, &Symbols::none());
    assert_eq!(lines[0], "v=0e #PF -> v=08 #DF -> Triple fault");
    assert!(lines[1].contains("#PF page fault, error code 0x2 cr2 0xffff800000000ff0"));
    assert_eq!(lines.len(), 3);
}

#[test]
fn a_log_without_a_triple_fault_has_no_chain() {
    assert!(chain(LOG.split("Triple").next().unwrap_or("")).is_empty());
    assert!(report("", &Symbols::none()).is_empty());
}
