//! The frame allocator: which 4 KiB frames of physical memory are free, one bit each.
//!
//! The bitmap is the caller's memory. It covers runs of frames, and none of the holes between
//! them: how big it is follows from how much memory there is, not from how high it reaches. A
//! set bit is a free frame, so a new allocator, all zero, has nothing to give until
//! [`FrameAllocator::free_range`] has added memory. What is not added is never given.
//!
//! [`FrameAllocator::alloc`] goes on from where the last search ended (next fit), so
//! that a row of allocations passes over the bitmap once, not once each. It starts
//! above 1 MiB: low memory, which CPUs start in, goes last.
//!
//! Not shared by itself: the kernel puts it behind a lock. The memory added comes from
//! [`crate::memmap`].

#![forbid(unsafe_code)]

use core::fmt;

/// Bytes in a frame.
pub const FRAME_SIZE: u64 = 4096;

/// Frames below 1 MiB.
const LOW_FRAMES: u64 = 256;

/// A 4 KiB frame of physical memory, by number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Frame(u64);

impl Frame {
    /// The frame with this number: its start address over 4096.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The frame that holds the byte at this physical address.
    #[must_use]
    pub const fn containing(address: u64) -> Self {
        Self(address / FRAME_SIZE)
    }

    /// The frame's number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The physical address of the frame's first byte.
    ///
    /// # Panics
    /// In a debug build, if the frame lies beyond 64 bits of address.
    #[must_use]
    pub const fn start_address(self) -> u64 {
        self.0 * FRAME_SIZE
    }
}

/// `frame 0x100`.
impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "frame {:#x}", self.0)
    }
}

/// Why frames cannot be freed; nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FreeError {
    /// The frame is free already.
    DoubleFree(Frame),
    /// The bitmap does not cover the frame.
    OutOfRange(Frame),
    /// More frames would be free than were ever added, so the frame is not one of them.
    NeverAdded(Frame),
}

impl core::error::Error for FreeError {}

impl fmt::Display for FreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DoubleFree(frame) => write!(f, "{frame} is freed but it is free already"),
            Self::OutOfRange(frame) => write!(f, "{frame} is freed but is no memory"),
            Self::NeverAdded(frame) => write!(f, "{frame} is freed but was never handed out"),
        }
    }
}

/// How many `u64` words the bitmap for so many frames needs.
#[must_use]
pub const fn words_for(frames: u64) -> usize {
    frames.div_ceil(64) as usize
}

/// Frames in a row that the bitmap covers.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
pub struct Span {
    /// The first frame's number.
    start: u64,
    /// The number behind the last frame's.
    end: u64,
    /// The first frame's bit; the others' follow.
    bit: u64,
}

/// Free and used frames of physical memory.
#[derive(Debug)]
pub struct FrameAllocator<'a> {
    /// What the bitmap covers, sorted.
    spans: &'a [Span],
    /// A set bit is a free frame; bits from `end` on are clear.
    bitmap: &'a mut [u64],
    /// Number of frames the bitmap covers.
    end: usize,
    /// Where the next search starts.
    hint: usize,
    /// Number of set bits; at most `total`.
    free: u64,
    /// Number of frames added.
    total: u64,
}

impl<'a> FrameAllocator<'a> {
    /// The allocator for the frames of `runs`, none of them free. A run is its first frame
    /// and the one behind its last; they are sorted, do not overlap, and there is a gap
    /// between any two. `spans` is the allocator's, with a place for each run.
    ///
    /// # Panics
    /// If `spans` has no place for each, or `bitmap` is shorter than [`words_for`] says.
    #[must_use]
    pub fn new(
        spans: &'a mut [Span],
        bitmap: &'a mut [u64],
        runs: impl Iterator<Item = (Frame, Frame)>,
    ) -> Self {
        let (mut count, mut frames) = (0, 0);
        for (start, end) in runs {
            spans[count] = Span {
                start: start.0,
                end: end.0,
                bit: frames,
            };
            count += 1;
            frames += end.0 - start.0;
        }
        let words = words_for(frames);
        assert!(
            bitmap.len() >= words,
            "{} words for {frames} frames",
            bitmap.len()
        );
        bitmap.fill(0);
        let mut allocator = Self {
            spans: &spans[..count],
            bitmap,
            end: frames as usize, // The bitmap is that long, so it fits.
            hint: 0,
            free: 0,
            total: 0,
        };
        allocator.hint = allocator.bits_below(LOW_FRAMES);
        allocator
    }

