//! The machine of a model: CPUs that take one step at a time, in the order that the explorer
//! chooses.
//!
//! Each thread of a model has a stack of its own and runs the real source. Before every step (an
//! operation on an atomic, a change of the interrupt flag, an EOI, an IPI, a turn of a loop) it
//! reaches [`point`]. There the explorer may let any permitted interrupt strike, whose handler runs
//! on the same stack, or let another CPU go on.
//!
//! The explorer does not switch CPUs after a step that no other CPU can see. This loses nothing:
//! the switch might as well come after the last step that others can see. A word counts as private
//! to one CPU until another one touches it; then the exploration starts over, knowing better.

use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};

use hooked::{Access, Operation, set_hook};

use crate::port;
use crate::stack::{Arena, Hash128, WORLD, clear_below_this, switch};
use crate::violation::{Property, Violation};

/// The most CPUs of a model.
pub(crate) const CPUS: usize = heart::cpu::MAX_CPUS;
/// The most threads: a CPU's first one, and a better one for each.
pub(crate) const THREADS: usize = 2 * CPUS;
/// How many stores a CPU's buffer holds.
const BUFFER: usize = 4;
/// More steps than this between two states are an endless loop.
const ENDLESS: u32 = 100_000;

/// A vector, as a bit; a higher one has priority. There are two classes, as on the machine: the
/// timer's is below that of the IPIs. An NMI also arrives while interrupts are off, and holds back
/// the next one until its IRET.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Vector {
    Timer = 1,
    Ipi = 2,
    Rendezvous = 4,
    Stop = 8,
    Nmi = 16,
}

/// All of them.
pub(crate) const VECTORS: [Vector; 5] = [
    Vector::Timer,
    Vector::Ipi,
    Vector::Rendezvous,
    Vector::Stop,
    Vector::Nmi,
];

impl Vector {
    /// The vectors that hold this one back while in service.
    fn masked_by(self) -> u8 {
        match self {
            Self::Timer => 31,
            Self::Ipi | Self::Rendezvous | Self::Stop => 30,
            Self::Nmi => 16,
        }
    }
}

/// The memory model of the CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Memory {
    /// Sequentially consistent.
    Sc,
    /// x86-TSO: stores wait in the CPU's buffer.
    Tso,
}

/// A store in a buffer.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash)]
struct Store {
    address: usize,
    bits: u32,
    value: u64,
}

/// Why a CPU does not go on by itself.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Rest {
    #[default]
    No,
    /// In a loop that waits: until an interrupt, or a change of a word that it read.
    Turning,
    /// Halted: until an interrupt.
    Halted,
    /// By MWAIT: until the word that it watches changes, or an interrupt.
    Watching,
}

/// How many words a CPU may read in one turn of a loop and still wait for a change of them.
const LOOKED: usize = 10;

/// The shared words that a CPU has read since it last turned a loop, as offsets in the arena plus
/// one, ascending. Empty before the first turn, and again if they are too many: a CPU outside a
/// loop must not remember what it has passed, since that would make equal states different.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash)]
struct Looked {
    /// Whether it has turned a loop.
    in_loop: bool,
    words: [u32; LOOKED],
}

impl Looked {
    /// After a turn.
    const TURNED: Self = Self {
        in_loop: true,
        words: [0; LOOKED],
    };

    fn add(&mut self, word: u32) {
        if !self.in_loop || self.has(word) {
            return;
        }
        if self.words[0] != 0 {
            *self = Self::default();
            return;
        }
        self.words[0] = word;
        self.words.sort_unstable();
    }

    fn has(&self, word: u32) -> bool {
        self.words.contains(&word)
    }
}

