#!/bin/sh
# Turns a fresh Debian root into the root of a sandbox.
#
# Run on the host, as root, by mmdebstrap with /proc, /sys and /dev mounted in
# the new root: customise.sh ROOT. Beside this script lies "local", a tree for
# /usr/local; beside it go "versions" and "packages", what the image really has,
# and what a microVM boots with: "vmlinuz", and "modules", files whose names'
# order is the order of loading.
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

# The kernel of microVMs, whose modules any of them may need, and gVisor none.
# It is unpacked, not installed: the package would bring what builds an
# initramfs, and put kernels where nobody boots them from. mmdebstrap's own apt
# fetches it, so mirror and signature checks are those of all other packages.
packager() { APT_CONFIG=$MMDEBSTRAP_APT_CONFIG "$@"; }
kernel=$(packager apt-cache show --no-all-versions "linux-image-cloud-$(inside dpkg --print-architecture)" |
	sed -n 's/^Depends:.*\(linux-image-[^ ,]*\) (= \([^)]*\)).*/\1=\2/p')
mkdir "$here/kernel"
(cd "$here/kernel" && packager apt-get --quiet download "${kernel:?is not known}")
dpkg-deb --extract "$here"/kernel/*.deb "$here/kernel"
linux=${kernel%%=*}
linux=${linux#linux-image-}
mv "$here/kernel/boot/vmlinuz-$linux" "$here/vmlinuz"
cp -a "$here/kernel/usr/." "$root/usr/"
rm -r "$here/kernel"
inside depmod "$linux"

# The modules that a microVM needs until it has a root to load others from:
# its devices and file systems, with all that they depend on. Those that are
# part of the kernel itself are left out.
for module in virtio_mmio virtio_blk virtio_net virtio_console virtio_rng erofs ext4 overlay; do
	inside modprobe --set-version "$linux" --show-depends "$module"
done >"$here/needed"
mkdir "$here/modules"
awk '$1 == "insmod" && !seen[$2]++ { printf "%02d %s\n", n++, $2 }' "$here/needed" | while read -r number module; do
	name=${module##*/}
	inside xz --decompress --stdout "$module" >"$here/modules/$number-${name%.xz}"
done

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
echo "linux $linux" >>"$here/versions"
inside dpkg-query --show --showformat='${Package} ${Version}\n' >"$here/packages"
echo "${kernel%%=*} ${kernel#*=}" >>"$here/packages"

# Leftovers of the build. Not all of /tmp: mmdebstrap keeps its own apt settings
# there until it cleans up, and would clean the host's package lists without
# them.
rm -rf "$home"
rm -f "$root"/etc/ssh/ssh_host_* "$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old
rm -rf "$root"/var/cache/ldconfig
find "$root/var/log" -type f -delete
