//! Takes the samples: stops the machine, notes the call chain of each CPU, and lets it go on.

use std::collections::HashMap;
use std::thread;
use std::time::Duration;

use super::paging::Paging;
use crate::error::{Error, Result};
use crate::vm::qmp::Qmp;
use crate::vm::registers::{self, Cpu};
use serde_json::json;

/// The deepest call chain; a loop in a broken stack ends here.
const DEPTH: usize = 64;
/// How long the machine runs between two samples, in microseconds: from the first to the second,
/// at random, so that the samples do not beat with the guest's own periods.
const RUNS: (u64, u64) = (1000, 3000);

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Samples {
    /// How often each call chain was seen on a CPU that was not halted: the address where it was,
    /// and then return addresses.
    pub(super) chains: HashMap<Vec<u64>, u64>,
    /// How often a CPU was halted.
    pub(super) halted: u64,
    /// How often a CPU was not in the kernel: in firmware, or in the loader.
    pub(super) outside: u64,
    /// How often the machine was stopped.
    pub(super) rounds: u64,
    /// How many CPUs it has.
    pub(super) cpus: usize,
}

/// Takes samples of a machine whose memory is in a file.
pub(super) struct Sampler {
    memory: Paging,
    samples: Samples,
    /// How many to take of each CPU.
    limit: Option<u64>,
    random: u64,
    failed: Option<Error>,
}

impl Sampler {
    /// Of a machine with this memory.
    pub(super) fn new(memory: Paging, limit: Option<u64>) -> Sampler {
        Sampler { memory, samples: Samples::default(), limit, random: 1, failed: None }
    }

    /// Lets the machine run for a moment, and takes a sample of each CPU. Returns false if no more
    /// are needed. (If QEMU is gone, it has ended, and whoever watches it sees that.)
    pub(super) fn sample(&mut self, qmp: &mut Qmp) -> bool {
        // Knuth's constants (MMIX).
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let (least, most) = RUNS;
        thread::sleep(Duration::from_micros(least + (self.random >> 33) % (most - least)));
        if qmp.execute("stop", &json!({})).is_err() {
            return true;
        }
        if let Ok(cpus) = registers::read(qmp)
            && let Err(error) = self.note(&cpus)
        {
            self.failed = Some(error);
        }
        // QEMU does not let a machine go on that has shut down meanwhile; it is about to end.
        let _ = qmp.cont();
        self.failed.is_none() && !self.is_full()
    }

    /// Whether as many were taken as were asked for.
    pub(super) fn is_full(&self) -> bool {
        self.limit.is_some_and(|limit| self.samples.rounds >= limit)
    }

    /// What was seen.
    ///
    /// # Errors
    /// If the machine's memory could not be read.
    pub(super) fn finish(self) -> Result<Samples> {
        self.failed.map_or(Ok(self.samples), Err)
    }

    /// Notes where these CPUs are.
    fn note(&mut self, cpus: &[Cpu]) -> Result<()> {
        self.samples.rounds += 1;
        self.samples.cpus = self.samples.cpus.max(cpus.len());
        for cpu in cpus {
            match cpu.ip {
                _ if cpu.halted => self.samples.halted += 1,
                Some(ip) if is_kernel(ip) => {
                    let chain = self.chain(ip, cpu)?;
                    *self.samples.chains.entry(chain).or_default() += 1;
                }
                _ => self.samples.outside += 1,
            }
        }
        Ok(())
    }

    /// The address and then the return addresses, as the kernel's own backtrace finds them.
    fn chain(&mut self, ip: u64, cpu: &Cpu) -> Result<Vec<u64>> {
        let (mut chain, mut frame) = (vec![ip], cpu.rbp);
        while chain.len() < DEPTH && is_kernel(frame) && frame.is_multiple_of(8) {
            match self.memory.two_words(cpu.cr3, frame)? {
                Some([next, address]) if is_kernel(address) => {
                    chain.push(address);
                    frame = next;
                }
                _ => break,
            }
        }
        Ok(chain)
    }
}

/// Whether an address is in the upper half, where the kernel and all its memory are.
fn is_kernel(address: u64) -> bool {
    address >> 47 == 0x1_ffff
}
