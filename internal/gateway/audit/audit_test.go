package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// kept is a File under test.
type kept struct {
	*File
	t    *testing.T
	logs bytes.Buffer // read it after Close
}

func keep(t *testing.T, limit int64) *kept {
	t.Helper()
	k := &kept{t: t}
	dir := t.TempDir()
	k.File = NewFile(FileConfig{
		Path: filepath.Join(dir, "audit"), Older: filepath.Join(dir, "audit.1"), Max: limit, Sandbox: "sbx",
		Log: slog.New(slog.NewTextHandler(&k.logs, nil)),
	})
	if err := k.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() })
	return k
}

// records reads everything that is in the files.
func (k *kept) records() (out []Record) {
	k.t.Helper()
	r, err := OpenReader(k.cfg.Path, k.cfg.Older, false)
	if err != nil {
		k.t.Fatal(err)
	}
	defer r.Close()
	for {
		line, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		var rec Record
		if err != nil || json.Unmarshal(line, &rec) != nil {
			k.t.Fatalf("%q: %v", line, err)
		}
		out = append(out, rec)
	}
}

func refused(name string) Record {
	return Record{Kind: Name, Name: name, Protocol: "dns", Decision: Refuse, Rule: "r"}
}

func connected(port int) Record {
	return Record{
		Kind: Connection, Addr: netip.MustParseAddr("192.0.2.1"), Port: uint16(port), Protocol: "tcp",
		Sent: 10, Received: 20, Millis: int64(port), Decision: Allow, Rule: "r",
	}
}

func TestRecordsAreInTheFileSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(t, 1<<20)
		began := time.Now()
		k.Add(connected(1))
		k.Add(refused("a.test"))
		time.Sleep(2 * flushEvery)
		want := []Record{connected(1), refused("a.test")}
		for i := range want {
			want[i].Sandbox, want[i].Time = "sbx", stamp(began)
		}
		if diff := cmp.Diff(want, k.records(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Error(diff)
		}
		if info, err := os.Stat(k.cfg.Path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v %v", info.Mode(), err)
		}
		if err := errors.Join(k.Close(), k.Close()); err != nil {
			t.Error(err)
		}
		k.Add(connected(2))
		if k.Open() == nil {
			t.Error("opened again")
		}
		if n := len(k.records()); n != 2 {
			t.Errorf("%d records after the end", n)
		}
	})
}

func TestNothingIsKeptBeforeItIsOpen(t *testing.T) {
	f := NewFile(FileConfig{Path: filepath.Join(t.TempDir(), "audit")})
	f.Add(connected(1))
	if err := f.Close(); err != nil || f.queue != nil {
		t.Errorf("%v, %d records", err, len(f.queue))
	}
	if _, err := os.Stat(f.cfg.Path); err == nil {
		t.Error("there is a file")
	}
	f = NewFile(FileConfig{Path: filepath.Join(t.TempDir(), "missing", "audit")})
	if err := f.Open(); err == nil {
		t.Error("opened without a directory")
	}
}

// A retry in a loop is one record a second, whatever is between the retries.
func TestRepetitionsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(t, 1<<20)
		for range 1000 {
			k.Add(refused("a.test"))
			k.Add(refused("b.test"))
			k.Add(connected(1))
			time.Sleep(10 * time.Millisecond)
		}
		_ = k.Close()
		counts, lines, bytes := map[string]int{}, 0, int64(0)
		for _, r := range k.records() {
			counts[r.Name] += r.events()
			bytes += r.Sent
			lines++
		}
		if diff := cmp.Diff(map[string]int{"a.test": 1000, "b.test": 1000, "": 1000}, counts); diff != "" {
			t.Error(diff)
		}
		if lines > 3*12 || bytes != 1000*10 {
			t.Errorf("%d lines with %d bytes", lines, bytes)
		}
	})
}

func TestOneRepetitionIsARecordLikeAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(t, 1<<20)
		k.Add(connected(1))
		k.Add(connected(1))
		time.Sleep(repeatFor + 2*flushEvery)
		got := k.records()
		if len(got) != 2 || got[1].Count != 0 || got[1].Sent != 10 {
			t.Errorf("%+v", got)
		}
		time.Sleep(repeatFor + 2*flushEvery)
		k.mu.Lock()
		defer k.mu.Unlock()
		if len(k.repeats) != 0 {
			t.Error("what was repeated is never forgotten")
		}
	})
}

// Long records are kept less often, so that what is written in a second is
// bounded, too.
func TestFloodsOfLongRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(t, 64<<20)
		for i := range 10_000 {
			r := connected(i)
			r.Method, r.Path = fmt.Sprint(i), strings.Repeat("\x01", maxPath)
			k.Add(r)
			if i%1000 == 0 {
				time.Sleep(time.Second)
			}
		}
		_ = k.Close()
		info, err := os.Stat(k.cfg.Path)
		if most := int64((2000 + 50*12) * perToken); err != nil || info.Size() > most || info.Size() < most/2 {
			t.Errorf("%d bytes, %v", info.Size(), err)
		}
	})
}

