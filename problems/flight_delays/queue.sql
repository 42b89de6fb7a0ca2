-- The flights that should have left and have not: +1 when one is due, -1 when it leaves, or when four hours have passed
-- (whether it was cancelled is not known), or at the end of its operating day (08:00 UTC, when New York sleeps).
WITH due AS (
    SELECT carrier, origin, dest, departs_at,
           date_trunc('day', departs_at - INTERVAL 8 HOUR) + INTERVAL 8 HOUR AS day,
           greatest(coalesce(dep_delay, 240), 0) AS minutes_late
    FROM timetable
),
waiting AS (
    SELECT *, least(departs_at + least(minutes_late, 240) * INTERVAL 1 MINUTE, day + INTERVAL 1 DAY) AS ends_at
    FROM due
    WHERE minutes_late > 0
)
SELECT carrier, origin, dest, day, departs_at AS moment, 1 AS step FROM waiting
UNION ALL
SELECT carrier, origin, dest, day, ends_at AS moment, -1 AS step FROM waiting
