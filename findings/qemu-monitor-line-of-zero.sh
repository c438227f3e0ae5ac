#!/usr/bin/env bash
# QEMU's `-cpu max` has MONITOR/MWAIT, and says that what MONITOR watches is 0 bytes large.
#
# CPUID leaf 1 sets bit 3 of ECX under TCG, also without `+monitor`. Leaf 5, which tells the
# smallest and the largest monitor line, is all zero. A kernel that aligns what it monitors to
# that size, or takes 0 for "no MWAIT", finds two answers in one CPU.
#
# Seen with QEMU 7.2.22 (Debian 12, 1:7.2+dfsg-7+deb12u18+b3), and the same with 10.0.2:
#
#   MONITOR in leaf 1: yes, leaf 5: smallest line 0, largest line 0
set -eu
version=1:7.2+dfsg-7+deb12u18+b3
for tool in apt-get dpkg-deb gcc ld; do
    command -v "$tool" >/dev/null || { echo "$tool is missing"; exit 3; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
for package in qemu-system-x86="$version" qemu-system-common="$version" \
    qemu-system-data=1:7.2+dfsg-7+deb12u18 seabios=1.16.2-1; do
    apt-get download -qq "$package" 2>/dev/null || { echo "apt-get cannot find $package"; exit 3; }
done
for package in *.deb; do dpkg-deb -x "$package" root; done
qemu=$dir/root/usr/bin/qemu-system-x86_64
if ldd "$qemu" | grep -q 'not found'; then
    echo "libraries of QEMU are missing: apt-get install qemu-system-x86"
    exit 3
fi
"$qemu" --version | head -n 1

# A boot sector: EAX and EBX of leaf 5 and ECX of leaf 1, four bytes each, to port 0xe9.
cat >boot.S <<'ASM'
    .code16
    .global start
start:
    mov $5, %eax
    cpuid
    mov %ebx, %esi
    call four
    mov %esi, %eax
    call four
    mov $1, %eax
    cpuid
    mov %ecx, %eax
    call four
    out %al, $0xf4              # ends QEMU
four:
    mov $4, %di
1:  out %al, $0xe9
    shr $8, %eax
    dec %di
    jnz 1b
    ret
    .org 510
    .word 0xaa55
ASM
gcc -c boot.S -o boot.o
ld -Ttext=0x7c00 --oformat binary -e start -o boot.bin boot.o
timeout 60 "$qemu" -L root/usr/share/qemu -L root/usr/share/seabios -machine pc -cpu max \
    -display none -nodefaults -no-user-config -drive file=boot.bin,format=raw,snapshot=on \
    -debugcon file:seen -device isa-debug-exit,iobase=0xf4 2>warnings || [ $? = 1 ]
# shellcheck disable=SC2046
set -- $(od -An -tu4 seen)
has=no
[ $(($3 >> 3 & 1)) = 0 ] || has=yes
seen="MONITOR in leaf 1: $has, leaf 5: smallest line $1, largest line $2"
echo "$seen"
[ "$seen" = "MONITOR in leaf 1: yes, leaf 5: smallest line 0, largest line 0" ] ||
    { echo "this has changed"; exit 1; }
