"""Where we run: one typed object, read from TRUECOURSE_* variables and `.env`. No other file reads the environment."""

import importlib.util
import json
import os
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from truecourse.errors import SettingsError
from truecourse.wording import suggestion

REPOSITORY = Path(__file__).resolve().parent.parent
PREFIX = "TRUECOURSE_"
_FILE = ".env"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PROXY_VARIABLES = {"http_proxy", "https_proxy", "all_proxy"}
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT)(_\w+)?$|_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?$")
"""Variables that Kubernetes gives every pod for each service of its namespace, ours among them."""


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _absolute_if_any(name: str) -> str:
    return str(_absolute(Path(name))) if name else ""


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
FileName = Annotated[str, AfterValidator(_absolute_if_any)]


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=_FILE, env_nested_delimiter="__", extra="ignore", frozen=True
    )

    home: AbsolutePath = Field(Path(".truecourse"), description="the only folder that Truecourse writes to")
    problem: str = Field(
        "flight_delays", description="the problem used when none is named; where it is not there, the only one that is"
    )
    problems: AbsolutePath = Field(REPOSITORY / "problems", description="the folder of problem folders")
    deployments: AbsolutePath = Field(REPOSITORY / "deployments", description="the folder of deployment configurations")
    admission: AbsolutePath | None = Field(
        None, description="the folder through which a new server is let in; `truecourse deploy` sets it"
    )

    storage: str = Field("", description="storage root: empty for <home>/storage, or s3://bucket/prefix")
    source_retention: float = Field(
        0, ge=0, description="days that replaced source bytes are kept in storage; 0 keeps them for ever"
    )
    model_retention: float = Field(
        180, ge=0, description="days that training runs, versions and frames are kept that nothing needs; 0: for ever"
    )
    report_retention: float = Field(
        400, ge=0, description="days that reports of checks and the record of findings are kept; 0: for ever"
    )
    log_retention: float = Field(0, ge=0, description="days that the prediction log is kept; 0: for ever")
    prefect_retention: float = Field(
        90, ge=0, description="days that Prefect keeps finished flow runs with their logs and artifacts; 0: for ever"
    )
    s3_endpoint: str = Field("", description="S3 endpoint URL, for servers other than AWS")
    s3_region: str = Field("us-east-1", description="S3 region")
    s3_access_key_id: SecretStr = Field(SecretStr(""), description="S3 access key; empty for the AWS default chain")
    s3_secret_access_key: SecretStr = Field(SecretStr(""), description="S3 secret key")

    connections: dict[str, SecretStr] = Field({}, description="named SQL URLs that problems' Sql sources refer to")
    online_store: SecretStr = Field(SecretStr("sqlite"), description="sqlite, or redis://[:password@]host:port[/db]")
    mlflow_uri: SecretStr = Field(SecretStr(""), description="MLflow tracking URI; empty for sqlite in <home>")
    author: str = Field("", description="whose name changes carry in the record; the login name if empty")

    webhook: SecretStr = Field(SecretStr(""), description="URL that receives alerts, as JSON that Slack takes")
    mail_host: str = Field("", description="SMTP server that sends alerts; empty for no mail")
    mail_port: int = Field(587, ge=1, le=65535, description="its port")
    mail_security: Literal["starttls", "tls", "none"] = Field("starttls", description="how mail is encrypted")
    mail_user: str = Field("", description="name at the SMTP server; empty for none")
    mail_password: SecretStr = Field(SecretStr(""), description="that name's password")
    mail_from: str = Field("", description="the address that alerts come from")
    mail_to: str = Field("", description="the addresses that alerts go to, by commas")

    log: bool = Field(True, description="whether the endpoint logs its predictions")
    log_secret: SecretStr = Field(
        SecretStr(""), description="key of the hashes of private fields; without it they are dropped"
    )
    log_sync: float = Field(0.2, gt=0, le=60, description="seconds between two syncs of the prediction log to disk")
    log_ship: float = Field(
        5.0, gt=0, le=3600, description="seconds between two shipments of the log to object storage"
    )
    log_memory: int = Field(50_000, ge=1, description="predictions that a worker holds while its disk is full")
    log_disk: int = Field(1024, ge=1, description="MiB of unshipped log that may lie in <home>/spool")

    host: str = Field("127.0.0.1", description="the address, or a name of this machine, that servers listen on")
    prefect_port: int = Field(4200, ge=1, le=65535, description="Prefect server and UI, of `truecourse up`")
    mlflow_port: int = Field(5000, ge=1, le=65535, description="MLflow UI, of `truecourse up`")
    control_port: int = Field(4100, ge=1, le=65535, description="the control page, of `truecourse up`")
    endpoint_port: int = Field(3000, ge=1, le=65535, description="the prediction endpoint")
    reports_url: str = Field(
        "",
        description="URL of the served reports, for links in Prefect; `truecourse up` sets it for its runs",
    )
    follow: bool = Field(True, description="the endpoint follows the aliases; false pins the version it started with")

    authentication: Literal["none", "keys"] = Field("none", description="what the endpoint asks of a caller")
    allow_anonymous: bool = Field(
        False, description="whether an endpoint without keys answers other machines than its own"
    )
    api_key: SecretStr = Field(SecretStr(""), description="the key that our commands show the endpoint")
    tls_certificate: FileName = Field("", description="PEM file of the endpoint's certificate; empty for plain HTTP")
    tls_key: FileName = Field("", description="PEM file of that certificate's private key")
    cors_origins: str = Field("", description="origins whose pages may ask the endpoint, by commas; * for all")
    workers: int = Field(1, ge=1, le=256, description="processes that answer, of one endpoint")
    request_timeout: int = Field(30, ge=1, le=3600, description="seconds in which a request is answered or refused")
    header_timeout: float = Field(
        10, gt=0, le=300, description="seconds in which a TLS handshake and a request's header come in"
    )
    header_limit: int = Field(32, ge=1, le=1024, description="KiB that a request's header may have")
    keep_alive: int = Field(75, ge=1, le=3600, description="seconds that a connection may pause between two requests")
    max_connections: int = Field(4096, ge=1, description="connections at once, of all workers")
    max_connections_per_address: int = Field(
        1024, ge=0, description="connections at once of one address, of all workers; 0 for any"
    )
    trusted_proxies: str = Field(
        "",
        description="addresses and networks, by commas, of proxies whose X-Forwarded-For is believed, and whose "
        "connections no limit by address holds for; the own machine's X-Forwarded-For is believed if empty",
    )
    rate_limit: float = Field(0, ge=0, description="requests a second of one key or address, in all workers; 0 for any")
    rate_burst: int = Field(20, ge=1, description="requests that may come at once on top of that rate")
    metrics: bool = Field(True, description="whether the endpoint tells Prometheus its meters, at /metrics")
    access_log: bool = Field(False, description="whether the endpoint's log has a line for every request but a probe's")
    max_delay: float | None = Field(
        None,
        ge=0,
        description="seconds that a request may wait for its turn; unset: the problem's latency objective; 0 for any",
    )

    server_log_size: float = Field(16, gt=0, description="MiB of a server's log file, beyond which it is rotated")
    server_log_files: int = Field(3, ge=1, description="rotated log files of each server that are kept")

    endpoints: str = Field("", description="URLs of endpoints elsewhere that health watches too, by commas")
    machine_cpu: float = Field(1.5, gt=0, description="load per processor, of 5 minutes, above which health says so")
    machine_memory: float = Field(0.9, gt=0, lt=1, description="share of memory in use above which health says so")
    machine_disk: float = Field(0.9, gt=0, lt=1, description="share of a disk in use above which health says so")

    threads: int = Field(
        default_factory=lambda: os.cpu_count() or 1, ge=1, description="threads for DuckDB and XGBoost"
    )
    memory_limit: str = Field("4GB", description="DuckDB's memory limit; beyond it, it spills to <home>/tmp")

    @property
    def storage_root(self) -> str:
        """`s3://bucket/prefix`, or an absolute local path."""
        return self.storage.rstrip("/") if self.storage else str(self.home / "storage")

    @property
    def mlflow_tracking_uri(self) -> str:
        return self.mlflow_uri.get_secret_value() or f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def temporary(self) -> Path:
        return self.home / "tmp"


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The process's settings. Raises SettingsError that names every wrong variable, and every unknown one: a setting
    whose name is misspelt would be left at its default without a word."""
    lines = []
    try:
        settings = Settings()
    except ValidationError as error:
        lines = [f"{PREFIX}{'__'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors()]
    lines += [f"{name}: unknown setting{said}" for name, said in _unknown().items()]
    lines += _wrong_proxies()
    if lines:
        hint = "correct or unset these variables; docs/configuration.md lists every setting"
        raise SettingsError("\n  ".join(lines), where="settings", hint=hint)
    return settings


def _unknown() -> dict[str, str]:
    """Variables with our prefix that no setting has the name of: what is said of each."""
    known = [name.upper() for name in Settings.model_fields]
    given = {name: "" for name, value in os.environ.items() if not _is_service_link(name, value)}
    given |= dict.fromkeys(_file_variables(), f" in {Path(_FILE).absolute()}")
    found = {}
    for name, place in sorted(given.items()):
        setting = name.upper().removeprefix(PREFIX)
        ours = name.upper().startswith(PREFIX) and setting not in known and not setting.startswith("CONNECTIONS__")
        if ours:
            close = suggestion(setting, known, PREFIX)
            found[name] = f"{place}; {close}" if close else place
    return found


def _is_service_link(name: str, value: str) -> bool:
    return bool(_SERVICE_LINK.search(name)) and (not name.endswith("_PORT") or "://" in value)


def _file_variables() -> Mapping[str, object]:
    from dotenv import dotenv_values

    return dotenv_values(_FILE) if Path(_FILE).is_file() else {}


@contextmanager
def override_settings(**changes: object) -> Iterator[Settings]:
    """Other settings for this process, and the children it starts, while the block lasts. Not for threads that differ:
    the settings are the process's."""
    names = {f"{PREFIX}{name.upper()}": str(value) for name, value in changes.items()}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    get_settings.cache_clear()
    try:
        yield get_settings()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        get_settings.cache_clear()


