#!/bin/sh
# Installs what `make test` needs and pip cannot bring: Prometheus (real queries, real scrapes), Chromium (checks report.html),
# and for the real node runc, CNI plugins, nft (kube-proxy), a static busybox (images), openssl and iproute2, and for the image
# buildah and mmdebstrap. With the word `engine` also what llama.cpp is compiled with.
# Does nothing when they are there. Uses apt-get where there is one and this is root; otherwise says what to install.
set -eu
PATH=$PATH:/usr/sbin:/sbin

missing=""
need() { # COMMAND PACKAGE
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need prometheus prometheus
command -v chromium-browser >/dev/null 2>&1 || need chromium chromium
if [ "$(uname -s)" = Linux ]; then
    need runc runc
    need nft nftables
    need busybox busybox-static
    need openssl openssl
    need ip iproute2
    need buildah buildah
    need mmdebstrap mmdebstrap
    [ -e /usr/lib/cni/ptp ] || missing="$missing containernetworking-plugins"
fi
if [ "${1:-}" = engine ]; then
    need cmake cmake
    need ninja ninja-build
    need c++ g++
fi
[ -n "$missing" ] || exit 0

if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    echo "installing$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # Debian starts services as it installs them; policy-rc.d 101 forbids that: tests run Prometheus themselves.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    # shellcheck disable=SC2086 # a list of words
    apt-get install -y -qq --no-install-recommends $missing
else
    echo "please install:$missing (on Debian and Ubuntu: sudo apt-get install$missing)" >&2
    exit 1
fi
