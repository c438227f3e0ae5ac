//! A plugin for QEMU's TCG: records every instruction and every memory access of all CPUs while the
//! bench image measures. `cargo xtask bench` builds it and passes it to QEMU;
//! `bench/report/src/trace.rs` reads the file.
//!
//! The bench image calls an empty function before each row, before each sample and after it
//! (`bench/src/samples.rs`). The plugin gets their addresses as arguments:
//! `row=ADDR,begin=ADDR,end=ADDR,skip=N,keep=N,out=FILE`. Of each row it skips `skip` samples,
//! since the first meet untranslated code, and records the next `keep`.
//!
//! The file is a sequence of little-endian 64-bit words:
//!
//! ```text
//! bits 63..62   0 an instruction, 1 a load, 2 a store, 3 a marker
//! bits 61..56   the CPU
//! bits 55..0    the virtual address (sign-extended from bit 55), or which marker:
//!               0 the next row, 1 a sample begins, 2 it ends
//! ```
//!
//! An instruction's loads and stores follow it. QEMU must emulate all CPUs on one thread
//! (`thread=single`), so that the order in the file is the order in which they ran.
//!
//! QEMU's interface is declared here by hand: no package has its header, and the parts used here
//! are the same in versions 1 (up to QEMU 8) and 2 (from QEMU 9 on). QEMU refuses a plugin of a
//! version that it does not know; the feature `api-2` chooses.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// QEMU reads the version of the interface that the plugin was written for.
#[unsafe(no_mangle)]
pub static qemu_plugin_version: c_int = if cfg!(feature = "api-2") { 2 } else { 1 };

/// A translated block and one of its instructions, which only QEMU looks into.
#[repr(C)]
struct Block {
    _private: [u8; 0],
}
#[repr(C)]
struct Instruction {
    _private: [u8; 0],
}

type OnTranslation = extern "C" fn(id: u64, block: *mut Block);
type OnExecution = extern "C" fn(cpu: c_uint, address: *mut c_void);
type OnAccess = extern "C" fn(cpu: c_uint, info: u32, address: u64, user: *mut c_void);

/// `QEMU_PLUGIN_CB_NO_REGS`: the callback reads no register.
const NO_REGISTERS: c_int = 0;
/// `QEMU_PLUGIN_MEM_RW`: loads and stores.
const LOADS_AND_STORES: c_int = 3;

unsafe extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: u64, callback: OnTranslation);
    fn qemu_plugin_tb_n_insns(block: *const Block) -> usize;
    fn qemu_plugin_tb_get_insn(block: *const Block, index: usize) -> *mut Instruction;
    fn qemu_plugin_insn_vaddr(instruction: *const Instruction) -> u64;
    fn qemu_plugin_register_vcpu_insn_exec_cb(
        instruction: *mut Instruction,
        callback: OnExecution,
        flags: c_int,
        user: *mut c_void,
    );
    fn qemu_plugin_register_vcpu_mem_cb(
        instruction: *mut Instruction,
        callback: OnAccess,
        flags: c_int,
        which: c_int,
        user: *mut c_void,
    );
    fn qemu_plugin_mem_is_store(info: u32) -> bool;
}

const LOAD: u64 = 1;
const STORE: u64 = 2;
const MARKER: u64 = 3;
const ROW: u64 = 0;
const BEGIN: u64 = 1;
const END: u64 = 2;

/// What the arguments say.
#[derive(Default)]
struct Arguments {
    /// The addresses of the three markers.
    markers: [u64; 3],
    skip: u64,
    keep: u64,
    out: String,
}

/// The file, and how many samples of this row have begun.
struct Recorder {
    arguments: Arguments,
    file: BufWriter<File>,
    samples: u64,
}

static RECORDER: OnceLock<Mutex<Recorder>> = OnceLock::new();
/// Whether a sample is being recorded. Relaxed everywhere: QEMU calls from one thread.
static RECORDING: AtomicBool = AtomicBool::new(false);

/// QEMU's call at its start. 0 if the plugin is ready; any other value makes QEMU end.
///
/// # Safety
/// Only QEMU calls it: `arguments` points to `count` strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: u64,
    _info: *const c_void,
    count: c_int,
    arguments: *const *const c_char,
) -> c_int {
    let words = (0..count as usize).map(|index| {
        // SAFETY: the caller's promise: `index` is below `count`.
        let word = unsafe { arguments.add(index) };
        // SAFETY: as above: one of the pointers.
        let word = unsafe { *word };
        // SAFETY: the caller's promise: a string, which lives as long as this call.
        unsafe { CStr::from_ptr(word) }.to_string_lossy()
    });
    let recorder = parse(words).and_then(|arguments| {
        let file = File::create(&arguments.out)
            .map_err(|error| format!("cannot write {}: {error}", arguments.out))?;
        Ok(Recorder {
            arguments,
            file: BufWriter::new(file),
            samples: 0,
        })
    });
    match recorder {
        Ok(recorder) => {
            RECORDER.get_or_init(|| Mutex::new(recorder));
            // SAFETY: `id` is this plugin's, and the callback has the right type.
            unsafe { qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation) };
            0
        }
        Err(error) => {
            eprintln!("bench-plugin: {error}");
            1
        }
    }
}

