"""Notification channels: a webhook that takes Slack's JSON, and e-mail. Messages contain no secret and no row."""

import json
import logging
import smtplib
import ssl
from collections import Counter
from collections.abc import Sequence
from email.message import EmailMessage
from email.utils import formatdate

from truecourse import addresses
from truecourse.errors import DeliveryFailed
from truecourse.hashing import sha256
from truecourse.monitoring.alerts.alert_record import Kind, Notification
from truecourse.monitoring.alerts.delivery import Channel
from truecourse.settings import Settings

log = logging.getLogger("truecourse.alerts")
TIMEOUT = 10.0
"""Seconds that a receiver may take for each step of a request."""
LABELS: dict[Kind, str] = {
    "opened": "Alarm", "escalated": "Alarm", "reminded": "Still open", "recovered": "Recovered",
}  # fmt: skip
_MAX_LENGTH = 1000


def configured_channels(settings: Settings) -> dict[str, Channel]:
    """Return the channels that the settings configure, by name."""
    channels: dict[str, Channel] = {}
    if settings.webhook.get_secret_value():
        channels["webhook"] = lambda problem, notifications: post(settings, problem, notifications)
    if settings.mail_host:
        channels["mail"] = lambda problem, notifications: send_mail(settings, problem, notifications)
    return channels


def headline(problem: str, notifications: Sequence[Notification]) -> str:
    """Summarize notifications in one line: "deliveries: 2 alarms, 1 recovered"."""
    counts = Counter(LABELS[notification.kind].lower() for notification in notifications)
    return f"{problem}: " + ", ".join(
        f"{count} {word}{'s' if word == 'alarm' and count > 1 else ''}" for word, count in counts.items()
    )


def message_id(notifications: Sequence[Notification]) -> str:
    """Return an id that is the same each time the same notifications are sent."""
    return sha256("\n".join(notification.id for notification in notifications).encode())[:32]


def post(settings: Settings, problem: str, notifications: Sequence[Notification]) -> None:
    """Send the notifications in one POST request.

    Raises DeliveryFailed, without the URL: Slack's webhook URLs contain a secret."""
    url = settings.webhook.get_secret_value()
    if not url.startswith(("http://", "https://")):
        raise DeliveryFailed("TRUECOURSE_WEBHOOK is not an http(s) URL")
    body = json.dumps({"text": headline(problem, notifications), "blocks": [_block(one) for one in notifications]})
    headers = {"Content-Type": "application/json", "Idempotency-Key": message_id(notifications)}
    addresses.post(url, body.encode(), headers, TIMEOUT)


def _block(notification: Notification) -> dict[str, object]:
    text = _escape(notification.sentence[:_MAX_LENGTH])
    finding = notification.finding
    head = f"*{LABELS[notification.kind]}* · {_escape(finding.check)} · {_escape(finding.subject)}"
    return {"type": "section", "text": {"type": "mrkdwn", "text": f"{head}\n{text}\n_{_escape(notification.id)}_"}}


def _escape(text: str) -> str:
    """Escape what Slack would read as links, mentions and channels."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def send_mail(settings: Settings, problem: str, notifications: Sequence[Notification]) -> None:
    """Send one message to all addresses.

    Raises DeliveryFailed. If the server refuses only some addresses, the message counts as sent and a warning is
    logged."""
    user, password = settings.mail_user, settings.mail_password.get_secret_value()
    if not (settings.mail_from and settings.mail_to):
        raise DeliveryFailed("TRUECOURSE_MAIL_FROM or TRUECOURSE_MAIL_TO is empty")
    if user and settings.mail_security == "none":
        raise DeliveryFailed("a password is not sent unencrypted: set TRUECOURSE_MAIL_SECURITY")
    try:
        with _connect(settings) as server:
            if user:
                server.login(user, password)
            refused = server.send_message(_build_mail(settings, problem, notifications))
        if refused:
            log.warning("%d of the addresses of TRUECOURSE_MAIL_TO were refused by the mail server", len(refused))
    except smtplib.SMTPResponseException as error:
        raise DeliveryFailed(f"the mail server answered with {error.smtp_code}") from None
    except (OSError, ValueError) as error:
        raise DeliveryFailed(addresses.failure_reason(error, TIMEOUT)) from None


def _connect(settings: Settings) -> smtplib.SMTP:
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


def _build_mail(settings: Settings, problem: str, notifications: Sequence[Notification]) -> EmailMessage:
    mail = EmailMessage()
    mail["From"], mail["To"] = settings.mail_from, settings.mail_to
    mail["Subject"] = f"[truecourse] {headline(problem, notifications)}"
    mail["Date"], mail["Message-ID"] = formatdate(), f"<{message_id(notifications)}@truecourse>"
    mail["Auto-Submitted"] = "auto-generated"
    parts = [f"{LABELS[n.kind]}: {n.finding.check}, {n.finding.subject}\n{n.sentence}\n({n.id})" for n in notifications]
    mail.set_content("\n\n".join(parts) + "\n")
    return mail