/// One CPU.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Cpu {
    /// The running thread.
    pub(crate) thread: u8,
    /// Whether it takes interrupts.
    pub(crate) enabled: bool,
    pub(crate) rest: Rest,
    /// The words that it has read since it last turned a loop.
    looked: Looked,
    /// Whether one of them has changed since.
    changed: bool,
    /// Whether another CPU can see its last step.
    visible: bool,
    pub(crate) pending: u8,
    pub(crate) in_service: u8,
    /// How many timer interrupts may still arrive.
    pub(crate) timers: u8,
    /// How many NMIs from outside may still arrive.
    nmis: u8,
    /// How many timeouts may still occur, and whether the next look at the turns finds one.
    timeouts: u8,
    timed_out: bool,
    /// The word that MONITOR watches.
    watched: usize,
    buffered: u8,
    buffer: [Store; BUFFER],
}

/// The part of a state outside the arena's memory.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) cpus: [Cpu; CPUS],
    /// The stack pointers of the threads that do not run.
    sp: [usize; THREADS],
    /// How many interrupts are nested on each thread.
    pub(crate) depth: [u8; THREADS],
    /// The threads whose programs are over.
    pub(crate) done: [bool; THREADS],
    /// The CPU that is taking steps.
    pub(crate) current: u8,
}

/// What the explorer may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The CPU takes its step.
    Go(u8),
    /// The interrupt strikes this CPU.
    Strike(u8, Vector),
    /// The oldest store of its buffer reaches memory.
    Drain(u8),
    /// Its loop has turned too long.
    TimeOut(u8),
}

/// Why a thread has switched to the explorer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// There is something to choose.
    Branch,
    /// A property does not hold: [`Engine::violation`].
    Failed,
    /// A word is not private after all: start over.
    Shared,
}

/// One line of a counterexample.
pub(crate) struct Line {
    pub(crate) cpu: usize,
    pub(crate) thread: usize,
    pub(crate) depth: u8,
    pub(crate) what: What,
    pub(crate) backtrace: Option<Backtrace>,
}

/// What happened in a step.
pub(crate) enum What {
    /// An operation on a word: what it found, and what it left.
    Access(Access, u64, u64),
    /// An interrupt arrived.
    Strike(Vector),
    /// It is over.
    Return,
    /// A store of a buffer reached memory.
    Drain(u64),
    /// Anything else.
    Note(String),
}

/// A model, as the engine sees it.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) cpus: usize,
    pub(crate) threads: usize,
    pub(crate) memory: Memory,
    pub(crate) timers: [u8; CPUS],
    pub(crate) nmis: [u8; CPUS],
    pub(crate) timeouts: [u8; CPUS],
    /// Makes the world at the given place; returns its size.
    pub(crate) world: fn(*mut u8) -> usize,
    /// What a thread does.
    pub(crate) program: fn(usize),
    /// The words, by address, that belong to the CPU that runs their thread.
    pub(crate) private: fn(usize) -> bool,
    /// Checks what must hold at the end, by [`fail`].
    pub(crate) at_rest: fn(),
}

/// Writes a line into the trace, if there is one. Only then does it allocate: an address of the
/// explorer's heap on a stack would make equal states different.
macro_rules! note {
    ($($text:tt)*) => {
        if $crate::engine::engine().is_traced() {
            $crate::engine::engine().line($crate::engine::What::Note(format!($($text)*)));
        }
    };
}
pub(crate) use note;

/// The machine; one for each OS thread.
pub(crate) struct Engine {
    pub(crate) setup: Setup,
    pub(crate) arena: Arena,
    world_size: Cell<usize>,
    pub(crate) state: RefCell<State>,
    /// The lowest that each stack pointer has been since its stack was last cleared.
    low: [Cell<usize>; THREADS],
    /// The explorer's saved stack pointer.
    explorer: Cell<usize>,
    event: Cell<Option<Event>>,
    order: Cell<Option<Vector>>,
    /// The owner of each word: 0 for none, a CPU's number plus 1, or [`SHARED`].
    owners: RefCell<Vec<u8>>,
    options: RefCell<Vec<Choice>>,
    steps: Cell<u32>,
    pub(crate) total_steps: Cell<u64>,
    pub(crate) trace: RefCell<Option<Vec<Line>>>,
    /// Whether a thread of the model is running, not the explorer.
    inside: Cell<bool>,
    /// Whether the explorer is checking the end, and what it finds.
    looking: Cell<bool>,
    found: Cell<Option<Violation>>,
}

