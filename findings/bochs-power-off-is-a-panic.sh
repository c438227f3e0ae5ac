#!/usr/bin/env bash
# In Bochs, a guest that powers off panics the emulator.
#
# A guest that turns the machine off by ACPI (sleep type S5 and SLP_EN into PM1a_CNT) does what it
# should, and QEMU ends with exit code 0. Bochs logs the power-off as a panic of the emulator, and
# ends with exit code 1, as it does for what it cannot emulate; `panic: action=ignore` is refused in
# its configuration. So a test harness cannot tell success by the exit code, and has to read the log.
#
# Seen with Bochs 2.7 (Debian 12, 2.7+dfsg-4+deb12u1):
#
#   panic: action=fatal: the guest said "off", exit code 1, ACPI control: soft power off
#   panic: action=report: the guest said "off", exit code 1, ACPI control: soft power off
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
    mov $off, %si
    call say
    mov $0xb004, %dx            # PM1a_CNT, where the BIOS has put it
    mov $0x2000, %ax            # SLP_TYP 0, S5 here, and SLP_EN
    out %ax, %dx
    mov $on, %si                # not reached on a machine that is off
    call say
    mov $0x8900, %dx            # Bochs ends at this word
    mov $word, %si
1:  lodsb
    out %al, %dx
    jmp 1b
say:
    lodsb
    out %al, $0xe9
    cmpb $0, (%si)
    jne say
    ret
off:  .asciz "off"
on:   .asciz " and on"
word: .asciz "Shutdown"
    .org 510
    .word 0xaa55
ASM
gcc -c boot.S -o boot.o
ld -Ttext=0x7c00 --oformat binary -e start -o boot.img boot.o
truncate -s 1474560 boot.img
echo c >commands

# Bochs wants a viewer before it begins.
cat >view.py <<'PY'
import socket, subprocess, sys, time

with open("said", "w") as said:
    bochs = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=said, stderr=said)
end = time.monotonic() + 60
viewer = None
port = 0
while viewer is None and time.monotonic() < end:
    try: # it takes the first that is free
        viewer = socket.create_connection(("127.0.0.1", 5900 + port), 1)
    except OSError:
        port = (port + 1) % 8
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
    sys.exit(bochs.wait(5))
except subprocess.TimeoutExpired:
    bochs.kill()
    sys.exit(3)
PY

run() { # with this action for panics: what the guest said, the exit code and the panic
    cat >bochsrc <<RC
megs: 32
romimage: file=$BXSHARE/BIOS-bochs-latest
vgaromimage: file=$dir/root/usr/share/vgabios/vgabios.bin
display_library: rfb, options="timeout=20"
floppya: 1_44=boot.img, status=inserted
boot: floppy
port_e9_hack: enabled=1
panic: action=$1
log: log
RC
    code=0
    python3 view.py "$bochs" -q -f bochsrc -rc commands || code=$?
    guest=$(grep -aoE 'off( and on)?' said | tail -n 1)
    panic=$(grep -aoh 'ACPI control: soft power off' log said | head -n 1 || true)
    echo "panic: action=$1: the guest said \"$guest\", exit code $code, $panic"
}
seen=$(run fatal; run report)
grep -o 'Bochs x86 Emulator [0-9.]*' said
echo "$seen"
off='the guest said "off", exit code 1, ACPI control: soft power off'
[ "$seen" = "panic: action=fatal: $off
panic: action=report: $off" ] || { echo "this has changed"; exit 1; }
