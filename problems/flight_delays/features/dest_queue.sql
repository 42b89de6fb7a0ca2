SELECT dest, moment AS event_timestamp, arg_max(overdue, day) AS dest_overdue
FROM (
    SELECT dest, day, moment, sum(sum(step)) OVER (PARTITION BY dest, day ORDER BY moment) AS overdue
    FROM queue
    GROUP BY dest, day, moment
)
GROUP BY dest, moment