const SHARED: u8 = 0xff;

thread_local! {
    static ENGINE: Cell<*const Engine> = const { Cell::new(std::ptr::null()) };
}

/// The machine of this OS thread.
pub(crate) fn engine() -> &'static Engine {
    // SAFETY: set in `install`, to an engine that is never freed.
    unsafe { ENGINE.get().as_ref() }.expect("no model runs on this thread")
}

/// Whether the calling code runs in a model.
pub(crate) fn is_inside() -> bool {
    // SAFETY: null, or as in `engine`.
    unsafe { ENGINE.get().as_ref() }.is_some_and(|engine| engine.inside.get())
}

impl Engine {
    /// Makes a machine for this OS thread, and drops the one before.
    pub(crate) fn install(setup: Setup, traced: bool) -> &'static Self {
        let arena = Arena::new(THREADS);
        let owners = vec![0; arena.range().len()];
        let engine: &'static Self = Box::leak(Box::new(Self {
            setup,
            arena,
            world_size: Cell::new(0),
            state: RefCell::new(State::default()),
            low: [const { Cell::new(usize::MAX) }; THREADS],
            explorer: Cell::new(0),
            event: Cell::new(None),
            order: Cell::new(None),
            owners: RefCell::new(owners),
            options: RefCell::new(Vec::new()),
            steps: Cell::new(0),
            total_steps: Cell::new(0),
            trace: RefCell::new(traced.then(Vec::new)),
            inside: Cell::new(false),
            looking: Cell::new(false),
            found: Cell::new(None),
        }));
        ENGINE.set(engine);
        set_hook(Some(hook));
        engine
    }

    /// Puts the machine into its first state.
    pub(crate) fn start(&self) {
        self.arena.clear_all();
        self.world_size.set((self.setup.world)(self.arena.world()));
        assert!(self.world_size.get() <= WORLD, "the world is too big");
        let mut state = State::default();
        for thread in 0..self.setup.threads {
            state.sp[thread] = self.arena.prepare(thread, entry);
            self.low[thread].set(state.sp[thread]);
        }
        for (number, cpu) in state.cpus.iter_mut().enumerate().take(self.setup.cpus) {
            cpu.thread = number as u8;
            cpu.enabled = true;
            cpu.visible = true;
            cpu.timers = self.setup.timers[number];
            cpu.nmis = self.setup.nmis[number];
            cpu.timeouts = self.setup.timeouts[number];
        }
        *self.state.borrow_mut() = state;
    }

    /// A hash of everything that decides how the machine continues. The CPU that has taken the last
    /// step is a part only if it alone may go on, or if `deviations` are counted.
    pub(crate) fn key(&self, deviations: bool) -> u128 {
        let state = self.state.borrow();
        let mut hash = Hash128::new();
        let me = usize::from(state.current);
        let alone = can_go(&state, me) && !state.cpus[me].visible;
        let current = if alone || deviations {
            state.current.into()
        } else {
            u64::MAX
        };
        hash.pair(current, alone.into());
        for cpu in &state.cpus[..self.setup.cpus] {
            let flags = [
                cpu.thread,
                cpu.enabled.into(),
                cpu.rest as u8,
                cpu.changed.into(),
                cpu.pending,
                cpu.in_service,
                cpu.timers | cpu.nmis << 4,
                state.depth[usize::from(cpu.thread)]
                    | cpu.timeouts << 4
                    | u8::from(cpu.timed_out) << 7,
            ];
            hash.pair(u64::from_ne_bytes(flags), cpu.watched as u64);
            for store in &cpu.buffer[..usize::from(cpu.buffered)] {
                hash.pair(
                    store.address as u64 ^ u64::from(store.bits) << 56,
                    store.value,
                );
            }
            hash.pair(cpu.buffered.into(), cpu.looked.in_loop.into());
            if cpu.looked.in_loop {
                for pair in cpu.looked.words.as_chunks::<2>().0 {
                    hash.pair(pair[0].into(), pair[1].into());
                }
            }
        }
        let world = self.arena.world() as usize;
        hash.bytes(self.arena.bytes(world..world + self.world_size.get()));
        for thread in 0..self.setup.threads {
            hash.pair(state.sp[thread] as u64, state.done[thread].into());
            hash.bytes(self.arena.bytes(state.sp[thread]..self.arena.top(thread)));
        }
        hash.end()
    }

    /// A copy of the whole state.
    pub(crate) fn save(&self) -> Snapshot {
        let state = *self.state.borrow();
        let world = self.arena.world() as usize;
        let mut bytes = Vec::with_capacity(4096);
        bytes.extend_from_slice(self.arena.bytes(world..world + self.world_size.get()));
        for thread in 0..self.setup.threads {
            bytes.extend_from_slice(self.arena.bytes(state.sp[thread]..self.arena.top(thread)));
        }
        Snapshot { state, bytes }
    }

    /// Restores a state.
    pub(crate) fn restore(&self, snapshot: &Snapshot) {
        let state = &snapshot.state;
        let (world, mut rest) = snapshot.bytes.split_at(self.world_size.get());
        self.arena.write(self.arena.world() as usize, world);
        for thread in 0..self.setup.threads {
            let length = self.arena.top(thread) - state.sp[thread];
            let (stack, more) = rest.split_at(length);
            self.arena.write(state.sp[thread], stack);
            rest = more;
        }
        *self.state.borrow_mut() = *state;
    }

    /// What may happen next. The first choice is what happens if nothing intervenes.
    pub(crate) fn options(&self) -> std::cell::Ref<'_, Vec<Choice>> {
        self.find_options();
        self.options.borrow()
    }

    fn find_options(&self) {
        let (state, mut options) = (self.state.borrow(), self.options.borrow_mut());
        options.clear();
        let me = usize::from(state.current);
        let own = can_go(&state, me);
        of_cpu(&state, me, &mut options);
        if own && !state.cpus[me].visible {
            return;
        }
        for other in (0..self.setup.cpus).filter(|other| *other != me) {
            of_cpu(&state, other, &mut options);
        }
        for (number, cpu) in state.cpus.iter().enumerate().take(self.setup.cpus) {
            if cpu.buffered > 0 {
                options.push(Choice::Drain(number as u8));
            }
        }
    }

    /// Does what was chosen, up to the next choice.
    pub(crate) fn apply(&self, choice: Choice) -> Event {
        let (cpu, order) = match choice {
            Choice::Drain(cpu) => {
                self.drain(usize::from(cpu));
                return Event::Branch;
            }
            Choice::TimeOut(cpu) => {
                let cpu = &mut self.state.borrow_mut().cpus[usize::from(cpu)];
                cpu.timeouts -= 1;
                cpu.timed_out = true;
                cpu.rest = Rest::No;
                return Event::Branch;
            }
            Choice::Go(cpu) => (cpu, None),
            Choice::Strike(cpu, vector) => (cpu, Some(vector)),
        };
        let sp = {
            let mut state = self.state.borrow_mut();
            state.current = cpu;
            let thread = usize::from(state.cpus[usize::from(cpu)].thread);
            self.clear_below(thread, state.sp[thread]);
            state.sp[thread]
        };
        self.order.set(order);
        self.steps.set(0);
        self.inside.set(true);
        // SAFETY: the thread that this CPU runs waits there: it is not the explorer.
        unsafe { switch(self.explorer.as_ptr(), sp) };
        self.inside.set(false);
        self.event.take().expect("a thread says why it stops")
    }

    fn clear_below(&self, thread: usize, sp: usize) {
        self.arena.clear(thread, self.low[thread].get(), sp);
        self.low[thread].set(sp);
    }

    /// Switches from the running thread to the explorer.
    fn suspend(&self, event: Event) {
        self.event.set(Some(event));
        let save = {
            let mut state = self.state.borrow_mut();
            let thread = thread_of(&state);
            &raw mut state.sp[thread]
        };
        // SAFETY: the explorer waits there, in `apply`.
        unsafe { switch(save, self.explorer.get()) };
    }

    /// Called before each step; returns when the step is to be taken.
    fn point(&self) {
        let mark = 0_u8;
        clear_below_this();
        loop {
            self.steps.set(self.steps.get() + 1);
            self.total_steps.set(self.total_steps.get() + 1);
            if self.steps.get() > ENDLESS {
                fail(Property::NoLivelock, "a CPU goes on forever by itself");
            }
            let here = &raw const mark as usize;
            {
                let state = self.state.borrow();
                let low = &self.low[thread_of(&state)];
                low.set(low.get().min(here));
            }
            self.find_options();
            let only = {
                let options = self.options.borrow();
                options.len() == 1 && options[0] == Choice::Go(self.state.borrow().current)
            };
            if !only {
                self.suspend(Event::Branch);
            }
            match self.order.take() {
                None => return,
                Some(vector) => self.strike(vector),
            }
        }
    }

    /// Runs an interrupt on top of the running thread.
    fn strike(&self, vector: Vector) {
        let number = self.this();
        let enabled = {
            let mut state = self.state.borrow_mut();
            let thread = thread_of(&state);
            state.depth[thread] += 1;
            let cpu = &mut state.cpus[number];
            let bit = vector as u8;
            if cpu.pending & bit != 0 {
                cpu.pending &= !bit;
            } else if vector == Vector::Nmi {
                cpu.nmis -= 1;
            } else {
                cpu.timers -= 1;
            }
            let enabled = cpu.enabled;
            cpu.in_service |= bit;
            cpu.enabled = false;
            cpu.visible = false;
            cpu.rest = Rest::No;
            (cpu.looked, cpu.changed) = (Looked::default(), false);
            enabled
        };
        self.line(What::Strike(vector));
        port::interrupt(vector);
        // IRET: a serialising instruction. The thread may be on another CPU by now.
        let number = self.this();
        while self.state.borrow().cpus[number].buffered > 0 {
            self.drain(number);
        }
        {
            let mut state = self.state.borrow_mut();
            let thread = thread_of(&state);
            state.depth[thread] -= 1;
            let cpu = &mut state.cpus[number];
            cpu.enabled = enabled;
            if vector == Vector::Nmi {
                cpu.in_service &= !(vector as u8);
            }
            cpu.visible = false;
            // The interrupted loop, if any, looks again.
            (cpu.looked, cpu.changed) = (Looked::default(), false);
        }
        self.line(What::Return);
    }

    /// The CPU that is taking steps.
    pub(crate) fn this(&self) -> usize {
        usize::from(self.state.borrow().current)
    }

    /// The thread that is taking steps.
    pub(crate) fn thread(&self) -> usize {
        thread_of(&self.state.borrow())
    }

    /// Whether there is a trace.
    pub(crate) fn is_traced(&self) -> bool {
        self.trace.borrow().is_some()
    }

    /// Writes a line of the trace, if there is one.
    pub(crate) fn line(&self, what: What) {
        let mut trace = self.trace.borrow_mut();
        if let Some(trace) = trace.as_mut() {
            let state = self.state.borrow();
            let cpu = usize::from(state.current);
            let backtrace = matches!(what, What::Access(..)).then(Backtrace::force_capture);
            trace.push(Line {
                cpu,
                thread: thread_of(&state),
                // Of all threads of the CPU, each of which stays there.
                depth: state.depth.iter().skip(cpu).step_by(self.setup.cpus).sum(),
                what,
                backtrace,
            });
        }
    }

    /// Runs `check` as the explorer; returns the first property that it finds broken.
    pub(crate) fn outside(&self, check: impl Fn()) -> Option<Violation> {
        self.looking.set(true);
        check();
        self.looking.set(false);
        self.found.take()
    }

    /// Like [`fail`], for the explorer, in [`Self::outside`].
    pub(crate) fn fail_here(&self, property: Property, detail: String) {
        let found = self.found.take();
        self.found
            .set(found.or(Some(Violation { property, detail })));
    }

    /// The owner of each word, as far as is known.
    pub(crate) fn owners(&self) -> Vec<u8> {
        self.owners.borrow().clone()
    }

    /// Takes over what another exploration has learnt.
    pub(crate) fn set_owners(&self, owners: Vec<u8>) {
        *self.owners.borrow_mut() = owners;
    }

    // Memory.

    /// Does an operation on the memory that the CPU sees.
    fn perform(&self, access: &Access) -> u64 {
        let me = self.this();
        if access.operation == Operation::Fence {
            self.drain_all(me);
            return 0;
        }
        if access.operation == Operation::Turns {
            let cpu = &mut self.state.borrow_mut().cpus[me];
            return u64::from(std::mem::take(&mut cpu.timed_out)) * port::TOO_LONG;
        }
        let private = self.is_private(access, me);
        {
            let cpu = &mut self.state.borrow_mut().cpus[me];
            cpu.visible = !private;
            if !private {
                cpu.looked.add(self.number(access.address));
            }
        }
        let buffered = self.setup.memory == Memory::Tso && !private;
        let old = match (buffered, access.operation) {
            (true, Operation::Load) => self.buffered_value(me, access),
            (true, Operation::Store(value)) => {
                let old = self.buffered_value(me, access);
                self.buffer(me, access, access.operation.result(value, access.bits));
                old
            }
            _ => {
                self.drain_all(me);
                let old = access.perform();
                if access.operation.result(old, access.bits) != old {
                    self.changed(me, access.address, private);
                }
                old
            }
        };
        let new = access.operation.result(old, access.bits);
        self.line(What::Access(*access, old, new));
        old
    }

    /// Whether only this CPU touches the word, as far as is known.
    fn is_private(&self, access: &Access, me: usize) -> bool {
        if access.local || (self.setup.private)(access.address) {
            return true;
        }
        let range = self.arena.range();
        if !range.contains(&access.address) {
            return false;
        }
        let mine = me as u8 + 1;
        let owner = &mut self.owners.borrow_mut()[access.address - range.start];
        match *owner {
            0 => *owner = mine,
            SHARED => return false,
            owner if owner == mine => {}
            _ => {
                *owner = SHARED;
                if self.trace.borrow().is_none() {
                    self.event.set(Some(Event::Shared));
                }
                return false;
            }
        }
        true
    }

    /// The property that does not hold.
    pub(crate) fn violation(&self) -> Violation {
        self.found.take().expect("a run that has failed says why")
    }

    fn buffered_value(&self, me: usize, access: &Access) -> u64 {
        let state = self.state.borrow();
        let cpu = &state.cpus[me];
        let own = cpu.buffer[..usize::from(cpu.buffered)].iter().rev();
        own.filter(|store| store.address == access.address)
            .map(|store| store.value)
            .next()
            .unwrap_or_else(|| access.value())
    }

    fn buffer(&self, me: usize, access: &Access, value: u64) {
        if usize::from(self.state.borrow().cpus[me].buffered) == BUFFER {
            self.drain(me);
        }
        let cpu = &mut self.state.borrow_mut().cpus[me];
        cpu.buffer[usize::from(cpu.buffered)] = Store {
            address: access.address,
            bits: access.bits,
            value,
        };
        cpu.buffered += 1;
        cpu.changed = cpu.looked.in_loop;
    }

    /// Moves the oldest store of a buffer to memory.
    fn drain(&self, number: usize) {
        let store = {
            let cpu = &mut self.state.borrow_mut().cpus[number];
            let store = cpu.buffer[0];
            cpu.buffer.rotate_left(1);
            cpu.buffered -= 1;
            store
        };
        let access = Access {
            address: store.address,
            bits: store.bits,
            operation: Operation::Store(store.value),
            ordering: heart::shim::Ordering::Relaxed,
            local: false,
        };
        if access.perform() != store.value {
            self.changed(number, store.address, false);
        }
        if self.trace.borrow().is_some() {
            let before = std::mem::replace(&mut self.state.borrow_mut().current, number as u8);
            self.line(What::Drain(store.value));
            self.state.borrow_mut().current = before;
        }
    }

    fn drain_all(&self, number: usize) {
        while self.state.borrow().cpus[number].buffered > 0 {
            self.drain(number);
        }
    }

    /// The number of a word.
    fn number(&self, address: usize) -> u32 {
        address.wrapping_sub(self.arena.range().start) as u32 + 1
    }

    /// Wakes those that wait for a word that has changed.
    fn changed(&self, me: usize, address: usize, private: bool) {
        let mut state = self.state.borrow_mut();
        for (number, cpu) in state.cpus.iter_mut().enumerate() {
            let looked = !private && cpu.looked.has(self.number(address));
            // A change between a loop's look and its turn counts too: the loop looks once more.
            cpu.changed |= cpu.looked.in_loop && number == me || looked;
            let wakes = match cpu.rest {
                Rest::Turning => number != me && looked,
                Rest::Watching => cpu.watched == address,
                _ => false,
            };
            if wakes {
                cpu.rest = Rest::No;
                (cpu.looked, cpu.changed) = (Looked::TURNED, false);
            }
            if cpu.watched == address {
                cpu.watched = 0;
            }
        }
    }
}

