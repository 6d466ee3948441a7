package fetch

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// redirecting answers /to/<status> with a redirect to /end, which describes
// the request that arrives.
func redirecting(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	var status int
	if n, _ := fmt.Sscanf(r.URL.Path, "/to/%d", &status); n == 1 {
		w.Header().Set("Location", "../end")
		w.WriteHeader(status)
		return
	}
	fmt.Fprintf(w, "%s %q %s", r.Method, b, r.Header.Get("Content-Type"))
}

func TestRedirects(t *testing.T) {
	url := serve(t, redirecting)
	for _, tc := range []struct {
		status int
		method string
		want   string
	}{
		{301, "POST", `GET "" `}, {302, "POST", `GET "" `}, {303, "POST", `GET "" `},
		{303, "PUT", `GET "" `}, {301, "PUT", `PUT "data" text/x`},
		{307, "POST", `POST "data" text/x`}, {308, "PATCH", `PATCH "data" text/x`},
	} {
		_, got := get(t, newClient(t), Request{
			URL: fmt.Sprintf("%s/to/%d", url, tc.status), Method: tc.method, Body: body("data"),
			Headers: [][2]string{{"content-type", "text/x"}},
		})
		if got != tc.want {
			t.Errorf("%d %s: got %q, want %q", tc.status, tc.method, got, tc.want)
		}
	}
	res, _ := get(t, newClient(t), Request{URL: url + "/to/302", Manual: true})
	if res.Status != 302 || values(res, "location")[0] != "../end" {
		t.Errorf("manual: %d %v", res.Status, res.Headers)
	}
	if _, got := get(t, newClient(t), Request{URL: url + "/to/303", Method: "GET"}); !strings.HasPrefix(got, "GET") {
		t.Errorf("GET 303: %q", got)
	}
}

func TestRedirectLimits(t *testing.T) {
	hops := 0
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		hops++
		switch r.URL.Path {
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/file":
			w.Header().Set("Location", "file:///etc/passwd")
			w.WriteHeader(302)
		case "/long":
			io.Copy(io.Discard, r.Body)
			http.Redirect(w, r, "/end", http.StatusTemporaryRedirect)
		case "/nowhere":
			w.WriteHeader(302)
		}
	})
	for _, path := range []string{"/loop", "/file"} {
		if _, err := newClient(t).Do(t.Context(), Request{URL: url + path}); !isError(err) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if hops != maxRedirects+2 {
		t.Errorf("%d requests", hops)
	}
	long := body(strings.Repeat("x", 2*maxReplay))
	if _, err := newClient(t).Do(t.Context(), Request{URL: url + "/long", Method: "POST", Body: long}); !isError(err) {
		t.Errorf("long: %v", err)
	}
	if res, _ := get(t, newClient(t), Request{URL: url + "/nowhere"}); res.Status != 302 {
		t.Errorf("redirect without Location: %d", res.Status)
	}
}

func isError(err error) bool {
	_, ok := errors.AsType[*Error](err)
	return ok
}

func TestCredentialsStayWithTheirOrigin(t *testing.T) {
	seen := func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get("Authorization"), r.Header.Get("Cookie"), r.Header.Get("X-Other"))
	}
	other := serve(t, seen)
	var url string
	url = serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/other":
			http.Redirect(w, r, other, http.StatusFound)
		case "/same":
			http.Redirect(w, r, url+"/", http.StatusFound)
		default:
			seen(w, r)
		}
	})
	headers := [][2]string{{"authorization", "A"}, {"cookie", "C"}, {"x-other", "O"}}
	if _, got := get(t, newClient(t), Request{URL: url + "/same", Headers: headers}); got != "ACO" {
		t.Errorf("same origin: %q", got)
	}
	if _, got := get(t, newClient(t), Request{URL: url + "/other", Headers: headers}); got != "O" {
		t.Errorf("other origin: %q", got)
	}
}
