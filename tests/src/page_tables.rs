//! The page tables in force, entry by entry.

use alloc::vec::Vec;

use kernel::arch::paging::physical_to_virtual;
use kernel::{ktest, mem, rendezvous, smp};

/// Where the kernel half begins.
const KERNEL_HALF: u64 = boot::PHYS_OFFSET;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;

/// A mapped page, and what it allows after all levels.
#[derive(Clone, Copy, Debug)]
struct Leaf {
    address: u64,
    frame: u64,
    bytes: u64,
    writable: bool,
    executable: bool,
    user: bool,
    global: bool,
}

/// The entries of the table at physical `table`.
fn entries(table: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..512).map(move |index| {
        let entry = physical_to_virtual(table + 8 * index) as *const u64;
        // SAFETY: the tables in use are visible and never freed.
        (index, unsafe { entry.read_volatile() })
    })
}

/// The pages that the tables at physical `root` map.
fn leaves(root: u64) -> Vec<Leaf> {
    let mut leaves = Vec::new();
    walk(root, 39, 0, WRITABLE | USER, &mut leaves);
    leaves
}

/// The pages below `table`, whose entries map `1 << shift` bytes each from `start` on; `above` has
/// the flags of the levels above it.
fn walk(table: u64, shift: u32, start: u64, above: u64, leaves: &mut Vec<Leaf>) {
    for (index, entry) in entries(table) {
        if entry & PRESENT == 0 {
            continue;
        }
        // Bits 63 to 48 repeat bit 47.
        let address = ((start | index << shift) << 16).cast_signed() >> 16;
        let address = address.cast_unsigned();
        let flags = (above & entry & (WRITABLE | USER)) | ((above | entry) & NO_EXECUTE);
        let frame = entry & 0x000f_ffff_ffff_f000;
        if shift > 12 && entry & LARGE == 0 {
            walk(frame, shift - 9, address, flags, leaves);
            continue;
        }
        leaves.push(Leaf {
            address,
            frame: frame >> shift << shift,
            bytes: 1 << shift,
            writable: flags & WRITABLE != 0,
            executable: flags & NO_EXECUTE == 0,
            user: flags & USER != 0,
            global: entry & GLOBAL != 0,
        });
    }
}

/// The tables that CPUs start on.
fn starting() -> kernel::arch::ap::Trampoline {
    *smp::TRAMPOLINE.get().expect("made with a MADT")
}

ktest! {
    /// No page is both writable and executable, and no frame is writable by one address
    /// and executable by another, in the kernel's tables and in those CPUs start on.
    fn nothing_is_writable_and_executable() [] {
        let mut all = leaves(mem::page_table_root());
        all.extend(leaves(starting().tables));
        for leaf in &all {
            assert!(!(leaf.writable && leaf.executable), "writable and executable: {leaf:x?}");
            assert!(!leaf.user, "for user mode: {leaf:x?}");
        }
        let code: Vec<&Leaf> = all.iter().filter(|leaf| leaf.executable).collect();
        assert!(code.len() > 16, "the walk finds no code");
        for data in all.iter().filter(|leaf| leaf.writable) {
            let overlaps = |code: &&&Leaf| {
                code.frame < data.frame + data.bytes && data.frame < code.frame + code.bytes
            };
            let found = code.iter().find(overlaps);
            assert!(found.is_none(), "a frame twice: {data:x?} and {:x?}", found.unwrap());
        }
    }
}

ktest! {
    /// The kernel's tables have nothing in the lower half, and all else is global.
    fn the_kernel_is_global() [] {
        let root = mem::page_table_root();
        assert_eq!(kernel::arch::cpu::page_table_root(), root);
        for (index, entry) in entries(root).take(256) {
            assert_eq!(entry, 0, "entry {index} of the level 4 table");
        }
        for leaf in leaves(root) {
            assert!(leaf.address >= KERNEL_HALF && leaf.global, "not global: {leaf:x?}");
        }
    }
}

ktest! {
    /// A CPU starts on tables with the kernel half and one page of the lower half, which is not
    /// global; every CPU has left them.
    fn the_tables_cpus_start_on() [] {
        let starting = starting();
        let low: Vec<Leaf> = leaves(starting.tables)
            .into_iter()
            .filter(|leaf| leaf.address < KERNEL_HALF)
            .collect();
        let [page] = low[..] else { panic!("{low:x?}") };
        assert_eq!((page.address, page.frame, page.bytes), (starting.page, starting.page, 4096));
        assert!(page.executable && !page.writable && !page.global, "{page:x?}");
        let root = mem::page_table_root();
        let upper = |table| entries(table).skip(256);
        assert!(upper(starting.tables).eq(upper(root)), "not the same kernel half");
        let look = |context: &heart::rendezvous::IpiCtx| {
            assert_eq!(kernel::arch::cpu::page_table_root(), root, "{}", context.cpu());
        };
        let (none, look) = (heart::rendezvous::Phase::NoBarrier, heart::rendezvous::Phase::Run(&look));
        rendezvous::smp_rendezvous(none, look, none).unwrap();
    }
}

ktest! {
    /// Physical page 0, the BIOS's, is mapped nowhere. (`memory::all_frames_are_distinct` checks
    /// that it is not handed out.)
    fn page_zero_is_not_mapped() [] {
        let leaf = leaves(mem::page_table_root()).into_iter().find(|leaf| leaf.frame == 0);
        assert!(leaf.is_none(), "{leaf:x?}");
    }
}
