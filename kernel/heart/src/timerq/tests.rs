use super::{NOWHERE, Positions, Timer, TimerQueue};
use std::cell::RefCell;

struct Places(RefCell<Vec<u32>>);

impl Positions for Places {
    fn position(&self, thread: u32) -> u32 {
        self.0.borrow()[thread as usize]
    }

    fn set_position(&self, thread: u32, position: u32) {
        self.0.borrow_mut()[thread as usize] = position;
    }
}

/// Compared with a plain list, over random sequences.
#[test]
fn as_a_plain_model() {
    const THREADS: u32 = 40;
    const ROUNDS: u32 = if cfg!(miri) { 500 } else { 100_000 };
    let places = Places(RefCell::new(vec![NOWHERE; THREADS as usize]));
    let mut heap = [Timer::default(); THREADS as usize];
    let mut queue = TimerQueue::new(&mut heap);
    let mut model: Vec<(u64, u32)> = Vec::new();
    let mut random = 88_172_645_463_325_252_u64;
    for _ in 0..ROUNDS {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let thread = (random >> 8) as u32 % THREADS;
        let known = model.iter().position(|&(_, one)| one == thread);
        match (known, random % 8) {
            (None, _) => {
                let deadline = (random >> 20) % 1000;
                queue.insert(&places, thread, deadline);
                model.push((deadline, thread));
            }
            (Some(at), 0..4) => {
                assert!(queue.remove(&places, thread));
                assert!(!queue.remove(&places, thread));
                model.swap_remove(at);
            }
            _ => {
                let now = (random >> 40) % 1000;
                while let Some(expired) = queue.pop_expired(&places, now) {
                    let at = model.iter().position(|&(_, one)| one == expired).unwrap();
                    let (deadline, _) = model.swap_remove(at);
                    assert!(deadline <= now);
                    assert!(model.iter().all(|&(other, _)| other >= deadline));
                }
                assert!(model.iter().all(|&(deadline, _)| deadline > now));
            }
        }
        assert_eq!(
            queue.next(),
            model.iter().map(|&(deadline, _)| deadline).min()
        );
    }
}
