use super::{u32_at, u64_at};

#[test]
fn the_lowest_byte_comes_first() {
    let bytes: Vec<u8> = (0..12).collect();
    assert_eq!(u32_at(&bytes, 1), 0x0403_0201);
    assert_eq!(u64_at(&bytes, 3), 0x0a09_0807_0605_0403);
}
