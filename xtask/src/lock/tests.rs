use super::*;

#[test]
fn a_lock_ends_with_its_file_and_names_who_has_it() {
    let dir = std::env::temp_dir().join(format!("tryst-lock-{}", std::process::id()));
    let mut first = open(&dir).expect("a file");
    first.try_lock().expect("nobody has it");
    sign(&mut first);
    let mut second = open(&dir).expect("the same file");
    assert!(matches!(second.try_lock(), Err(TryLockError::WouldBlock)));
    assert_eq!(holder(&mut second), format!(" (pid {})", std::process::id()));
    drop(first);
    second.try_lock().expect("it is free again");
    std::fs::remove_dir_all(dir).expect("ours");
}
