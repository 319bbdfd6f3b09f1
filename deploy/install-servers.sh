#!/bin/sh
# Installs the Prometheus and Alertmanager programs where Debian's packages can be had.
#
# The demo and the tests start their own servers, on their own ports, with their own configuration: they need the
# programs, not the system services that the packages bring along. Without the programs the demo and the tests still
# run and leave those parts out, so this script explains instead of failing.
set -eu

# Debian calls it prometheus-alertmanager, upstream alertmanager.
missing() {
    for program in prometheus promtool amtool openssl; do
        command -v "$program" >/dev/null || return 0
    done
    ! command -v prometheus-alertmanager >/dev/null && ! command -v alertmanager >/dev/null
}

explain() {
    cat >&2 <<EOF
servers: $1
         The demo runs without Prometheus and Alertmanager, and the tests that need them are skipped. To get them:
           Debian or Ubuntu:  sudo apt-get install prometheus prometheus-alertmanager openssl
           macOS:             brew install prometheus alertmanager
           elsewhere:         https://prometheus.io/download/ (put prometheus, promtool, alertmanager, amtool on PATH)
EOF
    exit 0
}

# A package's post-install step asks this program whether it may start its service; 101 means no. Otherwise ports
# 9090 and 9093 would be taken as soon as the packages are there. A policy that is already in place is the
# administrator's, and stays.
policy=/usr/sbin/policy-rc.d
forbid_services() {
    [ -e "$policy" ] && return
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
}

# The policy only speaks for now: with systemd the services would start at the next boot.
disable_services() {
    [ -d /run/systemd/system ] || return 0
    systemctl disable --quiet prometheus.service prometheus-alertmanager.service || true
}

install_packages() {
    export DEBIAN_FRONTEND=noninteractive
    # A failed update is no reason to stop: the lists that are there may do.
    apt-get -q update || true
    # Without the recommended packages: they are a node exporter, which is one more service.
    apt-get -q -o DPkg::Lock::Timeout=120 install -y --no-install-recommends \
        prometheus prometheus-alertmanager openssl
}

missing || { echo "servers: prometheus and alertmanager are there"; exit 0; }
command -v apt-get >/dev/null || explain "prometheus or alertmanager is missing, and this is not a Debian system"
[ "$(id -u)" -eq 0 ] || explain "prometheus or alertmanager is missing, and installing packages needs root"

echo "servers: installing prometheus and alertmanager (apt-get)"
log=$(mktemp)
forbid_services
if install_packages >"$log" 2>&1; then
    disable_services
    rm -f "$log"
else
    tail -n 15 "$log" >&2
    rm -f "$log"
    explain "apt-get could not install the packages, its last words are above"
fi
