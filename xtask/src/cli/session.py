"""What `cargo xtask gdb` teaches gdb about Tryst: a command for each kind of kernel object.

The commands only read memory, so they work alike on a machine that is stopped and on a core. Each
finds its objects through the kernel's statics and their DWARF types. A kernel that has not come so
far is no error: a pointer that is still null, or memory that is not mapped yet, is reported.
"""

import re
import struct

import gdb
import gdb.unwinder

# The fields of heart::critical's word, as (lowest bit, mask).
SECTIONS, LOCKS, INTERRUPTS = (1, 0x3FF), (11, 0x7F), (23, 0x1FF)
# heart::rendezvous: the flag in `busy` of an initiator with phases to open, and the phases.
DRIVES, PHASES = 1 << 8, ("setup", "action", "teardown")
# heart::spinlock: no CPU holds the lock.
FREE = 0xFFFFFFFF
# heart::more::blocker: the bit beside the owner that says that others wait.
CONTESTED = 1
# heart::waitq::What: completes a sentence that begins with "waits".
WAITS = {
    "Nothing": "for a lock or a thread",
    "Wakeup": "to be woken",
    "Notification": "for the notification of a condition variable",
    "Permit": "for a permit of a semaphore",
    "Time": "for time to pass",
}
# A spinlock without its value.
SPINLOCK = "heart::spinlock::Raw<kernel::port::Machine>"
# How much of a stack is searched for the locks that its thread holds.
SEARCHED = 16 << 10


class NotYet(Exception):
    """The kernel has not come so far."""


# Values.


def read(address, size):
    """The bytes in memory there."""
    return bytes(gdb.selected_inferior().read_memory(address, size))


def word(value):
    """The number that a value consists of: an integer, an atomic, a pointer, an `Option<&T>`."""
    return int.from_bytes(read(int(value.address), value.type.sizeof), "little")


def at(type_name, address):
    """The value of this type at this address."""
    return gdb.Value(address).cast(gdb.lookup_type(type_name).pointer()).dereference()


def static(name):
    """The static of this name."""
    symbol = gdb.lookup_global_symbol(name) or gdb.lookup_static_symbol(name)
    if symbol is None:
        raise gdb.GdbError(f"this file has no {name}: is it a kernel of this tree?")
    return symbol.value()


def variant(type_name, value):
    """The name of the variant of a plain enum that this number stands for."""
    fields = gdb.lookup_type(type_name).fields()
    names = {field.enumval: field.name.rsplit("::", 1)[-1] for field in fields}
    return names.get(value, f"state {value}")


def register(name):
    """A register of gdb's selected CPU."""
    return int(gdb.newest_frame().read_register(name)) & 0xFFFF_FFFF_FFFF_FFFF


def place(site):
    """A `Site` or `Place` as FILE:LINE."""
    address = word(site)
    if address == 0:
        return "an unknown place"
    # A `Location` of core: the two words of the file's name, the line. A dev build has only the
    # type's name.
    name, length, line = (int.from_bytes(read(address + 8 * n, 8), "little") for n in range(3))
    if length > 4096:
        return "no place"
    return f"{read(name, length).decode(errors='replace')}:{line & 0xFFFFFFFF}"


def bits(field, value):
    """One field of the critical sections' word."""
    lowest, mask = field
    return value >> lowest & mask


# Threads and CPUs.


class Thread:
    """A kernel thread."""

    def __init__(self, address):
        self.address = address
        self.value = at("kernel::thread::Thread", address)
        self.task = self.value["task"]
        self.crit = word(self.task["crit"])
        self.state = variant("heart::thread::ThreadState", word(self.task["state"]))
        self.index = int(self.value["task"]["number"])
        name = read(int(self.value["name"].address), 16).rstrip(b"\0").decode(errors="replace")
        self.label = f'thread{self.index}.{word(self.value["generation"])} "{name}"'

    def waits(self):
        """What it waits for and where, if it sleeps."""
        wait = self.value["lending"]["wait"]
        blocker, where = word(wait["blocker"]), place(wait["site"])
        if blocker:
            what = f"for {described(blocker)}"
        else:
            what = WAITS.get(variant("heart::waitq::What", word(self.value["waits_for"])), "")
        limit = ", with a time limit" if word(self.value["deadline"]) else ""
        return f"waits {what}, at {where}{limit}"

    def registers(self):
        """The registers with which it goes on: arch::context::switch pushed RBP, RBX, address."""
        stack = word(self.value["context"])
        back, rbx, rbp = (int.from_bytes(read(stack + 8 * at, 8), "little") for at in range(3))
        # Past the two pops, so that what the compiler says about the frame holds.
        return {"rip": back + 2, "rsp": stack + 24, "rbx": rbx, "rbp": rbp}

    def has_run(self):
        """Whether it has: else `Context::new` has made its stack, and no pops follow."""
        back = int.from_bytes(read(word(self.value["context"]), 8), "little")
        return read(back, 2) == b"\x5b\x5d"