/// A saved state.
pub(crate) struct Snapshot {
    state: State,
    bytes: Vec<u8>,
}

fn thread_of(state: &State) -> usize {
    usize::from(state.cpus[usize::from(state.current)].thread)
}

fn can_go(state: &State, cpu: usize) -> bool {
    let this = &state.cpus[cpu];
    let thread = usize::from(this.thread);
    this.rest == Rest::No && (state.depth[thread] > 0 || !state.done[thread])
}

/// What one CPU may do.
fn of_cpu(state: &State, number: usize, options: &mut Vec<Choice>) {
    let cpu = &state.cpus[number];
    let own = number as u8;
    if can_go(state, number) {
        options.push(Choice::Go(own));
    }
    for vector in VECTORS {
        let by_itself = match vector {
            Vector::Timer => cpu.timers > 0,
            Vector::Nmi => cpu.nmis > 0,
            _ => false,
        };
        let asked = cpu.pending & vector as u8 != 0 || by_itself;
        let permitted = cpu.enabled || vector == Vector::Nmi;
        if asked && permitted && cpu.in_service & vector.masked_by() == 0 {
            options.push(Choice::Strike(own, vector));
        }
    }
    if cpu.rest == Rest::Turning && cpu.timeouts > 0 {
        options.push(Choice::TimeOut(own));
    }
}

