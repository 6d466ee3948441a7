// Package image builds, finds and checks the immutable root file systems that
// machines boot from.
//
// An image is four files in one directory:
//
//   - NAME.erofs, the root: an uncompressed EROFS file system, which a driver
//     can map into memory;
//   - NAME.vmlinuz, the kernel that microVMs boot, as Debian's cloud kernel
//     has it;
//   - NAME.modules, what this kernel needs before it can load modules from the
//     root: an uncompressed cpio archive ("newc") of modules/NN-NAME.ko, to be
//     loaded in the order of their names. One that finds nothing to do says
//     ENODEV, as crc32c-intel does on a CPU without that instruction. It is
//     an initramfs, or one part of it, as the kernel unpacks archives that
//     follow one another;
//   - NAME.json, the Metadata.
//
// An image exists when all do and agree; Open is the only way to one. The root
// has all other modules of the kernel, compressed, below /usr/lib/modules.
//
// Terms. A recipe is everything that decides an image's content: the Debian
// suite and packages, the script that customises the root, and the pinned
// runtimes (Deno, Node, npm). Its digest is the image's "inputs": Build does
// nothing when the image in place was made from the same ones.
//
// A build works in a private directory beside the image, under a lock per
// name, and moves the finished files into place at its end, the metadata last.
// Whatever stops it, even SIGKILL, leaves either the old image, the new one or
// none, never half of one: the tools it starts die with it, together with
// their mounts, and the next build removes the directory.
//
// All functions may be called at the same time, from several processes.
package image
