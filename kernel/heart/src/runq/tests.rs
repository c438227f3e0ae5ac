use super::{RunLink, RunQueue};
use crate::tailq::{Link, Linked};
use crate::thread::Priority;

#[derive(Debug)]
struct Thread {
    number: usize,
    link: Link<Thread>,
}

impl std::fmt::Debug for Link<Thread> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Link")
    }
}

impl Linked<RunLink> for Thread {
    fn link(&self) -> &Link<Self> {
        &self.link
    }
}

fn threads(count: usize) -> &'static [Thread] {
    let thread = |number| Thread {
        number,
        link: Link::new(),
    };
    Vec::leak((0..count).map(thread).collect())
}

fn priority(value: u8) -> Priority {
    Priority::new(value).unwrap()
}

#[test]
fn best_first_and_in_turn() {
    let threads = threads(5);
    let mut queue = RunQueue::new();
    for (thread, level) in [(0, 5), (1, 63), (2, 5), (3, 0)] {
        queue.push_back(&threads[thread], priority(level));
    }
    queue.push_front(&threads[4], priority(5));
    assert_eq!(queue.best(), Some(Priority::HIGHEST));
    let order: Vec<_> = std::iter::from_fn(|| queue.pop())
        .map(|thread| thread.number)
        .collect();
    assert_eq!(order, [3, 4, 0, 2, 1]);
    assert!(queue.is_empty() && queue.best().is_none());
}

#[test]
fn it_knows_how_many_there_are() {
    let threads = threads(3);
    let mut queue = RunQueue::new();
    assert!(queue.is_empty());
    queue.push_back(&threads[0], priority(5));
    queue.push_front(&threads[1], priority(5));
    queue.push_back(&threads[2], priority(6));
    assert_eq!((queue.len(), queue.is_empty()), (3, false));
    queue.remove(&threads[0], priority(5));
    assert_eq!(queue.len(), 2);
    queue.pop();
    assert_eq!((queue.len(), queue.is_empty()), (1, false));
    queue.pop();
    assert_eq!((queue.len(), queue.is_empty()), (0, true));
}

#[test]
fn find_skips_what_is_not_wanted() {
    let mut queue = RunQueue::new();
    for thread in threads(4) {
        queue.push_back(thread, priority(7 - thread.number as u8 % 2));
    }
    let find = |wanted: fn(&Thread) -> bool| {
        let (thread, priority) = queue.find(wanted)?;
        Some((thread.number, priority.index()))
    };
    assert_eq!(find(|_| true), Some((1, 6)));
    assert_eq!(find(|thread| thread.number % 2 == 0), Some((0, 7)));
    assert_eq!(find(|_| false), None);
}

#[test]
#[should_panic(expected = "a thread is not queued at priority 3")]
fn removing_what_is_not_there_is_found() {
    RunQueue::new().remove(&threads(1)[0], priority(3));
}

/// Compared with lists of numbers, over random sequences.
#[test]
fn as_a_plain_model() {
    const ROUNDS: u32 = if cfg!(miri) { 500 } else { 200_000 };
    let threads = threads(16);
    let mut queue = RunQueue::new();
    let mut model: Vec<Vec<usize>> = vec![Vec::new(); 64];
    let mut on: [Option<usize>; 16] = [None; 16];
    let mut random = 88_172_645_463_325_252_u64;
    for _ in 0..ROUNDS {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let number = (random >> 8) as usize % 16;
        let level = (random >> 16) as usize % 4 * 21;
        let turns = random >> 32 & 1 == 0;
        match (on[number], random % 4) {
            (None, 2 | 3) => {
                let place = if turns { model[level].len() } else { 0 };
                model[level].insert(place, number);
                let best = model.iter_mut().find(|list| !list.is_empty()).unwrap();
                let expected = best.remove(0);
                let (thread, level) = (&threads[number], priority(level as u8));
                let next = if turns {
                    queue.take_turns(thread, level)
                } else {
                    queue.give_way(thread, level)
                };
                if expected == number {
                    assert!(next.is_none());
                } else {
                    assert_eq!(next.map(|thread| thread.number), Some(expected));
                    on[number] = Some(level.index());
                    on[expected] = None;
                }
            }
            (None, 0) => {
                queue.push_front(&threads[number], priority(level as u8));
                model[level].insert(0, number);
                on[number] = Some(level);
            }
            (None, _) => {
                queue.push_back(&threads[number], priority(level as u8));
                model[level].push(number);
                on[number] = Some(level);
            }
            (Some(level), 0) => {
                queue.remove(&threads[number], priority(level as u8));
                model[level].retain(|&one| one != number);
                on[number] = None;
            }
            _ => {
                let expected = model.iter_mut().find(|list| !list.is_empty());
                let expected = expected.map(|list| list.remove(0));
                assert_eq!(queue.pop().map(|thread| thread.number), expected);
                if let Some(number) = expected {
                    on[number] = None;
                }
            }
        }
        let best = model.iter().position(|list| !list.is_empty());
        assert_eq!(queue.best().map(Priority::index), best);
        assert_eq!(queue.len(), model.iter().map(Vec::len).sum());
    }
}
