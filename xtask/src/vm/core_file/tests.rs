use super::*;

/// A file as QEMU writes it: a segment for each of these addresses, of one page.
fn raw(addresses: &[u64]) -> Vec<u8> {
    let mut bytes = vec![0; 64 + 56 * addresses.len()];
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    bytes[32] = 64;
    bytes[56] = addresses.len() as u8;
    for (number, address) in addresses.iter().enumerate() {
        let at = 64 + 56 * number;
        bytes[at + 16..at + 24].copy_from_slice(&address.to_le_bytes());
    }
    bytes
}

/// The addresses are those of an x86_64: QEMU sets bits 63 to 48 in the lower half too.
#[test]
fn the_addresses_are_made_canonical() {
    let dir = std::env::temp_dir().join(format!("tryst-core-{}", std::process::id()));
    paths::create_dir(&dir).expect("a folder");
    let (from, to) = (dir.join("raw"), dir.join("core"));
    let memory = [&[0; 300_000][..], b"the end", &[0; 100_000]].concat();
    let wrong = [0xffff_0000_1000_0000, 0xffff_8000_0000_1000, 0x1000];
    paths::write(&from, [raw(&wrong), memory.clone()].concat()).expect("a file");
    mend(&from, &to).expect("it is written");
    let right = [0x1000_0000, 0xffff_8000_0000_1000, 0x1000];
    assert_eq!(paths::read(&to).expect("it is there"), [raw(&right), memory].concat());
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::MetadataExt;

        let blocks = fs::metadata(&to).expect("it is there").blocks();
        assert!(blocks * 512 < 300_000, "zeros take no room: {blocks} blocks");
    }
    fs::remove_dir_all(&dir).expect("it is there");
}
