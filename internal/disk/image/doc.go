// Package image builds, finds and checks the immutable root file systems that
// machines boot from.
//
// An image is two files in one directory: NAME.erofs, an uncompressed EROFS
// file system that the driver maps into memory, and NAME.json, its Metadata.
// An image exists when both do and agree; Open is the only way to one.
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
