-- Where one operating day ends and the next begins, the newer day counts.
SELECT origin, moment AS event_timestamp, arg_max(overdue, day) AS origin_overdue
FROM (
    SELECT origin, day, moment, sum(sum(step)) OVER (PARTITION BY origin, day ORDER BY moment) AS overdue
    FROM queue
    GROUP BY origin, day, moment
)
GROUP BY origin, moment
