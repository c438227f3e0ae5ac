use super::*;
use core::iter;
use core::slice::from_mut;

const MIB: u64 = 1 << 20;

fn frame(number: u64) -> Frame {
    Frame::new(number)
}

/// An allocator for the frames 0 to `end - 1`.
fn one_run<'a>(span: &'a mut Span, bitmap: &'a mut [u64], end: u64) -> FrameAllocator<'a> {
    FrameAllocator::new(from_mut(span), bitmap, iter::once((frame(0), frame(end))))
}

#[test]
fn a_frame_and_its_address() {
    assert_eq!(Frame::containing(0x1fff), frame(1));
    assert_eq!(frame(0x10_0000).start_address(), 1 << 32);
    assert_eq!(frame(256).to_string(), "frame 0x100");
}

#[test]
fn words() {
    assert_eq!([0, 1, 64, 65].map(words_for), [0, 1, 1, 2]);
}

#[test]
#[should_panic(expected = "1 words for 65 frames")]
fn a_short_bitmap_is_refused() {
    let _ = one_run(&mut Span::default(), &mut [0], 65);
}

#[test]
fn nothing_is_free_at_first_whatever_the_bitmap_held() {
    let mut bitmap = [u64::MAX; 2];
    let mut span = Span::default();
    let mut frames = one_run(&mut span, &mut bitmap, 100);
    assert_eq!(frames.alloc(), None);
    assert_eq!(frames.alloc_below(u64::MAX), None);
    assert_eq!(frames.alloc_contiguous(1, 1), None);
    assert_eq!(
        (
            frames.free_frames(),
            frames.used_frames(),
            frames.total_frames()
        ),
        (0, 0, 0)
    );
}

#[test]
fn every_frame_is_given_once() {
    let mut bitmap = [0; 2];
    let mut span = Span::default();
    let mut frames = one_run(&mut span, &mut bitmap, 100);
    frames.free_range(frame(30), 70).unwrap();
    let mut given: Vec<u64> = iter::from_fn(|| frames.alloc())
        .map(Frame::number)
        .collect();
    given.sort_unstable();
    assert!(given.into_iter().eq(30..100));
    assert_eq!(
        (
            frames.free_frames(),
            frames.used_frames(),
            frames.total_frames()
        ),
        (0, 70, 70)
    );
}

#[test]
fn errors_name_the_frame_and_change_nothing() {
    let mut bitmap = [0; 2];
    let mut span = Span::default();
    let mut frames = one_run(&mut span, &mut bitmap, 100);
    assert_eq!(frames.free(frame(1)), Err(FreeError::NeverAdded(frame(1))));
    frames.free_range(frame(10), 10).unwrap();
    let taken = frames.alloc().unwrap();
    frames.free(taken).unwrap();
    assert_eq!(
        frames.free_range(frame(5), 6),
        Err(FreeError::DoubleFree(frame(10)))
    );
    assert_eq!(
        frames.free_range(frame(99), 2),
        Err(FreeError::OutOfRange(frame(100)))
    );
    assert_eq!(
        frames.free_range(frame(u64::MAX), 1),
        Err(FreeError::OutOfRange(frame(u64::MAX)))
    );
    assert_eq!(
        frames.free_range(frame(1), u64::MAX),
        Err(FreeError::OutOfRange(frame(100)))
    );
    assert_eq!((frames.free_frames(), frames.total_frames()), (10, 10));
    let taken = [frames.alloc(), frames.alloc()].map(Option::unwrap);
    frames.free(taken[0]).unwrap();
    let error = frames.free(taken[0]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "frame 0xb is freed but it is free already"
    );
    let error = frames.free(frame(100)).unwrap_err();
    assert_eq!(error.to_string(), "frame 0x64 is freed but is no memory");
}

#[test]
fn a_64_mib_machine_keeps_its_low_memory_for_last() {
    let end = 64 * MIB / FRAME_SIZE;
    let mut bitmap = vec![0; words_for(end)];
    let mut span = Span::default();
    let mut frames = one_run(&mut span, &mut bitmap, end);
    frames.free_range(frame(1), 0x9e).unwrap();
    frames.free_range(frame(256), end - 256).unwrap();
    assert_eq!(frames.alloc(), Some(frame(256)));
    assert_eq!(frames.alloc_contiguous(4, 1), Some(frame(257)));
    assert_eq!(frames.alloc_below(MIB), Some(frame(1)));
    assert_eq!(frames.alloc_below(0x2fff), None);
    assert_eq!(frames.alloc_below(0x3000), Some(frame(2)));
    for _ in 0..end - 256 - 5 {
        assert!(frames.alloc().unwrap().start_address() >= MIB);
    }
    assert_eq!(frames.alloc_contiguous(2, 4), Some(frame(4)));
    assert_eq!(frames.alloc(), Some(frame(3)));
    assert_eq!(frames.alloc(), Some(frame(6)));
}

