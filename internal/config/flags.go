package config

import "github.com/spf13/pflag"

// BindFlags adds one flag per setting to fs and returns the map, to be used
// as Sources.Flags, that holds those that were given once fs was parsed. A
// flag that is given several times adds up, as the lists need it; for single
// values the last one counts.
func BindFlags(fs *pflag.FlagSet) map[string]string {
	given := map[string]string{}
	for _, s := range Settings() {
		fs.Var(&flag{setting: s, given: given}, s.Flag(), s.Doc)
		f := fs.Lookup(s.Flag())
		f.DefValue = s.Default()
		if f.DefValue == "no" {
			f.NoOptDefVal = "yes" // the bare flag says yes
		}
	}
	return given
}

// flag records the text of one flag; it is checked in Load with the rest, but
// a value that can't be read at all is refused at once.
type flag struct {
	setting Setting
	given   map[string]string
}

func (f *flag) Set(text string) error {
	scratch := Default()
	v := f.setting.bind(&scratch)
	if err := v.Set(text); err != nil {
		return err
	}
	if before, again := f.given[f.setting.Key]; again && f.isList() {
		text = before + "," + text
	}
	f.given[f.setting.Key] = text
	return nil
}

func (f *flag) isList() bool { return f.Type() == "list" }

func (f *flag) String() string { return f.given[f.setting.Key] }

// Type is the word that the help text shows for the value.
func (f *flag) Type() string {
	switch f.setting.Key {
	case "region", "net_exceptions", "resolvers", "net_ceiling":
		return "list"
	}
	return "value"
}
