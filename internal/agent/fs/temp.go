package fs

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/api"
)

// tempAttempts bounds the tries for a free name.
const tempAttempts = 100

func (s *Service) makeTempDir(ctx context.Context, p api.MakeTempParams) (string, error) {
	return s.makeTemp(ctx, "maketempdir", p, func(path string) error { return unix.Mkdir(path, 0o700) })
}

func (s *Service) makeTempFile(ctx context.Context, p api.MakeTempParams) (string, error) {
	return s.makeTemp(ctx, "maketempfile", p, func(path string) error {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		return f.Close()
	})
}

// makeTemp finds a free name and returns its absolute path.
func (s *Service) makeTemp(ctx context.Context, op string, p api.MakeTempParams, make func(string) error) (string, error) {
	dir, prefix, suffix := s.cfg.TempDir, "", ""
	if o := p.Options; o != nil {
		dir, prefix, suffix = either(o.Dir, dir), either(o.Prefix, ""), either(o.Suffix, "")
	}
	if err := checkTempPart("prefix", prefix); err != nil {
		return "", err
	}
	if err := checkTempPart("suffix", suffix); err != nil {
		return "", err
	}
	var path string
	err := s.pool.do(ctx, func() (err error) {
		for range tempAttempts {
			path = filepath.Join(s.resolve(dir), prefix+randomName()+suffix)
			if err = make(path); !is(err, unix.EEXIST) {
				return err
			}
		}
		return err
	})
	return path, failed(err, op, filepath.Join(dir, prefix+"*"+suffix))
}

func randomName() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// checkTempPart refuses what Deno refuses: control characters, and those that
// are special in file names on some system.
func checkTempPart(name, part string) error {
	if i := strings.IndexFunc(part, unicode.IsControl); i >= 0 {
		return badOption("Invalid control character in %s: %q", name, part)
	}
	if i := strings.IndexAny(part, `<>:"/\|?*`); i >= 0 {
		return badOption("Invalid character in %s: %q", name, part[i:i+1])
	}
	return nil
}

func either(s *string, otherwise string) string {
	if s == nil {
		return otherwise
	}
	return *s
}
