//! Every kernel stack is in its place, and ends in unmapped memory.

use alloc::vec::Vec;

use heart::rendezvous::{IpiCtx, Phase};
use kernel::arch::descriptor::Ist;
use kernel::arch::{apic, cpu, interrupt, paging, vector};
use kernel::mem::kstack;
use kernel::{ktest, kthread, pcpu, rendezvous};
use x86_64::instructions::tables::{sgdt, sidt};

/// Runs `action` on every CPU, one after the other.
fn on_every_cpu(action: &(dyn Fn() + Sync)) {
    for target in &pcpu::online() {
        let action = |context: &IpiCtx| {
            if context.cpu() == target {
                action();
            }
        };
        rendezvous::smp_rendezvous(Phase::NoBarrier, Phase::Run(&action), Phase::NoBarrier)
            .unwrap();
    }
}

/// The stacks that this CPU's TSS names, by [`Ist`].
fn interrupt_stacks() -> [u64; 3] {
    let gdt = sgdt().base.as_u64();
    let word = |index: u64| {
        // SAFETY: entries 5 and 6 of the current GDT are the TSS's descriptor.
        unsafe { ((gdt + 8 * index) as *const u64).read() }
    };
    let (low, high) = (word(5), word(6));
    let tss = low >> 16 & 0xff_ffff | (low >> 56) << 24 | high << 32;
    [Ist::Nmi, Ist::DoubleFault, Ist::MachineCheck].map(|ist| {
        let place = tss + 0x24 + 8 * ist as u64;
        // SAFETY: the current TSS has its interrupt stack table at offset 0x24.
        unsafe { (place as *const u64).read_unaligned() }
    })
}

/// The top of the stack that `address` is on.
fn top_of(address: u64) -> u64 {
    let found = ktest::stacks::tops().find(|top| (top - kstack::SIZE..*top).contains(&address));
    found.unwrap_or_else(|| panic!("{address:#x} is on no kernel stack"))
}

ktest! {
    /// Nothing is mapped below any stack, of threads, of interrupts and of the boot.
    fn guard_pages() [] {
        let thread = kthread::Builder::new("one more").spawn(|| {
            let (_rip, rsp, _rbp) = cpu::here();
            top_of(rsp);
        });
        thread.unwrap().join();
        let pages = |from: u64, to: u64| (from..to).step_by(4096);
        let mut stacks: Vec<(u64, u64, u64)> = ktest::stacks::tops()
            .map(|top| (kstack::GUARD, top - kstack::SIZE, top))
            .collect();
        stacks.extend(paging::early_stacks().map(|(start, end)| (4096, start, end)));
        for (guard, start, end) in stacks {
            for page in pages(start - guard, start) {
                assert!(!paging::is_mapped(page), "{page:#x}, below a stack, is mapped");
            }
            for page in pages(start, end) {
                assert!(paging::is_mapped(page), "{page:#x}, of a stack, is not mapped");
            }
        }
        on_every_cpu(&|| {
            let (_rip, rsp, _rbp) = cpu::here();
            let mut tops = interrupt_stacks().map(|top| top_of(top - 8)).to_vec();
            assert!(tops.iter().eq(&interrupt_stacks()), "not the top of a stack: {tops:x?}");
            tops.push(top_of(rsp));
            tops.sort_unstable();
            tops.dedup();
            assert_eq!(tops.len(), 4, "two stacks in one: {tops:x?}");
        });
    }
}

ktest! {
    /// NMI and machine check arrive on their own stacks, on every CPU. (`memory::stack_overflow`
    /// shows the same for the double fault.)
    fn nmi_and_machine_check_have_their_own() [] {
        on_every_cpu(&|| {
            let stacks = interrupt_stacks();
            let nmi = ktest::stacks::frame_of(|| ktest::without_interrupts(|| apic::send_nmi(apic::id())));
            assert_eq!(top_of(nmi), stacks[Ist::Nmi as usize], "{}", pcpu::this().id());
            let check = ktest::stacks::frame_of(interrupt::machine_check);
            assert_eq!(top_of(check), stacks[Ist::MachineCheck as usize], "{}", pcpu::this().id());
        });
    }
}

ktest! {
    /// The gates of NMI, double fault and machine check name a stack each, and no other.
    fn gates_name_their_stacks() [] {
        let idt = sidt();
        assert_eq!(idt.limit, 256 * 16 - 1);
        for number in 0..=255_u8 {
            let expected = match number {
                vector::NMI => Ist::Nmi as u8 + 1,
                vector::DOUBLE_FAULT => Ist::DoubleFault as u8 + 1,
                vector::MACHINE_CHECK => Ist::MachineCheck as u8 + 1,
                _ => 0,
            };
            let gate = idt.base.as_u64() + 16 * u64::from(number);
            // SAFETY: a gate of the current IDT. Byte 4 is the stack, byte 5 the type.
            let [stack, kind] = unsafe { ((gate + 4) as *const [u8; 2]).read() };
            assert_eq!(stack, expected, "vector {number}");
            assert_eq!(kind, 0x8e, "vector {number} has no interrupt gate");
        }
    }
}
