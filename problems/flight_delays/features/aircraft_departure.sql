SELECT tailnum, known_at AS event_timestamp, max(dep_delay) AS aircraft_left_delay
FROM departures
WHERE tailnum IS NOT NULL
GROUP BY tailnum, known_at