#[test]
#[cfg_attr(miri, ignore = "two million frames, one by one")]
fn an_8_gib_machine_with_a_hole_below_4_gib() {
    let (hole, four_gib, end) = (0xc_0000, 0x10_0000, 0x24_0000);
    let mut bitmap = vec![0; words_for(end)];
    let mut span = Span::default();
    let mut frames = one_run(&mut span, &mut bitmap, end);
    frames.free_range(frame(256), hole - 256).unwrap();
    frames.free_range(frame(four_gib), end - four_gib).unwrap();
    assert_eq!(frames.total_frames() * FRAME_SIZE, 8192 * MIB - MIB);
    assert_eq!(frames.alloc_contiguous(0xc_0000, 1), Some(frame(four_gib)));
    assert_eq!(frames.alloc_contiguous(512, 512), Some(frame(512)));
    assert_eq!(frames.alloc_contiguous(0x8_0000, 0x10_0000), None);
    let left = frames.free_frames();
    for _ in 0..left {
        let frame = frames.alloc().unwrap();
        assert!(
            !(hole..four_gib + 0xc_0000).contains(&frame.number()),
            "{frame}"
        );
    }
    assert_eq!((frames.free_frames(), frames.alloc()), (0, None));
    frames.free_contiguous(frame(four_gib), 0xc_0000).unwrap();
    assert_eq!(frames.alloc_below(1 << 32), None);
    assert_eq!(frames.alloc(), Some(frame(four_gib)));
}

#[test]
fn rows_of_no_length_or_impossible_alignment() {
    let mut bitmap = [0; 8];
    let mut span = Span::default();
    let mut frames = one_run(&mut span, &mut bitmap, 512);
    frames.free_range(frame(0), 512).unwrap();
    assert_eq!(frames.alloc_contiguous(0, 1), None);
    assert_eq!(frames.alloc_contiguous(513, 1), None);
    assert_eq!(frames.alloc_contiguous(u64::MAX, 1), None);
    assert_eq!(frames.alloc_contiguous(512, 1 << 63), Some(frame(0)));
    assert_eq!(frames.free_contiguous(frame(0), 512), Ok(()));
}

#[test]
fn holes_have_no_bits() {
    // A page at 16 TiB, a run that ends within a word, and the first frame of all.
    let far = (16 << 40) / FRAME_SIZE;
    let runs = [
        (0, 1),
        (300, 370),
        (far, far + 1),
        (1 << 39, (1 << 39) + 60),
    ];
    let (mut spans, mut bitmap) = ([Span::default(); 4], [0; 3]);
    let runs = runs.map(|(start, end)| (frame(start), frame(end)));
    let mut frames = FrameAllocator::new(&mut spans, &mut bitmap, runs.into_iter());
    for (start, end) in runs {
        frames.free_range(start, end.0 - start.0).unwrap();
    }
    assert_eq!(frames.total_frames(), 132);
    for hole in [1, 299, 370, far - 1, far + 1, (1 << 39) + 60, u64::MAX] {
        let error = Err(FreeError::OutOfRange(frame(hole)));
        assert_eq!(frames.free(frame(hole)), error);
        assert!(!frames.is_free(frame(hole)), "{hole:#x}");
    }
    // Neighbours in the bitmap are not neighbours in memory.
    let beyond = FreeError::OutOfRange(frame(370));
    assert_eq!(frames.free_contiguous(frame(369), 2), Err(beyond));
    assert_eq!(frames.alloc_contiguous(71, 1), None);
    assert_eq!(frames.alloc_contiguous(61, 1), Some(frame(300)));
    assert_eq!(frames.alloc_contiguous(60, 4), Some(frame(1 << 39)));
    assert_eq!(frames.alloc_below(FRAME_SIZE), Some(frame(0)));
    assert_eq!(frames.alloc_below(far * FRAME_SIZE), Some(frame(361)));
    let rest: Vec<u64> = iter::from_fn(|| frames.alloc())
        .map(Frame::number)
        .collect();
    assert!(rest.into_iter().eq((362..370).chain([far])));
    frames.free_contiguous(frame(300), 61).unwrap();
    assert_eq!((frames.free_frames(), frames.used_frames()), (61, 71));
}

#[test]
#[should_panic(expected = "alignment of 3 frames")]
fn an_odd_alignment_is_a_mistake() {
    let _ = one_run(&mut Span::default(), &mut [0], 64).alloc_contiguous(1, 3);
}
