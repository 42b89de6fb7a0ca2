SELECT carrier, origin, known_at AS event_timestamp,
       sum(sum(left_late)) OVER recent / sum(count(*)) OVER recent AS carrier_left_late_3h,
       sum(sum(dep_delay)) OVER recent / sum(count(*)) OVER recent AS carrier_left_delay_3h
FROM departures
GROUP BY carrier, origin, known_at
WINDOW recent AS (
    PARTITION BY carrier, origin ORDER BY known_at RANGE BETWEEN INTERVAL 3 HOUR PRECEDING AND CURRENT ROW
)