/// The function that every thread begins with.
extern "sysv64" fn entry() -> ! {
    let engine = engine();
    // The first choice was made for this.
    if let Some(vector) = engine.order.take() {
        engine.strike(vector);
        engine.point();
    }
    (engine.setup.program)(engine.thread());
    port::program_over();
    {
        let mut state = engine.state.borrow_mut();
        let thread = thread_of(&state);
        state.done[thread] = true;
        let cpu = usize::from(state.current);
        state.cpus[cpu].looked = Looked::default();
        state.cpus[cpu].changed = false;
    }
    loop {
        engine.point();
    }
}

/// The hook: called for each operation on an atomic.
fn hook(access: &Access) -> u64 {
    if !is_inside() {
        return access.perform();
    }
    let engine = engine();
    // Turns are not counted: this is no step, unless a timeout comes.
    if access.operation != Operation::Turns {
        engine.point();
    }
    let found = engine.perform(access);
    if engine.event.get() == Some(Event::Shared) {
        engine.suspend(Event::Shared);
    }
    found
}

/// Reports that the property does not hold, and ends the run.
pub(crate) fn fail(property: Property, detail: impl Into<String>) -> ! {
    let engine = engine();
    let violation = Violation {
        property,
        detail: detail.into(),
    };
    if !engine.inside.get() {
        panic!("{violation}");
    }
    engine.found.set(Some(violation));
    engine.suspend(Event::Failed);
    unreachable!("a run that has failed goes on");
}