fn parse<T: AsRef<str>>(words: impl Iterator<Item = T>) -> Result<Arguments, String> {
    let mut arguments = Arguments::default();
    for word in words {
        let word = word.as_ref();
        let wrong = || format!("wrong argument {word:?}");
        let (key, value) = word.split_once('=').ok_or_else(wrong)?;
        let decimal = || value.parse().map_err(|_not_a_number| wrong());
        let address = || {
            let digits = value.strip_prefix("0x").ok_or_else(wrong)?;
            u64::from_str_radix(digits, 16).map_err(|_not_a_number| wrong())
        };
        match key {
            "row" => arguments.markers[ROW as usize] = address()?,
            "begin" => arguments.markers[BEGIN as usize] = address()?,
            "end" => arguments.markers[END as usize] = address()?,
            "skip" => arguments.skip = decimal()?,
            "keep" => arguments.keep = decimal()?,
            "out" => arguments.out = value.to_string(),
            _ => return Err(wrong()),
        }
    }
    Ok(arguments)
}

fn recorder() -> MutexGuard<'static, Recorder> {
    let recorder = RECORDER.get().expect("set before any callback");
    recorder.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recorder {
    fn write(&mut self, kind: u64, cpu: c_uint, value: u64) {
        let word = kind << 62 | u64::from(cpu & 63) << 56 | value & ((1 << 56) - 1);
        // A full disk leaves a file that ends in the middle of a sample.
        let _ = self.file.write_all(&word.to_le_bytes());
    }

    /// One of the three functions was called.
    fn mark(&mut self, marker: u64, cpu: c_uint) {
        match marker {
            ROW => self.samples = 0,
            BEGIN => {
                self.samples += 1;
                let wanted = self.arguments.skip + 1..=self.arguments.skip + self.arguments.keep;
                if !wanted.contains(&self.samples) {
                    return;
                }
                RECORDING.store(true, Ordering::Relaxed);
            }
            _ if !RECORDING.swap(false, Ordering::Relaxed) => return,
            _ => {}
        }
        self.write(MARKER, cpu, marker);
        if marker == END {
            // QEMU may end without a message.
            let _ = self.file.flush();
        }
    }
}

/// A block is being translated: asks for a call at each of its instructions and accesses.
extern "C" fn on_translation(_id: u64, block: *mut Block) {
    let markers = recorder().arguments.markers;
    // SAFETY: QEMU's block, valid during this call.
    let count = unsafe { qemu_plugin_tb_n_insns(block) };
    for index in 0..count {
        // SAFETY: as above, and there is an instruction of this index.
        let instruction = unsafe { qemu_plugin_tb_get_insn(block, index) };
        // SAFETY: QEMU's instruction, valid during this call.
        let address = unsafe { qemu_plugin_insn_vaddr(instruction) };
        let marker = markers.iter().position(|marker| *marker == address);
        let (callback, user): (OnExecution, _) = match marker {
            Some(marker) => (on_marker, marker as u64),
            None => (on_execution, address),
        };
        let user = user as *mut c_void;
        // SAFETY: as above; QEMU hands `user` back as it is, and nobody follows it.
        unsafe {
            qemu_plugin_register_vcpu_insn_exec_cb(instruction, callback, NO_REGISTERS, user);
        }
        // SAFETY: as above.
        unsafe {
            qemu_plugin_register_vcpu_mem_cb(
                instruction,
                on_access,
                NO_REGISTERS,
                LOADS_AND_STORES,
                user,
            );
        }
    }
}

extern "C" fn on_marker(cpu: c_uint, marker: *mut c_void) {
    recorder().mark(marker as u64, cpu);
}

extern "C" fn on_execution(cpu: c_uint, address: *mut c_void) {
    if RECORDING.load(Ordering::Relaxed) {
        recorder().write(0, cpu, address as u64);
    }
}

extern "C" fn on_access(cpu: c_uint, info: u32, address: u64, _user: *mut c_void) {
    if RECORDING.load(Ordering::Relaxed) {
        // SAFETY: QEMU's description of this access.
        let kind = if unsafe { qemu_plugin_mem_is_store(info) } {
            STORE
        } else {
            LOAD
        };
        recorder().write(kind, cpu, address);
    }
}
