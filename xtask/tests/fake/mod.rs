//! A QEMU and a Rust toolchain that are shell scripts, so that a test knows what they do, and a
//! kernel with just enough in it to be examined. For what the real ones do too seldom or too
//! slowly.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder with programs in place of the real ones.
pub(crate) struct Fake {
    /// The folder.
    pub(crate) dir: PathBuf,
}

/// QEMU's beginning: it keeps its arguments, each ended by a NUL, in `args`, and lets the
/// monitor's two commands pass.
const QEMU: &str = r#"
here=${0%/*}
if [ "$1" = --version ]; then echo "QEMU emulator version 7.2.22 (a script)"; exit; fi
printf '%s\0' "$@" >"$here/args"
while [ $# -gt 0 ]; do
    case $1 in
        -qmp) port=${2##*:} port=${port%%,*} ;;
        -append) append=$2 ;;
        -serial) results=${2#file:} ;;
    esac
    shift
done
start() {
    exec 3<>"/dev/tcp/127.0.0.1/$port"
    echo '{"QMP": {}}' >&3
    for _ in 1 2; do read -r _ <&3; echo '{"return": {}}' >&3; done
}
"#;

/// A guest that ends after it has left the file `ram` as its memory, with the exit code in `code`.
pub(crate) const TRACING_GUEST: &str = r#"
start
memory=$(tr '\0' '\n' <$here/args | sed -n 's/.*mem-path=//p')
[ -e $here/ram ] && cp $here/ram "$memory"
test=${append#test=}
printf 'tryst-test 1\nok %s\nend passed=1 failed=0 skipped=0\n' "${test%% *}" >"$results"
exit $(cat $here/code)
"#;

/// A rustc that says where its parts are.
const RUSTC: &str = "[ $2 = sysroot ] && echo ${0%/*}/sysroot || echo ${0%/*}/sysroot/lib";

/// A cargo that builds an image at once.
const CARGO: &str = r#"
here=${0%/*}
case " $* " in *" --message-format=json-render-diagnostics "*)
    bin=$*; bin=${bin#*--bin }; bin=${bin%% *}
    printf '{"reason":"compiler-artifact","target":{"name":"%s"},"executable":"%s"}\n' $bin $here/image
    exit ;;
esac
# An image is made of nothing.
case " $* " in *" boot/image/Cargo.toml "*)
    while [ $1 != --bios ] && [ $1 != --uefi ]; do shift; done
    touch $2
    exit ;;
esac
"#;

impl Fake {
    /// An empty folder for the test of this name.
    pub(crate) fn new(test: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a folder");
        Fake { dir }
    }

    /// Adds a program: a script of bash.
    pub(crate) fn program(&self, name: &str, script: &str) -> PathBuf {
        let file = self.dir.join(name);
        fs::write(&file, format!("#!/usr/bin/env bash\n{script}\n")).expect("a script");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("ours");
        file
    }

    /// Adds a QEMU whose guest does this; `start` lets the guest run.
    pub(crate) fn qemu(&self, guest: &str) -> PathBuf {
        self.program("qemu-system-x86_64", &format!("{QEMU}\n{guest}"))
    }

    /// The arguments that this QEMU was started with last.
    pub(crate) fn qemu_args(&self) -> Vec<Vec<u8>> {
        let args = fs::read(self.dir.join("args")).expect("QEMU was started");
        let args = args.strip_suffix(b"\0").expect("there are some");
        args.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
    }

    /// `xtask` with these arguments, this folder's programs before all others, and a target folder
    /// in this folder.
    pub(crate) fn xtask(&self, words: &[impl AsRef<OsStr>]) -> Command {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::iter::once(self.dir.clone()).chain(std::env::split_paths(&path));
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command
            .args(words)
            .current_dir(&self.dir)
            .env("PATH", std::env::join_paths(path).expect("no colon in it"))
            .env("CARGO_TARGET_DIR", self.dir.join("target"))
            .env_remove("QEMU");
        command
    }

    /// Adds a Rust toolchain whose every image has these records of tests. It lacks rust-src and
    /// llvm-tools. `cargo` does whatever else cargo is asked to do.
    pub(crate) fn toolchain(&self, tests: &str, cargo: &str) {
        self.kernel("image", tests);
        fs::create_dir_all(self.dir.join("sysroot/lib/rustlib/host/bin")).expect("a folder");
        self.program("rustc", RUSTC);
        self.program("cargo", &format!("{CARGO}\n{cargo}"));
    }

    /// A file that passes for a kernel, with these records of tests.
    pub(crate) fn kernel(&self, name: impl AsRef<Path>, tests: &str) -> PathBuf {
        let file = self.dir.join(name);
        fs::write(&file, elf(tests)).expect("a file");
        file
    }
}

/// A core of one segment: this memory at [`CODE_ADDRESS`].
pub(crate) fn core(memory: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 120];
    let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[4, 0, 62, 0, 1]);
    put(32, &64_u64.to_le_bytes());
    put(52, &[64, 0, 56, 0, 1]);
    // PT_LOAD of what follows the headers.
    put(64, &[1]);
    put(64 + 8, &120_u64.to_le_bytes());
    put(64 + 16, &CODE_ADDRESS.to_le_bytes());
    put(64 + 32, &memory.len().to_le_bytes());
    bytes.extend_from_slice(memory);
    bytes
}

/// The code of such a kernel, and its address.
pub(crate) const CODE: &[u8; 8] = b"its code";
pub(crate) const CODE_ADDRESS: u64 = 0xffff_ffff_8020_0000;

/// An ELF file of one segment that holds a PVH note, the loader's section, records of tests and
/// some code.
fn elf(tests: &str) -> Vec<u8> {
    const NAMES: &[u8] = b"\0.shstrtab\0.note.Xen\0.bootloader-config\0.ktest_meta\0.text\0";
    const NOTE: &[u8] = b"\x04\0\0\0\x04\0\0\0\x12\0\0\0Xen\0\x10\0\x20\0";
    // Offset of the name, type, flags (in memory), contents.
    let parts: [(u8, u8, u8, &[u8]); 5] = [
        (1, 3, 0, NAMES),
        (11, 7, 2, NOTE),
        (21, 1, 2, &[0; 8]),
        (40, 1, 2, tests.as_bytes()),
        (52, 1, 6, CODE),
    ];
    let (mut bytes, mut headers) = (vec![0_u8; 120], vec![[0_u8; 64]]);
    for (name, kind, flags, contents) in parts {
        let mut header = [0; 64];
        (header[0], header[4], header[8]) = (name, kind, flags);
        header[16..24].copy_from_slice(&CODE_ADDRESS.to_le_bytes());
        header[24..32].copy_from_slice(&bytes.len().to_le_bytes());
        header[32..40].copy_from_slice(&contents.len().to_le_bytes());
        headers.push(header);
        bytes.extend_from_slice(contents);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    let end = bytes.len();
    let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[2, 0, 62, 0, 1]);
    put(32, &64_u64.to_le_bytes());
    put(40, &end.to_le_bytes());
    put(52, &[64, 0, 56, 0, 1, 0, 64, 0, 6, 0, 1, 0]);
    // PT_LOAD of all, at 2 MiB.
    put(64, &[1, 0, 0, 0, 5]);
    put(64 + 24, &0x20_0000_u64.to_le_bytes());
    put(64 + 32, &end.to_le_bytes());
    put(64 + 40, &end.to_le_bytes());
    bytes.extend(headers.concat());
    bytes
}