// The steps that are no operations on memory.

/// A step of the calling CPU, in which `change` changes the machine.
pub(crate) fn step<T>(visible: bool, change: impl FnOnce(&mut Cpu) -> T) -> T {
    let engine = engine();
    engine.point();
    let mut state = engine.state.borrow_mut();
    let number = usize::from(state.current);
    let cpu = &mut state.cpus[number];
    cpu.visible = visible;
    change(cpu)
}

/// One turn of a loop that waits.
pub(crate) fn turn() {
    let engine = engine();
    let number = engine.this();
    {
        let cpu = &mut engine.state.borrow_mut().cpus[number];
        cpu.visible = true;
        if cpu.looked.in_loop && !cpu.changed {
            cpu.rest = Rest::Turning;
        } else {
            (cpu.looked, cpu.changed) = (Looked::TURNED, false);
        }
    }
    engine.point();
}

/// STI; HLT: waits for an interrupt.
pub(crate) fn halt() {
    step(true, |cpu| {
        cpu.enabled = true;
        cpu.rest = Rest::Halted;
    });
    note!("STI; HLT");
    engine().point();
}

/// CLI; HLT, forever: until an NMI, and again after it.
pub(crate) fn halt_for_ever() -> ! {
    note!("CLI; HLT");
    loop {
        step(true, |cpu| {
            cpu.enabled = false;
            cpu.rest = Rest::Halted;
        });
        engine().point();
    }
}

