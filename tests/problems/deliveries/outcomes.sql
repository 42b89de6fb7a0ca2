-- One row a delivery that came, at the moment it came.
SELECT delivery, courier, depot, took, CAST(took > promised AS INTEGER) AS late,
       ordered_at + took * INTERVAL 1 MINUTE AS known_at
FROM deliveries
WHERE took IS NOT NULL
