package secret

import (
	"encoding/json"
	"net/url"
	"strings"
)

// jsonText writes a value as part of a JSON string.
func jsonText(s string) string {
	var out strings.Builder
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string always can be
	return strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(out.String()), `"`), `"`)
}

func formText(s string) string { return url.QueryEscape(s) }

var markup = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&#34;", "'", "&#39;", "\t", "&#9;")

// markupText writes a value as text or attribute of XML.
func markupText(s string) string { return markup.Replace(s) }
