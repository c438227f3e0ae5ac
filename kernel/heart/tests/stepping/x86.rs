//! The machine of these tests, and what they step: see `main.rs`.

use std::arch::asm;
use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::fmt;
use std::mem;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::SeqCst};

use heart::cpu::{CpuId, CpuSet};
use heart::critical::{CritState, Preempt};
use heart::intr::{self, IntrContext};
use heart::port::Port;
use heart::spinlock::{Spinlock, SpinlockGuard, spinlock_exit};
use heart::wake::DeferredWakes;

/// RFLAGS.TF.
const TRAP_FLAG: i64 = 0x100;

// The machine: one CPU, a thread and a better one.

struct Host;

struct Thread {
    crit: CritState,
    /// Whether it is in an interrupt that does not count: it takes none in any case.
    uncounted: AtomicBool,
}

static THREADS: [Thread; 2] = [
    Thread {
        crit: CritState::running(),
        uncounted: AtomicBool::new(false),
    },
    Thread {
        crit: CritState::newborn(),
        uncounted: AtomicBool::new(false),
    },
];
static CURRENT: AtomicUsize = AtomicUsize::new(0);
static ENABLED: AtomicBool = AtomicBool::new(true);
static IN_SERVICE: AtomicBool = AtomicBool::new(false);
static WAKES: DeferredWakes = DeferredWakes::new();
static RUNQ: Spinlock<Runq, Host> = Spinlock::new(Runq {
    queued: false,
    runs_better: false,
});
static LOCK: Spinlock<u32, Host> = Spinlock::new(0);

struct Runq {
    queued: bool,
    runs_better: bool,
}

fn current() -> &'static Thread {
    &THREADS[CURRENT.load(SeqCst)]
}

impl Port for Host {
    type Probe = ();

    fn cpu() -> CpuId {
        CpuId::BOOT
    }

    fn crit() -> &'static CritState {
        &current().crit
    }

    fn thread() -> impl fmt::Display {
        CURRENT.load(SeqCst)
    }

    fn disable_interrupts() {
        ENABLED.store(false, SeqCst);
    }

    fn enable_interrupts() {
        if !current().uncounted.load(SeqCst) {
            ENABLED.store(true, SeqCst);
        }
    }

    fn eoi() {
        IN_SERVICE.store(false, SeqCst);
    }

    fn relax() {
        found("one CPU waits for another");
    }

    fn send_rendezvous(_: &CpuSet, _: bool) {}

    fn wakes() -> &'static DeferredWakes {
        &WAKES
    }

    fn stop_if_asked() {}
}

impl Preempt for Host {
    fn preempt(crit: &CritState) {
        let rq = RUNQ.lock();
        crit.leave();
        if crit.owepreempt() {
            mi_switch(rq);
        } else {
            mem::forget(rq);
            // SAFETY: the guard was just forgotten.
            unsafe { RUNQ.unlock_handed_over(false) };
        }
    }
}

/// Runs the better thread, here and now, until it sleeps.
fn mi_switch(mut rq: SpinlockGuard<'static, Runq, Host>) {
    let me = current();
    if IN_SERVICE.load(SeqCst) {
        found("a switch before the EOI");
    }
    if !me.crit.now().may_switch() {
        found("a switch in a section");
    }
    if !mem::take(&mut rq.queued) {
        found("a switch for a preemption that was paid");
    }
    me.crit.paid();
    rq.runs_better = true;
    mem::forget(rq);
    let better = &THREADS[1];
    better.crit.reset();
    CURRENT.store(1, SeqCst);
    // SAFETY: the guard was forgotten.
    unsafe { RUNQ.unlock_handed_over(true) };
    let mut rq = loop {
        RAN.fetch_add(1, SeqCst);
        look_at_words(false);
        better.crit.enter();
        better.crit.exit::<Host>();
        let mut rq = RUNQ.lock();
        if !mem::take(&mut rq.queued) {
            break rq;
        }
    };
    rq.runs_better = false;
    mem::forget(rq);
    CURRENT.store(0, SeqCst);
    // SAFETY: the guard was forgotten.
    unsafe { RUNQ.unlock_handed_over(false) };
}

/// Makes the better thread runnable.
fn wake() {
    let mut rq = RUNQ.lock();
    rq.queued = true;
    WOKEN.store(true, SeqCst);
    let crit = &current().crit;
    if !rq.runs_better && !crit.owepreempt() {
        crit.owe();
    }
}

/// What comes at the boundary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Wakes the better thread.
    Timer,
    /// An action that takes a spinlock before the EOI; interrupts count.
    Typed,
    /// The same; r222942's section.
    Freebsd,
    /// The same; both, in one addition.
    Both,
    /// The same without either.
    NoNestedSection,
}

static KIND: Mutex<Kind> = Mutex::new(Kind::Timer);

