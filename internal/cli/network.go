package cli

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/atollhq/atoll/api"
)

// networkOptions are the flags that describe a new sandbox's network.
type networkOptions struct {
	allow       []string
	secrets     []string
	secretFiles []string
}

func (o *networkOptions) addFlags(f *pflag.FlagSet) {
	addAllowNet(f, &o.allow)
	f.StringArrayVar(&o.secrets, "secret", nil, "secret for some hosts, as `NAME@host[,host]`; its value is this one's variable NAME, or --secret-file's; repeatable")
	f.StringArrayVar(&o.secretFiles, "secret-file", nil, "file with the value of a --secret, as `NAME=path`; repeatable")
}

func addAllowNet(f *pflag.FlagSet, entries *[]string) {
	f.StringArrayVar(entries, "allow-net", nil, "`host` that may be reached, and no others, like \"*.example.com:443\"; repeatable; \"none\" allows nothing")
}

// allowNet is the list that --allow-net asks for; nil is none.
func allowNet(entries []string) (*[]string, error) {
	switch {
	case len(entries) == 0:
		return nil, nil
	case !slices.Contains(entries, "none"):
		return &entries, nil
	case len(entries) > 1:
		return nil, errors.New(`--allow-net: "none" stands alone`)
	}
	return &[]string{}, nil
}

// read returns the secrets. Their values are never on the command line, where
// all users of this machine could see them; neither are they in an error.
func (o *networkOptions) read(getenv func(string) string) (map[string]api.Secret, error) {
	files, err := parsePairs("--secret-file", o.secretFiles, nil)
	if err != nil {
		return nil, err
	}
	out := map[string]api.Secret{}
	for _, text := range o.secrets {
		name, hosts, found := strings.Cut(text, "@")
		if !found || name == "" || hosts == "" || strings.Contains(name, "=") {
			return nil, errors.New("--secret: write NAME@host[,host]; the value comes from the variable NAME or from --secret-file")
		}
		if _, again := out[name]; again {
			return nil, fmt.Errorf("--secret: %s is given twice: write all its hosts behind one NAME@", name)
		}
		value, err := secretValue(name, files[name], getenv)
		if err != nil {
			return nil, err
		}
		delete(files, name)
		out[name] = api.Secret{Hosts: strings.Split(hosts, ","), Value: value}
	}
	for name := range files {
		return nil, fmt.Errorf("--secret-file: there is no --secret %s@…", name)
	}
	return out, nil
}

const maxSecretFile = 64 << 10 // bytes

func secretValue(name, path string, getenv func(string) string) (string, error) {
	value := getenv(name)
	if path != "" {
		file, err := os.Open(path)
		if err != nil {
			return "", fmt.Errorf("--secret-file: %w", err)
		}
		defer file.Close()
		if value, err = readBounded(file, maxSecretFile); err != nil {
			return "", fmt.Errorf("--secret-file: read %s: %w", path, err)
		}
		value = strings.TrimRight(value, "\r\n")
	}
	if value == "" {
		return "", fmt.Errorf("--secret: there is no value for %s: set the variable, or use --secret-file %s=path", name, name)
	}
	return value, nil
}
