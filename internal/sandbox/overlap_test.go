package sandbox

import "testing"

func TestOverlap(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"example.com", "example.com:443", true},
		{"example.com:80", "example.com:443", false},
		{"example.com", "*.example.com", false},
		{"*.example.com", "*.a.example.com:443", true},
		{"*.example.com:443", "a.example.com", true},
		{"*.a.example.com", "*.b.example.com", false},
		{"192.0.2.7:80", "192.0.2.0/24:80", true},
		{"192.0.2.7:80", "192.0.2.0/24:81", false},
		{"2001:db8::1", "[2001:db8::]/32:443", true},
		{"[2001:db8::1]:80", "[2001:db8::]/32:443", false},
		{"[2001:db8::1]:443", "2001:db8::/32", true},
		{"192.0.2.7", "example.com", false},
	} {
		for _, pair := range [][2]string{{c.a, c.b}, {c.b, c.a}} {
			got, err := overlap([]string{pair[0]}, []string{pair[1]})
			if err != nil || got != c.want {
				t.Errorf("%v: %v %v", pair, got, err)
			}
		}
	}
}