/// An interrupt, by the heart's orders; where one of the layers is to be missing, by its types.
#[inline(never)]
fn interrupt(kind: Kind) {
    ENABLED.store(false, SeqCst);
    IN_SERVICE.store(true, SeqCst);
    match kind {
        Kind::Timer => intr::interrupt::<Host>(wake),
        Kind::Both => intr::rendezvous::<Host>(take_lock),
        Kind::Typed | Kind::Freebsd | Kind::NoNestedSection => in_parts(kind),
    }
    // IRET.
    ENABLED.store(true, SeqCst);
}

fn in_parts(kind: Kind) {
    let me = current();
    let intr = if kind == Kind::Typed {
        IntrContext::enter(&me.crit)
    } else {
        me.uncounted.store(true, SeqCst);
        IntrContext::enter_uncounted(&me.crit)
    };
    let section = (kind == Kind::Freebsd).then(|| intr.nested_section());
    take_lock();
    drop(section);
    intr.eoi(Host::eoi).finish().pay::<Host>();
    me.uncounted.store(false, SeqCst);
}

fn take_lock() {
    *LOCK.lock() += 1;
}

// What is seen.

static RAN: AtomicU32 = AtomicU32::new(0);
static WOKEN: AtomicBool = AtomicBool::new(false);
static FOUND: Mutex<Option<&str>> = Mutex::new(None);

/// Notes the first thing that is wrong. A handler of a signal cannot panic.
fn found(what: &'static str) {
    // Only this thread steps, and it is never interrupted here by itself.
    if let Ok(mut found) = FOUND.try_lock() {
        found.get_or_insert(what);
    }
}

/// Words that are changed in a section only: equal to everybody else.
struct Plain([UnsafeCell<u32>; 64]);

// SAFETY: used by one thread and the signals on top of it, which look by volatile loads.
unsafe impl Sync for Plain {}

static PLAIN: Plain = Plain([const { UnsafeCell::new(0) }; 64]);

/// The two words, and a plain count of sections: apart, so that no instruction changes two.
const WORDS: [usize; 2] = [0, 16];
const COUNT: usize = 32;

/// Adds one to a plain word, by a load and a store of which the compiler knows.
#[inline(always)]
fn add(index: usize, value: u32) {
    let word = PLAIN.0[index].get();
    // SAFETY: a live word; see `Plain`.
    let before = unsafe { *word };
    // SAFETY: the same.
    unsafe { *word = before.wrapping_add(value) };
}

fn value(index: usize) -> u32 {
    // SAFETY: as in `add`.
    unsafe { PLAIN.0[index].get().read_volatile() }
}

/// The two words, by an interrupt (`held` if the thread says that it is in a section) or by
/// another thread.
fn look_at_words(held: bool) {
    if value(WORDS[0]) != value(WORDS[1]) && !held {
        found("a section's work is seen outside the section");
    }
}

// The stepping.

static AT: AtomicU32 = AtomicU32::new(0);
static STEPS: AtomicU32 = AtomicU32::new(0);
static STRUCK: AtomicBool = AtomicBool::new(false);
static OVER: AtomicBool = AtomicBool::new(false);
/// Whether the code says by the plain count that it is in a section, not by the real one.
static PLAIN_COUNT: AtomicBool = AtomicBool::new(false);

/// SIGTRAP: between two instructions.
extern "C" fn trapped(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    if OVER.load(SeqCst) {
        // SAFETY: Linux hands over the interrupted context, which is ours to change.
        let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
        context.uc_mcontext.gregs[libc::REG_EFL as usize] &= !TRAP_FLAG;
        return;
    }
    let boundary = STEPS.fetch_add(1, SeqCst);
    let held = if PLAIN_COUNT.load(SeqCst) {
        value(COUNT) > 0
    } else {
        current().crit.critnest() > 0
    };
    look_at_words(held);
    if boundary >= AT.load(SeqCst) && ENABLED.load(SeqCst) && !STRUCK.swap(true, SeqCst) {
        interrupt(*KIND.lock().expect("only read"));
    }
}

fn install() {
    // SAFETY: all zeros is a valid value.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut c_void) = trapped;
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the handler keeps to what a handler may do: no allocation, no lock that the
    // interrupted code may hold (see `found` and `KIND`).
    let result = unsafe { libc::sigaction(libc::SIGTRAP, &raw const action, std::ptr::null_mut()) };
    assert_eq!(result, 0, "sigaction");
}