def described(blocker):
    """A `Blocker`, its owner, and since where."""
    value = at("heart::more::blocker::Blocker<kernel::thread::Thread>", blocker)
    kind = variant("heart::more::blocker::Kind", word(value["kind"]))
    owner = word(value["owner"]) & ~CONTESTED
    if not owner:
        return "the readers of a lock" if kind == "Writer" else f"a {kind.lower()} of no thread"
    owner = Thread(owner).label
    if kind == "End":
        return f"the end of {owner}"
    return f"the {kind.lower()} of {owner}, locked at {place(value['site'])}"


def all_threads():
    """Every thread in the table. None before there is a heap."""
    table = word(static("kernel::thread::table::THREADS"))
    if not table:
        raise NotYet("no threads yet: the kernel has not made the thread table")
    pointer = static("kernel::thread::table::THREADS")["p"]["value"].type
    places = gdb.Value(table).cast(pointer).dereference()["value"]
    addresses = read(int(places["data_ptr"]), 8 * int(places["length"]))
    for start in range(0, len(addresses), 8):
        address = int.from_bytes(addresses[start : start + 8], "little")
        if address and Thread(address).state != "Free":
            yield Thread(address)


def blocks():
    """Each CPU's block, as (number, block)."""
    pointers = static("kernel::pcpu::PCPUS")
    size = pointers.type.range()[1] + 1
    found = [(cpu, word(pointers[cpu])) for cpu in range(size)]
    found = [(cpu, at("kernel::pcpu::Pcpu", address)) for cpu, address in found if address]
    if not found:
        raise NotYet("no CPUs yet: the kernel has not registered any")
    return found


def block_of_this_cpu():
    """The block of gdb's selected CPU, which GS leads to; None before the CPU has one."""
    try:
        base = register("gs_base")
        block = at("kernel::pcpu::Pcpu", base) if base else None
        return block if block and word(block["this"]) == base else None
    except (ValueError, gdb.MemoryError):
        return None


def on_each_cpu():
    """Selects each CPU in turn and yields gdb's thread for it; the first one again at the end."""
    selected = gdb.selected_thread()
    try:
        for cpu in sorted(gdb.selected_inferior().threads(), key=lambda cpu: cpu.num):
            cpu.switch()
            yield cpu
    finally:
        selected.switch()


def here():
    """Where gdb's selected CPU is."""
    frame = gdb.newest_frame()
    line = frame.find_sal()
    where = f" at {line.symtab.filename}:{line.line}" if line.symtab else ""
    return f"{frame.pc():#x} {frame.name() or '(no symbol)'}{where}"


# Backtraces of threads that do not run.


class FrameId:
    """What gdb tells frames apart by."""

    def __init__(self, sp, pc):
        self.sp, self.pc = sp, pc


class SwitchedOut(gdb.unwinder.Unwinder):
    """While `thread` is set, makes that thread's frames the callers of the selected CPU's."""

    def __init__(self):
        super().__init__("tryst-switched-out")
        self.thread = self.inner = None

    def __call__(self, pending):
        if self.thread is None:
            return None
        rip, rsp = (pending.read_register(name) for name in ("rip", "rsp"))
        if (int(rip), int(rsp)) != self.inner:
            return None
        saved = self.thread.registers()
        # Below the thread's frames, else gdb takes the stack for a corrupt one.
        below = gdb.Value(saved["rsp"] - 64).cast(rsp.type)
        info = pending.create_unwind_info(FrameId(below, rip))
        for name, value in saved.items():
            info.add_saved_register(name, gdb.Value(value).cast(pending.read_register(name).type))
        return info

    def backtrace(self, thread):
        """The frames of `thread`, as gdb prints them."""
        frame = gdb.newest_frame()
        self.inner = tuple(int(frame.read_register(name)) for name in ("rip", "rsp"))
        self.thread = thread
        gdb.invalidate_cached_frames()
        try:
            own, frame = 1, gdb.newest_frame()
            while frame.type() == gdb.INLINE_FRAME:
                own, frame = own + 1, frame.older()
            return frames(own)
        finally:
            self.thread = None
            gdb.invalidate_cached_frames()


