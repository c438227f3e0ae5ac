//! The sleep types of S5, "soft off", from the DSDT.
//!
//! They are in the package `_S5_` (ACPI 6.5, 7.4.2), which is AML: byte code for an interpreter
//! that the kernel does not have. Every DSDT that has the package spells it out, so the kernel
//! searches for its name and requires such a package after it.

#![forbid(unsafe_code)]

const NAME: u8 = 0x08;
const ROOT: u8 = b'\\';
const PACKAGE: u8 = 0x12;
const ZERO: u8 = 0x00;
const ONE: u8 = 0x01;
const BYTE: u8 = 0x0a;
const WORD: u8 = 0x0b;
const DWORD: u8 = 0x0c;

/// The largest sleep type: it has three bits.
const MOST: u32 = 7;

/// Returns the values for the PM1a and PM1b control registers that turn the machine off; the first
/// is also for the sleep control register. Returns `None` if the table has none.
#[must_use]
pub fn sleep_types(dsdt: &[u8]) -> Option<[u8; 2]> {
    let named = dsdt.windows(4).enumerate();
    let mut named = named.filter(|(_, window)| window == b"_S5_");
    named.find_map(|(at, _)| {
        let is_defined = matches!(dsdt[..at], [.., NAME] | [.., NAME, ROOT]);
        package(&dsdt[at + 4..]).filter(|_| is_defined)
    })
}

/// The first two elements of the package at the start of `aml`.
fn package(aml: &[u8]) -> Option<[u8; 2]> {
    let (&PACKAGE, rest) = aml.split_first()? else {
        return None;
    };
    // The length of all that follows, including its own bytes. The two upper bits of the first byte
    // say how many more it has (ACPI 6.5, 20.2.4).
    let (&lead, _) = rest.split_first()?;
    let more = usize::from(lead >> 6);
    let bytes = rest.get(1..1 + more)?;
    let low = if more == 0 { lead & 0x3f } else { lead & 0x0f };
    let length = bytes.iter().enumerate();
    let length = length.fold(usize::from(low), |sum, (at, &byte)| {
        sum | usize::from(byte) << (4 + 8 * at)
    });
    let (&count, elements) = rest.get(..length)?.get(1 + more..)?.split_first()?;
    let (first, elements) = integer(elements)?;
    let second = match count {
        0 => return None,
        // Some firmware puts both into one integer.
        1 => first >> 8,
        _ => integer(elements)?.0,
    };
    let first = if count == 1 { first & 0xff } else { first };
    let fits = first <= MOST && second <= MOST;
    fits.then_some([first as u8, second as u8])
}

/// The integer at the start of `aml`, and what follows it.
fn integer(aml: &[u8]) -> Option<(u32, &[u8])> {
    let (&op, rest) = aml.split_first()?;
    let width = match op {
        ZERO | ONE => return Some((op.into(), rest)),
        BYTE => 1,
        WORD => 2,
        DWORD => 4,
        _ => return None,
    };
    let (bytes, rest) = rest.split_at_checked(width)?;
    let value = bytes.iter().rev();
    let value = value.fold(0, |sum, &byte| sum << 8 | u32::from(byte));
    Some((value, rest))
}

#[cfg(test)]
mod tests;
