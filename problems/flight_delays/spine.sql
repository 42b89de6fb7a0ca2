SELECT id, decision_time, carrier, flight, tailnum, origin, dest, distance, sched_dep_time, sched_arr_time
FROM timetable