SWITCHED_OUT = SwitchedOut()
gdb.unwinder.register_unwinder(None, SWITCHED_OUT, replace=True)


def frames(first):
    """The frames of gdb's selected CPU from the `first` on, without the end of the stack."""
    text = gdb.execute("backtrace -frame-arguments none", to_string=True)
    text = re.sub(r"(?m)^Backtrace stopped: Cannot access memory.*\n", "", text)
    lines = re.split(r"(?m)^#\d+ +", text)[1 + first :]
    lines = [line for line in lines if not line.startswith("0x0000000000000000 in ")]
    return "".join(f"#{number:<3}{line}" for number, line in enumerate(lines))


def backtrace(thread):
    """Prints the frames of any thread."""
    for _ in on_each_cpu():
        block = block_of_this_cpu()
        if block and word(block["curthread"]) == thread.address:
            print(frames(0), end="")
            return
    if word(thread.value["context"]) == 0:
        print("its context is not saved")
    elif not thread.has_run():
        print("it has not run yet")
    else:
        print(SWITCHED_OUT.backtrace(thread), end="")


# Locks.


def statics():
    """The kernel's named statics, as (name, value)."""
    listed = gdb.execute("info variables -q ::", to_string=True)
    for name in re.findall(r"(?m)^0x[0-9a-f]+ +(.*?)(?:::h[0-9a-f]{16})?$", listed):
        symbol = gdb.lookup_global_symbol(name) or gdb.lookup_static_symbol(name)
        if symbol and symbol.is_variable and not symbol.needs_frame:
            yield name, symbol.value()


def parts(kind, name, value):
    """Every part of a value that is a `kind` of something, with its path."""
    of = value.type
    if is_a(kind, of):
        yield name, value
    elif of.code == gdb.TYPE_CODE_STRUCT:
        for field in of.fields():
            if field.name and not field.artificial and "::" not in field.name:
                if field.type.code in (gdb.TYPE_CODE_STRUCT, gdb.TYPE_CODE_ARRAY):
                    yield from parts(kind, f"{name}.{field.name}", value[field])
    elif of.code == gdb.TYPE_CODE_ARRAY and holds(kind, of.target()):
        for index in range(of.range()[1] + 1):
            yield from parts(kind, f"{name}[{index}]", value[index])


def is_a(kind, of):
    """Whether a type is this generic one, in whatever module."""
    return re.match(rf"(struct )?(\w+::)*{kind}<", str(of)) is not None


def holds(kind, of):
    """Whether a type has a part of this kind."""
    if is_a(kind, of):
        return True
    if of.code == gdb.TYPE_CODE_ARRAY:
        return holds(kind, of.target())
    return of.code == gdb.TYPE_CODE_STRUCT and any(holds(kind, field.type) for field in of.fields())


def named_locks(kind):
    """The locks of this kind in statics, in the CPUs' blocks and in the threads."""
    for name, value in statics():
        yield from parts(kind, name, value)
    for cpu, block in blocks():
        yield from parts(kind, f"cpu{cpu}", block)
    for thread in all_threads():
        yield from parts(kind, thread.label, thread.value)


def on_this_stack(cpu):
    """The addresses of the spinlocks that `cpu`, the selected one, holds and that are on its stack
    or have their address there."""
    rsp = register("rsp")
    stack = b""
    try:
        while len(stack) < SEARCHED:
            stack += read(rsp + len(stack), -(rsp + len(stack)) % 4096 or 4096)
    except gdb.MemoryError:
        pass  # The guard page above the stack.
    for at_byte in range(0, len(stack) - 8, 8):
        for address in (rsp + at_byte, int.from_bytes(stack[at_byte : at_byte + 8], "little")):
            if address >> 47 == 0x1FFFF and is_held_spinlock(address, cpu):
                yield address


def is_held_spinlock(address, cpu):
    """Whether what is at this address can only be a spinlock that `cpu` holds."""
    lock = at(SPINLOCK, address)
    try:
        if word(lock["owner"]) != cpu:
            return False
        return all(re.search(r"\.rs:\d+$", place(lock[site])) for site in ("class", "site"))
    except (gdb.error, OverflowError):
        return False


# The commands.


