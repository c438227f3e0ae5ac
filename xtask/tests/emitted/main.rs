//! Checks what the compiler made of a critical section, of a spinlock, and of the commands to the
//! local APIC.
//!
//! The source says that entering a section is one unlocked addition, and leaving it one unlocked
//! subtraction followed by a jump (decision 4). The compiler decides what runs, so this reads the
//! release kernel's instructions and compares. It also compares the listing of the section in
//! `docs/critical-sections.md`.
//!
//! No test can show a missing fence before an x2APIC command: QEMU's TCG orders all stores, and a
//! PC loses the race too seldom. So this checks each such command in the kernel.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use iced_x86::{
    Code, Decoder, DecoderOptions, Formatter, Instruction, IntelFormatter, Mnemonic, OpKind,
    Register,
};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};

use anyhow::{Context, Error, Result, anyhow, bail};

/// The page that shows the listing of the section.
const DOCUMENT: &str = "docs/critical-sections.md";
/// The lines around it there.
const FENCES: [&str; 2] = ["```x86asm\n", "```\n"];

/// Judges the kernels that `cargo xtask emitted` has built and named in the environment.
#[test]
#[ignore = "cargo xtask emitted builds the kernels that this looks at, and runs it"]
fn the_kernel_is_what_the_source_says() -> Result<()> {
    let image = |name: &str| {
        let file =
            env::var_os(name).with_context(|| format!("{name}: cargo xtask emitted sets it"))?;
        fs::read(file).with_context(|| name.to_string())
    };
    paths(&image("TRYST_KERNEL")?)?;
    let bytes = image("TRYST_KBENCH")?;
    let section = function(&bytes, "emitted_critical_section")?;
    let spinlock = function(&bytes, "emitted_spinlock")?;
    judge("a critical section", &section, section_rules(&section))?;
    judge("a spinlock", &spinlock, spinlock_rules(&spinlock))?;
    commands(&bytes)?;
    document(&listing(&section), env::var_os("TRYST_WRITE").is_some())
}

fn failed(text: impl std::fmt::Display, next: &str) -> Error {
    anyhow!("{text}\n  next: {next}")
}

/// Checks that no loaded part of the kernel holds a path of this machine. (Debug information is not
/// loaded, and keeps the real paths: gdb opens them.)
fn paths(elf: &[u8]) -> Result<()> {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output()?;
    let sysroot = PathBuf::from(String::from_utf8(sysroot.stdout)?.trim());
    let home = || env::home_dir().unwrap_or_default().join(".cargo");
    let home = env::var_os("CARGO_HOME").map_or_else(home, PathBuf::from);
    let file = object::File::parse(elf).context("the kernel: no ELF file")?;
    for section in file.sections().filter(|section| section.address() != 0) {
        for path in [&root(), &home.join("registry/src"), &sysroot] {
            if let Some(found) = holding(section.data()?, path.as_os_str().as_encoded_bytes()) {
                bail!("the kernel holds a path of this machine: {found}");
            }
        }
    }
    Ok(())
}

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    root.expect("the package is in the workspace").to_path_buf()
}

/// The first text in `bytes` that begins with `path`, up to its end or 200 bytes.
fn holding(bytes: &[u8], path: &[u8]) -> Option<String> {
    let at = bytes.windows(path.len().max(1)).position(|window| window == path)?;
    let text = bytes[at..].iter().take(200);
    let text = text.take_while(|byte| byte.is_ascii_graphic());
    Some(text.map(|&byte| char::from(byte)).collect())
}

/// Judges every function of the kernel: its x2APIC commands, and that it does not ask the CPU
/// for its interrupt flag (decision 13).
fn commands(elf: &[u8]) -> Result<()> {
    let file = object::File::parse(elf).context("the benchmark's kernel: no ELF file")?;
    let functions = file.symbols().filter(|symbol| symbol.is_definition());
    let functions = functions.filter(|symbol| symbol.kind() == SymbolKind::Text);
    let mut count = 0;
    for symbol in functions {
        let name = symbol.name().unwrap_or("a function without a name");
        let bytes = code_of(&file, &symbol).with_context(|| name.to_string())?;
        let code = decoded(bytes, symbol.address());
        if let Some(one) = asks_for_interrupts(&code) {
            return Err(failed(
                format!("{name} asks the CPU whether interrupts are on, at {:#x}", one.ip()),
                "the word of the thread knows: `CritState::is_open`",
            ));
        }
        count += x2apic_rules(&code).map_err(|(at, broken)| {
            let around = &code[at.saturating_sub(4)..code.len().min(at + 4)];
            failed(
                format!("an x2APIC command in {name}: {broken}\n{}", listing(around)),
                "`command` in kernel/src/arch/x86_64/apic.rs says what it should be",
            )
        })?;
    }
    if count == 0 {
        bail!("the benchmark's kernel has no x2APIC command");
    }
    println!("the interrupt flag: nothing asks for it");
    println!("x2APIC commands: {count}, each behind its fences");
    Ok(())
}

