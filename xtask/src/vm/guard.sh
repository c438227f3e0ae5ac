pids=" "
while read -r verb pid; do
    case $verb in
        add) pids="$pids$pid " ;;
        del) case $pids in *" $pid "*) pids="${pids%% $pid *} ${pids#* $pid }" ;; esac ;;
    esac
done
for pid in $pids; do kill -s KILL -- "-$pid" 2>/dev/null; done
