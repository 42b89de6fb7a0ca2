"""`/docs`: Swagger UI of the endpoint's contract, without files from the network.

BentoML ships Swagger UI's files (Apache License 2.0) but serves them on its own routes, which ours precede.
"""

from functools import lru_cache

from services.compat import bentoml_swagger_ui
from services.http.exchange import Headers
from truecourse.errors import RequestError

_SHIPPED = {"/docs/swagger-ui.css": b"text/css", "/docs/swagger-ui-bundle.js": b"text/javascript"}
_PAGE = b"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Predictions: API</title><link rel="icon" href="data:,"><link rel="stylesheet" href="/docs/swagger-ui.css"></head>
<body><main id="swagger-ui"></main><script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body></html>
"""
_START = b"""// Load the contract, with a key if the endpoint requires one; the key is kept until the page is closed.
let key = "";
const withKey = (request) => { if (key) request.headers = { ...request.headers, "X-API-Key": key }; return request; };
async function start() {
  const answer = await fetch("/openapi.json", withKey({}));
  if (answer.status === 401 || answer.status === 403) {
    key = (window.prompt("This endpoint requires an API key.") || "").trim();
    if (key) return start();
  }
  const place = document.getElementById("swagger-ui");
  if (!answer.ok) { place.textContent = `The contract cannot be read: ${(await answer.json()).error}`; return; }
  window.ui = SwaggerUIBundle({
    spec: await answer.json(), dom_id: "#swagger-ui", presets: [SwaggerUIBundle.presets.apis], layout: "BaseLayout",
    validatorUrl: null, requestInterceptor: withKey,
  });
}
start();
"""
_OWN = {"/docs": (b"text/html", _PAGE), "/docs/start.js": (b"text/javascript", _START)}
PATHS = frozenset({*_OWN, *_SHIPPED})
"""They reveal nothing of the model and need no key, since a browser sends none when it opens a page."""
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def headers(path: str) -> Headers:
    kind = _OWN[path][0] if path in _OWN else _SHIPPED[path]
    return (
        (b"content-type", kind + b"; charset=utf-8"),
        (b"content-security-policy", _POLICY),
        (b"x-content-type-options", b"nosniff"),
        (b"cache-control", b"max-age=3600"),
    )


@lru_cache(maxsize=len(PATHS))
def body(path: str) -> bytes:
    """The file of a path. Raises RequestError (404) without Swagger UI."""
    if path in _OWN:
        return _OWN[path][1]
    shipped = bentoml_swagger_ui.read(path.rpartition("/")[2])
    if shipped is None:
        hint = "the contract is at /openapi.json"
        raise RequestError("there is no Swagger UI here", status=404, hint=hint)
    return shipped
