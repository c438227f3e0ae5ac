use super::*;

fn code(bytes: &[u8]) -> Vec<Instruction> {
    Decoder::with_ip(64, bytes, 0x1000, DecoderOptions::NONE).iter().collect()
}

const ADD: [u8; 3] = [0x83, 0x07, 2];
const SUB: [u8; 3] = [0x83, 0x2f, 2];
/// sub dword ptr [rdi], 0x802
const UNLOCK: [u8; 6] = [0x81, 0x2f, 2, 8, 0, 0];
const JBE: [u8; 2] = [0x76, 1];
const RET: [u8; 1] = [0xc3];

fn section(parts: &[&[u8]]) -> std::result::Result<usize, String> {
    section_rules(&code(&parts.concat()))
}

#[test]
fn what_it_should_be() {
    assert_eq!(section(&[&ADD, &SUB, &JBE, &RET, &RET]), Ok(3));
    let lock_cmpxchg = [0xf0, 0x0f, 0xb1, 0x0f];
    let good = [&ADD[..], &lock_cmpxchg, &UNLOCK, &JBE, &RET].concat();
    assert_eq!(spinlock_rules(&code(&good)), Ok(5));
}

#[test]
fn what_it_should_not_be() {
    let locked = [0xf0, 0x83, 0x07, 2];
    let broken = section(&[&locked, &SUB, &JBE, &RET]).unwrap_err();
    assert!(broken.contains("is locked"), "{broken}");
    // cmp dword ptr [rdi], 0 and je, where the flags would do
    let compare = [0x83, 0x3f, 0, 0x74, 1];
    let broken = section(&[&ADD, &SUB, &compare, &RET]).unwrap_err();
    assert!(broken.contains("JBE") || broken.contains("change"), "{broken}");
    // mov eax, [rdi]; sub eax, 2; mov [rdi], eax
    let split = [0x8b, 0x07, 0x83, 0xe8, 2, 0x89, 0x07];
    assert!(section(&[&ADD, &split, &JBE, &RET]).is_err());
    assert!(section(&[&SUB, &JBE, &RET]).is_err());
    // Something between the two.
    let broken = section(&[&ADD, &[0x90], &SUB, &JBE, &RET]).unwrap_err();
    assert!(broken.contains("not followed by the SUB"), "{broken}");
    assert!(spinlock_rules(&code(&[&ADD[..], &UNLOCK, &JBE, &RET].concat())).is_err());
    let cmpxchg = [0xf0, 0x0f, 0xb1, 0x0f];
    let broken = [&cmpxchg[..], &UNLOCK, &RET].concat();
    assert!(spinlock_rules(&code(&broken)).unwrap_err().contains("no SUB with"));
    let twice = [&cmpxchg[..], &locked, &UNLOCK, &JBE, &RET].concat();
    assert!(spinlock_rules(&code(&twice)).unwrap_err().contains("add"));
}

#[test]
fn a_look_at_the_interrupt_flag_is_found() {
    // pushfq; pop rax
    const FLAGS: &[u8] = &[0x9c, 0x58];
    // test eax, 0x200; test eax, 0x100; bt rax, 9; mov [rdi], rax
    const TEST: &[u8] = &[0xa9, 0, 2, 0, 0];
    const OTHER: &[u8] = &[0xa9, 0, 1, 0, 0];
    const BT: &[u8] = &[0x48, 0x0f, 0xba, 0xe0, 9];
    const KEEP: &[u8] = &[0x48, 0x89, 0x07];
    let asks = |parts: &[&[u8]]| asks_for_interrupts(&code(&parts.concat())).is_some();
    assert!(asks(&[FLAGS, TEST]) && asks(&[KEEP, FLAGS, KEEP, BT]));
    assert!(!asks(&[FLAGS, KEEP]) && !asks(&[FLAGS, OTHER]) && !asks(&[TEST, BT]));
}

#[test]
fn a_command_without_its_fences_is_found() {
    const MFENCE: &[u8] = &[0x0f, 0xae, 0xf0];
    const LFENCE: &[u8] = &[0x0f, 0xae, 0xe8];
    const CHOOSE: &[u8] = &[0xb9, 0x30, 0x08, 0, 0];
    const OTHER: &[u8] = &[0xb9, 0x0b, 0x08, 0, 0];
    const VECTOR: &[u8] = &[0xb8, 0xf3, 0x40, 0, 0];
    const WRMSR: &[u8] = &[0x0f, 0x30];
    // mov dword ptr [rdi], eax
    const STORE: &[u8] = &[0x89, 0x07];
    let rules = |parts: &[&[u8]]| x2apic_rules(&code(&parts.concat())).map_err(|(_, why)| why);
    let fences = "no MFENCE and LFENCE before it";
    assert_eq!(rules(&[MFENCE, LFENCE, CHOOSE, VECTOR, WRMSR]), Ok(1));
    assert_eq!(rules(&[MFENCE, LFENCE, VECTOR, CHOOSE, WRMSR, OTHER, WRMSR]), Ok(1));
    assert_eq!(rules(&[OTHER, VECTOR, WRMSR]), Ok(0));
    assert_eq!(rules(&[CHOOSE, VECTOR, WRMSR]), Err(fences));
    assert_eq!(rules(&[MFENCE, CHOOSE, VECTOR, WRMSR]), Err(fences));
    assert_eq!(rules(&[LFENCE, CHOOSE, VECTOR, WRMSR]), Err(fences));
    assert_eq!(rules(&[MFENCE, LFENCE, STORE, CHOOSE, WRMSR]), Err(fences));
    assert!(rules(&[MFENCE, LFENCE, CHOOSE, STORE, WRMSR]).is_err());
    assert!(rules(&[MFENCE, LFENCE, CHOOSE, &RET, WRMSR]).is_err());
}

#[test]
fn jumps_name_lines() {
    let listing = listing(&code(&[&JBE[..], &RET, &RET, &[0xe9, 0, 1, 0, 0]].concat()));
    assert_eq!(listing, " 1  jbe line 3\n 2  ret\n 3  ret\n 4  jmp elsewhere\n");
}

#[test]
fn a_listing_is_replaced_in_its_place() {
    let page = "a\n```x86asm\nold\n```\nb\n```\nc\n```\n";
    let new = replaced(page, "new\n").unwrap();
    assert_eq!(new, "a\n```x86asm\nnew\n```\nb\n```\nc\n```\n");
    assert_eq!(replaced("none", ""), None);
}

#[test]
fn an_address_is_not_shown() {
    let address = code(&[0x48, 0xc7, 0xc6, 0xa8, 0x0a, 0x25, 0x80]);
    assert_eq!(listing(&address), " 1  mov rsi, an address\n");
    let number = code(&[0x48, 0xc7, 0xc6, 1, 0, 0, 0]);
    assert_eq!(listing(&number), " 1  mov rsi, 1\n");
}

#[test]
fn a_path_is_found_where_it_lies() {
    let bytes = b"\x7fELF\0/home/me/.cargo/registry/src/x-1.0/lib.rs\0/home/me";
    let found = holding(bytes, b"/home/me/.cargo/registry/src");
    assert_eq!(found.as_deref(), Some("/home/me/.cargo/registry/src/x-1.0/lib.rs"));
    assert_eq!(holding(bytes, b"/home/you"), None);
}
