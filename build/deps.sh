#!/usr/bin/env bash
# Installs what building and testing needs and this host lacks.
set -euo pipefail

missing=()
need() { # need PACKAGE... -- CHECK...: install the packages unless the check succeeds
	local packages=()
	while [ "$1" != -- ]; do packages+=("$1"); shift; done
	shift
	"$@" >/dev/null 2>&1 || missing+=("${packages[@]}")
}
has() { command -v "$1"; }
node_is_new() { has npm && node -e 'process.exit(+process.versions.node.split(".")[0] >= 20 ? 0 : 1)'; }
python_is_new() { python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))'; }
knows_debian_13() { ls /usr/share/keyrings/debian-archive-trixie-stable.* || ls /usr/share/keyrings/debian-archive-keyring.*; }

# The emulator of this host's architecture, for microVMs.
case $(uname -m) in
x86_64) qemu_package=qemu-system-x86 qemu=qemu-system-x86_64 ;;
aarch64) qemu_package=qemu-system-arm qemu=qemu-system-aarch64 ;;
*) echo "Atoll does not know this host's architecture: $(uname -m)" >&2; exit 1 ;;
esac

need mmdebstrap -- has mmdebstrap
need debian-archive-keyring -- knows_debian_13
need erofs-utils -- has mkfs.erofs
need e2fsprogs -- has mkfs.ext4
need "$qemu_package" -- has "$qemu"
need qemu-utils -- has qemu-img
need ca-certificates -- test -s /etc/ssl/certs/ca-certificates.crt
need curl -- has curl
need jq -- has jq
need git -- has git
need iproute2 -- has ip
need nodejs npm -- node_is_new
need python3 python3-venv -- python_is_new

[ ${#missing[@]} -gt 0 ] || exit 0
echo "== install ${missing[*]}"
if ! has apt-get >/dev/null; then
	echo "this host has no apt-get: install the programs of these Debian packages yourself: ${missing[*]}" >&2
	exit 1
fi
if [ "$(id -u)" != 0 ]; then
	echo "packages are missing: run as root: apt-get install ${missing[*]}" >&2
	exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -q -y --no-install-recommends "${missing[@]}" </dev/null

if ! node_is_new; then
	echo "Node $(node --version 2>/dev/null || echo "is missing, version") is too old: install Node 20 or later, with npm" >&2
	exit 1
fi
