SELECT origin, known_at AS event_timestamp,
       sum(sum(late)) OVER recent / sum(count(*)) OVER recent AS origin_late_3h,
       sum(sum(late)) OVER day / sum(count(*)) OVER day AS origin_late_1d
FROM outcomes
GROUP BY origin, known_at
WINDOW recent AS (PARTITION BY origin ORDER BY known_at RANGE BETWEEN INTERVAL 3 HOUR PRECEDING AND CURRENT ROW),
       day AS (PARTITION BY origin ORDER BY known_at RANGE BETWEEN INTERVAL 1 DAY PRECEDING AND CURRENT ROW)
