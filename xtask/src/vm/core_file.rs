//! Cores: the memory and the registers of a machine in an ELF file that gdb opens, a thread for each
//! CPU.
//!
//! QEMU writes them (`dump-guest-memory` with `paging`, so that addresses are the kernel's own), and
//! this mends what gdb cannot use: bits 63 to 48 of addresses in the lower half are set, and every
//! free page takes room on the disk. What QEMU leaves out stays out: gdb has no control registers
//! (`$cr3`) and no vector registers in a core, and sees only address spaces that a CPU is in. A copy
//! of the kernel is kept beside the core, since the next build replaces the original.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Result as IoResult, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use object::elf::{EM_X86_64, ET_CORE, FileHeader64, PN_XNUM, PT_LOAD, ProgramHeader64};
use object::{LittleEndian, Object, ObjectSection, pod};

use crate::error::{Context, Error, Ours, Result, anyhow};
use crate::paths;
use crate::vm::qmp::Qmp;

type Header = FileHeader64<LittleEndian>;
type Segment = ProgramHeader64<LittleEndian>;

/// The file by which `dump` asks for a core, in the folder of a machine's logs, and the answer.
pub(crate) const REQUEST: &str = "dump-request";
pub(crate) const ANSWER: &str = "dump-answer";

/// What to do without a usable core.
const MAKE_ONE: &str = "make one: cargo xtask test NAME --core, cargo xtask run --core FILE, or, \
                        while a machine runs, cargo xtask dump";

/// The copy of the kernel that is kept beside a core.
pub(crate) fn kernel_of(core: &Path) -> PathBuf {
    let mut name = core.as_os_str().to_os_string();
    name.push(".elf");
    name.into()
}

/// The command that opens a core.
pub(crate) fn command(core: &Path) -> String {
    format!("cargo xtask gdb --core {}", paths::quoted(paths::shown(core)))
}

/// Writes a core of the machine that runs `elf`. A running machine pauses meanwhile.
///
/// # Errors
/// If QEMU refuses, or a file cannot be written.
pub(crate) fn write(qmp: &mut Qmp, elf: &Path, core: &Path) -> Result<()> {
    let _ = fs::remove_file(core);
    let mut raw = core.as_os_str().to_os_string();
    raw.push(".qemu");
    let raw = std::path::absolute(raw).context("where is the core to go?")?;
    let written = qmp.dump(&raw).and_then(|()| {
        mend(&raw, core).with_context(|| format!("cannot write {}", paths::shown(core)))
    });
    let _ = fs::remove_file(&raw);
    written?;
    paths::write(&kernel_of(core), paths::read(elf)?)
}

/// Copies QEMU's file, without the room for what is zero, and corrects the addresses.
fn mend(raw: &Path, core: &Path) -> IoResult<()> {
    let (mut from, mut to) = (File::open(raw)?, File::create(core)?);
    let mut block = vec![0; 64 << 10];
    loop {
        match from.read(&mut block)? {
            0 => break,
            count if block[..count].iter().all(|byte| *byte == 0) => {
                to.seek(SeekFrom::Current(count as i64))?;
            }
            count => to.write_all(&block[..count])?,
        }
    }
    let end = to.stream_position()?;
    to.set_len(end)?;
    let (start, mut segments) = headers(&mut from)?;
    for segment in &mut segments {
        let address = segment.p_vaddr.get(LittleEndian);
        if address >> 47 & 1 == 0 {
            segment.p_vaddr.set(LittleEndian, address & ((1 << 47) - 1));
        }
    }
    to.seek(SeekFrom::Start(start))?;
    to.write_all(pod::bytes_of_slice(&segments))
}

/// The program headers of an ELF file, and where they are.
fn headers(file: &mut File) -> IoResult<(u64, Vec<Segment>)> {
    let broken = || std::io::Error::from(ErrorKind::UnexpectedEof);
    let header = header(file)?.ok_or_else(broken)?;
    let start = header.e_phoff.get(LittleEndian);
    let mut count = usize::from(header.e_phnum.get(LittleEndian));
    if count == usize::from(PN_XNUM) {
        // The first section header has the number: in `sh_info`.
        let mut number = [0; 4];
        file.seek(SeekFrom::Start(header.e_shoff.get(LittleEndian) + 44))?;
        file.read_exact(&mut number)?;
        count = u32::from_le_bytes(number) as usize;
    }
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(start))?;
    file.take((count * size_of::<Segment>()) as u64).read_to_end(&mut bytes)?;
    let segments = pod::slice_from_bytes::<Segment>(&bytes, count).map_err(|()| broken())?.0;
    Ok((start, segments.to_vec()))
}

/// The header of a 64-bit little-endian ELF file; `None` if it is none.
fn header(file: &mut File) -> IoResult<Option<Header>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(size_of::<Header>() as u64).read_to_end(&mut bytes)?;
    let header = pod::from_bytes::<Header>(&bytes).ok().map(|(header, _)| *header);
    Ok(header.filter(|_| bytes.starts_with(b"\x7fELF\x02\x01")))
}

/// A core to be opened.
pub(crate) struct Core {
    name: String,
    file: File,
    segments: Vec<Segment>,
}

