//! The rows of the benchmark: what each measures, what it should cost, and what others pay.

/// The row that has no samples: it happens once a boot, before the bench image is called.
pub(crate) const ONCE: &str = "boot_all_cpus";
/// The row that times are divided by.
pub(crate) const CALIBRATION: &str = "calibration";

/// What is known about a row besides what is measured.
pub(crate) struct Known {
    /// Its name, as the bench image says it.
    pub(crate) name: &'static str,
    /// What one operation is.
    pub(crate) what: &'static str,
    /// The most instructions that it should take.
    pub(crate) target: Option<u64>,
    /// What Linux 6.1 pays.
    pub(crate) linux: &'static str,
    /// What FreeBSD 15 pays.
    pub(crate) freebsd: &'static str,
}

/// The rows. The figures of Linux 6.1 (as Debian ships it) and FreeBSD 15 were measured
/// in QEMU 7.2 in the same way, by modules in their kernels, at 4 CPUs.
#[rustfmt::skip]
pub(crate) const KNOWN: [Known; 23] = [
    known("calibration", "1,000 dependent multiplications", None, "-", "-"),
    known("empty_loop", "what is taken off", None, "2", "2"),
    known("tsc_read", "what is taken off", None, "-", "-"),
    known("critical_pair", "enter and exit", Some(3), "3", "4"),
    known("spinlock_pair", "lock and unlock", Some(15), "31", "44"),
    known("rmlock_read_pair", "uncontended reader", Some(12), "18 (RCU)", "40 (rw)"),
    known("mutex_pair", "lock and unlock, uncontended", None, "-", "12"),
    known("allocation_pair", "64 bytes, allocate and free", None, "323", "249"),
    known("thread_switch", "one, same CPU", Some(145), "1248", "215"),
    known("thread_life", "create, run, join, same CPU", None, "85631", "-"),
    known("wake_rtt_same", "and back, same CPU", Some(600), "5759", "2980-3990"),
    known("wake_rtt_two", "and back, of another CPU that halts", None, "11015", "5069-9986"),
    known("wake_oneway_idle", "of a halted CPU", Some(470), "3239", "-"),
    known("sleep_for", "for 20 us: how late it returns", None, "-", "-"),
    known("rendezvous_full_busy", "three phases with barriers, others running", Some(700), "1348", "1087"),
    known("rendezvous_full_idle", "the same, others halted", Some(850), "3820", "-"),
    known("call_all_busy", "action on all, no barrier", Some(470), "1327", "964"),
    known("call_one_busy", "action on one other CPU", Some(230), "424", "548"),
    known("rendezvous_full_at_once", "three phases, by all CPUs at once", None, "-", "-"),
    known("call_all_at_once", "action on all, by all CPUs at once", None, "-", "-"),
    known("shootdown_page_busy", "one kernel page, all CPUs", Some(490), "1493", "966"),
    known("shootdown_range_busy", "16 pages", Some(680), "-", "1229"),
    known("boot_all_cpus", "entry to all online", Some(10_000_000), "500000000", "-"),
];

#[rustfmt::skip]
const fn known(
    name: &'static str, what: &'static str, target: Option<u64>,
    linux: &'static str, freebsd: &'static str,
) -> Known {
    Known { name, what, target, linux, freebsd }
}
