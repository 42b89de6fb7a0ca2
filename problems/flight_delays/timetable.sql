-- One row a scheduled flight. `time_hour` is the hour of the scheduled departure in UTC, so no time zone is needed here.
-- The decision falls two hours before the departure.
SELECT carrier || '-' || flight || '-' || origin || '-' || strftime(time_hour, '%Y-%m-%dT%HZ') AS id,
       carrier, flight, tailnum, origin, dest, distance, sched_dep_time, sched_arr_time,
       time_hour + minute * INTERVAL 1 MINUTE AS departs_at,
       time_hour + minute * INTERVAL 1 MINUTE - INTERVAL 2 HOUR AS decision_time,
       dep_delay, arr_delay, air_time
FROM flights
