#!/usr/bin/env bash
# In Bochs, EOI does not take the spurious vector out of service.
#
# The local APIC's spurious-interrupt vector is an ordinary vector when an IPI brings it: it
# comes into service, and EOI takes it out again (QEMU does so). Bochs puts it into service
# and ignores the EOI for that number. From then on it is the highest vector in service, so
# no other interrupt comes to this CPU any more. A kernel that tests its handler of spurious
# interrupts by sending itself that vector goes deaf there, and nowhere else.
#
# Seen with Bochs 2.7 (Debian 12, 2.7+dfsg-4+deb12u1):
#
#   vector 0xff in service: 1 in the handler, 1 after EOI
set -eu
version=2.7+dfsg-4+deb12u1
for tool in apt-get dpkg-deb gcc ld python3; do
    command -v "$tool" >/dev/null || { echo "$tool is missing"; exit 3; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
for package in bochs="$version" bochsbios="$version" vgabios=0.8a+ds-2; do
    apt-get download -qq "$package" 2>/dev/null || { echo "apt-get cannot find $package"; exit 3; }
done
for package in *.deb; do dpkg-deb -x "$package" root; done
bochs=$(find "$dir/root/usr" -type f -name bochs-bin | head -n 1)
[ -n "$bochs" ] || bochs=$dir/root/usr/bin/bochs
export LTDL_LIBRARY_PATH=$dir/root/usr/lib/x86_64-linux-gnu/bochs/plugins
export BXSHARE=$dir/root/usr/share/bochs
if ldd "$bochs" "$LTDL_LIBRARY_PATH"/libbx_rfb_gui.so | grep -q 'not found'; then
    echo "libraries of Bochs are missing: apt-get install bochs"
    exit 3
fi

cat >boot.S <<'ASM'
    .code16
    .global start
start:
    cli
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %ss
    mov $0x7000, %sp
    lgdt gdtr
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    mov $8, %bx
    mov %bx, %fs                # 4 GiB from 0 on: the local APIC can be reached
    and $0xfe, %al
    mov %eax, %cr0
    movw $handler, 0xff * 4
    movw $0, 0xff * 4 + 2
    mov $0xff, %al              # both PICs are masked
    out %al, $0x21
    out %al, $0xa1
    mov $0xfee00000, %ebp
    movl $0x1ff, %fs:0xf0(%ebp) # APIC on, spurious vector 0xff
    movl $0, %fs:0x80(%ebp)
    movl $0x440ff, %fs:0x300(%ebp) # vector 0xff to this CPU
    sti
1:  cmpb $0, count
    je 1b
    call show
    mov $'\n', %al
    out %al, $0xe9
    mov $0x8900, %dx            # Bochs ends at this word
    mov $word, %si
2:  lodsb
    out %al, %dx
    jmp 2b
handler:
    call show
    movl $0, %fs:0xb0(%ebp)     # EOI
    incb count
    iret
show:
    mov %fs:0x170(%ebp), %eax   # in service, vectors 0xe0 to 0xff
    shr $31, %eax
    add $'0', %al
    out %al, $0xe9
    ret
count: .byte 0
word: .asciz "Shutdown"
    .align 8
gdt:
    .quad 0, 0x00cf92000000ffff
gdtr:
    .word 15
    .long gdt
    .org 510
    .word 0xaa55
ASM
gcc -c boot.S -o boot.o
ld -Ttext=0x7c00 --oformat binary -e start -o boot.img boot.o
truncate -s 1474560 boot.img
cat >bochsrc <<RC
megs: 32
romimage: file=$BXSHARE/BIOS-bochs-latest
vgaromimage: file=$dir/root/usr/share/vgabios/vgabios.bin
display_library: rfb, options="timeout=20"
floppya: 1_44=boot.img, status=inserted
boot: floppy
port_e9_hack: enabled=1
panic: action=fatal
log: log
RC
echo c >commands

# Bochs wants a viewer before it begins.
cat >view.py <<'PY'
import socket, subprocess, sys, time

with open("said", "w") as said:
    bochs = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=said, stderr=said)
end = time.monotonic() + 60
viewer = None
while viewer is None and time.monotonic() < end:
    try:
        viewer = socket.create_connection(("127.0.0.1", 5900), 1)
    except OSError:
        time.sleep(0.1)
if viewer is None:
    bochs.kill()
    sys.exit("no connection to Bochs")
viewer.recv(12)
viewer.sendall(b"RFB 003.003\n")
viewer.recv(4)
viewer.sendall(b"\1")
viewer.settimeout(0.2)
while bochs.poll() is None and time.monotonic() < end:
    try:
        viewer.recv(65536)
    except TimeoutError:
        pass
    except OSError:
        break
try:
    bochs.wait(5)
except subprocess.TimeoutExpired:
    bochs.kill()
PY
python3 view.py "$bochs" -q -f bochsrc -rc commands || exit 3
grep -o 'Bochs x86 Emulator [0-9.]*' said
bits=$(grep -xE '[01]{2}' said)
seen="vector 0xff in service: ${bits%?} in the handler, ${bits#?} after EOI"
echo "$seen"
[ "$seen" = "vector 0xff in service: 1 in the handler, 1 after EOI" ] ||
    { echo "this has changed"; exit 1; }