def quiet_environment() -> None:
    """No telemetry from the libraries we stand on, no threads that spin while they wait, and no proxy between our own
    processes, in this process and its children. To be called before they are imported."""
    _straight_to_ourselves()
    for name, value in {
        "DO_NOT_TRACK": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # its client would try for minutes to reach a server that is gone
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds
        "BENTOML_DO_NOT_TRACK": "True",
        "FEAST_USAGE": "False",
        "GX_ANALYTICS_ENABLED": "false",
        "OMP_WAIT_POLICY": "passive",  # beside one busy process, XGBoost trains in half the time
        "OPENBLAS_NUM_THREADS": "1",  # it spins whatever it is told: 35 µs of products took 15 ms on a busy machine
    }.items():
        os.environ.setdefault(name, value)


def _straight_to_ourselves() -> None:
    """What listens on this machine is reached without the proxy that the environment names; the rest through it."""
    given = ",".join(os.environ.get(name, "") for name in ("no_proxy", "NO_PROXY"))
    listed = [part.strip() for part in given.split(",") if part.strip()]
    reached = dict.fromkeys([*listed, *LOOPBACK, *_own_host()])
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "*" if "*" in listed else ",".join(reached)
    for name in _proxies():
        if name.lower() == "all_proxy" and _scheme_of(os.environ[name]).startswith("socks") and not _speaks_socks():
            del os.environ[name]  # no library here could use it, and Prefect's client fails to be made with it


