"""The ways to people: a webhook that takes Slack's JSON, and e-mail. What goes out names no secret and no row."""

import http.client
import json
import logging
import smtplib
import ssl
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence
from email.message import EmailMessage
from email.utils import formatdate

from truecourse.addresses import proxy_bypass
from truecourse.errors import DeliveryFailed
from truecourse.hashing import sha256
from truecourse.monitoring.alerts.delivery import Channel
from truecourse.monitoring.alerts.history import Kind, Notification
from truecourse.settings import Settings

log = logging.getLogger("truecourse.alerts")
TIMEOUT = 10.0
"""Seconds that a receiver may take for each step of its answer."""
LABELS: dict[Kind, str] = {
    "opened": "Alarm", "escalated": "Alarm", "reminded": "Still open", "recovered": "Recovered",
}  # fmt: skip
_LONGEST = 1000


def configured_channels(settings: Settings) -> dict[str, Channel]:
    """The channels that the settings describe, by name."""
    channels: dict[str, Channel] = {}
    if settings.webhook.get_secret_value():
        channels["webhook"] = lambda problem, notices: post(settings, problem, notices)
    if settings.mail_host:
        channels["mail"] = lambda problem, notices: send_mail(settings, problem, notices)
    return channels


def headline(problem: str, notices: Sequence[Notification]) -> str:
    """All of a message in a line: "deliveries: 2 alarms, 1 recovered"."""
    counts = Counter(LABELS[notice.kind].lower() for notice in notices)
    return f"{problem}: " + ", ".join(
        f"{count} {word}{'s' if word == 'alarm' and count > 1 else ''}" for word, count in counts.items()
    )


def message_id(notices: Sequence[Notification]) -> str:
    """The same for the same notices, however often they are sent."""
    return sha256("\n".join(notice.id for notice in notices).encode())[:32]


def post(settings: Settings, problem: str, notices: Sequence[Notification]) -> None:
    """One POST. Raises DeliveryFailed, which does not name the address: in Slack's there is a secret."""
    url = settings.webhook.get_secret_value()
    if not url.startswith(("http://", "https://")):
        raise DeliveryFailed("TRUECOURSE_WEBHOOK is no http(s) address")
    body = json.dumps({"text": headline(problem, notices), "blocks": [_block(notice) for notice in notices]})
    headers = {"Content-Type": "application/json", "Idempotency-Key": message_id(notices)}
    request = urllib.request.Request(url, body.encode(), headers, method="POST")  # noqa: S310
    try:
        with urllib.request.build_opener(_Straight, *proxy_bypass(url)).open(request, timeout=TIMEOUT):
            return
    except urllib.error.HTTPError as error:
        raise DeliveryFailed(f"it answered with status {error.code}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DeliveryFailed(_why(error)) from None


class _Straight(urllib.request.HTTPRedirectHandler):
    """Follows nobody: a POST that is sent elsewhere arrives there as a GET, without what it had to say."""

    def redirect_request(self, *_: object) -> None:
        return None


def _block(notice: Notification) -> dict[str, object]:
    told = _escaped(notice.sentence[:_LONGEST])
    head = f"*{LABELS[notice.kind]}* · {_escaped(notice.finding.check)} · {_escaped(notice.finding.subject)}"
    return {"type": "section", "text": {"type": "mrkdwn", "text": f"{head}\n{told}\n_{_escaped(notice.id)}_"}}


def _escaped(text: str) -> str:
    """What Slack takes for links, mentions and channels is text here."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _why(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    cause = reason if isinstance(reason, Exception) else error
    if isinstance(cause, TimeoutError):
        return f"no answer within {TIMEOUT:.0f} seconds"
    return getattr(cause, "strerror", None) or type(cause).__name__


def send_mail(settings: Settings, problem: str, notices: Sequence[Notification]) -> None:
    """One message to all addresses. Raises DeliveryFailed; where some were refused it counts as sent, and is logged."""
    user, password = settings.mail_user, settings.mail_password.get_secret_value()
    if not (settings.mail_from and settings.mail_to):
        raise DeliveryFailed("TRUECOURSE_MAIL_FROM or TRUECOURSE_MAIL_TO is empty")
    if user and settings.mail_security == "none":
        raise DeliveryFailed("a password is not sent unencrypted: set TRUECOURSE_MAIL_SECURITY")
    try:
        with _connected(settings) as server:
            if user:
                server.login(user, password)
            refused = server.send_message(_mail(settings, problem, notices))
        if refused:
            log.warning("%d of the addresses of TRUECOURSE_MAIL_TO were refused by the mail server", len(refused))
    except smtplib.SMTPResponseException as error:
        raise DeliveryFailed(f"the mail server answered with {error.smtp_code}") from None
    except (OSError, ValueError) as error:
        raise DeliveryFailed(_why(error)) from None


def _connected(settings: Settings) -> smtplib.SMTP:
    place = (settings.mail_host, settings.mail_port)
    if settings.mail_security == "tls":
        return smtplib.SMTP_SSL(*place, timeout=TIMEOUT, context=ssl.create_default_context())
    server = smtplib.SMTP(*place, timeout=TIMEOUT)
    if settings.mail_security == "starttls":
        try:
            server.starttls(context=ssl.create_default_context())
        except BaseException:
            server.close()
            raise
    return server


def _mail(settings: Settings, problem: str, notices: Sequence[Notification]) -> EmailMessage:
    mail = EmailMessage()
    mail["From"], mail["To"] = settings.mail_from, settings.mail_to
    mail["Subject"] = f"[truecourse] {headline(problem, notices)}"
    mail["Date"], mail["Message-ID"] = formatdate(), f"<{message_id(notices)}@truecourse>"
    mail["Auto-Submitted"] = "auto-generated"
    parts = [f"{LABELS[n.kind]}: {n.finding.check}, {n.finding.subject}\n{n.sentence}\n({n.id})" for n in notices]
    mail.set_content("\n\n".join(parts) + "\n")
    return mail