// A flood is dropped and counted; it hides nothing of another sort.
func TestFloods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(t, 4<<20)
		const flood = 100_000
		for i := range flood {
			k.Add(refused(fmt.Sprint(i, ".test")))
			if i%100 == 0 {
				time.Sleep(flushEvery)
			}
		}
		k.Add(connected(7))
		withSecret := connected(8)
		withSecret.Secrets = []string{"KEY"}
		k.Add(withSecret)
		_ = k.Close()
		events, lines, others := 0, 0, 0
		for _, r := range k.records() {
			switch {
			case r.Port != 0:
				others++
			case r.Kind == Lost && r.Note != fmt.Sprintf("%d records were dropped", r.Count), r.Decision != Refuse:
				t.Errorf("%+v", r)
			default:
				events += r.events()
				lines++
			}
		}
		if events != flood || lines > 2000+100*10+100 || others != 2 {
			t.Errorf("%d events in %d lines, %d other ones", events, lines, others)
		}
	})
}

// What a flood repeated comes due after its end, all at once. It leaves room
// for what is new.
func TestWhatComesAfterAFloodIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(t, 4<<20)
		for i := range 3000 { // nothing is left of the budget
			for range 2 { // the second one is a repetition
				k.Add(connected(i + 1))
			}
			if i%1000 == 999 {
				time.Sleep(flushEvery)
			}
		}
		time.Sleep(repeatFor - 3*flushEvery + 10*time.Millisecond) // they have just come due
		k.Add(connected(7_777))
		_ = k.Close()
		for _, r := range k.records() {
			if r.Port == 7_777 {
				return
			}
		}
		t.Errorf("it is not among %d records", len(k.records()))
	})
}

func TestWaitingRecordsAreBounded(t *testing.T) {
	f := NewFile(FileConfig{})
	f.open = true // nobody writes
	for i := range maxWaiting + 500 {
		f.Add(connected(i))
	}
	if len(f.queue) != maxWaiting || f.budgets.allowed.lost != 500 || len(f.repeats) > maxRepeated {
		t.Errorf("%d waiting, %d lost, %d remembered", len(f.queue), f.budgets.allowed.lost, len(f.repeats))
	}
	if f.Add(refused("a.test")); len(f.queue) != maxWaiting+1 {
		t.Error("what waits makes no room for records of another sort")
	}
}

func TestFilesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 4096
		k := keep(t, limit)
		for i := range 500 {
			k.Add(connected(i + 1))
			time.Sleep(50 * time.Millisecond)
		}
		_ = k.Close()
		for _, path := range []string{k.cfg.Path, k.cfg.Older} {
			if info, err := os.Stat(path); err != nil || info.Size() > limit || info.Size() == 0 || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v %v", path, info, err)
			}
		}
		got := k.records()
		for i, r := range got {
			if want := uint16(500 - len(got) + i + 1); r.Port != want {
				t.Fatalf("record %d is of port %d, want %d", i, r.Port, want)
			}
		}
	})
}

func TestTextIsBoundedAndValid(t *testing.T) {
	r := bounded(Record{
		Name: strings.Repeat("é", 300), Method: "GET\xff\xfe", Path: strings.Repeat("\x00", 5000),
		Note: strings.Repeat("n", 5000), Secrets: make([]string, 1000),
	}, time.Now())
	line, err := json.Marshal(r)
	if err != nil || len(line) > maxLine || r.Method != "GET?" || len(r.Secrets) != maxSecrets {
		t.Errorf("%d bytes, method %q, %d secrets, %v", len(line), r.Method, len(r.Secrets), err)
	}
	for text, most := range map[string]int{r.Name: maxName, r.Path: maxPath, r.Note: maxNote} {
		if len(text) > most || !utf8.ValidString(text) {
			t.Errorf("%d bytes of at most %d: %q", len(text), most, text)
		}
	}
}

// A disk that takes nothing fails nobody; what it did not take is counted.
func TestDiskThatTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(t, 1)
		k.Add(connected(1)) // into the empty file
		time.Sleep(2 * flushEvery)
		dir := filepath.Dir(k.cfg.Path)
		if err := os.RemoveAll(dir); err != nil { // the rotation fails
			t.Fatal(err)
		}
		for i := range 30 {
			k.Add(connected(i + 2))
			time.Sleep(time.Second)
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(k.cfg.Path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * reportEvery)
		_ = k.Close()
		got := k.records()
		if len(got) != 1 || got[0].Kind != Lost || got[0].Count != 30 {
			t.Errorf("%+v", got)
		}
		if n := strings.Count(k.logs.String(), "\n"); n != 1 {
			t.Errorf("%d lines of log: %s", n, k.logs.String())
		}
	})
}

func TestManyAddAtOnce(t *testing.T) {
	k := keep(t, 1<<20)
	var work sync.WaitGroup
	for i := range 8 {
		work.Go(func() {
			for range 500 {
				k.Add(connected(i + 1))
			}
		})
	}
	work.Wait()
	_ = k.Close()
	events := 0
	for _, r := range k.records() {
		events += r.events()
	}
	if events != 4000 {
		t.Errorf("%d events", events)
	}
}
