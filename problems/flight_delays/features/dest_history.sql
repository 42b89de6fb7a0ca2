SELECT dest, known_at AS event_timestamp,
       sum(sum(arr_delay)) OVER recent / sum(count(*)) OVER recent AS dest_delay_6h,
       sum(sum(late)) OVER day / sum(count(*)) OVER day AS dest_late_1d
FROM outcomes
GROUP BY dest, known_at
WINDOW recent AS (PARTITION BY dest ORDER BY known_at RANGE BETWEEN INTERVAL 6 HOUR PRECEDING AND CURRENT ROW),
       day AS (PARTITION BY dest ORDER BY known_at RANGE BETWEEN INTERVAL 1 DAY PRECEDING AND CURRENT ROW)
