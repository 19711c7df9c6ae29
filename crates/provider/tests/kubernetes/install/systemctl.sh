#!/bin/sh
# systemd of the test: runs the command line of the provider's unit as its user.
unit=/usr/lib/systemd/system/bao-kms-provider.service
pid=/run/bao-kms-provider.pid
value() { sed -n "s/^$1=//p" "$unit" | tail -n 1; }
running() { [ -e "$pid" ] && kill -0 "$(cat "$pid")" 2>/dev/null; }
now=
words=
for word; do
    case $word in
        --now) now=yes ;;
        -*) ;;
        *) words="$words $word" ;;
    esac
done
set -- $words
start() {
    running && return
    for path in $(sed -n 's/^ConditionPath[A-Za-z]*=//p' "$unit"); do
        [ -e "$path" ] || { echo "condition failed: $path" >&2; return 1; }
    done
    umask "$(value UMask)"
    setsid setpriv --reuid="$(value User)" --regid="$(value Group)" --init-groups --no-new-privs -- \
        $(value ExecStart) </dev/null >/var/log/bao-kms-provider.log 2>&1 &
    echo $! > "$pid"
    socket=$(sed -n 's/^ *socketPath: *//p' /etc/openbao-kms/config.yaml | tr -d '"')
    while running && ! [ -S "$socket" ]; do read -r _ </dev/null; done
    running
}
stop() {
    running && kill "$(cat "$pid")"
    while running; do read -r _ </dev/null; done
    rm -f "$pid"
}
case $1 in
    is-active) running ;;
    is-enabled) [ -e /etc/systemd/system/multi-user.target.wants/bao-kms-provider.service ] ;;
    daemon-reload) ;;
    enable)
        mkdir -p /etc/systemd/system/multi-user.target.wants
        ln -sf "$unit" /etc/systemd/system/multi-user.target.wants/
        [ -z "$now" ] || start
        ;;
    disable)
        rm -f /etc/systemd/system/multi-user.target.wants/bao-kms-provider.service
        [ -z "$now" ] || stop
        ;;
    start) start ;;
    stop) stop ;;
    restart) stop; start ;;
    *) echo "systemctl $*: not in this test" >&2; exit 1 ;;
esac