def _own_host() -> list[str]:
    host = os.environ.get(f"{PREFIX}HOST", "") or str((_file_variables().get(f"{PREFIX}HOST")) or "")
    return [host.strip("[]")] if host and host not in ("0.0.0.0", "::") else []  # noqa: S104


def _proxies() -> list[str]:
    """The variables that name a proxy."""
    return [name for name in os.environ if name.lower() in _PROXY_VARIABLES and os.environ[name]]


def _scheme_of(address: str) -> str:
    return address.partition("://")[0].lower() if "://" in address else "http"


def _speaks_socks() -> bool:
    return importlib.util.find_spec("socksio") is not None


def _wrong_proxies() -> list[str]:
    """Proxy variables that no library could use: each with what is wrong, and without the password that it may hold."""
    lines = []
    for name in sorted(_proxies()):
        address, scheme = os.environ[name], _scheme_of(os.environ[name])
        parts = urlsplit(address if "://" in address else f"http://{address}")
        try:
            good = bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:
            good = False
        if not good:
            lines.append(f"{name}: is no address of a proxy; http://host:port is")
        elif scheme not in ("http", "https") and not (scheme.startswith("socks") and name.lower() == "all_proxy"):
            lines.append(f"{name}: a proxy of the scheme {scheme} is not supported; http://host:port is")
    return lines


