-- One row a flight that arrived where it was meant to, known from the moment it arrived: the scheduled arrival, read on
-- the destination's clock on the first occasion after departure, plus the delay. The four destinations that `airports`
-- lacks lie in Puerto Rico and the Virgin Islands. Never before the flight's minutes in the air have passed.
WITH zoned AS (
    SELECT timetable.*, coalesce(airports.tzone, 'America/Puerto_Rico') AS zone
    FROM timetable LEFT JOIN airports ON airports.faa = timetable.dest
    WHERE arr_delay IS NOT NULL
),
clocks AS (
    SELECT *, timezone(zone, timezone('UTC', departs_at)) AS leaves,
           date_trunc('day', timezone(zone, timezone('UTC', departs_at)))
               + (sched_arr_time // 100 * 60 + sched_arr_time % 100) * INTERVAL 1 MINUTE AS lands
    FROM zoned
),
arrivals AS (
    SELECT *, timezone('UTC', timezone(zone, CASE WHEN lands < leaves THEN lands + INTERVAL 1 DAY ELSE lands END))
                  AS arrives_at
    FROM clocks
)
SELECT id, carrier, flight, tailnum, origin, dest, distance, arr_delay,
       CAST(arr_delay >= 15 AS INTEGER) AS late,
       greatest(arrives_at + arr_delay * INTERVAL 1 MINUTE,
                departs_at + (dep_delay + air_time) * INTERVAL 1 MINUTE) AS known_at
FROM arrivals
