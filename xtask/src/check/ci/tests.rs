use super::*;

#[test]
fn a_line_is_what_a_person_types() {
    let command = command_of("A=b=c cargo test --target-dir {target}/x -- -y").expect("a command");
    let words: Vec<_> = command.get_args().collect();
    let target = paths::target_dir().join("x");
    assert_eq!(
        words,
        [
            "test".as_ref(),
            "--target-dir".as_ref(),
            target.as_os_str(),
            "--".as_ref(),
            "-y".as_ref()
        ]
    );
    let set = command.get_envs().find(|(name, _)| *name == "A");
    assert_eq!(set, Some(("A".as_ref(), Some("b=c".as_ref()))));
    let this = command_of("cargo xtask test").expect("a command");
    assert_eq!(this.get_args().collect::<Vec<_>>(), ["test"]);
}
