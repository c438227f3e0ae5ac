//! How long CPUs were kept: for each CPU the longest critical section and the longest span with
//! interrupts off, with their owners.
//!
//! Both begin and end on one CPU, so the CPU keeps the beginning: if a section is held across a
//! switch, the next thread ends it. Spans that do not go through [`heart::port::Port`] are not
//! measured: the boot, and the halt of an idle CPU.

use core::fmt;

use heart::cpu::CpuId;
use heart::shim::{AtomicU32, AtomicU64, Ordering};
use heart::site::{Place, Site};
use heart::thread::ThreadId;

use crate::arch::cpu;
use crate::{clock, pcpu, sched};

/// One CPU's longest span of one kind, and the present one. Only the CPU itself writes it, with
/// interrupts off or in a critical section: relaxed throughout.
#[derive(Debug)]
pub struct Spans {
    /// When the present span began, by the time-stamp counter; 0 if there is none.
    begin: AtomicU64,
    /// Where it began.
    site: Site,
    /// The place and generation of its thread.
    owner: (AtomicU32, AtomicU32),
    /// The longest so far, in ticks, and its site and owner.
    longest: AtomicU64,
    longest_site: Site,
    longest_owner: (AtomicU32, AtomicU32),
}

impl Spans {
    /// Without spans.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            begin: AtomicU64::new(0),
            site: Site::new(),
            owner: (AtomicU32::new(0), AtomicU32::new(0)),
            longest: AtomicU64::new(0),
            longest_site: Site::new(),
            longest_owner: (AtomicU32::new(0), AtomicU32::new(0)),
        }
    }

    /// Begins a span, at `site`.
    pub(crate) fn begin(&self, site: Place) {
        self.site.set(site);
        let me = sched::curthread().id();
        self.owner.0.store(me.index, Ordering::Relaxed);
        self.owner.1.store(me.generation, Ordering::Relaxed);
        self.begin.store(cpu::tsc(), Ordering::Relaxed);
    }

    /// Ends the present span.
    pub(crate) fn end(&self) {
        let begin = self.begin.load(Ordering::Relaxed);
        self.begin.store(0, Ordering::Relaxed);
        let ticks = cpu::tsc().saturating_sub(begin);
        if begin == 0 || ticks <= self.longest.load(Ordering::Relaxed) {
            return;
        }
        self.longest.store(ticks, Ordering::Relaxed);
        self.longest_site.copy(&self.site);
        let copy = |to: &AtomicU32, from: &AtomicU32| {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        };
        copy(&self.longest_owner.0, &self.owner.0);
        copy(&self.longest_owner.1, &self.owner.1);
    }

    /// Where the present span began, if there is one. Called on the CPU itself.
    #[must_use]
    pub fn present(&self) -> Option<Place> {
        // Relaxed: only this CPU writes it.
        (self.begin.load(Ordering::Relaxed) != 0).then(|| self.site.get())?
    }

    /// The longest span so far: nanoseconds, where it began, and the thread that ran. A guess if
    /// asked from another CPU.
    #[must_use]
    pub fn longest(&self) -> Option<(u64, Place, ThreadId)> {
        let ticks = self.longest.load(Ordering::Relaxed);
        let owner = ThreadId {
            index: self.longest_owner.0.load(Ordering::Relaxed),
            generation: self.longest_owner.1.load(Ordering::Relaxed),
        };
        let nanoseconds = clock::TSC.get()?.nanoseconds(ticks);
        Some((nanoseconds, self.longest_site.get()?, owner))
    }
}

impl Default for Spans {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.longest() {
            Some((nanoseconds, site, owner)) => write!(
                f,
                "{} us by {owner} at {}",
                nanoseconds / 1000,
                heart::site::Line(site)
            ),
            None => f.write_str("none"),
        }
    }
}

/// Returns whether interrupts, which have just been turned off, were on before, by the thread's
/// word.
#[inline]
pub(crate) fn were_on() -> bool {
    let me = sched::curthread();
    // Relaxed: only this CPU writes it.
    me.crit.is_open() && me.probe.uncounted.load(Ordering::Relaxed) == 0
}

/// Returns whether interrupts go on next. A span then ends.
#[inline]
pub(crate) fn goes_on() -> bool {
    let goes_on = were_on();
    if goes_on {
        pcpu::this().probe.longest_off.end();
    }
    goes_on
}

/// Begins an interrupt that does not count: no other one can come in it, whatever the word says.
#[inline]
pub(crate) fn begin_uncounted() {
    // Relaxed: only this CPU writes it.
    let count = &sched::curthread().probe.uncounted;
    count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// Ends such an interrupt.
#[inline]
pub(crate) fn end_uncounted() {
    // Relaxed: as above.
    let count = &sched::curthread().probe.uncounted;
    count.store(count.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
}

/// Runs `handler` of an interrupt that comes with interrupts off and need not count.
#[inline]
pub(crate) fn uncounted(handler: impl FnOnce()) {
    begin_uncounted();
    handler();
    end_uncounted();
}

/// The current thread has entered a section, which is measured if it is the outermost.
pub(crate) fn section_entered(site: Place) {
    if sched::curthread().crit.critnest() == 1 {
        pcpu::this().probe.longest_section.begin(site);
    }
}

/// The current thread is about to leave a section.
pub(crate) fn section_leaves() {
    if sched::curthread().crit.critnest() == 1 {
        pcpu::this().probe.longest_section.end();
    }
}

/// Prints each CPU's longest spans. Thread context.
pub(crate) fn report() {
    for block in pcpu::online().iter().filter_map(pcpu::of) {
        let (cpu, section, off): (CpuId, _, _) = (
            block.id(),
            &block.probe.longest_section,
            &block.probe.longest_off,
        );
        log::info!("{cpu}: longest critical section {section}; interrupts off {off}");
    }
}