/// Finds a PUSHF whose interrupt flag is tested. (A panic and a stop have another one: they keep
/// all of RFLAGS for the report.)
fn asks_for_interrupts(code: &[Instruction]) -> Option<&Instruction> {
    const IF: u32 = 1 << 9;
    let looks = |one: &Instruction| match one.mnemonic() {
        Mnemonic::Test | Mnemonic::And => one.immediate(1) as u32 == IF,
        Mnemonic::Bt => one.immediate(1) == 9,
        _ => false,
    };
    let asks = |at: &usize| {
        let behind = code[*at + 1..].iter().take(8);
        code[*at].mnemonic() == Mnemonic::Pushfq
            && behind.filter(|one| one.op_count() == 2).any(|one| is_immediate(one) && looks(one))
    };
    (0..code.len()).find(asks).map(|at| &code[at])
}

fn is_immediate(one: &Instruction) -> bool {
    matches!(
        one.op1_kind(),
        OpKind::Immediate8 | OpKind::Immediate8to32 | OpKind::Immediate32 | OpKind::Immediate32to64
    )
}

/// The bytes of a function.
fn code_of<'data>(
    file: &object::File<'data>,
    symbol: &object::Symbol<'data, '_>,
) -> Result<&'data [u8]> {
    for section in file.sections() {
        if let Some(code) = section.data_range(symbol.address(), symbol.size())? {
            return Ok(code);
        }
    }
    bail!("its code is in no section")
}

/// Checks that each WRMSR of the interrupt command register directly follows MFENCE and LFENCE,
/// with no store and no jump in between. Returns their number, or the instruction that is wrong,
/// and how.
fn x2apic_rules(code: &[Instruction]) -> std::result::Result<usize, (usize, &'static str)> {
    const COMMAND: u32 = 0x830;
    let chooses = |one: &Instruction| {
        one.mnemonic() == Mnemonic::Mov
            && one.op0_register() == Register::ECX
            && one.op1_kind() == OpKind::Immediate32
            && one.immediate32() == COMMAND
    };
    let harmless = |one: &&Instruction| {
        !matches!(one.op0_kind(), OpKind::Memory | OpKind::NearBranch64)
            && !matches!(
                one.mnemonic(),
                Mnemonic::Ret | Mnemonic::Jmp | Mnemonic::Call | Mnemonic::Push
            )
    };
    let mut count = 0;
    for (at, _) in code.iter().enumerate().filter(|(_, one)| chooses(one)) {
        let rest = code[at..].iter();
        let length = rest.take_while(|one| one.mnemonic() != Mnemonic::Wrmsr && harmless(one));
        let end = at + length.count();
        if code.get(end).map(Instruction::mnemonic) != Some(Mnemonic::Wrmsr) {
            return Err((at, "a store or a jump, and no WRMSR, follows"));
        }
        let before = code[..at].iter().rev();
        let between = before.take_while(|one| one.mnemonic() != Mnemonic::Lfence && harmless(one));
        let start = at - between.count();
        let fences: Option<&[_; 2]> = code[..start].last_chunk();
        let fences = fences.map(|[first, second]| (first.mnemonic(), second.mnemonic()));
        if fences != Some((Mnemonic::Mfence, Mnemonic::Lfence)) {
            return Err((at, "no MFENCE and LFENCE before it"));
        }
        count += 1;
    }
    Ok(count)
}

/// The instructions of the function that the symbol names.
fn function(elf: &[u8], name: &str) -> Result<Vec<Instruction>> {
    let file = object::File::parse(elf).context("the benchmark's kernel: no ELF file")?;
    let symbol = file.symbol_by_name(name);
    let symbol = symbol.with_context(|| format!("the benchmark's kernel has no symbol {name}"))?;
    let code = code_of(&file, &symbol).with_context(|| name.to_string())?;
    Ok(decoded(code, symbol.address()))
}

fn decoded(code: &[u8], start: u64) -> Vec<Instruction> {
    Decoder::with_ip(64, code, start, DecoderOptions::NONE).iter().collect()
}

/// Fails with the whole listing if a rule is broken.
fn judge(
    what: &str,
    code: &[Instruction],
    verdict: std::result::Result<usize, String>,
) -> Result<()> {
    match verdict {
        Ok(count) => {
            println!("{what}: {count} instructions, as they should be");
            Ok(())
        }
        Err(broken) => Err(failed(
            format!("{what}: {broken}\n{}", listing(code)),
            "kernel/heart/src/shim.rs says what each should be",
        )),
    }
}