    /// How many frames are free.
    #[must_use]
    pub const fn free_frames(&self) -> u64 {
        self.free
    }

    /// How many of the frames that were added are in use.
    #[must_use]
    pub const fn used_frames(&self) -> u64 {
        self.total - self.free
    }

    /// How many frames were added.
    #[must_use]
    pub const fn total_frames(&self) -> u64 {
        self.total
    }

    /// Whether `frame` is free.
    #[must_use]
    pub fn is_free(&self, frame: Frame) -> bool {
        self.range(frame, 1)
            .is_ok_and(|(at, _)| self.find(at, at + 1, true).is_some())
    }

    /// Adds memory: `n` frames from `start` on become free.
    ///
    /// # Errors
    /// [`FreeError::OutOfRange`] or [`FreeError::DoubleFree`], naming the first frame
    /// that is beyond the bitmap or already free; nothing is added then.
    pub fn free_range(&mut self, start: Frame, n: u64) -> Result<(), FreeError> {
        let (from, to) = self.used_range(start, n)?;
        self.give(from, to);
        self.total += n;
        Ok(())
    }

    /// Takes a free frame; `None` if there is none.
    #[must_use = "the frame is lost if nobody frees it"]
    pub fn alloc(&mut self) -> Option<Frame> {
        let (end, hint) = (self.end, self.hint);
        let at = self
            .find(hint, end, true)
            .or_else(|| self.find(0, hint, true))?;
        self.hint = at + 1;
        Some(self.take(at, 1))
    }

    /// Takes a free frame that lies wholly below the physical address `limit`, the
    /// lowest there is; `None` if there is none.
    #[must_use = "the frame is lost if nobody frees it"]
    pub fn alloc_below(&mut self, limit: u64) -> Option<Frame> {
        let end = self.bits_below(limit / FRAME_SIZE);
        let at = self.find(0, end, true)?;
        Some(self.take(at, 1))
    }

    /// Takes `n` free frames in a row, the first with a number that is a multiple of
    /// `align`; `None` if there is no such row or `n` is 0. Below 1 MiB only if there
    /// is no other. Looks at the whole bitmap if need be.
    ///
    /// # Panics
    /// If `align` is not a power of two.
    #[must_use = "the frames are lost if nobody frees them"]
    pub fn alloc_contiguous(&mut self, n: u64, align: u64) -> Option<Frame> {
        assert!(align.is_power_of_two(), "alignment of {align} frames");
        if n == 0 || n > self.free {
            return None;
        }
        let at = self
            .find_row(LOW_FRAMES, n, align)
            .or_else(|| self.find_row(0, n, align))?;
        Some(self.take(at, n))
    }

    /// Gives a frame back.
    ///
    /// # Errors
    /// [`FreeError`], naming the frame, if it cannot be in use. (A frame that was never
    /// added looks like one in use; it is found out only when no frame is in use.)
    pub fn free(&mut self, frame: Frame) -> Result<(), FreeError> {
        self.free_contiguous(frame, 1)
    }

    /// Gives `n` frames from `start` on back.
    ///
    /// # Errors
    /// As [`FrameAllocator::free`], for the first frame that is wrong; none is freed then.
    pub fn free_contiguous(&mut self, start: Frame, n: u64) -> Result<(), FreeError> {
        let (from, to) = self.used_range(start, n)?;
        if n > self.used_frames() {
            return Err(FreeError::NeverAdded(start));
        }
        self.give(from, to);
        Ok(())
    }

