-- One row a flight that left, known from the moment it left.
SELECT id, carrier, flight, tailnum, origin, dest, dep_delay,
       CAST(dep_delay >= 15 AS INTEGER) AS left_late,
       departs_at + dep_delay * INTERVAL 1 MINUTE AS known_at
FROM timetable
WHERE dep_delay IS NOT NULL
