#!/usr/bin/env bash
# On x86_64-unknown-none rustc accepts SSE and compiles it without SSE, in silence.
#
# The target has no hardware floating point. A function with
# #[target_feature(enable = "sse2")] and the intrinsics of core::arch builds there without
# an error or a warning, and so does -Ctarget-cpu=x86-64-v3. What comes out has no vector
# register in it: four additions are four calls of a soft-float function, where the hosted
# target has one addps. Code that is meant to use SSE (a user program's, a memory copy's)
# is right and many times slower.
#
# Seen with rustc 1.95.0:
#
#   x86_64-unknown-none: 0 instructions with a vector register, 4 calls
#   x86_64-unknown-none -Ctarget-cpu=x86-64-v3: 0 instructions with a vector register, 4 calls
#   x86_64-unknown-linux-gnu: 4 instructions with a vector register, 0 calls
set -eu
command -v rustup >/dev/null || { echo "rustup is missing"; exit 3; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
rustup toolchain install 1.95.0 --profile minimal >/dev/null 2>&1 || true
rustc +1.95.0 --version || exit 3
rustup target add --toolchain 1.95.0 x86_64-unknown-none x86_64-unknown-linux-gnu >/dev/null 2>&1 || exit 3

cat >add.rs <<'RS'
#![no_std]
use core::arch::x86_64::{_mm_add_ps, _mm_loadu_ps, _mm_storeu_ps};

#[unsafe(no_mangle)]
#[target_feature(enable = "sse2")]
pub fn add4(a: &[f32; 4], b: &[f32; 4], out: &mut [f32; 4]) {
    // SAFETY: each pointer is to four floats, and none need be aligned.
    unsafe {
        let sum = _mm_add_ps(_mm_loadu_ps(a.as_ptr()), _mm_loadu_ps(b.as_ptr()));
        _mm_storeu_ps(out.as_mut_ptr(), sum);
    }
}
RS
build() {
    rustc +1.95.0 --edition 2024 --crate-type lib -D warnings -O --emit asm=out.s --target "$@" add.rs
    echo "$*: $(grep -c '[xyz]mm' out.s || true) instructions with a vector register," \
        "$(grep -c 'call' out.s || true) calls"
}
seen=$(build x86_64-unknown-none
    build x86_64-unknown-none -Ctarget-cpu=x86-64-v3
    build x86_64-unknown-linux-gnu)
echo "$seen"
[ "$seen" = "x86_64-unknown-none: 0 instructions with a vector register, 4 calls
x86_64-unknown-none -Ctarget-cpu=x86-64-v3: 0 instructions with a vector register, 4 calls
x86_64-unknown-linux-gnu: 4 instructions with a vector register, 0 calls" ] ||
    { echo "this has changed"; exit 1; }
