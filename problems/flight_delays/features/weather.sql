-- An observation is taken within its hour: it counts as known when the hour is over. Rain is summed in whole hundredths
-- of an inch, so that a sum is exact whatever its order.
SELECT origin, time_hour + INTERVAL 1 HOUR AS event_timestamp,
       temp, dewp, wind_dir, wind_speed, wind_gust, pressure, visib,
       min(visib) OVER recent AS visib_low_6h,
       sum(CAST(round(precip * 100) AS BIGINT)) OVER recent AS precip_6h,
       pressure - max(pressure) OVER earlier AS pressure_change_3h
FROM weather
WINDOW recent AS (PARTITION BY origin ORDER BY time_hour RANGE BETWEEN INTERVAL 5 HOUR PRECEDING AND CURRENT ROW),
       earlier AS (
           PARTITION BY origin ORDER BY time_hour RANGE BETWEEN INTERVAL 3 HOUR PRECEDING AND INTERVAL 3 HOUR PRECEDING
       )
