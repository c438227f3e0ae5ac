use super::*;
use crate::paths;

const ROOT: u64 = 0x1000;

/// Memory with page tables at 0x1000 to 0x4000: of a page of 4 KiB at 0x5000, of one of 2 MiB at
/// 0x400000, of one of 1 GiB at 0 and of one where no memory is.
fn memory() -> Paging {
    let dir = paths::target_dir().join("tmp");
    paths::create_dir(&dir).expect("a folder");
    let file = dir.join("memory_of_paging");
    let mut bytes = vec![0; 0x60_0000];
    let mut put = |at: u64, word: u64| {
        bytes[at as usize..][..8].copy_from_slice(&word.to_le_bytes());
    };
    put(ROOT + 511 * 8, 0x2003);
    put(0x2000, 0x3003);
    put(0x2000 + 8, IS_PAGE | 3);
    put(0x3000, 0x4003);
    put(0x3000 + 8, 0x40_0000 | IS_PAGE | 3);
    // Bits 12 to 20 of such an entry are no part of the address.
    put(0x3000 + 16, 0x8000_0000 | 1 << 12 | IS_PAGE | 3);
    put(0x4000, 0x5003 | 1 << 63);
    put(0x4000 + 16, 0x5002);
    for at in [0x5008, 0x5010, 0x41_2340, 0x41_2348] {
        put(at, at + 1);
    }
    let low = bytes.len() as u64;
    paths::write(&file, bytes).expect("a file");
    Paging::new(file, low)
}

#[test]
fn words_are_found_through_pages_of_every_size() {
    let mut memory = memory();
    let mut at = |at: u64| memory.two_words(ROOT | 0xfff, at).expect("it can be read");
    let half = 0xffff_ff80_0000_0000;
    assert_eq!(at(half + 8), Some([0x5009, 0x5011]));
    assert_eq!(at(half + 0x20_0000 + 0x1_2340), Some([0x41_2341, 0x41_2349]));
    assert_eq!(at(half + 0x4000_0000 + 0x5008), Some([0x5009, 0x5011]));
    for (missing, why) in [
        (half + 0xff8, "the second word is in a page that is not there"),
        (half + 0x2000, "not present"),
        (half + 0x40_0000, "no memory"),
        (half + 0x8000_0000, "no table of the second level"),
        (0x5008, "no table of the first level"),
        (u64::MAX - 7, "the last word"),
    ] {
        assert_eq!(at(missing), None, "{why}");
    }
}