impl Core {
    /// Opens a core, and checks that it is one and complete.
    ///
    /// # Errors
    /// What is wrong with it, and how to get another.
    pub(crate) fn open(path: &Path) -> Result<Core> {
        let name = paths::shown(path);
        let hinted = |error: Error| error.hint(MAKE_ONE);
        let mut file =
            File::open(path).with_context(|| format!("cannot read {name}")).map_err(hinted)?;
        let read = || format!("cannot read {name}");
        let what = match header(&mut file).with_context(read).map_err(hinted)? {
            None => "no 64-bit ELF file".to_string(),
            Some(header) => match header.e_type.get(LittleEndian) {
                ET_CORE if header.e_machine.get(LittleEndian) == EM_X86_64 => String::new(),
                ET_CORE => "a core of another kind of machine, not x86_64".to_string(),
                other => {
                    format!("an ELF file of another kind (type {}, not {})", other.0, ET_CORE.0)
                }
            },
        };
        if !what.is_empty() {
            return Err(hinted(anyhow!("{name} is no core: it is {what}")));
        }
        let length = file.metadata().with_context(read)?.len();
        let cut =
            |of: String| hinted(anyhow!("{name} is cut off: it ends after {length} bytes{of}"));
        let segments = headers(&mut file).map_err(|_| cut(", within its headers".to_string()))?.1;
        let end = |segment: &Segment| {
            segment.p_offset.get(LittleEndian).saturating_add(segment.p_filesz.get(LittleEndian))
        };
        let end = segments.iter().map(end).max().unwrap_or(0);
        if end > length {
            return Err(cut(format!(" of {end}")));
        }
        Ok(Core { name, file, segments })
    }

    /// The kernel that this is a core of: the one beside it, or else one of `others`.
    ///
    /// # Errors
    /// If each of them has other code than the core.
    pub(crate) fn kernel(mut self, beside: PathBuf, others: Vec<PathBuf>) -> Result<PathBuf> {
        let is_kept = beside.exists();
        let kernels = if is_kept { vec![beside.clone()] } else { others };
        let mut differ = Vec::new();
        for kernel in kernels.into_iter().filter(|kernel| kernel.exists()) {
            match self.difference(&kernel)? {
                None => return Ok(kernel),
                // The machine stopped before the kernel's page tables were in use.
                Some((_, false)) if is_kept => return Ok(kernel),
                Some((at, _)) => differ.push(format!("{}, at {at:#x}", paths::shown(&kernel))),
            }
        }
        let error = if differ.is_empty() {
            anyhow!(
                "there is no kernel for {}: no {}, and none is built",
                self.name,
                paths::shown(&beside)
            )
        } else {
            anyhow!(
                "{} is of another build: its code differs from {}",
                self.name,
                differ.join("; ")
            )
        };
        let beside = paths::shown(&beside);
        Err(error.hint(format!(
            "put the kernel that ran there beside it, as {beside}; the boot's console.log names its commit"
        )))
    }

    /// The first address at which this memory differs from the kernel's code, and whether there is
    /// any memory.
    fn difference(&mut self, kernel: &Path) -> Result<Option<(u64, bool)>> {
        let bytes = paths::read(kernel)?;
        let what = || format!("{}: no kernel", paths::shown(kernel));
        let elf = object::File::parse(&*bytes).with_context(what)?;
        let text = elf.section_by_name(".text").with_context(what)?;
        let mut code = text.data().with_context(what)?.to_vec();
        let start = text.address();
        let points = trace_points(&elf);
        for (page, code) in (0..).zip(code.chunks_mut(4096)) {
            let address = start + 4096 * page;
            let mut there = vec![0; code.len()];
            if !self.read(address, &mut there)? {
                return Ok(Some((address, page > 0)));
            }
            // A trace point that is turned on has a jump in its place.
            for at in points.iter().flat_map(|point| *point..point + JUMP) {
                let within = at.checked_sub(address).and_then(|at| usize::try_from(at).ok());
                if let Some(within) = within.filter(|within| *within < code.len()) {
                    code[within] = there[within];
                }
            }
            let same = there.iter().zip(&*code).take_while(|(one, other)| one == other).count();
            if same < code.len() {
                return Ok(Some((address + same as u64, true)));
            }
        }
        Ok(None)
    }

    /// Reads the memory at an address. Returns false if the core does not have all of it.
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<bool> {
        let mut done = 0;
        while done < bytes.len() {
            let at = address + done as u64;
            let found = self.segments.iter().find_map(|segment| {
                let within = at.checked_sub(segment.p_vaddr.get(LittleEndian))?;
                let left = segment
                    .p_filesz
                    .get(LittleEndian)
                    .checked_sub(within)
                    .filter(|left| *left > 0)?;
                let is_memory = segment.p_type.get(LittleEndian) == PT_LOAD;
                is_memory.then(|| (segment.p_offset.get(LittleEndian) + within, left))
            });
            let Some((offset, left)) = found else { return Ok(false) };
            let count = left.min((bytes.len() - done) as u64) as usize;
            let read = || format!("cannot read {}", self.name);
            self.file.seek(SeekFrom::Start(offset)).with_context(read)?;
            self.file.read_exact(&mut bytes[done..done + count]).with_context(read)?;
            done += count;
        }
        Ok(true)
    }
}

/// The length of the jump that turns a trace point on.
const JUMP: u64 = 5;

/// The addresses of the kernel's trace points, which the section `.trace_sites` lists: the first
/// eight bytes of each entry of 24.
fn trace_points(elf: &object::File<'_>) -> Vec<u64> {
    let section = elf.section_by_name(".trace_sites").and_then(|section| section.data().ok());
    let entries = section.unwrap_or_default().chunks_exact(24);
    entries.filter_map(|entry| entry[..8].try_into().ok().map(u64::from_le_bytes)).collect()
}

#[cfg(test)]
mod tests;
