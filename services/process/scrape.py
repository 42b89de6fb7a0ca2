"""Read the Prometheus metrics of an endpoint."""

import urllib.error

from services.process.client_url import open_url
from truecourse.deployment.endpoints import ExpectedEndpoint
from truecourse.errors import PlatformError, SettingsError
from truecourse.monitoring.health import counters
from truecourse.monitoring.health.endpoint_health import Probe

_HINTS = {
    401: "set TRUECOURSE_API_KEY to a valid key",
    403: "the key in TRUECOURSE_API_KEY needs the scope admin",
    404: "set TRUECOURSE_METRICS=true for the endpoint",
}


def scrape_endpoint(endpoint: ExpectedEndpoint, seconds: float = 5) -> Probe:
    """Read /metrics once. Never raises: a failure is part of the result."""

    def failed(error: str, answers: bool) -> Probe:
        return Probe(endpoint.name, endpoint.url, None, error, answers)

    try:
        with open_url(f"{endpoint.url}/metrics", seconds=seconds, certificate=endpoint.certificate) as answer:
            text = answer.read().decode(errors="replace")
        return Probe(endpoint.name, endpoint.url, counters.parse_metrics(text))
    except urllib.error.HTTPError as error:
        return failed(_HINTS.get(error.code, f"/metrics returned status {error.code}"), error.code < 500)
    except (PlatformError, SettingsError) as error:
        return failed(error.what, answers=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return failed(getattr(reason, "strerror", None) or str(reason), answers=False)


def scrape_all(endpoints: list[ExpectedEndpoint], problem: str) -> list[Probe]:
    """Read every endpoint; leave out those that serve another problem."""
    found = [scrape_endpoint(endpoint) for endpoint in endpoints]
    return [one for one in found if one.reading is None or one.reading.problem in ("", problem)]