class Ours(gdb.Command):
    """A command whose help is its documentation. A kernel that has not come so far is no error."""

    def __init__(self):
        super().__init__(type(self).NAME, gdb.COMMAND_USER)

    def invoke(self, argument, from_tty):
        if gdb.selected_thread() is None:
            raise gdb.GdbError("there is no machine: it has ended, or gdb is not connected")
        try:
            self.run(argument.split())
        except NotYet as why:
            print(why)
        except gdb.MemoryError as why:
            print(f"nothing yet: the kernel's memory is not mapped ({why})")


class Cpus(Ours):
    """List the CPUs: thread, critnest, owepreempt, interrupts, spinlocks held, and where each is.

    `interrupts` counts the interrupts in progress. `thread N` selects a CPU by gdb's number."""

    NAME = "cpus"

    def run(self, _):
        for cpu in on_each_cpu():
            block = block_of_this_cpu()
            if block is None:
                print(f"gdb thread {cpu.num}: not started, at {here()}")
                continue
            label = f"cpu{word(block['id'])} (gdb thread {cpu.num})"
            current = word(block["curthread"])
            if not current:
                print(f"{label}: no thread yet, at {here()}")
                continue
            thread = Thread(current)
            print(
                f"{label}: {thread.label}, critnest {bits(SECTIONS, thread.crit)}, "
                f"owepreempt {1 - (thread.crit & 1)}, interrupts {bits(INTERRUPTS, thread.crit)}, "
                f"spinlocks {bits(LOCKS, thread.crit)}, at {here()}"
            )


class Threads(Ours):
    """List the kernel's threads: number, name, state, priority, CPU, and what each waits for.

    `threads bt` adds the backtrace of each. gdb's own threads are the CPUs: see `cpus`."""

    NAME = "threads"

    def run(self, words):
        if words not in ([], ["bt"]):
            raise gdb.GdbError("threads [bt]")
        for thread in all_threads():
            print(told(thread))
            if words:
                backtrace(thread)


def told(thread):
    """A thread in one line."""
    waits = f", {thread.waits()}" if thread.state == "Sleeping" else ""
    priority, cpu = word(thread.task["priority"]), word(thread.task["cpu"])
    return f"{thread.label}: {thread.state.lower()}, priority {priority}, cpu{cpu}{waits}"


class BtThread(Ours):
    """Print the backtrace of the kernel thread with this number: bt-thread N

    It may run, sleep or wait for a CPU. For the number see `threads`."""

    NAME = "bt-thread"

    def run(self, words):
        if len(words) != 1 or not words[0].isdigit():
            raise gdb.GdbError("bt-thread N, where N is a number that `threads` lists")
        for thread in all_threads():
            if thread.index == int(words[0]):
                print(told(thread))
                return backtrace(thread)
        raise gdb.GdbError(f"there is no thread {words[0]}: `threads` lists them")


class Runqs(Ours):
    """List each CPU's run queue in the order in which the threads will run."""

    NAME = "runqs"

    def run(self, _):
        for cpu, block in blocks():
            runq = block["sched"]["runq"]["value"]["value"]
            current = word(block["curthread"])
            runs = Thread(current).label if current else "no thread yet"
            print(f"cpu{cpu}: runs {runs}; {int(runq['queue']['len'])} queued")
            left = word(runq["queue"]["bitmap"])
            for priority in (bit for bit in range(64) if left >> bit & 1):
                thread = word(runq["queue"]["lists"][priority]["first"])
                for _ in range(int(runq["queue"]["len"])):
                    if thread:
                        print(f"    priority {priority}: {Thread(thread).label}")
                        thread = word(Thread(thread).task["run_link"]["next"])


