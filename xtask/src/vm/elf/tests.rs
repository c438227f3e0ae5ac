use super::*;
use crate::error::Ours;

const NOTE_AT: usize = 0x100;
const HEADERS_AT: usize = 0x140;

/// A kernel in its smallest form: one segment at 2 MiB that holds the note
/// and the loader's section, and the section headers.
pub(crate) fn kernel() -> Vec<u8> {
    let mut bytes = vec![0; HEADERS_AT];
    let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[2, 0, 62, 0, 1]);
    put(32, &64_u64.to_le_bytes());
    put(40, &(HEADERS_AT as u64).to_le_bytes());
    put(52, &[64, 0, 56, 0, 1, 0, 64, 0, 4, 0, 1, 0]);
    // PT_LOAD of the whole file, at 2 MiB.
    put(64, &[1, 0, 0, 0, 5, 0, 0, 0]);
    put(64 + 24, &0x20_0000_u64.to_le_bytes());
    put(64 + 32, &(HEADERS_AT as u64).to_le_bytes());
    put(64 + 40, &(HEADERS_AT as u64).to_le_bytes());
    put(0xc0, b"\0.shstrtab\0.note.Xen\0.bootloader-config\0");
    put(NOTE_AT, &[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, b'X', b'e', b'n', 0, 0x10, 0, 0x20, 0]);
    // name, type, offset, size
    let sections = [(0, 0, 0, 0), (1, 3, 0xc0, 40), (11, 7, NOTE_AT, 20), (21, 1, 0x120, 8)];
    for (name, kind, offset, size) in sections {
        let mut header = [0; 64];
        header[0] = name;
        header[4] = kind;
        header[8] = if kind == 3 || kind == 0 { 0 } else { 2 };
        header[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
        header[32] = size;
        bytes.extend_from_slice(&header);
    }
    bytes
}

fn wrong(change: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut bytes = kernel();
    change(&mut bytes);
    examine(&bytes).expect_err("the change must be found").text()
}

#[test]
fn a_good_kernel_passes() {
    assert!(examine(&kernel()).is_ok());
}

#[test]
fn each_mutation_is_named() {
    assert!(wrong(|b| b[1] = b'X').contains("no ELF file"));
    assert!(wrong(|b| b[4] = 1).contains("no 64-bit"));
    assert!(wrong(|b| b[18] = 40).contains("another machine"));
    assert!(wrong(|b| b[NOTE_AT + 8] = 17).contains("no PVH note"));
    assert!(wrong(|b| b[NOTE_AT + 12] = b'Y').contains("it has other notes"));
    assert!(wrong(|b| b[NOTE_AT + 4] = 2).contains("2 bytes in place of an address"));
    assert!(wrong(|b| b[NOTE_AT + 18] = 0x40).contains("entry 0x400010 is in no loaded"));
    assert!(wrong(|b| b[NOTE_AT + 19] = 0xff).contains("is in no loaded segment"));
    // The segment above 4 GiB, and gone.
    assert!(wrong(|b| b[64 + 28] = 1).contains("below 4 GiB"));
    assert!(wrong(|b| b[64] = 0).contains("is in no loaded segment"));
    // The loader's section renamed, and empty.
    assert!(wrong(|b| b[0xc0 + 22] = b'x').contains(LOADER_CONFIG));
    assert!(wrong(|b| b[HEADERS_AT + 3 * 64 + 32] = 0).contains(LOADER_CONFIG));
}

#[test]
fn no_truncation_makes_it_panic() {
    let bytes = kernel();
    for length in 0..bytes.len() {
        assert!(examine(&bytes[..length]).is_err(), "{length}");
    }
}
