use super::{AtomicName, AtomicPriority, Name, Priority, ThreadId, ThreadState};

#[test]
fn priorities_are_ordered_and_bounded() {
    assert!(Priority::HIGHEST.is_better_than(Priority::NORMAL));
    assert!(Priority::LOWEST.is_better_than(Priority::IDLE));
    assert!(!Priority::NORMAL.is_better_than(Priority::NORMAL));
    assert_eq!(Priority::new(63), Some(Priority::LOWEST));
    assert_eq!(Priority::new(64), None);
    assert_eq!(Priority::IDLE.to_string(), "idle");
    assert_eq!(Priority::NORMAL.to_string(), "32");
}

#[test]
fn states_go_round() {
    use ThreadState::{Dead, Free, Moving, Runnable, Running, Sleeping};
    let life = [
        Free, Moving, Runnable, Running, Sleeping, Moving, Runnable, Running, Dead, Free,
    ];
    assert!(life.windows(2).all(|pair| pair[0].may_become(pair[1])));
    assert!(!Dead.may_become(Runnable));
    assert!(!Sleeping.may_become(Runnable));
    assert!(!Free.may_become(Running));
    for value in 0..=255 {
        let state = ThreadState::from_u8(value).map(|state| state as u8);
        assert_eq!(state, (value <= Dead as u8).then_some(value));
    }
}

#[test]
fn an_id_names_place_and_generation() {
    assert_eq!(
        ThreadId {
            index: 3,
            generation: 7
        }
        .to_string(),
        "thread3.7"
    );
}

/// Names of every length, of characters of 1 to 4 bytes: the longest prefix of whole characters
/// that fits is stored.
#[test]
fn a_name_is_cut_between_letters() {
    for letter in ['a', 'ä', '→', '𝄞'] {
        for before in 0..=Name::BYTES {
            for count in 0..=Name::BYTES {
                let name = "x".repeat(before) + &letter.to_string().repeat(count);
                let fits = (name.char_indices())
                    .map(|(start, letter)| start + letter.len_utf8())
                    .rfind(|&end| end <= Name::BYTES);
                let kept = &name[..fits.unwrap_or(0)];
                let place = AtomicName::new(Name::new("the one before"));
                place.set(Name::new(&name));
                assert_eq!(place.get().to_string(), kept);
                assert_eq!(place.get(), name.as_str());
                assert_ne!(place.get(), "the one before");
            }
        }
    }
}

/// Half of one name and half of another can be displayed, whatever they are.
#[test]
fn a_name_that_is_read_while_it_changes_is_shown() {
    let cut = Name(*b"1234567\xe2----\xff---");
    assert_eq!(format!("{cut:?}"), "\"1234567\u{fffd}----\u{fffd}---\"");
}

#[test]
fn a_priority_may_change() {
    let priority = AtomicPriority::new(Priority::NORMAL);
    assert_eq!(priority.get(), Priority::NORMAL);
    priority.set(Priority::HIGHEST);
    assert_eq!(priority.get(), Priority::HIGHEST);
}