/// Single-steps from here until [`OVER`] is set.
#[inline(always)]
fn set_trap_flag() {
    // SAFETY: SIGTRAP has its handler; RFLAGS is as before but for TF.
    unsafe { asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq") };
}

/// Runs `code` with an interrupt at each boundary in turn: how many there are, and what was
/// found first, and where.
fn at_every_boundary(kind: Kind, code: impl Fn()) -> (u32, Option<(u32, &'static str)>) {
    install();
    *KIND.lock().expect("no panic") = kind;
    // Else the compiler knows all who look at it, and no fence is meant for it.
    std::hint::black_box(&PLAIN);
    for at in 0.. {
        for index in [WORDS[0], WORDS[1], COUNT] {
            // SAFETY: as in `add`; nobody steps.
            unsafe { PLAIN.0[index].get().write(0) };
        }
        AT.store(at, SeqCst);
        STEPS.store(0, SeqCst);
        RAN.store(0, SeqCst);
        STRUCK.store(false, SeqCst);
        WOKEN.store(false, SeqCst);
        OVER.store(false, SeqCst);
        set_trap_flag();
        code();
        OVER.store(true, SeqCst);
        // A boundary at which the trap flag goes.
        std::hint::black_box(());
        let steps = STEPS.load(SeqCst);
        at_rest();
        let first = FOUND.lock().expect("no panic").take();
        reset();
        if let Some(what) = first {
            return (steps, Some((at, what)));
        }
        if at >= steps {
            return (steps, None);
        }
    }
    unreachable!("more boundaries than numbers");
}

/// What must hold when all is over.
fn at_rest() {
    let thread = &THREADS[0];
    let queued = RUNQ.lock().queued;
    if thread.crit.owepreempt() || queued {
        found("a preemption is lost");
    } else if RAN.load(SeqCst) == 0 && WOKEN.load(SeqCst) {
        found("the better thread has not run");
    }
    if !thread.crit.now().is_only_locks(0) || !ENABLED.load(SeqCst) {
        found("counts are not restored");
    }
}

/// Makes all new, whatever a mistake has left.
fn reset() {
    let thread = &THREADS[0];
    thread.uncounted.store(false, SeqCst);
    // As one that has not run; it has given up its lock since.
    thread.crit.reset();
    spinlock_exit::<Host>();
    RUNQ.lock().queued = false;
    IN_SERVICE.store(false, SeqCst);
    ENABLED.store(true, SeqCst);
    PLAIN_COUNT.store(false, SeqCst);
}

/// One test at a time.
static ONE: Mutex<()> = Mutex::new(());

fn alone(test: impl FnOnce()) {
    let _one = ONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    test();
}

// What is stepped.

/// A section in which a preemption comes up, with work in it.
#[inline(always)]
fn section() {
    let crit = &THREADS[0].crit;
    crit.enter();
    add(WORDS[0], 1);
    wake();
    add(WORDS[1], 1);
    crit.exit::<Host>();
}

/// Work in a section; what comes up comes by an interrupt.
#[inline(never)]
fn work() {
    let crit = &THREADS[0].crit;
    crit.enter();
    add(WORDS[0], 1);
    add(WORDS[1], 1);
    crit.exit::<Host>();
}

#[inline(never)]
fn plain_words() {
    // A section as one writes it first: a plain count, nothing that keeps the compiler from
    // moving it.
    add(COUNT, 1);
    add(WORDS[0], 1);
    add(WORDS[1], 1);
    add(COUNT, 1_u32.wrapping_neg());
}

/// The name of the test that runs.
fn test() -> String {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("?");
    name.rsplit("::").next().unwrap_or(name).to_string()
}

fn holds(kind: Kind, code: impl Fn()) {
    alone(|| {
        let (steps, found) = at_every_boundary(kind, code);
        println!("{}, {kind:?}: {steps} boundaries", test());
        assert_eq!(found, None);
        assert!(steps > 5, "nothing was stepped");
    });
}

fn is_found(kind: Kind, what: &str, code: impl Fn()) {
    alone(|| {
        let (_, found) = at_every_boundary(kind, code);
        println!("{}, {kind:?}: {found:?}", test());
        let (_, first) = found.expect("the mistake is not found");
        assert_eq!(first, what);
    });
}

#[test]
fn a_critical_exit() {
    for kind in [Kind::Timer, Kind::Typed, Kind::Freebsd, Kind::Both] {
        holds(kind, section);
    }
}

#[test]
fn a_spin_unlock() {
    for kind in [Kind::Timer, Kind::Typed, Kind::Freebsd, Kind::Both] {
        holds(kind, || {
            let mut guard = LOCK.lock();
            *guard += 1;
            wake();
        });
    }
}

#[test]
fn the_end_of_an_interrupt() {
    for kind in [Kind::Timer, Kind::Typed, Kind::Freebsd, Kind::Both] {
        holds(kind, || interrupt(Kind::Timer));
    }
}

#[test]
fn work_stays_in_its_section() {
    holds(Kind::Timer, work);
}

#[test]
fn r222942_is_found() {
    is_found(Kind::NoNestedSection, "a switch before the EOI", section);
}

/// Without a fence to the compiler there is no section in the machine code. Unoptimised code
/// still has it, so this test also fails where nobody optimises.
#[test]
fn a_section_without_a_compiler_fence_is_found() {
    is_found(
        Kind::Timer,
        "a section's work is seen outside the section",
        || {
            PLAIN_COUNT.store(true, SeqCst);
            plain_words();
        },
    );
}
