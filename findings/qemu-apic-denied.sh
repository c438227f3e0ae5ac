#!/usr/bin/env bash
# QEMU's `-cpu max,-apic` takes the local APIC away with one CPU, and only its CPUID bit with two.
#
# Bit 9 of EDX in CPUID leaf 1 is clear either way. With `-smp 1` IA32_APIC_BASE has an APIC
# that is off, at address 0; with `-smp 2` one that is on, at its usual address, and it works.
# A kernel that believes CPUID alone finds a machine of two CPUs that it may not start; one
# that believes the register alone is right both times.
#
# Seen with QEMU 7.2.22 (Debian 12, 1:7.2+dfsg-7+deb12u18+b3):
#
#   1 CPU: APIC by CPUID: no, APIC base 0x100
#   2 CPUs: APIC by CPUID: no, APIC base 0xfee00900
set -eu
version=1:7.2+dfsg-7+deb12u18+b3
for tool in apt-get dpkg-deb gcc ld python3; do
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

# A boot sector: EDX of leaf 1 and the low half of IA32_APIC_BASE, four bytes each, to port 0xe9.
cat >boot.S <<'ASM'
    .code16
    .global start
start:
    mov $1, %eax
    cpuid
    mov %edx, %eax
    call four
    mov $0x1b, %ecx
    rdmsr
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
look() {
    timeout 60 "$qemu" -L root/usr/share/qemu -L root/usr/share/seabios -machine pc -cpu max,-apic \
        -smp "$1" -display none -nodefaults -no-user-config \
        -drive file=boot.bin,format=raw,snapshot=on -debugcon file:seen \
        -device isa-debug-exit,iobase=0xf4 2>warnings || [ $? = 1 ]
    python3 - "$2" <<'PY'
import struct, sys
features, base = struct.unpack("<2I", open("seen", "rb").read(8))
print(f"{sys.argv[1]}: APIC by CPUID: {'yes' if features >> 9 & 1 else 'no'}, APIC base {base:#x}")
PY
}
seen="$(look 1 '1 CPU')
$(look 2 '2 CPUs')"
echo "$seen"
[ "$seen" = "1 CPU: APIC by CPUID: no, APIC base 0x100
2 CPUs: APIC by CPUID: no, APIC base 0xfee00900" ] || { echo "this has changed"; exit 1; }