class Locks(Ours):
    """List the locks that are held: spinlocks with CPU and place, sleeping locks with waiters.

    Spinlocks are found in statics, CPUs' blocks and threads, and by the pointers on their holder's
    stack. If a thread holds more than are found, that is said. A mutex for which nobody waits is
    found only in a static."""

    NAME = "locks"

    def run(self, _):
        spinlocks = list(self.spinlocks())
        print("\n".join(spinlocks) if spinlocks else "no spinlock is held")
        mutexes = list(self.mutexes())
        print("\n".join(mutexes) if mutexes else "no thread waits for a lock")

    def spinlocks(self):
        found = named_locks("Spinlock")
        named = {int(lock["raw"].address): (name, lock["raw"]) for name, lock in found}
        held = {address for address, (_, lock) in named.items() if word(lock["owner"]) != FREE}
        for _ in on_each_cpu():
            block = block_of_this_cpu()
            if block is None or not word(block["curthread"]):
                continue
            cpu, thread = word(block["id"]), Thread(word(block["curthread"]))
            count = bits(LOCKS, thread.crit)
            own = {address for address in held if word(named[address][1]["owner"]) == cpu}
            if len(own) < count:
                own.update(on_this_stack(cpu))
            for address in sorted(own):
                lock = at(SPINLOCK, address)
                name = named.get(address, (f"lock at {address:#x}",))[0]
                where = f"taken at {place(lock['site'])}, made at {place(lock['class'])}"
                yield f"{name}: held by cpu{cpu}, {thread.label}, {where}"
            if len(own) < count:
                more = f"{count - len(own)} more spinlocks, which are not found"
                yield f"cpu{cpu}, {thread.label}: {more}"

    def mutexes(self):
        waiters = {}
        for _, mutex in named_locks("RawMutex"):
            if word(mutex["blocker"]["owner"]) & ~CONTESTED:
                waiters[int(mutex["blocker"].address)] = []
        for thread in all_threads():
            blocker = word(thread.value["lending"]["wait"]["blocker"])
            if blocker and not described(blocker).startswith("the end of"):
                waiters.setdefault(blocker, []).append(thread)
        for blocker, threads in waiters.items():
            yield f"{described(blocker)}: {len(threads)} waiting"
            for thread in threads:
                yield f"    {thread.label} since {place(thread.value['lending']['wait']['site'])}"


class RendezvousInFlight(Ours):
    """List the rendezvous in flight: initiator, phase, and the CPUs that have not finished it."""

    NAME = "rendezvous"

    def run(self, _):
        slots = static("kernel::rendezvous::RENDEZVOUS")["slots"]
        slots = [slots[cpu] for cpu in range(slots.type.range()[1] + 1)]
        quiet = True
        for initiator, slot in enumerate(slots):
            if word(slot["left"]) == 0 and not word(slot["busy"]) & DRIVES:
                continue
            quiet, opened = False, word(slot["open"])
            phase = PHASES[opened - 1] if 1 <= opened <= 3 else "no phase"
            print(f"cpu{initiator} calls, for {place(slot['site'])}: waits for the end of {phase}")
            for cpu, other in enumerate(slots):
                if word(other["callers"]) >> initiator & 1:
                    print(f"    cpu{cpu} has not begun")
                elif cpu != initiator and self.is_behind(other, slot, initiator, opened):
                    print(f"    cpu{cpu} has not finished")
        if quiet:
            print("no rendezvous is in flight")

    @staticmethod
    def is_behind(other, slot, initiator, opened):
        """Whether a CPU has begun this call and has not finished what is open of it."""
        serves = word(other["serves"]) == int(slot.address) and word(other["at"]) != opened
        held = (word(other["held"][at - 1]) >> initiator & 1 for at in (1, 2) if at != opened)
        return serves or any(held)


class Records(Ours):
    """List the last records of the trace: of all CPUs, in the order of time, the newest last.

    `records N` lists N of them (20). A kernel that was booted without trace= has none."""

    NAME = "records"
    RECORD, CAPACITY = 32, 1 << 16

    def run(self, words):
        wanted = int(words[0]) if words and words[0].isdigit() else 20
        found = []
        for cpu, block in blocks():
            count, ring = word(block["trace_head"]) // self.RECORD, word(block["trace_ring"])
            if ring:
                first = max(0, count - min(wanted, self.CAPACITY))
                found += (self.record(cpu, ring, number) for number in range(first, count))
        if not found:
            raise NotYet("no records: the kernel was booted without trace=, or has none yet")
        found = sorted(filter(None, found))[-wanted:]
        for when, cpu, thread, crit, event, arguments in found:
            name, named = EVENTS.get(event, (f"event {event}", []))
            told = "".join(f" {key} {value:#x}" for key, value in zip(named, arguments))
            print(
                f"{(when - found[-1][0]):>12} ticks, cpu{cpu}: thread{thread}, critnest "
                f"{bits(SECTIONS, crit)}, owepreempt {1 - (crit & 1)}, interrupts "
                f"{bits(INTERRUPTS, crit)}: {name}{told}"
            )

    def record(self, cpu, ring, number):
        """One record; None if it is not complete."""
        fields = read(ring + number % self.CAPACITY * self.RECORD, self.RECORD)
        when, first, second, crit, thread, event = struct.unpack("<QQQIHH", fields)
        return (when, cpu, thread, crit, event, (first, second)) if event else None


for command in (Cpus, Threads, BtThread, Runqs, Locks, RendezvousInFlight, Records):
    command()
