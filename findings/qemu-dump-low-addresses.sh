#!/usr/bin/env bash
# QEMU's dump-guest-memory with paging writes lower-half addresses with bits 63..48 set.
#
# A guest in long mode maps its first 4 MiB one to one, at address 0. In the core file the
# segment's p_vaddr is not 0 but 0xffff000000000000, which is no canonical address: the page
# table walk of the dump adds the upper bits to every address, not to those of the upper
# half only. A debugger that opens the core cannot find any address of user space until the
# bits are cleared where bit 47 is 0.
#
# Seen with QEMU 7.2.22 (Debian 12, 1:7.2+dfsg-7+deb12u18+b3):
#
#   LOAD at 0xffff000000000000, physical 0x0000000000000000, 0x400000 bytes
set -eu
version=1:7.2+dfsg-7+deb12u18+b3
for tool in apt-get dpkg-deb gcc ld readelf python3; do
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

cat >guest.S <<'ASM'
    .section .note.pvh, "a"
    .align 4
    .long 4, 4, 18
    .asciz "Xen"
    .long start
    .text
    .code32
    .global start
start:
    mov $pml4, %eax
    mov %eax, %cr3
    mov %cr4, %eax
    or $0x20, %eax              # PAE
    mov %eax, %cr4
    mov $0xc0000080, %ecx       # EFER.LME
    rdmsr
    or $0x100, %eax
    wrmsr
    mov %cr0, %eax
    or $0x80000000, %eax        # paging
    mov %eax, %cr0
    lgdt gdtr
    ljmp $8, $long
    .code64
long:
    mov $0x3f8, %dx             # a byte to COM1: it is in long mode
    mov $'.', %al
    out %al, %dx
1:  pause
    jmp 1b
    .data
    .align 4096
pml4:
    .quad pdpt + 3
    .fill 511, 8, 0
pdpt:
    .quad pd + 3
    .fill 511, 8, 0
pd: .quad 0x83, 0x200083        # two pages of 2 MiB
    .fill 510, 8, 0
gdt:
    .quad 0, 0x00af9a000000ffff
gdtr:
    .word 15
    .long gdt
ASM
gcc -c guest.S -o guest.o
ld -Ttext=0x100000 -Tdata=0x101000 -e start -o guest.elf guest.o

cat >dump.py <<'PY'
import json, os, subprocess, sys, time

qemu = subprocess.Popen(
    [sys.argv[1], "-L", "root/usr/share/qemu", "-L", "root/usr/share/seabios", "-machine", "q35",
     "-m", "64", "-display", "none", "-nodefaults", "-no-user-config", "-kernel", "guest.elf",
     "-serial", "file:serial", "-qmp", "stdio"],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

def ask(name, **arguments):
    qemu.stdin.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
    qemu.stdin.flush()
    while True:
        answer = json.loads(qemu.stdout.readline())
        if "return" in answer:
            return
        if "error" in answer:
            sys.exit(f"{name}: {answer['error']}")

qemu.stdout.readline()
ask("qmp_capabilities")
while not (os.path.exists("serial") and os.path.getsize("serial")):
    time.sleep(0.05)
ask("stop")
ask("dump-guest-memory", paging=True, protocol="file:core")
ask("quit")
qemu.wait()
PY
timeout 60 python3 dump.py "$qemu"
seen=$(readelf -lW core | awk '$1 == "LOAD" { print "LOAD at " $3 ", physical " $4 ", " $5 " bytes" }')
echo "$seen"
[ "$seen" = "LOAD at 0xffff000000000000, physical 0x0000000000000000, 0x400000 bytes" ] ||
    { echo "this has changed"; exit 1; }
