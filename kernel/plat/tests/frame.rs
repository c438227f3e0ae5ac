//! The frame allocator against a set of free frame numbers.

use plat::frame::{FRAME_SIZE, Frame, FrameAllocator, FreeError, Span, words_for};
use proptest::prelude::*;
use std::collections::BTreeSet;

#[derive(Clone, Debug)]
enum Step {
    Add { start: u64, n: u64 },
    Alloc,
    AllocBelow(u64),
    AllocContiguous { n: u64, align: u64 },
    Free { start: u64, n: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0..700u64, 0..200u64).prop_map(|(start, n)| Step::Add { start, n }),
        4 => Just(Step::Alloc),
        1 => (0..700 * FRAME_SIZE).prop_map(Step::AllocBelow),
        2 => (0..100u64, 0..8u32).prop_map(|(n, log)| Step::AllocContiguous { n, align: 1 << log }),
        4 => (0..700u64, 1..40u64).prop_map(|(start, n)| Step::Free { start, n }),
    ]
}

/// The free and the added frames, one by one.
struct Model {
    runs: Vec<(u64, u64)>,
    free: BTreeSet<u64>,
    total: u64,
}

impl Model {
    /// What freeing the frames must answer, if that shows in the frames themselves.
    fn check(&self, start: u64, n: u64) -> Result<(), FreeError> {
        let covered = |at: &u64| self.runs.iter().any(|run| (run.0..run.1).contains(at));
        // No frames are asked for where they would start.
        if let Some(hole) = (start..start + n.max(1)).find(|at| !covered(at)) {
            return Err(FreeError::OutOfRange(Frame::new(hole)));
        }
        match self.free.range(start..start + n).next() {
            Some(&frame) => Err(FreeError::DoubleFree(Frame::new(frame))),
            None => Ok(()),
        }
    }

    /// Whether there is an aligned row of free frames.
    fn has_row(&self, n: u64, align: u64) -> bool {
        n > 0
            && self
                .free
                .iter()
                .any(|&at| at % align == 0 && self.row_is_free(at, n))
    }

    fn row_is_free(&self, at: u64, n: u64) -> bool {
        (at..at + n).all(|frame| self.free.contains(&frame))
    }

    fn take(&mut self, at: u64, n: u64) {
        (at..at + n).for_each(|frame| assert!(self.free.remove(&frame), "{frame} given twice"));
    }

    fn step(&mut self, frames: &mut FrameAllocator<'_>, step: &Step) {
        match *step {
            Step::Add { start, n } => {
                let answer = self.check(start, n);
                assert_eq!(frames.free_range(Frame::new(start), n), answer);
                if answer.is_ok() {
                    self.free.extend(start..start + n);
                    self.total += n;
                }
            }
            Step::Alloc => match frames.alloc() {
                Some(frame) => self.take(frame.number(), 1),
                None => assert!(self.free.is_empty()),
            },
            Step::AllocBelow(limit) => {
                let lowest = self
                    .free
                    .first()
                    .copied()
                    .filter(|at| (at + 1) * FRAME_SIZE <= limit);
                assert_eq!(frames.alloc_below(limit).map(Frame::number), lowest);
                lowest.into_iter().for_each(|at| self.take(at, 1));
            }
            Step::AllocContiguous { n, align } => match frames.alloc_contiguous(n, align) {
                Some(frame) => {
                    assert_eq!(frame.number() % align, 0);
                    assert!(n > 0);
                    self.take(frame.number(), n);
                }
                None => assert!(!self.has_row(n, align)),
            },
            Step::Free { start, n } => {
                let used = self.total - self.free.len() as u64;
                let answer = self.check(start, n).and_then(|()| {
                    if n > used {
                        Err(FreeError::NeverAdded(Frame::new(start)))
                    } else {
                        Ok(())
                    }
                });
                assert_eq!(frames.free_contiguous(Frame::new(start), n), answer);
                if answer.is_ok() {
                    self.free.extend(start..start + n);
                }
            }
        }
        assert_eq!(frames.free_frames(), self.free.len() as u64);
        assert_eq!(frames.total_frames(), self.total);
        assert_eq!(frames.used_frames(), self.total - self.free.len() as u64);
    }
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: if cfg!(miri) { 5 } else { 400 },
        failure_persistence: None,
        ..Default::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_allocator_does_what_the_model_does(
        lengths in proptest::collection::vec((0..200u64, 1..200u64), 0..6),
        steps in proptest::collection::vec(step(), 0..150),
    ) {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for (gap, length) in lengths {
            let start = runs.last().map_or(gap, |last| last.1 + 1 + gap);
            runs.push((start, start + length));
        }
        let frames = runs.iter().map(|(start, end)| end - start).sum();
        let (mut spans, mut bitmap) = (vec![Span::default(); runs.len()], vec![0; words_for(frames)]);
        let numbered = runs.iter().map(|&(start, end)| (Frame::new(start), Frame::new(end)));
        let mut frames = FrameAllocator::new(&mut spans, &mut bitmap, numbered);
        let mut model = Model { runs, free: BTreeSet::new(), total: 0 };
        for step in &steps {
            model.step(&mut frames, step);
        }
        for number in 0..1300 {
            prop_assert_eq!(frames.is_free(Frame::new(number)), model.free.contains(&number));
        }
    }
}