/// MONITOR of the word at `address`.
pub(crate) fn monitor(address: usize) {
    step(false, |cpu| cpu.watched = address);
}

/// STI; MWAIT: no interrupt comes in between.
pub(crate) fn monitor_wait() {
    step(true, |cpu| {
        cpu.enabled = true;
        if cpu.watched != 0 && cpu.pending == 0 {
            cpu.rest = Rest::Watching;
        }
    });
    note!("STI; MWAIT");
    engine().point();
}

/// Makes `vector` pending on a CPU. All stores of this CPU reach memory first: the port's promise.
pub(crate) fn send(target: usize, vector: Vector) {
    step(true, |_| ());
    let engine = engine();
    let me = engine.this();
    engine.drain_all(me);
    let cpu = &mut engine.state.borrow_mut().cpus[target];
    cpu.pending |= vector as u8;
    if cpu.rest == Rest::Watching {
        cpu.rest = Rest::No;
    }
}

/// Runs `to` on this CPU in place of the calling thread, until somebody switches back.
pub(crate) fn switch_thread(to: usize) {
    let engine = engine();
    step(false, |_| ());
    let (save, load) = {
        let mut state = engine.state.borrow_mut();
        let number = usize::from(state.current);
        let me = usize::from(std::mem::replace(&mut state.cpus[number].thread, to as u8));
        engine.clear_below(to, state.sp[to]);
        (&raw mut state.sp[me], state.sp[to])
    };
    // SAFETY: `to` runs on no CPU: it waits here, or has not begun.
    unsafe { switch(save, load) };
}
