"""An addon for mitmproxy that puts a secret in a placeholder's place.

It acts on the head of a request, which it sees whether or not mitmproxy
streams the body.
"""

from mitmproxy import ctx


class ReplaceHeader:
    def load(self, loader):
        loader.add_option("placeholder", str, "", "what stands in the header")
        loader.add_option("secret", str, "", "what is sent in its place")

    def requestheaders(self, flow):
        value = flow.request.headers.get("authorization", "")
        if ctx.options.placeholder in value:
            flow.request.headers["authorization"] = value.replace(ctx.options.placeholder, ctx.options.secret)


addons = [ReplaceHeader()]
