SELECT depot, known_at AS event_timestamp,
       sum(sum(late)) OVER day / sum(count(*)) OVER day AS depot_late_1d,
       max(took) AS depot_last_took
FROM outcomes
GROUP BY depot, known_at
WINDOW day AS (PARTITION BY depot ORDER BY known_at RANGE BETWEEN INTERVAL 1 DAY PRECEDING AND CURRENT ROW)
