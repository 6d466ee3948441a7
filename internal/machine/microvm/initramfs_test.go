package microvm

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// packed is a file as an archive has it.
type packed struct {
	Name         string
	Mode         uint64
	Major, Minor uint64
	Content      string
}

// unpack reads archives in the "newc" format, one after the other, as the
// kernel does: between them there may be zeros.
func unpack(raw []byte) (files []packed, err error) {
	for at := 0; at < len(raw); {
		if raw[at] == 0 {
			at++
			continue
		}
		if len(raw)-at < 110 || string(raw[at:at+6]) != "070701" || at%4 != 0 {
			return nil, fmt.Errorf("no header at %d", at)
		}
		var field [13]uint64
		for i := range field {
			from := at + 6 + 8*i
			if field[i], err = strconv.ParseUint(string(raw[from:from+8]), 16, 32); err != nil {
				return nil, err
			}
		}
		size, nameSize := int(field[6]), int(field[11])
		name, ok := strings.CutSuffix(string(raw[at+110:at+110+nameSize]), "\x00")
		if !ok {
			return nil, fmt.Errorf("a name without an end at %d", at)
		}
		body := (at + 110 + nameSize + 3) &^ 3
		if name != "TRAILER!!!" {
			files = append(files, packed{name, field[1], field[9], field[10], string(raw[body : body+size])})
		}
		at = (body + size + 3) &^ 3
	}
	return files, nil
}

func TestInitramfsHoldsAgentAndModules(t *testing.T) {
	dir := t.TempDir()
	var modules bytes.Buffer
	more := &archiver{out: &modules}
	more.add(entry{name: "modules", mode: modeDir})
	more.add(entry{name: "modules/01-x.ko", mode: modeFile, size: 3, content: strings.NewReader("mod")})
	more.add(entry{name: "TRAILER!!!"})
	for size := range 5 { // every way to pad
		agent := strings.Repeat("a", size+1)
		for name, content := range map[string]string{"agent": agent, "modules": modules.String()} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		path := filepath.Join(dir, "initramfs")
		if err := writeInitramfs(path, filepath.Join(dir, "agent"), filepath.Join(dir, "modules")); err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := unpack(raw)
		if err != nil {
			t.Fatal(err)
		}
		want := []packed{
			{"dev", 0o040755, 0, 0, ""}, {"dev/console", 0o020600, 5, 1, ""}, {"init", 0o100755, 0, 0, agent},
			{"modules", 0o040755, 0, 0, ""}, {"modules/01-x.ko", 0o100755, 0, 0, "mod"},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("agent of %d bytes (-want +got):\n%s", len(agent), diff)
		}
	}
	if err := writeInitramfs(filepath.Join(dir, "other"), filepath.Join(dir, "agent"), filepath.Join(dir, "absent")); err == nil {
		t.Error("written without modules")
	}
}
