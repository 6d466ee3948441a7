package api

// This file holds the checks of parameters that go beyond their types.

// codeExtensions are the kinds of code that spawnDeno accepts.
var codeExtensions = map[string]bool{
	"js": true, "cjs": true, "mjs": true, "ts": true, "cts": true, "mts": true, "jsx": true, "tsx": true,
}

// Validate finds what is wrong with the choice of program: exactly one of
// Entrypoint and Code, the extension one of Deno's.
func (p *SpawnDenoParams) Validate() []ValidationIssue {
	switch {
	case (p.Entrypoint == nil) == (p.Code == nil):
		return invalid("invalid_union", "entrypoint or code", nil, "give either entrypoint or code")
	case p.Entrypoint != nil && *p.Entrypoint == "":
		return invalid("too_small", "path", []string{"entrypoint"}, "entrypoint must not be empty")
	case p.Extension != nil && !codeExtensions[*p.Extension]:
		return invalid("invalid_value", "extension", []string{"extension"}, "extension must be one of js, cjs, mjs, ts, cts, mts, jsx, tsx")
	}
	return nil
}

// Validate checks the redirect mode.
func (p *FetchParams) Validate() []ValidationIssue {
	switch p.Redirect {
	case "", "follow", "manual":
		return nil
	}
	return invalid("invalid_value", "redirect mode", []string{"redirect"}, "redirect must be follow or manual")
}

func invalid(code, expected string, path []string, why string) []ValidationIssue {
	if path == nil {
		path = []string{}
	}
	return []ValidationIssue{{Code: code, Expected: expected, Path: path, Message: "Invalid input: " + why}}
}
