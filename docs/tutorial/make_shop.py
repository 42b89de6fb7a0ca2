"""Write the two exports of a small web shop, as they are on a given day: customers.csv and orders.csv.

    python make_shop.py --until 2025-07-01

The same day always gives the same bytes. A later day gives the same history, continued. The truth behind the data:

- Each customer has a rhythm (days between two orders) and a usual amount.
- The mood of a customer changes from order to order. It moves the amount, and a bad mood makes a customer leave.
- So a customer who is silent for long, measured by their own rhythm, has probably left. Falling amounts announce it.
- From July 2025 on, a podcast brings new customers, who leave sooner than others.
"""

import argparse
import csv
import math
import random
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import NamedTuple

FIRST, LAST = date(2024, 1, 1), date(2025, 12, 31)
"""The first day of the shop, and the last day that is simulated."""
CAMPAIGN = date(2025, 7, 1)
LOST_AFTER = 56
"""The shop's own rule: a customer without an order for so many days counts as lost."""
CHANNELS = {"search": 0.0, "friend": -0.7, "ad": 0.5, "podcast": 1.0}
"""How people found the shop, and how much this changes the log-odds to leave after an order."""


class Customer(NamedTuple):
    name: str
    signed_up: date
    country: str
    channel: str


class Order(NamedTuple):
    customer: str
    ordered_at: datetime
    amount: float
    recorded_at: datetime
    """When the order reached the shop's system: orders by telephone are entered days later."""


def customers() -> Iterator[Customer]:
    """All customers, by day of sign-up."""
    chance = random.Random("customers")
    number = 0
    for days in range((LAST - FIRST).days):
        today = FIRST + timedelta(days=days)
        usual = 4 if today < FIRST + timedelta(days=60) else 1.3
        for _ in range(_poisson(chance, usual)):
            number += 1
            channel = chance.choices(["search", "friend", "ad"], [5, 3, 4])[0]
            yield Customer(f"C{number:04d}", today, chance.choices(["DE", "AT", "CH"], [6, 2, 1])[0], channel)
        if CAMPAIGN <= today < CAMPAIGN + timedelta(days=28):
            for _ in range(_poisson(chance, 3)):
                number += 1
                yield Customer(f"C{number:04d}", today, chance.choices(["DE", "AT", "CH"], [6, 2, 1])[0], "podcast")


def orders_of(customer: Customer) -> Iterator[Order]:
    """The orders of one customer until they leave, or until the last simulated day."""
    chance = random.Random(f"orders of {customer.name}")
    if chance.random() < 0.03:
        return  # signed up, and never ordered
    rhythm, usual = chance.lognormvariate(math.log(13), 0.5), chance.lognormvariate(math.log(40), 0.5)
    mood, now = 0.0, datetime.combine(customer.signed_up, time(8)) + timedelta(hours=chance.uniform(0, 14))
    while now.date() <= LAST:
        amount = round(max(2.5, usual * math.exp(mood + chance.gauss(0, 0.2))), 2)
        waits = timedelta(days=chance.uniform(1, 9)) if chance.random() < 0.02 else timedelta(0)
        yield Order(customer.name, now.replace(microsecond=0), amount, now + waits)
        mood += chance.gauss(-0.03, 0.2)
        if chance.random() < 1 / (1 + math.exp(3.6 + 3 * mood - CHANNELS[customer.channel])):
            return
        now += timedelta(days=max(0.2, chance.gammavariate(3, rhythm / 3)))


def _poisson(chance: random.Random, mean: float) -> int:
    count, product = 0, chance.random()
    while product > math.exp(-mean):
        count, product = count + 1, product * chance.random()
    return count


def write_orders(path: Path, orders: list[Order]) -> None:
    """Write the export, with the faults of real ones: amounts that are no numbers or negative, unknown customers,
    a line that is cut off, and orders that were exported twice."""
    lines = [["order_id", "customer_id", "ordered_at", "amount"]]
    for number, order in enumerate(orders, start=1):
        line = [f"{number}", order.customer, f"{order.ordered_at:%Y-%m-%dT%H:%M:%SZ}", f"{order.amount:.2f}"]
        fault = random.Random(f"fault of {number}").random()
        if fault < 0.001:
            line[3] = "n/a"
        elif fault < 0.0018:
            line[3] = f"-{line[3]}"  # a refund, which does not belong here
        elif fault < 0.0023:
            line[1] = "C9999"  # a test of the till
        elif fault < 0.0025:
            line = line[:2]
        lines.append(line)
        if 0.0025 <= fault < 0.003:
            lines.append(line)
    _write(path, lines)


def write_customers(path: Path, known: list[Customer], orders: list[Order], until: date) -> None:
    """Write the export with the state of each customer today: days since the last order, and whether they are lost."""
    last = {order.customer: order.ordered_at.date() for order in sorted(orders, key=lambda order: order.ordered_at)}
    lines = [["customer_id", "signed_up", "country", "channel", "days_since_order", "lost"]]
    for customer in known:
        silent = (until - last[customer.name]).days if customer.name in last else None
        lost = silent is None or silent > LOST_AFTER
        day = f"{customer.signed_up}" if customer.name != "C0156" else "2024-02-30"
        shown = [customer.name, day, customer.country, customer.channel]
        lines.append([*shown, "" if silent is None else f"{silent}", "yes" if lost else "no"])
    _write(path, lines)


def _write(path: Path, lines: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)
    print(f"{path.name}: {len(lines) - 1} rows")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write customers.csv and orders.csv as they are on a given day.")
    parser.add_argument("--until", type=date.fromisoformat, required=True, metavar="DAY", help="up to this day (excl.)")
    parser.add_argument("--folder", type=Path, default=Path("data"), help="where to write; data/ by default")
    asked = parser.parse_args()
    if not FIRST < asked.until <= LAST:
        parser.error(f"--until must be after {FIRST}, and {LAST} at the latest")
    asked.folder.mkdir(parents=True, exist_ok=True)
    midnight = datetime.combine(asked.until, time())
    known = [customer for customer in customers() if customer.signed_up < asked.until]
    everything = [order for customer in known for order in orders_of(customer)]
    recorded = sorted((order.recorded_at, order) for order in everything if order.recorded_at < midnight)
    orders = [order for _, order in recorded]
    write_customers(asked.folder / "customers.csv", known, orders, asked.until)
    write_orders(asked.folder / "orders.csv", orders)


if __name__ == "__main__":
    main()
