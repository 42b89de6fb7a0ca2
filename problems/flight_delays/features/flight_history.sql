SELECT carrier, flight, origin, known_at AS event_timestamp,
       sum(sum(late)) OVER month / sum(count(*)) OVER month AS flight_late_30d,
       sum(sum(arr_delay)) OVER month / sum(count(*)) OVER month AS flight_delay_30d,
       sum(count(*)) OVER month AS flight_count_30d
FROM outcomes
GROUP BY carrier, flight, origin, known_at
WINDOW month AS (
    PARTITION BY carrier, flight, origin ORDER BY known_at RANGE BETWEEN INTERVAL 30 DAY PRECEDING AND CURRENT ROW
)
