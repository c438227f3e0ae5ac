#!/usr/bin/env bash
# Under QEMU's TCG, a PAUSE that follows STI lets in no interrupt: not even after it.
#
# STI keeps interrupts out until the next instruction has ended (SDM vol. 2, STI). So in
# `sti; pause; cli` one that waits is taken before the CLI, as it is in `sti; nop; cli`. QEMU
# leaves its loop at a PAUSE, and does not take the shadow of the STI away before that: the next
# instruction is in the shadow too. A loop that opens a window for interrupts like this, as a
# spinlock may, opens none. Two instructions of any kind in between are enough. The version
# 10.0.2 is right.
#
# Seen with QEMU 7.2.22 (Debian 12, 1:7.2+dfsg-7+deb12u18+b3), of 100 windows each:
#
#   sti; nop; cli: 100 interrupts
#   sti; pause; cli: 0 interrupts
#   sti; pause; nop; cli: 100 interrupts
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

# A boot sector, in real mode: the PIT makes IRQ 0 pending, and each window is opened once it is. The
# numbers of interrupts go to port 0xe9, a byte each.
cat >boot.S <<'ASM'
    .code16
    .global start
start:
    cli
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %ss
    mov $0x7000, %sp
    movw $handler, 4*8          # IRQ 0 has vector 8
    movw $0, 4*8 + 2
    mov $0xfe, %al              # no other IRQ
    out %al, $0x21

    .macro windows first, second
    xor %bl, %bl
    mov $100, %cx
1:  mov $0x0a, %al              # is IRQ 0 pending?
    out %al, $0x20
    in $0x20, %al
    test $1, %al
    jz 1b
    sti
    \first
    \second
    cli
    loop 1b
    mov %bl, %al
    out %al, $0xe9
    .endm

    windows nop
    windows pause
    windows pause, nop
    xor %al, %al
    out %al, $0xf4              # ends QEMU

handler:
    inc %bl
    push %ax
    mov $0x20, %al
    out %al, $0x20
    pop %ax
    iret
    .org 510
    .word 0xaa55
ASM
gcc -c boot.S -o boot.o
ld -Ttext=0x7c00 --oformat binary -e start -o boot.bin boot.o
timeout 120 "$qemu" -L root/usr/share/qemu -L root/usr/share/seabios -machine pc -accel tcg \
    -display none -nodefaults -no-user-config -drive file=boot.bin,format=raw,snapshot=on \
    -debugcon file:seen -device isa-debug-exit,iobase=0xf4 2>warnings || [ $? = 1 ]
seen=$(python3 - <<'PY'
windows = "sti; nop; cli", "sti; pause; cli", "sti; pause; nop; cli"
for window, taken in zip(windows, open("seen", "rb").read()[-3:]):
    print(f"{window}: {taken} interrupts")
PY
)
echo "$seen"
[ "$seen" = "sti; nop; cli: 100 interrupts
sti; pause; cli: 0 interrupts
sti; pause; nop; cli: 100 interrupts" ] || { echo "this has changed"; exit 1; }
