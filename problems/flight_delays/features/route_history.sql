SELECT origin, dest, known_at AS event_timestamp,
       sum(sum(arr_delay)) OVER month / sum(count(*)) OVER month AS route_delay_30d
FROM outcomes
GROUP BY origin, dest, known_at
WINDOW month AS (PARTITION BY origin, dest ORDER BY known_at RANGE BETWEEN INTERVAL 30 DAY PRECEDING AND CURRENT ROW)
