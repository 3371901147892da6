# What both rigs boot: an initramfs with busybox, the built tandem, its KVM unit tests and the test guests. Sourced, after lib.sh.

# rig_initramfs WORK BUILD GUESTS MODULES FILES COMMAND...: makes WORK/rig.cpio. MODULES: the folder of the kernel's; FILES: an array's
# name, copied to /files. With rig_small set, without the guests, and of the unit tests with those that the VMX rig runs alone.
# The guests' initramfs are unpacked, whatever their names say: there they would be so under two emulations.
rig_initramfs() {
    local work=$1 build_dir=$2 guests=$3 mods=$4 root=$1/root; local -n extra=$5; shift 5
    local a t f lib programs=() tests="kvm kvm_run exec_kvm switch_engines prefault contract irqchip irqchip_waits kernel_pit pv mwait fail_entry lost"
    [ -z "${rig_small:-}" ] || tests="fail_entry lost"
    mkdir -p "$root"/{bin,dev,proc,sys,tmp,guests,tests,files,lib64,mods}
    cp "$(command -v busybox)" "$root/bin/busybox"
    for a in $("$root/bin/busybox" --list); do [ "$a" = busybox ] || ln -s busybox "$root/bin/$a"; done
    cp "$build_dir/tandem" "$root/tandem"
    cp "$top/tests/rig/init" "$root/init"
    for f in run storm insn vmx mixed; do cp "$top/tests/rig/$f" "$root/rig-$f"; done
    cp "$top/tests/rig/processor.known" "$root/rig-known"
    chmod +x "$root/init" "$root"/rig-*
    if [ -z "${rig_small:-}" ]; then
        cp "$guests"/{cloud-vmlinuz,i386-vmlinuz} "$root/guests/"
        for f in busybox busybox-i386 stress stress-i386; do zcat "$guests/$f.gz" >"$root/guests/$f.gz"; done
    fi
    cp "$mods"/*.ko "$root/mods/"
    for f in mixed smi smi-long; do
        cc -DSMIS=$([ $f = smi-long ] && echo 100000000 || echo 100) -nostdlib -static -Wl,--oformat=binary -Wl,-Ttext=0xf0000 -Wl,--build-id=none -Wl,-e,0 -o "$root/guests/$f.bin" "$top/tests/guest/${f%-long}.S"
    done
    programs=("$root/tandem")
    for t in $tests; do
        [ -x "$build_dir/tests/test_$t" ] || continue
        cp "$build_dir/tests/test_$t" "$root/tests/"
        programs+=("$root/tests/test_$t")
    done
    if [ -x "$build_dir/tests/stamp" ]; then
        cp "$build_dir/tests/stamp" "$root/bin/stamp"
        programs+=("$root/bin/stamp")
    fi
    cp "$build_dir"/tests/librig_tss.so "$root/tests/" 2>/dev/null || true
    for f in "${extra[@]}"; do cp "$f" "$root/files/"; done
    # The shared libraries the programs need, at the paths the loader looks for them.
    ldd "${programs[@]}" | awk '/=> \//{print $3} /^\t\/lib64/{print $1}' | sort -u | while read -r lib; do
        mkdir -p "$root/$(dirname "$lib")"
        cp -L "$lib" "$root/$lib"
    done
    strip "${programs[@]}"
    printf '%q ' "$@" >"$root/rig-command"
    (cd "$root" && find . | cpio -o -H newc --quiet) >"$work/rig.cpio"
}

# rig_state PID MONITOR: what QEMU's processor and interrupt controllers look like, twice, and where its threads are: for finding
# out why a rig hangs. MONITOR is the socket of its monitor. A vector in the IRR that stays there while the ISR is empty is an
# interrupt that QEMU has lost.
rig_state() {
    local pid=$1 monitor=$2 n t
    for n in 1 2; do
        say "state of the emulated machine, $n of 2:"
        for t in /proc/"$pid"/task/*; do
            echo "thread ${t##*/}: $(awk '{ print "state", $3, "user", $14, "system", $15 }' "$t/stat"), in $(cat "$t/wchan" 2>/dev/null)"
        done
        printf '%s\n' 'info status' 'info registers' 'x/12i $eip' 'info lapic' 'info pic' 'info irq' |
            timeout 20 socat -t 3 - UNIX-CONNECT:"$monitor" | tr -d '\r' | grep -avE '^(\(qemu\)|QEMU |FPR|XMM|YMM|FCW)|masked' || echo "no answer from its monitor"
    done >&2
}

# rig_wait PID LOG SECONDS [QUIET [MONITOR]]: shows what the rig says as it comes, until the process ends or the time is up (124); else the
# status that the rig's init left on its console, 1 where it left none. 125: nothing was said for QUIET seconds. What hangs and
# has a monitor has its state shown.
rig_wait() {
    local pid=$1 log=$2 end=$((SECONDS + $3)) quiet=${4:-$3} monitor=${5:-} shower status hung= said=0 since=$SECONDS now
    tail -n +1 -s 0.2 -f --pid="$pid" "$log" 2>/dev/null | sed -un '/^rig/ { s/\r//g; p }' &
    shower=$!
    # Bochs does not end by itself when the guest powers off; the status line is the rig's last.
    while kill -0 "$pid" 2>/dev/null && [ $SECONDS -lt $end ] && ! grep -qa '^rig-status' "$log"; do
        sleep 0.3
        now=$(stat -c %s "$log")
        [ "$now" = "$said" ] || { said=$now since=$SECONDS; }
        [ $((SECONDS - since)) -lt "$quiet" ] || { hung=1; break; }
    done
    sleep 1
    status=$(tr -d '\r' <"$log" | sed -n 's/^rig-status: \([0-9]*\)$/\1/p' | tail -1)
    if kill -0 "$pid" 2>/dev/null; then
        [ -n "$status" ] || [ -z "$monitor" ] || rig_state "$pid" "$monitor"
        kill ${hung:+-KILL} "$pid"
        wait "$pid" 2>/dev/null || true
    fi
    wait $shower 2>/dev/null || true
    [ -z "$status" ] || return "$status"
    say "the rig ended without a result (limit $3s); the last lines of its console:"
    tail -25 "$log" >&2
    [ $SECONDS -lt $end ] || return 124
    [ -z "$hung" ] || return 125
    return 1
}