def storage_environment() -> dict[str, str]:
    """Let other libraries' own S3 clients (MLflow's) reach our storage: their variables, set here and returned."""
    settings = get_settings()
    if not settings.storage_root.startswith("s3://"):
        return {}
    wanted = {
        "MLFLOW_S3_ENDPOINT_URL": settings.s3_endpoint,
        "AWS_DEFAULT_REGION": settings.s3_region,
        "AWS_ACCESS_KEY_ID": settings.s3_access_key_id.get_secret_value(),
        "AWS_SECRET_ACCESS_KEY": settings.s3_secret_access_key.get_secret_value(),
    }
    variables = {name: value for name, value in wanted.items() if value}
    os.environ.update(variables)
    return variables


def child_environment(**extra: str) -> dict[str, str]:
    """The environment for a process of ours: this one, our settings made explicit, and `extra`."""
    quiet_environment()
    storage_environment()
    return {**os.environ, **_explicit(get_settings()), **extra}


def _explicit(settings: Settings) -> dict[str, str]:
    """What was set, as variables: a child may run in another folder, where neither `.env` nor relative paths hold."""
    names = settings.model_fields_set | {"home", "problems"}
    return {f"{PREFIX}{name.upper()}": _told(getattr(settings, name)) for name in sorted(names)}


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return json.dumps({name: _told(item) for name, item in value.items()})
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def multiprocess_folder() -> Path | None:
    """Where prometheus_client keeps the meters of a server's workers; Bento names it to each."""
    name = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    return Path(name) if name else None


def prefect_retention() -> dict[str, str]:
    """For a Prefect server of ours: how long its own clean-up, hourly, keeps finished runs."""
    days = get_settings().prefect_retention
    if not days:
        return {}
    return {
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(max(days * 86400, 3601)),
    }


def is_container() -> bool:
    """Whether we run in the image that BentoML makes of a Bento; its entrypoint listens on every address."""
    return os.environ.get("BENTOML_CONTAINERIZED", "").lower() in ("true", "1")


def trust_proxies(settings: Settings) -> None:
    """Have the server believe these proxies, and no others; to be called before it is set up."""
    if settings.trusted_proxies:
        os.environ["FORWARDED_ALLOW_IPS"] = settings.trusted_proxies.replace(" ", "")


def variable(name: str) -> str | None:
    """The value of a variable that a deployment configuration names."""
    return os.environ.get(name)


def variables_of(process: Any) -> Mapping[str, str]:
    """The variables that a process (of psutil) was started with; none where they are not for us to see."""
    import psutil

    try:
        found: Mapping[str, str] = process.environ()
    except (psutil.Error, OSError):
        return {}
    return found


def prefect_api_url() -> str:
    """The Prefect server that the environment names; empty if it names none."""
    return os.environ.get("PREFECT_API_URL", "")


def prefect_authorization() -> dict[str, str]:
    """The header that a Prefect server asks for, as the environment says it to Prefect's own client."""
    if basic := os.environ.get("PREFECT_API_AUTH_STRING"):
        return {"authorization": f"Basic {b64encode(basic.encode()).decode()}"}
    key = os.environ.get("PREFECT_API_KEY")
    return {"authorization": f"Bearer {key}"} if key else {}


def prefect_environment() -> None:
    """Keep Prefect's own files in our home, for this process and its children; to be called before it is imported."""
    quiet_environment()
    home = get_settings().home
    with suppress(OSError):  # who writes there will say what is wrong with it; Prefect makes no parents
        home.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("PREFECT_HOME", str(home / "prefect"))
    os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")
