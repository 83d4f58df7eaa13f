# Takes rounds on a device without Python: `sh measure.sh FOLDER JOB`. Runs under Android's mksh with
# toybox, busybox and dash. JOB/job.sh has the job's variables and `run_model`, which runs the
# program on the model $model for $runs times; see profilers/remote/programs.py, which also reads the
# answer.
LC_ALL=C; export LC_ALL
ORT_DISABLE_TELEMETRY=1; export ORT_DISABLE_TELEMETRY
here=$1 job=$2
samples=$job/samples.jsonl out=$job/out
. "$job/job.sh"

say() { echo "$1" >&2; }
die() { say "error: $1"; exit 2; }
now() { read -r s rest < /proc/uptime; s=${s%%.*}; }

run() {  # MODEL, its time into $out
    model=$here/models/$1
    # The program's own libraries: the tools of the system keep theirs.
    (LD_LIBRARY_PATH=$here; export LD_LIBRARY_PATH; run_model) > "$out" 2>&1 < /dev/null ||
        die "$name ended with status $? on $1: $(tail -n 1 "$out")"
}

probe() {  # INDEX STEM MS: how many runs last so long
    runs=3
    run "$2"
    awk -v pattern="$pattern" -v unit="$unit_ms" -v fill="$3" -v stem="$2" '
        match($0, pattern) { ms = unit * substr($0, RSTART + RLENGTH) }
        END {
            if (!(ms > 0)) exit 1
            runs = int(fill / ms) + 1
            print stem, (runs > 10000 ? 10000 : runs)
        }
    ' "$out" > "$job/$1.runs" || die "$name printed no time: $(tail -n 1 "$out")"
}

sample() {  # INDEX
    read -r stem runs < "$job/$1.runs"
    run "$stem"
    copies=1
    [ ! -f "$model.copies" ] || read -r copies < "$model.copies"
    {
        echo "@run $1 $copies"
        tail -c 4000 "$out" | sed 's/^/ /'  # so that no program writes a line with @
        echo
    } >> "$samples"
}

look() {  # at most every second
    now
    [ "$s" -gt "$looked" ] || return 0
    looked=$s
    if [ $((s - synced)) -ge 10 ]; then  # a reboot loses no more
        synced=$s
        fsync "$samples" 2> /dev/null || sync
    fi
    for file in $watched; do
        value=
        { read -r value < "$file"; } 2> /dev/null
        [ -z "$value" ] || echo "@file $file $value"
    done >> "$samples"
}

# The lock of profilers/onboard/lock.py: the kernel's, so it ends with this process, however that dies.
for folder in "${TFNAS_LOCKS:-}" /run/lock /tmp "${TMPDIR:-}" "${here%/*}"; do
    [ -n "$folder" ] && [ -w "$folder" ] && break
done
lock=$folder/tfnas-measuring.lock
[ -e "$lock" ] || (umask 0; : >> "$lock")
exec 9< "$lock"  # another user's can't be opened to be created
now; end=$((s + lock_s))
until flock -n 9 9>&9; do  # mksh closes its files in what it runs, unless told
    now
    [ "$s" -lt "$end" ] || { say "busy: another measuring process is at it"; exit 75; }
    sleep 1
done

if [ -n "$mask" ]; then
    command -v taskset > /dev/null ||
        die "no taskset there, which pins to cores; device.cores may name all of them"
    taskset -p "$mask" $$ > /dev/null || die "it can't be pinned to its cores (mask $mask)"
fi
program=$here/program
chmod 700 "$program" || die "$program can't be made executable"

while read -r index stem fill_ms <&8; do
    probe "$index" "$stem" "$fill_ms"
done 8< "$job/models"

[ "$rest_s" = 0 ] || sleep "$rest_s" || die "its sleep can't rest $rest_s s: give whole seconds"
echo "@begin" >> "$samples"
now; begin=$s looked=0 synced=0 rounds=0
more() {
    [ -e "$job/job.json" ] || die "$job is gone: nobody waits for this job any more"
    now
    [ "$rounds" -gt 0 ] || return 0
    [ $((s - begin)) -lt "$most_s" ] || return 1
    [ "$rounds" -lt "$at_least" ] || [ $((s - begin)) -lt "$seconds" ]
}
while more; do
    while more && read -r order <&8; do
        sample r
        for index in $order; do
            sample "$index"
            sample r
        done
        look
        echo "@round" >> "$samples"
        rounds=$((rounds + 1))
        [ "$rest_s" = 0 ] || sleep "$rest_s"
    done 8< "$job/orders"
done
exit 0
