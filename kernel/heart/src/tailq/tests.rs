use std::collections::VecDeque;

use super::{Link, Linked, TailQueue};

struct Item {
    number: usize,
    link: Link<Item>,
}

enum Here {}

impl Linked<Here> for Item {
    fn link(&self) -> &Link<Self> {
        &self.link
    }
}

/// Compared with a list of numbers, over random sequences.
#[test]
fn as_a_plain_model() {
    const ROUNDS: u32 = if cfg!(miri) { 500 } else { 50_000 };
    let items: &'static [Item] = Vec::leak(
        (0..8)
            .map(|number| Item {
                number,
                link: Link::new(),
            })
            .collect(),
    );
    let mut queue = TailQueue::<Item, Here>::new();
    let mut model = VecDeque::new();
    let mut random = 88_172_645_463_325_252_u64;
    for _ in 0..ROUNDS {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let number = (random >> 8) as usize % 8;
        let item = &items[number];
        assert_eq!(queue.contains(item), model.contains(&number));
        if random >> 16 & 7 == 0 {
            let first = queue.pop_front().map(|item| item.number);
            assert_eq!(first, model.pop_front());
        } else if let Some(place) = model.iter().position(|&one| one == number) {
            queue.remove(item);
            model.remove(place);
        } else if random & 1 == 0 && random >> 19 & 1 == 0 {
            let first = queue.rotate(item).map(|item| item.number);
            assert_eq!(first, model.pop_front());
            if first.is_some() {
                model.push_back(number);
            }
        } else if random & 1 == 0 {
            queue.push_back(item);
            model.push_back(number);
        } else {
            queue.push_front(item);
            model.push_front(number);
        }
        assert!(
            queue
                .iter()
                .map(|item| item.number)
                .eq(model.iter().copied())
        );
        assert_eq!(queue.is_empty(), model.is_empty());
        assert_eq!(
            queue.first().map(|item| item.number),
            model.front().copied()
        );
    }
}
