package deno

import (
	"strings"

	"github.com/atollhq/atoll/api"
)

// maxInline is how many bytes of code fit on a command line: the kernel
// allows 128 KiB per argument (MAX_ARG_STRLEN, execve(2)).
const maxInline = 96 << 10

// runArgs is the command line for an entrypoint. preload may be "".
func runArgs(p *api.SpawnDenoParams, preload string) []string {
	args := []string{"run", "-A"}
	if p.Watch != nil && p.Watch.Enabled {
		args = append(args, watchFlag(p.Watch.Paths), "--no-clear-screen")
	}
	if preload != "" {
		args = append(args, "--preload", preload)
	}
	args = append(args, positional(*p.Entrypoint))
	return append(args, p.ScriptArgs...)
}

// watchFlag lists the extra paths as Deno wants them: comma-separated, a
// comma within a path doubled.
func watchFlag(paths []string) string {
	if len(paths) == 0 {
		return "--watch"
	}
	escaped := make([]string, len(paths))
	for i, p := range paths {
		escaped[i] = strings.ReplaceAll(p, ",", ",,")
	}
	return "--watch=" + strings.Join(escaped, ",")
}

// positional keeps a path that starts with a dash from being read as a flag.
// Deno reads a bare "--" differently from most programs, so it is no help.
func positional(path string) string {
	if strings.HasPrefix(path, "-") {
		return "./" + path
	}
	return path
}

// evalArgs is the command line for code that fits on it.
func evalArgs(code, extension string, scriptArgs []string) []string {
	if strings.HasPrefix(code, "-") {
		code = " " + code
	}
	return append([]string{"eval", "--ext=" + extension, code}, scriptArgs...)
}

// replArgs is the command line of a session.
func replArgs(scriptArgs []string) []string {
	return append([]string{"repl", "-A", "--json", "--"}, scriptArgs...)
}