    /// The bits of `n` frames from `start` on, if the bitmap covers them and none is free.
    fn used_range(&self, start: Frame, n: u64) -> Result<(usize, usize), FreeError> {
        let (from, to) = self.range(start, n)?;
        match self.find(from, to, true) {
            Some(at) => Err(FreeError::DoubleFree(self.frame_at(at))),
            None => Ok((from, to)),
        }
    }

    /// Sets the bits of used frames.
    fn give(&mut self, from: usize, to: usize) {
        self.fill(from, to, true);
        self.free += (to - from) as u64;
    }

    /// Clears the bits of `n` free frames; gives back the first one.
    fn take(&mut self, at: usize, n: u64) -> Frame {
        self.fill(at, at + n as usize, false);
        self.free -= n;
        self.frame_at(at)
    }

    /// The frame that this bit is for.
    fn frame_at(&self, bit: usize) -> Frame {
        let bit = bit as u64;
        let span = self.spans[self.spans.partition_point(|span| span.bit <= bit) - 1];
        Frame(span.start + (bit - span.bit))
    }

    /// How many bits are for frames below this number: where the bits of the others start.
    fn bits_below(&self, number: u64) -> usize {
        let above = self.spans.partition_point(|span| span.end <= number);
        match self.spans.get(above) {
            Some(span) => (span.bit + number.saturating_sub(span.start)) as usize,
            None => self.end,
        }
    }

    /// The first bit and the end of `n` frames, if the bitmap covers them.
    fn range(&self, start: Frame, n: u64) -> Result<(usize, usize), FreeError> {
        let above = self.spans.partition_point(|span| span.end <= start.0);
        let span = self.spans.get(above).filter(|span| span.start <= start.0);
        let span = span.ok_or(FreeError::OutOfRange(start))?;
        if n > span.end - start.0 {
            return Err(FreeError::OutOfRange(Frame(span.end)));
        }
        let from = (span.bit + (start.0 - span.start)) as usize;
        Ok((from, from + n as usize))
    }

    /// The bit of the first frame of a row of `n` free ones, from frame number `from` on and at
    /// a multiple of `align`.
    fn find_row(&self, from: u64, n: u64, align: u64) -> Option<usize> {
        self.spans.iter().find_map(|span| {
            let bit_of = |number| (span.bit + (number - span.start)) as usize;
            let mut number = span.start.max(from).checked_next_multiple_of(align)?;
            while number < span.end && n <= span.end - number {
                let at = bit_of(number);
                let Some(used) = self.find(at, at + n as usize, false) else {
                    return Some(at);
                };
                let free = self.find(used, bit_of(span.end), true)?;
                number = self.frame_at(free).0.checked_next_multiple_of(align)?;
            }
            None
        })
    }

    /// The first bit in `from..to` of a frame that is free, or that is used.
    fn find(&self, from: usize, to: usize, free: bool) -> Option<usize> {
        let flip = if free { 0 } else { u64::MAX };
        let mut at = from;
        while at < to {
            let rest = (self.bitmap[at / 64] ^ flip) >> (at % 64);
            if rest != 0 {
                let found = at + rest.trailing_zeros() as usize;
                return (found < to).then_some(found);
            }
            at = (at / 64 + 1) * 64;
        }
        None
    }

    /// Makes the bits of `from..to` say free, or used.
    fn fill(&mut self, from: usize, to: usize, free: bool) {
        let mut at = from;
        while at < to {
            let bits = (64 - at % 64).min(to - at);
            let mask = (u64::MAX >> (64 - bits)) << (at % 64);
            let word = &mut self.bitmap[at / 64];
            *word = if free { *word | mask } else { *word & !mask };
            at += bits;
        }
    }
}

#[cfg(test)]
mod tests {
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
        // A page at 16 TiB, a run whose end is not a word's, and the first frame of all.
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
}
