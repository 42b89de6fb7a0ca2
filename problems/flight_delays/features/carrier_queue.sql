SELECT carrier, origin, moment AS event_timestamp, arg_max(overdue, day) AS carrier_overdue
FROM (
    SELECT carrier, origin, day, moment,
           sum(sum(step)) OVER (PARTITION BY carrier, origin, day ORDER BY moment) AS overdue
    FROM queue
    GROUP BY carrier, origin, day, moment
)
GROUP BY carrier, origin, moment
