SELECT tailnum, known_at AS event_timestamp,
       max(arr_delay) AS aircraft_last_delay,
       max(distance) AS aircraft_last_distance,
       sum(sum(late)) OVER week / sum(count(*)) OVER week AS aircraft_late_7d
FROM outcomes
WHERE tailnum IS NOT NULL
GROUP BY tailnum, known_at
WINDOW week AS (PARTITION BY tailnum ORDER BY known_at RANGE BETWEEN INTERVAL 7 DAY PRECEDING AND CURRENT ROW)
