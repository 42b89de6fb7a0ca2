SELECT courier, known_at AS event_timestamp,
       sum(sum(late)) OVER week / sum(count(*)) OVER week AS courier_late_7d,
       sum(count(*)) OVER week AS courier_count_7d
FROM outcomes
GROUP BY courier, known_at
WINDOW week AS (PARTITION BY courier ORDER BY known_at RANGE BETWEEN INTERVAL 7 DAY PRECEDING AND CURRENT ROW)
