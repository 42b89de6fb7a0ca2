SELECT carrier, known_at AS event_timestamp,
       sum(sum(late)) OVER day / sum(count(*)) OVER day AS carrier_late_1d,
       sum(sum(arr_delay)) OVER week / sum(count(*)) OVER week AS carrier_delay_7d
FROM outcomes
GROUP BY carrier, known_at
WINDOW day AS (PARTITION BY carrier ORDER BY known_at RANGE BETWEEN INTERVAL 1 DAY PRECEDING AND CURRENT ROW),
       week AS (PARTITION BY carrier ORDER BY known_at RANGE BETWEEN INTERVAL 7 DAY PRECEDING AND CURRENT ROW)
