SELECT origin, known_at AS event_timestamp,
       sum(sum(left_late)) OVER hour / sum(count(*)) OVER hour AS origin_left_late_1h,
       sum(sum(dep_delay)) OVER hour / sum(count(*)) OVER hour AS origin_left_delay_1h,
       sum(sum(left_late)) OVER recent / sum(count(*)) OVER recent AS origin_left_late_4h,
       sum(count(*)) OVER hour AS origin_departures_1h,
       sum(sum(left_late)) OVER day / sum(count(*)) OVER day AS origin_left_late_1d
FROM departures
GROUP BY origin, known_at
WINDOW hour AS (PARTITION BY origin ORDER BY known_at RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW),
       recent AS (PARTITION BY origin ORDER BY known_at RANGE BETWEEN INTERVAL 4 HOUR PRECEDING AND CURRENT ROW),
       day AS (PARTITION BY origin ORDER BY known_at RANGE BETWEEN INTERVAL 1 DAY PRECEDING AND CURRENT ROW)
