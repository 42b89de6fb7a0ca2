"""Settings: one typed object, read from TRUECOURSE_* variables and `.env`. No other module reads the environment."""

import importlib.util
import json
import os
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from truecourse.errors import SettingsError
from truecourse.setting_types import AbsolutePath, FileName, LineageTarget
from truecourse.wording import suggestion

REPOSITORY = Path(__file__).resolve().parent.parent
PREFIX = "TRUECOURSE_"
_FILE = ".env"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PROXY_VARIABLES = {"http_proxy", "https_proxy", "all_proxy"}
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT)(_\w+)?$|_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?$")
"""Variables that Kubernetes sets in every pod for each service of its namespace, including our own services."""


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=_FILE, env_nested_delimiter="__", extra="ignore", frozen=True
    )

    home: AbsolutePath = Field(Path(".truecourse"), description="the only folder that Truecourse writes to")
    problem: str = Field("flight_delays", description="default problem; if absent, the only existing one")
    area: str = Field("", description="the feature area of `feast` commands in feature_repo/ (area_store.yaml)")
    problems: AbsolutePath = Field(REPOSITORY / "problems", description="the folder of problem folders")
    deployments: AbsolutePath = Field(REPOSITORY / "deployments", description="the folder of deployment configurations")
    admission: AbsolutePath | None = Field(None, description="folder of the rollout gate, set by `truecourse deploy`")

    storage: str = Field("", description="storage root: empty for <home>/storage, or s3://bucket/prefix")
    durable: bool = Field(True, description="sync written files to disk, so that they survive a loss of power")
    source_retention: float = Field(0, ge=0, description="days that replaced source bytes are kept; 0: for ever")
    table_retention: float = Field(90, ge=0, description="days that replaced files of tables are kept; 0: for ever")
    champion_retention: int = Field(0, ge=0, description="number of last champions that are always kept; 0: all")
    model_retention: float = Field(180, ge=0, description="days that unused versions and runs are kept; 0: for ever")
    report_retention: float = Field(400, ge=0, description="days that reports and findings are kept; 0: for ever")
    log_retention: float = Field(0, ge=0, description="days that the prediction log is kept; 0: for ever")
    batch_retention: float = Field(0, ge=0, description="days that predictions of batches are kept; 0: for ever")
    prefect_retention: float = Field(
        90, ge=0, description="days that Prefect keeps finished flow runs with their logs and artifacts; 0: for ever"
    )
    s3_endpoint: str = Field("", description="S3 endpoint URL, for servers other than AWS")
    s3_region: str = Field("us-east-1", description="S3 region")
    s3_access_key_id: SecretStr = Field(SecretStr(""), description="S3 access key; empty for the AWS default chain")
    s3_secret_access_key: SecretStr = Field(SecretStr(""), description="S3 secret key")

    connections: dict[str, SecretStr] = Field({}, description="named SQL URLs that problems' Sql sources refer to")
    online_store: SecretStr = Field(
        SecretStr("sqlite"), description="address of the online store: sqlite, or redis://[:password@]host:port[/db]"
    )
    mlflow_uri: SecretStr = Field(SecretStr(""), description="MLflow tracking URI; empty for sqlite in <home>")
    tuning_storage: SecretStr = Field(
        SecretStr(""),
        description="SQLAlchemy URL of the database that parameter searches of several machines share; "
        "empty for sqlite in <home>",
    )
    author: str = Field("", description="author of changes in the registry's records; the login name if empty")

    webhook: SecretStr = Field(SecretStr(""), description="URL that receives alerts, as JSON in Slack's format")
    mail_host: str = Field("", description="SMTP server for alerts; empty for no mail")
    mail_port: int = Field(587, ge=1, le=65535, description="port of the SMTP server")
    mail_security: Literal["starttls", "tls", "none"] = Field("starttls", description="encryption of mail")
    mail_user: str = Field("", description="user at the SMTP server; empty for none")
    mail_password: SecretStr = Field(SecretStr(""), description="password of that user")
    mail_from: str = Field("", description="sender address of alerts")
    mail_to: str = Field("", description="recipient addresses of alerts, comma-separated")

    openlineage: LineageTarget = Field(
        "off", description="where OpenLineage events go: off, file:PATH, or the URL of a server that takes them"
    )
    openlineage_api_key: SecretStr = Field(SecretStr(""), description="API key that is sent to that server")
    openlineage_namespace: str = Field("truecourse", min_length=1, description="namespace of the jobs in these events")

    log: bool = Field(True, description="whether the endpoint logs its predictions")
    log_secret: SecretStr = Field(
        SecretStr(""), description="key for the hashes of private fields; without it they are dropped"
    )
    log_sync: float = Field(0.2, gt=0, le=60, description="seconds between two syncs of the prediction log to disk")
    log_ship: float = Field(
        5.0, gt=0, le=3600, description="seconds between two shipments of the log to object storage"
    )
    log_memory: int = Field(50_000, ge=1, description="predictions that a worker holds while its disk is full")
    log_disk: int = Field(1024, ge=1, description="MiB of unshipped log that <home>/spool may hold")

    host: str = Field("127.0.0.1", description="address or host name that servers listen on")
    prefect_port: int = Field(4200, ge=1, le=65535, description="port of the Prefect server and UI of `truecourse up`")
    mlflow_port: int = Field(5000, ge=1, le=65535, description="port of the MLflow UI of `truecourse up`")
    control_port: int = Field(4100, ge=1, le=65535, description="port of the control page of `truecourse up`")
    endpoint_port: int = Field(3000, ge=1, le=65535, description="port of the prediction endpoint")
    reports_url: str = Field(
        "", description="URL of the served reports, for links in Prefect; set by `truecourse up` for its runs"
    )
    follow: bool = Field(True, description="whether the endpoint follows the aliases; false pins the first version")

    authentication: Literal["none", "keys"] = Field("none", description="how the endpoint authenticates callers")
    allow_anonymous: bool = Field(False, description="whether an endpoint without keys serves other machines")
    api_key: SecretStr = Field(SecretStr(""), description="key that the command line sends to the endpoint")
    tls_certificate: FileName = Field("", description="PEM file of the endpoint's certificate; empty for plain HTTP")
    tls_key: FileName = Field("", description="PEM file of that certificate's private key")
    cors_origins: str = Field("", description="origins that may send cross-origin requests, comma-separated; * for all")
    workers: int = Field(1, ge=1, le=256, description="worker processes of one endpoint")
    request_timeout: int = Field(30, ge=1, le=3600, description="seconds after which a request times out")
    header_timeout: float = Field(10, gt=0, le=300, description="seconds for a TLS handshake and a request's header")
    header_limit: int = Field(32, ge=1, le=1024, description="maximum size of a request's header, in KiB")
    keep_alive: int = Field(75, ge=1, le=3600, description="seconds that an idle connection is kept open")
    max_connections: int = Field(4096, ge=1, description="maximum number of open connections, all workers")
    max_connections_per_address: int = Field(
        1024, ge=0, description="maximum number of open connections of one address, all workers; 0: no limit"
    )
    trusted_proxies: str = Field(
        "",
        description="addresses and networks of proxies, comma-separated: their X-Forwarded-For is trusted, and they "
        "are exempt from limits per address; if empty, only the X-Forwarded-For of this machine is trusted",
    )
    rate_limit: float = Field(
        0, ge=0, description="requests per second of one key or address, all workers; 0: no limit"
    )
    rate_burst: int = Field(20, ge=1, description="size of a burst above that rate, in requests")
    push: bool = Field(False, description="whether the endpoint accepts rows of features, at /features/")
    metrics: bool = Field(True, description="whether the endpoint serves Prometheus metrics at /metrics")
    access_log: bool = Field(False, description="whether the endpoint logs every request except probes")
    fast_path: bool = Field(
        True, description="whether predictions are answered before the ASGI application; false: by it, as all requests"
    )
    max_delay: float | None = Field(
        None,
        ge=0,
        description="maximum seconds that a request waits in the queue; unset: the problem's latency objective; "
        "0: no limit",
    )

    server_log_size: float = Field(16, gt=0, description="size in MiB beyond which a server's log file is rotated")
    server_log_files: int = Field(3, ge=1, description="number of rotated log files kept per server")

    endpoints: str = Field("", description="URLs of further endpoints that the health check watches, comma-separated")
    machine_cpu: float = Field(1.5, gt=0, description="5-minute load per processor above which health warns")
    machine_memory: float = Field(0.9, gt=0, lt=1, description="share of memory in use above which health warns")
    machine_disk: float = Field(0.9, gt=0, lt=1, description="share of a disk in use above which health warns")

    skipped_patches: str = Field("", description="patches of libraries to leave out, by name, comma-separated")
    threads: int = Field(
        default_factory=lambda: os.cpu_count() or 1, ge=1, description="threads for DuckDB and XGBoost"
    )
    memory_limit: str = Field("4GB", description="DuckDB's memory limit; above it, DuckDB spills to <home>/tmp")

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
    """The process's settings. Raises SettingsError with every invalid variable and every unknown one, so that a
    misspelt name does not silently leave a setting at its default."""
    lines = []
    try:
        settings = Settings()
    except ValidationError as error:
        lines = [f"{PREFIX}{'__'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors()]
    lines += [f"{name}: unknown setting{detail}" for name, detail in _unknown_settings().items()]
    lines += _proxy_faults()
    if lines:
        hint = "correct or unset these variables; the reference's page of settings lists them all"
        raise SettingsError("\n  ".join(lines), where="settings", hint=hint)
    return settings


def _unknown_settings() -> dict[str, str]:
    """Variables with our prefix that are no setting, each with a detail for the message: its file and a suggestion."""
    known = [name.upper() for name in Settings.model_fields]
    variables = {name: "" for name, value in os.environ.items() if not _is_service_link(name, value)}
    variables |= dict.fromkeys(_file_variables(), f" in {Path(_FILE).absolute()}")
    unknown = {}
    for name, place in sorted(variables.items()):
        setting = name.upper().removeprefix(PREFIX)
        if name.upper().startswith(PREFIX) and setting not in known and not setting.startswith("CONNECTIONS__"):
            close = suggestion(setting, known, PREFIX)
            unknown[name] = f"{place}; {close}" if close else place
    return unknown


def _is_service_link(name: str, value: str) -> bool:
    return bool(_SERVICE_LINK.search(name)) and (not name.endswith("_PORT") or "://" in value)


def _file_variables() -> Mapping[str, object]:
    from dotenv import dotenv_values

    return dotenv_values(_FILE) if Path(_FILE).is_file() else {}


@contextmanager
def override_settings(**changes: object) -> Iterator[Settings]:
    """Change settings for this process and its new children while the block runs. Not per thread: settings belong to
    the process."""
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
    """Configure libraries in this process and its children: no telemetry, no threads that spin while they wait,
    no proxy between our own processes. Call it before importing those libraries."""
    _bypass_proxy_locally()
    for name, value in {
        "DO_NOT_TRACK": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # by default its client retries for minutes when a server is gone
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds
        "BENTOML_DO_NOT_TRACK": "True",
        "FEAST_USAGE": "False",
        "GX_ANALYTICS_ENABLED": "false",
        "OMP_WAIT_POLICY": "passive",  # beside one busy process, XGBoost trains twice as fast
        "OPENBLAS_NUM_THREADS": "1",  # it always spins: 35 µs of products took 15 ms on a busy machine
    }.items():
        os.environ.setdefault(name, value)


def _bypass_proxy_locally() -> None:
    """Add the hosts of this machine to `no_proxy`, and remove a SOCKS proxy that no installed library supports."""
    configured = ",".join(os.environ.get(name, "") for name in ("no_proxy", "NO_PROXY"))
    listed = [part.strip() for part in configured.split(",") if part.strip()]
    bypassed = dict.fromkeys([*listed, *LOOPBACK, *_own_host()])
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "*" if "*" in listed else ",".join(bypassed)
    for name in _proxies():
        if name.lower() == "all_proxy" and _scheme_of(os.environ[name]).startswith("socks") and not _supports_socks():
            del os.environ[name]  # no library here can use it, and Prefect's client cannot be created with it


def _own_host() -> list[str]:
    host = os.environ.get(f"{PREFIX}HOST", "") or str((_file_variables().get(f"{PREFIX}HOST")) or "")
    return [host.strip("[]")] if host and host not in ("0.0.0.0", "::") else []  # noqa: S104


def _proxies() -> list[str]:
    """The variables that name a proxy."""
    return [name for name in os.environ if name.lower() in _PROXY_VARIABLES and os.environ[name]]


def _scheme_of(address: str) -> str:
    return address.partition("://")[0].lower() if "://" in address else "http"


def _supports_socks() -> bool:
    return importlib.util.find_spec("socksio") is not None


def _proxy_faults() -> list[str]:
    """Describe each proxy variable that no library can use, without its password."""
    lines = []
    for name in sorted(_proxies()):
        address, scheme = os.environ[name], _scheme_of(os.environ[name])
        parts = urlsplit(address if "://" in address else f"http://{address}")
        try:
            valid = bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:
            valid = False
        if not valid:
            lines.append(f"{name}: not a valid proxy address; expected http://host:port")
        elif scheme not in ("http", "https") and not (scheme.startswith("socks") and name.lower() == "all_proxy"):
            lines.append(f"{name}: a proxy of the scheme {scheme} is not supported; expected http://host:port")
    return lines


def storage_environment() -> dict[str, str]:
    """Set and return the variables by which other S3 clients (MLflow's) access our storage."""
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
    """The environment of a child process: this process's, its settings as variables, and `extra`."""
    quiet_environment()
    storage_environment()
    return {**os.environ, **_settings_as_variables(get_settings()), **extra}


def _settings_as_variables(settings: Settings) -> dict[str, str]:
    """The settings that were set, as variables. A child may run in another folder, with another `.env`."""
    names = settings.model_fields_set | {"home", "problems"}
    return {f"{PREFIX}{name.upper()}": _variable_text(getattr(settings, name)) for name in sorted(names)}


def _variable_text(value: Any) -> str:
    if isinstance(value, dict):
        return json.dumps({name: _variable_text(item) for name, item in value.items()})
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def multiprocess_folder() -> Path | None:
    """The folder in which prometheus_client keeps the metrics of a server's workers, set by BentoML."""
    name = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    return Path(name) if name else None


def prefect_retention() -> dict[str, str]:
    """Variables of our Prefect server for its hourly clean-up of finished runs."""
    days = get_settings().prefect_retention
    if not days:
        return {}
    return {
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(max(days * 86400, 3601)),
    }


def is_container() -> bool:
    """Whether this process runs in a BentoML container image, whose entrypoint listens on every address."""
    return os.environ.get("BENTOML_CONTAINERIZED", "").lower() in ("true", "1")


def trust_proxies(settings: Settings) -> None:
    """Make the HTTP server trust only the configured proxies. Call it before the server is set up."""
    if settings.trusted_proxies:
        os.environ["FORWARDED_ALLOW_IPS"] = settings.trusted_proxies.replace(" ", "")


def variable(name: str) -> str | None:
    """The value of an environment variable that is not a setting of ours."""
    return os.environ.get(name)


def variables_of(process: Any) -> Mapping[str, str]:
    """The environment of a process (psutil); empty if it may not be read."""
    import psutil

    try:
        environment: Mapping[str, str] = process.environ()
    except (psutil.Error, OSError):
        return {}
    return environment


def prefect_api_url() -> str:
    """The Prefect server of the environment; empty if none is set."""
    return os.environ.get("PREFECT_API_URL", "")


def prefect_authorization() -> dict[str, str]:
    """The authorization header for the Prefect server, from the same variables as Prefect's client."""
    if basic := os.environ.get("PREFECT_API_AUTH_STRING"):
        return {"authorization": f"Basic {b64encode(basic.encode()).decode()}"}
    key = os.environ.get("PREFECT_API_KEY")
    return {"authorization": f"Bearer {key}"} if key else {}


def prefect_environment() -> None:
    """Keep Prefect's files in our home, for this process and its children. Call it before importing Prefect."""
    quiet_environment()
    home = get_settings().home
    with suppress(OSError):  # a later write reports the error; Prefect creates no parent folders
        home.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("PREFECT_HOME", str(home / "prefect"))
    os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")
