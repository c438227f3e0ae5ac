# What each session of `cargo xtask gdb` begins with.
set pagination off
set confirm off
set disassemble-next-line auto
set tcp auto-retry on

define cpu-line
    printf "cpu%d rip %#lx ", $_thread - 1, $rip
    info symbol $rip
end

define cpus
    thread apply all -ascending -q -s cpu-line
end
document cpus
List what every CPU executes.
end

define panics
    hbreak rust_begin_unwind
end
document panics
Stop at a panic, before it is reported.
end
