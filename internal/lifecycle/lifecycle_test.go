package lifecycle

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestUndoRunsNewestFirstAndGoesOn(t *testing.T) {
	var got []string
	var u Undo
	add := func(name string, err error) {
		u.Add(name, func(context.Context) error { got = append(got, name); return err })
	}
	boom := errors.New("boom")
	add("first", nil)
	add("second", boom)
	add("third", nil)
	err := u.Run(t.Context())
	if !errors.Is(err, boom) || !strings.Contains(err.Error(), "second: boom") {
		t.Errorf("error = %v, want the failed step by name", err)
	}
	if diff := cmp.Diff([]string{"third", "second", "first"}, got); diff != "" {
		t.Error(diff)
	}
	if err := u.Run(t.Context()); err != nil || len(got) != 3 {
		t.Errorf("second run did something: %v %v", got, err)
	}
}

func TestUndoForget(t *testing.T) {
	var u Undo
	u.Add("never", func(context.Context) error { t.Error("ran"); return nil })
	u.Forget()
	if err := u.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestGroupStopsInReverseAndAfterAFailedStart(t *testing.T) {
	var got []string
	service := func(name string, fail error) Service {
		return Service{
			Name:  name,
			Start: func(context.Context) error { got = append(got, "+"+name); return fail },
			Stop: func(ctx context.Context) error {
				if _, ok := ctx.Deadline(); !ok {
					t.Errorf("%s stops without a deadline", name)
				}
				got = append(got, "-"+name)
				return nil
			},
		}
	}
	boom := errors.New("boom")
	g := Group{Log: slog.New(slog.DiscardHandler), StopTimeout: time.Second}
	err := g.Start(t.Context(), service("a", nil), service("b", nil), service("c", boom), service("d", nil))
	if !errors.Is(err, boom) || !strings.Contains(err.Error(), "start c") {
		t.Errorf("error = %v", err)
	}
	if diff := cmp.Diff([]string{"+a", "+b", "+c", "-b", "-a"}, got); diff != "" {
		t.Error(diff)
	}
}
