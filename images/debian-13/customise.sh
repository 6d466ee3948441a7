#!/bin/sh
# Turns a fresh Debian root into the root of a sandbox.
#
# Run on the host, as root, by mmdebstrap with /proc, /sys and /dev mounted in
# the new root: customise.sh ROOT. Beside this script lies "local", a tree for
# /usr/local; beside it go "versions" and "packages", what the image really has.
set -eu

root=$1
here=$(cd "$(dirname "$0")" && pwd)

# Commands inside see nothing of the host's environment: its proxies and
# certificate settings are not the image's. What they leave in their home goes
# with it.
home=$(mktemp -d "$root/tmp/home.XXXXXX")
inside() {
	env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
		HOME="/tmp/${home##*/}" LC_ALL=C.UTF-8 chroot "$root" "$@"
}

# The user. Everything the SDK starts runs as app, which may become root.
inside useradd --uid 1000 --user-group --create-home --home-dir /home/app --shell /bin/bash app
printf 'app ALL=(ALL:ALL) NOPASSWD: ALL\n' >"$root/etc/sudoers.d/app"
chmod 0440 "$root/etc/sudoers.d/app"
inside visudo --check --quiet

# The runtimes.
cp -R "$here/local/." "$root/usr/local/"
ln -s ../lib/node_modules/npm/bin/npm-cli.js "$root/usr/local/bin/npm"
ln -s ../lib/node_modules/npm/bin/npx-cli.js "$root/usr/local/bin/npx"

# A sandbox is its own virtual environment: pip may install into it.
rm -f "$root"/usr/lib/python3*/EXTERNALLY-MANAGED

printf 'LANG=C.UTF-8\n' >"$root/etc/default/locale"

# Where the agent is mounted.
mkdir -m 0755 "$root/.atoll"

# What the image has, as it says itself.
inside sh -eu -c '
	first() { sed -n "1s/^[^0-9]*\([0-9][0-9.]*\).*/\1/p"; }
	echo "debian $(cat /etc/debian_version)"
	echo "deno $(deno --version | first)"
	echo "node $(node --version | first)"
	echo "npm $(npm --version | first)"
	echo "python $(python3 --version | first)"
	echo "pip $(python3 -m pip --version | first)"
	echo "bash $(bash --version | first)"
	echo "git $(git --version | first)"
	echo "gcc $(gcc -dumpfullversion | first)"
	echo "openssl $(openssl version | first)"
' >"$here/versions"
inside dpkg-query --show --showformat='${Package} ${Version}\n' >"$here/packages"

# Leftovers of the build. Not all of /tmp: mmdebstrap keeps its own apt settings
# there until it cleans up, and would clean the host's package lists without
# them.
rm -rf "$home"
rm -f "$root"/etc/ssh/ssh_host_* "$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old
rm -rf "$root"/var/cache/ldconfig
find "$root/var/log" -type f -delete
