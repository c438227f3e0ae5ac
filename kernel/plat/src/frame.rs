//! The frame allocator: which 4 KiB frames of physical memory are free, one bit each.
//!
//! The bitmap is the caller's memory. It covers runs of frames, and none of the holes between them,
//! so its size depends on how much memory there is, not on the highest address. A set bit is a free
//! frame. A new allocator is all zero and has nothing to give until [`FrameAllocator::free_range`]
//! has added memory, and it only ever gives what was added.
//!
//! [`FrameAllocator::alloc`] goes on from where the last search ended (next fit), so that a series
//! of allocations passes over the bitmap once, not once each. It starts above 1 MiB: low memory, in
//! which CPUs start, goes last.
//!
//! It is not synchronised; the kernel puts it behind a lock. The memory added comes from
//! [`crate::memmap`].

#![forbid(unsafe_code)]

use core::fmt;

/// Bytes in a frame.
pub const FRAME_SIZE: u64 = 4096;

/// The number of frames below 1 MiB.
const LOW_FRAMES: u64 = 256;

/// A 4 KiB frame of physical memory, by number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Frame(u64);

impl Frame {
    /// The frame with this number: its start address divided by 4096.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The frame that contains this physical address.
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
    /// Panics in a debug build if the address needs more than 64 bits.
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

/// Why frames cannot be freed; nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FreeError {
    /// The frame is already free.
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

/// The number of `u64` words in the bitmap for `frames` frames.
#[must_use]
pub const fn words_for(frames: u64) -> usize {
    frames.div_ceil(64) as usize
}

/// A run of frames that the bitmap covers.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
pub struct Span {
    /// The first frame's number.
    start: u64,
    /// The number after the last frame's.
    end: u64,
    /// The first frame's bit; the others' follow.
    bit: u64,
}

/// Free and used frames of physical memory.
#[derive(Debug)]
pub struct FrameAllocator<'a> {
    /// The runs that the bitmap covers, sorted.
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
    /// The allocator for the frames of `runs`, none of them free. A run is its first frame and the
    /// one after its last. The runs must be sorted and not overlap, with a gap between any two. The
    /// allocator uses `spans`, with one element for each run.
    ///
    /// # Panics
    /// Panics if `spans` is too short for the runs, or `bitmap` is shorter than [`words_for`] says.
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
    /// Returns [`FreeError::OutOfRange`] or [`FreeError::DoubleFree`] with the first frame that is
    /// beyond the bitmap or already free; then nothing is added.
    pub fn free_range(&mut self, start: Frame, n: u64) -> Result<(), FreeError> {
        let (from, to) = self.used_range(start, n)?;
        self.give(from, to);
        self.total += n;
        Ok(())
    }

    /// Takes a free frame. Returns `None` if there is none.
    #[must_use = "the frame is lost if nobody frees it"]
    pub fn alloc(&mut self) -> Option<Frame> {
        let (end, hint) = (self.end, self.hint);
        let at = self
            .find(hint, end, true)
            .or_else(|| self.find(0, hint, true))?;
        self.hint = at + 1;
        Some(self.take(at, 1))
    }

    /// Takes the lowest free frame, if it lies wholly below the physical address `limit`. Otherwise
    /// returns `None`.
    #[must_use = "the frame is lost if nobody frees it"]
    pub fn alloc_below(&mut self, limit: u64) -> Option<Frame> {
        let end = self.bits_below(limit / FRAME_SIZE);
        let at = self.find(0, end, true)?;
        Some(self.take(at, 1))
    }

    /// Takes `n` free frames in a row, the first with a number that is a multiple of `align`.
    /// Returns `None` if there is no such row or `n` is 0. Uses memory below 1 MiB only if there is
    /// no other. May search the whole bitmap.
    ///
    /// # Panics
    /// Panics if `align` is not a power of two.
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

    /// Frees a frame.
    ///
    /// # Errors
    /// Returns [`FreeError`], naming the frame, if it cannot be in use. (A frame that was never
    /// added looks like one in use; it is detected only when no frame is in use.)
    pub fn free(&mut self, frame: Frame) -> Result<(), FreeError> {
        self.free_contiguous(frame, 1)
    }

    /// Frees `n` frames from `start` on.
    ///
    /// # Errors
    /// As [`FrameAllocator::free`], for the first frame that is wrong; then none is freed.
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

    /// Clears the bits of `n` free frames. Returns the first frame.
    fn take(&mut self, at: usize, n: u64) -> Frame {
        self.fill(at, at + n as usize, false);
        self.free -= n;
        self.frame_at(at)
    }

    /// The frame of this bit.
    fn frame_at(&self, bit: usize) -> Frame {
        let bit = bit as u64;
        let span = self.spans[self.spans.partition_point(|span| span.bit <= bit) - 1];
        Frame(span.start + (bit - span.bit))
    }

    /// The number of bits of frames below this number: where the bits of the others start.
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

    /// The bit of the first frame of a row of `n` free ones, from frame number `from` on, at a
    /// multiple of `align`.
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

    /// The first bit in `from..to` whose frame is free, or used if not `free`.
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

    /// Marks the frames of the bits `from..to` as free, or as used.
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
mod tests;