/// Checks for one unlocked ADD, one unlocked SUB, and the jump of an exit that must pay; nothing
/// else may touch memory, except the load of curthread before. Returns the number of instructions
/// from the ADD to the jump.
fn section_rules(code: &[Instruction]) -> std::result::Result<usize, String> {
    let path = straight(code);
    if let Some(locked) = path.iter().find(|one| one.has_lock_prefix()) {
        return Err(format!("`{}` is locked", text(locked)));
    }
    let at = |code: Code| path.iter().position(|one| one.code() == code);
    let (Some(enter), Some(exit)) = (at(Code::Add_rm32_imm8), at(Code::Sub_rm32_imm8)) else {
        return Err("no ADD or no SUB of a word in memory".to_string());
    };
    let changes =
        |one: &&Instruction| one.op0_kind() == OpKind::Memory && one.mnemonic() != Mnemonic::Nop;
    match path.iter().filter(changes).count() {
        2 => {}
        count => return Err(format!("{count} instructions change memory, not two")),
    }
    if path.get(exit + 1).map(Instruction::mnemonic) != Some(Mnemonic::Jbe) {
        return Err("the SUB is not followed by JBE".to_string());
    }
    if exit != enter + 1 {
        return Err("the ADD is not followed by the SUB".to_string());
    }
    Ok(exit + 2 - enter)
}

/// Checks that nothing is locked but the CMPXCHG, and that there is one unlocked SUB of the
/// thread's word with its JBE. Returns the number of instructions on all paths.
fn spinlock_rules(code: &[Instruction]) -> std::result::Result<usize, String> {
    let mut locked = code.iter().filter(|one| one.has_lock_prefix()).peekable();
    if locked.peek().is_none() {
        return Err("no locked instruction".to_string());
    }
    if let Some(other) = locked.find(|one| one.mnemonic() != Mnemonic::Cmpxchg) {
        return Err(format!("`{}` is locked", text(other)));
    }
    let takes_off =
        |one: &Instruction| one.op0_kind() == OpKind::Memory && one.code() == Code::Sub_rm32_imm32;
    let exit = code.iter().position(takes_off);
    let jump = exit.and_then(|exit| code.get(exit + 1));
    if jump.map(Instruction::mnemonic) != Some(Mnemonic::Jbe) {
        return Err("no SUB with a JBE behind it".to_string());
    }
    Ok(code.len())
}

/// The instructions up to the first return: the path on which there is nothing to do.
fn straight(code: &[Instruction]) -> &[Instruction] {
    let end = code.iter().position(|one| one.mnemonic() == Mnemonic::Ret);
    &code[..end.map_or(code.len(), |end| end + 1)]
}

fn text(one: &Instruction) -> String {
    let mut formatter = IntelFormatter::new();
    formatter.options_mut().set_space_after_operand_separator(true);
    let mut out = String::new();
    formatter.format(one, &mut out);
    out
}

/// Whether an address of the kernel is loaded.
fn loads_address(one: &Instruction) -> bool {
    one.mnemonic() == Mnemonic::Mov
        && one.op1_kind() == OpKind::Immediate32to64
        && one.immediate32to64() < 0
}

/// The instructions, a line each. A jump within the function names its target line, one to
/// elsewhere says only that; addresses are left out, since each build has its own.
fn listing(code: &[Instruction]) -> String {
    let mut out = String::new();
    for (number, one) in code.iter().enumerate() {
        let line = if one.op0_kind() == OpKind::NearBranch64 {
            let target = one.near_branch_target();
            let place = code.iter().position(|other| other.ip() == target);
            let place = place.map_or("elsewhere".to_string(), |line| format!("line {}", line + 1));
            format!("{} {place}", format!("{:?}", one.mnemonic()).to_lowercase())
        } else if loads_address(one) {
            format!("mov {:?}, an address", one.op0_register()).to_lowercase()
        } else {
            text(one)
        };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{:>2}  {line}", number + 1);
    }
    out
}

/// Compares the listing in the document, or writes it.
fn document(listing: &str, write: bool) -> Result<()> {
    let path = root().join(DOCUMENT);
    let page = fs::read_to_string(&path)?;
    let updated = replaced(&page, listing)
        .ok_or_else(|| anyhow!("{DOCUMENT}: no listing between ```x86asm and ```"))?;
    if updated == page {
        return Ok(());
    }
    if !write {
        return Err(failed(
            format!("{DOCUMENT} shows another listing; now it is\n{listing}"),
            "cargo xtask emitted --write",
        ));
    }
    Ok(fs::write(&path, updated)?)
}

/// The page with `listing` between the fences.
fn replaced(page: &str, listing: &str) -> Option<String> {
    let start = page.find(FENCES[0])? + FENCES[0].len();
    let end = start + page[start..].find(FENCES[1])?;
    Some(format!("{}{listing}{}", &page[..start], &page[end..]))
}

#[cfg(test)]
mod tests;
